//! The state machines of the house, as pure functions: (state, event, now) → new state or a
//! named refusal.
//!
//! One module per machine. Deliberately absent: Tokio, files, sockets, the wall clock and
//! randomness; instants and identifiers are parameters. The `store` runs these functions inside
//! its write transaction, so a decision and its record are one change.

pub mod admission;
pub mod approval;
pub mod authority;
pub mod budget;
pub mod matcher;
pub mod provider_health;
pub mod queue;
pub mod routing;
pub mod run;
pub mod saga;
pub mod schedule;
pub mod supervision;
pub mod task;
pub mod terms;
pub mod timetable;
pub mod waiting;
pub mod workflow;

#[cfg(test)]
mod properties;
