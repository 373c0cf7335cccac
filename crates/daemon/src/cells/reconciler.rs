//! The reconciler: compares the desired state of each cell with its observed state, and acts.
//!
//! It is woken by a request, by the end of a shim and by a timer. It takes no input, compares every
//! cell on each pass, keeps cells independent of each other, and publishes its observations.
//! Queries never come here.

use crate::cells::agent_credentials::restore_agent_credentials;
use crate::cells::observations::Seen;
use crate::cells::state::CellsState;
use crate::cells::{memory, process_end, specs, status};
use crate::core::error::{Error, Result};
use crate::core::plan::PlanInForce;
use crate::core::runtime;
use abbey_cells::Backend;
use abbey_engine::supervision::{self, Action, Desired, History};
use abbey_model::{CellName, DesiredState, ExitKind, Generation, Observed, Principal};
use abbey_plan::ResourceKind;
use abbey_store::{CellChange, NewAuditEntry, Topic};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest time between two passes.
const IDLE: Duration = Duration::from_secs(30);
/// Pause while a cell is starting or stopping.
const MOVING: Duration = Duration::from_millis(20);

/// Pause while a cell waits for memory or another service.
const WAITING: Duration = Duration::from_secs(2);

/// Pause after a pass that failed.
const RETRY: Duration = Duration::from_secs(1);

/// Runs reconciler passes until the control plane stops.
pub(crate) async fn run_reconciler(cells: Arc<CellsState>) {
    let mut histories: BTreeMap<CellName, History> = BTreeMap::new();
    let mut desired = cells.core.store.subscribe(Topic::Cells);
    // Whoever writes a desired state may not have updated the copy in memory yet when its commit
    // wakes this loop, so the rows are read again.
    let mut stale = true;
    let mut logged: Option<Instant> = None;
    loop {
        if stale || desired.has_changed().unwrap_or(false) {
            desired.mark_unchanged();
            let read = read_desired(&cells).await;
            stale = read.is_err();
            if let Err(error) = read {
                tracing::error!(
                    error = error.chain(),
                    "the desired state of cells could not be read from the store; retrying at the next pass"
                );
            }
        }
        let shutting_down = cells.core.shutdown.is_requested();
        let pause = match reconcile_all_cells(&cells, &mut histories).await {
            Ok(pause) => pause,
            Err(error) => {
                let (now, why) = (cells.core.rt.now(), error.chain());
                // Whoever asks for a pass gets one at once, and the log gets a line a second.
                if logged.is_none_or(|at| now.duration_since(at) >= RETRY) {
                    logged = Some(now);
                    tracing::error!(
                        error = why,
                        "the reconciler pass failed; retrying in a second"
                    );
                }
                cells.observations.record_failed_pass(why, now);
                RETRY
            }
        };
        if shutting_down {
            cells.mark_starts_over();
        }
        let ends = wait_for_any_shim_end(&cells);
        tokio::select! {
            () = cells.core.rt.stopped() => return,
            () = cells.reconcile_requested() => {}
            _ = desired.changed() => stale = true,
            () = ends => {}
            () = cells.core.rt.sleep(pause) => {}
        }
    }
}

/// Reads the desired state of each cell from the store.
pub(crate) async fn read_desired(cells: &CellsState) -> Result<()> {
    let rows = cells.core.store.cells().await?;
    let desired = rows.into_iter().map(|(cell, row)| (cell, row.desired));
    cells.desired.replace_all(desired.collect());
    Ok(())
}

/// Resolves when the shim of any running cell ends, or has ended since it was observed.
async fn wait_for_any_shim_end(cells: &CellsState) {
    let shims = cells.observations.running_shims();
    process_end::wait_for_any_end(&cells.core.rt, &shims).await;
}

