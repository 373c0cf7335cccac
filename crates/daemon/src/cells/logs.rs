//! Reads the log files that shims write.

use abbey_api::{LogLine, Time};
use abbey_model::Timestamp;
use serde_json::Value;
use std::fs;
use std::path::Path;

/// The newest `lines_max` lines of the log in a directory, oldest first, across rotated files.
pub(crate) fn read_newest_lines(dir: &Path, lines_max: usize) -> Vec<LogLine> {
    let mut lines: Vec<LogLine> = Vec::new();
    let names =
        std::iter::once("current.jsonl".to_owned()).chain((1..=4).map(|n| format!("{n}.jsonl")));
    for name in names {
        let Ok(bytes) = fs::read(dir.join(name)) else {
            continue;
        };
        let text = String::from_utf8_lossy(&bytes);
        let mut older: Vec<LogLine> = text.lines().filter_map(parse_line).collect();
        older.append(&mut lines);
        lines = older;
        if lines.len() >= lines_max {
            break;
        }
    }
    let surplus = lines.len().saturating_sub(lines_max);
    lines.drain(..surplus);
    lines
}

fn parse_line(text: &str) -> Option<LogLine> {
    let value: Value = serde_json::from_str(text).ok()?;
    Some(LogLine {
        at: Time(Timestamp(value["at"].as_i64()?)),
        stream: value["stream"].as_str()?.parse().ok()?,
        text: value["text"].as_str()?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_every_stream_of_a_shim_are_read() {
        for stream in ["out", "err", "console", "machine"] {
            let line = format!(r#"{{"at":1,"stream":"{stream}","text":"x"}}"#);
            let parsed = parse_line(&line).map(|l| l.stream.to_string());
            assert_eq!(parsed.as_deref(), Some(stream));
        }
    }
}
