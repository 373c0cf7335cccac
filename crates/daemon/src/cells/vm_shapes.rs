//! Shapes of pooled microVMs, and the microVMs of each.

use abbey_model::{Bytes, Slug};
use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Properties that microVMs must share to be interchangeable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct VmShape {
    pub(super) image: String,
    pub(super) memory: Bytes,
    pub(super) cpu_milli: u32,
}

/// Time after its last command at which a shape is removed from the pool.
const IDLE: Duration = Duration::from_secs(600);

/// Where a command's microVM comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum VmSource {
    /// A microVM that is running and waits for a command.
    Warm {
        /// Name of the waiting microVM.
        slug: Slug,
        /// Template from which it was restored.
        template: Slug,
    },
    /// A new microVM restored from this template.
    Template(Slug),
    /// A new microVM that boots.
    Cold,
}

/// MicroVMs of one shape.
#[derive(Debug)]
pub(super) struct PoolEntry {
    /// Snapshot from which others are restored.
    pub(super) template: Option<Slug>,
    /// MicroVMs that wait for a command.
    pub(super) warm: VecDeque<Slug>,
    /// Whether a background task is filling this entry.
    pub(super) busy: bool,
    /// Instant of the last command with this shape.
    pub(super) used: Instant,
}

/// MicroVMs kept ready, by shape.
#[derive(Debug, Default)]
pub(crate) struct VmPool {
    entries: Mutex<BTreeMap<VmShape, PoolEntry>>,
    /// Whether the pool is closed because the house goes down.
    pub(super) closed: AtomicBool,
}

impl VmPool {
    /// Locks the entries of the pool.
    pub(super) fn lock_entries(&self) -> MutexGuard<'_, BTreeMap<VmShape, PoolEntry>> {
        self.entries.lock()
    }

    /// Whether the pool was closed.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Takes the fastest available source of a microVM for a command of this shape.
    pub(crate) fn take_for_command(&self, shape: &VmShape, now: Instant) -> VmSource {
        let mut entries = self.lock_entries();
        let Some(entry) = entries.get_mut(shape) else {
            return VmSource::Cold;
        };
        entry.used = now;
        match (entry.warm.pop_front(), &entry.template) {
            (Some(slug), Some(template)) => VmSource::Warm {
                slug,
                template: template.clone(),
            },
            (None, Some(template)) => VmSource::Template(template.clone()),
            (_, None) => VmSource::Cold,
        }
    }

    /// Changes the entry of a shape; returns false if the shape was removed meanwhile.
    pub(super) fn update_entry(
        &self,
        shape: &VmShape,
        change: impl FnOnce(&mut PoolEntry),
    ) -> bool {
        let mut entries = self.lock_entries();
        entries.get_mut(shape).map(change).is_some()
    }

    /// Removes all entries, or only those unused for [`IDLE`], and returns the names of their
    /// microVMs.
    pub(super) fn remove_entries(&self, only_idle: bool, now: Instant) -> Vec<Slug> {
        let mut entries = self.lock_entries();
        let mut gone = Vec::new();
        entries.retain(|_, entry| {
            let over = !only_idle || (now.duration_since(entry.used) > IDLE && !entry.busy);
            if over {
                gone.extend(entry.warm.drain(..));
                gone.extend(entry.template.take());
            }
            !over
        });
        gone
    }
}
