//! `abbey doctor`: checks the house, its host and its isolation.

use crate::connect::client;
use crate::exit::{self, Outcome};
use crate::output;
use abbey_api::DoctorDoc;
use abbey_daemon::Home;

pub(crate) async fn cmd_doctor(home: &Home, json: bool, fix: bool) -> Outcome {
    let client = client(home)?;
    let doc: DoctorDoc = match fix {
        true => client.doctor().fix().await?,
        false => client.doctor().check().await?,
    };
    let failed = doc
        .checks
        .iter()
        .any(|c| c.state == abbey_api::CheckState::Failed);
    if json {
        output::json(&doc);
    } else {
        for id in &doc.fixed {
            output::line(&format!("{:9} {id}", "fixed"));
        }
        for check in &doc.checks {
            output::line(&format!("{:9} {}: {}", check.state, check.id, check.text));
            if let Some(remedy) = &check.remedy {
                output::line(&format!("{:9} remedy: {remedy}", ""));
            }
        }
    }
    Ok(if failed { exit::DEGRADED } else { exit::OK })
}
