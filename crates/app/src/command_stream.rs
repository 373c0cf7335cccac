//! Output of a program that runs in a cell, passed through as it arrives; for `abbey run` and `abbey exec`.

use crate::exit::Failure;
use abbey_api::client::{Error, Streaming};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::StreamExt;
use serde_json::Value;
use std::io::{IsTerminal, Read, Write};

/// Limit on standard input, in bytes.
const STDIN_MAX: u64 = 1 << 20;

/// Standard input as Base64, unless it is a terminal.
pub(crate) fn read_stdin() -> Option<String> {
    let mut input = Vec::new();
    if !std::io::stdin().is_terminal() {
        let _nothing = std::io::stdin()
            .lock()
            .take(STDIN_MAX)
            .read_to_end(&mut input);
    }
    (!input.is_empty()).then(|| BASE64.encode(&input))
}

pub(crate) fn internal_failure(failure: impl Into<Failure>) -> Failure {
    failure.into().with_code(125)
}

/// Passes each message of a program's output to `on_output`, and returns the last one, which has the exit code.
pub(crate) async fn follow(
    stream: Streaming,
    mut on_output: impl FnMut(&Value),
) -> Result<Value, Failure> {
    let mut stream = Box::pin(stream.bytes());
    let mut pending = Vec::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|e| internal_failure(Error::Broken(e.into())))?;
        pending.extend_from_slice(&chunk);
        while let Some(end) = pending.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let value: Value = serde_json::from_slice(&line).unwrap_or_default();
            if value["exit"].is_u64() {
                return Ok(value);
            }
            on_output(&value);
        }
    }
    Err(internal_failure(Failure::plain(
        "the connection closed before the program ended",
    )))
}

pub(crate) fn decode_part(output: &Value, stream: &str) -> Option<Vec<u8>> {
    output[stream].as_str().and_then(|t| BASE64.decode(t).ok())
}

/// Writes the output of a program to the standard streams.
pub(crate) fn pass_on(output: &Value) {
    if let Some(bytes) = decode_part(output, "stdout") {
        let _reader_gone = std::io::stdout().lock().write_all(&bytes);
    }
    if let Some(bytes) = decode_part(output, "stderr") {
        let _reader_gone = std::io::stderr().lock().write_all(&bytes);
    }
}

pub(crate) fn exit_code(end: &Value) -> u8 {
    end["exit"]
        .as_u64()
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(125)
}
