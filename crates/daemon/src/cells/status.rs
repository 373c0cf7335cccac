//! Current status of cells from the newest observation, probes and resource readings; the latter
//! two are cached briefly so that many viewers cost no more than one.

use crate::cells::observations::{AgentAnswers, AgentReading, Seen};
use crate::cells::probes::{StoppedProcess, is_answering, listens, stopped_service_process};
use crate::cells::state::CellsState;
use crate::core::plan::PlanInForce;
use crate::core::runtime::run_blocking;
use abbey_cells::CellRecord;
use abbey_engine::supervision::{self, CRASH_LOOP};
use abbey_model::{CellKind, CellName, Millis, Observed, Presence, Slug};
use abbey_plan::{Probe, Service};
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::watch;

/// How long a probe's answer and a resource reading are reused.
pub(crate) const FRESH: Duration = Duration::from_millis(500);

/// Whether the service or agent at an address answers its probe; a positive answer is reused for
/// [`FRESH`] for the same `generation` of the cell. With `shim`, it counts only if a process below that one listens there.
pub(crate) async fn probe_cached(
    cells: &CellsState,
    address: SocketAddrV4,
    probe: Probe<'_>,
    generation: u64,
    shim: Option<i32>,
) -> bool {
    let key = (address, generation);
    let known = {
        let readings = cells.observations.readings.lock();
        readings.probes.get(&key).copied()
    };
    if let Some((at, answer)) = known
        && answer
        && cells.core.rt.now().duration_since(at) < FRESH
    {
        return answer;
    }
    let answer = is_answering(&cells.core.rt, address, probe).await && listens(shim, address).await;
    let mut readings = cells.observations.readings.lock();
    readings
        .probes
        .retain(|(a, g), _| *a != address || *g == generation);
    readings.probes.insert(key, (cells.core.rt.now(), answer));
    answer
}

/// Memory and CPU of a running cell's control group, read at most once per [`FRESH`].
pub(crate) fn cgroup_usage_cached(
    cells: &CellsState,
    record: &CellRecord,
) -> abbey_cells::CgroupUsage {
    let key = record.shim.pid;
    let now = cells.core.rt.now();
    let mut readings = cells.observations.readings.lock();
    if let Some((at, usage)) = readings.usages.get(&key)
        && now.duration_since(*at) < FRESH
    {
        return *usage;
    }
    let usage = abbey_cells::ControlGroups::from_paths(record.groups.clone()).usage();
    readings
        .usages
        .retain(|_, (at, _)| now.duration_since(*at) < FRESH * 20);
    readings.usages.insert(key, (now, usage));
    usage
}

/// Longest wait for the answer through an agent's own port: the control plane gives it itself.
const DOOR_WITHIN: Duration = Duration::from_secs(2);

/// Whether the cell runs, is ready and was not asked to stop.
fn is_serving(seen: &Seen) -> bool {
    matches!(
        seen.observed,
        Observed::Running {
            ready: true,
            stopping: false,
            paused: false,
            ..
        }
    )
}

/// Presence of a service that the house runs, from its observation and, if it runs and has an address and a probe, that
/// probe; with the probe's answer.
pub(crate) async fn service_presence(
    cells: &CellsState,
    seen: Option<&Seen>,
    at: Option<SocketAddrV4>,
    service: &Service,
) -> (Presence, Option<bool>) {
    let Some(seen) = seen else {
        return (Presence::Unknown, None);
    };
    let running = is_serving(seen);
    let answers = match (running, at, service.probe()) {
        (true, Some(at), Some(probe)) => {
            let generation = seen.history.generation.0;
            Some(probe_cached(cells, at, probe, generation, shim_on_host(seen, service)).await)
        }
        _ => None,
    };
    let ingress = answers.unwrap_or(running);
    let presence = supervision::presence(&seen.desired, &seen.observed, &seen.history, ingress);
    let stopped = stopped_service_process(seen, service);
    let presence = match (presence, stopped) {
        (Presence::Ready | Presence::WorkerOnly, Some(StoppedProcess::Program(_))) => {
            Presence::Down
        }
        (Presence::Ready, _) if is_settling(cells, seen, service) => {
            match seen.history.failures >= CRASH_LOOP {
                true => Presence::Degraded,
                false => Presence::Starting,
            }
        }
        (presence, _) => presence,
    };
    (presence, answers)
}