/// Makes one pass over every planned or existing cell, and returns the time until the next pass is
/// due. `histories` is the caller's cache; an empty one is read from the store.
pub(crate) async fn reconcile_all_cells(
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
    for cell in cells.observations.begin_pass() {
        if let Some(history) = histories.get_mut(&cell) {
            *history = supervision::after_request(history);
        }
    }
    let wanted = desired_cells(cells);
    let backend = Arc::clone(&cells.backend);
    let found = call_backend(move || backend.list()).await?;
    // Cells of running commands are managed by the task that runs the command.
    let is_running_command =
        |c: &CellName| matches!(c, CellName::Run(slug) if cells.commands.is_running(slug));
    let found = found.into_iter().filter(|c| !is_running_command(c));
    let found: BTreeSet<CellName> = found.collect();
    let names: BTreeSet<CellName> = wanted.keys().chain(&found).cloned().collect();
    let mut jobs = Vec::new();
    for cell in names {
        let desired = wanted.get(&cell).cloned().unwrap_or(Desired::Down);
        let history = histories.get(&cell).cloned().unwrap_or_default();
        let is_found = found.contains(&cell);
        jobs.push(reconcile_cell_or_report(
            Arc::clone(cells),
            (cell, is_found),
            desired,
            history,
        ));
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
    cells
        .observations
        .replace_all(published, cells.core.rt.now());
    Ok(next)
}

/// Desired state of each cell, from the plan, the operator and a pending shutdown.
fn desired_cells(cells: &CellsState) -> BTreeMap<CellName, Desired> {
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
        let wish = cells.desired.state_of(&cell);
        let desired = match wish {
            _ if down => Desired::Down,
            DesiredState::Down => Desired::Down,
            DesiredState::Up if cells.is_held_paused(&cell) => Desired::Held { spec },
            DesiredState::Up => Desired::Up { spec },
            DesiredState::Paused => Desired::Paused { spec },
        };
        (cell, desired)
    };
    agents.chain(services).map(desire).collect()
}

/// Reconciles one cell; a failure is logged and recorded in its observation. `is_found` is whether the backend lists it.
async fn reconcile_cell_or_report(
    cells: Arc<CellsState>,
    (cell, is_found): (CellName, bool),
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
        refused: None,
        held_up_since: None,
    };
    let pause = match reconcile_cell(&cells, &cell, is_found, &mut seen).await {
        Ok(pause) => {
            if let Err(error) = log_worker_change(&cells, &cell, &seen).await {
                tracing::warn!(%cell, error = error.chain(), "a change of its worker could not be logged to the audit log");
            }
            pause
        }
        Err(error) => {
            tracing::warn!(%cell, error = error.chain(), "the cell could not be reconciled; retrying in 2 seconds");
            seen.error = Some(error.chain());
            Duration::from_secs(2)
        }
    };
    (cell, seen, pause)
}

/// Logs to the audit log that the worker of a cell hangs, or works again, since the last pass.
async fn log_worker_change(cells: &CellsState, cell: &CellName, seen: &Seen) -> Result<()> {
    let works = |seen: &Seen| match seen.observed {
        Observed::Running {
            generation, worker, ..
        } => Some((generation, worker)),
        _ => None,
    };
    let Some((generation, worker)) = works(seen) else {
        return Ok(());
    };
    let before = cells.observations.seen(cell);
    let worked = before.and_then(|s| works(&s)).filter(|b| b.0 == generation);
    if worker == worked.is_none_or(|(_, worked)| worked) {
        return Ok(());
    }
    let action = match worker {
        true => "cell.responsive",
        false => "cell.unresponsive",
    };
    let note = NewAuditEntry {
        actor: Principal::House,
        action: action.to_owned(),
        entity: cell.to_string(),
        detail: json!({ "generation": generation }),
    };
    Ok(cells.core.store.append_audit_entry(note).await.map(drop)?)
}

