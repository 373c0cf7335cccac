//! Operations that agents may request from the control plane: a closed set, each granted by a
//! skill, with the arguments of the task that runs it (S4-07, S4-25). Operations that affect others
//! need the operator's approval first.

use crate::core::error::Result;
use crate::core::plan;
use crate::core::runtime;
use crate::net::firewall;
use crate::work::approvals;
use crate::work::state::WorkState;
use abbey_api::Problem;
use abbey_cells::hostd::{HostdOperation, HostdReply};
use abbey_engine::approval::State;
use abbey_model::{CellName, FaultKind, LeaseToken, Principal, Slug, TaskState};
use abbey_store::{ApprovalFilter, NewAuditEntry, TaskFilter, TaskRow};
use serde_json::{Value, json};
use std::sync::Arc;

/// A requested operation with its target.
#[derive(Debug, Clone, PartialEq, Eq)]
enum RequestedOperation {
    /// Restarts a service.
    RestartService(Slug),
    /// Restarts an agent's cell.
    RestartAgent(Slug),
    /// Takes a ZFS snapshot of the house's files.
    Snapshot,
}

/// Logs to the audit log that a cell is restarted, and stops it; the reconciler starts it again if its desired state is
/// up. Logged first, since a house that can't write could not start it again either.
pub(crate) async fn restart_cell(
    work: &Arc<WorkState>,
    cell: CellName,
    who: Principal,
) -> Result<()> {
    let action = match &cell {
        CellName::Service(_) => "service.restart",
        CellName::Agent(_) | CellName::Run(_) => "cell.restart",
    };
    let note = NewAuditEntry {
        actor: who,
        action: action.to_owned(),
        entity: cell.to_string(),
        detail: json!({}),
    };
    work.core.store.append_audit_entry(note).await?;
    let backend = Arc::clone(&work.cells.backend);
    let grace = crate::cells::specs::stop_grace(&work.cells, &cell);
    let asked = runtime::run_blocking(move || backend.stop(&cell, grace)).await;
    asked.map_err(|e| Problem::new(FaultKind::Internal, e.to_string()))??;
    work.cells.request_reconcile();
    Ok(())
}

/// A running task of the agent whose skill has this grant, with its lease token; `None` if there is
/// none.
pub(crate) async fn find_granted_task(
    work: &WorkState,
    agent: &Slug,
    grant: &str,
) -> Result<Option<(TaskRow, LeaseToken)>> {
    let running = TaskFilter {
        states: vec![TaskState::Running],
        assignee: Some(agent.clone()),
        limit: 64,
        ..Default::default()
    };
    let skills = work.skills.current();
    for task in work.core.store.tasks(running).await? {
        let lease = task.phase.lease().filter(|l| l.holder == *agent);
        let skill = task.route.skill.as_ref();
        let skill = skill.and_then(|name| skills.all.get(name));
        if let (Some(lease), Some(skill)) = (lease, skill)
            && skill.grants.iter().any(|g| g == grant)
        {
            let token = lease.token;
            return Ok(Some((task, token)));
        }
    }
    Ok(None)
}

/// Parses the name and arguments of an operation, and checks its target.
///
/// # Errors
/// If the operation or target does not exist, or an agent would restart itself.
fn parse_operation(
    work: &WorkState,
    who: &Principal,
    name: &str,
    args: &Value,
) -> Result<RequestedOperation> {
    let current = work.core.plan.require()?;
    let named = |key: &str| -> Result<Slug> {
        let text = args[key].as_str().unwrap_or_default();
        let none = || {
            Problem::new(
                FaultKind::Invalid,
                format!("`{key}` must be the name of an agent or service"),
            )
        };
        Ok(text.parse().map_err(|_| none())?)
    };
    let missing = |what: &str, slug: &Slug| {
        Problem::new(FaultKind::NotFound, format!("there is no {what} `{slug}`"))
    };
    match name {
        "service-restart" => {
            let slug = named("service")?;
            match current.house.services.contains_key(&slug) {
                true => Ok(RequestedOperation::RestartService(slug)),
                false => Err(missing("service", &slug).into()),
            }
        }
        "cell-restart" => {
            let slug = named("agent")?;
            if *who == Principal::Agent(slug.clone()) {
                let text = "an agent cannot restart its own cell, since that would interrupt the task that requested it";
                return Err(Problem::new(FaultKind::Forbidden, text).into());
            }
            match current.house.agents.contains_key(&slug) {
                true => Ok(RequestedOperation::RestartAgent(slug)),
                false => Err(missing("agent", &slug).into()),
            }
        }
        "zfs-snapshot" => Ok(RequestedOperation::Snapshot),
        other => {
            let text = format!("there is no operation `{other}`");
            Err(Problem::new(FaultKind::NotFound, text).into())
        }
    }
}

