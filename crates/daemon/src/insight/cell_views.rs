//! Agents and services of the plan as API documents, with their current status.

use crate::cells::observations::Seen;
use crate::cells::probes::stopped_process;
use crate::cells::service_access::closed_access;
use crate::cells::state::AccessStates;
use crate::cells::status::{
    agent_presence, cgroup_usage_cached, describe_trouble, probe_cached, service_presence,
};
use crate::core::error::Result;
use crate::core::plan::{PlanInForce, agent_uses_service};
use crate::insight::drives;
use crate::work::state::WorkState;
use abbey_agents::runtime;
use abbey_api::{
    AgentView, AgentWhyDoc, BudgetBrief, ClosedAccess, FailingProvider, FleetDoc, Problem, Reason,
    ServiceView, ServicesDoc, Time, VERSION,
};
use abbey_engine::budget::Account;
use abbey_engine::provider_health::ProviderCondition;
use abbey_engine::supervision;
use abbey_model::{
    CellName, FaultKind, Metric, Observed, Presence, Scope, Slug, TaskState, Timestamp,
};
use abbey_plan::{Probe, can_reach};
use abbey_store::{TaskFilter, TaskRow};
use std::collections::BTreeMap;
use std::sync::Arc;

/// All agents of the plan with their current status as an API document.
pub(crate) async fn fleet_doc(work: &Arc<WorkState>) -> Result<FleetDoc> {
    let Some(current) = work.core.plan.current() else {
        return Ok(FleetDoc {
            version: VERSION,
            house: String::new(),
            generation: 0,
            agents: Vec::new(),
            failing_providers: Vec::new(),
            cursor: None,
        });
    };
    let seen = work.cells.observations.snapshot();
    let accounts = work.core.store.budgets().await?;
    let running = work
        .core
        .store
        .tasks(TaskFilter {
            states: vec![TaskState::Running],
            limit: 10_000,
            ..TaskFilter::default()
        })
        .await?;
    let rows = current
        .house
        .agents
        .keys()
        .map(|slug| agent_view(work, &current, slug, &seen, &accounts, &running));
    let agents = futures_util::future::join_all(rows).await;
    Ok(FleetDoc {
        version: VERSION,
        house: current.house.name.to_string(),
        generation: current.generation,
        agents,
        failing_providers: failing_providers(work),
        cursor: None,
    })
}

/// Providers whose last calls failed.
pub(crate) fn failing_providers(work: &WorkState) -> Vec<FailingProvider> {
    let view = |(name, condition): (String, ProviderCondition)| {
        let ProviderCondition::CoolingDown {
            since,
            until,
            failures,
            failure,
            ref words,
        } = condition
        else {
            return None;
        };
        let (since, until) = (Time(since), Time(until));
        let says = words.as_ref().map(|words| format!("; it says: {words}"));
        Some(FailingProvider {
            text: format!(
                "{} since {since}; no call is sent to it before {until}, and tasks that need it wait{}",
                condition.description(&name)?,
                says.unwrap_or_default()
            ),
            words: words.clone(),
            name,
            failure,
            failures,
            since,
            until,
        })
    };
    work.providers
        .failing()
        .into_iter()
        .filter_map(view)
        .collect()
}

/// Current status of one agent.
async fn agent_view(
    work: &WorkState,
    current: &PlanInForce,
    slug: &Slug,
    seen: &BTreeMap<CellName, Seen>,
    accounts: &[Account],
    running: &[TaskRow],
) -> AgentView {
    let agent = &current.house.agents[slug];
    let cell = CellName::Agent(slug.clone());
    let owner = format!("agent:{slug}");
    let door = current.port_of(&owner, "door");
    let seen = seen.get(&cell);
    let mut presence = agent_presence(&work.cells, &cell, seen).await;
    // A cell started for an older plan is about to be stopped.
    if let Some(Observed::Running { spec, .. }) = seen.map(|s| &s.observed)
        && let Some((wanted, _)) = current.applied.agents.get(slug)
        && spec != wanted
    {
        presence = Presence::Stopping;
    }
    let up = seen.filter(|s| matches!(s.observed, Observed::Running { .. }));
    let record = up.and_then(|s| s.record.as_ref());
    // Without a control group nothing is known of it.
    let counted = record.filter(|r| !r.groups.is_empty());
    let usage = counted.map(|r| cgroup_usage_cached(&work.cells, r));
    let account = accounts
        .iter()
        .find(|a| a.scope == Scope::Agent(slug.clone()) && a.metric == Metric::Tokens);
    let ports = current
        .registry
        .rows()
        .filter(|r| r.owner == owner)
        .filter_map(|r| r.value.parse().ok());
    AgentView {
        name: slug.to_string(),
        display_name: agent.display_name.clone(),
        role: agent.role.clone(),
        presence,
        runtime: agent.runtime.name().to_owned(),
        cell: agent.cell.to_string(),
        isolated: agent.cell.isolates(),
        generation: seen.map_or(0, |s| s.history.generation.0),
        pid: record.and_then(|r| r.child.as_ref()).map(|c| c.pid),
        address: match abbey_plan::allocated_subnet(&current.registry, &owner) {
            Some(subnet) => Some(subnet.cell().to_string()),
            None => door.map(|p| format!("127.0.0.1:{p}")),
        },
        ports: ports.collect(),
        uptime_s: record.map(|r| work.core.store.now().since(r.started_at).0 / 1000),
        restarts: seen.map_or(0, |s| s.history.restarts),
        model: agent.model.as_ref().map(ToString::to_string),
        task: running
            .iter()
            .find(|t| t.phase.lease().is_some_and(|l| l.holder == *slug))
            .map(|t| format!("TASK-{}", t.number)),
        budget: BudgetBrief {
            limit: account.and_then(|a| a.limit),
            spent: account.map_or(0, |a| a.spent),
            reserved: account.map_or(0, |a| a.reserved),
        },
        memory_bytes: usage.map(|u| u.memory.0),
        cpu_us: usage.map(|u| u.cpu_us),
        reports_to: agent.reports_to.as_ref().map(ToString::to_string),
        previous_model: current
            .applied
            .models
            .get(slug)
            .and_then(|(_, previous)| previous.clone()),
        config: current.config_generation_of(slug),
        config_taken: work.acknowledged_config(slug),
    }
}

