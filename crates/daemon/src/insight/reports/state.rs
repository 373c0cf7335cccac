//! Reports of the current state: agents and tasks, disks, budgets, permissions.

use super::day::usd;
use super::report::{Report, plain_number};
use crate::insight::disks::{INODES_LEAST, SPACE_LEAST};
use abbey_api::FindingKind;
use abbey_api::{FleetDoc, ServiceView};
use abbey_engine::budget::Account;
use abbey_model::Presence;
use abbey_model::{BudgetState, Bytes, CellKind, Egress, Metric, Millis, Scope, TaskState, Tool};
use abbey_plan::{AgentBudget, House};
use abbey_store::{AnsweringModel, TaskRow, WorkflowRow};
use abbey_words::Text;
use serde_json::Value;
use std::collections::BTreeMap;

/// Free space below which a finding of this kind is reported, percent.
const SPACE: [(u64, FindingKind); 2] = [(5, FindingKind::Error), (15, FindingKind::Warn)];

/// The report `status`: presence of each agent and service, workflow runs that are half
/// done, open tasks by state, and a disk of the house that is full.
pub(super) fn status_report(
    fleet: &FleetDoc,
    services: &[ServiceView],
    tasks: &[TaskRow],
    incidents: &[WorkflowRow],
    disks: &[Value],
) -> Report {
    let mut report = Report::default();
    let agents = fleet
        .agents
        .iter()
        .map(|a| (&a.name, a.presence, a.restarts));
    let kept = services
        .iter()
        .flat_map(|s| s.closed.iter().map(move |c| (s, c)));
    for (service, closed) in kept {
        let copies = format!("services/{}/backups/", service.name);
        let text = Text::new("closed-data")
            .with("service", &service.name)
            .with("name", &closed.name)
            .with("until", closed.deleted_at.to_string())
            .with("copy", closed.copy.as_ref().unwrap_or(&copies));
        report.interpret(FindingKind::Warn, text);
    }
    let services = services.iter().map(|s| (&s.name, s.presence, s.restarts));
    for (name, presence, restarts) in agents.chain(services) {
        let about = |id| {
            Text::new(id)
                .with("agent", name)
                .with("presence", presence.name())
        };
        report.observe(
            Text::plain(name),
            about("agent-state").with("restarts", restarts),
        );
        match presence {
            Presence::Ready | Presence::Stopping | Presence::Starting | Presence::Idle => {}
            Presence::Down | Presence::Stopped | Presence::Degraded => {
                report.interpret(FindingKind::Error, about("agent-is"));
                report.recommend(FindingKind::Action, about("why-agent"));
            }
            _ => report.interpret(FindingKind::Warn, about("agent-is")),
        }
    }
    for provider in &fleet.failing_providers {
        let text = Text::new("provider-fails")
            .with("provider", &provider.name)
            .with("since", provider.since.to_string())
            .with("until", provider.until.to_string());
        report.interpret(FindingKind::Warn, text);
    }
    for row in incidents {
        let about = |id| {
            Text::new(id)
                .with("run", format!("WF-{}", row.number))
                .with("workflow", &row.name)
        };
        report.interpret(FindingKind::Error, about("not-undone"));
        report.recommend(FindingKind::Action, about("see-run"));
    }
    let mut states: BTreeMap<&str, u64> = BTreeMap::new();
    for task in tasks.iter().filter(|t| !t.state().is_terminal()) {
        *states.entry(task.state().name()).or_default() += 1;
    }
    for (state, count) in &states {
        report.observe(
            Text::new("tasks-in").with("state", *state),
            plain_number(count),
        );
    }
    if let Some(n) = states.get(TaskState::AwaitingApproval.name()) {
        report.interpret(
            FindingKind::Warn,
            Text::new("waiting-for-approval").with("count", *n),
        );
        report.recommend(FindingKind::Action, Text::new("see-approvals"));
    }
    if let Some(n) = states.get(TaskState::Parked.name()) {
        report.interpret(
            FindingKind::Warn,
            Text::new("tasks-parked").with("count", *n),
        );
        report.recommend(FindingKind::Note, Text::new("see-task-why"));
    }
    // Those of the other file systems are in the report `disk`, as is what is not urgent.
    for disk in disks.iter().filter(|d| d["home"] == true) {
        judge_disk(&mut report, disk, |_, free, least| {
            (free < least).then_some(FindingKind::Error)
        });
    }
    report
}

