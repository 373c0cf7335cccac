//! What the command `abbey-agent` needs beside the agent API: where the agent's files are, its memory, programs of its
//! skills, and work on an offered task by a program.

use crate::agent_api::{StartError, client_from_environment};
use crate::lease_files::{self, TASK_VARIABLE};
use crate::native::run_captured;
use crate::runtime::Layout;
use crate::runtime::driver::{Assignment, Driver, Events, TurnEnd};
use crate::worker;
use abbey_api::client::AgentClient;
use abbey_api::{ClaimDoc, OfferDoc, TaskDoc};
use abbey_model::{EndReason, ResultSource, ToolPolicy};
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::process::Command;

pub use crate::lease_files::HeldLease;
pub use crate::native::{SkillProgram, open_skill_program, use_memory};

/// The agent in whose cell this process runs.
#[derive(Debug)]
pub struct OwnAgent {
    /// Client of the agent API, with the agent's credential.
    pub client: AgentClient,
    layout: Layout,
}

impl OwnAgent {
    /// Finds the agent API and the credential by the environment of the cell.
    ///
    /// # Errors
    /// [`StartError`] if a variable is missing or the credential cannot be read.
    pub fn from_environment() -> Result<OwnAgent, StartError> {
        let client = client_from_environment()?;
        let token = std::env::var("ABBEY_TOKEN_FILE").map(PathBuf::from);
        let token = token.map_err(|_| StartError::Environment("ABBEY_TOKEN_FILE"))?;
        let root = token.ancestors().nth(2).map(PathBuf::from);
        Ok(OwnAgent {
            client,
            layout: Layout::under(&root.unwrap_or_default()),
        })
    }

    /// Directory of the agent's memory and work.
    pub fn workspace(&self) -> &std::path::Path {
        &self.layout.workspace
    }

    /// Leases that runs of this cell hold.
    pub fn leases(&self) -> Vec<HeldLease> {
        lease_files::list(&self.layout.home)
    }

    /// Keeps a lease for later commands.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep_lease(&self, lease: &HeldLease) -> std::io::Result<()> {
        lease_files::save(&self.layout.home, lease)
    }

    /// Forgets a lease that has ended.
    pub fn forget_lease(&self, lease: &HeldLease) {
        lease_files::remove(&self.layout.home, lease);
    }

    /// Works on a claimed task with a program: the offer, as JSON, is its standard input, and what it prints is the result.
    /// The lease is kept meanwhile. Returns how the work ended, and whether the house accepted that; no end where the lease
    /// was lost.
    pub async fn perform_with_program(
        &self,
        offer: OfferDoc,
        claimed: ClaimDoc,
        argv: Vec<String>,
    ) -> (Option<TurnEnd>, bool) {
        let client = Arc::new(self.client.clone());
        let mut driver = ProgramDriver {
            argv,
            end: None,
            accepted: false,
        };
        worker::run_claimed_task(&client, &mut driver, offer, claimed).await;
        (driver.end, driver.accepted)
    }
}

/// Task of the run that this process is a program of, if any.
pub fn task_of_environment() -> Option<String> {
    std::env::var(TASK_VARIABLE).ok().filter(|t| !t.is_empty())
}

/// Does a task with one program.
struct ProgramDriver {
    argv: Vec<String>,
    end: Option<TurnEnd>,
    accepted: bool,
}

impl Driver for ProgramDriver {
    async fn submit_turn(&mut self, assignment: &Assignment, _events: &Events) -> TurnEnd {
        let mut end = run_program(&self.argv, assignment).await;
        if has_ended(assignment).await {
            end = TurnEnd::AlreadyEnded;
        }
        self.end = Some(end.clone());
        end
    }

    async fn cancel(&mut self, _assignment: &Assignment) {
        self.end = None;
    }

    fn accepted(&mut self, _assignment: &Assignment) {
        self.accepted = true;
    }
}

/// Whether the run is over, such as because its program has completed the task or requested an approval by the agent API.
async fn has_ended(assignment: &Assignment) -> bool {
    let task = assignment.client.me().task(&assignment.lease.task).await;
    let Ok(TaskDoc { task, .. }) = task else {
        return false;
    };
    let mut runs = task.runs.iter();
    runs.any(|run| run.id == assignment.run && run.state.is_terminal())
}

async fn run_program(argv: &[String], assignment: &Assignment) -> TurnEnd {
    let failed = |text: String| TurnEnd::Failed {
        reason: EndReason::AgentError,
        text,
    };
    let Some((program, args)) = argv.split_first() else {
        return failed("no program was named".to_owned());
    };
    let policy: ToolPolicy =
        serde_json::from_value(assignment.offer.policy.clone()).unwrap_or_default();
    let most = usize::try_from(policy.output_bytes_max).unwrap_or(usize::MAX);
    let input = serde_json::to_vec(&assignment.offer).unwrap_or_default();
    let mut command = Command::new(program);
    command
        .args(args)
        .env(TASK_VARIABLE, &assignment.lease.task);
    match run_captured(&mut command, Some(input), most).await {
        Err(e) => failed(format!("could not run `{program}`: {e}")),
        Ok(output) if output.status.success() => TurnEnd::Completed {
            text: output.stdout.text().trim_end().to_owned(),
            source: ResultSource::Command,
            data: Value::Null,
        },
        Ok(output) => failed(format!(
            "`{program}` ended ({}): {}",
            output.status,
            output.stderr.text().trim_end()
        )),
    }
}
