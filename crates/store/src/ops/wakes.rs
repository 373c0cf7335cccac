//! Wakes: the regular instants at which agents look for something to do.

use super::audit_log;
use crate::Result;
use crate::rows::{Query, Rows, params};
use crate::transaction::Tx;
use abbey_model::{Principal, Slug};
use serde_json::json;
use std::collections::BTreeMap;

/// Stores that an agent's wake with this number fired; a number that is not newer changes nothing.
pub(crate) fn record(tx: &mut Tx<'_>, agent: &Slug, number: u64) -> Result<()> {
    tx.execute(
        "INSERT INTO wakes VALUES (?1, ?2) ON CONFLICT (agent) DO UPDATE SET number = ?2 WHERE wakes.number < ?2",
        params![agent.as_str(), number],
    )?;
    let detail = json!({ "number": number });
    let entity = format!("agent:{agent}");
    audit_log::append(tx, &Principal::House, "wake.fire", &entity, detail)?;
    Ok(())
}

/// Reads the number of the newest wake that fired, by agent.
pub(crate) fn list(rows: &dyn Rows) -> Result<BTreeMap<Slug, u64>> {
    let wakes = rows.all("SELECT agent, number FROM wakes", params![], |c| {
        Ok((c.parse()?, c.get()?))
    })?;
    Ok(wakes.into_iter().collect())
}
