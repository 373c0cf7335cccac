//! Machines kept ready for single commands: a template for each shape that was asked for, and a few machines
//! from it that wait with everything in memory. Made in the background, after a command had to boot its own;
//! let go when nobody asks any more, and when the house goes down.

use crate::cells::commands;
use crate::cells::state::CellsState;
use crate::cells::vm_shapes::{Entry, Shape};
use crate::core::error::Result;
use abbey_cells::microvm::Origin;
use abbey_model::{CellName, Observed, Slug};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Machines that wait, of each shape.
const WARM: usize = 2;
/// Shapes that are kept.
const SHAPES_MAX: usize = 2;

/// Time for a machine to get ready.
const READY_WITHIN: Duration = Duration::from_secs(180);
/// Distance between two looks at one that gets ready.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Distance between two looks at what is idle.
const EXPIRE_EVERY: Duration = Duration::from_secs(30);

/// Makes what is missing for the next command of this shape, in the background.
pub(crate) fn refill(cells: &Arc<CellsState>, shape: &Shape) {
    {
        let mut entries = cells.pool.entries();
        if cells.pool.is_closed() {
            return;
        }
        if entries.len() >= SHAPES_MAX && !entries.contains_key(shape) {
            return;
        }
        let entry = entries.entry(shape.clone()).or_insert_with(|| Entry {
            template: None,
            warm: VecDeque::new(),
            busy: false,
            used: cells.core.rt.instant(),
        });
        if std::mem::replace(&mut entry.busy, true) {
            return;
        }
    }
    let (cells, shape) = (Arc::clone(cells), shape.clone());
    let rt = cells.core.rt.clone();
    drop(rt.spawn(async move {
        if let Err(error) = fill(&cells, &shape).await {
            tracing::warn!(
                error = error.chain(),
                "no machine could be kept ready; the next command boots its own"
            );
        }
        if let Some(entry) = cells.pool.entries().get_mut(&shape) {
            entry.busy = false;
        }
    }));
}

async fn fill(cells: &Arc<CellsState>, shape: &Shape) -> Result<()> {
    loop {
        let (template, warm) = match cells.pool.entries().get(shape) {
            Some(entry) => (entry.template.clone(), entry.warm.len()),
            None => return Ok(()),
        };
        let Some(template) = template else {
            let slug = keep(cells, shape, Origin::Template).await?;
            if !cells.pool.put(shape, |e| e.template = Some(slug.clone())) {
                commands::let_go(cells, &slug).await;
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
        match keep(cells, shape, origin).await {
            Ok(slug) => {
                if !cells.pool.put(shape, |e| e.warm.push_back(slug.clone())) {
                    commands::let_go(cells, &slug).await;
                }
            }
            Err(error) => {
                // Image, QEMU or kernel may be others by now: what was made from them is of no use.
                let mut old = vec![template];
                cells.pool.put(shape, |e| {
                    e.template = None;
                    old.extend(e.warm.drain(..));
                });
                for slug in old {
                    commands::let_go(cells, &slug).await;
                }
                return Err(error);
            }
        }
    }
}

/// Starts a machine without a command, and waits until it is ready. Nothing is left when it fails.
async fn keep(cells: &Arc<CellsState>, shape: &Shape, origin: Origin) -> Result<Slug> {
    let slug = commands::start_waiting(cells, shape, origin).await?;
    let until = cells.core.rt.instant() + READY_WITHIN;
    loop {
        let (backend, cell) = (Arc::clone(&cells.backend), CellName::Run(slug.clone()));
        let seen = crate::core::hostd::ask(move || backend.observe(&cell)).await;
        let why = match seen {
            Ok(Observed::Running { ready: true, .. }) => return Ok(slug),
            Ok(Observed::Running { .. })
                if cells.core.rt.instant() < until && !cells.pool.is_closed() =>
            {
                cells.core.rt.sleep(LOOK_EVERY).await;
                continue;
            }
            Ok(Observed::Exited(record)) => record.exit.to_string(),
            Ok(_) => "it did not get ready".to_owned(),
            Err(error) => error.chain(),
        };
        commands::let_go(cells, &slug).await;
        return Err(commands::failed(format!(
            "a machine could not be kept: {why}"
        )));
    }
}

/// Lets go of everything, for good.
pub(crate) async fn close(cells: &Arc<CellsState>) {
    cells.pool.closed.store(true, Ordering::SeqCst);
    for slug in cells.pool.clear(false, cells.core.rt.instant()) {
        commands::let_go(cells, &slug).await;
    }
}

/// Lets go of what nobody asks for any more, and of everything when the control plane ends.
pub(crate) async fn expire(cells: Arc<CellsState>) {
    loop {
        let over = tokio::select! {
            () = cells.core.rt.sleep(EXPIRE_EVERY) => false,
            () = cells.core.rt.stopped() => true,
        };
        if over {
            return close(&cells).await;
        }
        for slug in cells.pool.clear(true, cells.core.rt.instant()) {
            commands::let_go(&cells, &slug).await;
        }
    }
}
