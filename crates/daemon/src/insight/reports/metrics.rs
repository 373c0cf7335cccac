//! The report `metrics`: service level objectives of the house, with exact denominators (S2-30).

use super::day::ended_tasks_by_agent;
use super::report::{Report, plain_number};
use abbey_api::AgentView;
use abbey_api::FindingKind;
use abbey_model::{Millis, Presence, Timestamp};
use abbey_store::{AuditEntry, TaskRow};
use abbey_words::Text;
use std::collections::BTreeMap;

/// Objective: uptime of each agent, percent.
const UPTIME_LEAST: f64 = 95.0;
/// Objective: completed tasks, percent.
const COMPLETION_LEAST: f64 = 80.0;
/// Objective: interventions of the operator per day.
const INTERVENTIONS_MOST: u64 = 1;

/// Time after a start of the house, or the end of a cell that was asked for, that its next start may take without
/// counting as downtime.
const START_WITHIN: Millis = Millis::from_secs(60);
/// Time after a start of the house in which the control plane finds cells whose end nobody saw.
const FIRST_LOOK: Millis = Millis::from_secs(60);

/// What changes the uptime of a cell.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    /// Its program runs and responds, or doesn't.
    Up(bool),
    /// Its desired state is up, or isn't.
    Wanted(bool),
    /// Its start ends a planned downtime.
    Started,
    /// A downtime that somebody asked for begins, and lasts for this long or until the next start; without a limit for
    /// the whole house.
    Planned(Option<Millis>),
    /// The house was started.
    HouseStarted,
    /// Time that the clock jumped over begins, or ends: nothing ran in it.
    Skipped(bool),
}

/// Changes of a cell in order. What nobody saw ends when the house was observed last, and an end that was recorded counts
/// from its own time, not from that of its entry.
fn changes_of(cell: &str, entries: &[AuditEntry]) -> Vec<(Timestamp, Change)> {
    let mut changes = Vec::new();
    let mut unobserved: Option<(Timestamp, Timestamp)> = None;
    let mut started = Timestamp(i64::MIN);
    for entry in entries {
        let at = entry.at;
        match entry.action.as_str() {
            "house.down" => changes.push((at, Change::Planned(None))),
            "house.start" => {
                let until = entry.detail["observed_until"].as_i64().map(Timestamp);
                unobserved = until.map(|until| (until, at));
                changes.push((at, Change::HouseStarted));
            }
            "clock.jump" => {
                let jump = Millis(entry.detail["ms"].as_i64().unwrap_or(0));
                changes.extend([
                    (at - jump, Change::Skipped(true)),
                    (at, Change::Skipped(false)),
                ]);
            }
            _ if entry.entity != cell => {}
            "cell.start" => {
                started = at;
                changes.extend([(at, Change::Up(true)), (at, Change::Started)]);
            }
            "cell.exit" => {
                let recorded = entry.detail["ended_at"].as_i64().map(Timestamp);
                let unseen = unobserved.filter(|(_, again)| at.since(*again) < FIRST_LOOK);
                let ended = recorded.or(unseen.map(|(until, _)| until)).unwrap_or(at);
                let ended = ended.max(started).min(at);
                changes.push((ended, Change::Up(false)));
                if entry.detail["requested"] == true {
                    changes.push((ended, Change::Planned(Some(START_WITHIN))));
                }
            }
            "cell.unresponsive" => changes.push((at, Change::Up(false))),
            "cell.responsive" => changes.push((at, Change::Up(true))),
            "cell.want_up" => changes.push((at, Change::Wanted(true))),
            "cell.want_down" | "cell.want_paused" => changes.push((at, Change::Wanted(false))),
            _ => {}
        }
    }
    changes.sort_by_key(|(at, _)| *at);
    changes
}

/// Percentage of the time with desired state up in which the agent ran; `None` if it was never to be up. Downtime that
/// somebody asked for counts on neither side. An agent created within the window counts from its first start.
fn uptime_percent(
    agent: &str,
    (up_now, wanted_now): (bool, bool),
    entries: &[AuditEntry],
    since: Timestamp,
    now: Timestamp,
) -> Option<f64> {
    let mut changes = changes_of(&format!("agent-{agent}"), entries);
    // Before its first change a property had the opposite value.
    let first = |of: fn(Change) -> Option<bool>| changes.iter().find_map(|c| of(c.1));
    let is_up = |change| match change {
        Change::Up(up) => Some(up),
        _ => None,
    };
    let is_wanted = |change| match change {
        Change::Wanted(wanted) => Some(wanted),
        _ => None,
    };
    let mut up = first(is_up).map_or(up_now, |up| !up);
    let mut wanted = first(is_wanted).map_or(wanted_now, |wanted| !wanted);
    let made = entries.iter().any(|e| {
        e.action == "saga.begin" && e.entity == agent && e.detail["kind"] == "agent.create"
    });
    let begun = match changes.iter().find(|c| c.1 == Change::Up(true)) {
        Some((at, _)) if made => *at,
        _ => since,
    };
    let never = Timestamp(i64::MAX);
    let mut planned_until = Timestamp(i64::MIN);
    let (mut at, mut was_up, mut was_wanted) = (begun, 0i64, 0i64);
    let mut skipped = false;
    changes.push((now, Change::Up(up_now)));
    for (when, change) in changes {
        let counted_from = at.max(planned_until.min(when));
        let span = match skipped {
            true => 0,
            false => when.since(counted_from).0.max(0),
        };
        was_wanted += if wanted { span } else { 0 };
        was_up += if wanted && up { span } else { 0 };
        at = at.max(when);
        match change {
            Change::Up(value) => up = value,
            Change::Wanted(value) => wanted = value,
            Change::Started => planned_until = when,
            Change::Planned(within) => {
                planned_until = planned_until.max(within.map_or(never, |within| when + within));
            }
            Change::Skipped(begins) => skipped = begins,
            Change::HouseStarted => planned_until = planned_until.min(when + START_WITHIN),
        }
    }
    (was_wanted > 0).then(|| was_up as f64 * 100.0 / was_wanted as f64)
}

