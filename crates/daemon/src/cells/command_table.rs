//! Running single commands (`abbey run`), and the resources granted to each.

use abbey_model::{Egress, Slug, Subnet};
use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;

/// Resources granted to a running command.
#[derive(Debug, Clone, Default)]
pub(super) struct CommandGrant {
    pub(super) uid: Option<u32>,
    pub(super) subnet: Option<Subnet>,
    pub(super) egress: Egress,
}

/// Grants of all running commands, including microVMs that wait for a command.
#[derive(Debug, Default)]
pub(crate) struct CommandTable(Mutex<BTreeMap<Slug, CommandGrant>>);

impl CommandTable {
    /// Locks the table of grants.
    pub(super) fn lock_grants(&self) -> MutexGuard<'_, BTreeMap<Slug, CommandGrant>> {
        self.0.lock()
    }

    /// Whether this control plane runs the command, so that the reconciler must leave its cell
    /// alone.
    pub(crate) fn is_running(&self, slug: &Slug) -> bool {
        self.lock_grants().contains_key(slug)
    }

    /// Assigns a microVM that waits to a command with this egress policy, and returns its grant;
    /// `None` if it is not in the table any more.
    pub(super) fn assign_waiting_vm(&self, slug: &Slug, egress: &Egress) -> Option<CommandGrant> {
        let mut leases = self.lock_grants();
        let lease = leases.get_mut(slug)?;
        lease.egress = egress.clone();
        Some(lease.clone())
    }
}
