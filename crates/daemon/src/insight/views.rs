//! From rows to documents.

use crate::cells::observations::Seen;
use crate::cells::status::{
    cgroup_usage_cached, loopback_address, presence_with_probe, probe_cached,
};
use crate::core::error::Result;
use crate::core::plan::{PlanInForce, agent_uses_service};
use crate::work::state::WorkState;
use abbey_agents::runtime;
use abbey_agents::skill::{Program, Skill};
use abbey_api::*;
use abbey_engine::budget::Account;
use abbey_engine::supervision;
use abbey_engine::task::Phase;
use abbey_model::TaskRef;
use abbey_model::{
    CellName, FaultKind, Metric, Observed, Presence, Scope, Slug, TaskState, Verified, WaitCode,
};
use abbey_store::{AuditEntry, RunRow, TaskFilter, TaskRow};
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) async fn fleet_doc(work: &Arc<WorkState>) -> Result<FleetDoc> {
    let Some(current) = work.core.plan.current() else {
        return Ok(FleetDoc {
            version: VERSION,
            house: String::new(),
            generation: 0,
            agents: Vec::new(),
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
        cursor: None,
    })
}

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
    // An isolated cell's health port is in its own network: its shim, whose answer made it
    // `Running`, serves both from one loop.
    let walled = seen.is_some_and(|s| {
        s.record
            .as_ref()
            .is_some_and(|r| r.sandbox.is_some() || r.microvm || r.container)
    });
    let path = (!walled).then_some("/healthz");
    let (mut presence, _) =
        presence_with_probe(&work.cells, seen, door.map(loopback_address), path).await;
    // A boot of an older plan is on its way down, whether or not somebody has come by yet.
    if let Some(Observed::Running { spec, .. }) = seen.map(|s| &s.observed)
        && let Some((wanted, _)) = current.applied.agents.get(slug)
        && spec != wanted
    {
        presence = Presence::Stopping;
    }
    let up = seen.filter(|s| matches!(s.observed, Observed::Running { .. }));
    let record = up.and_then(|s| s.record.as_ref());
    let usage = record.map(|r| cgroup_usage_cached(&work.cells, r));
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

pub(crate) async fn services_doc(work: &Arc<WorkState>) -> Result<ServicesDoc> {
    let Some(current) = work.core.plan.current() else {
        return Ok(ServicesDoc {
            version: VERSION,
            services: Vec::new(),
            cursor: None,
        });
    };
    let seen = work.cells.observations.snapshot();
    let trouble = work.cells.consumer_problems();
    let mut services = Vec::new();
    for (slug, service) in &current.house.services {
        let at = abbey_plan::host_endpoint(&current.house, &current.registry, slug);
        let seen = seen.get(&CellName::Service(slug.clone()));
        let (presence, healthy) = match service.at {
            // Another party runs it, so the probe is all that is known of it.
            Some(at) => {
                let path = service.probe().unwrap_or_default();
                let answers = probe_cached(&work.cells, at, path, 0).await;
                let presence = if answers {
                    Presence::Ready
                } else {
                    Presence::Down
                };
                (presence, Some(answers))
            }
            None => {
                let (presence, healthy) =
                    presence_with_probe(&work.cells, seen, at, service.probe()).await;
                (presence, healthy)
            }
        };
        let record = seen
            .filter(|s| matches!(s.observed, Observed::Running { .. }))
            .and_then(|s| s.record.as_ref());
        let used = |a: &&abbey_plan::Agent| agent_uses_service(&current.house, a, slug);
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
            generation: seen.map_or(0, |s| s.history.generation.0),
            restarts: seen.map_or(0, |s| s.history.restarts),
            kind: service.kind.name().to_owned(),
            waits: seen.and_then(|s| s.waits.clone()),
            trouble: trouble.get(slug).cloned(),
            consumers: current
                .house
                .agents
                .values()
                .filter(used)
                .map(|a| a.slug.to_string())
                .collect(),
        });
    }
    Ok(ServicesDoc {
        version: VERSION,
        services,
        cursor: None,
    })
}

