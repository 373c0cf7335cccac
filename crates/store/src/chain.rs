//! The activity chain: each entry hashes the one before it.
//!
//! AuditEntry = canonical JSON (RFC 8785) of `seq, at, actor, action, entity, detail`; `hash` =
//! SHA-256 of the previous hash (in hexadecimal) and the entry; the first `prev` is 64 zeros.

use abbey_model::Timestamp;
use abbey_support::digest::sha256_hex;
use ed25519_dalek::{Signature, VerifyingKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::ops::ControlFlow;

/// `prev` of the first entry.
pub const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Number, from 1, without gaps.
    pub seq: u64,
    /// When, by the store's clock.
    pub at: Timestamp,
    /// Who, from authentication.
    pub actor: String,
    /// What was done, `noun.verb`.
    pub action: String,
    /// To what.
    pub entity: String,
    /// Details, redacted.
    pub detail: Value,
    /// Hash of the entry before.
    pub prev: String,
    /// Hash of this one.
    pub hash: String,
}

/// Outcome of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditVerification {
    /// Whether everything fits.
    pub ok: bool,
    /// Entries checked.
    pub entries: u64,
    /// Hash of the newest.
    pub head: String,
    /// First entry that does not fit.
    pub first_bad: Option<u64>,
    /// Signed checkpoints checked.
    pub checkpoints: u64,
    /// What is wrong with it, for people.
    pub why: Option<String>,
}

/// Canonical JSON.
///
/// # Errors
/// For values that have no such form (none of ours).
pub fn canonical(value: &Value) -> Result<String, crate::Error> {
    serde_json_canonicalizer::to_string(value).map_err(|e| crate::Error::Row(e.to_string()))
}

/// Hash of an entry with these parts.
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

/// Text that a checkpoint signs.
pub(crate) fn checkpoint_text(seq: u64, hash: &str) -> String {
    format!("abbey checkpoint 1\n{seq}\n{hash}\n")
}

/// A check of entries in order, against each other and against signed checkpoints.
pub(crate) struct Check {
    key: Option<VerifyingKey>,
    /// Sequence number, hash and signature of each, in order.
    checkpoints: std::iter::Peekable<std::vec::IntoIter<(u64, String, Vec<u8>)>>,
    verdict: AuditVerification,
}

impl Check {
    pub(crate) fn new(key: Option<VerifyingKey>, checkpoints: Vec<(u64, String, Vec<u8>)>) -> Self {
        Check {
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

    /// Takes the next entry; `Break` after the first that is wrong.
    pub(crate) fn entry(&mut self, entry: &AuditEntry) -> Result<ControlFlow<()>, crate::Error> {
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
            return wrong(entry.seq, "it does not continue the entry before it");
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
            return wrong(entry.seq, "its content does not fit its hash");
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
                return wrong(entry.seq, "the signed checkpoint does not fit");
            }
            self.verdict.checkpoints += 1;
        }
        self.verdict.entries = entry.seq;
        self.verdict.head.clone_from(&entry.hash);
        Ok(Ok(()))
    }

    /// The outcome after the last entry. A checkpoint beyond it, or a known head, means that the end was cut off.
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
        let mut check = Check::new(None, Vec::new());
        for entry in &entries {
            if check.entry(entry).unwrap().is_break() {
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
