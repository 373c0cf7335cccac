//! Current status of cells from the newest observation, probes and resource readings; the latter
//! two are cached briefly so that many viewers cost no more than one.

use crate::cells::observations::Seen;
use crate::cells::state::CellsState;
use crate::core::plan::PlanInForce;
use crate::core::runtime::Runtime;
use abbey_cells::CellRecord;
use abbey_engine::supervision::{self};
use abbey_model::{CellName, Observed, Presence, Slug};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;
use tokio::net::TcpStream;

/// How long a probe's answer and a resource reading are reused.
pub(crate) const FRESH: Duration = Duration::from_millis(500);

/// Whether the service or agent at an address answers its probe; a positive answer is reused for
/// [`FRESH`] for the same `generation` of the cell.
pub(crate) async fn probe_cached(
    cells: &CellsState,
    address: SocketAddrV4,
    path: &str,
    generation: u64,
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
    let answer = is_answering(&cells.core.rt, address, path).await;
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

/// Longest wait for a probe.
pub(crate) const PROBE_WITHIN: Duration = Duration::from_millis(400);

/// `127.0.0.1` with this port.
pub(crate) fn loopback_address(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)
}

/// Probes an address once: connects and, if `path` is not empty, requires status 200 of a GET
/// request.
pub(crate) async fn is_answering(rt: &Runtime, at: SocketAddrV4, path: &str) -> bool {
    let Ok(Ok(stream)) = rt.timeout(PROBE_WITHIN, TcpStream::connect(at)).await else {
        return false;
    };
    if path.is_empty() {
        return true;
    }
    let status = abbey_support::http::get_status(stream, path, PROBE_WITHIN).await;
    status.is_ok_and(|s| s == 200)
}

/// Presence of a cell from its observation and, if it runs and has an address and path, a probe;
/// with the probe's answer.
pub(crate) async fn presence_with_probe(
    cells: &CellsState,
    seen: Option<&Seen>,
    at: Option<SocketAddrV4>,
    path: Option<&str>,
) -> (Presence, Option<bool>) {
    let Some(seen) = seen else {
        return (Presence::Unknown, None);
    };
    let running = matches!(
        seen.observed,
        Observed::Running {
            ready: true,
            stopping: false,
            ..
        }
    );
    let answers = match (running, at, path) {
        (true, Some(at), Some(path)) => {
            Some(probe_cached(cells, at, path, seen.history.generation.0).await)
        }
        _ => None,
    };
    let ingress = answers.unwrap_or(running);
    (
        supervision::presence(&seen.desired, &seen.observed, &seen.history, ingress),
        answers,
    )
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
    let (at, path) = at.zip(declared.probe())?;
    match is_answering(&cells.core.rt, at, path).await {
        true => None,
        false => Some(format!(
            "service `{service}` does not answer its probe; `abbey service logs {service}` shows its output"
        )),
    }
}
