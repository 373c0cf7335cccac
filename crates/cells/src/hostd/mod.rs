//! hostd: the one process of a house that may hold privilege, and the small one from which every
//! cell is started.
//!
//! A closed set of typed operations over a Unix socket with peer credentials. Each call is served
//! by a process of its own, so none waits for another and none can take the helper down. Names are
//! slugs and paths are derived from them, never taken from the caller; users come from claims that
//! were made before. Every call leaves a line in the journal. Started by an ordinary user it has
//! no privilege and does the same for that user's cells.

mod admission;
mod agent_command;
mod allowed;
mod api;
mod checkpoint_sink;
mod checkpoints;
mod client;
mod config;
mod deleted_homes;
pub(crate) mod disks;
mod exec;
mod guest;
mod home_layout;
mod host_facts;
mod house_subnets;
mod in_process;
mod journal;
mod low_ports;
mod moved_home;
mod named_files;
mod network_guard;
mod operation;
mod owner_files;
mod ownership;
mod pack;
mod reboot;
mod rename;
mod server;
mod spare_networks;
mod spare_process;
mod stage;
mod startup;
mod sweep;
mod users_lock;
mod zfs;

pub use crate::files::tree::{PACKED_PATH_MAX, is_left_out_of_agent, is_link_within};
pub use crate::{allocation::Allocation, allocation::Allocations, allocation::Disks};
pub use crate::{files::FileEntry, files::FileName, files::NoteName};
pub use agent_command::{COMMANDS_OF_HOUSE, publish_agent_command};
pub use api::HostdApi;
pub use checkpoint_sink::{Undelivered, undelivered_checkpoints};
pub use checkpoints::{
    append_checkpoint_lines, checkpoint_file, parse_checkpoint_lines, read_checkpoint_lines,
};
pub use client::{HostdClient, HostdState, hostd_state};
pub use config::{HostdConfig, control_group_of};
pub use deleted_homes::clean_up_after_deleted_homes;
pub use disks::free_space;
pub use home_layout::{
    HomeEntry, HomeEntryKind, HomeOwners, WrongEntry, find_wrong_entries, home_entries, repair_home,
};
pub use in_process::{InProcessHostd, run_in_process};
pub use journal::{JournalLine, SECRET_REMOVE, SECRET_SET, record_operator_change};
pub use low_ports::allow_low_ports;
pub use moved_home::{MovedHouse, moved_house, remedy_of_move};
pub use named_files::{NamedFiles, allow_named_files, check_secret_file, check_sink_file};
pub use operation::{Hello, HostdOperation, HostdReply, HostdRequest, REQUEST_MAX};
pub use server::{parse_request, serve_hostd};
pub use startup::{
    HostdStartup, detach_from_parent, drop_privileges, end_hostd, ensure_hostd_running,
    is_privileged_hostd_running, listening_process, socket_owner, unit_of,
};
pub use users_lock::running_twin;
