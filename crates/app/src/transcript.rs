//! Transcripts: what an agent and its model wrote, the calls of tools and what these answered, from the session in the
//! agent's cell. The agent can write the session's file, so nothing in it is taken for granted.

use crate::exit::Failure;
use crate::output::{self, local_time};
use crate::program_session::{SessionEnd, run_session};
use crate::text::{Text, Tone};
use abbey_api::{ExecBody, Time, VERSION};
use abbey_cells::program_stream;
use abbey_daemon::Home;
use abbey_model::Timestamp;
use serde_json::Value;
use tokio::sync::mpsc;

/// Longest transcript that is read, in bytes.
const READ_MAX: usize = 32 << 20;
/// Most bytes of an error message that Abbey's program in the cell writes.
const ERROR_MAX: usize = 4096;

/// Reads the events of an agent's session: those of the runs with these ids, or of every run if there is none. The agent
/// must be running.
///
/// # Errors
/// If no program can be run in the cell, or the session can't be read there.
pub(crate) async fn read_session_events(
    home: &Home,
    agent: &str,
    runs: &[String],
) -> Result<Vec<Value>, Failure> {
    let own = ["role", "transcript"].map(str::to_owned);
    let body = ExecBody {
        argv: own.into_iter().chain(runs.iter().cloned()).collect(),
        stdin: None,
        terminal: None,
        own: true,
    };
    // No input.
    let (_, input) = mpsc::channel(1);
    let (output, mut outputs) = mpsc::channel::<(u8, Vec<u8>)>(4);
    let collect = async {
        let (mut text, mut error) = (Vec::new(), Vec::new());
        while let Some((kind, bytes)) = outputs.recv().await {
            let (to, limit) = match kind {
                program_stream::ERRORS | program_stream::NOT_RUN => (&mut error, ERROR_MAX),
                _ => (&mut text, READ_MAX),
            };
            let room = limit.saturating_sub(to.len());
            to.extend(bytes.into_iter().take(room));
        }
        (text, error)
    };
    let (ended, (text, error)) =
        tokio::join!(run_session(home, agent, &body, input, output), collect);
    if ended? != SessionEnd::Exited(0) {
        let error = String::from_utf8_lossy(&error);
        let why = error.trim().trim_start_matches("error: ").to_owned();
        return Err(Failure::plain(format!(
            "could not read the transcript of `{agent}` in its cell: {why}"
        )));
    }
    let text = String::from_utf8_lossy(&text);
    Ok(text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect())
}

/// When an event was written, by the clock of its cell.
pub(crate) fn time_of(event: &Value) -> Option<Time> {
    event["at"].as_i64().map(|at| Time(Timestamp(at)))
}

/// Prints the events of agents as one JSON document.
pub(crate) fn print_transcripts_document(transcripts: &[(String, Vec<Value>)]) {
    let transcripts = transcripts.iter();
    let transcripts: Vec<Value> = transcripts
        .map(|(agent, events)| serde_json::json!({ "agent": agent, "events": events }))
        .collect();
    output::print_json(&serde_json::json!({
        "version": VERSION, "transcripts": transcripts,
    }));
}

/// Prints the events of one agent for people.
pub(crate) fn print_transcript(events: &[Value]) {
    for event in events {
        print_event(event);
    }
}

fn print_event(event: &Value) {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    match event["event"].as_str().unwrap_or_default() {
        "run_begin" => {
            let at = time_of(event).map_or_else(String::new, local_time);
            let heading = format!("{} ({}) {at}", text(&event["task"]), text(&event["run"]));
            output::print_text(
                &Text::toned(Tone::Heading, heading.trim_end()).with_visible_line_ends(),
            );
            print_lines("task", Tone::Plain, &text(&event["text"]));
        }
        "turn" => {
            let message = &event["message"];
            print_lines("model", Tone::Plain, &text(&message["content"]));
            for call in message["tool_calls"].as_array().into_iter().flatten() {
                let function = &call["function"];
                let called = format!(
                    "{} {}",
                    text(&function["name"]),
                    text(&function["arguments"])
                );
                print_lines("calls", Tone::Plain, &called);
            }
        }
        "receipt" => {
            let (word, tone) = match event["ok"] == true {
                true => ("answers", Tone::Plain),
                false => ("refuses or fails", Tone::Attention),
            };
            print_lines(
                &format!("{} {word}", text(&event["tool"])),
                tone,
                &text(&event["result"]),
            );
        }
        "run_end" => {
            let ending = &event["ending"];
            let (word, tone) = match (&ending["failed"], &ending["waits"]) {
                (Value::String(reason), _) => (format!("failed ({reason})"), Tone::Bad),
                (_, Value::String(_)) => ("waits".to_owned(), Tone::Attention),
                _ => ("result".to_owned(), Tone::Good),
            };
            let said = match &ending["waits"] {
                Value::Null => text(&ending["text"]),
                waits => text(waits),
            };
            print_lines(&word, tone, &said);
        }
        "run_lost" => print_lines("interrupted", Tone::Bad, "the lease of this run was lost"),
        other => print_lines(other, Tone::Faint, &event.to_string()),
    }
}

/// Prints a text with a word before each of its lines, so that no line of it passes for another event.
fn print_lines(word: &str, tone: Tone, text: &str) {
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        output::print_hanging(Text::toned(tone, &format!("  {word}: ")), line);
    }
}
