//! The disk that the state is on.

/// The disk that the state is on. Injected, so that a simulation can fill it.
pub trait DiskSpace: Send + Sync {
    /// Whether a commit finds no space but what is kept for essential operations.
    fn is_full(&self) -> bool;
}

/// The disk of the host, which refuses by itself what it has no space for.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostDisk;

impl DiskSpace for HostDisk {
    fn is_full(&self) -> bool {
        false
    }
}
