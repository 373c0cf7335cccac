//! The report `metrics`: service level objectives of the house, with exact denominators (S2-30).

use super::day::ended_tasks_by_agent;
use super::report::{Report, plain_number};
use abbey_api::AgentView;
use abbey_api::FindingKind;
use abbey_model::Presence;
use abbey_model::Timestamp;
use abbey_store::{AuditEntry, TaskRow};
use abbey_words::Text;

/// Objective: uptime of each agent, percent.
const UPTIME_LEAST: f64 = 95.0;
/// Objective: completed tasks, percent.
const COMPLETION_LEAST: f64 = 80.0;
/// Objective: interventions of the operator per day.
const INTERVENTIONS_MOST: u64 = 1;

/// Property of a cell that changes over a day.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Aspect {
    /// Its process runs.
    Up,
    /// Its desired state is up.
    Wanted,
}

/// Percentage of the time with desired state up in which the agent ran; `None` if it was never to
/// be up. An agent created within the window counts from its first start.
fn uptime_percent(
    agent: &str,
    (up_now, wanted_now): (bool, bool),
    entries: &[AuditEntry],
    since: Timestamp,
    now: Timestamp,
) -> Option<f64> {
    let cell = format!("agent-{agent}");
    let change = |e: &AuditEntry| {
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
    // Before its first change an aspect had the opposite value.
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
    let (done, all) = ended_tasks_by_agent(seen.tasks, since)
        .values()
        .fold((0, 0), |sum, (done, all)| (sum.0 + done, sum.1 + all));
    let target = Text::new("metric-completion").with("target", COMPLETION_LEAST.to_string());
    match all {
        0 => report.observe(target, Text::new("metric-completion-none")),
        _ => {
            let percent = done as f64 * 100.0 / all as f64;
            let written = format!("{percent:.1}");
            let counted = Text::new("metric-completion-is")
                .with("percent", &written)
                .with("done", done)
                .with("all", all);
            report.observe(target, counted);
            if percent <= COMPLETION_LEAST {
                let text = Text::new("metric-completion-low").with("percent", written);
                report.interpret(FindingKind::Warn, text);
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
    let label = Text::new("metric-interventions").with("target", INTERVENTIONS_MOST.to_string());
    report.observe(label, plain_number(interventions));
    if interventions >= INTERVENTIONS_MOST {
        let text = Text::new("metric-interventions-high").with("count", interventions);
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
}
