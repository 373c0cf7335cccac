//! Reports of the last day: progress, tokens, and verification.

use super::report::{Report, plain_number};
use abbey_api::CheckView;
use abbey_api::{CheckSeverity, CheckState, FindingKind};
use abbey_engine::task::Phase;
use abbey_model::{TaskState, Timestamp};
use abbey_store::{AuditVerification, ModelUsage, TaskRow};
use abbey_words::Text;
use std::collections::BTreeMap;

/// Tasks that ended since an instant, by agent: number of successful ones, and number of all.
pub(super) fn ended_tasks_by_agent(
    tasks: &[TaskRow],
    since: Timestamp,
) -> BTreeMap<String, (u64, u64)> {
    let mut by_agent: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for task in ended_in_window(tasks, since) {
        let agent = task.assignee.as_ref().map_or("nobody", |a| a.as_str());
        let count = by_agent.entry(agent.to_owned()).or_default();
        count.0 += u64::from(task.state() == TaskState::Done);
        count.1 += 1;
    }
    by_agent
}

fn ended_in_window(tasks: &[TaskRow], since: Timestamp) -> impl Iterator<Item = &TaskRow> {
    let over = move |t: &&TaskRow| t.state().is_terminal() && t.updated_at >= since;
    tasks.iter().filter(over)
}

/// The report `progress`: tasks that ended since an instant by agent, and the number of open tasks.
pub(super) fn progress_report(tasks: &[TaskRow], since: Timestamp) -> Report {
    let mut report = Report::default();
    for (agent, (done, all)) in ended_tasks_by_agent(tasks, since) {
        let counted = Text::new("done-of").with("done", done).with("all", all);
        report.observe(Text::plain(&agent), counted);
        if done < all {
            let text = Text::new("not-well").with("count", all - done);
            report.interpret(FindingKind::Warn, text.with("agent", &agent));
        }
    }
    let open = tasks.iter().filter(|t| !t.state().is_terminal()).count();
    report.observe(Text::new("open-tasks"), plain_number(open));
    report
}

/// Dollars with six decimals, since one token may cost less than a cent.
pub(super) fn usd(nano: u64) -> String {
    format!(
        "{}.{:06}",
        nano / 1_000_000_000,
        nano % 1_000_000_000 / 1000
    )
}

/// Cost as far as it is known: a lower bound, or `?`, where the price of a call is unknown.
fn known_cost(usage: &ModelUsage) -> String {
    match (usage.cost_unknown, usage.cost_nano_usd) {
        (0, cost) => usd(cost),
        (_, 0) => "?".to_owned(),
        (_, cost) => format!("≥ {}", usd(cost)),
    }
}

/// The report `tokens`: model usage and cost by agent and model.
pub(super) fn token_report(usage: &[ModelUsage]) -> Report {
    let mut report = Report::default();
    let said = |u: &ModelUsage| {
        // What is unknown is not shown as 0.
        let id = match u.usage_unknown {
            0 => "tokens-use",
            unknown if unknown == u.runs => "tokens-use-unknown",
            _ => "tokens-use-partly",
        };
        Text::new(id)
            .with("unknown", u.usage_unknown)
            .with("runs", u.runs)
            .with("input", u.input)
            .with("output", u.output)
            .with("cached", u.cached)
            .with("charged", u.charged)
            .with("cost", known_cost(u))
    };
    let mut sum = ModelUsage::default();
    for row in usage {
        let label = Text::new("tokens-label")
            .with("agent", &row.agent)
            .with("model", &row.model);
        report.observe(label, said(row));
        sum.runs += row.runs;
        sum.input += row.input;
        sum.output += row.output;
        sum.cached += row.cached;
        sum.cost_nano_usd += row.cost_nano_usd;
        sum.cost_unknown += row.cost_unknown;
        sum.usage_unknown += row.usage_unknown;
        sum.charged += row.charged;
    }
    match usage.is_empty() {
        true => report.observe(Text::new("tokens-all"), Text::new("tokens-none")),
        false => report.observe(Text::new("tokens-all"), said(&sum)),
    }
    if sum.cost_unknown > 0 {
        let text = Text::new("tokens-unknown").with("count", sum.cost_unknown);
        report.interpret(FindingKind::Warn, text);
        // Where the usage is unknown, as of interrupted calls, a price would not help.
        if usage.iter().any(|u| u.cost_unknown > u.usage_unknown) {
            report.recommend(FindingKind::Note, Text::new("tokens-price"));
        }
    }
    report
}

/// The report `tests`: how results since an instant were verified, the checks of `doctor`, and the
/// audit log.
pub(super) fn verification_report(
    tasks: &[TaskRow],
    checks: &[CheckView],
    chain: &AuditVerification,
    since: Timestamp,
) -> Report {
    let mut report = Report::default();
    let mut by: BTreeMap<String, u64> = BTreeMap::new();
    let mut unverified = 0u64;
    for task in ended_in_window(tasks, since) {
        match &task.phase {
            Phase::Done { verified } => *by.entry(verified.to_string()).or_default() += 1,
            Phase::Unverified => unverified += 1,
            _ => {}
        }
    }
    for (verified, count) in by {
        let label = Text::new("tests-results").with("verified", verified);
        report.observe(label, plain_number(count));
    }
    let good = checks.iter().filter(|c| c.state == CheckState::Ok).count();
    let counted = Text::new("tests-checked")
        .with("good", good)
        .with("all", checks.len());
    report.observe(Text::new("tests-checks"), counted);
    let whole = match chain.first_bad {
        None => Text::new("tests-chain-whole").with("entries", chain.entries),
        Some(entry) => Text::new("tests-chain-broken").with("entry", entry),
    };
    report.observe(Text::new("tests-chain"), whole);
    if unverified > 0 {
        report.interpret(
            FindingKind::Warn,
            Text::new("tests-unverified").with("count", unverified),
        );
    }
    if let Some(entry) = chain.first_bad {
        report.interpret(
            FindingKind::Error,
            Text::new("tests-chain-broken").with("entry", entry),
        );
    }
    let bad: Vec<&CheckView> = checks
        .iter()
        .filter(|c| c.state != CheckState::Ok)
        .collect();
    for check in &bad {
        let severity = match check.severity {
            CheckSeverity::Fail => FindingKind::Error,
            CheckSeverity::Warn | CheckSeverity::Info => FindingKind::Warn,
        };
        report.interpret(severity, Text::plain(&check.text));
    }
    if !bad.is_empty() {
        report.recommend(FindingKind::Action, Text::new("tests-doctor"));
    }
    report
}