/// The report `disk`: free space and inodes of each file system.
pub(super) fn disk_report(disks: &[Value]) -> Report {
    let mut report = Report::default();
    for disk in disks {
        let number = |key: &str| disk[key].as_u64().unwrap_or(0);
        let (total, free) = (number("total_bytes"), number("available_bytes"));
        let mount = disk["mount"].as_str().unwrap_or("?");
        let percent = (free * 100).checked_div(total).unwrap_or(0);
        let text = Text::new("disk-free")
            .with("mount", mount)
            .with("percent", percent)
            .with("size", Bytes(total).human());
        let mut amounts = vec![("total_bytes", total), ("available_bytes", free)];
        // Where inodes are made as they are needed, there is no number of them.
        let inodes = number("total_inodes");
        if inodes > 0 {
            let free = number("available_inodes");
            amounts.extend([("total_inodes", inodes), ("available_inodes", free)]);
        }
        report.observe_amounts(Text::plain(mount), text, &amounts);
        judge_disk(&mut report, disk, |percent, _, _| {
            let limit = SPACE.iter().find(|(least, _)| percent < *least);
            limit.map(|(_, severity)| *severity)
        });
    }
    report
}

/// Reports that a file system has little space, or few inodes, left, as `judge` decides from the free percents, the free
/// amount, and the least with which a house works.
fn judge_disk(
    report: &mut Report,
    disk: &Value,
    judge: impl Fn(u64, u64, u64) -> Option<FindingKind>,
) {
    let mount = disk["mount"].as_str().unwrap_or("?");
    for (total, free, least, left, remedy) in [
        (
            "total_bytes",
            "available_bytes",
            SPACE_LEAST,
            "disk-left",
            "disk-room",
        ),
        (
            "total_inodes",
            "available_inodes",
            INODES_LEAST,
            "inodes-left",
            "inodes-room",
        ),
    ] {
        let number = |key: &str| disk[key].as_u64().unwrap_or(0);
        let free = number(free);
        let Some(percent) = free.saturating_mul(100).checked_div(number(total)) else {
            continue;
        };
        let about = |id| Text::new(id).with("mount", mount).with("percent", percent);
        if let Some(severity) = judge(percent, free, least) {
            report.interpret(severity, about(left));
            report.recommend(FindingKind::Action, about(remedy));
        }
    }
}

/// An amount in a unit that people use.
fn budget_amount(metric: Metric, amount: u64) -> String {
    match metric {
        Metric::NanoUsd => usd(amount),
        Metric::Seconds => {
            Millis::from_secs(i64::try_from(amount).unwrap_or(i64::MAX / 1000)).human()
        }
        Metric::Tokens | Metric::Runs => amount.to_string(),
    }
}

/// The report `budget`: spent and reserved amounts of the house and its agents against their
/// limits.
pub(super) fn budget_report(accounts: &[Account]) -> Report {
    let mut report = Report::default();
    let lasting = accounts
        .iter()
        .filter(|a| matches!(a.scope, Scope::House | Scope::Agent(_)))
        .filter(|a| a.limit.is_some() || a.spent > 0 || a.reserved > 0);
    for account in lasting {
        let metric = match account.metric {
            Metric::NanoUsd => "USD",
            metric => metric.name(),
        };
        let name = format!("{} {metric}", account.scope);
        let amount = |amount| budget_amount(account.metric, amount);
        let limit = account
            .limit
            .map_or_else(|| Text::new("no-limit"), |limit| Text::plain(amount(limit)));
        let used = Text::new("budget-use")
            .with("spent", amount(account.spent))
            .with("limit", limit)
            .with("held", amount(account.reserved));
        report.observe(Text::plain(&name), used);
        match account.state() {
            BudgetState::Ok | BudgetState::Unlimited => {}
            BudgetState::Warning => {
                report.interpret(
                    FindingKind::Warn,
                    Text::new("budget-warning").with("name", &name),
                );
            }
            BudgetState::Exhausted => {
                report.interpret(
                    FindingKind::Error,
                    Text::new("budget-used-up").with("name", &name),
                );
                report.recommend(FindingKind::Note, Text::new("budget-then"));
            }
        }
    }
    report
}

