//! The audit log, and live events.

use crate::Time;
use crate::headers::LastEventId;
use crate::macros::{documents, operations, queries};
use serde_json::Value;

documents! {
    /// One entry of the activity chain.
    EntryView {
        /// Number.
        seq: u64,
        /// When.
        at: Time,
        /// Who.
        actor: String,
        /// What.
        action: String,
        /// To what.
        entity: String,
        /// Details.
        detail: Value,
        /// Hash of the entry before.
        prev: String,
        /// Hash of this one.
        hash: String,
    }
    /// A page of the chain.
    ActivityDoc {
        /// Always 1.
        version: u32,
        /// Entries, oldest first.
        entries: Vec<EntryView>,
        /// Opaque; names the next page.
        cursor: Option<String>,
    }
    /// `abbey activity verify`.
    VerifyDoc {
        /// Always 1.
        version: u32,
        /// Whether everything fits.
        ok: bool,
        /// Entries checked.
        entries: u64,
        /// Hash of the newest.
        head: String,
        /// First entry that does not fit.
        first_bad: Option<u64>,
        /// Signed checkpoints that were checked.
        checkpoints: u64,
        /// What is wrong with it.
        why: Option<String>,
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
        /// New entries as server-sent events, after the one named.
        GET "/api/v1/events" follow() [header after: Option<LastEventId>] -> stream;
    }
}
