//! Egress policies of single commands (`abbey run`), which no plan declares.

use abbey_model::{Egress, Slug};
use parking_lot::Mutex;
use std::collections::BTreeMap;

/// Egress policy of each running command.
#[derive(Debug, Default)]
pub(crate) struct CommandEgressPolicies(Mutex<BTreeMap<Slug, Egress>>);

impl CommandEgressPolicies {
    /// Records the egress policy of a command that starts.
    pub(crate) fn set(&self, command: Slug, egress: Egress) {
        self.0.lock().insert(command, egress);
    }

    /// Removes the policy of a command that has ended.
    pub(crate) fn remove(&self, command: &Slug) {
        self.0.lock().remove(command);
    }

    /// Egress policy of a command; `Egress::None` for a command that is not running.
    pub(crate) fn policy_of(&self, command: &Slug) -> Egress {
        self.0.lock().get(command).cloned().unwrap_or(Egress::None)
    }

    /// Whether at least one command is running.
    pub(crate) fn has_running_commands(&self) -> bool {
        !self.0.lock().is_empty()
    }
}
