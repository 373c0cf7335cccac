//! The nouns of the house: ids, slugs, time, amounts, states, principals and secrets.
//!
//! Everything here is data with its own validity rules. Deliberately absent: I/O, clocks,
//! randomness, async, HTTP and SQL. A type lives here when two crates must agree on it.

mod approval;
mod authority;
mod budget;
mod cell;
mod checkpoint;
mod conversation;
mod effect;
mod evidence;
mod fault;
mod filter_aliases;
mod first_files;
mod id;
mod manifest;
mod network;
mod note;
mod principal;
mod redact;
mod runtime;
mod secret;
mod slug;
mod task;
mod time;
mod tool;
mod units;
mod waiting;
#[doc(hidden)]
pub mod words;

pub use approval::ApprovalState;
pub use authority::{Authority, Grant, Grants, HookOrigin, Recipient};
pub use budget::{BudgetAmounts, BudgetState, Metric, Scope, Window};
pub use cell::{
    Address, CellKind, CellName, CellUsage, DesiredState, Drives, ExitKind, ExitRecord, Generation,
    HEARTBEAT_DEADLINE, HEARTBEAT_INTERVAL, Incarnation, Layer, Limits, Observed, Presence,
    ProcessIdentity, Profile, VmEnd, Vmm,
};
pub use checkpoint::{Checkpoint, CheckpointLine};
pub use conversation::{ChannelAddress, Conversation, Session};
pub use effect::Effect;
pub use evidence::Evidence;
pub use fault::FaultKind;
pub use first_files::FirstFiles;
pub use id::{
    ConversationId, ConversationKind, Id, IdError, IdKind, ReservationId, ReservationKind, RunId,
    RunKind, SagaId, SagaKind, SessionId, SessionKind, TaskId, TaskKind, TaskRef,
};
pub use manifest::{SecretRef, SecretRefError};
pub use network::{
    Destination, Egress, EgressRule, RESERVED, Subnet, is_private, is_reserved, overlap,
};
pub use note::{DEFAULT_NOTES, IDENTITY_FILES, is_note_name};
pub use principal::{
    AccessScope, AccessScopes, CredentialGrant, Permission, Principal, PrincipalKind,
};
pub use redact::Redactor;
pub use runtime::Runtime;
pub use secret::Secret;
pub use slug::{Slug, SlugError};
pub use task::{
    EndReason, LeaseToken, Priority, ResultSource, RunState, TaskState, Verified, WaitCode,
};
pub use time::{Millis, Timestamp};
pub use tool::{Tool, ToolPolicy};
pub use units::{Bytes, NanoUsd, Tokens};
pub use waiting::{PastWait, ProviderFailure, RefusedKey, WaitKind, WaitingFor};
