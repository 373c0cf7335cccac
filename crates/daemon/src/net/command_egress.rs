//! Egress policies of single commands, which no plan knows.

use abbey_model::{Egress, Slug};
use parking_lot::Mutex;
use std::collections::BTreeMap;

/// Policy of each command that runs.
#[derive(Debug, Default)]
pub(crate) struct CommandEgress(Mutex<BTreeMap<Slug, Egress>>);

impl CommandEgress {
    pub(crate) fn set(&self, command: Slug, egress: Egress) {
        self.0.lock().insert(command, egress);
    }

    pub(crate) fn remove(&self, command: &Slug) {
        self.0.lock().remove(command);
    }

    /// What a command may reach; nothing once it has ended.
    pub(crate) fn of(&self, command: &Slug) -> Egress {
        self.0.lock().get(command).cloned().unwrap_or(Egress::None)
    }

    /// Whether any command runs.
    pub(crate) fn any(&self) -> bool {
        !self.0.lock().is_empty()
    }
}
