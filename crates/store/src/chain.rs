//! The hash chain of the audit log: the hash of each entry covers the entry before it.
//!
//! An entry = canonical JSON (RFC 8785) of `seq, at, actor, action, entity, detail`; `hash` =
//! SHA-256 of the previous hash (in hexadecimal) and the entry; the first `prev` is 64 zeros.

use abbey_model::Timestamp;
use abbey_support::digest::sha256_hex;
use ed25519_dalek::{Signature, VerifyingKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::ops::ControlFlow;

/// Hash that the first entry has as `prev`.
pub const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Entry of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Number, from 1, without gaps.
    pub seq: u64,
    /// Instant, by the store's clock.
    pub at: Timestamp,
    /// Principal that acted, from authentication.
    pub actor: String,
    /// Action as `noun.verb`.
    pub action: String,
    /// Object of the action: `TASK-12`, `agent-iris`.
    pub entity: String,
    /// Details, with secrets redacted.
    pub detail: Value,
    /// Hash of the entry before.
    pub prev: String,
    /// Hash of this entry.
    pub hash: String,
}

/// Result of verifying the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditVerification {
    /// Whether every entry and checkpoint is correct.
    pub ok: bool,
    /// Number of entries that were verified.
    pub entries: u64,
    /// Hash of the newest entry.
    pub head: String,
    /// Sequence number of the first entry that is wrong.
    pub first_bad: Option<u64>,
    /// Number of signed checkpoints that were verified.
    pub checkpoints: u64,
    /// What is wrong with that entry, for people.
    pub why: Option<String>,
}

/// Serializes a JSON value in its canonical form (RFC 8785), which the hashes of the audit log are computed over.
///
/// # Errors
/// For values that have no canonical form, such as numbers outside the range of a double.
pub fn canonical(value: &Value) -> Result<String, crate::Error> {
    serde_json_canonicalizer::to_string(value).map_err(|e| crate::Error::Row(e.to_string()))
}

/// SHA-256, hexadecimal, of an audit entry: over the hash of the entry before it and all of its fields in canonical
/// JSON.
///
/// # Errors
/// As [`canonical`].
pub fn entry_hash(
    prev: &str,
    seq: u64,
    at: Timestamp,
    actor: &str,
    action: &str,
    entity: &str,
    detail: &Value,
) -> Result<String, crate::Error> {
    let entry = serde_json::json!({
        "seq": seq, "at": at.0, "actor": actor, "action": action, "entity": entity, "detail": detail,
    });
    Ok(sha256_hex(format!("{prev}{}", canonical(&entry)?)))
}

/// Text that the house signs as a checkpoint of the audit log: the sequence number and hash of one entry.
pub(crate) fn checkpoint_text(seq: u64, hash: &str) -> String {
    format!("abbey checkpoint 1\n{seq}\n{hash}\n")
}

/// Verifies audit entries in order, against each other and against signed checkpoints.
pub(crate) struct ChainVerifier {
    key: Option<VerifyingKey>,
    /// Sequence number, hash and signature of each, in order.
    checkpoints: std::iter::Peekable<std::vec::IntoIter<(u64, String, Vec<u8>)>>,
    verdict: AuditVerification,
}

impl ChainVerifier {
    /// Starts verifying an audit log from its first entry against these signed checkpoints.
    pub(crate) fn new(key: Option<VerifyingKey>, checkpoints: Vec<(u64, String, Vec<u8>)>) -> Self {
        ChainVerifier {
            key,
            checkpoints: checkpoints.into_iter().peekable(),
            verdict: AuditVerification {
                ok: true,
                entries: 0,
                head: GENESIS.to_owned(),
                first_bad: None,
                checkpoints: 0,
                why: None,
            },
        }
    }

    fn fail(&mut self, seq: u64, why: String) {
        self.verdict.ok = false;
        self.verdict.first_bad = Some(seq);
        self.verdict.why = Some(why);
    }

