//! Planning: from a manifest to the plan in force.
//!
//! May import: `work`, `cells`, `net`, `core`. Never knows: reports or routes.

pub(crate) mod apply;
pub(crate) mod file_access;
mod removed_files;
mod render;
