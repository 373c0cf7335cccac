//! Consent to what a plan removes, and to what a restored house uses of its host.

use crate::exit::{self, Failure};
use crate::output::print_message;
use crate::shown;
use abbey_api::PlanDoc;
use abbey_daemon::Home;
use clap::Args;
use std::io::{BufRead, IsTerminal, Write};

/// Who consents to the steps of a plan that remove something.
pub(crate) enum Consent {
    /// The operator did already, to all of them (`--yes`).
    All,
    /// The operator did by the command itself, to one: `agent:NAME`.
    To(String),
    /// The operator did when asked about an earlier plan, to these.
    Given(Vec<String>),
    /// Nobody yet: on a terminal the operator is asked.
    Ask,
    /// As `Ask`, in a command that takes `--yes` itself.
    AskOrOption,
}

/// The option with which a command that changes the house is told that the operator consents.
#[derive(Debug, Args)]
pub(crate) struct ConsentArg {
    /// Consent to everything that the plan removes, or gives to another agent.
    #[arg(short, long)]
    yes: bool,
}

impl ConsentArg {
    /// Who consents in the command that has the option.
    pub(crate) fn consent(&self) -> Consent {
        match self.yes {
            true => Consent::All,
            false => Consent::AskOrOption,
        }
    }
}

impl Consent {
    /// `--yes` or its absence.
    pub(crate) fn from_flag(yes: bool) -> Consent {
        if yes { Consent::All } else { Consent::Ask }
    }

    /// This, or what was agreed to already.
    pub(crate) fn or_given(self, agreed: &[String]) -> Consent {
        match self {
            Consent::Ask if !agreed.is_empty() => Consent::Given(agreed.to_vec()),
            consent => consent,
        }
    }

    /// Steps of the plan that are agreed to, as a request to apply it names them. Prints what a plan removes and asks
    /// on a terminal; `before_asking` is called first then, since an answer may take hours.
    ///
    /// # Errors
    /// Exit code 4 if a step removes something and nobody consents.
    pub(crate) async fn obtain(
        &self,
        plan: &PlanDoc,
        before_asking: impl FnOnce(),
    ) -> Result<Vec<String>, Failure> {
        let steps: Vec<(String, &str)> = plan
            .removals()
            .map(|(step, text)| (step.subject(), text))
            .collect();
        let open: Vec<&str> = steps
            .iter()
            .filter(|(subject, _)| match self {
                Consent::All => false,
                Consent::To(agreed) => subject != agreed,
                Consent::Given(agreed) => !agreed.contains(subject),
                Consent::Ask | Consent::AskOrOption => true,
            })
            .map(|(_, text)| *text)
            .collect();
        if !open.is_empty() && !ask(&open, "Apply the manifest?", before_asking).await {
            let text = match open.len() {
                1 => format!("the plan requires consent: {}", open[0]),
                n => format!("{n} steps of the plan require consent"),
            };
            let details = match open.as_slice() {
                [_] => Vec::new(),
                several => several.iter().map(|&step| step.to_owned()).collect(),
            };
            let hint = match matches!(self, Consent::AskOrOption) {
                true => "nothing was changed; the same command with `--yes` agrees",
                false => {
                    "nothing was changed; `abbey up --yes` agrees, and `abbey plan` shows the whole plan"
                }
            };
            return Err(Failure::plain(text)
                .with_details(details)
                .hint(hint)
                .with_code(exit::CONFLICT));
        }
        Ok(steps.into_iter().map(|(subject, _)| subject).collect())
    }
}

/// Consent to what the restored house in this home uses of its host, if nobody gave it yet.
///
/// # Errors
/// Exit code 4 if nobody consents.
pub(crate) async fn obtain_consent_to_restored(home: &Home, yes: bool) -> Result<(), Failure> {
    let uses = match abbey_daemon::uses_without_consent(home) {
        Ok(uses) => uses,
        Err(error) => {
            home.require_own()?;
            return Err(error.into());
        }
    };
    let shown: Vec<&str> = uses.iter().map(String::as_str).collect();
    let question = "Allow this to the restored house?";
    if !uses.is_empty() && !yes && !ask(&shown, question, || {}).await {
        let text = "this house was restored from an archive, whose manifest uses this of the host";
        return Err(Failure::plain(text)
            .with_details(uses)
            .hint("nothing was changed; read its manifest, then `abbey up --yes` agrees")
            .with_code(exit::CONFLICT));
    }
    Ok(abbey_daemon::consent_to_uses(home)?)
}

/// Shows lines and asks on a terminal; false anywhere else.
async fn ask(open: &[&str], question: &str, before_asking: impl FnOnce()) -> bool {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return false;
    }
    before_asking();
    shown::note();
    for text in open {
        print_message(&format!("- {text}"));
    }
    let mut out = std::io::stderr();
    let _reader_gone = write!(out, "{question} [y/N] ").and_then(|()| out.flush());
    // In a thread of its own, so that Ctrl-C ends the command meanwhile.
    let (answered, answer) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let _none_is_no = std::io::stdin().lock().read_line(&mut line);
        answered.send(line)
    });
    let line = answer.await.unwrap_or_default();
    matches!(line.trim().to_lowercase().as_str(), "y" | "yes")
}