/// The report `policy`: isolation, egress, tools and delegation of each agent, and permissions
/// wider than most agents need.
///
/// `models` has which models answered, so that one is named that answered in place of another.
pub(super) fn policy_report(house: &House, models: &[AnsweringModel]) -> Report {
    let mut report = Report::default();
    let mut open = false;
    for agent in house.agents.values() {
        let tools = format!("{}/{}", agent.tools.tools.len(), Tool::ALL.len());
        let delegates = house
            .agents
            .keys()
            .filter(|to| agent.delegates.includes(to));
        let given = Text::new("policy-of")
            .with("cell", agent.cell.to_string())
            .with("egress", agent.egress.to_string())
            .with("tools", tools)
            .with(
                "delegates",
                delegates.filter(|to| **to != agent.slug).count(),
            );
        report.observe(Text::plain(agent.slug.as_str()), given);
        let bare = agent.cell == CellKind::Process;
        let shell = agent.tools.tools.contains(&Tool::Shell);
        let unbounded = agent.model.is_some()
            && agent.budget() == AgentBudget::default()
            && house.budget.limits() == AgentBudget::default();
        for (is, severity, id) in [
            (bare && !shell, FindingKind::Info, "policy-open-cell"),
            (bare && shell, FindingKind::Warn, "policy-open-shell"),
            (
                agent.egress == Egress::Full,
                FindingKind::Warn,
                "policy-open-egress",
            ),
            (
                agent.charter_writable,
                FindingKind::Info,
                "policy-open-charter",
            ),
            (unbounded, FindingKind::Warn, "policy-no-budget"),
        ] {
            if is {
                open = true;
                report.interpret(severity, Text::new(id).with("agent", agent.slug.as_str()));
            }
        }
    }
    for other in models.iter().filter(|m| m.is_another()) {
        let text = Text::new("other-model")
            .with("agent", &other.agent)
            .with("asked", &other.asked)
            .with("answered", &other.answered)
            .with("runs", other.runs);
        report.interpret(FindingKind::Warn, text);
    }
    if open {
        report.recommend(FindingKind::Note, Text::new("policy-close"));
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;
    use abbey_model::Timestamp;
    use abbey_words::Language;

    #[test]
    fn a_probe_that_failed_says_so() {
        let doc = disk_report(&[]).render("disk", Timestamp(0), Language::English);
        assert_eq!(doc.interpretation[0].kind, FindingKind::Error);
        let full = serde_json::json!({ "mount": "/", "total_bytes": 1000, "available_bytes": 40 });
        let full = || {
            disk_report(std::slice::from_ref(&full)).render("disk", Timestamp(0), Language::English)
        };
        let doc = full();
        assert_eq!(
            (doc.interpretation[0].kind, doc.notes[0].kind),
            (FindingKind::Error, FindingKind::Action)
        );
        assert!(
            doc.notes[0].text.starts_with("if "),
            "advice is conditional"
        );
    }

    #[test]
    fn what_stands_open_is_told() {
        let manifest = "version: 1\nhouse: h\nagents:\n  a: { cell: process, egress: full, tools: { allow: all } }\n  b: {}\n";
        let house = abbey_plan::parse(manifest).unwrap();
        let doc = policy_report(&house, &[]).render("policy", Timestamp(0), Language::English);
        let told: Vec<&str> = doc.interpretation.iter().map(|f| f.text.as_str()).collect();
        assert_eq!(
            told,
            [
                "a may run any program, and is not isolated",
                "a may reach every destination"
            ]
        );
        assert!(
            doc.observed[1]
                .value
                .starts_with("cell sandbox, egress none")
        );
    }
}