impl RequestedOperation {
    /// What the operation would do and affect; `None` if it affects nobody and needs no approval.
    async fn preview(&self, work: &Arc<WorkState>) -> Result<Option<String>> {
        let current = work.core.plan.require()?;
        match self {
            RequestedOperation::RestartService(slug) => {
                let users = current.house.agents.values();
                let users = users.filter(|a| plan::agent_uses_service(&current.house, a, slug));
                let users: Vec<&str> = users.map(|a| a.slug.as_str()).collect();
                let others = match users.is_empty() {
                    true => "no agent uses it".to_owned(),
                    false => format!("{} cannot use it during the restart", users.join(", ")),
                };
                Ok(Some(format!("service `{slug}` is restarted; {others}")))
            }
            RequestedOperation::RestartAgent(slug) => {
                let running = TaskFilter {
                    states: vec![TaskState::Running],
                    assignee: Some(slug.clone()),
                    limit: 64,
                    ..Default::default()
                };
                let tasks = work.core.store.tasks(running).await?;
                let tasks: Vec<String> =
                    tasks.iter().map(|t| format!("TASK-{}", t.number)).collect();
                let work = match tasks.is_empty() {
                    true => "it has no running task".to_owned(),
                    false => format!("{} will be interrupted and retried", tasks.join(", ")),
                };
                Ok(Some(format!("the cell of `{slug}` is restarted; {work}")))
            }
            RequestedOperation::Snapshot => Ok(None),
        }
    }

    /// Performs the operation and logs it to the audit log.
    async fn perform(self, work: &Arc<WorkState>, who: Principal) -> Result<Value> {
        match self {
            RequestedOperation::RestartService(slug) => {
                restart_cell(work, CellName::Service(slug.clone()), who).await?;
                Ok(json!({ "text": format!("service `{slug}` is restarting"), "service": slug }))
            }
            RequestedOperation::RestartAgent(slug) => {
                restart_cell(work, CellName::Agent(slug.clone()), who).await?;
                Ok(json!({ "text": format!("the cell of `{slug}` is restarting"), "agent": slug }))
            }
            RequestedOperation::Snapshot => {
                let stamp = abbey_api::Time(work.core.store.now()).to_string();
                let label = stamp.replace([':', '.'], "-").to_ascii_lowercase();
                let hostd = Arc::clone(&work.core.hostd);
                let asked = HostdOperation::Snapshot { label };
                let reply =
                    crate::core::hostd::call_blocking(move || hostd.call(asked, &[])).await?;
                let HostdReply::Snapshot { name } = reply else {
                    let text = "hostd answered a snapshot in an unexpected format; see its log";
                    return Err(Problem::new(FaultKind::Internal, text).into());
                };
                let note = NewAuditEntry {
                    actor: who,
                    action: "zfs.snapshot".to_owned(),
                    entity: "house".to_owned(),
                    detail: json!({ "snapshot": name }),
                };
                work.core.store.append_audit_entry(note).await?;
                Ok(json!({ "text": format!("made the snapshot {name}"), "snapshot": name }))
            }
        }
    }
}

/// Performs an operation that a skill of the agent's running task grants. If it needs an approval
/// that was not given yet, returns the explanation for the request instead.
///
/// # Errors
/// `Forbidden` if no running task grants it.
pub(crate) async fn run_operation_for_agent(
    work: &Arc<WorkState>,
    agent: &Slug,
    name: &str,
) -> Result<Value> {
    let granted = find_granted_task(work, agent, &format!("op:{name}")).await?;
    let Some((task, token)) = granted else {
        let text = format!(
            "no running task of agent `{agent}` uses a skill that is granted the operation `{name}`"
        );
        return Err(Problem::new(FaultKind::Forbidden, text).into());
    };
    let args = json!(task.route.args);
    let who = Principal::Agent(agent.clone());
    let operation = parse_operation(work, &who, name, &args)?;
    if let Some(why) = operation.preview(work).await? {
        let action = format!("skill:{}", task.route.skill.as_deref().unwrap_or(name));
        let filter = ApprovalFilter {
            task: Some(task.number),
            all: true,
            ..ApprovalFilter::default()
        };
        let asked = work.core.store.approvals(filter).await?;
        let approved = asked
            .iter()
            .find(|a| a.state == State::Approved && a.action == action && a.args == args);
        let Some(approved) = approved else {
            return Ok(json!({ "approval": { "why": why } }));
        };
        let body = abbey_api::UseBody { action, args };
        approvals::use_approval(work, agent.clone(), token, approved.number, body).await?;
    }
    operation.perform(work, who).await
}

