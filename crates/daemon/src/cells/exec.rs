//! `abbey exec`, `abbey cp` and internal commands: runs another program in a cell that is up.

use crate::cells::lost_program::explain_lost_program;
use crate::cells::specs;
use crate::cells::state::CellsState;
use crate::core::error::{Error, Result, not_found};
use crate::core::runtime;
use abbey_api::{ExecBody, Problem};
use abbey_cells::hostd::{HostdOperation, HostdReply};
use abbey_cells::program_stream::{self, TerminalSize};
use abbey_model::{CellKind, CellName, FaultKind, Observed, Principal, Slug};
use abbey_store::NewAuditEntry;
use abbey_support::frame;
use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper_util::rt::TokioIo;
use serde_json::json;
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

/// Most bytes kept of the end of a program's standard error.
const STDERR_KEPT_MAX: usize = 2048;
/// Largest standard output that is read as an answer, bytes.
const ANSWER_MAX: usize = 1 << 20;
/// Name of the protocol in `Upgrade`: the frames of [`program_stream`].
pub(crate) const PROTOCOL: &str = "abbey-exec";

/// A program that runs in a cell: the connection for its streams, and its exit.
struct RunningProgram {
    stream: UnixStream,
    end: tokio::task::JoinHandle<Result<HostdReply>>,
}

/// Program to start in a cell.
struct NewProgram {
    /// Program and arguments, or only the arguments of Abbey's own program.
    argv: Vec<String>,
    own: bool,
    /// Size of its terminal, and its `TERM`.
    terminal: Option<(TerminalSize, String)>,
}

impl NewProgram {
    fn without_terminal(argv: Vec<String>) -> NewProgram {
        NewProgram {
            argv,
            own: false,
            terminal: None,
        }
    }
}

/// Checks that a command names a program and contains no NUL byte.
pub(crate) fn check_argv(argv: &[String]) -> Result<()> {
    let invalid = |text: &str| Err(Problem::new(FaultKind::Invalid, text).into());
    match argv.first().map(String::as_str) {
        None | Some("") => invalid("`argv` names no program; write [\"PROGRAM\", \"ARGUMENT\"]"),
        _ if argv.iter().any(|a| a.contains('\0')) => invalid("`argv` must not contain NUL bytes"),
        _ => Ok(()),
    }
}

/// Starts a program in a cell of the plan; `note` is appended to the audit log first.
///
/// # Errors
/// If the cell is not in the plan or not running.
async fn start_program(
    cells: &Arc<CellsState>,
    cell: CellName,
    program: NewProgram,
    note: Option<NewAuditEntry>,
) -> Result<RunningProgram> {
    let current = cells.core.plan.current().filter(|c| match &cell {
        CellName::Agent(slug) => c.house.agents.contains_key(slug),
        CellName::Service(slug) => c.house.services.contains_key(slug),
        CellName::Run(_) => false,
    });
    let Some(current) = current else {
        let (kind, slug) = match &cell {
            CellName::Agent(slug) => ("agent", slug),
            CellName::Service(slug) => ("service", slug),
            CellName::Run(slug) => ("such cell", slug),
        };
        return Err(not_found(kind, slug.as_str()).into());
    };
    let record = cells.backend.record(&cell)?;
    let is_running =
        |r: &abbey_cells::CellRecord| r.child.as_ref().is_some_and(abbey_cells::is_alive);
    let Some(record) = record.filter(is_running) else {
        return Err(Error::Cell(abbey_cells::Error::NotRunning(cell)));
    };
    // A program would stand still with the others until somebody resumes them.
    let seen = cells.observations.snapshot();
    let paused = |observed: &Observed| matches!(observed, Observed::Running { paused: true, .. });
    if seen.get(&cell).is_some_and(|s| paused(&s.observed)) {
        let slug = cell.slug();
        return Err(
            Problem::new(FaultKind::Conflict, format!("`{slug}` is paused"))
                .remedy(format!("`abbey resume {slug}` resumes it"))
                .into(),
        );
    }
    let spec = specs::cell_spec(cells, &current, &cell)?.ok_or_else(|| {
        Problem::new(
            FaultKind::NotFound,
            format!("the current plan has no cell `{cell}`"),
        )
    })?;
    let argv = match program.own {
        true => own_program(spec.kind)?
            .into_iter()
            .chain(program.argv)
            .collect(),
        false => program.argv,
    };
    check_argv(&argv)?;
    let mut env = spec.env;
    let terminal = program.terminal.map(|(size, kind)| {
        env.retain(|(name, _)| name != "TERM");
        env.push(("TERM".to_owned(), kind));
        size
    });
    let memory = spec.limits.memory;
    let enter = HostdOperation::Enter {
        cell: cell.clone(),
        argv,
        env,
        cwd: spec.cwd,
        terminal,
    };
    if let Some(note) = note {
        cells.core.store.append_essential_audit_entry(note).await?;
    }
    let used = || Error::file("use", "a connection");
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(used())?;
    ours.set_nonblocking(true).map_err(used())?;
    let stream = UnixStream::from_std(ours).map_err(used())?;
    let (state, hostd) = (Arc::clone(cells), Arc::clone(&cells.core.hostd));
    let end = cells.core.rt.spawn_untracked(async move {
        let call = move || hostd.call(enter, &[theirs.as_fd()]);
        match runtime::run_blocking(call).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(e)) => Err(explain_lost_program(&state, &cell, &record, memory, e).await),
            Err(e) => Err(Problem::new(FaultKind::Internal, e.to_string()).into()),
        }
    });
    Ok(RunningProgram { stream, end })
}