/// Uptime from which on a service counts as started.
fn settle_time(seen: &Seen, service: &Service) -> Millis {
    supervision::settle_time(&seen.history, service.probe().is_some())
}

/// Whether a service runs, but not yet for as long as it has to, to count as started.
pub(crate) fn is_settling(cells: &CellsState, seen: &Seen, service: &Service) -> bool {
    match seen.observed {
        Observed::Running { started_at, .. } => {
            cells.core.store.now().since(started_at) < settle_time(seen, service)
        }
        _ => false,
    }
}

/// Why a service that runs does not count as started yet.
pub(crate) fn describe_settling(seen: &Seen, service: &Service) -> String {
    let seconds = |time: Millis| (time.0 + 999) / 1000;
    let needed = seconds(settle_time(seen, service));
    let history = &seen.history;
    let exit = history.last_exit.as_ref();
    let exit = exit.filter(|last| !last.exit.was_requested());
    let exit = exit.map_or_else(String::new, |last| format!(" ({})", last.exit));
    let lived = seconds(history.lived);
    let before = match history.early_ends {
        0 => {
            return format!(
                "nothing probes it, so it counts as ready once it has run for {needed} s"
            );
        }
        1 => format!("it failed {lived} s after its last start{exit}"),
        ends => format!(
            "it failed soon after each of its last {ends} starts, the last time after {lived} s{exit}"
        ),
    };
    format!("{before}, so it counts as ready once it has run for {needed} s")
}

/// Why a service that the house runs, of this presence, is not as it should be, as far as its cell tells: a process of it
/// is stopped, it keeps failing, or it does not answer.
pub(crate) fn describe_trouble(
    cells: &CellsState,
    seen: &Seen,
    service: &Service,
    presence: Presence,
) -> Option<String> {
    if let Some(stopped) = stopped_service_process(seen, service) {
        return Some(stopped.describe());
    }
    if presence == Presence::WorkerOnly {
        return Some(describe_silence(service));
    }
    let fails = seen.history.early_ends > 0 && is_settling(cells, seen, service);
    fails.then(|| describe_settling(seen, service))
}

/// Shim of a service whose program listens on the host's own network, where anybody may have its port.
fn shim_on_host(seen: &Seen, service: &Service) -> Option<i32> {
    let on_host = service.at.is_none() && service.cell == CellKind::Process;
    let record = seen.record.as_ref().filter(|_| on_host);
    record.map(|record| record.shim.pid)
}

/// Presence of an agent from its observation and, if it runs, from two probes: the heartbeat of its worker, and a
/// request through its own port.
pub(crate) async fn agent_presence(
    cells: &Arc<CellsState>,
    cell: &CellName,
    seen: Option<&Seen>,
) -> Presence {
    let Some(seen) = seen else {
        return Presence::Unknown;
    };
    let mut observed = seen.observed.clone();
    let mut ingress = true;
    if is_serving(seen) {
        let generation = seen.history.generation.0;
        let (works, answers) = probe_agent_cached(cells, cell, generation).await;
        if let Observed::Running { worker, .. } = &mut observed {
            *worker = works;
        }
        ingress = answers;
    }
    supervision::presence(&seen.desired, &observed, &seen.history, ingress)
}

/// Longest wait of a request for probes whose last answers are known; they go on without it. So no agent that keeps its
/// own port busy delays who asks for the state of all.
const REQUEST_WAITS: Duration = Duration::from_millis(100);