pub(crate) async fn explain_agent(work: &Arc<WorkState>, slug: &Slug) -> Result<AgentWhyDoc> {
    let current = work.core.plan.current();
    let agent = current.as_ref().and_then(|c| c.house.agents.get(slug));
    let Some(agent) = agent else {
        return Err(
            Problem::new(FaultKind::NotFound, format!("there is no agent `{slug}`")).into(),
        );
    };
    let seen = work.cells.observations.snapshot();
    let seen = seen.get(&CellName::Agent(slug.clone()));
    let door = current
        .as_ref()
        .and_then(|c| c.port_of(&format!("agent:{slug}"), "door"));
    // An isolated cell's health port is in its own network: its shim, whose answer made it
    // `Running`, serves both from one loop.
    let walled = seen.is_some_and(|s| {
        s.record
            .as_ref()
            .is_some_and(|r| r.sandbox.is_some() || r.microvm || r.container)
    });
    let path = (!walled).then_some("/healthz");
    let (presence, _) =
        presence_with_probe(&work.cells, seen, door.map(loopback_address), path).await;
    let mut reasons = Vec::new();
    let mut say = |code: &str, text: String| {
        reasons.push(Reason {
            code: code.to_owned(),
            text,
        })
    };
    if work.core.store.draining().await?.contains(slug) {
        let text =
            format!("it is offered no more work, as it was to go; `abbey start {slug}` ends that");
        say("draining", text);
    }
    if let Some(seen) = seen {
        if let Some(error) = &seen.error {
            say("cannot_reconcile", error.clone());
        }
        if let Some(why) = &seen.waits {
            say("no_room", why.clone());
        }
        match &seen.observed {
            Observed::Running { ready: true, .. } => {
                say("up", format!("boot {} is up", seen.history.generation.0))
            }
            Observed::Running { .. } => say(
                "not_ready",
                "it has not announced that it is ready".to_owned(),
            ),
            _ if matches!(seen.desired, supervision::Desired::Down) => say(
                "stopped",
                format!("it is not wanted up; `abbey start {slug}` starts it"),
            ),
            _ => say("down", "it is wanted up and does not run".to_owned()),
        }
        if seen.history.failures > 0 {
            say(
                "failures",
                format!("{} failures in a row", seen.history.failures),
            );
        }
    } else {
        say("unknown", "it has not been looked at yet".to_owned());
    }
    if !agent.cell.isolates() {
        say(
            "not_isolated",
            format!("its cell `{}` is not a boundary", agent.cell),
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
        last_exit: exit.map(|e| runtime::spec(agent.runtime).describe_exit(&e.exit)),
        last_exit_at: exit.map(|e| e.ended_at.into()),
        failures: seen.map_or(0, |s| s.history.failures),
        next_retry: seen.and_then(|s| s.history.retry_at).map(Time),
        limits_in_force: in_force.and_then(|l| serde_json::to_value(l).ok()),
    })
}

pub(crate) fn task_view(work: &WorkState, row: &TaskRow, runs: Vec<RunView>) -> TaskView {
    let (verified, waiting_for) = match &row.phase {
        Phase::Done { verified } => (Some(verification_view(*verified)), None),
        Phase::Unverified => (Some(Verification::Unverified), None),
        Phase::Parked { reasons } => (None, reasons.first().map(|r| r.text.clone())),
        Phase::Ready { candidates } => (
            None,
            Some(format!("a claim by {}", join_with_or(candidates))),
        ),
        Phase::Running { lease } => (
            None,
            Some(format!(
                "{}, until {} unless renewed",
                lease.holder,
                Time(lease.expires_at)
            )),
        ),
        Phase::Pending { not_before } => (
            None,
            Some(format!("its next attempt at {}", Time(*not_before))),
        ),
        Phase::Blocked { on, why } => (None, Some(format!("{on}: {why}"))),
        Phase::AwaitingApproval { approval, until } => (
            None,
            Some(format!("a yes to APPR-{approval}, until {}", Time(*until))),
        ),
        Phase::Failed { .. } | Phase::TimedOut | Phase::Cancelled => (None, None),
    };
    TaskView {
        id: row.id.to_string(),
        number: format!("TASK-{}", row.number),
        title: row.text.clone(),
        state: row.state(),
        assignee: row.assignee.as_ref().map(ToString::to_string),
        priority: row.priority,
        author: row.author.to_string(),
        attempts: row.attempts,
        verified,
        waiting_for,
        skill: row.route.skill.clone(),
        result: row.result.as_ref().map(|r| ResultView {
            text: r.text.clone(),
            source: r.source,
            data: r.data.clone(),
        }),
        failure: row.failure.clone(),
        trace: work.traces.trace_of_task(row),
        link: row.link.as_ref().map(|l| LinkView {
            parent: l.parent.map(|p| format!("TASK-{p}")),
            root: format!("TASK-{}", l.root),
            chain: l.chain.iter().map(ToString::to_string).collect(),
            expects: l.expects.clone(),
            deliver: l.deliver.to_string(),
            due_at: l.due.map(Time),
            step: l.step.clone(),
            data: l.data.clone(),
            evidence: l
                .evidence
                .iter()
                .map(crate::work::evidence::evidence_view)
                .collect(),
        }),
        runs,
        revision: row.version,
        created_at: row.created_at.into(),
        updated_at: row.updated_at.into(),
    }
}

