//! Collected results of the checks of `abbey doctor`.

use abbey_api::{CheckSeverity, CheckState, CheckView};

/// Results of the checks made so far.
#[derive(Default)]
pub(super) struct Checks(pub(super) Vec<CheckView>);

impl Checks {
    /// Adds the result of a check; `severity` and `remedy` are only used if it failed (`good` is
    /// false).
    pub(super) fn add(
        &mut self,
        id: &str,
        good: bool,
        severity: CheckSeverity,
        text: String,
        remedy: &str,
    ) {
        let state = match (good, severity) {
            (true, _) => CheckState::Ok,
            (false, CheckSeverity::Fail) => CheckState::Failed,
            (false, _) => CheckState::Attention,
        };
        self.0.push(CheckView {
            id: id.to_owned(),
            severity: if good { CheckSeverity::Info } else { severity },
            state,
            text,
            remedy: (!good).then(|| remedy.to_owned()),
        });
    }

    /// Adds that checks of this kind did not finish in time.
    pub(super) fn unfinished(&mut self, kind: &str) {
        self.add(
            &format!("unfinished.{kind}"),
            false,
            CheckSeverity::Warn,
            format!("the checks of `{kind}` did not finish in time"),
            "run `abbey doctor` again when the host is less busy; the log of the control plane may say what it waits for",
        );
    }
}
