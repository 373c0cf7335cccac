//! What runs inside an agent's cell: the worker, drivers for runtimes, skills and their programs.
//!
//! Deliberately absent: which kind of cell it is in, and every way to the control plane but the agent API.

mod agent_api;
pub mod library;
mod native;
pub mod programs;
pub mod runtime;
pub mod skill;
pub mod worker;

pub use agent_api::StartError;
