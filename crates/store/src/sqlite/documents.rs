//! Shared documents as rows: a row a version of a text, a row an entry of a log (S3-26).

use super::writer::Tx;
use super::{activity, parse, tasks};
use crate::{DocumentRow, Error, Result, WriteDocument};
use abbey_model::{Slug, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};
use serde_json::json;

/// Versions of a text that are kept.
const VERSIONS_MAX: u64 = 100;

const SELECT: &str = "SELECT name, version, at, author, text FROM documents";

fn row(r: &rusqlite::Row<'_>) -> rusqlite::Result<Result<DocumentRow>> {
    let texts: [String; 3] = [r.get(0)?, r.get(3)?, r.get(4)?];
    let (version, at) = (r.get(1)?, Timestamp(r.get(2)?));
    let [name, author, text] = texts;
    Ok((|| {
        Ok(DocumentRow {
            name: parse(&name)?,
            version,
            at,
            author: parse(&author)?,
            text,
        })
    })())
}

/// The newest row of every document.
pub(super) fn list(db: &Connection) -> Result<Vec<DocumentRow>> {
    let mut statement = db.prepare_cached(&format!(
        "{SELECT} AS d WHERE version = (SELECT max(version) FROM documents WHERE name = d.name) ORDER BY name"
    ))?;
    let rows = statement.query_map([], row)?;
    rows.map(|r| r?).collect()
}

/// The newest rows of one document up to a version, newest first.
pub(super) fn load(
    db: &Connection,
    name: &Slug,
    through: u64,
    limit: u32,
) -> Result<Vec<DocumentRow>> {
    let mut statement = db.prepare_cached(&format!(
        "{SELECT} WHERE name = ?1 AND version <= ?2 ORDER BY version DESC LIMIT ?3"
    ))?;
    let through = i64::try_from(through).unwrap_or(i64::MAX);
    let rows = statement.query_map(params![name.as_str(), through, limit], row)?;
    rows.map(|r| r?).collect()
}

pub(super) fn write(tx: &mut Tx<'_>, new: WriteDocument) -> Result<DocumentRow> {
    let name = new.name.as_str();
    let text = tasks::clean(tx, &new.text);
    if let Some(key) = &new.key {
        let known = tx
            .db
            .prepare_cached(&format!("{SELECT} WHERE name = ?1 AND key = ?2"))?
            .query_row(params![name, key], row)
            .optional()?
            .transpose()?;
        match known {
            Some(known) if known.text == text => return Ok(known),
            Some(_) => return Err(Error::KeyReused(key.clone())),
            None => {}
        }
    }
    let current: u64 = tx
        .db
        .prepare_cached("SELECT coalesce(max(version), 0) FROM documents WHERE name = ?1")?
        .query_row([name], |r| r.get(0))?;
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
    tx.db
        .prepare_cached("INSERT INTO documents VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
        .execute(params![
            name,
            written.version,
            written.at.0,
            written.author.to_string(),
            written.text,
            new.key
        ])?;
    let action = match new.based_on {
        Some(_) => {
            tx.db
                .prepare_cached("DELETE FROM documents WHERE name = ?1 AND version <= ?2")?
                .execute(params![name, written.version.saturating_sub(VERSIONS_MAX)])?;
            "document.written"
        }
        None => "document.appended",
    };
    let detail = json!({ "version": written.version, "bytes": written.text.len(), "digest": digest(&written.text) });
    let entity = format!("document:{name}");
    activity::append(tx, &new.author, action, &entity, detail)?;
    Ok(written)
}

fn digest(text: &str) -> String {
    abbey_support::digest::sha256_hex(text)
}
