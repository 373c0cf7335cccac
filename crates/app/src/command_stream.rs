//! Output of a program that runs in a fresh cell, passed through as it arrives; for `abbey run`.

use crate::exit::{self, Failure};
use crate::stdout;
use abbey_api::client::{Error, Streaming};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::StreamExt;
use serde_json::Value;
use std::io::{IsTerminal, Read, Write};

/// Limit on standard input, in bytes.
const STDIN_MAX: u64 = 1 << 20;

/// Reads standard input and encodes it as Base64; none if it is empty or a terminal.
///
/// # Errors
/// Exit code 2 if it is longer than 1 MiB.
pub(crate) fn read_stdin_base64() -> Result<Option<String>, Failure> {
    let mut input = Vec::new();
    if !std::io::stdin().is_terminal() {
        let _nothing = std::io::stdin()
            .lock()
            .take(STDIN_MAX + 1)
            .read_to_end(&mut input);
    }
    if input.len() as u64 > STDIN_MAX {
        return Err(Failure::usage(
            "standard input is longer than 1 MiB, which a fresh cell cannot take",
        )
        .hint("write it to a file and pass that with `--in FILE`"));
    }
    Ok((!input.is_empty()).then(|| BASE64.encode(&input)))
}

/// Gives a failure of Abbey itself the exit code 125, which tells it apart from the exit codes of the program that
/// runs in the cell.
pub(crate) fn internal_failure(failure: impl Into<Failure>) -> Failure {
    failure.into().with_code(exit::INTERNAL)
}

/// Calls `on_output` with each message of the output stream of a program in a cell, and returns the final message,
/// which has the exit code of the program.
///
/// # Errors
/// Exit code 125 if the connection closes before the final message.
pub(crate) async fn stream_program_output(
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

/// Decodes the Base64 bytes of `stream` (`stdout` or `stderr`) in an output message; none if the message has none.
pub(crate) fn decode_output(output: &Value, stream: &str) -> Option<Vec<u8>> {
    output[stream].as_str().and_then(|t| BASE64.decode(t).ok())
}

/// Writes the bytes of an output message to standard output and standard error.
pub(crate) fn print_program_output(output: &Value) {
    if let Some(bytes) = decode_output(output, "stdout") {
        stdout::write(&bytes);
    }
    if let Some(bytes) = decode_output(output, "stderr") {
        let _reader_gone = std::io::stderr().lock().write_all(&bytes);
    }
}

/// Exit code of the program in the final message of its output stream; 125 if there is none from 0 to 255.
pub(crate) fn program_exit_code(end: &Value) -> u8 {
    end["exit"]
        .as_u64()
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(exit::INTERNAL)
}
