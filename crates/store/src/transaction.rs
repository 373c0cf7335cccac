//! What an operation that writes sees: the open transaction, its instant, and the state that is flushed with it.
//! The same for every database; a driver opens the transaction, runs operations, and commits.

use crate::entropy::Entropy;
use crate::rows::{Query, Scalar, WriteRows, params};
use crate::topic::{Topic, Topics};
use crate::{Error, Result};
use abbey_engine::budget::{Account, TimeZone};
use abbey_model::{Id, Redactor, Timestamp};
use ed25519_dalek::SigningKey;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

/// Scope and metric of a budget.
pub(crate) type AccountKey = (String, &'static str);
/// A budget account as read, and whether this transaction changed it; none where there is no such account.
pub(crate) type CachedAccount = Option<(Account, bool)>;

/// What all transactions of one store use.
pub(crate) struct Context {
    pub(crate) redactor: std::sync::Arc<RwLock<Redactor>>,
    pub(crate) entropy: std::sync::Arc<dyn Entropy>,
}

/// An open transaction, which may hold the operations of many callers.
pub(crate) struct Tx<'a> {
    pub(crate) rows: &'a dyn WriteRows,
    pub(crate) context: &'a Context,
    /// Stamped once for the whole transaction.
    pub(crate) now: Timestamp,
    /// Sequence number and hash of the newest audit entry.
    pub(crate) head: (u64, String),
    /// Key that signs heads of the audit log.
    pub(crate) signing_key: SigningKey,
    /// Time zone of the midnight at which daily budgets start again.
    pub(crate) zone: TimeZone,
    /// Budgets that this group of operations read; the changed ones are written once, at its end.
    pub(crate) accounts: BTreeMap<AccountKey, CachedAccount>,
    /// Values of `accounts` that are restored when the current operation fails.
    pub(crate) undo: Vec<(AccountKey, CachedAccount)>,
    /// What the commit publishes.
    topics: Topics,
}

impl<'a> Tx<'a> {
    /// State of a transaction that a driver has opened on `rows`, at instant `now`.
    pub(crate) fn new(
        rows: &'a dyn WriteRows,
        context: &'a Context,
        now: Timestamp,
        head: (u64, String),
        signing_key: SigningKey,
        zone: TimeZone,
    ) -> Self {
        Tx {
            rows,
            context,
            now,
            head,
            signing_key,
            zone,
            accounts: BTreeMap::new(),
            undo: Vec::new(),
            topics: Topics::default(),
        }
    }

    /// Runs one operation in a savepoint. If it fails, its rows, audit entries, budget changes and topics are rolled
    /// back, and the other operations of the transaction stay.
    pub(crate) fn run_in_savepoint<T>(
        &mut self,
        op: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        self.undo.clear();
        let (head, topics) = (self.head.clone(), self.topics);
        let signing_key = self.signing_key.clone();
        self.execute("SAVEPOINT op", params![])?;
        let outcome = op(self);
        if outcome.is_err() {
            self.execute("ROLLBACK TO op", params![])?;
            self.head = head;
            self.topics = topics;
            self.signing_key = signing_key;
            for (key, value) in self.undo.drain(..).rev() {
                match value {
                    Some(_) => self.accounts.insert(key, value),
                    None => self.accounts.remove(&key),
                };
            }
        }
        self.execute("RELEASE op", params![])?;
        outcome
    }

    /// Executes an SQL statement. Returns the number of rows that it changed.
    pub(crate) fn execute(&self, sql: &str, parameters: &[Scalar<'_>]) -> Result<u64> {
        self.rows.execute(sql, parameters)
    }

    /// Marks a topic as touched by this transaction: its subscribers are woken after the commit.
    pub(crate) fn publish(&mut self, topic: Topic) {
        self.topics.insert(topic);
    }

    /// Topics that this transaction touched so far.
    pub(crate) fn topics(&self) -> Topics {
        self.topics
    }

    /// Next number of a sequence (`tasks`, `approvals`, workflow runs); a number is never used twice.
    pub(crate) fn next_number(&self, kind: &str) -> Result<u64> {
        self.rows.aggregate(
            "INSERT INTO meta VALUES (?1, '1') ON CONFLICT (key) DO UPDATE SET value = CAST(CAST(meta.value AS BIGINT) + 1 AS TEXT) RETURNING CAST(value AS BIGINT)",
            params![kind],
        )
    }

    /// New UUIDv7 with the time of this transaction.
    pub(crate) fn new_id<K>(&self) -> Result<Id<K>> {
        let mut random = [0u8; 16];
        self.context
            .entropy
            .fill(&mut random)
            .map_err(Error::Entropy)?;
        Ok(Id::v7(
            u64::try_from(self.now.0).unwrap_or(0),
            u128::from_ne_bytes(random),
        ))
    }

    /// A text with every known secret replaced, as it may be stored.
    pub(crate) fn redact(&self, text: &str) -> String {
        self.redactor().clean(text).into_owned()
    }

    /// A value with every known secret replaced in its texts, numbers and keys, as it may be stored.
    pub(crate) fn redact_json<T: serde::Serialize + serde::de::DeserializeOwned>(
        &self,
        value: &T,
    ) -> Result<T> {
        let mut value = serde_json::to_value(value)?;
        redact_value(&mut value, &self.redactor());
        Ok(serde_json::from_value(value)?)
    }

    /// Redactor that knows the present secrets of the house.
    pub(crate) fn redactor(&self) -> std::sync::RwLockReadGuard<'_, Redactor> {
        let redactor = &self.context.redactor;
        redactor.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Replaces every known secret in a value. Each text is one by itself: in the JSON of the whole, a secret would be written
/// otherwise, and what replaces it would not be JSON.
fn redact_value(value: &mut Value, redactor: &Redactor) {
    match value {
        Value::String(text) => {
            if let Cow::Owned(clean) = redactor.clean(text) {
                *text = clean;
            }
        }
        Value::Number(number) => {
            if let Cow::Owned(clean) = redactor.clean(&number.to_string()) {
                *value = Value::String(clean);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|v| redact_value(v, redactor)),
        Value::Object(map) => {
            let entries = std::mem::take(map).into_iter();
            *map = entries
                .map(|(key, mut value)| {
                    redact_value(&mut value, redactor);
                    (redactor.clean(&key).into_owned(), value)
                })
                .collect();
        }
        Value::Null | Value::Bool(_) => {}
    }
}
