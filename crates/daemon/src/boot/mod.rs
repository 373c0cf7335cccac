//! Composition, start-up and shutdown of the control plane.
//!
//! May import: every folder. Nothing imports it.

pub(crate) mod control_plane;
#[cfg(test)]
mod convergence_tests;
pub(crate) mod duties;
#[cfg(test)]
mod reconciler_tests;
pub(crate) mod serve;
pub(crate) mod simulation;
#[cfg(test)]
pub(crate) mod testing;
