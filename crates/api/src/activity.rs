//! The audit log, and live events.

use crate::headers::LastEventId;
use crate::macros::{documents, operations, queries};
use crate::time::Time;
use serde_json::Value;

documents! {
    /// An entry of the audit log.
    EntryView {
        /// Number of the entry.
        seq: u64,
        /// When it was logged.
        at: Time,
        /// Principal that acted.
        actor: String,
        /// Name of the action.
        action: String,
        /// What it was done to.
        entity: String,
        /// Details.
        detail: Value,
        /// Hash of the entry before.
        prev: String,
        /// Hash of this entry.
        hash: String,
    }
    /// A page of the audit log.
    ActivityDoc {
        /// Always 1.
        version: u32,
        /// Entries, oldest first.
        entries: Vec<EntryView>,
        /// Names the next page; absent on the last one.
        cursor: Option<String>,
    }
    /// Result of verifying the audit log.
    VerifyDoc {
        /// Always 1.
        version: u32,
        /// Whether every entry and checkpoint verifies.
        ok: bool,
        /// Number of entries that were checked.
        entries: u64,
        /// Hash of the newest entry.
        head: String,
        /// First entry that doesn't verify.
        first_bad: Option<u64>,
        /// Number of signed checkpoints that were checked.
        checkpoints: u64,
        /// What is wrong with the first bad entry.
        why: Option<String>,
        /// Public Ed25519 key that signs now, hexadecimal; absent before the first signature.
        key: Option<String>,
        /// Restores and rotations of the key that the log records, and whether the earlier key confirmed the new one.
        notes: Vec<String>,
    }
    /// A change of the key that signs the audit log.
    RotatedKeyDoc {
        /// Always 1.
        version: u32,
        /// Number of the entry that states the change.
        entry: u64,
        /// Public Ed25519 key that signed until then, hexadecimal.
        previous_key: String,
        /// Public Ed25519 key that signs from then on, hexadecimal.
        key: String,
    }
    /// Checkpoint sinks, and how far each of them is.
    SinksDoc {
        /// Always 1.
        version: u32,
        /// The sinks, by name.
        sinks: Vec<SinkView>,
    }
    /// A checkpoint sink, and what it has got of the signed heads of the audit log.
    SinkView {
        /// Name in the manifest.
        name: String,
        /// Where it is.
        target: String,
        /// Entry that the newest delivered head states; absent before the first delivery.
        delivered: Option<u64>,
        /// When that head was signed.
        delivered_at: Option<Time>,
        /// Signed heads that it has not got.
        missing: u64,
        /// When the oldest of them was signed.
        missing_since: Option<Time>,
        /// Why the newest delivery failed, if it did.
        failing: Option<String>,
    }
    /// Signed heads of the audit log.
    CheckpointsDoc {
        /// Always 1.
        version: u32,
        /// Public Ed25519 key that signed first, hexadecimal.
        key: String,
        /// Lines of the checkpoint file, oldest first; the last one states the newest entry.
        lines: Vec<Value>,
    }
}

queries! {
    /// Which entries to return.
    ActivityQuery {
        /// Number of the entry before the first one to return.
        cursor: Option<u64>,
        /// The newest so many, in place of `cursor`.
        last: Option<u64>,
        /// Most rows of one page.
        #[param(minimum = 1, maximum = 1000)]
        limit: Option<u32>,
    }
}

operations! {
    /// The audit log: `client.activity()`.
    ActivityClient {
        /// A page of the audit log, oldest first.
        GET "/api/v1/activity" page() [query ActivityQuery] -> json(ActivityDoc);
        /// Verifies the whole audit log.
        GET "/api/v1/activity/verify" verify() -> json(VerifyDoc);
        /// Signs the newest entry, and returns every signed head.
        POST "/api/v1/activity/checkpoints" checkpoints() -> json(CheckpointsDoc);
        /// Checkpoint sinks, and how far each of them is.
        GET "/api/v1/activity/sinks" sinks() -> json(SinksDoc);
        /// Puts a new signing key in force.
        POST "/api/v1/activity/key" rotate_key() -> json(RotatedKeyDoc);
        /// New entries as server-sent events, after the one named.
        GET "/api/v1/events" follow() [header after: Option<LastEventId>] -> stream;
    }
}
