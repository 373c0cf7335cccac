//! `abbey doctor`: checks the house, its host and its isolation.

use crate::connect::operator_client;
use crate::exit::{self, Outcome};
use crate::output;
use abbey_api::DoctorDoc;
use abbey_daemon::Home;

/// `abbey doctor`: prints the checks of the house and its host; `--fix` first fixes what it can. Exit code 7 if a
/// check failed.
pub(crate) async fn cmd_doctor(home: &Home, json: bool, fix: bool) -> Outcome {
    let client = operator_client(home)?;
    let doc: DoctorDoc = match fix {
        true => client.doctor().fix().await?,
        false => client.doctor().check().await?,
    };
    let failed = doc
        .checks
        .iter()
        .any(|c| c.state == abbey_api::CheckState::Failed);
    if json {
        output::print_json(&doc);
    } else {
        for id in &doc.fixed {
            output::print_line(&format!("{:9} {id}", "fixed"));
        }
        for check in &doc.checks {
            output::print_line(&format!("{:9} {}: {}", check.state, check.id, check.text));
            if let Some(remedy) = &check.remedy {
                output::print_line(&format!("{:9} remedy: {remedy}", ""));
            }
        }
    }
    Ok(if failed { exit::DEGRADED } else { exit::OK })
}
