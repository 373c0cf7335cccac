//! Cells: files and memory that a plan needs, and bringing each cell to its desired state.
//!
//! May import: `net`, `core`. Never knows: tasks, reports, or routes.

pub(crate) mod agent_credentials;
pub(crate) mod backup;
mod command_request;
mod command_run;
pub(crate) mod command_table;
pub(crate) mod commands;
pub(crate) mod desired;
pub(crate) mod exec;
pub(crate) mod first_files;
pub(crate) mod identity_files;
pub(crate) mod logs;
pub(crate) mod lost_files;
mod lost_program;
pub(crate) mod memory;
pub(crate) mod observations;
pub(crate) mod probes;
pub(crate) mod process_end;
pub(crate) mod provision;
pub(crate) mod reconciler;
pub(crate) mod service_access;
pub(crate) mod service_consumers;
pub(crate) mod specs;
pub(crate) mod state;
pub(crate) mod status;
pub(crate) mod vm_pool;
pub(crate) mod vm_shapes;
