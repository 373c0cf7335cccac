//! What an agent did lately, from its session: a few lines for its next prompt, without a model.

use super::parts::on_one_line;
use abbey_api::Time;
use abbey_model::Timestamp;
use serde_json::Value;
use std::collections::BTreeMap;

/// Most runs that are recalled.
const RUNS_MAX: usize = 8;
/// Longest part of a task's text or result, in characters.
const TEXT_MAX: usize = 240;

/// A run as the session has it.
#[derive(Debug, Default)]
struct RunRecord {
    task: String,
    text: String,
    began: Option<i64>,
    tools: BTreeMap<String, usize>,
    ending: Option<String>,
}

/// One line for each of the newest runs that ended, the newest last. `session` holds lines of a session file, of which
/// those that can't be read are skipped; the run `current` is left out.
pub(super) fn summarize_recent_runs(session: &str, current: &str) -> String {
    let mut order: Vec<String> = Vec::new();
    let mut runs: BTreeMap<String, RunRecord> = BTreeMap::new();
    for line in session.lines() {
        let Ok(event) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        let Some(run) = event["run"].as_str().filter(|run| *run != current) else {
            continue;
        };
        let text = |key: &str| on_one_line(event[key].as_str().unwrap_or_default(), TEXT_MAX);
        if event["event"] == "run_begin" {
            order.push(run.to_owned());
            let begun = RunRecord {
                task: text("task"),
                text: text("text"),
                began: event["at"].as_i64(),
                ..RunRecord::default()
            };
            runs.insert(run.to_owned(), begun);
            continue;
        }
        // The beginning may lie before the part that was read.
        let Some(record) = runs.get_mut(run) else {
            continue;
        };
        match event["event"].as_str() {
            Some("receipt") => {
                let tool = on_one_line(event["tool"].as_str().unwrap_or_default(), 64);
                *record.tools.entry(tool).or_default() += 1;
            }
            Some("run_end") => record.ending = Some(ending_text(&event["ending"])),
            Some("run_lost") => record.ending = Some("interrupted".to_owned()),
            _ => {}
        }
    }
    order.dedup();
    let ended: Vec<String> = order
        .iter()
        .filter_map(|run| runs.get(run)?.line())
        .collect();
    let skipped = ended.len().saturating_sub(RUNS_MAX);
    ended
        .into_iter()
        .skip(skipped)
        .collect::<Vec<_>>()
        .join("\n")
}

fn ending_text(ending: &Value) -> String {
    let text = on_one_line(ending["text"].as_str().unwrap_or_default(), TEXT_MAX);
    let waits = ending["waits"].as_str();
    match (ending["failed"].as_str(), waits) {
        (Some(reason), _) => format!("failed ({reason}): {text}"),
        (None, Some(waits)) => format!("waits: {}", on_one_line(waits, TEXT_MAX)),
        (None, None) => format!("done: {text}"),
    }
}

impl RunRecord {
    /// The line of a run that ended.
    fn line(&self) -> Option<String> {
        let ending = self.ending.as_ref()?;
        let at = self.began.map_or_else(String::new, |at| {
            let at = Time(Timestamp(at)).to_string();
            format!("{} ", at.get(..16).unwrap_or(&at).replace('T', " "))
        });
        let tools: Vec<String> = self.tools.iter().map(|(t, n)| format!("{t} {n}")).collect();
        let tools = match tools.is_empty() {
            true => String::new(),
            false => format!(" [tool calls: {}]", tools.join(", ")),
        };
        Some(format!(
            "- {at}{}: {} -> {ending}{tools}",
            self.task, self.text
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(n: usize) -> String {
        format!(
            "{{\"event\":\"run_begin\",\"at\":1790000000000,\"task\":\"TASK-{n}\",\"run\":\"r{n}\",\"text\":\"Look at\\nbell {n}\"}}\n\
             {{\"event\":\"receipt\",\"run\":\"r{n}\",\"tool\":\"read_file\",\"ok\":true}}\n\
             {{\"event\":\"run_end\",\"run\":\"r{n}\",\"ending\":{{\"done\":\"model\",\"text\":\"It is cracked\"}}}}\n"
        )
    }

    #[test]
    fn the_newest_runs_are_recalled_in_a_line_each() {
        let all: String = (1..=20).map(run).collect();
        let recalled = summarize_recent_runs(&all, "r20");
        assert_eq!(recalled.lines().count(), RUNS_MAX);
        assert_eq!(
            recalled.lines().last(),
            Some(
                "- 2026-09-21 14:13 TASK-19: Look at bell 19 -> done: It is cracked [tool calls: read_file 1]"
            )
        );
    }

    #[test]
    fn a_damaged_or_hostile_session_gives_bounded_lines() {
        let half = &run(1)[20..];
        assert_eq!(summarize_recent_runs(half, ""), "");
        let long = format!(
            "{}\n{}",
            serde_json::json!({ "event": "run_begin", "run": "r", "task": "x".repeat(9999), "text": "é\n".repeat(9999) }),
            serde_json::json!({ "event": "run_end", "run": "r", "ending": { "failed": "agent_error", "text": "no\n".repeat(9999) } }),
        );
        let line = summarize_recent_runs(&long, "");
        assert_eq!(line.lines().count(), 1);
        assert!(line.chars().count() < 4 * TEXT_MAX, "{line}");
    }
}
