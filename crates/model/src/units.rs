//! Units that must not be mixed: adding tokens to bytes does not compile.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Add;

macro_rules! amount {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
        #[serde(transparent)]
        pub struct $name(pub $inner);
        impl Add for $name {
            type Output = $name;
            fn add(self, rhs: $name) -> $name {
                $name(self.0.saturating_add(rhs.0))
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

amount! {
    /// Model tokens of any class.
    Tokens(u64)
}
amount! {
    /// Bytes of memory, disk or text.
    Bytes(u64)
}
amount! {
    /// Money in billionths of a US dollar; integers, so that sums are exact.
    NanoUsd(u64)
}

impl Bytes {
    /// The amount in a unit that people use, such as `12.3 MiB`.
    pub fn human(self) -> String {
        let units = ["KiB", "MiB", "GiB", "TiB"];
        let (mut amount, mut unit) = (self.0 as f64 / 1024.0, 0);
        while amount >= 1023.95 && unit + 1 < units.len() {
            amount /= 1024.0;
            unit += 1;
        }
        match self.0 {
            0..1024 => format!("{} B", self.0),
            _ => format!("{amount:.1} {}", units[unit]),
        }
    }
}

impl NanoUsd {
    /// Cost of `tokens` at a price per million tokens, rounded up.
    pub fn for_tokens(tokens: Tokens, price_per_million: NanoUsd) -> NanoUsd {
        let exact = u128::from(tokens.0) * u128::from(price_per_million.0);
        NanoUsd(u64::try_from(exact.div_ceil(1_000_000)).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_units_that_people_use() {
        let all = [0, 1023, 1024, 12_900_000, 1 << 30, 5 << 40].map(|n| Bytes(n).human());
        assert_eq!(
            all,
            ["0 B", "1023 B", "1.0 KiB", "12.3 MiB", "1.0 GiB", "5.0 TiB"]
        );
    }

    #[test]
    fn prices_round_up() {
        assert_eq!(NanoUsd::for_tokens(Tokens(1), NanoUsd(1)), NanoUsd(1));
        assert_eq!(NanoUsd::for_tokens(Tokens(0), NanoUsd(5)), NanoUsd(0));
        assert_eq!(
            NanoUsd::for_tokens(Tokens(2_000_000), NanoUsd(3_000_000_000)),
            NanoUsd(6_000_000_000)
        );
    }
}