async fn reconcile_cell(
    cells: &Arc<CellsState>,
    cell: &CellName,
    is_found: bool,
    seen: &mut Seen,
) -> Result<Duration> {
    // Commands sweep their own cells.
    let mut may_be_left = is_found && !matches!(cell, CellName::Run(_));
    // Several steps may be due at once: exited, swept, and started again.
    for _ in 0..4 {
        seen.observed = observe_cell(cells, cell, seen).await?;
        if std::mem::take(&mut may_be_left) && seen.observed == Observed::Nothing {
            // Listed, but without a record of a boot: nobody else ends that, and `abbey down` waits for it.
            let (backend, name) = (Arc::clone(&cells.backend), cell.clone());
            call_backend(move || backend.sweep(&name)).await?;
        }
        let now = cells.core.store.now();
        let (next, action) = supervision::decide(&seen.desired, &seen.observed, &seen.history, now);
        // The end of provisioning requests a pass.
        if matches!(action, Action::Start(_)) && !is_plan_provisioned(cells) {
            return Ok(WAITING);
        }
        if matches!(action, Action::Start(_)) && waits_for_ports(cells, cell) {
            return Ok(MOVING);
        }
        if matches!(action, Action::Start(_))
            && let Some(why) = start_blocker(cells, cell, &seen.history).await?
        {
            seen.waits = Some(why);
            return Ok(WAITING);
        }
        if next != seen.history {
            match write_history(cells, cell, &seen.history, &next).await {
                Ok(()) => seen.history = next,
                // Ending a cell needs no space. What happened is written by the next pass that finds some.
                Err(error) if seen.desired == Desired::Down && is_disk_full(&error) => {
                    tracing::warn!(%cell, error = error.chain(), "the history of the cell could not be written");
                }
                Err(error) => return Err(error),
            }
        }
        match action {
            Action::Rest => return Ok(poll_interval(&seen.observed)),
            Action::WaitUntil(at) => {
                return Ok(poll_interval(&seen.observed).min(at.since(now).to_std().max(MOVING)));
            }
            Action::Stop => {
                let (backend, name) = (Arc::clone(&cells.backend), cell.clone());
                let grace = specs::stop_grace(cells, cell);
                call_backend(move || backend.stop(&name, grace)).await?;
                return Ok(MOVING);
            }
            Action::Pause | Action::Resume => {
                let (backend, name) = (Arc::clone(&cells.backend), cell.clone());
                let pause = action == Action::Pause;
                call_backend(move || backend.pause(&name, pause)).await?;
            }
            Action::Sweep => {
                let (backend, name) = (Arc::clone(&cells.backend), cell.clone());
                call_backend(move || backend.sweep(&name)).await?;
                if let CellName::Agent(slug) = cell {
                    let exit = seen.history.last_exit.as_ref().map(|record| &record.exit);
                    let by_order = exit.is_some_and(ExitKind::says_nothing_about_the_cell);
                    let store = &cells.core.store;
                    let revoked = store.revoke_leases(slug.clone(), None, by_order).await;
                    match revoked.map_err(Error::from) {
                        // Without a holder that renews them they expire.
                        Err(error) if is_disk_full(&error) => {
                            tracing::warn!(%cell, error = error.chain(), "the leases of the cell could not be revoked");
                        }
                        revoked => drop(revoked?),
                    }
                }
            }
            Action::Start(generation) => {
                if let Err(error) = start_cell(cells, cell, generation).await {
                    // A start that failed later left an exit record, which the next look counts; and a hostd that is away
                    // has refused nothing.
                    if is_hostd_away(&error) {
                        return Err(error);
                    }
                    match observe_cell(cells, cell, seen).await? {
                        Observed::Nothing => {
                            let next = supervision::after_refused_start(&seen.history, now);
                            write_history(cells, cell, &seen.history, &next).await?;
                            seen.history = next;
                            seen.refused = Some(error.chain());
                        }
                        // A shim that could not write its record. The next look counts it; only this one knows why.
                        Observed::Orphaned { .. } => seen.refused = Some(error.chain()),
                        Observed::Running { .. } | Observed::Exited(_) => {}
                    }
                    return Err(error);
                }
            }
        }
    }
    Ok(MOVING)
}

/// Whether provisioning of the plan in force has ended, so that its cells may start.
fn is_plan_provisioned(cells: &CellsState) -> bool {
    let current = cells.core.plan.current();
    current.is_none_or(|plan| cells.is_provisioned(plan.generation))
}

/// Whether a cell that listens on the host waits, since another one that is about to stop may have its port still.
fn waits_for_ports(cells: &CellsState, cell: &CellName) -> bool {
    let Some(current) = cells.core.plan.current() else {
        return false;
    };
    let owner = cell.owner();
    let mut rows = current.registry.rows();
    if !rows.any(|r| r.owner == owner && r.kind == ResourceKind::Port) {
        return false;
    }
    let desired = desired_cells(cells);
    let seen = cells.observations.snapshot();
    seen.into_iter()
        .filter(|(other, _)| other != cell)
        .any(|(other, seen)| {
            let Observed::Running { spec: is, .. } = seen.observed else {
                return false;
            };
            match desired.get(&other) {
                Some(Desired::Up { spec }) => *spec != is,
                Some(Desired::Paused { .. } | Desired::Held { .. }) => false,
                Some(Desired::Down) | None => !matches!(other, CellName::Run(_)),
            }
        })
}

