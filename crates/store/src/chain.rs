//! The hash chain of the audit log: the hash of each entry covers the entry before it.
//!
//! An entry = canonical JSON (RFC 8785) of `seq, at, actor, action, entity, detail`; `hash` =
//! SHA-256 of the previous hash (in hexadecimal) and the entry; the first `prev` is 64 zeros.

use abbey_model::{CheckpointLine, Timestamp};
use abbey_support::digest::{hex, sha256_hex, unhex};
use ed25519_dalek::{Signature, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
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
    /// Number of signed checkpoints that were verified, in the database and outside.
    pub checkpoints: u64,
    /// What is wrong with that entry, for people.
    pub why: Option<String>,
    /// Public key that signs behind the last verified entry, hexadecimal; none before the first signature.
    pub key: Option<String>,
    /// Restores and rotations of the key that the log records, and whether the earlier key confirmed the new one; for
    /// people.
    pub notes: Vec<String>,
}

impl AuditVerification {
    /// Marks the log as wrong at entry `seq`.
    #[must_use]
    pub fn failed(mut self, seq: u64, why: impl Into<String>) -> Self {
        self.ok = false;
        self.first_bad = Some(seq);
        self.why = Some(why.into());
        self
    }
}

/// What is known about the audit log from outside the database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownCheckpoints {
    /// Sequence number that the log had reached.
    pub head: u64,
    /// Lines of the checkpoint file, oldest first.
    pub lines: Vec<CheckpointLine>,
    /// Public key with which the house signs now, hexadecimal.
    pub key: Option<String>,
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

/// Public key of a signing key, in hexadecimal digits.
pub fn public_key(signing_key: &[u8; 32]) -> String {
    hex(SigningKey::from_bytes(signing_key)
        .verifying_key()
        .as_bytes())
}

/// Text that the house signs as a checkpoint of the audit log: the sequence number and hash of one entry.
pub(crate) fn checkpoint_text(seq: u64, hash: &str) -> String {
    format!("abbey checkpoint 1\n{seq}\n{hash}\n")
}

/// Action of the entry that follows a restore; its detail is a [`KeyChange`] and more.
pub(crate) const RESTORED: &str = "audit.restored";

/// Action of the entry with which the operator puts a new signing key in force; its detail is a [`KeyChange`].
pub(crate) const KEY_ROTATED: &str = "audit.key_rotated";

/// Change of the signing key, in the detail of an entry of the audit log.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KeyChange {
    /// Public key that signed until this entry, hexadecimal.
    pub(crate) previous_key: String,
    /// Public key that signs from this entry on, hexadecimal.
    pub(crate) key: String,
    /// Signature of [`key_change_text`] by the previous key, hexadecimal; none where that key was not at hand.
    pub(crate) confirmed: Option<String>,
}

/// Text with which the previous key confirms the next one, behind the entry `seq` with this hash.
pub(crate) fn key_change_text(seq: u64, hash: &str, key: &str) -> String {
    format!("abbey key change 1\n{seq}\n{hash}\n{key}\n")
}

/// Whether `signature` of `text` is by `key`; all in hexadecimal digits but the text.
fn is_signed_by(key: &str, text: &str, signature: &str) -> bool {
    let verified = || {
        let key = <[u8; 32]>::try_from(unhex(key)?).ok()?;
        let key = VerifyingKey::from_bytes(&key).ok()?;
        let signature = Signature::from_slice(&unhex(signature)?).ok()?;
        key.verify_strict(text.as_bytes(), &signature).ok()
    };
    verified().is_some()
}

/// Head of the audit log with its signature in hexadecimal digits, as the database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedHead {
    /// Number of the entry.
    pub seq: u64,
    /// Hash of the entry.
    pub hash: String,
    /// Signature by the key that signed at that time.
    pub signature: String,
    /// That key, as the log states it.
    pub key: String,
    /// Instant of the signature.
    pub at: Timestamp,
}

