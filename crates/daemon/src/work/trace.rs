//! Trace ids that connect everything started by one request: subtasks, workflow steps, runs, model
//! calls (S3-33). An id is a function of the first request, so nothing is stored.
//!
//! Source: W3C Trace Context, level 1, `traceparent`: version, 16 bytes of trace id, 8 of parent
//! id, flags, in hexadecimal.

use abbey_model::{RunId, TaskRef};
use abbey_store::{Storage, TaskRow};

/// Derives trace ids from a secret of this house.
pub(crate) struct Traces(String);

impl Traces {
    /// Derives the secret for trace ids from the house's signing key.
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        Traces(abbey_support::digest::sha256_hex(
            [&b"traces"[..], key].concat(),
        ))
    }

    /// Trace id of everything started by the task or workflow run with this name.
    fn trace_id(&self, first: &str) -> String {
        let mut hash = abbey_support::digest::sha256_hex(format!("{}/{first}", self.0).as_bytes());
        hash.truncate(32);
        hash
    }

    /// Trace id of a task: that of its workflow run if it is a step, otherwise that of its root
    /// task.
    pub(crate) fn trace_of_task(&self, row: &TaskRow) -> String {
        let link = row.link.as_ref();
        let step = link.and_then(|l| l.step.as_deref()?.split('/').next());
        match (step, link) {
            (Some(run), _) => self.trace_id(run),
            (None, Some(link)) => self.trace_id(&format!("TASK-{}", link.root)),
            (None, None) => self.trace_id(&format!("TASK-{}", row.number)),
        }
    }

    /// Trace id of the workflow run with this number.
    pub(crate) fn trace_of_workflow(&self, number: u64) -> String {
        self.trace_id(&format!("WF-{number}"))
    }
}

/// Value of the `traceparent` header for model calls of a run: the trace of its task, and the run
/// as parent; `None` for an unknown run.
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
