//! What the house shows of itself: views, reports, `doctor`, metrics.
//!
//! May import: `planning`, `work`, `cells`, `net`, `core`. Never knows: HTTP or routes.

pub(crate) mod disks;
pub(crate) mod doctor;
pub(crate) mod facts;
pub(crate) mod metrics;
pub(crate) mod org;
pub(crate) mod reports;
pub(crate) mod views;
pub(crate) mod workflow_views;
