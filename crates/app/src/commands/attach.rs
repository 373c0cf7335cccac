//! `abbey attach`: the terminal of a cell on this one.

use crate::connect::operator_client;
use crate::exit::{self, Failure, Outcome};
use crate::local_terminal::{DETACH_KEY, RawMode, read_stdin, size_bytes, terminal_size};
use crate::output;
use crate::stdout;
use abbey_api::TerminalQuery;
use abbey_daemon::Home;
use abbey_support::frame::encode_frame;
use hyper_util::rt::TokioIo;
use std::io::IsTerminal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};

/// `abbey attach`: relays keys and output between this terminal and that of an agent or `service/NAME`, until
/// Ctrl-] or until the program ends.
pub(crate) async fn cmd_attach(home: &Home, name: &str) -> Outcome {
    let (rows, columns) = terminal_size();
    let terminal = TerminalQuery {
        rows: Some(rows),
        columns: Some(columns),
    };
    let client = operator_client(home)?;
    let connection = match name.split_once('/') {
        Some(("service", name)) => client.services().attach(name, &terminal).await?,
        _ => client.agents().attach(name, &terminal).await?,
    };
    let (mut output_stream, mut typed) = tokio::io::split(TokioIo::new(connection));
    let by_hand = std::io::stdin().is_terminal();
    if by_hand {
        output::print_message("attached; Ctrl-] detaches");
    }
    let raw = by_hand.then(RawMode::enter).flatten();
    let cannot =
        |e: std::io::Error| Failure::plain(format!("cannot wait for window size changes: {e}"));
    let mut resized = signal(SignalKind::window_change()).map_err(cannot)?;
    let mut keys = read_stdin();
    let mut buffer = [0u8; 8192];
    let ended = loop {
        let sent = tokio::select! {
            read = output_stream.read(&mut buffer) => match read {
                Ok(n @ 1..) => {
                    stdout::write(&buffer[..n]);
                    continue;
                }
                _ => break true,
            },
            key = keys.recv() => match key {
                Some(bytes) if by_hand && bytes.contains(&DETACH_KEY) => break false,
                Some(bytes) => typed.write_all(&encode_frame(b'd', &bytes)).await,
                None => break false,
            },
            _ = resized.recv() => {
                let size = size_bytes(terminal_size());
                typed.write_all(&encode_frame(b'r', &size)).await
            }
        };
        if sent.is_err() {
            break true;
        }
    };
    drop(raw);
    if by_hand {
        output::print_message(if ended {
            "the program has ended"
        } else {
            "detached; the program keeps running"
        });
    }
    Ok(exit::OK)
}
