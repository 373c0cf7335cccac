//! Composition, start-up and shutdown of the control plane.
//!
//! May import: every folder. Nothing imports it.

pub(crate) mod duties;
pub(crate) mod house;
pub(crate) mod serve;
