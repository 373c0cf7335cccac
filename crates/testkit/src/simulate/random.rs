//! Randomness of a simulation: a function of its seed alone.

use abbey_store::Entropy;
use std::sync::{Mutex, PoisonError};

/// Pseudo-random numbers (SplitMix64).
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    /// Numbers of a seed; `stream` tells apart those for different purposes.
    pub(super) fn new(seed: u64, stream: u64) -> Random {
        Random(seed.wrapping_mul(0x2545_F491_4F6C_DD1D) ^ stream.rotate_left(32))
    }

    /// Next number.
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number from `from` up to, but not including, `to`.
    pub(super) fn between(&mut self, from: i64, to: i64) -> i64 {
        let span = u64::try_from(to.saturating_sub(from)).unwrap_or(1).max(1);
        from + i64::try_from(self.next() % span).unwrap_or(0)
    }

    /// Whether something of this probability, in percent, happens.
    pub(super) fn happens(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    /// One of these; none of an empty list.
    pub(super) fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let last = i64::try_from(from.len()).unwrap_or(0);
        let at = usize::try_from(self.between(0, last.max(1))).unwrap_or(0);
        from.get(at)
    }
}

/// Random bytes for the store, which are the same for the same seed.
#[derive(Debug)]
pub(super) struct SeededEntropy(Mutex<Random>);

impl SeededEntropy {
    pub(super) fn new(seed: u64) -> SeededEntropy {
        SeededEntropy(Mutex::new(Random::new(seed, 0xE177)))
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, bytes: &mut [u8]) -> std::io::Result<()> {
        let mut random = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for part in bytes.chunks_mut(8) {
            let number = random.next().to_le_bytes();
            part.copy_from_slice(&number[..part.len()]);
        }
        Ok(())
    }
}
