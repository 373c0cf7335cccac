//! A program in a cell over an upgraded connection: the caller's side of `abbey_cells::program_stream`.

use crate::connect::operator_client;
use crate::exit::Failure;
use crate::shown;
use abbey_api::ExecBody;
use abbey_cells::program_stream as stream;
use abbey_daemon::Home;
use abbey_support::frame;
use hyper_util::rt::TokioIo;
use std::collections::VecDeque;
use std::pin::pin;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// Time for a program to end after it got the signal that this process got.
const SIGNAL_GRACE: Duration = Duration::from_secs(3);
/// Signals that are passed on to the program, by number.
const PASSED_ON: [u8; 4] = [1, 2, 3, 15];
/// Exit code of a process that a closed pipe ended.
const READER_GONE: u8 = 141;

/// What the caller has for a program.
pub(crate) enum ToProgram {
    /// Bytes of its standard input, at most as many as fit a frame.
    Input(Vec<u8>),
    /// New rows and columns of its terminal.
    Resize((u16, u16)),
    /// The caller leaves, and the program goes on.
    Detach,
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionEnd {
    /// The program ended with this exit status.
    Exited(u8),
    /// The caller left, and the program goes on.
    Detached,
}

/// Starts a program in the cell of an agent, or of `service/NAME`, and carries its streams until it ends: `input` until
/// its senders are gone, and its output to `output` with the kind of the frame. A signal to this process goes to the
/// program; if that does not end it, or at a second one, leaving does.
///
/// # Errors
/// If the program could not be run, or the connection broke.
pub(crate) async fn run_session(
    home: &Home,
    cell: &str,
    body: &ExecBody,
    mut input: mpsc::Receiver<ToProgram>,
    output: mpsc::Sender<(u8, Vec<u8>)>,
) -> Result<SessionEnd, Failure> {
    let client = operator_client(home)?;
    let connection = match cell.strip_prefix("service/") {
        Some(service) => client.services().exec(service, body).await,
        None => client.agents().exec(cell, body).await,
    };
    let connection = connection?;
    let (mut said, mut feed) = tokio::io::split(TokioIo::new(connection));
    let mut signals = Signals::new()?;
    let (mut granted, mut open, mut detached) = (stream::WINDOW, true, false);
    let (mut outgoing, mut incoming) = (Vec::new(), Vec::new());
    let mut outputs: VecDeque<(u8, Vec<u8>)> = VecDeque::new();
    let mut buffer = vec![0u8; frame::CONTENT_MAX];
    let mut leave = pin!(tokio::time::sleep(Duration::MAX));
    let mut signalled: Option<u8> = None;
    let mut ended = None;
    loop {
        if outputs.is_empty() {
            if let Some(end) = ended {
                return end;
            }
            if detached && outgoing.is_empty() {
                let _closed_already = feed.shutdown().await;
                return Ok(SessionEnd::Detached);
            }
        }
        tokio::select! {
            written = feed.write(&outgoing), if !outgoing.is_empty() => match written {
                Ok(n) => drop(outgoing.drain(..n)),
                // What the program said last is still to be read.
                Err(_) => (outgoing, open) = (Vec::new(), false),
            },
            // Nothing is taken from the caller that the program can't take yet.
            more = input.recv(), if open && outgoing.is_empty() && granted >= frame::CONTENT_MAX => {
                match more {
                    Some(ToProgram::Input(bytes)) => {
                        granted -= bytes.len();
                        outgoing = frame::encode_frame(stream::INPUT, &bytes);
                    }
                    Some(ToProgram::Resize(size)) => {
                        let size = crate::local_terminal::size_bytes(size);
                        outgoing = frame::encode_frame(stream::RESIZE, &size);
                    }
                    Some(ToProgram::Detach) => {
                        outgoing = frame::encode_frame(stream::DETACH, &[]);
                        (open, detached) = (false, true);
                    }
                    None => {
                        outgoing = frame::encode_frame(stream::INPUT_END, &[]);
                        open = false;
                    }
                }
            }
            permit = output.reserve(), if !outputs.is_empty() => match permit {
                Ok(permit) => if let Some(output) = outputs.pop_front() { permit.send(output); },
                Err(_) => return Ok(SessionEnd::Exited(READER_GONE)),
            },
            read = said.read(&mut buffer), if outputs.is_empty() && ended.is_none() => {
                let read = read.unwrap_or(0);
                if read == 0 {
                    let why = "the connection closed before the program ended";
                    ended = Some(Err(Failure::plain(why)));
                    continue;
                }
                // The program runs.
                shown::note();
                incoming.extend_from_slice(&buffer[..read]);
                let valid = frame::decode_frames(&mut incoming, |kind, body| {
                    match kind {
                        stream::GRANT => {
                            let bytes = body.try_into().map_or(0, u32::from_be_bytes);
                            granted = granted.saturating_add(usize::try_from(bytes).unwrap_or(0));
                        }
                        stream::EXIT => {
                            let status = std::str::from_utf8(body).ok().and_then(|t| t.parse().ok());
                            ended = Some(Ok(SessionEnd::Exited(status.unwrap_or(125))));
                        }
                        stream::FAILURE => {
                            let why = String::from_utf8_lossy(body).into_owned();
                            ended = Some(Err(Failure::plain(why)));
                        }
                        kind => outputs.push_back((kind, body.to_vec())),
                    }
                    true
                });
                if valid.is_err() {
                    let why = "the connection carried an invalid frame";
                    ended = Some(Err(Failure::plain(why)));
                }
            }
            number = signals.next() => {
                if signalled.is_some() {
                    return Ok(SessionEnd::Exited(128 + number));
                }
                signalled = Some(number);
                outgoing.extend(frame::encode_frame(stream::SIGNAL, &[number]));
                leave.as_mut().reset(tokio::time::Instant::now() + SIGNAL_GRACE);
            }
            () = &mut leave, if signalled.is_some() => {
                return Ok(SessionEnd::Exited(128 + signalled.unwrap_or_default()));
            }
        }
    }
}

/// The signals of [`PASSED_ON`].
struct Signals(Vec<(u8, Signal)>);

impl Signals {
    fn new() -> Result<Signals, Failure> {
        let heard = PASSED_ON.iter().map(|number| {
            let kind = SignalKind::from_raw(i32::from(*number));
            Ok((*number, signal(kind)?))
        });
        let heard: std::io::Result<Vec<_>> = heard.collect();
        heard
            .map(Signals)
            .map_err(|e| Failure::plain(format!("cannot wait for signals: {e}")))
    }

    async fn next(&mut self) -> u8 {
        let waits = self.0.iter_mut().map(|(number, signal)| {
            Box::pin(async move {
                signal.recv().await;
                *number
            })
        });
        futures_util::future::select_all(waits).await.0
    }
}
