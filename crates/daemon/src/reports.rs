//! Reports in three parts: what was observed, what that means, and what an operator might do (S4-31, S2-30). Each is
//! a pure function of what probes and rows say; a probe that failed leaves its part empty, and the report says so.

use crate::error::Result;
use crate::house::House;
use crate::{facts, skill_costs, view};
use abbey_api::{AgentView, Finding, Observation, Problem, ReportDoc, Time, VERSION};
use abbey_engine::budget::Account;
use abbey_model::{BudgetState, CellName, FaultKind, Millis, Scope, TaskState, Timestamp, Wish};
use abbey_store::{Entry, TaskFilter, TaskRow};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

/// Every report, with what it is about.
pub(crate) const NAMES: [(&str, &str); 6] = [
    ("status", "agents, work and what waits for a person"),
    ("disk", "space on every file system that holds data"),
    ("budget", "what was spent of what is allowed, today"),
    ("progress", "work of the last day, by agent"),
    (
        "skills",
        "what skills cost in a week, and what cost far more than its like",
    ),
    (
        "metrics",
        "conflicts, sharing, uptime, completion and interventions against their targets",
    ),
];
/// Time that `progress` and `metrics` look back.
const WINDOW: Millis = Millis::from_secs(86_400);
/// Time that `skills` looks back.
const WEEK: Millis = Millis::from_secs(7 * 86_400);
/// Most entries and tasks that are looked at.
const LOOK_MAX: u32 = 1000;
const PAGES_MAX: usize = 100;
/// What the house is measured by.
const UPTIME_LEAST: f64 = 95.0;
const COMPLETION_LEAST: f64 = 80.0;
const INTERVENTIONS_MOST: u64 = 1;
/// Free space below which a file system is full soon, and full, percent.
const SPACE: [(u64, &str); 2] = [(5, "error"), (15, "warn")];

/// A report that is put together.
#[derive(Default)]
pub(crate) struct Report {
    observed: Vec<Observation>,
    findings: Vec<Finding>,
    notes: Vec<Finding>,
}

impl Report {
    pub(crate) fn saw(&mut self, label: impl Into<String>, value: impl ToString) {
        self.observed.push(Observation {
            label: label.into(),
            value: value.to_string(),
        });
    }
    pub(crate) fn means(&mut self, severity: &str, text: impl Into<String>) {
        self.findings.push(Finding {
            kind: severity.to_owned(),
            text: text.into(),
        });
    }
    pub(crate) fn advise(&mut self, kind: &str, text: impl Into<String>) {
        self.notes.push(Finding {
            kind: kind.to_owned(),
            text: text.into(),
        });
    }
    pub(crate) fn finish(mut self, name: &str, at: Timestamp) -> ReportDoc {
        if self.observed.is_empty() {
            self.means("error", "nothing could be observed: the probe failed");
        } else if self.findings.is_empty() {
            self.means("info", "nothing out of the ordinary");
        }
        ReportDoc {
            version: VERSION,
            name: name.to_owned(),
            at: Time(at),
            observed: self.observed,
            interpretation: self.findings,
            notes: self.notes,
        }
    }
}

fn status(agents: &[AgentView], tasks: &[TaskRow]) -> Report {
    let mut report = Report::default();
    for agent in agents {
        report.saw(
            &agent.name,
            format!("{}, {} restarts", agent.presence, agent.restarts),
        );
        match agent.presence.as_str() {
            "robed" | "stopping" | "starting" => {}
            "dead" | "degraded" => {
                report.means("error", format!("{} is {}", agent.name, agent.presence));
                let why = format!("if that is not meant, `abbey why {}` says why", agent.name);
                report.advise("action", why);
            }
            other => report.means("warn", format!("{} is {other}", agent.name)),
        }
    }
    let mut states: BTreeMap<&str, usize> = BTreeMap::new();
    for task in tasks.iter().filter(|t| !t.state().is_terminal()) {
        *states.entry(task.state().name()).or_default() += 1;
    }
    for (state, count) in &states {
        report.saw(format!("tasks {state}"), count);
    }
    if let Some(n) = states.get(TaskState::AwaitingApproval.name()) {
        report.means("warn", format!("{n} pieces of work wait for a yes"));
        report.advise(
            "action",
            "if you can answer, `abbey approvals` shows what is asked",
        );
    }
    if let Some(n) = states.get(TaskState::Parked.name()) {
        report.means("warn", format!("{n} tasks are parked"));
        report.advise("note", "`abbey task why` says what each lacks");
    }
    report
}