/// Actions by which an operator intervenes.
const INTERVENTIONS: [&str; 10] = [
    "task.retry",
    "task.unblock",
    "task.cancel",
    "cell.want_up",
    "cell.want_down",
    "cell.want_paused",
    "cell.restart",
    "service.restart",
    "agent.rotate",
    "approval.decide",
];

/// Agent that an intervention was about, if it was about one.
fn agent_of_intervention(entry: &AuditEntry, tasks: &[TaskRow]) -> Option<String> {
    if let Some(agent) = entry.entity.strip_prefix("agent-") {
        return Some(agent.to_owned());
    }
    if entry.action == "agent.rotate" {
        return Some(entry.entity.clone());
    }
    let number = entry.entity.strip_prefix("TASK-")?.parse::<u64>().ok()?;
    let task = tasks.iter().find(|t| t.number == number)?;
    task.assignee.as_ref().map(ToString::to_string)
}

/// Input of the report.
pub(super) struct MeasuredState<'a> {
    pub(super) agents: &'a [AgentView],
    /// Agents whose desired state is not up.
    pub(super) resting: Vec<String>,
    pub(super) tasks: &'a [TaskRow],
    pub(super) entries: &'a [AuditEntry],
    /// Ports of the house that another program uses.
    pub(super) conflicts: u64,
    /// Agents that share a user with another agent.
    pub(super) shared: u64,
}

