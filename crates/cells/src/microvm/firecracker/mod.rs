//! MicroVMs by Firecracker.

mod api;
mod client;
mod drive;
mod setup;

pub use api::*;
pub use client::{FirecrackerCall, FirecrackerClient};
pub(crate) use drive::{prepare_firecracker, why_firecracker_unusable};
pub(crate) use setup::FirecrackerSetup;
