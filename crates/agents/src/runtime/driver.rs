//! What a runtime does with one claimed task.

use abbey_api::client::AgentClient;
use abbey_api::{OfferDoc, ReportedUsageView, RunFactsView, headers};
use abbey_model::{EndReason, ResultSource};
use serde_json::Value;
use std::sync::{Arc, Mutex, PoisonError};

/// Carries out the tasks that the worker claims, with one runtime. It lives in the cell beside its runtime, in a process
/// of its own role, so the runtime's work goes on while the control plane restarts.
pub trait Driver {
    /// Prepares a run. Facts that are recorded here are reported before the turn begins.
    fn begin(&mut self, _assignment: &Assignment, _events: &Events) {}

    /// Submits the task to the runtime, and waits for its end. What becomes known on the way is recorded as events,
    /// which the worker reports with each renewal.
    ///
    /// **Cancel safety:** the worker drops this future when the lease is lost, then calls [`Driver::cancel`].
    fn submit_turn(
        &mut self,
        assignment: &Assignment,
        events: &Events,
    ) -> impl Future<Output = TurnEnd>;

    /// Ends a turn whose lease was lost: another worker may have the task, so the runtime must not go on with it.
    fn cancel(&mut self, assignment: &Assignment) -> impl Future<Output = ()>;

    /// The control plane accepted the reported end.
    fn accepted(&mut self, _assignment: &Assignment) {}
}

/// A claimed task.
pub struct Assignment {
    /// Client for the agent API, with the agent's credential.
    pub client: Arc<AgentClient>,
    /// The task, as it was offered.
    pub offer: OfferDoc,
    /// Id of the run.
    pub run: String,
    /// The right to change the task.
    pub lease: Lease,
}

/// The right to renew, complete and fail a task.
#[derive(Debug, Clone)]
pub struct Lease {
    /// Id of the task.
    pub task: String,
    /// Fencing token.
    pub token: u64,
}

impl Lease {
    /// Value of the lease header with this lease's token.
    pub fn header(&self) -> headers::Lease {
        headers::Lease(self.token)
    }

    /// Value of the lease header where a request is part of the task.
    pub fn part(&self) -> headers::OptionalLease {
        headers::OptionalLease(self.token)
    }
}

/// How a turn ended.
#[derive(Debug, Clone, PartialEq)]
pub enum TurnEnd {
    /// With a result.
    Completed {
        /// For people.
        text: String,
        /// What produced it.
        source: ResultSource,
        /// For programs.
        data: Value,
    },
    /// An approval was requested, which ended the run and released the lease; a later run continues.
    AwaitsApproval {
        /// Names the approval.
        text: String,
    },
    /// The run is over already: a program of it has reported its end, or the house has ended it.
    AlreadyEnded,
    /// Without success.
    Failed {
        /// Class of the failure, which decides about another attempt.
        reason: EndReason,
        /// What failed, and why.
        text: String,
    },
}

/// Facts about a run, recorded by its driver while it goes on and reported by the worker.
#[derive(Debug, Clone, Default)]
pub struct Events(Arc<Mutex<RunFactsView>>);

impl Events {
    fn record(&self, change: impl FnOnce(&mut RunFactsView)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Digest of the system prompt.
    pub fn prompt_hash(&self, hash: String) {
        self.record(|facts| facts.prompt_hash = Some(hash));
    }

    /// Digest of the skill that runs.
    pub fn skill_hash(&self, hash: String) {
        self.record(|facts| facts.skill_hash = Some(hash));
    }

    /// Position in the session file before the first line of the run, in bytes.
    pub fn session_start(&self, position: u64) {
        self.record(|facts| facts.session_start = Some(position));
    }

    /// Position in the session file after the last line of the run, in bytes.
    pub fn session_end(&self, position: u64) {
        self.record(|facts| facts.session_end = Some(position));
    }

    /// Number of tool calls with a receipt.
    pub fn receipts(&self, count: u32) {
        self.record(|facts| facts.receipts = Some(count));
    }

    /// Claims of the result for which there is no receipt of their kind; the run is flagged when there are any.
    pub fn unsupported_claims(&self, claims: Vec<String>) {
        self.record(|facts| {
            facts.flagged = Some(!claims.is_empty());
            facts.claims = (!claims.is_empty()).then_some(claims);
        });
    }

    /// Adds tokens that the runtime has counted since the last call. They are compared with what the model gateway
    /// metered, which is what is charged.
    pub fn add_usage(&self, used: ReportedUsageView) {
        self.record(|facts| {
            let sum = facts.reported_usage.get_or_insert_default();
            sum.input = sum.input.saturating_add(used.input);
            sum.output = sum.output.saturating_add(used.output);
            sum.cached = sum.cached.saturating_add(used.cached);
        });
    }

    /// Everything recorded so far.
    pub(crate) fn facts(&self) -> RunFactsView {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
