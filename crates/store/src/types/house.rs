//! Generations, cells, credentials, sagas, and entries of the audit log.

use super::BudgetLimit;
use abbey_engine::supervision::History;
use abbey_model::{
    CredentialGrant, DesiredState, FirstFiles, Principal, SagaId, Slug, TaskState, Timestamp,
    WaitKind,
};
use allocation::Allocation;
use serde_json::Value;
use std::collections::BTreeMap;

/// Allocations as the store keeps them: text, so that the store does not depend on the planner.
pub mod allocation {
    use serde::{Deserialize, Serialize};

    /// One allocation.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Allocation {
        /// Kind of resource.
        pub kind: String,
        /// Allocated value, such as a port or a user id.
        pub value: String,
        /// Cell that it is allocated to.
        pub owner: String,
        /// Purpose within the cell.
        pub purpose: String,
    }
}

/// A plan to make current.
#[derive(Debug, Clone)]
pub struct NewGeneration {
    /// Number of the generation.
    pub generation: u64,
    /// Generation that the plan was made against.
    pub based_on: u64,
    /// Principal, from authentication.
    pub actor: Principal,
    /// Text of the manifest.
    pub manifest: String,
    /// Directory that relative paths of the manifest refer to.
    pub base_dir: String,
    /// Digests of the applied values, for the next plan.
    pub applied: Value,
    /// Texts of the charters, by agent.
    pub charters: Value,
    /// Steps of the plan, for the audit log.
    pub steps: Value,
    /// Every allocation that holds afterwards.
    pub allocations: Vec<Allocation>,
    /// Highest user id that was ever allocated.
    pub newest_uid: u32,
    /// Budget limits that hold afterwards.
    pub budgets: Vec<BudgetLimit>,
    /// Time zone in which days of budgets begin.
    pub timezone: String,
    /// Agents that get another name, as old and new name.
    pub renamed: Vec<(Slug, Slug)>,
    /// New agents whose first files come from elsewhere.
    pub first_files: Vec<(Slug, FirstFiles)>,
    /// Names of the hooks.
    pub hooks: Vec<Slug>,
}

/// A renaming of an agent that the host has not followed yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenamedAgent {
    /// Place in the order of renamings.
    pub seq: u64,
    /// Name before.
    pub old: Slug,
    /// Name since.
    pub new: Slug,
}

/// A stored generation.
#[derive(Debug, Clone)]
pub struct GenerationRow {
    /// Number of the generation.
    pub generation: u64,
    /// Text of the manifest.
    pub manifest: String,
    /// Directory that relative paths of the manifest refer to.
    pub base_dir: String,
    /// Digests of the applied values, for the next plan.
    pub applied: Value,
    /// Texts of the charters, by agent.
    pub charters: Value,
    /// Every allocation of the generation.
    pub allocations: Vec<Allocation>,
    /// Highest user id that was ever allocated.
    pub newest_uid: u32,
    /// Instant at which it became current.
    pub at: Timestamp,
}

/// A stored cell.
#[derive(Debug, Clone, Default)]
pub struct CellRow {
    /// Desired state, set by the operator.
    pub desired: DesiredState,
    /// Boots and failures so far.
    pub history: History,
    /// Instant at which the cell was first to run; wakes are counted from it.
    pub since: Timestamp,
}

/// A change of a cell; absent fields stay.
#[derive(Debug, Clone, Default)]
pub struct CellChange {
    /// New desired state, and the principal that asks for it; without a principal nothing is logged.
    pub desired: Option<(DesiredState, Option<Principal>)>,
    /// New supervision, with the audit entry that explains it.
    pub history: Option<(History, Option<NewAuditEntry>)>,
}

/// A credential to register, by hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewToken {
    /// SHA-256 of the credential, hexadecimal.
    pub hash: String,
    /// Principal that it authenticates.
    pub principal: Principal,
    /// What the token permits.
    pub grant: CredentialGrant,
    /// Name of a token of the operator API, unique in the house; none for a credential that Abbey issues itself.
    pub name: Option<Slug>,
    /// First instant at which it is no longer valid.
    pub expires_at: Option<Timestamp>,
    /// Principal that has it issued.
    pub issued_by: Principal,
}

/// A stored credential, by hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// SHA-256 of the credential, hexadecimal.
    pub hash: String,
    /// Principal that it authenticates.
    pub principal: Principal,
    /// What the token permits.
    pub grant: CredentialGrant,
    /// Name of a token of the operator API; none for a credential that Abbey issued itself.
    pub name: Option<Slug>,
    /// Instant at which the token was registered.
    pub created_at: Timestamp,
    /// Instant of its last use, to the minute; recorded for named tokens only.
    pub last_used_at: Option<Timestamp>,
    /// First instant at which it is no longer valid.
    pub expires_at: Option<Timestamp>,
}

/// A saga that is not over.
#[derive(Debug, Clone)]
pub struct SagaRow {
    /// Identifier.
    pub id: SagaId,
    /// Kind of saga, such as `agent.create`.
    pub kind: String,
    /// Object of the saga.
    pub subject: String,
    /// Names of its steps.
    pub steps: Vec<String>,
    /// State after the events so far.
    pub state: abbey_engine::saga::State,
}

/// An entry for the audit log, before it has a number and a hash.
#[derive(Debug, Clone)]
pub struct NewAuditEntry {
    /// Principal, from authentication.
    pub actor: Principal,
    /// Action as `noun.verb`.
    pub action: String,
    /// Object of the action.
    pub entity: String,
    /// Details; secrets are redacted.
    pub detail: Value,
}

/// Counts for metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HouseCounts {
    /// Open tasks by state and by what they wait for.
    pub open: Vec<OpenTasks>,
    /// Ends of tasks since the house began, by their last state.
    pub ended: BTreeMap<TaskState, u64>,
    /// Approvals that wait for a decision.
    pub approvals_pending: u64,
    /// When the oldest of them was requested.
    pub oldest_approval: Option<Timestamp>,
    /// When the newest backup was written.
    pub last_backup: Option<Timestamp>,
}

/// Open tasks of one state that wait for one kind of thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenTasks {
    /// State of the tasks.
    pub state: TaskState,
    /// Kind of thing that they wait for; none while they run.
    pub wait: Option<WaitKind>,
    /// Number of tasks.
    pub count: u64,
    /// When the state of the first of them began; none when there is none.
    pub oldest: Option<Timestamp>,
}
