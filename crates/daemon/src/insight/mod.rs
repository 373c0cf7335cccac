//! Views of the house for its users: API documents, reports, `doctor`, metrics.
//!
//! May import: `planning`, `work`, `cells`, `net`, `core`. Never knows: HTTP or routes.

pub(crate) mod cell_views;
pub(crate) mod disks;
pub(crate) mod doctor;
mod drives;
pub(crate) mod facts;
pub(crate) mod ledger_views;
pub(crate) mod metrics;
pub(crate) mod org;
pub(crate) mod readiness;
pub(crate) mod reports;
pub(crate) mod routing_views;
pub(crate) mod self_views;
pub(crate) mod skill_views;
pub(crate) mod task_views;
pub(crate) mod workflow_views;
