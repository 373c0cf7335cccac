//! What runs inside a cell: adapters for runtimes, skills, and the native agent.
//!
//! Deliberately absent: which kind of cell it is in, and every way to the house but the inside door.

pub mod library;
pub mod native;
pub mod programs;
mod render;
pub mod skill;

pub use render::{Layout, native_environment};

/// SHA-256 in hexadecimal.
pub fn digest(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}
