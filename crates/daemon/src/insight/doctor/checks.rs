//! Results of checks while `doctor` runs.

use abbey_api::CheckView;

/// What was found so far.
#[derive(Default)]
pub(super) struct Checks(pub(super) Vec<CheckView>);

impl Checks {
    /// One more; `severity` and the remedy count when it is not good.
    pub(super) fn add(&mut self, id: &str, good: bool, severity: &str, text: String, remedy: &str) {
        let state = match (good, severity) {
            (true, _) => "ok",
            (false, "fail") => "failed",
            (false, _) => "attention",
        };
        self.0.push(CheckView {
            id: id.to_owned(),
            severity: if good { "info" } else { severity }.to_owned(),
            state: state.to_owned(),
            text,
            remedy: (!good).then(|| remedy.to_owned()),
        });
    }
}
