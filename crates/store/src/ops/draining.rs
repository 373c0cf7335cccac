//! Draining: an agent is offered no more work and finishes what it has.

use super::audit_log;
use crate::Result;
use crate::rows::{Query, Rows, params};
use crate::topic::Topic;
use crate::transaction::Tx;
use abbey_model::{Principal, Slug};
use serde_json::json;
use std::collections::BTreeSet;

/// Starts or ends the draining of an agent: a draining agent is offered no new tasks. Does nothing when that is already
/// its state.
pub(crate) fn set(tx: &mut Tx<'_>, agent: &Slug, draining: bool, who: &Principal) -> Result<()> {
    let (changed, action) = if draining {
        let sql = "INSERT INTO draining_agents VALUES (?1, ?2) ON CONFLICT (agent) DO NOTHING";
        (
            tx.execute(sql, params![agent.as_str(), tx.now])?,
            "agent.drain",
        )
    } else {
        let sql = "DELETE FROM draining_agents WHERE agent = ?1";
        (tx.execute(sql, params![agent.as_str()])?, "agent.undrain")
    };
    if changed > 0 {
        audit_log::append(tx, who, action, &format!("agent-{agent}"), json!({}))?;
        // Its next poll looks again: there may be work for it now.
        tx.publish(Topic::Work);
        tx.publish(Topic::Cells);
    }
    Ok(())
}

/// Reads which agents are draining.
pub(crate) fn list(rows: &dyn Rows) -> Result<BTreeSet<Slug>> {
    let sql = "SELECT agent FROM draining_agents";
    let agents = rows.all(sql, params![], |c| c.parse())?;
    Ok(agents.into_iter().collect())
}

/// Whether an agent is draining, so that it is offered no new tasks.
pub(crate) fn is_draining(rows: &dyn Rows, agent: &Slug) -> Result<bool> {
    let sql = "SELECT 1 FROM draining_agents WHERE agent = ?1";
    rows.exists(sql, params![agent.as_str()])
}