/// Why the one operation that a skill grants can't be performed with these arguments now, as its target is gone.
pub(crate) fn missing_target(work: &WorkState, skill: &str, args: &Value) -> Option<String> {
    let skills = work.skills.current();
    let granted = skills.all.get(skill)?.grants.iter();
    let granted: Vec<&str> = granted.filter_map(|g| g.strip_prefix("op:")).collect();
    // Of several operations nobody knows which one these arguments are for.
    let [operation] = granted.as_slice() else {
        return None;
    };
    let parsed = parse_operation(work, &Principal::House, operation, args);
    parsed.err().map(|error| error.to_string())
}

/// Performs an operation for the operator; with `dry_run` only returns what it would do.
pub(crate) async fn run_operation_for_operator(
    work: &Arc<WorkState>,
    by: &Principal,
    name: &str,
    args: &Value,
    dry_run: bool,
) -> Result<Value> {
    let operation = parse_operation(work, by, name, args)?;
    if dry_run {
        let would = operation.preview(work).await?;
        return Ok(
            json!({ "dry_run": true, "text": would.unwrap_or_else(|| "it affects no agent".to_owned()) }),
        );
    }
    operation.perform(work, by.clone()).await
}

/// Every operation with the agents that a skill grants it to.
pub(crate) fn list_operations(work: &WorkState) -> Vec<Value> {
    let skills = work.skills.current();
    let current = work.core.plan.current();
    let of = |name: &str| {
        let grant = format!("op:{name}");
        let granted = |skill: &String| {
            let skill = skills.all.get(skill);
            skill.is_some_and(|s| s.grants.contains(&grant))
        };
        let agents = current.iter().flat_map(|c| c.house.agents.values());
        let agents = agents.filter(|a| a.skills.iter().any(granted));
        agents.map(|a| a.slug.to_string()).collect::<Vec<_>>()
    };
    let names = abbey_agents::skill::OPERATIONS.into_iter();
    names
        .map(|name| json!({ "operation": name, "agents": of(name) }))
        .collect()
}

/// Checks that the firewall is as planned, restoring it if not, and lists the cells with a network
/// and their egress.
pub(crate) async fn check_firewall(work: &Arc<WorkState>) -> Result<Value> {
    let current = work.core.plan.require()?;
    let stood = {
        let _no_plan = work.core.plan.lock_changes().await;
        !firewall::apply_planned_firewall(&work.cells.net).await?
    };
    let agents = current.house.agents.values();
    let agents = agents.map(|a| (format!("agent:{}", a.slug), a.egress.to_string()));
    let services = current.house.services.values();
    let services = services.map(|s| (format!("service:{}", s.slug), s.egress.to_string()));
    let cells: Vec<Value> = agents
        .chain(services)
        .filter_map(|(owner, egress)| {
            let subnet = abbey_plan::allocated_subnet(&current.registry, &owner)?;
            let what = json!({ "cell": owner, "subnet": subnet.to_string(), "egress": egress });
            Some(what)
        })
        .collect();
    Ok(json!({ "stood": stood, "cells": cells }))
}

/// ZFS pools and data sets of the host; `present` is false if it has no ZFS.
pub(crate) async fn list_zfs() -> Value {
    let list = |program: &'static str, fields: &'static str| async move {
        let out = tokio::process::Command::new(program)
            .args(["list", "-Hp", "-o", fields])
            .env_clear()
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin")
            .output()
            .await
            .ok()?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        out.status.success().then(|| parse_zfs_rows(fields, &text))
    };
    let pools = list("zpool", "name,size,allocated,free,health").await;
    let sets = list("zfs", "name,used,available,mountpoint").await;
    json!({ "present": pools.is_some(), "pools": pools, "sets": sets })
}

/// Parses tab-separated output of `zfs list -H` into objects with these comma-separated field
/// names.
fn parse_zfs_rows(fields: &str, text: &str) -> Vec<Value> {
    let row = |line: &str| {
        let pairs = fields.split(',').zip(line.split('\t'));
        let pairs = pairs.map(|(k, v)| (k.to_owned(), Value::from(v)));
        Value::Object(pairs.collect())
    };
    text.lines().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_zfs_are_read_by_field() {
        let text = "tank\t1000\t10\t990\tONLINE\nspare\t5\t5\t0\tDEGRADED\n";
        let rows = parse_zfs_rows("name,size,allocated,free,health", text);
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0]["name"], "tank");
        assert_eq!(rows[1]["health"], "DEGRADED");
    }
}
