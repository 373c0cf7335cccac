//! Machines kept ready for single commands: a template for each shape that was asked for, and a few machines
//! from it that wait with everything in memory. Made in the background, after a command had to boot its own;
//! let go when nobody asks any more, and when the house goes down.

use crate::boot::house::House;
use crate::cells::commands;
use crate::cells::commands::Shape;
use crate::core::error::Result;
use abbey_cells::microvm::Origin;
use abbey_model::{CellName, Observed, Slug};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Machines that wait, of each shape.
const WARM: usize = 2;
/// Shapes that are kept.
const SHAPES_MAX: usize = 2;
/// Time after the last command at which a shape is let go.
const IDLE: Duration = Duration::from_secs(600);
/// Time for a machine to get ready.
const READY_WITHIN: Duration = Duration::from_secs(180);
/// Distance between two looks at one that gets ready.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Distance between two looks at what is idle.
const EXPIRE_EVERY: Duration = Duration::from_secs(30);

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
struct Entry {
    template: Option<Slug>,
    warm: VecDeque<Slug>,
    /// Whether somebody is filling it up.
    busy: bool,
    used: Instant,
}

/// What is kept.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    entries: Mutex<BTreeMap<Shape, Entry>>,
    /// Nothing more is kept: the house goes down.
    closed: AtomicBool,
}

impl Pool {
    fn entries(&self) -> std::sync::MutexGuard<'_, BTreeMap<Shape, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// The best there is for a command of this shape.
    pub(crate) fn take(&self, shape: &Shape) -> Source {
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(shape) else {
            return Source::Cold;
        };
        entry.used = Instant::now();
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
    fn put(&self, shape: &Shape, change: impl FnOnce(&mut Entry)) -> bool {
        let mut entries = self.entries();
        entries.get_mut(shape).map(change).is_some()
    }

    /// Takes everything out.
    fn clear(&self, only_idle: bool) -> Vec<Slug> {
        let mut entries = self.entries();
        let mut gone = Vec::new();
        entries.retain(|_, entry| {
            let over = !only_idle || (entry.used.elapsed() > IDLE && !entry.busy);
            if over {
                gone.extend(entry.warm.drain(..));
                gone.extend(entry.template.take());
            }
            !over
        });
        gone
    }
}

/// Makes what is missing for the next command of this shape, in the background.
pub(crate) fn refill(house: &Arc<House>, shape: &Shape) {
    {
        let mut entries = house.pool.entries();
        if house.pool.is_closed() {
            return;
        }
        if entries.len() >= SHAPES_MAX && !entries.contains_key(shape) {
            return;
        }
        let entry = entries.entry(shape.clone()).or_insert_with(|| Entry {
            template: None,
            warm: VecDeque::new(),
            busy: false,
            used: Instant::now(),
        });
        if std::mem::replace(&mut entry.busy, true) {
            return;
        }
    }
    let (house, shape) = (Arc::clone(house), shape.clone());
    let tracker = house.tracker.clone();
    drop(tracker.spawn(async move {
        if let Err(error) = fill(&house, &shape).await {
            tracing::warn!(
                error = error.chain(),
                "no machine could be kept ready; the next command boots its own"
            );
        }
        if let Some(entry) = house.pool.entries().get_mut(&shape) {
            entry.busy = false;
        }
    }));
}

async fn fill(house: &Arc<House>, shape: &Shape) -> Result<()> {
    loop {
        let (template, warm) = match house.pool.entries().get(shape) {
            Some(entry) => (entry.template.clone(), entry.warm.len()),
            None => return Ok(()),
        };
        let Some(template) = template else {
            let slug = keep(house, shape, Origin::Template).await?;
            if !house.pool.put(shape, |e| e.template = Some(slug.clone())) {
                commands::let_go(house, &slug).await;
            }
            continue;
        };
        if warm >= WARM {
            return Ok(());
        }
        let origin = Origin::From {
            template: CellName::Run(template.clone()),
            waits: true,
        };
        match keep(house, shape, origin).await {
            Ok(slug) => {
                if !house.pool.put(shape, |e| e.warm.push_back(slug.clone())) {
                    commands::let_go(house, &slug).await;
                }
            }
            Err(error) => {
                // Image, QEMU or kernel may be others by now: what was made from them is of no use.
                let mut old = vec![template];
                house.pool.put(shape, |e| {
                    e.template = None;
                    old.extend(e.warm.drain(..));
                });
                for slug in old {
                    commands::let_go(house, &slug).await;
                }
                return Err(error);
            }
        }
    }
}

/// Starts a machine without a command, and waits until it is ready. Nothing is left when it fails.
async fn keep(house: &Arc<House>, shape: &Shape, origin: Origin) -> Result<Slug> {
    let slug = commands::start_waiting(house, shape, origin).await?;
    let until = Instant::now() + READY_WITHIN;
    loop {
        let (backend, cell) = (Arc::clone(&house.backend), CellName::Run(slug.clone()));
        let seen = crate::core::hostd::ask(move || backend.observe(&cell)).await;
        let why = match seen {
            Ok(Observed::Running { ready: true, .. }) => return Ok(slug),
            Ok(Observed::Running { .. }) if Instant::now() < until && !house.pool.is_closed() => {
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            }
            Ok(Observed::Exited(record)) => record.exit.to_string(),
            Ok(_) => "it did not get ready".to_owned(),
            Err(error) => error.chain(),
        };
        commands::let_go(house, &slug).await;
        return Err(commands::failed(format!(
            "a machine could not be kept: {why}"
        )));
    }
}

/// Lets go of everything, for good.
pub(crate) async fn close(house: &Arc<House>) {
    house.pool.closed.store(true, Ordering::SeqCst);
    for slug in house.pool.clear(false) {
        commands::let_go(house, &slug).await;
    }
}

/// Lets go of what nobody asks for any more, and of everything when the control plane ends.
pub(crate) async fn expire(house: Arc<House>) {
    loop {
        let over = tokio::select! {
            () = tokio::time::sleep(EXPIRE_EVERY) => false,
            () = house.stop.cancelled() => true,
        };
        if over {
            return close(&house).await;
        }
        for slug in house.pool.clear(true) {
            commands::let_go(&house, &slug).await;
        }
    }
}
