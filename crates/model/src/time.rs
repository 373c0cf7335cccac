//! Instants and durations in whole milliseconds. Nothing here reads a clock.

use serde::{Deserialize, Serialize};
use std::ops::{Add, Sub};

/// Instant in UTC, in milliseconds since 1970-01-01.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

/// Duration in milliseconds.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct Millis(pub i64);

impl Timestamp {
    /// Time from `earlier` to this instant; zero when `earlier` is later.
    pub fn since(self, earlier: Timestamp) -> Millis {
        Millis((self.0 - earlier.0).max(0))
    }
}

impl Millis {
    /// Duration of this many seconds.
    pub const fn from_secs(secs: i64) -> Self {
        Millis(secs.saturating_mul(1000))
    }
    /// The duration as a `std::time::Duration`; zero when negative.
    pub fn to_std(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0.max(0).unsigned_abs())
    }
    /// The duration in its two largest units, for people: `250 ms`, `90 s`, `4 min`, `2 h 30 min`, `3 d`.
    pub fn human(self) -> String {
        let s = self.0 / 1000;
        let (large, small) = match s {
            _ if self.0.unsigned_abs() < 1000 => return format!("{} ms", self.0),
            _ if self.0 < 0 => return format!("-{}", Millis(self.0.saturating_neg()).human()),
            0..120 => return format!("{s} s"),
            120..7200 => ((s / 60, "min"), (s % 60, "s")),
            7200..172_800 => ((s / 3600, "h"), (s % 3600 / 60, "min")),
            _ => ((s / 86_400, "d"), (s % 86_400 / 3600, "h")),
        };
        match small {
            (0, _) => format!("{} {}", large.0, large.1),
            (amount, unit) => format!("{} {} {amount} {unit}", large.0, large.1),
        }
    }
    /// The duration in whole seconds, rounded up.
    pub const fn secs_ceil(self) -> i64 {
        (self.0 + 999).div_euclid(1000)
    }
}

impl Add<Millis> for Timestamp {
    type Output = Timestamp;
    fn add(self, rhs: Millis) -> Timestamp {
        Timestamp(self.0.saturating_add(rhs.0))
    }
}
impl Sub<Millis> for Timestamp {
    type Output = Timestamp;
    fn sub(self, rhs: Millis) -> Timestamp {
        Timestamp(self.0.saturating_sub(rhs.0))
    }
}
