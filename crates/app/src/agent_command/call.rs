//! What every verb of `abbey-agent` works with: the agent, its leases, and arguments that are checked.

use crate::exit::{self, Failure};
use abbey_agents::agent_command::{HeldLease, OwnAgent, task_of_environment};
use abbey_api::client::Error;
use abbey_model::{FaultKind, TaskRef};
use std::io::Read;

/// Largest text that is read from standard input, in bytes.
const INPUT_MAX: u64 = 1 << 20;

/// What every verb works with.
pub(super) struct Call {
    pub(super) own: OwnAgent,
    pub(super) json: bool,
}

impl Call {
    /// Operations of the agent API.
    pub(super) fn me(&self) -> abbey_api::MeClient<'_> {
        self.own.client.me()
    }

    /// Lease on a task that the caller names by number or identifier.
    ///
    /// # Errors
    /// If no run of this cell holds it.
    pub(super) fn lease_on(&self, task: &str) -> Result<HeldLease, Failure> {
        let all = self.own.leases();
        let number = match task.parse() {
            Ok(TaskRef::Number(number)) => TaskRef::Number(number).to_string(),
            _ => task.to_owned(),
        };
        let found = all.iter().find(|l| l.number == number || l.task == task);
        found.cloned().ok_or_else(|| {
            Failure::plain(format!("no run in this cell holds a lease on `{task}`"))
                .with_code(exit::CONFLICT)
                .hint(match all.is_empty() {
                    true => "`abbey-agent claim TASK` claims an offered task".to_owned(),
                    false => format!("leases held: {}", numbers(&all)),
                })
        })
    }

    /// Lease on the task that is named, or that this program is run for, or the only one that is held.
    ///
    /// # Errors
    /// If there is none, or more than one.
    pub(super) fn current_lease(&self, task: Option<String>) -> Result<HeldLease, Failure> {
        if let Some(task) = task.or_else(task_of_environment) {
            return self.lease_on(&task);
        }
        let mut all = self.own.leases();
        match (all.pop(), all.is_empty()) {
            (Some(only), true) => Ok(only),
            (Some(last), false) => {
                all.push(last);
                Err(Failure::usage("more than one task is being worked on")
                    .hint(format!("name one: {}", numbers(&all))))
            }
            (None, _) => Err(
                Failure::plain("no run in this cell holds a lease on a task")
                    .with_code(exit::CONFLICT)
                    .hint("`abbey-agent next` shows an offered task, `abbey-agent claim TASK` claims it"),
            ),
        }
    }

    /// Explains a refusal of the house to somebody in a cell.
    pub(super) fn failure(&self, error: Error) -> Failure {
        let unreachable = error.kind() == FaultKind::Unavailable;
        let failure = Failure::from(error);
        match unreachable {
            true => failure.hint("the control plane may be restarting; try again in a moment"),
            false => failure,
        }
    }
}

fn numbers(leases: &[HeldLease]) -> String {
    let all: Vec<&str> = leases.iter().map(|l| l.number.as_str()).collect();
    all.join(", ")
}

/// A text of the arguments; `-` reads it from standard input.
///
/// # Errors
/// If standard input cannot be read, is longer than a request may be, or is no UTF-8.
pub(super) fn text_or_input(text: String) -> Result<String, Failure> {
    if text != "-" {
        return Ok(text);
    }
    let mut read = Vec::new();
    std::io::stdin()
        .lock()
        .take(INPUT_MAX + 1)
        .read_to_end(&mut read)
        .map_err(|e| Failure::plain(format!("cannot read standard input: {e}")))?;
    if read.len() as u64 > INPUT_MAX {
        let text = format!(
            "standard input is longer than {INPUT_MAX} bytes; put it into a file, and name that in a shorter text"
        );
        return Err(Failure::usage(text));
    }
    String::from_utf8(read).map_err(|_| Failure::usage("standard input is not UTF-8 text"))
}

/// Parses a JSON argument.
///
/// # Errors
/// If it is no JSON.
pub(super) fn parse_json(option: &str, text: &str) -> Result<serde_json::Value, Failure> {
    serde_json::from_str(text)
        .map_err(|e| Failure::usage(format!("the value of `{option}` is not JSON: {e}")))
}

/// Checks a name that becomes a part of a path of the API.
///
/// # Errors
/// If it is none.
pub(super) fn checked_name<'a>(what: &str, name: &'a str) -> Result<&'a str, Failure> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    match !name.is_empty() && name.len() <= 200 && name.chars().all(plain) {
        true => Ok(name),
        false => Err(Failure::usage(format!(
            "`{name}` is not the name of {what}"
        ))),
    }
}
