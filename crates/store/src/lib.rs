//! All of the house's state that must not be lost, behind operations rather than SQL.
//!
//! [`Storage`] is the interface: every operation is declared once in `storage`, and written once in `ops` over the
//! row interface ([`Rows`]). A [driver](driver) brings transactions to it; [`Sqlite`] is the first, with one writer
//! thread that groups the operations of many callers into one flush, and read-only connections beside it.
//!
//! Each operation runs the `engine` inside its transaction and logs to the audit log in the same one. A commit
//! publishes the [topics](Topic) that its operations touched, and wakes who waits for them. Only the store's clock
//! decides leases: callers hand in durations, never instants. Deliberately absent: policy. No decision is written in
//! SQL.

mod chain;
mod clock;
mod disk;
mod driver;
mod entropy;
mod error;
mod ops;
mod reply;
mod rows;
mod sqlite;
mod storage;
mod topic;
mod transaction;
mod types;

pub use chain::{
    AuditEntry, AuditVerification, ChainVerifier, GENESIS, KnownCheckpoints, SignedHead, canonical,
    entry_hash, public_key,
};
pub use clock::{Clock, MonotonicClock, SteadyTime, SystemClock};
pub use disk::{DiskSpace, HostDisk};
pub use entropy::{Entropy, SystemEntropy};
pub use error::{DatabaseError, Error, Result};
pub use reply::Reply;
pub use rows::{Row, Rows, Scalar, WriteRows};
pub use sqlite::{FORMAT, Sqlite, SqliteOptions, import_state_file};
pub use storage::{OPERATIONS, Storage};
pub use topic::{Subscription, Topic, Topics};
pub use types::*;
