//! `abbey doctor`: checks the house, its host and its isolation.

use crate::connect::{is_control_plane_up, operator_client};
use crate::control_plane::runs_another_build;
use crate::exit::{self, Failure, Outcome};
use crate::manifest_arg::{RefusedManifest, refused_manifest};
use crate::output;
use crate::text::{Text, Tone};
use abbey_api::{CheckSeverity, CheckState, CheckView, DoctorDoc};
use abbey_daemon::Home;
use std::time::Duration;

/// Longest wait for the checks of a control plane that answers: it bounds them itself.
const ANSWER_WITHIN: Duration = Duration::from_secs(9);

/// `abbey doctor`: prints the checks of the house and its host; `--fix` first fixes what it can. Exit code 7 if a
/// check failed.
pub(crate) async fn cmd_doctor(home: &Home, json: bool, fix: bool) -> Outcome {
    let mut doc = find_problems(home, fix).await?;
    if runs_another_build(home) {
        doc.checks.push(CheckView {
            id: "program".to_owned(),
            severity: CheckSeverity::Warn,
            state: CheckState::Attention,
            text: "the house runs another build of abbey than this command".to_owned(),
            remedy: Some(
                "`abbey up` replaces the control plane and its helper; agents go on".to_owned(),
            ),
        });
    }
    if let Some(RefusedManifest { text, remedy }) = refused_manifest(home) {
        doc.checks.push(CheckView {
            id: "manifest_file".to_owned(),
            severity: CheckSeverity::Warn,
            state: CheckState::Attention,
            text,
            remedy: Some(remedy),
        });
    }
    let failed = doc.checks.iter().any(|c| c.state == CheckState::Failed);
    if json {
        output::print_json(&doc);
    } else {
        for id in &doc.fixed {
            output::print_hanging(Text::toned(Tone::Good, "fixed     "), id);
        }
        for check in &doc.checks {
            let state = Text::from(check.state).padded(10);
            let id = Text::toned(Tone::Heading, &check.id);
            let text = output::with_local_times(&check.text);
            output::print_hanging(state, id.and(Tone::Plain, &format!(": {text}")));
            if let Some(remedy) = &check.remedy {
                output::print_hanging(" ".repeat(10), format!("remedy: {remedy}"));
            }
        }
    }
    Ok(if failed { exit::DEGRADED } else { exit::OK })
}

/// The checks of the control plane, or of this process where none answers.
async fn find_problems(home: &Home, fix: bool) -> Result<DoctorDoc, Failure> {
    let client = operator_client(home);
    if fix {
        return Ok(client?.doctor().fix().await?);
    }
    if is_control_plane_up(home).await {
        match client?.timeout(ANSWER_WITHIN).doctor().check().await {
            // It answered a moment ago, and hangs or ended since.
            Err(abbey_api::client::Error::Timeout(_)) => {}
            answer => return Ok(answer?),
        }
    } else if !home.database_file().exists() {
        client?;
    }
    Ok(abbey_daemon::doctor_offline(home.root().to_owned()).await?)
}
