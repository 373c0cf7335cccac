//! The reconciler of cells: compares what is wanted with what is seen, and acts.
//!
//! Woken by signal, by a shim's end and by a timer; takes no input; compares everything on each
//! pass; keeps cells independent of each other; publishes what it saw. Queries never come here.

use crate::cells::observations::Seen;
use crate::cells::state::CellsState;
use crate::cells::{memory, process_end, specs, status};
use crate::core::error::Result;
use crate::core::plan::PlanInForce;
use crate::core::runtime;
use abbey_cells::Backend;
use abbey_engine::supervision::{self, Action, Desired, History};
use abbey_model::{CellName, DesiredState, Generation, Observed, Principal};
use abbey_store::{CellChange, NewAuditEntry, Topic};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Safety net between two passes when nothing calls.
const IDLE: Duration = Duration::from_secs(30);
/// Pause while a cell is on its way up or down.
const MOVING: Duration = Duration::from_millis(20);

/// Pause while a cell waits for room.
const WAITING: Duration = Duration::from_secs(2);

/// Runs passes until the house stops.
pub(crate) async fn run(cells: Arc<CellsState>) {
    let mut histories: BTreeMap<CellName, History> = BTreeMap::new();
    let mut desired = cells.core.store.subscribe(Topic::Cells);
    // Whoever writes a desired state may not have updated the copy in memory yet when its commit
    // wakes this loop, so the rows are read again.
    let mut stale = true;
    loop {
        if stale || desired.has_changed().unwrap_or(false) {
            desired.mark_unchanged();
            let read = read_desired(&cells).await;
            stale = read.is_err();
            if let Err(error) = read {
                tracing::error!(
                    error = error.chain(),
                    "the desired state of cells could not be read"
                );
            }
        }
        let shutting_down = cells.core.shutdown.is_requested();
        let pause = match pass(&cells, &mut histories).await {
            Ok(pause) => pause,
            Err(error) => {
                tracing::error!(error = error.chain(), "the pass over the cells failed");
                Duration::from_secs(1)
            }
        };
        if shutting_down {
            cells.set_starts_over();
        }
        let ends = watch_ends(&cells);
        tokio::select! {
            () = cells.core.rt.stopped() => return,
            () = cells.pass_requested() => {}
            _ = desired.changed() => stale = true,
            () = ends => {}
            () = cells.core.rt.sleep(pause) => {}
        }
    }
}

/// Reads what the operator wants of each cell.
async fn read_desired(cells: &CellsState) -> Result<()> {
    let rows = cells.core.store.cells().await?;
    let desired = rows.into_iter().map(|(cell, row)| (cell, row.desired));
    cells.desired.replace(desired.collect());
    Ok(())
}

/// Resolves when the shim of any running cell ends.
async fn watch_ends(cells: &CellsState) {
    let pids = cells.observations.running_shims();
    let handles: Vec<_> = pids
        .into_iter()
        .filter_map(process_end::exit_watch)
        .collect();
    if handles.is_empty() {
        return std::future::pending().await;
    }
    let waits = handles.iter().map(|h| Box::pin(h.readable()));
    let _any = futures_util::future::select_all(waits).await;
}

/// One pass over every cell, known or found.
pub(crate) async fn pass(
    cells: &Arc<CellsState>,
    histories: &mut BTreeMap<CellName, History>,
) -> Result<Duration> {
    let rows = match histories.is_empty() {
        // Histories are read once; afterwards this loop is their only writer.
        true => Some(cells.core.store.cells().await?),
        false => None,
    };
    if let Some(rows) = &rows {
        histories.extend(rows.iter().map(|(c, r)| (c.clone(), r.history.clone())));
    }
    let wanted = wanted(cells);
    let backend = Arc::clone(&cells.backend);
    let found = blocking(move || backend.list()).await?;
    // A single command belongs to whoever waits for it.
    let theirs = |c: &CellName| matches!(c, CellName::Run(slug) if cells.commands.runs(slug));
    let found = found.into_iter().filter(|c| !theirs(c));
    let names: BTreeSet<CellName> = wanted.keys().cloned().chain(found).collect();
    let mut jobs = Vec::new();
    for cell in names {
        let desired = wanted.get(&cell).cloned().unwrap_or(Desired::Down);
        let history = histories.get(&cell).cloned().unwrap_or_default();
        jobs.push(one(Arc::clone(cells), cell, desired, history));
    }
    let outcomes = futures_util::future::join_all(jobs).await;
    let mut next = IDLE;
    let mut published = BTreeMap::new();
    for (cell, seen, pause) in outcomes {
        next = next.min(pause);
        histories.insert(cell.clone(), seen.history.clone());
        published.insert(cell, seen);
    }
    histories.retain(|cell, _| published.contains_key(cell));
    cells.observations.publish(published);
    Ok(next)
}

