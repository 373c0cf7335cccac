//! What the gateway asks of the ledger, and the two states of a paid call.
//!
//! ```text
//! ReservationRequest ─reserve─▶ Reserved ─forward─▶ InFlight ─settle─▶ Settlement
//!                                  │ drop              │ drop
//!                                  ▼                   ▼
//!                               Released            Unmetered
//! ```

use crate::{BoxFuture, Target, Usage};
use abbey_model::{BudgetAmounts, NanoUsd, ReservationId, RunId, Slug, Tokens};
use std::sync::Arc;

/// A request to reserve funds for one call.
#[derive(Debug, Clone)]
pub struct ReservationRequest {
    /// Agent that calls.
    pub agent: Slug,
    /// Run that the call is made for, when the caller named one.
    pub run: Option<RunId>,
    /// The most that the call can use.
    pub amounts: BudgetAmounts,
    /// Provider and model that the call goes to.
    pub target: Target,
}

/// End of a reservation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// Charged with known usage.
    Metered {
        /// Tokens, by class.
        usage: Usage,
        /// Cost; unknown when the provider has no configured prices.
        cost: Option<NanoUsd>,
        /// Model that answered, as the provider named it.
        model: Option<String>,
    },
    /// Forwarded, but no usage is known: charged with the whole reservation.
    Unmetered {
        /// Model that answered, as far as the provider named it.
        model: Option<String>,
    },
    /// Nothing was sent: nothing is charged.
    Released,
}

/// Why the ledger refused a reservation.
#[derive(Debug, Clone)]
pub struct ReservationRefused {
    /// Stable code: `budget_exhausted`, `no_lease`, or `unavailable`.
    pub code: &'static str,
    /// Budget or precondition that refused it, for people.
    pub text: String,
    /// Seconds after which it may succeed, when that is known.
    pub retry_after_s: Option<u64>,
    /// What the budget that refused it can hold, if the call is larger than that.
    pub room: Option<TokenRoom>,
}

/// Tokens that a budget can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenRoom {
    /// Left at present.
    pub now: Tokens,
    /// Left at most at any time, as at the beginning of a day.
    pub most: Tokens,
}

/// The ledger, as the gateway sees it.
pub trait Meter: Send + Sync {
    /// Reserves funds on every enclosing budget, all or none. Durable before it answers.
    fn reserve(
        &self,
        request: ReservationRequest,
    ) -> BoxFuture<'static, Result<ReservationId, ReservationRefused>>;
    /// Ends a reservation.
    fn settle(&self, id: ReservationId, settlement: Settlement) -> BoxFuture<'static, ()>;
}

/// An open reservation, settled once: by [`OpenReservation::settle`], or when it is dropped.
struct OpenReservation {
    meter: Arc<dyn Meter>,
    id: Option<ReservationId>,
    on_drop: Settlement,
}

impl OpenReservation {
    async fn settle(mut self, settlement: Settlement) {
        if let Some(id) = self.id.take() {
            self.meter.settle(id, settlement).await;
        }
    }
}

impl Drop for OpenReservation {
    fn drop(&mut self) {
        // The task that owned the call was cancelled. Without a runtime the reservation stays in the ledger, which
        // charges it at its next start.
        if let (Some(id), Ok(runtime)) = (self.id.take(), tokio::runtime::Handle::try_current()) {
            let settling = self.meter.settle(id, self.on_drop.clone());
            drop(runtime.spawn(settling));
        }
    }
}

/// Funds are reserved and nothing was sent yet. Dropped, it is released.
#[must_use = "a reservation is forwarded or released"]
pub struct Reserved(OpenReservation);

impl Reserved {
    /// Reserves funds for one model call.
    ///
    /// # Errors
    /// [`ReservationRefused`] when the budget refuses.
    pub async fn reserve(
        meter: &Arc<dyn Meter>,
        request: ReservationRequest,
    ) -> Result<Self, ReservationRefused> {
        let id = meter.reserve(request).await?;
        Ok(Reserved(OpenReservation {
            meter: Arc::clone(meter),
            id: Some(id),
            on_drop: Settlement::Released,
        }))
    }

    /// Returns the reserved funds, because the call was never sent.
    pub async fn release(self) {
        self.0.settle(Settlement::Released).await;
    }

    /// Marks the call as being sent to the provider, which may bill it from now on.
    pub fn forward(mut self) -> InFlight {
        self.0.on_drop = Settlement::Unmetered { model: None };
        InFlight(self.0)
    }
}

/// The call was sent to a provider. Dropped, it is charged with its whole reservation.
#[must_use = "a forwarded call is settled"]
pub struct InFlight(OpenReservation);

impl InFlight {
    /// Ends the reservation and charges what the call used.
    pub async fn settle(self, settlement: Settlement) {
        self.0.settle(settlement).await;
    }
}
