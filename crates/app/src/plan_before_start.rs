//! The plan of a manifest before the house is started for it: once a control plane runs, it starts what the plan in force says.

use crate::consent::Consent;
use crate::exit::Failure;
use crate::plan_output::refusal;
use abbey_api::ManifestBody;
use abbey_daemon::{Error, Home, plan_offline};
use abbey_model::FaultKind;

/// Plans the manifest `body` for a house that is down, and starts nothing. Returns the steps that
/// are agreed to. Does nothing if no plan can be made without a control plane: then it says why as it starts.
///
/// # Errors
/// Exit code 4 if the plan cannot be carried out, or removes something and nobody consents.
pub(crate) async fn plan_before_start(
    home: &Home,
    body: &ManifestBody,
    yes: bool,
) -> Result<Vec<String>, Failure> {
    // Without a plan in force, nothing is started.
    if !home.database_file().exists() {
        return Ok(Vec::new());
    }
    let planned = match plan_offline(home.root().to_owned(), body.clone()).await {
        Ok(planned) => planned,
        Err(Error::Problem(problem)) if is_refusal(problem.fault()) => return Err(problem.into()),
        Err(_) => return Ok(Vec::new()),
    };
    match refusal(&planned) {
        Some(refused) => Err(refused),
        None => Consent::from_flag(yes).obtain(&planned, || {}).await,
    }
}

/// Whether a manifest was refused, and not a look at the host or the home.
fn is_refusal(fault: FaultKind) -> bool {
    matches!(fault, FaultKind::Invalid | FaultKind::Conflict)
}
