//! What the gateway asks of the ledger, and the two states of a call.

use abbey_model::{Amounts, NanoUsd, RunId, Slug, Tokens};
use std::pin::Pin;
use std::sync::Arc;

/// A boxed future.
type Task<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What a call may use at most.
#[derive(Debug, Clone)]
pub struct Hold {
    /// Who calls.
    pub agent: Slug,
    /// For which run, where the caller named it.
    pub run: Option<RunId>,
    /// Most that it can use.
    pub amounts: Amounts,
    /// Where it goes, as `PROVIDER/MODEL`.
    pub model: String,
}

/// What a call used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Used {
    /// The provider said so.
    Known {
        /// Input tokens.
        input: Tokens,
        /// Output tokens.
        output: Tokens,
        /// Of the input, from the provider's cache.
        cached: Tokens,
        /// Cost, where the price is known.
        cost: Option<NanoUsd>,
        /// Model that answered.
        model: Option<String>,
    },
    /// Forwarded, and nothing is known.
    Unknown {
        /// Model that answered, where it said so.
        model: Option<String>,
    },
    /// Never forwarded.
    Released,
}

/// Why the ledger said no.
#[derive(Debug, Clone)]
pub struct MeterRefusal {
    /// Stable word: `budget_exhausted`, `no_lease`, `unavailable`.
    pub code: &'static str,
    /// For people.
    pub text: String,
    /// Seconds until it may fit, where that is known.
    pub retry_after_s: Option<u64>,
}

/// The ledger as the gateway sees it.
pub trait Meter: Send + Sync {
    /// Holds funds on every enclosing budget, all or none; durable before it answers.
    fn reserve(&self, hold: Hold) -> Task<Result<abbey_model::ReservationId, MeterRefusal>>;
    /// Ends a hold.
    fn settle(&self, id: abbey_model::ReservationId, used: Used) -> Task<()>;
}

/// Funds are held and nothing was sent yet.
#[must_use = "a reservation is forwarded or released"]
pub struct Reserved {
    meter: Arc<dyn Meter>,
    id: abbey_model::ReservationId,
}

impl Reserved {
    /// Takes over a hold.
    pub fn new(meter: Arc<dyn Meter>, id: abbey_model::ReservationId) -> Self {
        Reserved { meter, id }
    }
    /// Gives everything back.
    pub async fn release(self) {
        self.meter.settle(self.id, Used::Released).await;
    }
    /// From here on the provider may bill it.
    pub fn forward(self) -> InFlight {
        InFlight {
            meter: self.meter,
            id: Some(self.id),
        }
    }
}

/// The call is with the provider.
#[must_use = "a forwarded call is settled"]
pub struct InFlight {
    meter: Arc<dyn Meter>,
    id: Option<abbey_model::ReservationId>,
}

impl InFlight {
    /// Books what was used.
    pub async fn settle(mut self, used: Used) {
        if let Some(id) = self.id.take() {
            self.meter.settle(id, used).await;
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        // The task that watched the call went away; the provider may have billed it all the same.
        if let (Some(id), Ok(runtime)) = (self.id.take(), tokio::runtime::Handle::try_current()) {
            let settle = self.meter.settle(id, Used::Unknown { model: None });
            drop(runtime.spawn(settle));
        }
    }
}
