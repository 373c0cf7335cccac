//! The health of model providers, and runs whose model calls must wait.

use super::{audit_log, ledger, waits};
use crate::rows::{Query, Rows, params};
use crate::transaction::Tx;
use crate::{ProviderOutcome, RefusedKeys, Result};
use abbey_engine::provider_health::{Observation, ProviderCondition};
use abbey_engine::task::Wait;
use abbey_model::{Principal, ProviderFailure, RefusedKey, RunId, Slug, WaitKind};
use serde_json::json;
use std::collections::BTreeMap;

/// Waits for a provider's errors after which one that follows a good answer to another task costs an attempt: a
/// request that a provider can't serve must not hold up all others for ever.
const FREE_SERVER_ERRORS: u32 = 3;

/// Reads the condition of every provider whose last calls failed.
pub(crate) fn list(rows: &dyn Rows) -> Result<BTreeMap<String, ProviderCondition>> {
    let found = rows.all(
        "SELECT provider, condition FROM provider_health",
        params![],
        |c| Ok((c.get()?, c.json()?)),
    )?;
    Ok(found.into_iter().collect())
}

/// Reads the condition of one provider.
pub(crate) fn condition(rows: &dyn Rows, provider: &str) -> Result<ProviderCondition> {
    let found = rows.first(
        "SELECT condition FROM provider_health WHERE provider = ?1",
        params![provider],
        |c| c.json(),
    )?;
    Ok(found.unwrap_or_default())
}

/// Records how a call to a provider ended and returns its condition afterwards. A failure that cost nothing lets the
/// caller's run wait. The first failure and the recovery are logged; at the recovery the tasks that wait for the
/// provider are admitted again.
pub(crate) fn record_outcome(
    tx: &mut Tx<'_>,
    outcome: &ProviderOutcome,
) -> Result<ProviderCondition> {
    let provider = outcome.provider.as_str();
    let before = condition(tx.rows, provider)?;
    let after = before.observe(outcome.seen.clone(), tx.now);
    if let Observation::Failed { failure, .. } = &outcome.seen
        && failure.is_free()
        && !is_fault_of_task(tx, outcome, *failure, &before)?
        && let Some(wait) = after.last_failure(provider)
    {
        record_run_wait(tx, &outcome.agent, outcome.run, &wait)?;
    }
    if before == after {
        return Ok(after);
    }
    match after {
        ProviderCondition::Available => {
            tx.execute(
                "DELETE FROM provider_health WHERE provider = ?1",
                params![provider],
            )?;
            waits::end(tx, WaitKind::Provider, provider)?;
        }
        ProviderCondition::CoolingDown { .. } => {
            tx.execute(
                "INSERT INTO provider_health VALUES (?1, ?2) ON CONFLICT (provider) DO UPDATE SET condition = ?2",
                params![provider, serde_json::to_string(&after)?],
            )?;
        }
    }
    let action = match (&before, &after) {
        (ProviderCondition::Available, _) => "provider.cool_down",
        (_, ProviderCondition::Available) => "provider.recover",
        _ => return Ok(after),
    };
    let detail = json!({ "condition": after });
    audit_log::append(tx, &Principal::House, action, provider, detail)?;
    Ok(after)
}

/// Lets calls be sent at once to providers, whatever their last calls were like: the operator changed them, or says so for
/// the reason in `note`.
pub(crate) fn reset(
    tx: &mut Tx<'_>,
    providers: &[String],
    note: Option<&str>,
    who: &Principal,
) -> Result<()> {
    for provider in providers {
        let known = tx.execute(
            "DELETE FROM provider_health WHERE provider = ?1",
            params![provider.as_str()],
        )?;
        if known > 0 {
            waits::end(tx, WaitKind::Provider, provider)?;
            let detail = note.map_or_else(|| json!({}), |note| json!({ "note": note }));
            audit_log::append(tx, who, "provider.reset", provider, detail)?;
        }
    }
    Ok(())
}

/// Keys of requests that models refused, by provider and model.
pub(crate) fn refused_keys(rows: &dyn Rows) -> Result<RefusedKeys> {
    let found = rows.all(
        "SELECT provider, model, key FROM refused_keys",
        params![],
        |c| Ok(((c.get()?, c.get()?), c.parse()?)),
    )?;
    let mut keys = RefusedKeys::new();
    for (model, key) in found {
        keys.entry(model).or_default().insert(key);
    }
    Ok(keys)
}

/// Records that a model of a provider refused a key. Once more changes nothing.
pub(crate) fn record_refused_key(
    tx: &mut Tx<'_>,
    provider: &str,
    model: &str,
    key: RefusedKey,
) -> Result<()> {
    let known = tx.execute(
        "INSERT INTO refused_keys VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
        params![provider, model, key.name()],
    )?;
    if known > 0 {
        let detail = json!({ "model": model, "key": key });
        audit_log::append(tx, &Principal::House, "provider.learn", provider, detail)?;
    }
    Ok(())
}

/// Forgets the keys that models of these providers refused.
pub(crate) fn forget_refused_keys(tx: &mut Tx<'_>, providers: &[String]) -> Result<()> {
    for provider in providers {
        tx.execute(
            "DELETE FROM refused_keys WHERE provider = ?1",
            params![provider.as_str()],
        )?;
    }
    Ok(())
}

/// Whether the failure is rather the fault of the caller's task: its calls failed often, and the provider served
/// others in between.
fn is_fault_of_task(
    tx: &Tx<'_>,
    outcome: &ProviderOutcome,
    failure: ProviderFailure,
    before: &ProviderCondition,
) -> Result<bool> {
    // 402, 403 and 408 can be answers to this one request as well, as to one that is larger than what is left of a credit.
    let may_be_its_own = matches!(
        failure,
        ProviderFailure::ServerError
            | ProviderFailure::CredentialRefused
            | ProviderFailure::PaymentRequired
            | ProviderFailure::TimedOut
    );
    if !may_be_its_own || *before != ProviderCondition::Available {
        return Ok(false);
    }
    let Some((task, _)) = ledger::live_run(tx, &outcome.agent, outcome.run)? else {
        return Ok(false);
    };
    let waits: u32 = tx.rows.aggregate(
        "SELECT count(*) FROM runs WHERE task = ?1 AND wait IS NOT NULL AND reason IN ('provider_error', 'agent_error')",
        params![task.to_string()],
    )?;
    Ok(waits >= FREE_SERVER_ERRORS)
}

/// Records that a model call of an agent's run was refused for now: if the run fails for that, its task waits. Does
/// nothing when the agent has no such run.
pub(crate) fn record_run_wait(
    tx: &mut Tx<'_>,
    agent: &Slug,
    run: Option<RunId>,
    wait: &Wait,
) -> Result<()> {
    if let Some((_, run)) = ledger::live_run(tx, agent, run)? {
        tx.execute(
            "UPDATE runs SET wait = ?2 WHERE id = ?1",
            params![run.to_string(), serde_json::to_string(wait)?],
        )?;
    }
    Ok(())
}
