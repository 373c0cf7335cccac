//! The native runtime: Abbey's own loop of skills, models and tools, in the driver's process itself.

use super::driver::{Assignment, Driver, Events, TurnEnd};
use super::spec::{CellEnvironment, Files, Install, Readiness, RuntimeSpec};
use crate::agent_api::StartError;
use crate::native::{Session, archive_result, perform_task};
use abbey_model::{Millis, Runtime};
use serde_json::{Value, json};
use std::path::PathBuf;

/// How the native runtime is run.
pub(super) static SPEC: RuntimeSpec = RuntimeSpec {
    runtime: Runtime::Native,
    install: Install::BuiltIn,
    driver: &["abbey", "role", "native"],
    environment,
    files: Files { charter: "SOUL.md" },
    readiness: Readiness {
        within: Millis::from_secs(30),
        within_microvm: Millis::from_secs(180),
    },
    stop_grace: Millis::from_secs(10),
    exit_codes: &[(
        1,
        "the driver could not start; `abbey logs` of the agent shows the reason",
    )],
};

fn environment(cell: &CellEnvironment<'_>) -> Vec<(String, String)> {
    let home = cell.layout.home.display();
    let commands = cell.commands.display();
    let url = format!("http://127.0.0.1:{}", cell.port);
    let pairs = [
        ("HOME", home.to_string()),
        // What the agent installed comes last, so that it takes no name of the system's.
        (
            "PATH",
            format!("/usr/local/bin:/usr/bin:/bin:{commands}:{home}/bin:{home}/.local/bin"),
        ),
        ("LANG", "C.UTF-8".to_owned()),
        ("LC_ALL", "C.UTF-8".to_owned()),
        ("ABBEY_AGENT", cell.agent.to_owned()),
        ("ABBEY_URL", url.clone()),
        ("ABBEY_TOKEN_FILE", cell.layout.token.display().to_string()),
        ("OPENAI_BASE_URL", format!("{url}/v1")),
        ("OPENAI_API_KEY", cell.model_key.to_owned()),
    ];
    pairs.map(|(k, v)| (k.to_owned(), v)).to_vec()
}

/// Drives the native runtime.
pub(super) struct NativeDriver {
    session: Session,
}

impl NativeDriver {
    /// Creates the driver and opens the session file in the agent's home.
    pub(super) fn open() -> Result<Self, StartError> {
        let home = std::env::var("HOME").map_err(|_| StartError::Environment("HOME"))?;
        let session = Session::open(&PathBuf::from(home)).map_err(StartError::Session)?;
        Ok(NativeDriver { session })
    }
}

impl Driver for NativeDriver {
    fn begin(&mut self, assignment: &Assignment, events: &Events) {
        events.session_start(self.session.position());
        let offer = &assignment.offer;
        self.session.append(&json!({
            "event": "run_begin", "task": offer.number, "run": assignment.run, "text": offer.text,
        }));
    }

    async fn submit_turn(&mut self, assignment: &Assignment, events: &Events) -> TurnEnd {
        let end = perform_task(assignment, events, &mut self.session).await;
        self.session
            .append(&json!({ "event": "run_end", "run": assignment.run, "ending": summary(&end) }));
        self.session.sync();
        events.session_end(self.session.position());
        end
    }

    async fn cancel(&mut self, assignment: &Assignment) {
        self.session
            .append(&json!({ "event": "run_lost", "run": assignment.run }));
    }

    fn accepted(&mut self, assignment: &Assignment) {
        if assignment.offer.files.is_some() {
            archive_result(&assignment.offer.number, &assignment.run);
        }
    }
}

/// The end of a run, for the session file.
fn summary(end: &TurnEnd) -> Value {
    match end {
        TurnEnd::Completed { text, source, .. } => json!({ "done": source, "text": text }),
        TurnEnd::AwaitsApproval { text } => json!({ "waits": text }),
        TurnEnd::AlreadyEnded => json!({ "ended": true }),
        TurnEnd::Failed { reason, text } => json!({ "failed": reason, "text": text }),
    }
}
