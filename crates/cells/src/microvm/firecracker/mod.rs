//! MicroVMs by Firecracker.

mod api;
mod client;
mod drive;
mod teller;

pub use api::*;
pub use client::{FirecrackerCall, FirecrackerClient};
pub(crate) use drive::{prepare, unusable};
pub(crate) use teller::FirecrackerSetup;