/// All services of the plan with their current status as an API document.
pub(crate) async fn services_doc(work: &Arc<WorkState>) -> Result<ServicesDoc> {
    let Some(current) = work.core.plan.current() else {
        return Ok(ServicesDoc {
            version: VERSION,
            services: Vec::new(),
            disabled: Vec::new(),
            cursor: None,
        });
    };
    let seen = work.cells.observations.snapshot();
    let consumers = work.cells.consumer_status();
    let (trouble, opened) = (consumers.trouble, consumers.opened);
    let access = work.cells.access_states().unwrap_or_default();
    let mut services = Vec::new();
    for (slug, service) in &current.house.services {
        let at = abbey_plan::host_endpoint(&current.house, &current.registry, slug);
        let seen = seen.get(&CellName::Service(slug.clone()));
        let (presence, healthy) = match service.at {
            // The house does not run an external service, so only the probe tells its status.
            Some(at) => {
                let probe = service.probe().unwrap_or(Probe::Connect);
                let answers = probe_cached(&work.cells, at, probe, 0, None).await;
                let presence = if answers {
                    Presence::Ready
                } else {
                    Presence::Down
                };
                (presence, Some(answers))
            }
            None => {
                let (presence, healthy) = service_presence(&work.cells, seen, at, service).await;
                (presence, healthy)
            }
        };
        let record = seen
            .filter(|s| matches!(s.observed, Observed::Running { .. }))
            .and_then(|s| s.record.as_ref());
        // Where each has a credential of its own, an address alone is of no use.
        let used = |a: &&abbey_plan::Agent| {
            agent_uses_service(&current.house, a, slug)
                || !service.kind.has_consumers() && can_reach(&current.house, a, service)
        };
        services.push(ServiceView {
            name: slug.to_string(),
            presence,
            healthy,
            external: service.at.is_some(),
            cell: match service.at {
                Some(_) => "-".to_owned(),
                None => service.cell.to_string(),
            },
            pid: record.and_then(|r| r.child.as_ref()).map(|c| c.pid),
            port: at.map(|a| a.port()),
            serves_port: service.serves_port(),
            generation: seen.map_or(0, |s| s.history.generation.0),
            restarts: seen.map_or(0, |s| s.history.restarts),
            kind: service.kind.name().to_owned(),
            waits: seen.and_then(|s| s.waits.clone()),
            trouble: trouble
                .get(slug)
                .cloned()
                .or_else(|| describe_trouble(&work.cells, seen?, service, presence)),
            pending: match service.kind.has_consumers() {
                false => Vec::new(),
                true => {
                    let agents = current.house.agents.values();
                    let users = agents.filter(|a| a.uses.contains(slug));
                    let has = |a: &Slug| opened.contains(&(slug.clone(), a.clone()));
                    let without = users.filter(|a| !has(&a.slug));
                    without.map(|a| a.slug.to_string()).collect()
                }
            },
            closed: closed_views(&access, service),
            consumers: current
                .house
                .agents
                .values()
                .filter(used)
                .map(|a| a.slug.to_string())
                .collect(),
        });
    }
    let disabled = current.house.disabled.iter();
    Ok(ServicesDoc {
        version: VERSION,
        services,
        disabled: disabled.map(ToString::to_string).collect(),
        cursor: None,
    })
}

/// What a service keeps for agents that no longer use it.
fn closed_views(access: &AccessStates, service: &abbey_plan::Service) -> Vec<ClosedAccess> {
    let closed = closed_access(access, service).into_iter();
    let view =
        |(name, at, until, backup): (String, Timestamp, Timestamp, Option<String>)| ClosedAccess {
            name,
            closed_at: Time(at),
            deleted_at: Time(until),
            copy: backup.map(|path| format!("services/{}/{path}", service.slug)),
        };
    closed.map(view).collect()
}

