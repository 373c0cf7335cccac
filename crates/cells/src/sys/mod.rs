//! Helpers over the operating system of the host, each without a notion of cells.

pub(crate) mod accept_pause;
pub(crate) mod accounts;
pub(crate) mod cgroup;
pub(crate) mod descriptors;
pub(crate) mod host;
pub(crate) mod listeners;
pub(crate) mod lock;
pub(crate) mod process;
pub(crate) mod programs;
pub(crate) mod tcp;
pub(crate) mod terminal;
