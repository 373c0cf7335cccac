//! `abbey attach`: the terminal of a cell on this one.

use crate::connect::operator_client;
use crate::exit::{self, Failure, Outcome};
use crate::output;
use abbey_api::TerminalQuery;
use abbey_daemon::Home;
use hyper_util::rt::TokioIo;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use std::io::{IsTerminal, Read, Write};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Ctrl-], which detaches.
const LEAVE: u8 = 0x1d;

/// Raw mode of the terminal; dropped, it restores the previous mode.
struct Raw(Termios);

impl Raw {
    fn enter() -> Option<Raw> {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw).ok()?;
        Some(Raw(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _stays_raw = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}

fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
    let mut frame = vec![kind];
    frame.extend(length.to_be_bytes());
    frame.extend(&body[..usize::from(length)]);
    frame
}

fn size() -> (u16, u16) {
    tcgetwinsize(std::io::stdout()).map_or((24, 80), |s| (s.ws_row.max(1), s.ws_col.max(1)))
}

/// Reads keys in a thread of its own, since a blocking read cannot be cancelled.
fn keys() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        let mut buffer = [0u8; 1024];
        let mut stdin = std::io::stdin().lock();
        while let Ok(n @ 1..) = stdin.read(&mut buffer) {
            if sender.blocking_send(buffer[..n].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}

/// `abbey attach`: relays keys and output between this terminal and that of an agent or `service/NAME`, until
/// Ctrl-] or until the program ends.
pub(crate) async fn cmd_attach(home: &Home, name: &str) -> Outcome {
    let (rows, columns) = size();
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
    let raw = by_hand.then(Raw::enter).flatten();
    let cannot =
        |e: std::io::Error| Failure::plain(format!("cannot wait for window size changes: {e}"));
    let mut resized = signal(SignalKind::window_change()).map_err(cannot)?;
    let mut keys = keys();
    let mut buffer = [0u8; 8192];
    let ended = loop {
        let sent = tokio::select! {
            read = output_stream.read(&mut buffer) => match read {
                Ok(n @ 1..) => {
                    let mut out = std::io::stdout().lock();
                    let _reader_gone = out.write_all(&buffer[..n]).and_then(|()| out.flush());
                    continue;
                }
                _ => break true,
            },
            key = keys.recv() => match key {
                Some(bytes) if by_hand && bytes.contains(&LEAVE) => break false,
                Some(bytes) => typed.write_all(&frame(b'd', &bytes)).await,
                None => break false,
            },
            _ = resized.recv() => {
                let (rows, columns) = size();
                let [a, b] = rows.to_be_bytes();
                let [c, d] = columns.to_be_bytes();
                typed.write_all(&frame(b'r', &[a, b, c, d])).await
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