/// The report `metrics`: port conflicts, shared users, uptime, completion rate and interventions
/// against their objectives.
pub(super) fn metrics_report(seen: &MeasuredState<'_>, since: Timestamp, now: Timestamp) -> Report {
    let mut report = Report::default();
    report.observe(Text::new("metric-conflicts"), plain_number(seen.conflicts));
    if seen.conflicts > 0 {
        report.interpret(FindingKind::Error, Text::new("metric-conflicts-found"));
        report.recommend(FindingKind::Action, Text::new("metric-conflicts-then"));
    }
    report.observe(Text::new("metric-shared"), plain_number(seen.shared));
    if seen.shared > 0 {
        report.interpret(FindingKind::Warn, Text::new("metric-shared-found"));
        report.recommend(FindingKind::Note, Text::new("metric-shared-then"));
    }
    for agent in seen.agents {
        let up = matches!(agent.presence, Presence::Ready | Presence::WorkerOnly);
        let present = (up, !seen.resting.contains(&agent.name));
        let Some(percent) = uptime_percent(&agent.name, present, seen.entries, since, now) else {
            continue;
        };
        let label = Text::new("metric-uptime")
            .with("agent", &agent.name)
            .with("target", UPTIME_LEAST.to_string());
        report.observe(label, Text::plain(format!("{percent:.1} %")));
        if percent <= UPTIME_LEAST {
            let text = Text::new("metric-uptime-low")
                .with("agent", &agent.name)
                .with("percent", format!("{percent:.1}"));
            report.interpret(FindingKind::Warn, text);
        }
    }
    let ended = ended_tasks_by_agent(seen.tasks, since);
    let (done, all) = ended
        .values()
        .fold((0, 0), |sum, (done, all)| (sum.0 + done, sum.1 + all));
    let completed = |done: u64, all: u64| {
        Text::new("metric-completion-is")
            .with(
                "percent",
                format!("{:.1}", done as f64 * 100.0 / all as f64),
            )
            .with("done", done)
            .with("all", all)
    };
    let target = Text::new("metric-completion").with("target", COMPLETION_LEAST.to_string());
    match all {
        0 => report.observe(target, Text::new("metric-completion-none")),
        _ => {
            report.observe(target, completed(done, all));
            let percent = done as f64 * 100.0 / all as f64;
            if percent <= COMPLETION_LEAST {
                let text = Text::new("metric-completion-low");
                report.interpret(
                    FindingKind::Warn,
                    text.with("percent", format!("{percent:.1}")),
                );
            }
        }
    }
    for (agent, (done, all)) in &ended {
        let label = Text::new("metric-completion-of").with("agent", agent);
        report.observe(label, completed(*done, *all));
    }
    let interventions: Vec<&AuditEntry> = seen
        .entries
        .iter()
        .filter(|e| e.actor == "operator" && INTERVENTIONS.contains(&e.action.as_str()))
        .collect();
    let count = interventions.len() as u64;
    let label = Text::new("metric-interventions").with("target", INTERVENTIONS_MOST.to_string());
    report.observe(label, plain_number(count));
    let mut by_agent: BTreeMap<String, u64> = BTreeMap::new();
    for entry in interventions {
        if let Some(agent) = agent_of_intervention(entry, seen.tasks) {
            *by_agent.entry(agent).or_default() += 1;
        }
    }
    for (agent, count) in by_agent {
        let label = Text::new("metric-interventions-of").with("agent", agent);
        report.observe(label, plain_number(count));
    }
    if count >= INTERVENTIONS_MOST {
        let text = Text::new("metric-interventions-high").with("count", count);
        report.interpret(FindingKind::Info, text);
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn entry(at: i64, action: &str, actor: &str) -> AuditEntry {
        AuditEntry {
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
        let of = |entries: &[AuditEntry], up| uptime_percent("a", (up, true), entries, since, now);
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
        assert_eq!(uptime_percent("a", (false, false), &[], since, now), None);
        // Stopped for most of the day, and back a while after it was wanted.
        let day = [
            entry(100, "cell.want_down", "operator"),
            entry(150, "cell.exit", "house"),
            entry(800, "cell.want_up", "operator"),
            entry(830, "cell.start", "house"),
        ];
        assert_eq!(
            uptime_percent("a", (true, true), &day, since, now),
            Some(90.0)
        );
    }

    #[test]
    fn time_that_the_clock_jumped_over_counts_on_neither_side() {
        let (since, now) = (Timestamp(0), Timestamp(100_000));
        // Down for a tenth of the twenty seconds that passed; eighty were skipped.
        let mut jump = entry(95_000, "clock.jump", "house");
        jump.entity = "house".to_owned();
        jump.detail = serde_json::json!({ "ms": 80_000 });
        let fell = entry(97_000, "cell.exit", "house");
        let back = entry(99_000, "cell.start", "house");
        let log = [jump, fell, back];
        let percent = uptime_percent("a", (true, true), &log, since, now);
        assert_eq!(percent, Some(90.0));
        // Over more than the whole window.
        let mut long = log.clone();
        long[0].detail = serde_json::json!({ "ms": i64::from(u32::MAX) * 1000 });
        assert_eq!(
            uptime_percent("a", (true, true), &long, since, now),
            Some(60.0)
        );
    }

    #[test]
    fn time_that_nobody_observed_is_not_uptime() {
        let (since, now) = (Timestamp(0), Timestamp(100_000));
        let mut started = entry(80_000, "house.start", "house");
        started.detail = serde_json::json!({ "observed_until": 20_000 });
        let lost = entry(80_100, "cell.exit", "house");
        let back = entry(80_000, "cell.start", "house");
        let of = |entries: &[AuditEntry]| {
            uptime_percent("a", (true, true), entries, since, now).map(f64::round)
        };
        assert_eq!(of(&[started.clone(), lost, back.clone()]), Some(40.0));
        // One that went on without the house was adopted, and one whose end was recorded counts up to it.
        assert_eq!(of(std::slice::from_ref(&started)), Some(100.0));
        let mut recorded = entry(80_000, "cell.exit", "house");
        recorded.detail = serde_json::json!({ "ended_at": 50_000, "requested": false });
        assert_eq!(of(&[started, recorded, back]), Some(70.0));
    }

    #[test]
    fn downtime_that_was_asked_for_counts_on_neither_side() {
        let (since, now) = (Timestamp(0), Timestamp(1_000_000));
        let stopped = |at: i64| {
            let mut entry = entry(at, "cell.exit", "house");
            entry.detail = serde_json::json!({ "ended_at": at, "requested": true });
            entry
        };
        let of = |entries: &[AuditEntry]| uptime_percent("a", (true, true), entries, since, now);
        // Down for the night, and started within the time that a start may take.
        let mut night = vec![
            entry(100_000, "house.down", "operator"),
            stopped(101_000),
            entry(900_000, "house.start", "house"),
            entry(903_000, "cell.start", "house"),
        ];
        assert_eq!(of(&night), Some(100.0));
        // A start that takes longer counts from then on: 100 of 140 seconds.
        night[3].at = Timestamp(1_000_000 - 1);
        let percent = of(&night).unwrap();
        assert!((71.0..72.0).contains(&percent), "{percent}");
        // A restart.
        let restart = [stopped(500_000), entry(504_000, "cell.start", "house")];
        assert_eq!(of(&restart), Some(100.0));
        // One that hangs is not up, though its program runs.
        let hung = [
            entry(400_000, "cell.unresponsive", "house"),
            entry(500_000, "cell.responsive", "house"),
        ];
        assert_eq!(of(&hung), Some(90.0));
    }
}
