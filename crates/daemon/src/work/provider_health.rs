//! The health of model providers: what the store knows of it, kept in memory so that an ordinary call writes nothing.

use abbey_engine::provider_health::{Observation, ProviderCondition};
use abbey_gateway::{
    BoxFuture, CallEnd, CallOutcome, Caller, OutcomeCounts, ProviderHealth, Refusal, RetryAfter,
    Target,
};
use abbey_model::{Millis, Principal, ProviderFailure, RefusedKey, Timestamp};
use abbey_store::{ProviderOutcome, RefusedKeys, Storage};
use parking_lot::RwLock;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

/// Conditions of providers, and counts of how calls to them ended.
pub(crate) struct ProviderConditions {
    store: Arc<dyn Storage>,
    /// Providers whose last calls failed.
    failing: RwLock<BTreeMap<String, ProviderCondition>>,
    /// Keys of requests that models refused.
    refused_keys: RwLock<RefusedKeys>,
    /// Outcomes of calls, for metrics.
    pub(crate) counts: OutcomeCounts,
}

impl ProviderConditions {
    /// Conditions of a store; nothing is known before [`ProviderConditions::load`].
    pub(crate) fn new(store: Arc<dyn Storage>) -> Self {
        ProviderConditions {
            store,
            failing: RwLock::default(),
            refused_keys: RwLock::default(),
            counts: OutcomeCounts::default(),
        }
    }

    /// Reads the conditions that an earlier control plane stored.
    pub(crate) async fn load(&self) -> Result<(), abbey_store::Error> {
        *self.failing.write() = self.store.provider_health().await?;
        *self.refused_keys.write() = self.store.refused_keys().await?;
        Ok(())
    }

    /// Forgets what is known of providers that `who` changed.
    pub(crate) async fn forget(
        &self,
        providers: Vec<String>,
        who: Principal,
    ) -> Result<(), abbey_store::Error> {
        let knows = |provider: &String| {
            let known = self.refused_keys.read();
            known.keys().any(|(name, _)| name == provider)
        };
        if providers.iter().any(knows) {
            self.store.forget_refused_keys(providers.clone()).await?;
            *self.refused_keys.write() = self.store.refused_keys().await?;
        }
        self.reset(providers, None, who).await.map(drop)
    }

    /// Keys that a model is known to refuse.
    pub(crate) fn refused_keys(&self, target: &Target) -> BTreeSet<RefusedKey> {
        let known = self.refused_keys.read();
        // Most models refuse none.
        match known.is_empty() {
            true => BTreeSet::new(),
            false => known
                .get(&(target.provider.clone(), target.model.clone()))
                .cloned()
                .unwrap_or_default(),
        }
    }

    /// Remembers that a model refuses a key.
    pub(crate) async fn learn(&self, target: &Target, key: RefusedKey) {
        let (provider, model) = (target.provider.clone(), target.model.clone());
        self.refused_keys
            .write()
            .entry((provider.clone(), model.clone()))
            .or_default()
            .insert(key);
        if let Err(error) = self.store.record_refused_key(provider, model, key).await {
            tracing::error!(%error, %target, "what a model refuses could not be recorded");
        }
    }

    /// Lets calls be sent again at once to providers that `who` wants to be called, for the reason in `note`.
    /// Answers whether the last calls of one of them had failed.
    pub(crate) async fn reset(
        &self,
        providers: Vec<String>,
        note: Option<String>,
        who: Principal,
    ) -> Result<bool, abbey_store::Error> {
        let failing = self.failing();
        let providers: Vec<String> = providers
            .into_iter()
            .filter(|p| failing.contains_key(p))
            .collect();
        if providers.is_empty() {
            return Ok(false);
        }
        self.store
            .reset_provider_health(providers, note, who)
            .await?;
        self.load().await?;
        Ok(true)
    }

    /// Condition of every provider whose last calls failed.
    pub(crate) fn failing(&self) -> BTreeMap<String, ProviderCondition> {
        self.failing.read().clone()
    }

