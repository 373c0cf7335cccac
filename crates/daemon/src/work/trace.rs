//! One number for everything that came of one request: subtasks, steps of a workflow, runs, calls of models
//! (S3-33). It is a function of what was asked first, so nothing is stored and nothing can lose it.
//!
//! Source: W3C Trace Context, level 1, `traceparent`: version, 16 bytes of trace, 8 of parent, flags; in hexadecimal.

use abbey_model::{RunId, TaskRef};
use abbey_store::{Storage, TaskRow};

/// What makes the traces of this house its own.
pub(crate) struct Traces(String);

impl Traces {
    /// From the house's own key, which the traces do not tell.
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        Traces(abbey_support::digest::sha256_hex(
            [&b"traces"[..], key].concat(),
        ))
    }

    fn trace_id(&self, first: &str) -> String {
        let mut hash = abbey_support::digest::sha256_hex(format!("{}/{first}", self.0).as_bytes());
        hash.truncate(32);
        hash
    }

    /// Trace of a task: that of the workflow whose step it belongs to, else that of the task that was asked first.
    pub(crate) fn trace_of_task(&self, row: &TaskRow) -> String {
        let link = row.link.as_ref();
        let step = link.and_then(|l| l.step.as_deref()?.split('/').next());
        match (step, link) {
            (Some(run), _) => self.trace_id(run),
            (None, Some(link)) => self.trace_id(&format!("TASK-{}", link.root)),
            (None, None) => self.trace_id(&format!("TASK-{}", row.number)),
        }
    }

    /// Trace of a run of a workflow.
    pub(crate) fn trace_of_workflow(&self, number: u64) -> String {
        self.trace_id(&format!("WF-{number}"))
    }
}

/// What is sent along with a call of a model: the trace of the run's task, and the run as its parent.
pub(crate) async fn traceparent_of_run(
    store: &dyn Storage,
    traces: &Traces,
    run: RunId,
) -> Option<String> {
    let run = store.run(run).await.ok()?;
    let row = store.task(TaskRef::Id(run.task)).await.ok()?;
    let parent = abbey_support::digest::sha256_hex(run.id.to_string().as_bytes());
    Some(format!(
        "00-{}-{}-01",
        traces.trace_of_task(&row),
        parent.get(..16)?
    ))
}
