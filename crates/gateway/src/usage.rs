//! What a call used, by class of tokens.

use abbey_model::Tokens;

/// Where the numbers of a [`Usage`] come from. A call without any numbers has no `Usage`: it is settled as
/// [`crate::Settlement::Unmetered`] and costs its whole reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsageSource {
    /// Reported by the provider in its answer.
    Provider,
    /// Derived by the gateway, e.g. zero for an error answer, which no provider bills.
    Estimated,
}

/// Tokens of one call. A [`crate::Protocol`] converts its provider's report to these totals, whatever the provider
/// includes in which number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// All input tokens, including `cached` and `cache_write`.
    pub input: Tokens,
    /// All output tokens, including `reasoning`.
    pub output: Tokens,
    /// Part of `input` that was read from the provider's cache.
    pub cached: Tokens,
    /// Part of `input` that was written to the provider's cache.
    pub cache_write: Tokens,
    /// Part of `output` that the model spent on reasoning and did not show.
    pub reasoning: Tokens,
    /// Source of these numbers.
    pub source: UsageSource,
}

impl Usage {
    /// Usage of no tokens, reported by a source.
    pub const fn zero(source: UsageSource) -> Self {
        Usage {
            input: Tokens(0),
            output: Tokens(0),
            cached: Tokens(0),
            cache_write: Tokens(0),
            reasoning: Tokens(0),
            source,
        }
    }
}
