//! Checks of agents, services, schedules and model servers.

use super::checks::Checks;
use crate::cells::probes::stopped_process;
use crate::core::error::Result;
use crate::core::runtime;
use crate::insight::{cell_views, drives};
use crate::work::schedules;
use crate::work::state::WorkState;
use crate::work::workflows;
use abbey_api::CheckSeverity;
use abbey_engine::supervision::Desired;
use abbey_model::{CellKind, CellName, Millis, Presence, Slug};
use abbey_plan::HostFacts;
use axum::http::Request;
use http_body_util::Full;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// How far the clock of a microVM may be off.
const CLOCK_OFF_MAX: Millis = Millis::from_secs(2);
/// How late a schedule may be before the check fails.
const LATE: Millis = Millis::from_secs(90);

/// Adds a check for each agent and service that it is in its desired state.
pub(super) async fn check_agents_and_services(
    work: &Arc<WorkState>,
    checks: &mut Checks,
) -> Result<()> {
    let current = work.core.plan.current();
    let mut seen = work.cells.observations.snapshot();
    for agent in cell_views::fleet_doc(work).await?.agents {
        let Ok(slug) = agent.name.parse::<Slug>() else {
            continue;
        };
        let declared = current.as_ref().and_then(|c| c.house.agents.get(&slug));
        let seen = seen.remove(&CellName::Agent(slug.clone()));
        let wanted = seen
            .as_ref()
            .is_some_and(|s| matches!(s.desired, Desired::Up { .. }));
        let good = !wanted
            || matches!(
                agent.presence,
                Presence::Ready | Presence::Starting | Presence::Idle
            );
        let record = seen.as_ref().and_then(|s| s.record.as_ref());
        let files = work.core.home.agent_dir(&agent.name);
        if let Some(bad) = record.and_then(|r| drives::read_only_drives(r, &files)) {
            let (why, remedy) = drives::describe_read_only(&agent.name, &bad);
            let text = match bad.is_empty() {
                true => format!("{} can write to its drives", agent.name),
                false => format!("{}: {why}", agent.name),
            };
            let id = format!("drives.{}", agent.name);
            checks.add(&id, bad.is_empty(), CheckSeverity::Fail, text, &remedy);
        }
        let stopped = seen
            .zip(declared)
            .and_then(|(seen, agent)| stopped_process(&seen, agent.cell, 0));
        let more = stopped.map_or_else(String::new, |s| format!(": {}", s.describe()));
        checks.add(
            &format!("agent.{}", agent.name),
            good && stopped.is_none(),
            CheckSeverity::Warn,
            format!("{} is {}{more}", agent.name, agent.presence),
            &format!("`abbey why {}` explains it", agent.name),
        );
    }
    check_clocks(work, checks).await;
    for service in cell_views::services_doc(work).await?.services {
        let good = matches!(
            service.presence,
            Presence::Ready
                | Presence::Starting
                | Presence::Stopping
                | Presence::Stopped
                | Presence::Paused
                | Presence::Idle
        );
        let why = service.waits.as_ref().or(service.trouble.as_ref());
        let more = why.map_or_else(String::new, |w| format!(": {w}"));
        checks.add(
            &format!("service.{}", service.name),
            good && why.is_none(),
            CheckSeverity::Warn,
            format!("{} is {}{more}", service.name, service.presence),
            &format!(
                "`abbey service logs {0}` shows its output, `abbey why {0}` why it is so",
                service.name
            ),
        );
    }
    Ok(())
}

/// Adds a check for each microVM with an agent that its clock goes right.
async fn check_clocks(work: &Arc<WorkState>, checks: &mut Checks) {
    let Some(current) = work.core.plan.current() else {
        return;
    };
    let agents = current.house.agents.values();
    for agent in agents.filter(|a| a.cell == CellKind::Microvm) {
        let (backend, cell) = (
            Arc::clone(&work.cells.backend),
            CellName::Agent(agent.slug.clone()),
        );
        let asked = runtime::run_blocking(move || backend.clock_off(&cell)).await;
        let Ok(Some(off)) = asked else {
            continue;
        };
        let side = if off.0 < 0 { "behind" } else { "ahead" };
        checks.add(
            &format!("clock.{}", agent.slug),
            off.0.unsigned_abs() <= CLOCK_OFF_MAX.0.unsigned_abs(),
            CheckSeverity::Warn,
            format!(
                "the clock in the microVM of {} was {:.1} s {side} when it was compared last",
                agent.slug,
                Duration::from_millis(off.0.unsigned_abs()).as_secs_f64()
            ),
            &format!(
                "it is set every 30 s; if this stays, `abbey restart {}` boots the microVM again",
                agent.slug
            ),
        );
    }
}

