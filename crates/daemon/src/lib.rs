//! The control plane: everything below, composed.
//!
//! Opens the state, recovers, adopts running cells, serves both APIs, and runs until it is stopped.
//! Deliberately absent: terminals and HTML.
//!
//! Folders, from top to bottom; each imports only from those below it:
//!
//! `boot` → `api_server` → `insight` → `planning` → `work` → `cells` → `net` → `core`

mod api_server;
mod boot;
mod cells;
mod core;
mod insight;
mod net;
mod planning;
mod work;

pub use api_server::openapi::openapi;
pub use api_server::operator_listener::Announcement;
pub use boot::serve::{
    Options, check_manifest, doctor_offline, manifest_offline, plan_offline, serve,
};
pub use boot::simulation::{
    SimulatedAnswer, SimulatedHouse, SimulatedParts, WrapMeter, unprivileged_config,
};
pub use cells::provision::{RENAME_POINTS, crash_points};
pub use core::audit_export::{ExportHeader, verify_export};
pub use core::error::Error;
pub use core::home::Home;
pub use core::hostd::{
    detach_from_parent, end_started_hostd, ensure_home_and_hostd, prepare_control_plane,
    refuse_where_house_moved_away, run_hostd,
};
pub use core::manifest_lock::ManifestLock;
pub use core::restore::{check_new_house, restore_backup, verify_backup};
pub use core::restored_house::{consent_to_uses, uses_without_consent};
pub use core::saved_templates::{SavedTemplate, list_saved_templates, open_saved_template};
pub use insight::reports::render_as_text as report_text;
pub use insight::routing_views::explain_in_stopped_house;
pub use insight::skill_views::find_skills_of_stopped_house;

/// What a plan needs beside the control plane: templates, the manifest's schema, and edits of it.
pub mod manifest {
    pub use crate::insight::workflow_views::parse_declared_workflows as workflows;
    pub use crate::planning::apply::CHARTER_MAX;
    pub use crate::planning::file_access::refused_sink_files;
    pub use abbey_engine::timetable::parse_instant;
    pub use abbey_plan::authority::{WithheldKey, authority_keys, withhold_authority};
    pub use abbey_plan::edit::{
        add_agent, add_schedule, enable_service, remove_agent, remove_key, remove_schedule, set_key,
    };
    pub use abbey_plan::edit::{add_entry, agent_entry, has_value_at};
    pub use abbey_plan::json_schema;
    pub use abbey_plan::rename::{
        give_free_data_names, references, rename_agent, restore_data_name,
    };
    pub use abbey_plan::templates;
    pub use abbey_plan::{
        Charter, CheckpointSink, House, Mistake, parse, parse_bytes, parse_duration_ms,
        reserved_agent_name,
    };
    pub use abbey_plan::{
        IMPORT_RECORD, Likeness, MANIFEST_MAX, is_import_record, remove_own_keys,
    };
}

pub use abbey_store::{Clock, FORMAT as STATE_FORMAT, SystemClock};