/// Why a cell cannot be started yet; the first occurrence is logged to the audit log.
async fn start_blocker(
    cells: &Arc<CellsState>,
    cell: &CellName,
    history: &History,
) -> Result<Option<String>> {
    let Some(current) = cells.core.plan.current() else {
        return Ok(None);
    };
    let last = history.last_exit.as_ref();
    let peak = last.and_then(|e| e.spent).map(|s| s.memory_peak);
    let why = match unhealthy_dependency(cells, &current, cell).await {
        Some(why) => why,
        None => match memory::grant_to_planned_cell(
            &cells.memory,
            &current,
            cell,
            peak,
            cells.core.rt.now(),
        ) {
            Ok(()) => return Ok(None),
            Err(why) => why,
        },
    };
    let waited = cells.observations.is_waiting(cell);
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

/// Problem of a service that this service needs, if one is not healthy.
async fn unhealthy_dependency(
    cells: &CellsState,
    current: &PlanInForce,
    cell: &CellName,
) -> Option<String> {
    let CellName::Service(slug) = cell else {
        return None;
    };
    for needed in &current.house.services.get(slug)?.needs {
        if let Some(why) = status::service_problem(cells, current, needed).await {
            return Some(format!("it needs another service: {why}"));
        }
    }
    None
}

/// Whether an error says that no disk space is left for the state.
fn is_disk_full(error: &Error) -> bool {
    matches!(error, Error::Store(abbey_store::Error::DiskFull(_)))
}

/// Whether an error only says that no hostd answered.
fn is_hostd_away(error: &Error) -> bool {
    use abbey_cells::Error::{HostdHangs, HostdLost, HostdSilent, HostdUnfinished};
    matches!(
        error,
        Error::Cell(
            HostdSilent { .. } | HostdHangs { .. } | HostdUnfinished { .. } | HostdLost { .. }
        )
    )
}

async fn observe_cell(
    cells: &Arc<CellsState>,
    cell: &CellName,
    seen: &mut Seen,
) -> Result<Observed> {
    let (backend, name): (Arc<dyn Backend>, CellName) = (Arc::clone(&cells.backend), cell.clone());
    let (observed, record) =
        call_backend(move || Ok((backend.observe(&name)?, backend.record(&name)?))).await?;
    seen.record = record;
    Ok(observed)
}

fn poll_interval(observed: &Observed) -> Duration {
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

async fn start_cell(
    cells: &Arc<CellsState>,
    cell: &CellName,
    generation: Generation,
) -> Result<()> {
    let Some(current) = cells.core.plan.current() else {
        return Ok(());
    };
    let Some(spec) = specs::cell_spec(cells, &current, cell)? else {
        return Ok(());
    };
    // Its programs may have removed what it authenticates with.
    if let CellName::Agent(slug) = cell
        && generation > Generation(1)
    {
        // If that fails, its program says what it is missing.
        if let Err(error) = restore_agent_credentials(cells, &current, slug).await {
            tracing::warn!(%cell, error = error.chain(), "the credentials of the agent could not be put back");
        }
    }
    let backend = Arc::clone(&cells.backend);
    let outcome = call_backend(move || backend.start(&spec, generation)).await;
    if let Err(error) = outcome {
        tracing::warn!(%cell, error = error.chain(), "the cell could not be started; it is retried after its backoff");
        return Err(error);
    }
    // After the start: a microVM has its files in itself, and gets them only while it runs.
    if let CellName::Agent(slug) = cell {
        cells.request_service_credentials(slug);
    }
    Ok(())
}

/// Stores a changed history of a cell together with the audit entry that explains it.
async fn write_history(
    cells: &CellsState,
    cell: &CellName,
    old: &History,
    new: &History,
) -> Result<()> {
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
            json!({
                "exit": exit.map(|e| e.exit.to_string()),
                "generation": exit.map(|e| e.generation),
                "failures": new.failures,
                "requested": exit.is_some_and(|e| e.exit.was_requested()),
                // Nobody saw when a shim disappeared, or the host went down.
                "ended_at": exit
                    .filter(|e| !matches!(e.exit, ExitKind::Lost | ExitKind::HostRestarted))
                    .map(|e| e.ended_at),
            }),
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

async fn call_backend<T: Send + 'static>(
    work: impl FnOnce() -> abbey_cells::Result<T> + Send + 'static,
) -> Result<T> {
    use abbey_api::Problem;
    use abbey_model::FaultKind;
    let joined = runtime::run_blocking(work).await;
    Ok(joined.map_err(|e| Problem::new(FaultKind::Internal, e.to_string()))??)
}
