//! The control plane: everything below, composed.
//!
//! Opens the state, recovers, looks at the cells, opens both doors, and runs until it is told to
//! stop. Deliberately absent: terminals and HTML.

mod apply;
mod approvals;
mod attach;
mod auth;
mod backup;
mod command;
mod consumers;
mod controlplane;
mod delegate;
mod doctor;
mod documents;
mod egress;
mod error;
mod escalations;
mod evidence;
mod exec;
mod facts;
mod firewall;
mod home;
mod hooks;
mod hostd;
mod house;
mod inside;
mod journal;
mod lifecycle;
mod logs;
mod loops;
mod meter;
mod metrics;
mod names;
mod operations;
mod org;
mod outside;
mod outside_cells;
mod outside_work;
mod pool;
mod provision;
mod queue;
mod reconcile;
mod reports;
mod room;
mod schedules;
mod serve;
mod skill_costs;
mod specs;
mod supervisor;
mod toolservers;
mod trace;
#[cfg(test)]
mod turned;
mod view;
mod web;
mod workflow_view;
mod workflows;

pub use backup::restore;
pub use error::Error;
pub use home::Home;
pub use hostd::{descend, detach, mend, run as run_hostd};
pub use house::House;
pub use provision::crash_points;
pub use reports::as_text as report_text;
pub use serve::{Announcement, Options, check_manifest, plan_offline, serve};

/// What a plan needs beside the control plane: templates, the manifest's schema, and edits of it.
pub mod manifest {
    pub use crate::workflow_view::declared_in as workflows;
    pub use abbey_plan::edit::{
        add_agent, add_schedule, remove_agent, remove_key, remove_schedule, set_key,
    };
    pub use abbey_plan::edit::{add_entry, entry_of, says};
    pub use abbey_plan::json_schema;
    pub use abbey_plan::templates;
    pub use abbey_plan::{Charter, bytes, duration_ms, parse};
}

pub use abbey_store::{Clock, SystemClock};