/// What the log must contain: an entry with this hash, and who signed that.
struct Anchor {
    hash: String,
    /// Key, if it is stated, and signature; none for a head that the operator stated by restoring it.
    signed: Option<(Option<String>, String)>,
}

/// Verifies audit entries in order, against each other and against checkpoints in the database and outside.
pub struct ChainVerifier {
    /// Checkpoints that are to come, by sequence number.
    anchors: BTreeMap<u64, Vec<Anchor>>,
    /// Keys that the operator put in force by a restore, by the newest restored entry.
    restored: BTreeMap<u64, String>,
    known_head: u64,
    known_key: Option<String>,
    verdict: AuditVerification,
}

impl ChainVerifier {
    /// Starts verifying an audit log from its first entry. `key` is the public key that signed first, `signed` are the
    /// checkpoints of the database, and `known` is what is known from outside.
    pub fn new(key: Option<String>, signed: Vec<SignedHead>, known: KnownCheckpoints) -> Self {
        let verdict = AuditVerification {
            ok: true,
            entries: 0,
            head: GENESIS.to_owned(),
            first_bad: None,
            checkpoints: 0,
            why: None,
            key,
            notes: Vec::new(),
        };
        let mut check = ChainVerifier {
            anchors: BTreeMap::new(),
            restored: BTreeMap::new(),
            known_head: known.head,
            known_key: known.key,
            verdict,
        };
        for line in known.lines {
            match line {
                CheckpointLine::Checkpoint(c) => {
                    check.expect(c.seq, c.hash, Some((Some(c.key), c.signature)))
                }
                CheckpointLine::Restored { seq, hash, key, .. } => {
                    // What came after the backup was given up knowingly.
                    drop(check.anchors.split_off(&(seq + 1)));
                    drop(check.restored.split_off(&(seq + 1)));
                    check.expect(seq, hash, None);
                    check.restored.insert(seq, key);
                }
            }
        }
        for head in signed {
            check.expect(head.seq, head.hash, Some((None, head.signature)));
        }
        check
    }

    fn expect(&mut self, seq: u64, hash: String, signed: Option<(Option<String>, String)>) {
        let anchors = self.anchors.entry(seq).or_default();
        anchors.push(Anchor { hash, signed });
    }

    /// Verifies the next entry against the one before it and the checkpoints. Returns `Break` after the first entry
    /// that is wrong.
    ///
    /// # Errors
    /// For an entry that has no canonical form.
    pub fn verify_entry(&mut self, entry: &AuditEntry) -> Result<ControlFlow<()>, crate::Error> {
        if let Err((seq, why)) = self.next(entry)? {
            self.verdict = self.verdict.clone().failed(seq, why);
            return Ok(ControlFlow::Break(()));
        }
        Ok(ControlFlow::Continue(()))
    }

    fn next(&mut self, entry: &AuditEntry) -> Result<Result<(), (u64, String)>, crate::Error> {
        let wrong = |seq, why: String| Ok(Err((seq, why)));
        let expected = self.verdict.entries + 1;
        if entry.seq != expected {
            return wrong(expected, format!("entry {expected} is missing"));
        }
        if entry.prev != self.verdict.head {
            let why = "its `prev` hash is not the hash of the previous entry";
            return wrong(entry.seq, why.to_owned());
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
            return wrong(entry.seq, "its content does not match its hash".to_owned());
        }
        if [RESTORED, KEY_ROTATED].contains(&entry.action.as_str())
            && let Err(why) = self.change_key(entry)
        {
            return wrong(entry.seq, why);
        }
        for anchor in self.anchors.remove(&entry.seq).unwrap_or_default() {
            if let Err(why) = self.verify_anchor(entry, &anchor) {
                return wrong(entry.seq, why);
            }
        }
        self.verdict.entries = entry.seq;
        self.verdict.head.clone_from(&entry.hash);
        Ok(Ok(()))
    }

