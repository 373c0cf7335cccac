//! Pool of microVMs kept ready for single commands: a template for each requested shape, and a few
//! microVMs restored from it that wait in memory. They are started in the background after a
//! command had to boot its own, and removed when unused and at shutdown.

use crate::cells::commands;
use crate::cells::state::CellsState;
use crate::cells::vm_shapes::{PoolEntry, VmShape};
use crate::core::error::Result;
use abbey_cells::microvm::BootOrigin;
use abbey_model::{CellName, Observed, Slug};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Waiting microVMs of each shape.
const WARM_MAX: usize = 2;
/// Most shapes in the pool.
const SHAPES_MAX: usize = 2;

/// Longest boot of a microVM.
const READY_WITHIN: Duration = Duration::from_secs(180);
/// Time between two checks of a microVM that boots.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Time between two checks for unused shapes.
const EXPIRE_EVERY: Duration = Duration::from_secs(30);

/// Starts the microVMs that the pool is missing for a shape, in a background task; does nothing if
/// that is already under way.
pub(crate) fn refill_in_background(cells: &Arc<CellsState>, shape: &VmShape) {
    {
        let mut entries = cells.pool.lock_entries();
        if cells.pool.is_closed() {
            return;
        }
        if entries.len() >= SHAPES_MAX && !entries.contains_key(shape) {
            return;
        }
        let entry = entries.entry(shape.clone()).or_insert_with(|| PoolEntry {
            template: None,
            warm: VecDeque::new(),
            busy: false,
            used: cells.core.rt.now(),
        });
        if std::mem::replace(&mut entry.busy, true) {
            return;
        }
    }
    let (cells, shape) = (Arc::clone(cells), shape.clone());
    let rt = cells.core.rt.clone();
    drop(rt.spawn(async move {
        if let Err(error) = fill_shape(&cells, &shape).await {
            tracing::warn!(
                error = error.chain(),
                "no microVM could be prepared for the pool; the next command boots its own"
            );
        }
        if let Some(entry) = cells.pool.lock_entries().get_mut(&shape) {
            entry.busy = false;
        }
    }));
}

async fn fill_shape(cells: &Arc<CellsState>, shape: &VmShape) -> Result<()> {
    loop {
        let (template, warm) = match cells.pool.lock_entries().get(shape) {
            Some(entry) => (entry.template.clone(), entry.warm.len()),
            None => return Ok(()),
        };
        let Some(template) = template else {
            let slug = start_until_ready(cells, shape, BootOrigin::Template).await?;
            if !cells
                .pool
                .update_entry(shape, |e| e.template = Some(slug.clone()))
            {
                commands::discard_vm(cells, &slug).await;
            }
            continue;
        };
        if warm >= WARM_MAX {
            return Ok(());
        }
        let origin = BootOrigin::From {
            template: CellName::Run(template.clone()),
            waits: true,
        };
        match start_until_ready(cells, shape, origin).await {
            Ok(slug) => {
                if !cells
                    .pool
                    .update_entry(shape, |e| e.warm.push_back(slug.clone()))
                {
                    commands::discard_vm(cells, &slug).await;
                }
            }
            Err(error) => {
                // Image, QEMU or kernel may have changed, which makes the template unusable.
                let mut old = vec![template];
                cells.pool.update_entry(shape, |e| {
                    e.template = None;
                    old.extend(e.warm.drain(..));
                });
                for slug in old {
                    commands::discard_vm(cells, &slug).await;
                }
                return Err(error);
            }
        }
    }
}

/// Starts a microVM without a command and waits until it is ready; on failure it is discarded.
async fn start_until_ready(
    cells: &Arc<CellsState>,
    shape: &VmShape,
    origin: BootOrigin,
) -> Result<Slug> {
    let slug = commands::start_vm_without_command(cells, shape, origin).await?;
    let until = cells.core.rt.now() + READY_WITHIN;
    loop {
        let (backend, cell) = (Arc::clone(&cells.backend), CellName::Run(slug.clone()));
        let seen = crate::core::hostd::call_blocking(move || backend.observe(&cell)).await;
        let why = match seen {
            Ok(Observed::Running { ready: true, .. }) => return Ok(slug),
            Ok(Observed::Running { .. })
                if cells.core.rt.now() < until && !cells.pool.is_closed() =>
            {
                cells.core.rt.sleep(POLL_INTERVAL).await;
                continue;
            }
            Ok(Observed::Exited(record)) => record.exit.to_string(),
            Ok(_) => "it was not ready within 3 minutes".to_owned(),
            Err(error) => error.chain(),
        };
        commands::discard_vm(cells, &slug).await;
        return Err(commands::internal_error(format!(
            "a microVM for the pool did not start: {why}"
        )));
    }
}

/// Closes the pool for good and discards its microVMs.
pub(crate) async fn close_pool(cells: &Arc<CellsState>) {
    cells.pool.closed.store(true, Ordering::SeqCst);
    for slug in cells.pool.remove_entries(false, cells.core.rt.now()) {
        commands::discard_vm(cells, &slug).await;
    }
}

/// Discards microVMs of unused shapes periodically, and all of them when the control plane stops.
pub(crate) async fn run_pool_expiry(cells: Arc<CellsState>) {
    loop {
        let over = tokio::select! {
            () = cells.core.rt.sleep(EXPIRE_EVERY) => false,
            () = cells.core.rt.stopped() => true,
        };
        if over {
            return close_pool(&cells).await;
        }
        for slug in cells.pool.remove_entries(true, cells.core.rt.now()) {
            commands::discard_vm(&cells, &slug).await;
        }
    }
}
