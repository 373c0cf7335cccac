//! Approvals: one inbox for everything that waits for a person's decision.

use crate::macros::{documents, operations, queries, requests};
use crate::time::Time;
use abbey_model::ApprovalState;
use abbey_model::words;
use serde_json::Value;

words! {
    /// State that an approval gets when no decision is made in time.
    Silence {
        /// It is approved.
        Approve = "approve",
        /// It is denied.
        Deny = "deny",
    }
}

documents! {
    /// Requests for approval.
    ApprovalsDoc {
        /// Always 1.
        version: u32,
        /// Approvals, newest first.
        approvals: Vec<ApprovalView>,
        /// Names the next page; absent on the last one.
        #[serde(default)]
        cursor: Option<String>,
    }
    /// A request for approval, and its decision.
    ApprovalView {
        /// Number, as `APPR-7`.
        id: String,
        /// Task that needs it, as `TASK-12`, or run of a workflow, as `WF-3`.
        task: String,
        /// Agent that requested it; for a workflow, the step.
        agent: String,
        /// Action to be done.
        action: String,
        /// Arguments of the action.
        args: Value,
        /// Digest of action and arguments.
        hash: String,
        /// Reason for the request.
        why: String,
        /// State of the approval.
        state: ApprovalState,
        /// State that it gets when no decision is made in time.
        silence: Silence,
        /// When the time to decide is over; once it is approved, when the time to use it is over.
        expires_at: Time,
        /// Principal that decided.
        decided_by: Option<String>,
        /// Note of the decision.
        note: Option<String>,
        /// When it was requested.
        created_at: Time,
        /// When it was decided.
        decided_at: Option<Time>,
    }
}

requests! {
    /// A request for approval, by the agent that holds a lease on the task.
    ApprovalBody {
        /// Task that needs it.
        task: String,
        /// Name of the action.
        action: String,
        /// Arguments; the approval is for exactly these.
        #[serde(default)]
        args: Value,
        /// Reason for the request.
        #[serde(default)]
        why: String,
        /// Time to decide, milliseconds; a day when not given. Silence is a denial.
        #[serde(default)]
        within_ms: Option<i64>,
    }
    /// The action for which an approval is used.
    UseBody {
        /// Name of the action.
        action: String,
        /// Arguments of the action.
        #[serde(default)]
        args: Value,
    }
    /// A decision.
    DecideBody {
        /// Note for the agent that requested it.
        #[serde(default)]
        note: Option<String>,
    }
}

queries! {
    /// Which approvals to list.
    ApprovalsQuery {
        /// All of them, and not only those that wait.
        all: Option<bool>,
        /// Most rows of one page.
        #[param(minimum = 1, maximum = 1000)]
        limit: Option<u32>,
        /// `cursor` of the page before.
        cursor: Option<String>,
    }
}

operations! {
    /// Approvals: `client.approvals()`.
    ApprovalsClient {
        /// Approvals that wait for a decision, or all of them, newest first.
        GET "/api/v1/approvals" list() [query ApprovalsQuery] -> json(ApprovalsDoc);
        /// Approves exactly this action, once.
        POST "/api/v1/approvals/{approval}/approve" approve(approval) [body DecideBody] -> json(ApprovalView);
        /// Denies it; the task fails.
        POST "/api/v1/approvals/{approval}/deny" deny(approval) [body DecideBody] -> json(ApprovalView);
        /// Requires a different request; the note describes it.
        POST "/api/v1/approvals/{approval}/revise" revise(approval) [body DecideBody] -> json(ApprovalView);
    }
}