/// Whether the worker of an agent sends heartbeats, and whether its own port answers; two positive answers are reused
/// for [`FRESH`] for the same `generation` of the cell. If the probes take long, their last answers count.
async fn probe_agent_cached(
    cells: &Arc<CellsState>,
    cell: &CellName,
    generation: u64,
) -> AgentAnswers {
    let rt = &cells.core.rt;
    let (known, mut probe) = {
        let mut readings = cells.observations.readings.lock();
        let known = readings.agents.get(cell).copied();
        let known = known.filter(|k| k.generation == generation);
        if let Some(known) = known
            && known.answers == (true, true)
            && rt.now().duration_since(known.at) < FRESH
        {
            return known.answers;
        }
        let probing = readings.probing.get(cell);
        let probe = match probing.filter(|(g, p)| *g == generation && p.has_changed().is_ok()) {
            Some((_, probe)) => probe.clone(),
            None => {
                let (answer, probe) = watch::channel(None);
                let probing = (generation, probe.clone());
                readings.probing.insert(cell.clone(), probing);
                let (cells, cell) = (Arc::clone(cells), cell.clone());
                drop(rt.spawn_untracked(async move {
                    let answers = probe_agent(&cells, &cell).await;
                    let at = cells.core.rt.now();
                    let reading = AgentReading {
                        at,
                        generation,
                        answers,
                    };
                    cells
                        .observations
                        .readings
                        .lock()
                        .agents
                        .insert(cell, reading);
                    let _nobody_waits = answer.send(Some(answers));
                }));
                probe
            }
        };
        (known, probe)
    };
    let answered = async {
        let answers = probe.wait_for(Option::is_some).await;
        answers.ok().and_then(|a| *a).unwrap_or_default()
    };
    match known {
        None => answered.await,
        Some(known) => rt
            .timeout(REQUEST_WAITS, answered)
            .await
            .unwrap_or(known.answers),
    }
}

async fn probe_agent(cells: &CellsState, cell: &CellName) -> AgentAnswers {
    let (backend, name) = (Arc::clone(&cells.backend), cell.clone());
    let Ok(Ok(probe)) = run_blocking(move || backend.probe(&name)).await else {
        return (false, false);
    };
    let Some(door) = probe.door else {
        return (probe.worker, true);
    };
    let door = door
        .set_nonblocking(true)
        .and_then(|()| UnixStream::from_std(door));
    let answers = match door {
        Ok(door) => abbey_support::http::get_status(door, "/healthz", DOOR_WITHIN).await,
        Err(e) => Err(e),
    };
    (probe.worker, answers.is_ok_and(|s| s == 200))
}

/// What to say of a service that runs and does not answer its probe.
pub(crate) fn describe_silence(service: &Service) -> String {
    match service.probe() {
        Some(Probe::Http(path)) => format!(
            "it runs and does not answer a GET of `{path}` at its port with status 200; `probe` in its entry names the path, and `probe: none` is for a program that serves no port"
        ),
        Some(Probe::Postgres) => {
            "it runs and does not answer the start of a connection at its port".to_owned()
        }
        Some(Probe::Connect) | None => "it runs and does not answer at its port; `probe: none` is for a program that serves no port".to_owned(),
    }
}

/// Why a service is not healthy; `None` if it is up and answers its probe.
pub(crate) async fn service_problem(
    cells: &CellsState,
    current: &PlanInForce,
    service: &Slug,
) -> Option<String> {
    let declared = current.house.services.get(service)?;
    let at = abbey_plan::host_endpoint(&current.house, &current.registry, service);
    let seen = cells.observations.snapshot();
    let seen = seen.get(&CellName::Service(service.clone()));
    let running = declared.at.is_some()
        || seen.is_some_and(|s| {
            matches!(
                s.observed,
                Observed::Running {
                    ready: true,
                    stopping: false,
                    ..
                }
            )
        });
    if !running {
        return Some(format!("service `{service}` is not running"));
    }
    if let Some(seen) = seen.filter(|seen| is_settling(cells, seen, declared)) {
        let why = describe_settling(seen, declared);
        return Some(format!("service `{service}` has just started: {why}"));
    }
    let (at, probe) = at.zip(declared.probe())?;
    let shim = seen.and_then(|seen| shim_on_host(seen, declared));
    match is_answering(&cells.core.rt, at, probe).await && listens(shim, at).await {
        true => None,
        false => Some(format!(
            "service `{service}` does not answer its probe; `abbey service logs {service}` shows its output"
        )),
    }
}
