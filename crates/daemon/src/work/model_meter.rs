//! The gateway's meter over the store's ledger.

use crate::boot::house::House;
use abbey_gateway::{Hold, Meter, MeterRefusal, Used};
use abbey_model::ReservationId;
use abbey_store::{CallHold, CallUse, Error};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub(crate) struct Ledger(pub(crate) Arc<House>);

impl Meter for Ledger {
    fn reserve(
        &self,
        hold: Hold,
    ) -> Pin<Box<dyn Future<Output = Result<ReservationId, MeterRefusal>> + Send>> {
        let house = Arc::clone(&self.0);
        Box::pin(async move {
            let call = CallHold {
                agent: hold.agent,
                run: hold.run,
                amounts: hold.amounts,
                model: hold.model,
            };
            house.model_calls.fetch_add(1, Ordering::Relaxed);
            house.store.reserve(call).await.map_err(|error| {
                let (code, resets) = match &error {
                    Error::Budget(refusal) => ("budget_exhausted", refusal.resets_at),
                    Error::NoLease(_) => ("no_lease", None),
                    _ => ("unavailable", None),
                };
                let retry_after_s = resets
                    .and_then(|at| u64::try_from(at.since(house.store.now()).secs_ceil()).ok());
                MeterRefusal {
                    code,
                    text: error.to_string(),
                    retry_after_s,
                }
            })
        })
    }

    fn settle(&self, id: ReservationId, used: Used) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let house = Arc::clone(&self.0);
        Box::pin(async move {
            let used = match used {
                Used::Known {
                    input,
                    output,
                    cached,
                    cost,
                    model,
                } => CallUse::Known {
                    input: input.0,
                    output: output.0,
                    cached: cached.0,
                    cost: cost.map(|c| c.0),
                    model,
                },
                Used::Unknown { model } => CallUse::Unknown { model },
                Used::Released => CallUse::Released,
            };
            if let Err(error) = house.store.settle(id, used).await {
                // The hold stays and is charged whole at the next start: nothing is lost.
                tracing::error!(%error, reservation = %id, "a call could not be settled");
            }
        })
    }
}
