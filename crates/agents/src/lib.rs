//! Everything that runs inside an agent's cell: the worker, drivers of runtimes, skills and their
//! programs.
//!
//! Deliberately absent: which kind of cell it is, and any access to the control plane except by the
//! agent API.

mod agent_api;
pub mod agent_command;
pub mod arguments;
mod front_matter;
mod lease_files;
pub mod library;
mod native;
pub mod programs;
pub mod runtime;
pub mod skill;
pub mod transcript;
pub mod worker;

pub use agent_api::StartError;
