//! Exit codes and failures: each kind of failure has one code (the table is in `docs/guide/troubleshooting.md`).

use crate::output::{print_json_error, print_message, print_notice};
use crate::text::{Text, Tone};
use abbey_api::client::Error;
use abbey_api::{Problem, VERSION};
use abbey_model::FaultKind;
use abbey_support::input::open_input;
use std::path::Path;

/// The command succeeded.
pub(crate) const OK: u8 = 0;

/// The command failed for a reason without a code of its own.
pub(crate) const FAILURE: u8 = 1;

/// Invalid arguments, manifest or request, and a file or directory of this host that the command line names and that is
/// missing or cannot be used.
pub(crate) const USAGE: u8 = 2;

/// The named object of the house does not exist; also a path in a cell.
pub(crate) const NOT_FOUND: u8 = 3;

/// The object exists, has changed, or the plan has fatal notes.
pub(crate) const CONFLICT: u8 = 4;

/// The task is blocked or waits for an approval.
pub(crate) const APPROVAL: u8 = 5;

/// The control plane does not answer.
pub(crate) const UNREACHABLE: u8 = 6;

/// Done, but an agent is not ready, a check failed or resources are left over.
pub(crate) const DEGRADED: u8 = 7;

/// The task is parked: it waits for a budget, a provider or an agent.
pub(crate) const PARKED: u8 = 8;

/// The time limit of the command or the wait is over.
pub(crate) const TIMEOUT: u8 = 124;

/// Abbey failed, where other exit codes are those of a program.
pub(crate) const INTERNAL: u8 = 125;

/// The command was interrupted with Ctrl-C.
pub(crate) const INTERRUPTED: u8 = 130;

/// Exit code of a command, or its failure.
pub(crate) type Outcome = Result<u8, Failure>;

/// A failed command: message, details, hint and exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    text: String,
    details: Vec<String>,
    hint: Option<String>,
    code: u8,
    /// Part of the message which says that no control plane listens.
    unheard: Option<String>,
}

impl Failure {
    /// A failure with this message, exit code 1, and no hint.
    pub(crate) fn plain(text: impl Into<String>) -> Self {
        Failure {
            text: text.into(),
            details: Vec::new(),
            hint: None,
            code: FAILURE,
            unheard: None,
        }
    }

    /// A failure with this message and exit code 2, for invalid arguments on the command line.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Failure::plain(text).with_code(USAGE)
    }

    /// A failure with exit code 2 about a file or directory of this host that the command line names: every command that
    /// takes a path fails so if it is missing or of the wrong kind. `what` is what cannot be done, such as `cannot read`.
    pub(crate) fn unusable_path(what: &str, path: &Path, why: impl std::fmt::Display) -> Self {
        Failure::usage(format!("{what} `{}`: {why}", path.display()))
    }

    /// Adds a hint, which is printed below the message and says what to do next.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
    /// Whether nothing listens where the control plane would.
    pub(crate) fn is_unheard(&self) -> bool {
        self.unheard.is_some()
    }
    /// Says in place of a socket at which nothing listens why that is so, and what to do about it.
    pub(crate) fn explain_unheard(mut self, why: &str, hint: &str) -> Self {
        if let Some(unheard) = self.unheard.take() {
            self.text = self.text.replace(&unheard, why);
            self.hint = Some(hint.to_owned());
        }
        self
    }
    /// Puts what failed before the message.
    pub(crate) fn about(mut self, what: &str) -> Self {
        self.text = format!("{what}: {}", self.text);
        self
    }
    /// Replaces the message.
    pub(crate) fn with_text(mut self, text: &str) -> Self {
        text.clone_into(&mut self.text);
        self
    }
    /// Replaces the details, which are printed as lines below the message.
    pub(crate) fn with_details(mut self, details: Vec<String>) -> Self {
        self.details = details;
        self
    }
    /// Changes each of the details.
    pub(crate) fn map_details(mut self, change: impl FnMut(String) -> String) -> Self {
        self.details = self.details.into_iter().map(change).collect();
        self
    }
    /// Adds a failure of what was done because of this one, as a detail. `what` is what did not succeed.
    pub(crate) fn followed_by(mut self, what: &str, next: Failure) -> Self {
        self.details.push(format!("{what}: {}", next.text));
        self.details.extend(next.details);
        self.hint = match (self.hint, next.hint) {
            (Some(own), Some(next)) => Some(format!("{own}; {next}")),
            (own, next) => own.or(next),
        };
        self
    }
    /// Replaces the exit code.
    pub(crate) fn with_code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }
    /// Exit code of the process for this failure.
    pub(crate) fn code(&self) -> u8 {
        self.code
    }
    /// Prints the message, its details and its hint on standard error: as lines, or as one JSON document.
    pub(crate) fn print(&self, json: bool) {
        if json {
            let error = serde_json::json!({
                "text": self.text, "details": self.details, "hint": self.hint, "code": self.code,
            });
            let document = serde_json::json!({ "version": VERSION, "error": error });
            return print_json_error(&document);
        }
        // Lines of what a program said stay below the message that quotes it.
        let indented = |text: &str| text.trim_end().replace('\n', "\n    ");
        let text = format!(" {}", indented(&self.text));
        print_notice(&Text::toned(Tone::Bad, "error:").and(Tone::Plain, &text));
        for line in &self.details {
            print_message(&format!("  {}", indented(line)));
        }
        if let Some(hint) = &self.hint {
            print_notice(&Text::toned(Tone::Good, "hint:").and(Tone::Plain, &format!(" {hint}")));
        }
    }
}

