//! The audit log: a hash chain of entries, signed every so often.

use crate::chain::{
    self, AuditEntry, AuditVerification, KeyChange, KnownCheckpoints, SignedHead, checkpoint_text,
    entry_hash, key_change_text,
};
use crate::rows::{Columns, Query, Rows, params};
use crate::topic::Topic;
use crate::transaction::Tx;
use crate::{NewAuditEntry, Result};
use abbey_model::{Principal, Redactor};
use abbey_support::digest::hex;
use ed25519_dalek::{Signer, SigningKey};
use serde_json::Value;

/// Entries between two signatures.
const CHECKPOINT_EVERY: u64 = 1000;

const SELECT: &str = "SELECT seq, at, actor, action, entity, detail, prev, hash FROM activity";

/// Appends an entry to the audit log in the transaction of the change that it records, with secrets redacted. Returns
/// its sequence number.
pub(crate) fn append(
    tx: &mut Tx<'_>,
    actor: &Principal,
    action: &str,
    entity: &str,
    mut detail: Value,
) -> Result<u64> {
    redact(&mut detail, &tx.redactor());
    let seq = tx.head.0 + 1;
    let actor = actor.to_string();
    let hash = entry_hash(&tx.head.1, seq, tx.now, &actor, action, entity, &detail)?;
    tx.execute(
        "INSERT INTO activity (seq, at, actor, action, entity, detail, prev, hash) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![seq, tx.now, actor, action, entity, detail.to_string(), &tx.head.1, &hash],
    )?;
    tx.head = (seq, hash);
    tx.publish(Topic::Audit);
    if seq.is_multiple_of(CHECKPOINT_EVERY) {
        sign_head(tx)?;
    }
    Ok(seq)
}

/// Appends an entry that the caller composed. Returns its sequence number.
pub(crate) fn append_entry(tx: &mut Tx<'_>, note: NewAuditEntry) -> Result<u64> {
    append(tx, &note.actor, &note.action, &note.entity, note.detail)
}

/// Signs the newest audit entry if it is not signed yet. Returns its sequence number, or none when there was nothing to
/// sign.
pub(crate) fn checkpoint(tx: &mut Tx<'_>) -> Result<Option<u64>> {
    let signed: Option<u64> = tx
        .rows
        .aggregate("SELECT max(seq) FROM checkpoints", params![])?;
    if tx.head.0 == 0 || signed == Some(tx.head.0) {
        return Ok(None);
    }
    sign_head(tx)?;
    Ok(Some(tx.head.0))
}