    /// Verifies the next entry against the one before it and the checkpoints. Returns `Break` after the first entry
    /// that is wrong.
    pub(crate) fn verify_entry(
        &mut self,
        entry: &AuditEntry,
    ) -> Result<ControlFlow<()>, crate::Error> {
        if let Err((seq, why)) = self.next(entry)? {
            self.fail(seq, why);
            return Ok(ControlFlow::Break(()));
        }
        Ok(ControlFlow::Continue(()))
    }

    fn next(&mut self, entry: &AuditEntry) -> Result<Result<(), (u64, String)>, crate::Error> {
        let wrong = |seq, why: &str| Ok(Err((seq, why.to_owned())));
        let expected = self.verdict.entries + 1;
        if entry.seq != expected {
            return wrong(expected, &format!("entry {expected} is missing"));
        }
        if entry.prev != self.verdict.head {
            return wrong(
                entry.seq,
                "its `prev` hash is not the hash of the previous entry",
            );
        }
        let hash = entry_hash(
            &entry.prev,
            entry.seq,
            entry.at,
            &entry.actor,
            &entry.action,
            &entry.entity,
            &entry.detail,
        )?;
        if hash != entry.hash {
            return wrong(entry.seq, "its content does not match its hash");
        }
        while let Some((seq, hash, signature)) =
            self.checkpoints.next_if(|(seq, ..)| *seq == entry.seq)
        {
            let signed = self.key.is_some_and(|key| {
                Signature::from_slice(&signature).is_ok_and(|s| {
                    key.verify_strict(checkpoint_text(seq, &hash).as_bytes(), &s)
                        .is_ok()
                })
            });
            if !signed || hash != entry.hash {
                return wrong(
                    entry.seq,
                    "the signed checkpoint for this entry does not match its hash or the signing key",
                );
            }
            self.verdict.checkpoints += 1;
        }
        self.verdict.entries = entry.seq;
        self.verdict.head.clone_from(&entry.hash);
        Ok(Ok(()))
    }

    /// Result of the verification after the last entry. A checkpoint beyond it, or a known newer head, means that
    /// entries at the end were removed.
    pub(crate) fn finish(mut self, known_head: u64) -> AuditVerification {
        if !self.verdict.ok {
            return self.verdict;
        }
        let known = (known_head > self.verdict.entries).then_some(known_head);
        let cut = self.checkpoints.peek().map(|(seq, ..)| *seq).or(known);
        if let Some(seq) = cut {
            let at = self.verdict.entries + 1;
            self.fail(
                at,
                format!("the chain was cut: entry {seq} is known to have existed"),
            );
        }
        self.verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn chain(n: u64) -> Vec<AuditEntry> {
        let mut prev = GENESIS.to_owned();
        (1..=n)
            .map(|seq| {
                let detail = json!({ "b": seq, "a": "ž" });
                let hash =
                    entry_hash(&prev, seq, Timestamp(5), "operator", "x.y", "e", &detail).unwrap();
                let entry = AuditEntry {
                    seq,
                    at: Timestamp(5),
                    actor: "operator".into(),
                    action: "x.y".into(),
                    entity: "e".into(),
                    detail,
                    prev: prev.clone(),
                    hash: hash.clone(),
                };
                prev = hash;
                entry
            })
            .collect()
    }

    fn check(entries: Vec<AuditEntry>, head: u64) -> Option<u64> {
        let mut check = ChainVerifier::new(None, Vec::new());
        for entry in &entries {
            if check.verify_entry(entry).unwrap().is_break() {
                break;
            }
        }
        check.finish(head).first_bad
    }

    #[test]
    fn change_removal_reorder_and_a_cut_are_found() {
        assert_eq!(check(chain(9), 9), None);
        let mut changed = chain(9);
        changed[4].actor = "agent:x".into();
        assert_eq!(check(changed, 9), Some(5));
        let mut removed = chain(9);
        removed.remove(3);
        assert_eq!(check(removed, 9), Some(4));
        let mut swapped = chain(9);
        swapped.swap(2, 3);
        assert_eq!(check(swapped, 9), Some(3));
        let mut cut = chain(9);
        cut.truncate(7);
        assert_eq!(check(cut, 9), Some(8));
    }
}