/// Command line of Abbey's own program in a cell of this kind.
pub(crate) fn own_program(kind: CellKind) -> Result<Vec<String>> {
    Ok(match kind {
        CellKind::Process => {
            let own = abbey_cells::own_program_path();
            let own = own.map_err(Error::file("find", "/proc/self/exe"))?;
            vec![own.display().to_string()]
        }
        CellKind::Microvm | CellKind::Container => {
            abbey_cells::OWN_IN_GUEST.map(str::to_owned).to_vec()
        }
        _ => vec![abbey_cells::Sandbox::OWN.to_owned()],
    })
}

/// What a program did next.
enum ProgramEvent {
    /// It wrote these bytes; the kind of the frame names the stream.
    Output(u8, Vec<u8>),
    /// It ended with this exit status; `None` if that was lost.
    Ended(Option<i32>),
}

/// A program that gets an input that is known, and whose output is read. Dropped, it is ended.
struct Conversation<'a> {
    running: RunningProgram,
    /// What is left of the input, and how much of it may be sent.
    input: &'a [u8],
    granted: usize,
    input_ended: bool,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    events: VecDeque<ProgramEvent>,
}

impl<'a> Conversation<'a> {
    fn new(running: RunningProgram, input: &'a [u8]) -> Conversation<'a> {
        Conversation {
            running,
            input,
            granted: program_stream::WINDOW,
            input_ended: false,
            outgoing: Vec::new(),
            incoming: Vec::new(),
            events: VecDeque::new(),
        }
    }

    /// Waits for what the program does next, and feeds it meanwhile.
    ///
    /// # Errors
    /// If the program could not be run in the cell.
    async fn next(&mut self) -> Result<ProgramEvent> {
        let mut buffer = vec![0u8; frame::CONTENT_MAX];
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            self.refill();
            let (mut said, mut feed) = self.running.stream.split();
            let read = tokio::select! {
                written = feed.write(&self.outgoing), if !self.outgoing.is_empty() => {
                    match written {
                        Ok(n) => drop(self.outgoing.drain(..n)),
                        // Its last words and its status are still to be read.
                        Err(_) => (self.outgoing, self.input_ended) = (Vec::new(), true),
                    }
                    continue;
                }
                read = said.read(&mut buffer) => read.unwrap_or(0),
            };
            if read == 0 {
                let status = wait_for_status(&mut self.running.end).await?;
                return Ok(ProgramEvent::Ended(status));
            }
            self.incoming.extend_from_slice(&buffer[..read]);
            self.take_frames();
        }
    }