fn disk(disks: &[Value]) -> Report {
    let mut report = Report::default();
    for disk in disks {
        let number = |key: &str| disk[key].as_u64().unwrap_or(0);
        let (total, free) = (number("total_bytes"), number("available_bytes"));
        let mount = disk["mount"].as_str().unwrap_or("?");
        let percent = (free * 100).checked_div(total).unwrap_or(0);
        report.saw(
            mount,
            format!("{percent} % free of {}", abbey_model::Bytes(total)),
        );
        if let Some((_, severity)) = SPACE.iter().find(|(least, _)| percent < *least) {
            report.means(severity, format!("{mount} has {percent} % left"));
            report.advise(
                "action",
                format!("if {mount} holds the house, make room before intake is refused"),
            );
        }
    }
    report
}

fn budget(accounts: &[Account]) -> Report {
    let mut report = Report::default();
    let lasting = accounts
        .iter()
        .filter(|a| matches!(a.scope, Scope::House | Scope::Agent(_)))
        .filter(|a| a.limit.is_some() || a.spent > 0 || a.reserved > 0);
    for account in lasting {
        let name = format!("{} {}", account.scope, account.metric.name());
        let limit = account
            .limit
            .map_or_else(|| "no limit".to_owned(), |l| l.to_string());
        report.saw(
            &name,
            format!("{} of {limit}, {} held", account.spent, account.reserved),
        );
        match account.state() {
            BudgetState::Ok | BudgetState::Unlimited => {}
            BudgetState::Warning => report.means("warn", format!("{name} is above its warning")),
            BudgetState::Exhausted => {
                report.means("error", format!("{name} is used up"));
                report.advise(
                    "note",
                    "work that needs a model is parked until the budget begins anew",
                );
            }
        }
    }
    report
}

/// Tasks that came to an end within the window, by agent: (well, all).
fn ended(tasks: &[TaskRow], since: Timestamp) -> BTreeMap<String, (u64, u64)> {
    let mut by_agent: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for task in tasks
        .iter()
        .filter(|t| t.state().is_terminal() && t.updated_at >= since)
    {
        let agent = task.assignee.as_ref().map_or("nobody", |a| a.as_str());
        let count = by_agent.entry(agent.to_owned()).or_default();
        count.0 += u64::from(task.state() == TaskState::Done);
        count.1 += 1;
    }
    by_agent
}

fn progress(tasks: &[TaskRow], since: Timestamp) -> Report {
    let mut report = Report::default();
    for (agent, (done, all)) in ended(tasks, since) {
        report.saw(&agent, format!("{done} of {all} done"));
        if done < all {
            report.means(
                "warn",
                format!("{} of {agent}'s tasks did not end well", all - done),
            );
        }
    }
    let open = tasks.iter().filter(|t| !t.state().is_terminal()).count();
    report.saw("open", open);
    report
}

/// What of a cell changes over a day.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Aspect {
    /// It runs.
    Up,
    /// It is meant to run.
    Wanted,
}

/// Time up of the time that an agent was wanted up, percent; none when it was not. One that was made within the
/// window counts from its first start.
fn uptime(
    agent: &str,
    (up_now, wanted_now): (bool, bool),
    entries: &[Entry],
    since: Timestamp,
    now: Timestamp,
) -> Option<f64> {
    let cell = format!("agent-{agent}");
    let change = |e: &Entry| {
        Some(match e.action.as_str() {
            "cell.start" => (e.at, Aspect::Up, true),
            "cell.exit" => (e.at, Aspect::Up, false),
            "cell.want_up" => (e.at, Aspect::Wanted, true),
            "cell.want_down" | "cell.want_paused" => (e.at, Aspect::Wanted, false),
            _ => return None,
        })
    };
    let of_cell = entries.iter().filter(|e| e.entity == cell);
    let mut changes: Vec<(Timestamp, Aspect, bool)> = of_cell.filter_map(change).collect();
    changes.sort_by_key(|c| c.0);
    // Before its first change an aspect was the contrary.
    let before = |of: Aspect, present: bool| {
        let first = changes.iter().find(|c| c.1 == of);
        first.map_or(present, |c| !c.2)
    };
    let (mut up, mut wanted) = (
        before(Aspect::Up, up_now),
        before(Aspect::Wanted, wanted_now),
    );
    let made = entries.iter().any(|e| {
        e.action == "saga.begin" && e.entity == agent && e.detail["kind"] == "agent.create"
    });
    let begun = match changes.iter().find(|c| c.1 == Aspect::Up && c.2) {
        Some((at, ..)) if made => *at,
        _ => since,
    };
    let (mut at, mut was_up, mut was_wanted) = (begun, 0i64, 0i64);
    changes.push((now, Aspect::Up, up_now));
    for (when, aspect, value) in changes {
        let span = when.since(at).0.max(0);
        was_wanted += if wanted { span } else { 0 };
        was_up += if wanted && up { span } else { 0 };
        at = at.max(when);
        match aspect {
            Aspect::Up => up = value,
            Aspect::Wanted => wanted = value,
        }
    }
    (was_wanted > 0).then(|| was_up as f64 * 100.0 / was_wanted as f64)
}

