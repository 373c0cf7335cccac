//! Output of a program that runs in a cell, passed through as it arrives; for `abbey run` and `abbey exec`.

use crate::connect::client;
use crate::exit::Failure;
use crate::http_stream::bytes;
use abbey_api::Problem;
use abbey_api::client::Error;
use abbey_daemon::Home;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::StreamExt;
use hyper::Method;
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

/// Starts a program, passes each message of its output to `on_output`, and returns the last one, which has the exit code.
pub(crate) async fn follow(
    home: &Home,
    path: &str,
    body: Value,
    mut on_output: impl FnMut(&Value),
) -> Result<Value, Failure> {
    let client = client(home).map_err(internal_failure)?;
    let response = client
        .open(Method::POST, path, Some(body), &[])
        .await
        .map_err(internal_failure)?;
    let ok = response.status().is_success();
    let mut stream = Box::pin(bytes(response));
    let mut pending = Vec::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|e| internal_failure(Error::Broken(e.into())))?;
        pending.extend_from_slice(&chunk);
        if !ok {
            continue;
        }
        while let Some(end) = pending.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let value: Value = serde_json::from_slice(&line).unwrap_or_default();
            if value["exit"].is_u64() {
                return Ok(value);
            }
            on_output(&value);
        }
    }
    match serde_json::from_slice::<Problem>(&pending) {
        Ok(problem) => Err(internal_failure(problem)),
        Err(_) => Err(internal_failure(Failure::plain(
            "the connection closed before the program ended",
        ))),
    }
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
