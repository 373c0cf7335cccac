//! The gateway's meter, implemented on the budgets of the store.

use crate::work::state::WorkState;
use abbey_gateway::{
    BoxFuture, Meter, ReservationRefused, ReservationRequest, Settlement, TokenRoom,
};
use abbey_model::{Metric, ReservationId, Tokens};
use abbey_store::{CallReservation, CallUsage, Error};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Reserves and settles model calls in the store's budgets.
pub(crate) struct StoreMeter(pub(crate) Arc<WorkState>);

impl Meter for StoreMeter {
    fn reserve(
        &self,
        request: ReservationRequest,
    ) -> BoxFuture<'static, Result<ReservationId, ReservationRefused>> {
        let work = Arc::clone(&self.0);
        Box::pin(async move {
            let call = CallReservation {
                agent: request.agent,
                run: request.run,
                amounts: request.amounts,
                model: request.target.to_string(),
            };
            work.counters.model_calls.fetch_add(1, Ordering::Relaxed);
            let (agent, run) = (call.agent.clone(), call.run);
            let error = match work.core.store.reserve_call(call).await {
                Ok(reserved) => return Ok(reserved),
                Err(error) => error,
            };
            let (code, wait) = match &error {
                Error::Budget(refusal) => ("budget_exhausted", refusal.wait()),
                Error::NoLease(_) => ("no_lease", None),
                _ => ("unavailable", None),
            };
            let until = wait.as_ref().and_then(|w| w.waiting_for.as_ref()?.until);
            if let Some(wait) = wait {
                let recorded = work.core.store.record_run_wait(agent, run, wait).await;
                if let Err(error) = recorded {
                    tracing::error!(%error, "the wait of a run for its budget could not be recorded");
                }
            }
            let room = match &error {
                Error::Budget(refusal) if refusal.metric == Metric::Tokens => {
                    refusal.most().map(|most| TokenRoom {
                        now: Tokens(refusal.left),
                        most: Tokens(most),
                    })
                }
                _ => None,
            };
            let seconds = until.map(|at| at.since(work.core.store.now()).secs_ceil());
            Err(ReservationRefused {
                code,
                text: error.to_string(),
                retry_after_s: seconds.and_then(|s| u64::try_from(s).ok()),
                room,
            })
        })
    }

    fn settle(&self, id: ReservationId, settlement: Settlement) -> BoxFuture<'static, ()> {
        let work = Arc::clone(&self.0);
        Box::pin(async move {
            let used = match settlement {
                Settlement::Metered { usage, cost, model } => CallUsage::Known {
                    input: usage.input.0,
                    output: usage.output.0,
                    cached: usage.cached.0,
                    cost: cost.map(|c| c.0),
                    model,
                },
                Settlement::Unmetered { model } => CallUsage::Unknown { model },
                Settlement::Released => CallUsage::Released,
            };
            work.settle_ended_call(id, used).await;
        })
    }
}
