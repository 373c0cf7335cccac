//! The chain in its table.

use super::writer::Tx;
use crate::chain::{self, Entry, Verdict, checkpoint_text, entry_hash};
use crate::{Error, Result};
use abbey_model::{Principal, Redactor, Timestamp};
use ed25519_dalek::{Signer, VerifyingKey};
use rusqlite::{Connection, OptionalExtension, params};
use serde_json::Value;
use std::sync::PoisonError;

/// Entries between two signatures.
const CHECKPOINT_EVERY: u64 = 1000;

/// Appends an entry, after redaction, in the transaction of the change that it tells of.
pub(super) fn append(
    tx: &mut Tx<'_>,
    actor: &Principal,
    action: &str,
    entity: &str,
    mut detail: Value,
) -> Result<u64> {
    {
        let redactor = tx.redactor.read().unwrap_or_else(PoisonError::into_inner);
        redact(&mut detail, &redactor);
    }
    let seq = tx.head.0 + 1;
    let actor = actor.to_string();
    let hash = entry_hash(&tx.head.1, seq, tx.now, &actor, action, entity, &detail)?;
    tx.db
        .prepare_cached("INSERT INTO activity (seq, at, actor, action, entity, detail, prev, hash) VALUES (?1,?2,?3,?4,?5,?6,?7,?8)")?
        .execute(params![seq, tx.now.0, actor, action, entity, detail.to_string(), tx.head.1, hash])?;
    tx.head = (seq, hash);
    if seq.is_multiple_of(CHECKPOINT_EVERY) {
        sign(tx)?;
    }
    Ok(seq)
}

/// Signs the head if it moved since the last signature.
pub(super) fn checkpoint(tx: &mut Tx<'_>) -> Result<Option<u64>> {
    let signed: Option<u64> = tx
        .db
        .query_row("SELECT max(seq) FROM checkpoints", [], |r| r.get(0))?;
    if tx.head.0 == 0 || signed == Some(tx.head.0) {
        return Ok(None);
    }
    sign(tx)?;
    Ok(Some(tx.head.0))
}

fn sign(tx: &Tx<'_>) -> Result<()> {
    let signature = tx
        .key
        .sign(checkpoint_text(tx.head.0, &tx.head.1).as_bytes());
    tx.db
        .prepare_cached("INSERT OR IGNORE INTO checkpoints VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![
            tx.head.0,
            tx.head.1,
            signature.to_bytes().as_slice(),
            tx.now.0
        ])?;
    Ok(())
}

fn redact(value: &mut Value, redactor: &Redactor) {
    match value {
        Value::String(text) => {
            if let std::borrow::Cow::Owned(clean) = redactor.clean(text) {
                *text = clean;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|v| redact(v, redactor)),
        Value::Object(map) => map.values_mut().for_each(|v| redact(v, redactor)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn entry(row: &rusqlite::Row<'_>) -> rusqlite::Result<Entry> {
    let detail: String = row.get(5)?;
    Ok(Entry {
        seq: row.get(0)?,
        at: Timestamp(row.get(1)?),
        actor: row.get(2)?,
        action: row.get(3)?,
        entity: row.get(4)?,
        // A damaged text reads as itself, so that the check of its hash fails and names it.
        detail: serde_json::from_str(&detail).unwrap_or(Value::String(detail)),
        prev: row.get(6)?,
        hash: row.get(7)?,
    })
}

const SELECT: &str = "SELECT seq, at, actor, action, entity, detail, prev, hash FROM activity";

pub(super) fn list(db: &Connection, after: u64, limit: u32) -> Result<Vec<Entry>> {
    let mut statement =
        db.prepare_cached(&format!("{SELECT} WHERE seq > ?1 ORDER BY seq LIMIT ?2"))?;
    let rows = statement.query_map(params![after, limit], entry)?;
    rows.map(|r| r.map_err(Error::from)).collect()
}

pub(super) fn verify(db: &Connection) -> Result<Verdict> {
    let public: Option<String> = db
        .query_row("SELECT value FROM meta WHERE key = 'public_key'", [], |r| {
            r.get(0)
        })
        .optional()?;
    let key = public.and_then(|hex| {
        let byte = |i: usize| u8::from_str_radix(hex.get(2 * i..2 * i + 2)?, 16).ok();
        let bytes: Vec<u8> = (0..32).map_while(byte).collect();
        VerifyingKey::from_bytes(&bytes.try_into().ok()?).ok()
    });
    let mut marks = db.prepare("SELECT seq, hash, signature FROM checkpoints ORDER BY seq")?;
    let marks: Vec<(u64, String, Vec<u8>)> = marks
        .query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let mut statement = db.prepare(&format!("{SELECT} ORDER BY seq"))?;
    let rows = statement
        .query_map([], entry)?
        .map(|r| r.map_err(Error::from));
    chain::verify(rows, 0, key.as_ref(), &marks)
}