struct Seen<'a> {
    agents: &'a [AgentView],
    /// Those that are not wanted up.
    resting: Vec<String>,
    tasks: &'a [TaskRow],
    entries: &'a [Entry],
    /// Ports of the house that somebody else holds.
    conflicts: u64,
    /// Agents that share a user with another.
    shared: u64,
}

fn metrics(seen: &Seen<'_>, since: Timestamp, now: Timestamp) -> Report {
    let mut report = Report::default();
    report.saw("port conflicts (target 0)", seen.conflicts);
    if seen.conflicts > 0 {
        report.means("error", "a port of the house is held by somebody else");
        report.advise(
            "action",
            "if an agent is down for it, `abbey doctor` names the holder",
        );
    }
    report.saw("agents that share a user (target 0)", seen.shared);
    if seen.shared > 0 {
        report.means(
            "warn",
            "agents that share a user can reach each other's files",
        );
        report.advise("note", "a house that root started gives each its own");
    }
    for agent in seen.agents {
        let up = ["robed", "unrobed"].contains(&agent.presence.as_str());
        let present = (up, !seen.resting.contains(&agent.name));
        let Some(percent) = uptime(&agent.name, present, seen.entries, since, now) else {
            continue;
        };
        report.saw(
            format!("uptime of {} (target > {UPTIME_LEAST} %)", agent.name),
            format!("{percent:.1} %"),
        );
        if percent <= UPTIME_LEAST {
            report.means(
                "warn",
                format!("{} was up {percent:.1} % of the last day", agent.name),
            );
        }
    }
    let (done, all) = ended(seen.tasks, since)
        .values()
        .fold((0, 0), |sum, (done, all)| (sum.0 + done, sum.1 + all));
    let target = format!("completion (target > {COMPLETION_LEAST} % of tasks that came to an end)");
    match all {
        0 => report.saw(target, "no task came to an end"),
        _ => {
            let percent = done as f64 * 100.0 / all as f64;
            report.saw(target, format!("{percent:.1} % ({done} of {all})"));
            if percent <= COMPLETION_LEAST {
                report.means("warn", format!("{percent:.1} % of tasks were done"));
            }
        }
    }
    let mends = [
        "task.retry",
        "task.unblock",
        "task.cancel",
        "cell.want_up",
        "cell.want_down",
    ];
    let interventions = seen
        .entries
        .iter()
        .filter(|e| e.actor == "operator" && mends.contains(&e.action.as_str()))
        .count() as u64;
    report.saw(
        format!("interventions in a day (target < {INTERVENTIONS_MOST})"),
        interventions,
    );
    if interventions >= INTERVENTIONS_MOST {
        report.means("info", format!("a person stepped in {interventions} times"));
    }
    report
}

/// Entries of the window, oldest first.
async fn entries(house: &House, since: Timestamp) -> Result<Vec<Entry>> {
    let mut all: Vec<Entry> = Vec::new();
    let mut before = house.store.head();
    for _ in 0..PAGES_MAX {
        let after = before.saturating_sub(u64::from(LOOK_MAX));
        let page = house.store.activity(after, LOOK_MAX).await?;
        let page: Vec<Entry> = page.into_iter().filter(|e| e.seq <= before).collect();
        let reached = page.first().is_none_or(|e| e.at < since);
        let fresh = page.into_iter().filter(|e| e.at >= since);
        all.splice(0..0, fresh);
        if reached || after == 0 {
            break;
        }
        before = after;
    }
    Ok(all)
}

async fn tasks(house: &House) -> Result<Vec<TaskRow>> {
    let filter = TaskFilter {
        limit: LOOK_MAX,
        ..TaskFilter::default()
    };
    Ok(house.store.tasks(filter).await?)
}

/// Makes a report.
pub(crate) async fn make(house: &Arc<House>, name: &str) -> Result<ReportDoc> {
    let now = house.store.now();
    let since = now + Millis(-WINDOW.0);
    let report = match name {
        "status" => status(&view::fleet(house).await?.agents, &tasks(house).await?),
        "disk" => disk(&facts::disks()),
        "budget" => budget(&house.store.budgets().await?),
        "progress" => progress(&tasks(house).await?, since),
        "skills" => {
            let since = now + Millis(-WEEK.0);
            skill_costs::costs(&house.store.runs_since(since).await?)
        }
        "metrics" => {
            let fleet = view::fleet(house).await?;
            let current = house.current();
            let uids: Vec<Option<u32>> = current
                .iter()
                .flat_map(|c| c.house.agents.keys().map(|s| c.uid(&format!("agent:{s}"))))
                .collect();
            let shared = uids.iter().filter(|u| u.is_none()).count();
            let seen = Seen {
                agents: &fleet.agents,
                resting: resting(house),
                tasks: &tasks(house).await?,
                entries: &entries(house, since).await?,
                conflicts: conflicts(house).await?,
                // One alone shares with nobody.
                shared: if shared > 1 { shared as u64 } else { 0 },
            };
            metrics(&seen, since, now)
        }
        other => {
            let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
            return Err(
                Problem::new(FaultKind::NotFound, format!("there is no report `{other}`"))
                    .remedy(format!("there are {}", names.join(", ")))
                    .into(),
            );
        }
    };
    Ok(report.finish(name, now))
}

