//! The journal of hostd, as far as it is part of the audit log.

use super::audit_log;
use crate::rows::{Query, Rows, params};
use crate::transaction::Tx;
use crate::{NewAuditEntry, Result};

/// Number of bytes at the start of hostd's journal file that are in the audit log already.
pub(crate) fn offset(rows: &dyn Rows) -> Result<u64> {
    let found: Option<u64> = rows.value(
        "SELECT CAST(value AS BIGINT) FROM meta WHERE key = 'journal'",
        params![],
    )?;
    Ok(found.unwrap_or(0))
}

/// Appends the lines of hostd's journal from byte `from` to byte `to` to the audit log. Returns false, and appends
/// nothing, when another caller imported them first.
pub(crate) fn import(
    tx: &mut Tx<'_>,
    from: u64,
    to: u64,
    notes: Vec<NewAuditEntry>,
) -> Result<bool> {
    if offset(tx.rows)? != from {
        return Ok(false);
    }
    tx.execute(
        "INSERT INTO meta VALUES ('journal', ?1) ON CONFLICT (key) DO UPDATE SET value = ?1",
        params![to.to_string()],
    )?;
    for note in notes {
        audit_log::append_entry(tx, note)?;
    }
    Ok(true)
}
