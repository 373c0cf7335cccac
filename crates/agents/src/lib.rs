//! What runs inside a cell: adapters for runtimes, skills, and the native agent.
//!
//! Deliberately absent: which kind of cell it is in, and every way to the house but the inside door.

pub mod library;
pub mod native;
pub mod programs;
mod render;
pub mod skill;

pub use render::{Layout, native_environment};
