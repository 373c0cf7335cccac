//! The report `skills`: cost of each skill, and runs that cost far more than usual (S4-19): a pure
//! function of runs.

use super::report::{Report, plain_number};
use abbey_api::FindingKind;
use abbey_store::RunCost;
use abbey_words::Text;
use std::collections::BTreeMap;

/// Multiple of the median from which a run is an outlier.
const FAR: u64 = 4;
/// Least number of runs for outliers to be reported.
const LIKE_LEAST: usize = 5;
/// Tokens below which a run is never an outlier.
const TOKENS_LEAST: u64 = 1000;
/// Duration below which a run is never an outlier, milliseconds.
const TIME_LEAST_MS: u64 = 10_000;
/// Most outliers that are listed.
const TOLD_MAX: usize = 20;

/// The report `skills`: runs, failures, tokens and seconds by skill, by agent for runs without a
/// skill, and outliers.
pub(crate) fn skill_cost_report(runs: &[RunCost]) -> Report {
    let mut report = Report::default();
    // By name; what no skill did comes last.
    let mut kinds: BTreeMap<(bool, &str), Vec<&RunCost>> = BTreeMap::new();
    for run in runs {
        let kind = match &run.skill {
            Some(skill) => (false, skill.as_str()),
            None => (true, run.agent.as_str()),
        };
        kinds.entry(kind).or_default().push(run);
    }
    let mut told = 0;
    for ((without, name), runs) in &kinds {
        let kind = match without {
            false => Text::plain(*name),
            true => Text::new("without-skill").with("agent", *name),
        };
        let failed = runs.iter().filter(|r| !r.succeeded).count();
        let (tokens, tokens_most) = median_and_max(runs.iter().map(|r| r.tokens));
        let (time, time_most) = median_and_max(runs.iter().map(|r| r.time_ms));
        let used = Text::new("skill-use")
            .with("runs", runs.len())
            .with("failed", failed)
            .with("tokens", tokens)
            .with("most", tokens_most)
            .with("seconds", seconds(time))
            .with("longest", seconds(time_most));
        report.observe(kind.clone(), used);
        if runs.len() < LIKE_LEAST {
            continue;
        }
        for run in runs {
            let far =
                |value: u64, usual: u64, least| value >= least && value > usual.saturating_mul(FAR);
            let text = match () {
                () if far(run.tokens, tokens, TOKENS_LEAST) => Text::new("far-tokens")
                    .with("tokens", run.tokens)
                    .with("usual", tokens),
                () if far(run.time_ms, time, TIME_LEAST_MS) => Text::new("far-seconds")
                    .with("seconds", seconds(run.time_ms))
                    .with("usual", seconds(time)),
                () => continue,
            };
            told += 1;
            if told <= TOLD_MAX {
                let text = text.with("task", format!("TASK-{}", run.task));
                report.interpret(FindingKind::Warn, text.with("kind", kind.clone()));
            }
        }
    }
    if told > 0 {
        report.recommend(FindingKind::Note, Text::new("far-then"));
    }
    if runs.is_empty() {
        report.observe(Text::new("runs"), plain_number(0));
    }
    report
}

fn seconds(ms: u64) -> String {
    format!("{}.{}", ms / 1000, ms % 1000 / 100)
}

/// Median and maximum.
fn median_and_max(values: impl Iterator<Item = u64>) -> (u64, u64) {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    let middle = values.get(values.len() / 2).copied().unwrap_or(0);
    (middle, values.last().copied().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use abbey_model::Timestamp;
    use abbey_words::Language;

    fn run(task: u64, skill: Option<&str>, tokens: u64, time_ms: u64) -> RunCost {
        RunCost {
            task,
            skill: skill.map(str::to_owned),
            agent: "a".parse().unwrap(),
            tokens,
            time_ms,
            succeeded: task != 3,
        }
    }

    #[test]
    fn what_costs_far_more_than_its_like_is_told() {
        let mut runs: Vec<RunCost> = (1..=6).map(|n| run(n, None, 300 + n, 2000)).collect();
        runs.push(run(7, None, 9000, 2000));
        runs.push(run(8, None, 300, 60_000));
        runs.extend((9..=12).map(|n| run(n, Some("disk-usage"), 0, 100)));
        runs.push(run(13, Some("rare"), 50_000, 100));
        let report = skill_cost_report(&runs).render("skills", Timestamp(0), Language::English);
        let seen: Vec<&str> = report.observed.iter().map(|o| o.label.as_str()).collect();
        assert_eq!(seen, ["disk-usage", "rare", "without a skill, by a"]);
        assert_eq!(
            report.observed[2].value,
            "8 runs, 1 failed; tokens 304, most 9000; seconds 2.0, most 60.0"
        );
        let told: Vec<&str> = report
            .interpretation
            .iter()
            .map(|f| f.text.as_str())
            .collect();
        assert_eq!(
            told,
            [
                "TASK-7 (without a skill, by a) took 9000 tokens, where 304 are usual",
                "TASK-8 (without a skill, by a) took 60.0 seconds, where 2.0 are usual"
            ],
            "one of a kind is no outlier"
        );
        assert_eq!(
            skill_cost_report(&[])
                .render("skills", Timestamp(0), Language::English)
                .interpretation[0]
                .kind,
            FindingKind::Info
        );
    }
}
