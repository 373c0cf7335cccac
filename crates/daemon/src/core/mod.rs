//! Foundations of every feature: the home directory, the clock, errors, credentials, and calls to
//! the privileged helper.
//!
//! May import: other crates only. Never knows: cells, tasks, routes, or any other folder.

pub(crate) mod accepted;
pub(crate) mod alive;
pub(crate) mod archive;
pub(crate) mod audit_checkpoints;
pub(crate) mod audit_export;
pub(crate) mod checkpoint_sinks;
pub(crate) mod created_paths;
pub(crate) mod credentials;
pub(crate) mod error;
pub(crate) mod home;
pub(crate) mod hostd;
pub(crate) mod hostd_journal;
pub(crate) mod listen;
pub(crate) mod manifest_lock;
pub(crate) mod manual_timers;
pub(crate) mod plan;
pub(crate) mod rate;
pub(crate) mod restore;
pub(crate) mod restored_house;
pub(crate) mod runtime;
pub(crate) mod saved_templates;
pub(crate) mod secrets;
pub(crate) mod shutdown;
pub(crate) mod signing_key;
pub(crate) mod state;
pub(crate) mod syslog;
pub(crate) mod tls;
