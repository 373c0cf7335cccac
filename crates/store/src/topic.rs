//! What changed, as topics that a commit publishes.
//!
//! An operation names the topics that it touched ([`Tx::publish`](crate::transaction::Tx::publish)). Once the
//! transaction is on disk, and only then, the store raises the version of each topic and wakes its subscribers. A
//! subscriber that was busy finds a newer version later, so no change is missed and no operation has to wake a subscriber itself.

use tokio::sync::watch;

/// Part of the state whose changes subscribers wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Topic {
    /// Tasks: some may be claimed now that could not be before, or their outcome is known.
    Work,
    /// The next instant at which a lease, pause, approval or task is over may be nearer.
    Deadlines,
    /// Desired state or supervision of a cell.
    Cells,
    /// Shared documents.
    Documents,
    /// Approvals: one is asked for or decided.
    Approvals,
    /// Schedules and what they did.
    Schedules,
    /// Runs of workflows.
    Workflows,
    /// Notices of tasks that are over: one is to be delivered.
    Outbox,
    /// Plans: another generation is current.
    Generations,
    /// Sagas: one began, or a step is over.
    Sagas,
    /// Credentials.
    Credentials,
    /// Budgets: a limit changed.
    Budgets,
    /// The audit log has a new entry.
    Audit,
}

impl Topic {
    /// Every topic, in the order of their numbers.
    pub const ALL: [Topic; 13] = [
        Topic::Work,
        Topic::Deadlines,
        Topic::Cells,
        Topic::Documents,
        Topic::Approvals,
        Topic::Schedules,
        Topic::Workflows,
        Topic::Outbox,
        Topic::Generations,
        Topic::Sagas,
        Topic::Credentials,
        Topic::Budgets,
        Topic::Audit,
    ];
}

/// A set of topics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Topics(u16);

impl Topics {
    /// Adds a topic to the set.
    pub fn insert(&mut self, topic: Topic) {
        self.0 |= 1 << topic as u8;
    }

    /// Whether the set has a topic.
    pub fn contains(self, topic: Topic) -> bool {
        self.0 & (1 << topic as u8) != 0
    }

    /// Whether the set has no topic.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// A subscriber's view of one topic. Its value is the version: how many commits touched the topic since the store
/// was opened. [`changed`](watch::Receiver::changed) waits for a version that this receiver has not seen.
pub type Subscription = watch::Receiver<u64>;

/// The versions of all topics, with their subscribers.
#[derive(Debug)]
pub(crate) struct Publisher([watch::Sender<u64>; Topic::ALL.len()]);

impl Publisher {
    /// Publisher of every topic, each at version 0.
    pub(crate) fn new() -> Self {
        Publisher(std::array::from_fn(|_| watch::Sender::new(0)))
    }

    /// Raises the version of each topic in the set by one, which wakes its subscribers.
    pub(crate) fn publish(&self, topics: Topics) {
        for topic in Topic::ALL {
            if topics.contains(topic) {
                self.0[topic as usize].send_modify(|version| *version += 1);
            }
        }
    }

    /// Subscribes to a topic from its present version on.
    pub(crate) fn subscribe(&self, topic: Topic) -> Subscription {
        self.0[topic as usize].subscribe()
    }
}
