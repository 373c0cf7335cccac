//! Generations: the plans that were made current, with the allocations of the newest.

use super::{audit_log, first_files, hooks, ledger, renames};
use crate::allocation::Allocation;
use crate::rows::{Columns, Query, Rows, params};
use crate::topic::Topic;
use crate::transaction::Tx;
use crate::{Error, GenerationRow, NewGeneration, Result};
use abbey_model::{Slug, Timestamp};
use serde_json::{Map, Value, json};
use std::ops::ControlFlow;

/// Number of the format that the state file has now.
pub(crate) fn format(rows: &dyn Rows) -> Result<i64> {
    rows.aggregate("SELECT user_version FROM pragma_user_version", params![])
}

/// Stores a plan as the current generation, with its allocations, renamed agents, sources of first files and budget limits.
/// Returns its number.
///
/// # Errors
/// [`Error::Stale`] when the current generation is not the one that the plan was made against.
pub(crate) fn commit(tx: &mut Tx<'_>, commit: &NewGeneration) -> Result<u64> {
    let current: u64 = tx.rows.aggregate(
        "SELECT coalesce(max(generation), 0) FROM generations",
        params![],
    )?;
    if current != commit.based_on {
        return Err(Error::Stale {
            what: "the plan".to_owned(),
            seen: commit.based_on,
            current,
        });
    }
    tx.execute(
        "INSERT INTO generations VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            commit.generation,
            &commit.manifest,
            &commit.base_dir,
            commit.applied.to_string(),
            commit.charters.to_string(),
            commit.newest_uid,
            tx.now
        ],
    )?;
    tx.execute("DELETE FROM allocations", params![])?;
    for row in &commit.allocations {
        tx.execute(
            "INSERT INTO allocations VALUES (?1, ?2, ?3, ?4)",
            params![&row.kind, &row.value, &row.owner, &row.purpose],
        )?;
    }
    for (old, new) in &commit.renamed {
        renames::rename(tx, old, new, &commit.actor)?;
    }
    first_files::commit(tx, commit)?;
    hooks::commit(tx, &commit.hooks)?;
    ledger::set_limits(tx, &commit.budgets, &commit.timezone)?;
    let detail = json!({ "generation": commit.generation, "steps": commit.steps });
    audit_log::append(tx, &commit.actor, "plan.commit", "house", detail)?;
    tx.publish(Topic::Generations);
    Ok(commit.generation)
}

/// Finds the newest generation whose manifest had an agent, of those up to an instant. Returns its number, the manifest, and the agent's charter.
pub(crate) fn last_with_agent(
    rows: &dyn Rows,
    agent: &Slug,
    until: Option<Timestamp>,
) -> Result<Option<(u64, String, String)>> {
    let mut found = None;
    let until = until.unwrap_or(Timestamp(i64::MAX));
    let sql = "SELECT charters, generation, manifest FROM generations WHERE at <= ?1 ORDER BY generation DESC";
    rows.visit(sql, params![until], &mut |row| {
        let mut columns = Columns::of(row);
        let charters: Map<String, Value> = columns.json()?;
        match charters.get(agent.as_str()).and_then(Value::as_str) {
            Some(charter) => {
                found = Some((columns.get()?, columns.get()?, charter.to_owned()));
                Ok(ControlFlow::Break(()))
            }
            None => Ok(ControlFlow::Continue(())),
        }
    })?;
    Ok(found)
}

/// Reads the current generation; none before the first plan was applied.
pub(crate) fn current(rows: &dyn Rows) -> Result<Option<GenerationRow>> {
    let found = rows.first(
        "SELECT generation, manifest, base_dir, applied, charters, newest_uid, at FROM generations ORDER BY generation DESC LIMIT 1",
        params![],
        |c| {
            Ok(GenerationRow {
                generation: c.get()?,
                manifest: c.get()?,
                base_dir: c.get()?,
                applied: c.json()?,
                charters: c.json()?,
                newest_uid: c.get()?,
                at: c.get()?,
                allocations: Vec::new(),
            })
        },
    )?;
    let Some(mut row) = found else {
        return Ok(None);
    };
    row.allocations = rows.all(
        "SELECT kind, value, owner, purpose FROM allocations ORDER BY kind, value",
        params![],
        |c| {
            Ok(Allocation {
                kind: c.get()?,
                value: c.get()?,
                owner: c.get()?,
                purpose: c.get()?,
            })
        },
    )?;
    Ok(Some(row))
}