/// What the plan and the operator want of each cell.
fn wanted(cells: &CellsState) -> BTreeMap<CellName, Desired> {
    let Some(current) = cells.core.plan.current() else {
        return BTreeMap::new();
    };
    let down = cells.core.shutdown.is_requested();
    let agents = current
        .applied
        .agents
        .iter()
        .map(|(s, (d, _))| (CellName::Agent(s.clone()), d.clone()));
    let services = current
        .applied
        .services
        .iter()
        .map(|(s, d)| (CellName::Service(s.clone()), d.clone()));
    let desire = |(cell, spec): (CellName, String)| {
        let wish = cells.desired.of(&cell);
        let desired = match wish {
            _ if down => Desired::Down,
            DesiredState::Down => Desired::Down,
            DesiredState::Up => Desired::Up { spec },
            DesiredState::Paused => Desired::Paused { spec },
        };
        (cell, desired)
    };
    agents.chain(services).map(desire).collect()
}

/// Looks at one cell and acts; its failure is its own.
async fn one(
    cells: Arc<CellsState>,
    cell: CellName,
    desired: Desired,
    history: History,
) -> (CellName, Seen, Duration) {
    let mut seen = Seen {
        desired,
        observed: Observed::Nothing,
        history,
        record: None,
        error: None,
        waits: None,
    };
    let pause = match attend(&cells, &cell, &mut seen).await {
        Ok(pause) => pause,
        Err(error) => {
            tracing::warn!(%cell, error = error.chain(), "the cell could not be reconciled");
            seen.error = Some(error.chain());
            Duration::from_secs(2)
        }
    };
    (cell, seen, pause)
}

async fn attend(cells: &Arc<CellsState>, cell: &CellName, seen: &mut Seen) -> Result<Duration> {
    // Several steps may be due at once: exited, swept, and started again.
    for _ in 0..4 {
        seen.observed = look(cells, cell, seen).await?;
        let now = cells.core.store.now();
        let (next, action) = supervision::decide(&seen.desired, &seen.observed, &seen.history, now);
        // The end of provisioning asks for a pass.
        if matches!(action, Action::Start(_)) && !provisioned(cells) {
            return Ok(WAITING);
        }
        if matches!(action, Action::Start(_))
            && let Some(why) = waits_for(cells, cell, &seen.history).await?
        {
            seen.waits = Some(why);
            return Ok(WAITING);
        }
        if next != seen.history {
            remember(cells, cell, &seen.history, &next).await?;
            seen.history = next;
        }
        match action {
            Action::Rest => return Ok(resting(&seen.observed)),
            Action::WaitUntil(at) => {
                return Ok(resting(&seen.observed).min(at.since(now).to_std().max(MOVING)));
            }
            Action::Stop => {
                let (backend, name) = (Arc::clone(&cells.backend), cell.clone());
                let grace = specs::stop_grace(cells, cell);
                blocking(move || backend.stop(&name, grace)).await?;
                return Ok(MOVING);
            }
            Action::Pause | Action::Resume => {
                let (backend, name) = (Arc::clone(&cells.backend), cell.clone());
                let pause = action == Action::Pause;
                blocking(move || backend.pause(&name, pause)).await?;
            }
            Action::Sweep => {
                let (backend, name) = (Arc::clone(&cells.backend), cell.clone());
                blocking(move || backend.sweep(&name)).await?;
                if let CellName::Agent(slug) = cell {
                    cells.core.store.revoke_leases(slug.clone(), None).await?;
                }
            }
            Action::Start(generation) => start(cells, cell, generation).await?,
        }
    }
    Ok(MOVING)
}