    fn refill(&mut self) {
        if !self.outgoing.is_empty() || self.input_ended {
            return;
        }
        let most = self.granted.min(frame::CONTENT_MAX).min(self.input.len());
        let (now, later) = self.input.split_at(most);
        if self.input.is_empty() {
            self.outgoing = frame::encode_frame(program_stream::INPUT_END, &[]);
            self.input_ended = true;
        } else if !now.is_empty() {
            self.outgoing = frame::encode_frame(program_stream::INPUT, now);
            (self.input, self.granted) = (later, self.granted - most);
        }
    }

    fn take_frames(&mut self) {
        let (granted, events) = (&mut self.granted, &mut self.events);
        let valid = frame::decode_frames(&mut self.incoming, |kind, body| {
            match kind {
                program_stream::GRANT => {
                    let bytes = body.try_into().map_or(0, u32::from_be_bytes);
                    *granted = granted.saturating_add(usize::try_from(bytes).unwrap_or(0));
                }
                program_stream::EXIT => {
                    let status = std::str::from_utf8(body).ok().and_then(|t| t.parse().ok());
                    events.push_back(ProgramEvent::Ended(status));
                }
                kind => events.push_back(ProgramEvent::Output(kind, body.to_vec())),
            }
            true
        });
        if valid.is_err() {
            events.push_back(ProgramEvent::Ended(None));
        }
    }
}

/// Runs a program in an agent's cell without input, and returns its exit status and the end of its
/// standard error. After `within` it is killed, even if this future is dropped; its status is then
/// 124, as with timeout(1).
pub(crate) async fn run_to_end(
    cells: &Arc<CellsState>,
    slug: &Slug,
    argv: Vec<String>,
    within: Duration,
) -> Result<(i32, String)> {
    let cell = CellName::Agent(slug.clone());
    let program = NewProgram::without_terminal(with_timeout(argv, within));
    let running = start_program(cells, cell, program, None).await?;
    let (mut conversation, mut said) = (Conversation::new(running, &[]), Vec::new());
    let code = loop {
        match conversation.next().await? {
            ProgramEvent::Output(program_stream::ERRORS | program_stream::NOT_RUN, bytes) => {
                keep_last_bytes(&mut said, &bytes);
            }
            ProgramEvent::Output(..) => {}
            ProgramEvent::Ended(code) => break code,
        }
    };
    Ok(match code {
        Some(code) => (code, String::from_utf8_lossy(&said).into_owned()),
        None => (125, "its exit status was lost".to_owned()),
    })
}

/// Runs a program in a cell with this standard input, and returns its standard output.
///
/// # Errors
/// If it exits with another status than 0 or is not done after `within`.
pub(crate) async fn run_with_input(
    cells: &Arc<CellsState>,
    cell: CellName,
    argv: Vec<String>,
    question: &[u8],
    within: Duration,
) -> Result<Vec<u8>> {
    let name = cell.to_string();
    let program = NewProgram::without_terminal(with_timeout(argv, within));
    let running = start_program(cells, cell, program, None).await?;
    let mut conversation = Conversation::new(running, question);
    let (mut answer, mut said) = (Vec::new(), Vec::new());
    let code = loop {
        match conversation.next().await? {
            ProgramEvent::Output(program_stream::OUTPUT, bytes) => {
                answer.extend_from_slice(&bytes);
            }
            ProgramEvent::Output(_, bytes) => keep_last_bytes(&mut said, &bytes),
            ProgramEvent::Ended(code) => break code,
        }
        if answer.len() > ANSWER_MAX {
            break None;
        }
    };
    match code {
        Some(0) => Ok(answer),
        code => {
            let code = code.map_or_else(|| "lost".to_owned(), |c| c.to_string());
            let text = format!(
                "a program in the cell {name} failed (status {code}): {}",
                String::from_utf8_lossy(&said).trim()
            );
            Err(Problem::new(FaultKind::Unavailable, text).into())
        }
    }
}

