//! Cells: what is around an agent or service, behind one trait.
//!
//! A cell is launched and owned by a shim, a small process that outlives the control plane. The control plane asks
//! hostd to start shims and asks shims over their control sockets; it never forks a cell itself.
//! Deliberately absent: tasks, money and what an agent says.
//!
//! Modules in the order of their dependencies, each using only those above it:
//!
//! | module | job |
//! |---|---|
//! | `error`, `crash`, `sys` | errors; crash points for tests; locks, processes, control groups, terminals of the host |
//! | `spec` | specification of one boot of a cell |
//! | `record` | JSON files of the house's own, and what a shim writes down about a boot |
//! | `external` | addresses of services outside the house, which shims look up |
//! | `files` | an agent's files by name, and archives of them |
//! | `allocation` | what hostd has given to whom: users, subnets, ports |
//! | `guest` | first process of a microVM or container: its protocol, channel and program |
//! | `control` | control socket of a shim: protocol and client |
//! | `microvm`, `container`, `network`, `sandbox`, `jail` | what is around a program, one module for each kind |
//! | `shim` | the process that owns a cell |
//! | `hostd` | the process that holds privilege: its operations, server and client |
//! | `backend` | what the control plane can do with cells |

mod allocation;
mod backend;
mod container;
mod control;
pub mod copy;
pub mod crash;
mod error;
mod external;
mod files;
mod guest;
pub mod hostd;
pub mod jail;
pub mod microvm;
pub mod network;
pub mod program_stream;
mod record;
mod sandbox;
pub mod shim;
mod spec;
mod sys;

pub use abbey_launch::{limit_heaps, release_free_memory, release_program_code};
pub use backend::{Backend, CellProbe, ShimBackend};
pub use error::{Error, Result};
pub use guest::{GuestRequest, OWN_IN_GUEST, run_guest};
pub use record::CellRecord;
pub use spec::{
    AGENT_COMMAND, Bind, BootOrigin, COMMANDS_IN_CELL, CellNetwork, CellProgram, CellSpec,
    Container, ForwardTarget, HouseTag, ListenAddress, MicroVm, PortForward, SKILLS_IN_CELL,
    Sandbox,
};
pub use sys::cgroup::{CgroupUsage, ControlGroups};
pub use sys::host::{installed_locales, read_meminfo};
pub use sys::listeners::descendants_listen;
pub use sys::lock::{lock_file_holder, lock_holder};
pub use sys::process::{
    boot_id, first_stopped, identify, is_alive, is_stopped, own_program_path, runs_program,
};