fn sign_head(tx: &Tx<'_>) -> Result<()> {
    let (seq, hash) = &tx.head;
    let text = checkpoint_text(*seq, hash);
    let signature = tx.signing_key.sign(text.as_bytes()).to_bytes();
    tx.execute(
        "INSERT INTO checkpoints VALUES (?1, ?2, ?3, ?4) ON CONFLICT (seq) DO NOTHING",
        params![*seq, hash, signature.as_slice(), tx.now],
    )?;
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

fn read_entry(columns: &mut Columns<'_>) -> Result<AuditEntry> {
    Ok(AuditEntry {
        seq: columns.get()?,
        at: columns.get()?,
        actor: columns.get()?,
        action: columns.get()?,
        entity: columns.get()?,
        // A damaged text reads as itself, so that the check of its hash fails and names the entry.
        detail: {
            let detail: String = columns.get()?;
            serde_json::from_str(&detail).unwrap_or(Value::String(detail))
        },
        prev: columns.get()?,
        hash: columns.get()?,
    })
}

/// Reads at most `limit` audit entries with a sequence number above `after`, oldest first.
pub(crate) fn list(rows: &dyn Rows, after: u64, limit: u32) -> Result<Vec<AuditEntry>> {
    rows.all(
        &format!("{SELECT} WHERE seq > ?1 ORDER BY seq LIMIT ?2"),
        params![after, limit],
        read_entry,
    )
}

/// Entries about what services opened for agents, closed and dropped, oldest first.
pub(crate) fn service_access(rows: &dyn Rows) -> Result<Vec<AuditEntry>> {
    rows.all(
        &format!(
            "{SELECT} WHERE action IN ('service.open', 'service.close', 'service.drop') ORDER BY seq"
        ),
        params![],
        read_entry,
    )
}

/// Verifies the whole audit log: the hash of every entry against the one before it, the signed checkpoints, and what is
/// known from outside the database.
pub(crate) fn verify(rows: &dyn Rows, known: KnownCheckpoints) -> Result<AuditVerification> {
    let mut check = chain::ChainVerifier::new(first_key(rows)?, signed_heads(rows, 0)?, known);
    rows.visit(&format!("{SELECT} ORDER BY seq"), params![], &mut |row| {
        check.verify_entry(&read_entry(&mut Columns::of(row))?)
    })?;
    Ok(check.finish())
}

/// Checkpoints of entries with a sequence number above `after`, oldest first.
pub(crate) fn signed_heads(rows: &dyn Rows, after: u64) -> Result<Vec<SignedHead>> {
    let first = first_key(rows)?.unwrap_or_default();
    let changes = key_changes(rows)?;
    let key_at = |seq: u64| {
        let newest = changes.iter().rev().find(|(from, _)| *from <= seq);
        newest.map_or_else(|| first.clone(), |(_, key)| key.clone())
    };
    rows.all(
        "SELECT seq, hash, signature, at FROM checkpoints WHERE seq > ?1 ORDER BY seq",
        params![after],
        |c| {
            let seq = c.get()?;
            Ok(SignedHead {
                seq,
                hash: c.get()?,
                signature: hex(c.get::<Vec<u8>>()?),
                at: c.get()?,
                key: key_at(seq),
            })
        },
    )
}

/// Entries that put another signing key in force, oldest first: their numbers and the key. What is no record of that is
/// left to the verification.
fn key_changes(rows: &dyn Rows) -> Result<Vec<(u64, String)>> {
    let changes = rows.all(
        "SELECT seq, detail FROM activity WHERE action IN ('audit.restored', 'audit.key_rotated') ORDER BY seq",
        params![],
        |c| Ok((c.get::<u64>()?, c.get::<String>()?)),
    )?;
    let parsed = changes.into_iter().filter_map(|(seq, detail)| {
        let change: KeyChange = serde_json::from_str(&detail).ok()?;
        Some((seq, change.key))
    });
    Ok(parsed.collect())
}

/// Public key that signed first, hexadecimal.
pub(crate) fn first_key(rows: &dyn Rows) -> Result<Option<String>> {
    rows.value("SELECT value FROM meta WHERE key = 'public_key'", params![])
}

/// Public key that the log states last, hexadecimal: of the newest restore or rotation, or of the beginning.
pub(crate) fn stated_key(rows: &dyn Rows) -> Result<Option<String>> {
    match key_changes(rows)?.pop() {
        Some((_, key)) => Ok(Some(key)),
        None => first_key(rows),
    }
}

/// Signs from here on with `next`, and logs that in an entry which the key before confirms. Returns the entry's number.
pub(crate) fn rotate_key(tx: &mut Tx<'_>, actor: &Principal, next: [u8; 32]) -> Result<u64> {
    // Everything before is signed by the key that signed then.
    checkpoint(tx)?;
    let next = SigningKey::from_bytes(&next);
    let key = hex(next.verifying_key().as_bytes());
    let previous = std::mem::replace(&mut tx.signing_key, next);
    let (seq, hash) = &tx.head;
    let text = key_change_text(*seq, hash, &key);
    let change = KeyChange {
        previous_key: hex(previous.verifying_key().as_bytes()),
        key,
        confirmed: Some(hex(previous.sign(text.as_bytes()).to_bytes())),
    };
    let detail = serde_json::to_value(change)?;
    append(tx, actor, chain::KEY_ROTATED, "house", detail)
}

/// Logs that this state was restored from a backup, and which key signs from here on: that of the store. `previous` is
/// the signing key of the backup, which confirms the change where it is at hand.
pub(crate) fn record_restore(
    tx: &mut Tx<'_>,
    previous: Option<[u8; 32]>,
    state_hash: &str,
) -> Result<u64> {
    let key = hex(tx.signing_key.verifying_key().as_bytes());
    let previous_key = stated_key(tx.rows)?.unwrap_or_else(|| key.clone());
    let (seq, hash) = &tx.head;
    let previous = previous.map(|secret| SigningKey::from_bytes(&secret));
    let confirmed = previous
        .filter(|p| hex(p.verifying_key().as_bytes()) == previous_key)
        .map(|p| {
            hex(p
                .sign(key_change_text(*seq, hash, &key).as_bytes())
                .to_bytes())
        });
    let change = KeyChange {
        previous_key,
        key,
        confirmed,
    };
    let mut detail = serde_json::to_value(change)?;
    detail["state_hash"] = state_hash.into();
    append(tx, &Principal::Operator, chain::RESTORED, "house", detail)
}
