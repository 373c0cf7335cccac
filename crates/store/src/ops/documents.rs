//! Shared documents: a row for each version of a text, a row for each entry of a log (S3-26).

use super::audit_log;
use crate::rows::{Columns, Query, Rows, params};
use crate::topic::Topic;
use crate::transaction::Tx;
use crate::{DocumentRow, Error, NewDocumentVersion, Result};
use abbey_model::Slug;
use serde_json::json;

/// Versions of a text that are kept.
const VERSIONS_MAX: u64 = 100;

const SELECT: &str = "SELECT name, version, at, author, text FROM documents";

fn read_document(columns: &mut Columns<'_>) -> Result<DocumentRow> {
    Ok(DocumentRow {
        name: columns.parse()?,
        version: columns.get()?,
        at: columns.get()?,
        author: columns.parse()?,
        text: columns.get()?,
    })
}

/// Reads the newest version (or log entry) of every shared document.
pub(crate) fn list(rows: &dyn Rows) -> Result<Vec<DocumentRow>> {
    rows.all(
        &format!(
            "{SELECT} AS d WHERE version = (SELECT max(version) FROM documents WHERE name = d.name) ORDER BY name"
        ),
        params![],
        read_document,
    )
}

/// Reads the versions (or log entries) of one document up to number `through`, newest first, at most `limit`.
pub(crate) fn history(
    rows: &dyn Rows,
    name: &Slug,
    through: u64,
    limit: u32,
) -> Result<Vec<DocumentRow>> {
    rows.all(
        &format!("{SELECT} WHERE name = ?1 AND version <= ?2 ORDER BY version DESC LIMIT ?3"),
        params![name.as_str(), through, limit],
        read_document,
    )
}

/// Writes a new version of a text document, or appends an entry to a log document. A repeated idempotency key returns
/// the row that was written first.
///
/// # Errors
/// [`Error::Stale`] when the writer saw an older version, [`Error::KeyReused`] when the key came with another text.
pub(crate) fn write(tx: &mut Tx<'_>, new: NewDocumentVersion) -> Result<DocumentRow> {
    let name = new.name.as_str();
    let text = tx.redact(&new.text);
    if let Some(key) = &new.key {
        let known = tx.rows.first(
            &format!("{SELECT} WHERE name = ?1 AND key = ?2"),
            params![name, key],
            read_document,
        )?;
        match known {
            Some(known) if known.text == text => return Ok(known),
            Some(_) => return Err(Error::KeyReused(key.clone())),
            None => {}
        }
    }
    let current: u64 = tx.rows.aggregate(
        "SELECT coalesce(max(version), 0) FROM documents WHERE name = ?1",
        params![name],
    )?;
    if let Some(seen) = new.based_on
        && seen != current
    {
        return Err(Error::Stale {
            what: format!("document `{name}`"),
            seen,
            current,
        });
    }
    let written = DocumentRow {
        name: new.name.clone(),
        version: current + 1,
        at: tx.now,
        author: new.author.clone(),
        text,
    };
    tx.execute(
        "INSERT INTO documents VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            name,
            written.version,
            written.at,
            written.author.to_string(),
            &written.text,
            &new.key
        ],
    )?;
    let action = match new.based_on {
        Some(_) => {
            let oldest = written.version.saturating_sub(VERSIONS_MAX);
            tx.execute(
                "DELETE FROM documents WHERE name = ?1 AND version <= ?2",
                params![name, oldest],
            )?;
            "document.written"
        }
        None => "document.appended",
    };
    let digest = abbey_support::digest::sha256_hex(&written.text);
    let detail =
        json!({ "version": written.version, "bytes": written.text.len(), "digest": digest });
    let entity = format!("document:{name}");
    audit_log::append(tx, &new.author, action, &entity, detail)?;
    tx.publish(Topic::Documents);
    Ok(written)
}
