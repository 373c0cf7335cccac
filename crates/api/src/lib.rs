//! What travels between the house and everybody else: documents, routes, problems, and a client.
//!
//! Every front end shows these structs; none has a view of its own. Deliberately absent: how
//! anything is done.

mod agent_views;
pub mod client;
mod document_views;
mod evidence;
mod openapi;
mod problem;
pub mod routes;
mod time;
mod views;
mod work_views;

pub use agent_views::*;
pub use document_views::*;
pub use evidence::EvidenceView;
pub use openapi::openapi;
pub use problem::{PROBLEM_TYPE, Problem, status_of};
pub use time::Time;
pub use views::*;
pub use work_views::*;

/// Version of every document.
pub const VERSION: u32 = 1;
