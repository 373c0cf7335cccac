//! Work: tasks from intake to evidence, delegation, workflows, schedules, approvals, documents.
//!
//! May import: `cells`, `net`, `core`. Never knows: reports, manifests that are being applied, or
//! routes.

pub(crate) mod approvals;
pub(crate) mod counters;
pub(crate) mod delegation;
pub(crate) mod documents;
pub(crate) mod escalations;
pub(crate) mod evidence;
pub(crate) mod forge;
pub(crate) mod intake;
pub(crate) mod lookup;
pub(crate) mod model_gateway;
mod model_meter;
pub(crate) mod operations;
pub(crate) mod outcomes;
pub(crate) mod provider_health;
pub(crate) mod queue;
pub(crate) mod routing;
pub(crate) mod schedules;
pub(crate) mod skills;
pub(crate) mod state;
pub(crate) mod timers;
pub(crate) mod trace;
pub(crate) mod workflows;
