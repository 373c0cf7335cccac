//! First files of new agents: which plan asked for them is committed with it, so a plan that is refused leaves none, and one
//! that is interrupted gets all.

use super::audit_log;
use crate::rows::{Query, Rows, params};
use crate::transaction::Tx;
use crate::{NewGeneration, Result};
use abbey_model::{CellName, FirstFiles, Slug};
use serde_json::json;

/// Records whose first files a plan brings. Those of agents that are not in it, by its charters, are forgotten.
pub(crate) fn commit(tx: &mut Tx<'_>, commit: &NewGeneration) -> Result<()> {
    for (agent, _) in list(tx.rows)? {
        if commit.charters.get(agent.as_str()).is_none() {
            finish(tx, &agent)?;
        }
    }
    for (agent, source) in &commit.first_files {
        tx.execute(
            "INSERT INTO first_files VALUES (?1, ?2) ON CONFLICT (agent) DO UPDATE SET source = excluded.source",
            params![agent.as_str(), source.to_string()],
        )?;
        let action = match source {
            FirstFiles::Template(_) => "agent.fill",
            FirstFiles::Archive(_) => "agent.restore",
            FirstFiles::Agent(_) => "agent.clone",
        };
        let entity = CellName::Agent(agent.clone()).to_string();
        let detail = json!({ "from": source.to_string() });
        audit_log::append(tx, &commit.actor, action, &entity, detail)?;
    }
    Ok(())
}

/// Reads the agents that have not got their first files yet, with the source of those.
pub(crate) fn list(rows: &dyn Rows) -> Result<Vec<(Slug, FirstFiles)>> {
    let sql = "SELECT agent, source FROM first_files ORDER BY agent";
    rows.all(sql, params![], |c| Ok((c.parse()?, c.parse()?)))
}

/// Records that an agent has its first files.
pub(crate) fn finish(tx: &mut Tx<'_>, agent: &Slug) -> Result<()> {
    let sql = "DELETE FROM first_files WHERE agent = ?1";
    tx.execute(sql, params![agent.as_str()])?;
    Ok(())
}
