//! Single commands that run, and what each holds.

use abbey_model::{Egress, Slug, Subnet};
use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;

/// What a running command holds.
#[derive(Debug, Clone, Default)]
pub(super) struct CommandGrant {
    pub(super) uid: Option<u32>,
    pub(super) subnet: Option<Subnet>,
    pub(super) egress: Egress,
}

/// CommandTable that run.
#[derive(Debug, Default)]
pub(crate) struct CommandTable(Mutex<BTreeMap<Slug, CommandGrant>>);

impl CommandTable {
    pub(super) fn leases(&self) -> MutexGuard<'_, BTreeMap<Slug, CommandGrant>> {
        self.0.lock()
    }

    /// Whether a command is somebody's who waits for it.
    pub(crate) fn runs(&self, slug: &Slug) -> bool {
        self.leases().contains_key(slug)
    }

    /// Gives a machine that waited to a command.
    pub(super) fn take_over(&self, slug: &Slug, egress: &Egress) -> Option<CommandGrant> {
        let mut leases = self.leases();
        let lease = leases.get_mut(slug)?;
        lease.egress = egress.clone();
        Some(lease.clone())
    }
}