    fn condition(&self, provider: &str) -> ProviderCondition {
        let failing = self.failing.read();
        failing.get(provider).cloned().unwrap_or_default()
    }

    async fn observe(&self, caller: &Caller, target: &Target, seen: Observation) {
        let provider = target.provider.clone();
        if seen == Observation::Answered
            && self.condition(&provider) == ProviderCondition::Available
        {
            return;
        }
        let outcome = ProviderOutcome {
            provider: provider.clone(),
            agent: caller.agent.clone(),
            run: caller.run,
            seen,
        };
        match self.store.record_provider_outcome(outcome).await {
            Ok(ProviderCondition::Available) => drop(self.failing.write().remove(&provider)),
            Ok(condition) => drop(self.failing.write().insert(provider, condition)),
            Err(error) => {
                tracing::error!(%error, provider, "the end of a call to a provider could not be recorded");
            }
        }
    }

    /// Time that a provider asks for from now on.
    fn time_asked_for(&self, retry_after: RetryAfter) -> Millis {
        let millis = |d: std::time::Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
        match retry_after {
            RetryAfter::Delay(delay) => Millis(millis(delay)),
            RetryAfter::At(at) => {
                let since = at
                    .duration_since(SystemTime::UNIX_EPOCH)
                    .unwrap_or_default();
                Timestamp(millis(since)).since(self.store.now())
            }
        }
    }
}

impl ProviderHealth for ProviderConditions {
    fn admit<'a>(
        &'a self,
        caller: &'a Caller,
        target: &'a Target,
    ) -> BoxFuture<'a, Result<(), Refusal>> {
        Box::pin(async move {
            let (provider, now) = (&target.provider, self.store.now());
            let condition = self.condition(provider);
            let (Some(until), Some(wait)) =
                (condition.refuses_until(now), condition.wait(provider, now))
            else {
                return Ok(());
            };
            let text = format!(
                "{}; no call is sent to it for {}",
                wait.text,
                until.since(now).human()
            );
            let (agent, run) = (caller.agent.clone(), caller.run);
            if let Err(error) = self.store.record_run_wait(agent, run, wait).await {
                tracing::error!(%error, provider, "the wait of a run for its provider could not be recorded");
            }
            Err(Refusal {
                retry_after_s: u64::try_from(until.since(now).secs_ceil()).ok(),
                ..Refusal::provider_unavailable(text)
            })
        })
    }

    fn record<'a>(
        &'a self,
        caller: &'a Caller,
        target: &'a Target,
        end: CallEnd,
    ) -> BoxFuture<'a, ()> {
        let CallEnd {
            outcome,
            retry_after,
            words,
        } = end;
        self.counts.count(target, outcome);
        let failed = |failure| Observation::Failed {
            failure,
            retry_after: retry_after.map(|r| self.time_asked_for(r)),
            words: words.clone(),
        };
        let seen = match outcome {
            // Whoever sends the request again unchanged can succeed once the provider's account is in order; 400, 404 and
            // 422 are the fault of the request.
            CallOutcome::Answered(401 | 403) => Some(failed(ProviderFailure::CredentialRefused)),
            CallOutcome::Answered(402) => Some(failed(ProviderFailure::PaymentRequired)),
            CallOutcome::Answered(408) => Some(failed(ProviderFailure::TimedOut)),
            CallOutcome::Answered(429) => Some(failed(ProviderFailure::RateLimited)),
            CallOutcome::Answered(500..) => Some(failed(ProviderFailure::ServerError)),
            CallOutcome::Answered(_) => Some(Observation::Answered),
            CallOutcome::Unreachable => Some(failed(ProviderFailure::Unreachable)),
            CallOutcome::NoAnswer => Some(failed(ProviderFailure::NoAnswer)),
            // The provider is there, and what it sent is paid for.
            CallOutcome::Truncated | CallOutcome::Overrun => None,
        };
        Box::pin(async move {
            if let Some(seen) = seen {
                self.observe(caller, target, seen).await;
            }
        })
    }
}