/// Checks that a file that the command line names can be read, before other work begins with it. `what` as in
/// [`Failure::unusable_path`].
///
/// # Errors
/// Exit code 2 if it is missing, of another kind or not readable.
pub(crate) fn require_readable(what: &str, path: &Path) -> Result<(), Failure> {
    match open_input(path) {
        Ok(_opened) => Ok(()),
        Err(e) => Err(Failure::unusable_path(what, path, e)),
    }
}

/// Exit code of a kind of failure.
const fn code_of(kind: FaultKind) -> u8 {
    match kind {
        FaultKind::Invalid | FaultKind::TooLarge | FaultKind::NotBuilt => USAGE,
        FaultKind::NotFound => NOT_FOUND,
        FaultKind::Conflict | FaultKind::Stale => CONFLICT,
        FaultKind::Unavailable => UNREACHABLE,
        FaultKind::Unauthenticated
        | FaultKind::Forbidden
        | FaultKind::Limit
        | FaultKind::Host
        | FaultKind::Upstream
        | FaultKind::Internal => FAILURE,
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let mut details = problem.mistakes.clone();
        if let Some(holder) = &problem.holder {
            details.push(format!("holder: {holder}"));
        }
        Failure {
            code: code_of(problem.fault()),
            text: problem.detail,
            details,
            hint: problem.remedy,
            unheard: None,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(problem) => problem.into(),
            other => {
                let text = match std::error::Error::source(&other) {
                    Some(source) => format!("{other}: {source}"),
                    None => other.to_string(),
                };
                let unheard = is_unheard(&other).then(|| text.clone());
                let failure = Failure::plain(text).with_code(UNREACHABLE).hint(
                    "`abbey up` starts the house; `--home` or ABBEY_HOME selects another house",
                );
                Failure { unheard, ..failure }
            }
        }
    }
}

/// Whether nothing listens at the socket, or nothing takes calls there, so that its queue is full.
fn is_unheard(error: &Error) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, NotFound, WouldBlock};
    matches!(error, Error::Unreachable { source, .. } if matches!(source.kind(), ConnectionRefused | NotFound | WouldBlock))
}

impl From<abbey_daemon::Error> for Failure {
    fn from(error: abbey_daemon::Error) -> Self {
        let code = code_of(error.kind());
        match error {
            abbey_daemon::Error::Problem(problem) => problem.into(),
            other => Failure::plain(other.chain()).with_code(code),
        }
    }
}