/// Adds a check that no other program uses a port of an agent or service that does not run.
pub(super) fn check_ports(work: &Arc<WorkState>, facts: &HostFacts, checks: &mut Checks) {
    let current = work.core.plan.current();
    let mut taken = Vec::new();
    let up = |cell: &CellName| {
        let record = work.cells.backend.record(cell).ok().flatten();
        record.is_some_and(|r| r.child.as_ref().is_some_and(abbey_cells::is_alive))
    };
    if let Some(current) = &current {
        let agents = current
            .house
            .agents
            .keys()
            .map(|a| (CellName::Agent(a.clone()), "door"));
        let services = current
            .house
            .services
            .keys()
            .map(|s| (CellName::Service(s.clone()), "port"));
        // A running cell uses its own port, so only ports of stopped cells are checked.
        for (cell, purpose) in agents.chain(services).filter(|(c, _)| !up(c)) {
            let owner = match &cell {
                CellName::Service(slug) => format!("service:{slug}"),
                other => format!("agent:{}", other.slug()),
            };
            let port = current.port_of(&owner, purpose);
            if let Some((port, holder)) = port.and_then(|p| Some((p, facts.ports.get(&p)?))) {
                taken.push(format!("port {port} of {cell} is in use by {holder}"));
            }
        }
    }
    checks.add(
        "ports",
        taken.is_empty(),
        CheckSeverity::Fail,
        match taken.first() {
            None => "no other program uses a port of this house".to_owned(),
            Some(first) => first.clone(),
        },
        "end that program, or give the house other ports (`network.ports`)",
    );
}

/// Adds a check that no schedule is overdue.
pub(super) async fn check_schedules(work: &Arc<WorkState>, checks: &mut Checks) -> Result<()> {
    let now = work.core.store.now();
    let all = schedules::list_schedules(work).await?.schedules;
    let late = all.iter().find_map(|s| {
        let next = s.next_at.filter(|at| now.since(at.0) > LATE)?;
        Some(format!("{} was due at {next}", s.name))
    });
    checks.add(
        "schedules",
        late.is_none(),
        CheckSeverity::Warn,
        late.unwrap_or_else(|| match all.len() {
            0 => "no schedules".to_owned(),
            n => format!("{n} schedules are on time"),
        }),
        "`abbey schedule show NAME` shows the history; the log of the control plane has errors",
    );
    Ok(())
}

/// Adds a check for each workflow run of the last days of which a step could not be undone.
pub(super) async fn check_workflows(work: &Arc<WorkState>, checks: &mut Checks) -> Result<()> {
    for row in workflows::recent_incidents(work).await? {
        let run = format!("WF-{}", row.number);
        let incident = row.run.incident().unwrap_or_default();
        checks.add(
            &format!("workflow.{run}"),
            false,
            CheckSeverity::Warn,
            format!("{run} of the workflow {}: {incident}", row.name),
            &format!(
                "`abbey workflow show {run}` shows its steps; undo by hand what is left of them. This is reported for 7 days"
            ),
        );
    }
    Ok(())
}

/// Adds a check for each provider whose last calls failed.
pub(super) fn check_providers(work: &WorkState, checks: &mut Checks) {
    for provider in cell_views::failing_providers(work) {
        let remedy = format!(
            "if it is there, compare `providers.{name}` of the manifest with it; the tasks go on by themselves once it answers, and `abbey provider clear-cooldown {name}` has it called at once",
            name = provider.name
        );
        let id = format!("provider.{}", provider.name);
        checks.add(&id, false, CheckSeverity::Warn, provider.text, &remedy);
    }
}

/// Largest list of models, bytes.
const MODELS_MAX: usize = 1 << 20;
/// Longest wait for a list of models.
const MODELS_WITHIN: Duration = Duration::from_secs(5);

/// Adds a check for each model server of the house that it has the models that agents use.
pub(super) async fn check_model_servers(work: &Arc<WorkState>, checks: &mut Checks) {
    let Some(current) = work.core.plan.current() else {
        return;
    };
    for (name, provider) in &current.house.providers {
        let abbey_plan::Endpoint::Service(service) = &provider.endpoint else {
            continue;
        };
        let models = current
            .house
            .agents
            .values()
            .filter_map(|a| a.model.as_ref());
        let wanted: BTreeSet<&str> = models
            .filter(|m| m.provider == *name)
            .map(|m| m.model.as_str())
            .collect();
        let at = abbey_plan::host_endpoint(&current.house, &current.registry, service);
        let (Some(at), false) = (at, wanted.is_empty()) else {
            continue;
        };
        // Source: OpenAI API, `GET /v1/models`; Ollama and llama.cpp answer it as well.
        let url = format!("http://{at}/v1/models");
        let request = Request::get(url).header("accept", "application/json");
        let list = match request.body(Full::default()) {
            Ok(request) => work
                .core
                .http
                .exchange(request, MODELS_WITHIN, MODELS_MAX)
                .await
                .ok(),
            Err(_) => None,
        };
        let list = list.filter(|answer| answer.status() == 200);
        let list = list.and_then(|a| serde_json::from_slice::<Value>(a.body()).ok());
        let id = format!("models.{name}");
        let Some(list) = list else {
            let text = format!("`{service}` did not list its models");
            let remedy = format!("`abbey service logs {service}` shows its output");
            checks.add(&id, false, CheckSeverity::Warn, text, &remedy);
            continue;
        };
        let has: BTreeSet<&str> = list["data"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|m| m["id"].as_str())
            .collect();
        let missing: Vec<&str> = wanted.difference(&has).copied().collect();
        let text = match missing.is_empty() {
            true => format!("`{service}` has every model that agents use"),
            false => {
                let has: Vec<&str> = has.into_iter().take(20).collect();
                format!(
                    "model server `{service}` does not have the models {}; it has {}",
                    missing.join(", "),
                    has.join(", ")
                )
            }
        };
        let remedy = format!(
            "install the model there (for Ollama: `ollama pull {}`), or set another `model`",
            missing.join(" ")
        );
        checks.add(&id, missing.is_empty(), CheckSeverity::Warn, text, &remedy);
    }
}
