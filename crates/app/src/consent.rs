//! Consent to what a plan removes.

use crate::exit::{self, Failure};
use crate::output::print_message;
use abbey_api::PlanDoc;
use std::io::{BufRead, IsTerminal, Write};

/// Who consents to the steps of a plan that remove something.
pub(crate) enum Consent {
    /// The operator did already, to all of them (`--yes`).
    All,
    /// The operator did by the command itself, to one: `agent:NAME`.
    To(String),
    /// Nobody yet: on a terminal the operator is asked.
    Ask,
}

impl Consent {
    /// `--yes` or its absence.
    pub(crate) fn from_flag(yes: bool) -> Consent {
        if yes { Consent::All } else { Consent::Ask }
    }

    /// Steps of the plan that are agreed to, as a request to apply it names them. Prints what a plan removes and asks
    /// on a terminal.
    ///
    /// # Errors
    /// Exit code 4 if a step removes something and nobody consents.
    pub(crate) fn obtain(&self, plan: &PlanDoc) -> Result<Vec<String>, Failure> {
        let steps: Vec<(String, &str)> = plan
            .removals()
            .map(|(step, text)| (step.subject(), text))
            .collect();
        let open: Vec<&str> = steps
            .iter()
            .filter(|(subject, _)| match self {
                Consent::All => false,
                Consent::To(agreed) => subject != agreed,
                Consent::Ask => true,
            })
            .map(|(_, text)| *text)
            .collect();
        if !open.is_empty() && !self.ask(&open) {
            let text = match open.len() {
                1 => format!("a removal requires consent: {}", open[0]),
                n => format!("{n} removals require consent: {}", open.join("; ")),
            };
            return Err(Failure::plain(text)
                .hint("nothing was changed; `abbey up --yes` agrees, and `abbey plan` shows the whole plan")
                .with_code(exit::CONFLICT));
        }
        Ok(steps.into_iter().map(|(subject, _)| subject).collect())
    }

    /// Asks on a terminal; false anywhere else.
    fn ask(&self, open: &[&str]) -> bool {
        if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
            return false;
        }
        for text in open {
            print_message(&format!("- {text}"));
        }
        let mut out = std::io::stderr().lock();
        let _reader_gone = write!(out, "Apply the manifest? [y/N] ").and_then(|()| out.flush());
        let mut line = String::new();
        let _none_is_no = std::io::stdin().lock().read_line(&mut line);
        matches!(line.trim().to_lowercase().as_str(), "y" | "yes")
    }
}
