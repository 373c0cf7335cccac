//! How far agents and services are from what is desired of them, and whether waiting changes that.
//!
//! Every command that waits asks here, so that all of them wait for the same and give the same reasons.

use crate::cells::observations::Seen;
use crate::cells::status::{
    agent_presence, describe_settling, describe_trouble, is_settling, probe_cached,
    service_presence,
};
use crate::core::error::Result;
use crate::core::plan::{PlanInForce, agent_uses_service};
use crate::work::state::WorkState;
use abbey_agents::runtime;
use abbey_api::{Problem, ReadinessDoc, ReadinessState, ReadinessView, VERSION};
use abbey_engine::supervision::CRASH_LOOP;
use abbey_model::{CellName, DesiredState, FaultKind, Millis, Observed, Presence, Slug};
use abbey_plan::{Probe, ServiceKind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Pause between two looks while something is on its way.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Time after which a cell that every pass finds failing, or waiting for something, is not expected to move by itself.
const HELD_UP: Duration = Duration::from_secs(5);

/// Time without any change after which a cell that waits for something is not expected to get it: the reconciler looks
/// again every 2 seconds.
const QUIET: Duration = Duration::from_secs(3);

/// Uptime after which a service is not expected to answer any more if its entry names no port at which it would.
const SILENT: Millis = Millis::from_secs(3);

/// Agents and services to look at.
pub(crate) enum Watched {
    /// All that the plan has.
    Everything,
    /// These.
    Cells(Vec<CellName>),
}

/// How far the cells are, once that has settled or `patience` is over.
///
/// # Errors
/// `NotFound` if the plan in force has no such agent or service.
pub(crate) async fn wait_until_settled(
    work: &Arc<WorkState>,
    watched: &Watched,
    patience: Duration,
) -> Result<ReadinessDoc> {
    let until = work.core.rt.now() + patience;
    let mut quiet_since: Option<Instant> = None;
    loop {
        let judged = judge_all(work, watched).await?;
        let now = work.core.rt.now();
        let moving = judged.iter().any(|j| j.state == State::Changing);
        let waiting = judged.iter().any(|j| j.state == State::Waiting);
        quiet_since = match moving {
            true => None,
            false => quiet_since.or(Some(now)),
        };
        let quiet = quiet_since.is_some_and(|since| now.duration_since(since) >= QUIET);
        let settled = !moving && (!waiting || quiet);
        if settled || now >= until {
            return Ok(ReadinessDoc {
                version: VERSION,
                settled,
                cells: judged.into_iter().map(|j| j.view(settled)).collect(),
            });
        }
        tokio::select! {
            () = work.core.rt.sleep(LOOK_EVERY) => {}
            () = work.core.rt.stopped() => {
                let text = "the control plane is being stopped";
                return Err(Problem::new(FaultKind::Unavailable, text).into());
            }
        }
    }
}

/// Waits at most `patience` while a cell that is to run is on its way there; returns at once for any other.
pub(crate) async fn wait_while_starting(
    work: &Arc<WorkState>,
    cell: &CellName,
    patience: Duration,
) -> Result<()> {
    if work.cells.desired.state_of(cell) != DesiredState::Up {
        return Ok(());
    }
    let until = work.core.rt.now() + patience;
    while let Ok(judged) = judge_all(work, &Watched::Cells(vec![cell.clone()])).await
        && judged.iter().any(|j| j.state == State::Changing && !j.runs)
        && work.core.rt.now() < until
    {
        work.core.rt.sleep(LOOK_EVERY).await;
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Reached,
    Changing,
    /// For memory, or for another service: settled only if nothing else moves.
    Waiting,
    Failed,
}

struct Judged {
    cell: CellName,
    presence: Presence,
    state: State,
    reason: Option<String>,
    /// Whether its program runs as desired, so that a command can be run beside it.
    runs: bool,
}

impl Judged {
    fn view(self, settled: bool) -> ReadinessView {
        let kind = match self.cell {
            CellName::Service(_) => "service",
            CellName::Agent(_) | CellName::Run(_) => "agent",
        };
        ReadinessView {
            kind: kind.to_owned(),
            name: self.cell.slug().to_string(),
            presence: self.presence,
            state: match self.state {
                State::Reached => ReadinessState::Reached,
                State::Waiting if settled => ReadinessState::Failed,
                State::Changing | State::Waiting => ReadinessState::Changing,
                State::Failed => ReadinessState::Failed,
            },
            reason: self.reason,
        }
    }
}

async fn judge_all(work: &Arc<WorkState>, watched: &Watched) -> Result<Vec<Judged>> {
    let Some(current) = work.core.plan.current() else {
        return Ok(Vec::new());
    };
    let house = &current.house;
    let cells = match watched {
        Watched::Cells(cells) => cells.clone(),
        Watched::Everything => {
            let agents = house.agents.keys().cloned().map(CellName::Agent);
            let services = house.services.keys().cloned().map(CellName::Service);
            agents.chain(services).collect()
        }
    };
    for cell in &cells {
        let (known, kind, list) = match cell {
            CellName::Service(slug) => (
                house.services.contains_key(slug),
                "service",
                "`abbey service list` lists the services",
            ),
            cell => (
                house.agents.contains_key(cell.slug()),
                "agent",
                "`abbey ps` lists the agents",
            ),
        };
        if !known {
            let text = format!("there is no {kind} `{}`", cell.slug());
            return Err(Problem::new(FaultKind::NotFound, text).remedy(list).into());
        }
    }
    // Both at once: probes take a while, and a pass that ends meanwhile does not make an old observation new.
    let (seen, outdated) = work.cells.observations.snapshot_with_outdated();
    let judged = cells.into_iter().map(|cell| {
        let outdated = outdated.contains(&cell);
        judge(work, &current, seen.get(&cell), outdated, cell)
    });
    Ok(futures_util::future::join_all(judged).await)
}

/// How far one cell is. What prevents it from getting further comes first, then what is desired of it, then its probes.
async fn judge(
    work: &Arc<WorkState>,
    current: &PlanInForce,
    seen: Option<&Seen>,
    outdated: bool,
    cell: CellName,
) -> Judged {
    let presence = presence_of(work, current, &cell, seen).await;
    let mut judged = Judged {
        presence,
        state: State::Changing,
        reason: None,
        runs: false,
        cell,
    };
    (judged.state, judged.reason) = match seen {
        _ if is_external(current, &judged.cell) => (State::Reached, None),
        Some(seen) if !outdated => {
            judged.runs = runs_as_planned(current, &judged.cell, seen);
            match judge_seen(work, current, &judged, seen) {
                // It is reported, but nobody lacks anything.
                (State::Failed, why) if is_unused_tool_server(current, &judged.cell) => {
                    let why = why.unwrap_or_default();
                    (
                        State::Reached,
                        Some(format!("no agent uses it, and it failed: {why}")),
                    )
                }
                other => other,
            }
        }
        _ => match work.cells.observations.failed_pass() {
            Some((why, since)) if is_held_up(work, Some(since)) => (State::Failed, Some(why)),
            failed => {
                let why = failed.map(|(why, _)| why);
                let why = why.unwrap_or_else(|| "it has not been looked at yet".to_owned());
                (State::Changing, Some(why))
            }
        },
    };
    judged
}

/// Whether a cell is a tool server that no agent uses yet.
fn is_unused_tool_server(current: &PlanInForce, cell: &CellName) -> bool {
    let house = &current.house;
    let service = match cell {
        CellName::Service(slug) => house.services.get(slug),
        CellName::Agent(_) | CellName::Run(_) => None,
    };
    let mut agents = house.agents.values();
    service.is_some_and(|s| s.kind == ServiceKind::Tools)
        && !agents.any(|agent| agent_uses_service(house, agent, cell.slug()))
}

fn judge_seen(
    work: &WorkState,
    current: &PlanInForce,
    judged: &Judged,
    seen: &Seen,
) -> (State, Option<String>) {
    let held_up = is_held_up(work, seen.held_up_since);
    if let Some(error) = &seen.error {
        let state = match held_up || seen.history.failures >= CRASH_LOOP {
            true => State::Failed,
            false => State::Changing,
        };
        return (state, Some(error.clone()));
    }
    let because = |why: &str| Some(why.to_owned());
    match work.cells.desired.state_of(&judged.cell) {
        DesiredState::Down => match seen.observed {
            Observed::Nothing => (State::Reached, None),
            _ => (State::Changing, because("it has not stopped yet")),
        },
        DesiredState::Paused if judged.presence == Presence::Paused => (State::Reached, None),
        DesiredState::Paused if judged.runs => {
            (State::Changing, because("it is not suspended yet"))
        }
        DesiredState::Up if judged.runs => judge_running(work, current, judged, seen),
        DesiredState::Up | DesiredState::Paused if seen.history.failures >= CRASH_LOOP => (
            State::Failed,
            Some(describe_failures(current, judged, seen)),
        ),
        DesiredState::Up | DesiredState::Paused => match &seen.waits {
            Some(why) if held_up => (State::Waiting, Some(why.clone())),
            Some(why) => (State::Changing, Some(why.clone())),
            None if seen.history.failures > 0 => (
                State::Changing,
                Some(describe_failures(current, judged, seen)),
            ),
            None => {
                let why = match seen.observed {
                    Observed::Running { stopping: true, .. } => {
                        "its earlier boot has not stopped yet"
                    }
                    Observed::Running { .. } => "it has not announced that it is ready",
                    _ => "it is not running yet",
                };
                (State::Changing, because(why))
            }
        },
    }
}

/// How far a cell is that runs from the specification of the plan and has announced that it is ready.
fn judge_running(
    work: &WorkState,
    current: &PlanInForce,
    judged: &Judged,
    seen: &Seen,
) -> (State, Option<String>) {
    let uptime = match seen.observed {
        Observed::Running { started_at, .. } => work.core.store.now().since(started_at),
        _ => Millis(0),
    };
    let because = |why: &str| Some(why.to_owned());
    let CellName::Service(slug) = &judged.cell else {
        return match judged.presence {
            Presence::Ready => match missing_access(work, current, judged.cell.slug()) {
                None => (State::Reached, None),
                why => (State::Changing, why),
            },
            Presence::IngressOnly => (State::Failed, because("its worker sends no heartbeat")),
            _ => (State::Changing, because("its port does not answer")),
        };
    };
    let Some(service) = current.house.services.get(slug) else {
        return (State::Changing, None);
    };
    let consumers = work.cells.consumer_status();
    let (trouble, opened) = (consumers.trouble, consumers.opened);
    let agents = current.house.agents.values();
    let users = agents.filter(|a| a.uses.contains(slug)).map(|a| &a.slug);
    let pending = users.filter(|a| !opened.contains(&(slug.clone(), Slug::clone(a))));
    // It may end at any moment, however its probe answers.
    if is_settling(&work.cells, seen, service) {
        return match seen.history.failures >= CRASH_LOOP {
            true => (
                State::Failed,
                Some(describe_failures(current, judged, seen)),
            ),
            false => (State::Changing, Some(describe_settling(seen, service))),
        };
    }
    match judged.presence {
        Presence::Ready if service.kind.has_consumers() => {
            let pending: Vec<&str> = pending.map(Slug::as_str).collect();
            let settled = consumers.settled.get(slug) == Some(&current.generation);
            let what = match pending.is_empty() {
                true if settled => return (State::Reached, None),
                true => "it has not closed yet what agents no longer use".to_owned(),
                false => format!("it has not set up access for {} yet", pending.join(", ")),
            };
            let trouble = trouble.get(slug).map(|t| format!(": {t}"));
            let why = what + &trouble.unwrap_or_default();
            (State::Changing, Some(why))
        }
        Presence::Ready => (State::Reached, None),
        presence => {
            let why = describe_trouble(&work.cells, seen, service, presence);
            // Its entry names no port at which it would answer, so nothing says that waiting longer helps.
            let silent = presence == Presence::WorkerOnly && !service.serves_port();
            match silent && uptime >= SILENT {
                true => (State::Reached, why),
                false => (State::Changing, why),
            }
        }
    }
}

/// Which services have not given an agent the access that it is to have, and why; none if all have.
fn missing_access(work: &WorkState, current: &PlanInForce, agent: &Slug) -> Option<String> {
    let consumers = work.cells.consumer_status();
    let (trouble, opened) = (consumers.trouble, consumers.opened);
    let used = current.house.agents.get(agent)?.uses.iter();
    let used = used.filter_map(|s| current.house.services.get(s));
    let mut missing = used
        .filter(|s| s.kind.has_consumers() && s.at.is_none())
        .filter(|s| !opened.contains(&(s.slug.clone(), agent.clone())));
    let service = missing.next()?;
    let why = trouble.get(&service.slug).map(|why| format!(": {why}"));
    Some(format!(
        "service `{}` has not given it access yet{}",
        service.slug,
        why.unwrap_or_default()
    ))
}

fn describe_failures(current: &PlanInForce, judged: &Judged, seen: &Seen) -> String {
    let exit = seen.history.last_exit.as_ref().map(|last| {
        let agent = match &judged.cell {
            CellName::Agent(slug) => current.house.agents.get(slug),
            CellName::Service(_) | CellName::Run(_) => None,
        };
        match agent {
            Some(agent) => runtime::runtime_spec(agent.runtime).describe_exit(&last.exit),
            None => last.exit.to_string(),
        }
    });
    let why = seen.refused.clone().or(exit);
    let why = why.unwrap_or_else(|| "it could not be started".to_owned());
    match seen.history.failures {
        1 => why,
        failures => format!("{why}, {failures} times in a row"),
    }
}

fn is_held_up(work: &WorkState, since: Option<Instant>) -> bool {
    let now = work.core.rt.now();
    since.is_some_and(|since| now.saturating_duration_since(since) >= HELD_UP)
}

fn is_external(current: &PlanInForce, cell: &CellName) -> bool {
    let CellName::Service(slug) = cell else {
        return false;
    };
    let service = current.house.services.get(slug);
    service.is_some_and(|s| s.at.is_some())
}

/// Whether a cell runs from the specification of the plan, has announced that it is ready, and is neither to stop nor
/// suspended.
fn runs_as_planned(current: &PlanInForce, cell: &CellName, seen: &Seen) -> bool {
    let applied = &current.applied;
    let planned = match cell {
        CellName::Service(slug) => applied.services.get(slug),
        cell => applied.agents.get(cell.slug()).map(|(spec, _)| spec),
    };
    matches!(
        &seen.observed,
        Observed::Running { ready: true, stopping: false, paused: false, spec, .. }
            if planned.is_none_or(|planned| planned == spec)
    )
}

async fn presence_of(
    work: &WorkState,
    current: &PlanInForce,
    cell: &CellName,
    seen: Option<&Seen>,
) -> Presence {
    let CellName::Service(slug) = cell else {
        return agent_presence(&work.cells, cell, seen).await;
    };
    let Some(service) = current.house.services.get(slug) else {
        return Presence::Unknown;
    };
    if let Some(at) = service.at {
        let probe = service.probe().unwrap_or(Probe::Connect);
        return match probe_cached(&work.cells, at, probe, 0, None).await {
            true => Presence::Ready,
            false => Presence::Down,
        };
    }
    let at = abbey_plan::host_endpoint(&current.house, &current.registry, slug);
    service_presence(&work.cells, seen, at, service).await.0
}

/// The cells that lists of slugs, separated by commas, name; everything if there is no list.
///
/// # Errors
/// `Invalid` for a text that is no slug.
pub(crate) fn watched(agents: Option<&str>, services: Option<&str>) -> Result<Watched> {
    type Kind = fn(Slug) -> CellName;
    let lists: [(Option<&str>, Kind); 2] =
        [(agents, CellName::Agent), (services, CellName::Service)];
    let mut cells = Vec::new();
    for (list, kind) in lists {
        for name in list
            .unwrap_or_default()
            .split(',')
            .filter(|n| !n.is_empty())
        {
            cells.push(kind(crate::work::lookup::parse_slug(name)?));
        }
    }
    Ok(match agents.or(services) {
        None => Watched::Everything,
        Some(_) => Watched::Cells(cells),
    })
}
