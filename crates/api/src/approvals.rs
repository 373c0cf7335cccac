//! Approvals: one inbox for everything that waits for a person's decision.

use crate::Time;
use crate::macros::{documents, operations, queries, requests};
use abbey_model::ApprovalState;
use abbey_model::words;
use serde_json::Value;

words! {
    /// What an approval becomes when nobody decides in time.
    Silence {
        /// It is approved.
        Approve = "approve",
        /// It is denied.
        Deny = "deny",
    }
}

documents! {
    /// `abbey approvals`.
    ApprovalsDoc {
        /// Always 1.
        version: u32,
        /// Newest first.
        approvals: Vec<ApprovalView>,
        /// Names the next page; absent on the last one.
        #[serde(default)]
        cursor: Option<String>,
    }
    /// One approval.
    ApprovalView {
        /// `APPR-7`.
        id: String,
        /// The task that needs it, or the run of a workflow, as `WF-3`.
        task: String,
        /// Who asks; of a workflow, its step.
        agent: String,
        /// What is to be done.
        action: String,
        /// With what exactly.
        args: Value,
        /// Digest of both.
        hash: String,
        /// Why.
        why: String,
        /// `pending`, `approved`, `denied`, `revise`, `used` or `lapsed`.
        state: ApprovalState,
        /// What silence means: `approve` or `deny`.
        silence: Silence,
        /// When silence is taken for an answer.
        expires_at: Time,
        /// Who decided.
        decided_by: Option<String>,
        /// What they said.
        note: Option<String>,
        /// When it was asked.
        created_at: Time,
        /// When it was decided.
        decided_at: Option<Time>,
    }
}

requests! {
    /// A question for a yes, by the holder of a task.
    ApprovalBody {
        /// The task.
        task: String,
        /// What is to be done, in a word.
        action: String,
        /// With what exactly; the yes is for this and nothing else.
        #[serde(default)]
        args: Value,
        /// Why.
        #[serde(default)]
        why: String,
        /// Time for an answer, milliseconds; a day when not given. Silence is a no.
        #[serde(default)]
        within_ms: Option<i64>,
    }
    /// A yes that is used now.
    UseBody {
        /// For what.
        action: String,
        /// With what exactly.
        #[serde(default)]
        args: Value,
    }
    /// What somebody decides.
    DecideBody {
        /// For the one who asked.
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
        /// Asks for a different request; the note says how.
        POST "/api/v1/approvals/{approval}/revise" revise(approval) [body DecideBody] -> json(ApprovalView);
    }
}
