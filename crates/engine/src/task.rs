//! The state machine of a task: which principal may move it from which state to which, and what a lease means.
//!
//! ```text
//!            ┌────────── Admit(park) ─────────┐
//!            ▼                                │
//! Pending ─Admit─▶ Ready ◀──Admit── Parked ◀──┘
//!    ▲               │ Claim (grants the lease: token + 1)
//!    │               ▼
//!    │◀─backoff── Running ──Complete──▶ Done | Unverified
//!    │               │ ├──Wait, costs no attempt──▶ Parked
//!    │               │ ├──Fail, too many losses──▶ Failed
//!    │               │ └──WallTime──▶ TimedOut
//!    │◀─Answered── AwaitingApproval ◀──Ask── Running
//!    └──Unblock── Blocked        Cancel: from every state that is not terminal
//!    ▲
//!    └── Retry, from Failed, TimedOut, Cancelled and Unverified
//! ```
//!
//! A run that waits for a task that it gave keeps its lease; `waits` says how its wall time goes meanwhile.
//!
//! A lease is over at its instant, whether or not a sweep has come by: a holder that is late by
//! one millisecond is refused, and its token never becomes valid again.

mod event;
mod phase;
mod step;
mod waits;

pub use event::{Event, Refusal, RunEnd, Step};
pub use phase::{Admission, Lease, Phase, Task, Wait};
pub use step::{ATTEMPTS_MAX, LEASE_TTL, backoff, step};
pub use waits::{STANDSTILL_MAX, SubtaskWait};
