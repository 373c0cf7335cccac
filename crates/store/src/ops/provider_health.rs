//! The health of model providers, and runs whose model calls must wait.

use super::{audit_log, ledger, waits};
use crate::rows::{Query, Rows, params};
use crate::transaction::Tx;
use crate::{ProviderOutcome, Result};
use abbey_engine::provider_health::{Observation, ProviderCondition};
use abbey_engine::task::Wait;
use abbey_model::{Principal, RunId, Slug, WaitKind};
use serde_json::json;
use std::collections::BTreeMap;

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
    let after = before.observe(outcome.seen, tx.now);
    if let Observation::Failed { failure, .. } = outcome.seen
        && failure.is_free()
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
    let action = match (before, after) {
        (ProviderCondition::Available, _) => "provider.cool_down",
        (_, ProviderCondition::Available) => "provider.recover",
        _ => return Ok(after),
    };
    let detail = json!({ "condition": after });
    audit_log::append(tx, &Principal::House, action, provider, detail)?;
    Ok(after)
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