/// Wraps a command in timeout(1), which ends it in its cell even if the control plane no longer
/// waits.
fn with_timeout(argv: Vec<String>, within: Duration) -> Vec<String> {
    let within = within.as_secs().max(1).to_string();
    let bounded = ["timeout", "-k", "5", &within].map(str::to_owned);
    bounded.into_iter().chain(argv).collect()
}

/// Waits for the exit status; `None` if it was lost.
async fn wait_for_status(
    end: &mut tokio::task::JoinHandle<Result<HostdReply>>,
) -> Result<Option<i32>> {
    match end.await {
        Ok(Ok(HostdReply::Exit { code })) => Ok(Some(code)),
        Ok(Err(error)) => Err(error),
        Ok(Ok(_)) | Err(_) => Ok(None),
    }
}

/// Keeps the last [`STDERR_KEPT_MAX`] bytes.
fn keep_last_bytes(kept: &mut Vec<u8>, bytes: &[u8]) {
    kept.extend_from_slice(bytes);
    let over = kept.len().saturating_sub(STDERR_KEPT_MAX);
    kept.drain(..over);
}

/// Starts a program for the operator, which is logged.
async fn start_for_operator(
    cells: &Arc<CellsState>,
    cell: CellName,
    body: ExecBody,
    by: Principal,
) -> Result<RunningProgram> {
    let note = NewAuditEntry {
        actor: by,
        action: "cell.exec".to_owned(),
        entity: cell.to_string(),
        detail: json!({ "argv": body.argv }),
    };
    let terminal = body.terminal.map(|t| {
        let size = TerminalSize {
            rows: t.rows,
            columns: t.columns,
        };
        (size, t.kind)
    });
    let program = NewProgram {
        argv: body.argv,
        own: body.own,
        terminal,
    };
    if let Some((_, kind)) = &program.terminal
        && !kind
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.+".contains(&b))
    {
        let text =
            "`terminal.kind` is not the name of a kind of terminal, such as `xterm-256color`";
        return Err(Problem::new(FaultKind::Invalid, text).into());
    }
    start_program(cells, cell, program, Some(note)).await
}

/// Runs a program in the cell of an agent or a service for the operator. The connection that `upgrade` leads to carries
/// its streams from here on; if it ends, so does the program.
pub(crate) async fn upgrade_exec(
    cells: &Arc<CellsState>,
    cell: CellName,
    body: ExecBody,
    by: Principal,
    upgrade: hyper::upgrade::OnUpgrade,
) -> Result<Response> {
    let RunningProgram {
        mut stream,
        mut end,
    } = start_for_operator(cells, cell, body, by).await?;
    let stop = cells.core.rt.stop_token();
    drop(cells.core.rt.spawn(async move {
        let Ok(caller) = upgrade.await else { return };
        let (mut heard, mut speak) = tokio::io::split(TokioIo::new(caller));
        let (mut said, mut feed) = stream.split();
        tokio::select! {
            () = pass_on_until_gone(&mut heard, &mut feed) => return,
            heard = pass_output_on(&mut said, &mut speak) => if !heard { return },
            () = stop.cancelled() => return,
        }
        if let Err(error) = wait_for_status(&mut end).await {
            let why: String = error.chain().chars().take(2000).collect();
            let why = frame::encode_frame(program_stream::FAILURE, why.as_bytes());
            let _caller_gone = speak.write_all(&why).await;
        }
        let _caller_gone = speak.shutdown().await;
    }));
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, PROTOCOL)];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

