//! The one source of randomness of the store: identifiers of tasks, runs and reservations.

/// A source of random bytes. Injected, so that a simulation can repeat a run exactly.
pub trait Entropy: Send + Sync {
    /// Fills `bytes`.
    ///
    /// # Errors
    /// When the host gives no random bytes.
    fn fill(&self, bytes: &mut [u8]) -> std::io::Result<()>;
}

/// The random bytes of the host.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, bytes: &mut [u8]) -> std::io::Result<()> {
        getrandom::fill(bytes).map_err(std::io::Error::other)
    }
}