const fn verification_view(verified: Verified) -> Verification {
    match verified {
        Verified::Skill => Verification::Skill,
        Verified::Evidence => Verification::Evidence,
        Verified::None => Verification::None,
    }
}

fn join_with_or(slugs: &[Slug]) -> String {
    slugs
        .iter()
        .map(Slug::as_str)
        .collect::<Vec<_>>()
        .join(" or ")
}

pub(crate) async fn task_doc(work: &WorkState, row: TaskRow) -> Result<TaskDoc> {
    let runs = work
        .core
        .store
        .runs(row.id)
        .await?
        .iter()
        .map(run_view)
        .collect();
    Ok(TaskDoc {
        version: VERSION,
        task: task_view(work, &row, runs),
    })
}

pub(crate) fn run_view(row: &RunRow) -> RunView {
    let known = row.usage_source != "unknown";
    RunView {
        id: row.id.to_string(),
        state: row.state,
        reason: row.reason,
        agent: row.agent.to_string(),
        configured_model: row.configured_model.clone(),
        effective_model: row.effective_model.clone(),
        actual_model: row.actual_model.clone(),
        usage: UsageView {
            input: known.then_some(row.input),
            output: known.then_some(row.output),
            cached: known.then_some(row.cached),
            source: row.usage_source.parse().unwrap_or(UsageSource::Unknown),
        },
        cost_nano_usd: (!row.cost_unknown).then_some(row.cost_nano_usd),
        charter_hash: row.charter_hash.clone(),
        prompt_hash: row.facts.prompt_hash.clone(),
        session: row
            .facts
            .session_start
            .zip(row.facts.session_end)
            .map(|(a, b)| vec![a, b]),
        receipts: row.facts.receipts,
        flagged: row.facts.flagged.unwrap_or(false),
        started_at: row.started_at.into(),
        ended_at: row.ended_at.map(Time),
    }
}

pub(crate) async fn explain_task(work: &Arc<WorkState>, row: &TaskRow) -> Result<WhyDoc> {
    let mut reasons = Vec::new();
    let mut say = |code: WaitCode, text: String| {
        reasons.push(Reason {
            code: code.name().to_owned(),
            text,
        })
    };
    match &row.phase {
        Phase::Pending { not_before } => {
            let last = row
                .failure
                .as_deref()
                .unwrap_or("the last attempt was interrupted");
            say(
                WaitCode::Backoff,
                format!("next attempt at {}; {last}", Time(*not_before)),
            );
        }
        Phase::Parked { reasons } => reasons.iter().for_each(|r| say(r.code, r.text.clone())),
        Phase::Ready { candidates } => {
            say(
                WaitCode::Offered,
                format!("offered to {}", join_with_or(candidates)),
            );
            let fleet = fleet_doc(work).await?;
            for agent in fleet
                .agents
                .iter()
                .filter(|a| candidates.iter().any(|c| c.as_str() == a.name))
            {
                if agent.presence != Presence::Ready {
                    say(
                        WaitCode::AgentDown,
                        format!(
                            "{} is {}; see `abbey why {}`",
                            agent.name, agent.presence, agent.name
                        ),
                    );
                } else if let Some(task) = &agent.task {
                    say(
                        WaitCode::AgentBusy,
                        format!("{} works on {task}", agent.name),
                    );
                }
            }
        }
        Phase::Running { lease } => {
            say(
                WaitCode::Leased,
                format!(
                    "{} works on it (run {}); its lease ends at {} unless renewed",
                    lease.holder,
                    lease.run,
                    Time(lease.expires_at)
                ),
            );
        }
        Phase::Blocked { on, why } => say(
            WaitCode::BlockedOn,
            format!("{on} must act: {why}; then `abbey task retry` or the unblock route"),
        ),
        Phase::AwaitingApproval { approval, until } => say(
            WaitCode::BlockedOn,
            format!(
                "it waits until {} for a yes to APPR-{approval}; `abbey approvals` shows it",
                Time(*until)
            ),
        ),
        Phase::Failed {
            reason,
            quarantined,
        } => {
            let text = row.failure.clone().unwrap_or_else(|| reason.to_string());
            if *quarantined {
                say(
                    WaitCode::Quarantined,
                    format!("gave up after {} attempts: {text}", row.attempts),
                );
            } else {
                say(WaitCode::Terminal, format!("failed ({reason}): {text}"));
            }
        }
        Phase::Done { verified } => {
            say(WaitCode::Terminal, format!("done; verified by: {verified}"))
        }
        Phase::Unverified | Phase::TimedOut | Phase::Cancelled => {
            say(WaitCode::Terminal, format!("it is {}", row.state()))
        }
    }
    Ok(WhyDoc {
        version: VERSION,
        task: format!("TASK-{}", row.number),
        state: row.state(),
        reasons,
    })
}