/// Passes on what a caller sends until the caller is gone. A program that ended takes nothing more, but what it wrote last
/// is still on its way to the caller.
async fn pass_on_until_gone(
    caller: &mut (impl AsyncRead + Unpin),
    program: &mut (impl AsyncWrite + Unpin),
) {
    let mut buffer = vec![0u8; frame::CONTENT_MAX];
    let mut listens = true;
    while let Ok(n @ 1..) = caller.read(&mut buffer).await {
        if listens {
            listens = program.write_all(&buffer[..n]).await.is_ok();
        }
    }
}

/// Passes on what a program writes until it ends; false if the caller is gone.
async fn pass_output_on(
    program: &mut (impl AsyncRead + Unpin),
    caller: &mut (impl AsyncWrite + Unpin),
) -> bool {
    let mut buffer = vec![0u8; frame::CONTENT_MAX];
    while let Ok(n @ 1..) = program.read(&mut buffer).await {
        let written = caller.write_all(&buffer[..n]).await;
        if written.is_err() || caller.flush().await.is_err() {
            return false;
        }
    }
    true
}

/// Runs a program in the cell of an agent or a service for the operator, and streams its output as JSON Lines; the
/// last line has its exit status.
pub(crate) async fn stream_exec(
    cells: &Arc<CellsState>,
    cell: CellName,
    mut body: ExecBody,
    by: Principal,
) -> Result<Response> {
    let stdin = body
        .stdin
        .take()
        .map(|t| BASE64.decode(t))
        .transpose()
        .map_err(|e| Problem::new(FaultKind::Invalid, e.to_string()))?;
    if body.terminal.is_some() {
        let text = format!("a terminal needs the header `Upgrade: {PROTOCOL}`");
        return Err(Problem::new(FaultKind::Invalid, text).into());
    }
    let running = start_for_operator(cells, cell, body, by).await?;
    let (lines, stream) =
        mpsc::channel::<std::result::Result<String, std::convert::Infallible>>(64);
    drop(cells.core.rt.spawn_untracked(async move {
        let input = stdin.unwrap_or_default();
        let mut conversation = Conversation::new(running, &input);
        let ended = loop {
            let event = tokio::select! {
                event = conversation.next() => event,
                () = lines.closed() => return,
            };
            match event {
                Ok(ProgramEvent::Output(kind, bytes)) => {
                    let name = match kind {
                        program_stream::OUTPUT => "stdout",
                        _ => "stderr",
                    };
                    let line = format!("{}\n", json!({ name: BASE64.encode(bytes) }));
                    let _caller_gone = lines.send(Ok(line)).await;
                }
                Ok(ProgramEvent::Ended(code)) => break Ok(code),
                Err(error) => break Err(error),
            }
        };
        let end = match ended {
            Ok(Some(code)) => json!({ "exit": code }),
            Ok(None) => json!({ "exit": 125 }),
            Err(error) => json!({ "exit": 125, "error": error.chain() }),
        };
        let _caller_gone = lines.send(Ok(format!("{end}\n"))).await;
    }));
    let stream = futures_util::stream::unfold(stream, async |mut s| s.recv().await.map(|l| (l, s)));
    Ok(Response::builder()
        .header("content-type", "application/jsonl")
        .body(Body::from_stream(stream))
        .unwrap_or_default())
}

/// Sends everything read from a pipe as JSON Lines of the form `{"stdout": "BASE64"}`, with `name`
/// as the key.
pub(crate) async fn stream_pipe(
    name: &str,
    mut pipe: impl AsyncRead + Unpin,
    lines: &mpsc::Sender<std::result::Result<String, std::convert::Infallible>>,
) {
    let mut buffer = vec![0u8; 16 << 10];
    while let Ok(n @ 1..) = pipe.read(&mut buffer).await {
        let line = format!("{}\n", json!({ name: BASE64.encode(&buffer[..n]) }));
        if lines.send(Ok(line)).await.is_err() {
            return;
        }
    }
}

/// Creates a pipe and returns its read end and its write end, both close-on-exec.
pub(crate) fn create_pipe() -> Result<(OwnedFd, OwnedFd)> {
    let made = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
    made.map_err(|e| Error::file("create", "a pipe")(e.into()))
}