/// Explains the presence of an agent: reasons, last exit, failures and next retry (`abbey why
/// AGENT`).
///
/// # Errors
/// `NotFound` for an unknown agent.
pub(crate) async fn explain_agent(work: &Arc<WorkState>, slug: &Slug) -> Result<AgentWhyDoc> {
    let current = work.core.plan.current();
    let agent = current.as_ref().and_then(|c| c.house.agents.get(slug));
    let Some(agent) = agent else {
        return Err(
            Problem::new(FaultKind::NotFound, format!("there is no agent `{slug}`"))
                .remedy("`abbey ps` lists the agents")
                .into(),
        );
    };
    let seen = work.cells.observations.snapshot();
    let cell = CellName::Agent(slug.clone());
    let seen = seen.get(&cell);
    let presence = agent_presence(&work.cells, &cell, seen).await;
    let mut reasons = Vec::new();
    let mut say = |code: &str, text: String| {
        reasons.push(Reason {
            code: code.to_owned(),
            text,
        })
    };
    if work.core.store.draining().await?.contains(slug) {
        let text =
            format!("it is draining and is offered no tasks; `abbey start {slug}` ends that");
        say("draining", text);
    }
    if let Some(seen) = seen {
        if let Some(error) = &seen.error {
            say("cannot_reconcile", error.clone());
        }
        if let Some(why) = seen.refused.as_ref().filter(|_| seen.error.is_none()) {
            say("start_refused", why.clone());
        }
        if let Some(why) = &seen.waits {
            say("no_room", why.clone());
        }
        let files = work.core.home.agent_dir(slug.as_str());
        let record = seen.record.as_ref();
        let drives = record.and_then(|r| drives::read_only_drives(r, &files));
        if let Some(bad) = drives.filter(|bad| !bad.is_empty()) {
            let (why, remedy) = drives::describe_read_only(slug.as_str(), &bad);
            say("drives_read_only", format!("{why}; {remedy}"));
        }
        let stopped = stopped_process(seen, agent.cell, 0);
        if let Some(stopped) = stopped {
            say("process_stopped", stopped.describe());
        }
        match &seen.observed {
            Observed::Running { ready: true, .. }
                if stopped.is_some() && presence != Presence::IngressOnly => {}
            Observed::Running { ready: true, .. } if presence == Presence::IngressOnly => say(
                "worker_hung",
                format!(
                    "its worker has sent no heartbeat for {} s; `abbey restart {slug}` restarts it, and `abbey logs {slug}` shows what it printed",
                    abbey_model::HEARTBEAT_DEADLINE.as_secs()
                ),
            ),
            Observed::Running { ready: true, .. } if presence == Presence::WorkerOnly => say(
                "port_silent",
                "its worker runs, but the agent API does not answer at its own port".to_owned(),
            ),
            Observed::Running { ready: true, .. } => {
                say("up", format!("boot {} is up", seen.history.generation.0))
            }
            Observed::Running { .. } => say(
                "not_ready",
                "it has not announced that it is ready".to_owned(),
            ),
            _ if matches!(seen.desired, supervision::Desired::Paused { .. }) => say(
                "paused_down",
                format!(
                    "its desired state is paused, but it ended; it is started again and suspended once it is ready, and `abbey stop {slug}` ends it"
                ),
            ),
            _ if matches!(seen.desired, supervision::Desired::Down) => say(
                "stopped",
                format!("its desired state is down; `abbey start {slug}` starts it"),
            ),
            _ => say(
                "down",
                "its desired state is running, but it is not running".to_owned(),
            ),
        }
        if seen.history.failures > 0 {
            say(
                "failures",
                match seen.history.failures {
                    1 => "1 failure".to_owned(),
                    failures => format!("{failures} failures in a row"),
                },
            );
        }
    } else {
        say("unknown", "it has not been observed yet".to_owned());
    }
    let now = work.core.rt.now();
    for refusal in work.cells.net.egress.recent_refusals(&cell, 3, now) {
        say(
            "egress_denied",
            format!("a connection was refused in the last ten minutes: {refusal}"),
        );
    }
    if !agent.cell.isolates() {
        say(
            "not_isolated",
            format!("its cell `{}` is not isolated", agent.cell),
        );
    }
    let exit = seen.and_then(|s| s.history.last_exit.as_ref());
    let in_force = seen
        .and_then(|s| s.record.as_ref())
        .and_then(|r| r.in_force);
    Ok(AgentWhyDoc {
        version: VERSION,
        agent: slug.to_string(),
        presence,
        reasons,
        last_exit: exit.map(|e| runtime::runtime_spec(agent.runtime).describe_exit(&e.exit)),
        last_exit_at: exit.map(|e| e.ended_at.into()),
        failures: seen.map_or(0, |s| s.history.failures),
        next_retry: seen.and_then(|s| s.history.retry_at).map(Time),
        limits_in_force: in_force.and_then(|l| serde_json::to_value(l).ok()),
    })
}
