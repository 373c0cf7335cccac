//! Cells: what the operator wants of each, and its supervision so far.

use super::audit_log;
use crate::rows::{Query, Rows, params};
use crate::topic::Topic;
use crate::transaction::Tx;
use crate::{CellChange, CellRow, Result};
use abbey_engine::supervision::History;
use abbey_model::{CellName, DesiredState, Generation};
use serde_json::json;
use std::collections::BTreeMap;

/// Stores the desired state of a cell, its supervision history, or both. A cell without a row gets one with the default
/// state: its history may be written before a plan that a crash cut off is carried out, and after it was removed.
pub(crate) fn set(tx: &mut Tx<'_>, cell: &CellName, change: CellChange) -> Result<()> {
    let name = cell.to_string();
    let history = serde_json::to_string(&History::default())?;
    let wanted = change
        .desired
        .as_ref()
        .map_or(DesiredState::default(), |(d, _)| *d);
    let inserted = tx.execute(
        "INSERT INTO cells VALUES (?1, ?2, ?3, ?4) ON CONFLICT (name) DO NOTHING",
        params![&name, wanted.number(), history, tx.now],
    )?;
    if let Some((desired, who)) = change.desired {
        let updated = tx.execute(
            "UPDATE cells SET wanted_up = ?2 WHERE name = ?1 AND wanted_up <> ?2",
            params![&name, desired.number()],
        )?;
        if let (1, Some(who)) = (inserted + updated, who) {
            let action = format!("cell.want_{}", desired.name());
            audit_log::append(tx, &who, &action, &name, json!({}))?;
        }
        if updated > 0 {
            tx.publish(Topic::Cells);
        }
    }
    if inserted > 0 {
        tx.publish(Topic::Cells);
    }
    // Supervision is written by the reconciler alone, so no subscriber is woken.
    if let Some((history, note)) = change.history {
        tx.execute(
            "UPDATE cells SET history = ?2 WHERE name = ?1",
            params![&name, serde_json::to_string(&history)?],
        )?;
        if let Some(note) = note {
            audit_log::append_entry(tx, note)?;
        }
    }
    Ok(())
}

/// Deletes the row of a cell, and its agent's wakes and draining.
pub(crate) fn remove(tx: &mut Tx<'_>, cell: &CellName) -> Result<()> {
    tx.execute(
        "DELETE FROM cells WHERE name = ?1",
        params![cell.to_string()],
    )?;
    if let CellName::Agent(slug) = cell {
        for sql in [
            "DELETE FROM wakes WHERE agent = ?1",
            "DELETE FROM draining_agents WHERE agent = ?1",
        ] {
            tx.execute(sql, params![slug.as_str()])?;
        }
    }
    tx.publish(Topic::Cells);
    Ok(())
}

/// Reads the number of the newest boot of a cell; 0 if it never had one.
pub(crate) fn newest_boot(rows: &dyn Rows, cell: &CellName) -> Result<Generation> {
    let history = rows.first(
        "SELECT history FROM cells WHERE name = ?1",
        params![cell.to_string()],
        |c| c.json::<History>(),
    )?;
    Ok(history.map_or(Generation(0), |h| h.generation))
}

/// Reads every cell with its desired state and supervision history.
pub(crate) fn list(rows: &dyn Rows) -> Result<BTreeMap<CellName, CellRow>> {
    let cells = rows.all(
        "SELECT name, wanted_up, history, since FROM cells",
        params![],
        |c| {
            Ok((
                c.parse()?,
                CellRow {
                    desired: DesiredState::from_number(c.get()?),
                    history: c.json()?,
                    since: c.get()?,
                },
            ))
        },
    )?;
    Ok(cells.into_iter().collect())
}