/// Agents that are down or held on somebody's wish.
fn resting(house: &House) -> Vec<String> {
    let wishes = house.wishes.read().unwrap_or_else(PoisonError::into_inner);
    let of_agents = wishes.iter().filter_map(|(cell, wish)| match cell {
        CellName::Agent(slug) => Some((slug, wish)),
        _ => None,
    });
    of_agents
        .filter(|(_, wish)| **wish != Wish::Up)
        .map(|(slug, _)| slug.to_string())
        .collect()
}

/// Ports of the plan on which somebody listens while their owner is down.
async fn conflicts(house: &Arc<House>) -> Result<u64> {
    let Some(current) = house.current() else {
        return Ok(0);
    };
    let hostd = Arc::clone(&house.hostd);
    let host = crate::hostd::ask(move || hostd.observe()).await?;
    let seen = view::seen(house);
    let down = |owner: &str| {
        let cell = owner.replacen(':', "-", 1);
        seen.iter().any(|(name, s)| {
            name.to_string() == cell && matches!(s.observed, abbey_model::Observed::Nothing)
        })
    };
    let rows = current.registry.rows();
    let held = rows.filter(|r| {
        r.value
            .parse::<u16>()
            .is_ok_and(|p| host.ports.contains_key(&p))
    });
    Ok(held.filter(|r| down(&r.owner)).count() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(at: i64, action: &str, actor: &str) -> Entry {
        Entry {
            seq: 0,
            at: Timestamp(at),
            actor: actor.to_owned(),
            action: action.to_owned(),
            entity: "agent-a".to_owned(),
            detail: Value::Null,
            prev: String::new(),
            hash: String::new(),
        }
    }

    #[test]
    fn uptime_counts_what_was_and_nothing_else() {
        let (since, now) = (Timestamp(0), Timestamp(1000));
        let of = |entries: &[Entry], up| uptime("a", (up, true), entries, since, now);
        // Up all day; down all day; up again at half the day; down for a tenth.
        assert_eq!(of(&[], true), Some(100.0));
        assert_eq!(of(&[], false), Some(0.0));
        let came = entry(500, "cell.start", "house");
        assert_eq!(of(std::slice::from_ref(&came), true), Some(50.0));
        let fell = [entry(400, "cell.exit", "house"), came.clone()];
        assert_eq!(of(&fell, true), Some(90.0));
        // Of another agent nothing counts.
        let mut other = fell.to_vec();
        other
            .iter_mut()
            .for_each(|e| e.entity = "agent-b".to_owned());
        assert_eq!(of(&other, true), Some(100.0));
        // One that was made at noon counts from its first start.
        let mut made = entry(490, "saga.begin", "house");
        made.entity = "a".to_owned();
        made.detail = serde_json::json!({ "kind": "agent.create" });
        assert_eq!(of(&[made, came], true), Some(100.0));
    }

    #[test]
    fn an_agent_that_nobody_wants_up_is_not_late() {
        let (since, now) = (Timestamp(0), Timestamp(1000));
        assert_eq!(uptime("a", (false, false), &[], since, now), None);
        // Stopped for most of the day, and back a while after it was wanted.
        let day = [
            entry(100, "cell.want_down", "operator"),
            entry(150, "cell.exit", "house"),
            entry(800, "cell.want_up", "operator"),
            entry(830, "cell.start", "house"),
        ];
        assert_eq!(uptime("a", (true, true), &day, since, now), Some(90.0));
    }

    #[test]
    fn a_probe_that_failed_says_so() {
        let doc = disk(&[]).finish("disk", Timestamp(0));
        assert_eq!(doc.interpretation[0].kind, "error");
        let full = serde_json::json!({ "mount": "/", "total_bytes": 1000, "available_bytes": 40 });
        let doc = disk(&[full]).finish("disk", Timestamp(0));
        assert_eq!(
            (
                doc.interpretation[0].kind.as_str(),
                doc.notes[0].kind.as_str()
            ),
            ("error", "action")
        );
        assert!(
            doc.notes[0].text.starts_with("if "),
            "advice is conditional"
        );
    }
}