pub(crate) fn budget_views(accounts: &[Account]) -> Vec<BudgetScope> {
    let view = |a: &Account| BudgetScope {
        scope: a.scope.to_string(),
        metric: a.metric,
        window: a.window,
        limit: a.limit,
        spent: a.spent,
        reserved: a.reserved,
        state: a.state(),
        resets_at: a.resets_at.map(Time),
    };
    accounts.iter().map(view).collect()
}

pub(crate) fn audit_entry_view(entry: AuditEntry) -> EntryView {
    EntryView {
        seq: entry.seq,
        at: entry.at.into(),
        actor: entry.actor,
        action: entry.action,
        entity: entry.entity,
        detail: entry.detail,
        prev: entry.prev,
        hash: entry.hash,
    }
}

pub(crate) fn skill_view(work: &WorkState, skill: &Skill, score: Option<u32>) -> SkillView {
    let owners = work.core.plan.current().map_or_else(Vec::new, |c| {
        c.house
            .agents
            .values()
            .filter(|a| a.skills.contains(&skill.name))
            .map(|a| a.slug.to_string())
            .collect()
    });
    SkillView {
        name: skill.name.clone(),
        description: skill.description.clone(),
        hash: skill.hash.clone(),
        skill_version: skill.version.clone(),
        owner: skill.owner.clone(),
        tags: skill.tags.clone(),
        program: skill.program.as_ref().map(|p| match p {
            Program::Builtin(name) => format!("builtin:{name}"),
            Program::File(path) => path.display().to_string(),
        }),
        patterns: skill.patterns.clone(),
        args: skill.args.clone(),
        grants: skill.grants.clone(),
        risk: skill.risk.parse().unwrap_or(Risk::Medium),
        agents: owners,
        score,
    }
}

/// Skills, or those that fit a text: by pattern first, then by words.
pub(crate) fn find_skills(
    work: &WorkState,
    query: Option<&str>,
    allowed: impl Fn(&str) -> bool,
) -> SkillsDoc {
    let skills = work.skills.current();
    let all = skills.all.values().filter(|s| allowed(&s.name));
    let found: Vec<SkillView> = match query.filter(|q| !q.trim().is_empty()) {
        None => all.map(|s| skill_view(work, s, None)).collect(),
        Some(query) => {
            let scores: BTreeMap<String, u32> = skills
                .matching_skills(query)
                .into_iter()
                .map(|c| (c.skill, c.score))
                .collect();
            let words: Vec<String> = query
                .to_lowercase()
                .split_whitespace()
                .map(str::to_owned)
                .collect();
            let score = |s: &Skill| {
                let tags = s.tags.join(" ");
                let text = format!("{} {} {tags}", s.name, s.description).to_lowercase();
                let hits = words.iter().filter(|w| text.contains(w.as_str())).count();
                let by_words = u32::try_from(hits * 400 / words.len().max(1)).unwrap_or(0);
                scores.get(&s.name).copied().unwrap_or(0).max(by_words)
            };
            let mut found: Vec<SkillView> = all
                .map(|s| (score(s), s))
                .filter(|(n, _)| *n > 0)
                .map(|(n, s)| skill_view(work, s, Some(n)))
                .collect();
            found.sort_by(|a, b| b.score.cmp(&a.score).then_with(|| a.name.cmp(&b.name)));
            found
        }
    };
    SkillsDoc {
        version: VERSION,
        skills: found,
        cursor: None,
    }
}

/// The chain that a task is part of, as a tree.
pub(crate) async fn task_tree_doc(work: &WorkState, root: TaskRef) -> Result<TreeDoc> {
    let rows = work.core.store.task_tree(root).await?;
    let row = |(depth, row): (u32, TaskRow)| TreeRow {
        depth,
        task: task_view(work, &row, Vec::new()),
    };
    Ok(TreeDoc {
        version: VERSION,
        rows: rows.into_iter().map(row).collect(),
    })
}