/// Whether the plan in force has its files in place, so that cells may start.
fn provisioned(cells: &CellsState) -> bool {
    let current = cells.core.plan.current();
    current.is_none_or(|plan| cells.is_provisioned(plan.generation))
}

/// Why a cell is not started yet. The first time is entered in the log.
async fn waits_for(
    cells: &Arc<CellsState>,
    cell: &CellName,
    history: &History,
) -> Result<Option<String>> {
    let Some(current) = cells.core.plan.current() else {
        return Ok(None);
    };
    let last = history.last_exit.as_ref();
    let peak = last.and_then(|e| e.spent).map(|s| s.memory_peak);
    let why = match lacks_others(cells, &current, cell).await {
        Some(why) => why,
        None => match memory::of_plan(&cells.memory, &current, cell, peak, cells.core.rt.instant())
        {
            Ok(()) => return Ok(None),
            Err(why) => why,
        },
    };
    let waited = cells.observations.waits(cell);
    if !waited {
        let note = NewAuditEntry {
            actor: Principal::House,
            action: "cell.waits".to_owned(),
            entity: cell.to_string(),
            detail: json!({ "why": why }),
        };
        cells.core.store.append_audit_entry(note).await?;
    }
    Ok(Some(why))
}

/// What a service needs and what is not well yet.
async fn lacks_others(
    cells: &CellsState,
    current: &PlanInForce,
    cell: &CellName,
) -> Option<String> {
    let CellName::Service(slug) = cell else {
        return None;
    };
    for needed in &current.house.services.get(slug)?.needs {
        if let Some(why) = status::not_well(cells, current, needed).await {
            return Some(format!("it needs another: {why}"));
        }
    }
    None
}

async fn look(cells: &Arc<CellsState>, cell: &CellName, seen: &mut Seen) -> Result<Observed> {
    let (backend, name): (Arc<dyn Backend>, CellName) = (Arc::clone(&cells.backend), cell.clone());
    let (observed, record) =
        blocking(move || Ok((backend.observe(&name)?, backend.record(&name)?))).await?;
    seen.record = record;
    Ok(observed)
}

fn resting(observed: &Observed) -> Duration {
    match observed {
        Observed::Running {
            ready: true,
            stopping: false,
            ..
        }
        | Observed::Nothing => IDLE,
        Observed::Running { .. } | Observed::Exited(_) | Observed::Orphaned { .. } => MOVING,
    }
}

async fn start(cells: &Arc<CellsState>, cell: &CellName, generation: Generation) -> Result<()> {
    let Some(current) = cells.core.plan.current() else {
        return Ok(());
    };
    let Some(spec) = specs::cell_spec(cells, &current, cell)? else {
        return Ok(());
    };
    let backend = Arc::clone(&cells.backend);
    // A failed start leaves an exit record; the next look finds it and backs off.
    let outcome = blocking(move || backend.start(&spec, generation)).await;
    if let Err(error) = outcome {
        tracing::warn!(%cell, error = error.chain(), "the cell did not start");
        return Err(error);
    }
    Ok(())
}

/// Writes a changed history with the entry that explains it.
async fn remember(cells: &CellsState, cell: &CellName, old: &History, new: &History) -> Result<()> {
    let note = |action: &str, detail| {
        Some(NewAuditEntry {
            actor: Principal::House,
            action: action.to_owned(),
            entity: cell.to_string(),
            detail,
        })
    };
    let entry = if new.last_exit != old.last_exit {
        let exit = new.last_exit.as_ref();
        note(
            "cell.exit",
            json!({ "exit": exit.map(|e| e.exit.to_string()), "generation": exit.map(|e| e.generation), "failures": new.failures }),
        )
    } else if new.generation != old.generation {
        note(
            "cell.start",
            json!({ "generation": new.generation, "restarts": new.restarts }),
        )
    } else {
        None
    };
    let change = CellChange {
        desired: None,
        history: Some((new.clone(), entry)),
    };
    Ok(cells.core.store.set_cell(cell.clone(), change).await?)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> abbey_cells::Result<T> + Send + 'static,
) -> Result<T> {
    use abbey_api::Problem;
    use abbey_model::FaultKind;
    let joined = runtime::blocking(work).await;
    Ok(joined.map_err(|e| Problem::new(FaultKind::Internal, e.to_string()))??)
}
