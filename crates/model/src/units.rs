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
    fn prices_round_up() {
        assert_eq!(NanoUsd::for_tokens(Tokens(1), NanoUsd(1)), NanoUsd(1));
        assert_eq!(NanoUsd::for_tokens(Tokens(0), NanoUsd(5)), NanoUsd(0));
        assert_eq!(
            NanoUsd::for_tokens(Tokens(2_000_000), NanoUsd(3_000_000_000)),
            NanoUsd(6_000_000_000)
        );
    }
}
