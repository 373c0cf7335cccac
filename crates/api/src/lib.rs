//! What travels between the house and everybody else: documents, requests, problems, and the typed client.
//!
//! Each module holds one part of the API whole: its documents, its requests and the client's operations on it. The
//! routes themselves are defined beside their handlers in `abbey-daemon`; a test there holds both to each other. Every
//! front end shows these structs; none has a view of its own. Deliberately absent: how anything is done.

mod activity;
mod agents;
mod approvals;
mod budgets;
mod catalog;
mod cells;
pub mod client;
mod commands;
mod doctor;
mod documents;
mod evidence;
pub mod headers;
mod house;
mod macros;
mod me;
pub mod operation;
mod org;
mod problem;
mod providers;
mod queue;
mod reports;
mod schedules;
mod services;
mod skills;
mod tasks;
mod templates;
mod time;
mod tokens;
mod transport;
mod workflows;

pub use activity::*;
pub use agents::*;
pub use approvals::*;
pub use budgets::*;
pub use catalog::Api;
pub use cells::*;
pub use commands::*;
pub use doctor::*;
pub use documents::*;
pub use evidence::EvidenceView;
pub use house::*;
pub use me::*;
pub use org::*;
pub use problem::{PROBLEM_TYPE, Problem, status_of};
pub use providers::*;
pub use queue::*;
pub use reports::*;
pub use schedules::*;
pub use services::*;
pub use skills::*;
pub use tasks::*;
pub use templates::*;
pub use time::Time;
pub use tokens::*;
pub use workflows::*;

/// Version of every document.
pub const VERSION: u32 = 1;
