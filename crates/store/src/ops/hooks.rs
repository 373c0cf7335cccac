//! Hooks: since when the house has a hook of a name, so that a new one does not meet what came by an earlier one.

use crate::Result;
use crate::rows::{Query, Rows, params};
use crate::transaction::Tx;
use abbey_model::{Slug, Timestamp};
use std::collections::BTreeMap;

/// Key in the table `meta` of the instants since which each hook is in the manifest, as JSON by name.
const SINCE: &str = "hooks_since";

fn read(rows: &dyn Rows) -> Result<Option<BTreeMap<Slug, Timestamp>>> {
    rows.first(
        "SELECT value FROM meta WHERE key = ?1",
        params![SINCE],
        |c| c.json(),
    )
}

/// Stores which hooks the manifest has: those that were there keep their start, others begin now. Hooks of a state in which
/// nothing is stored yet count as there from the beginning.
pub(crate) fn commit(tx: &mut Tx<'_>, hooks: &[Slug]) -> Result<()> {
    let known = read(tx.rows)?;
    let now = tx.now;
    let since = |hook: &Slug| match &known {
        Some(known) => known.get(hook).copied().unwrap_or(now),
        None => Timestamp(0),
    };
    let next: BTreeMap<&Slug, Timestamp> = hooks.iter().map(|h| (h, since(h))).collect();
    tx.execute(
        "INSERT INTO meta VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2",
        params![SINCE, serde_json::to_string(&next)?],
    )?;
    Ok(())
}

/// Instant since which the house has a hook of this name without a break; the beginning of time for one that is older than
/// these records.
pub(crate) fn since(rows: &dyn Rows, hook: &Slug) -> Result<Timestamp> {
    let known = read(rows)?.and_then(|known| known.get(hook).copied());
    Ok(known.unwrap_or(Timestamp(0)))
}