    fn verify_anchor(&mut self, entry: &AuditEntry, anchor: &Anchor) -> Result<(), String> {
        if anchor.hash != entry.hash {
            return Err(
                "it is not the entry that a checkpoint states: the log was rewritten".to_owned(),
            );
        }
        let Some((stated, signature)) = &anchor.signed else {
            return Ok(());
        };
        let Some(key) = self
            .verdict
            .key
            .as_ref()
            .filter(|key| stated.as_ref().is_none_or(|s| s == *key))
        else {
            return Err(
                "its checkpoint was signed with another key than the one in force".to_owned(),
            );
        };
        if !is_signed_by(key, &checkpoint_text(entry.seq, &entry.hash), signature) {
            return Err("the signature of its checkpoint is not by the signing key".to_owned());
        }
        self.verdict.checkpoints += 1;
        Ok(())
    }

    /// The entry of a rotation, or that follows a restore: the key that signs from here on is confirmed by the one before,
    /// or, for a restore, by the operator in the file that only hostd and root write.
    fn change_key(&mut self, entry: &AuditEntry) -> Result<(), String> {
        let change: KeyChange = serde_json::from_value(entry.detail.clone())
            .map_err(|e| format!("it is not a record of a change of the signing key: {e}"))?;
        if self.verdict.key.as_ref() != Some(&change.previous_key) {
            return Err("it continues from another key than the one in force".to_owned());
        }
        let before = entry.seq - 1;
        let rotated = entry.action == KEY_ROTATED;
        let by_operator = !rotated && self.restored.get(&before) == Some(&change.key);
        let text = key_change_text(before, &entry.prev, &change.key);
        let same = !rotated && change.previous_key == change.key;
        let confirmed = change
            .confirmed
            .is_some_and(|signature| is_signed_by(&change.previous_key, &text, &signature));
        if !by_operator && !confirmed && !same {
            return Err("it puts another signing key in force, which neither the earlier key nor the operator confirmed".to_owned());
        }
        if rotated {
            let note = format!(
                "entry {}: a new signing key was put in force, which the earlier key confirmed",
                entry.seq
            );
            self.verdict.notes.push(note);
            self.verdict.key = Some(change.key);
            return Ok(());
        }
        let how = match (same, confirmed) {
            (true, _) => "with the same signing key",
            (false, true) => "with a new signing key, which the earlier key confirmed",
            (false, false) => {
                "with a new signing key, which the earlier key did not confirm because it was not in the archive"
            }
        };
        self.verdict.notes.push(format!(
            "entry {}: restored from a backup, {how}",
            entry.seq
        ));
        self.verdict.key = Some(change.key);
        Ok(())
    }

    /// Result of the verification after the last entry. A checkpoint beyond it, or a known newer head, means that
    /// entries at the end were removed.
    pub fn finish(self) -> AuditVerification {
        let verdict = self.verdict;
        if !verdict.ok {
            return verdict;
        }
        let known = (self.known_head > verdict.entries).then_some(self.known_head);
        let cut = self
            .anchors
            .last_key_value()
            .map(|(seq, _)| *seq)
            .max(known);
        let next = verdict.entries + 1;
        if let Some(seq) = cut {
            return verdict.failed(
                next,
                format!("the log was cut: entry {seq} is known to have existed"),
            );
        }
        if self.known_key.is_some() && self.known_key != verdict.key {
            let why = "the house signs with another key than the log states: `signing.key` was replaced, or the log is of another house";
            return verdict.failed(next, why);
        }
        verdict
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
        let known = KnownCheckpoints {
            head,
            ..KnownCheckpoints::default()
        };
        let mut check = ChainVerifier::new(None, Vec::new(), known);
        for entry in &entries {
            if check.verify_entry(entry).unwrap().is_break() {
                break;
            }
        }
        check.finish().first_bad
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
