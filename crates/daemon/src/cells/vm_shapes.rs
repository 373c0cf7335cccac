//! Shapes of microVMs that are kept ready, and the microVMs of each.

use abbey_model::{Bytes, Slug};
use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What machines must have in common to be used for each other's commands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Shape {
    pub(super) image: String,
    pub(super) memory: Bytes,
    pub(super) cpu_milli: u32,
}

/// Time after the last command at which a shape is let go.
const IDLE: Duration = Duration::from_secs(600);

/// Where a command's machine comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// One that waits.
    Warm {
        /// Which.
        slug: Slug,
        /// What it began from.
        template: Slug,
    },
    /// One from this template.
    Template(Slug),
    /// Its own boot.
    Cold,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) template: Option<Slug>,
    pub(super) warm: VecDeque<Slug>,
    /// Whether somebody is filling it up.
    pub(super) busy: bool,
    pub(super) used: Instant,
}

/// What is kept.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    entries: Mutex<BTreeMap<Shape, Entry>>,
    /// Nothing more is kept: the house goes down.
    pub(super) closed: AtomicBool,
}

impl Pool {
    pub(super) fn entries(&self) -> MutexGuard<'_, BTreeMap<Shape, Entry>> {
        self.entries.lock()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// The best there is for a command of this shape.
    pub(crate) fn take(&self, shape: &Shape, now: Instant) -> Source {
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(shape) else {
            return Source::Cold;
        };
        entry.used = now;
        match (entry.warm.pop_front(), &entry.template) {
            (Some(slug), Some(template)) => Source::Warm {
                slug,
                template: template.clone(),
            },
            (None, Some(template)) => Source::Template(template.clone()),
            (_, None) => Source::Cold,
        }
    }

    /// Changes what is kept of a shape; false when it was let go in the meantime.
    pub(super) fn put(&self, shape: &Shape, change: impl FnOnce(&mut Entry)) -> bool {
        let mut entries = self.entries();
        entries.get_mut(shape).map(change).is_some()
    }

    /// Takes everything out.
    pub(super) fn clear(&self, only_idle: bool, now: Instant) -> Vec<Slug> {
        let mut entries = self.entries();
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
