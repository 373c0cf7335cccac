//! `abbey exec` and internal commands: runs another program in a cell that is up.

use crate::cells::specs;
use crate::cells::state::CellsState;
use crate::core::error::{Error, Result};
use crate::core::runtime;
use abbey_api::{ExecBody, Problem};
use abbey_cells::hostd::{HostdOperation, HostdReply};
use abbey_model::{CellName, FaultKind, Observed, Principal, Slug};
use abbey_store::NewAuditEntry;
use axum::body::Body;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

/// Most bytes kept of the end of a program's standard error.
const STDERR_KEPT_MAX: usize = 2048;
/// Largest standard output that is read as an answer, bytes.
const ANSWER_MAX: u64 = 1 << 20;

/// A program that runs in a cell: its standard streams, and its exit.
struct RunningProgram {
    feed: pipe::Sender,
    out: pipe::Receiver,
    err: pipe::Receiver,
    end: tokio::task::JoinHandle<abbey_cells::Result<HostdReply>>,
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
    argv: Vec<String>,
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
        let text = format!("there is no {kind} `{slug}`");
        return Err(Problem::new(FaultKind::NotFound, text).into());
    };
    check_argv(&argv)?;
    let record = cells.backend.record(&cell)?;
    if !record.is_some_and(|r| r.child.as_ref().is_some_and(abbey_cells::is_alive)) {
        return Err(Error::Cell(abbey_cells::Error::NotRunning(cell)));
    }
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
    let (stdin_child, stdin_ours) = create_pipe()?;
    let (out, out_child) = create_pipe()?;
    let (err, err_child) = create_pipe()?;
    let enter = HostdOperation::Enter {
        cell,
        argv,
        env: spec.env,
        cwd: spec.cwd,
    };
    if let Some(note) = note {
        cells.core.store.append_audit_entry(note).await?;
    }
    let hostd = Arc::clone(&cells.core.hostd);
    let end = runtime::run_blocking(move || {
        let fds = [stdin_child.as_fd(), out_child.as_fd(), err_child.as_fd()];
        hostd.call(enter, &fds)
    });
    Ok(RunningProgram {
        feed: pipe::Sender::from_owned_fd(stdin_ours).map_err(Error::file("use", "a pipe"))?,
        out: pipe::Receiver::from_owned_fd(out).map_err(Error::file("use", "a pipe"))?,
        err: pipe::Receiver::from_owned_fd(err).map_err(Error::file("use", "a pipe"))?,
        end,
    })
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
    let RunningProgram {
        feed,
        out,
        err,
        end,
    } = start_program(cells, cell, with_timeout(argv, within), None).await?;
    drop(feed);
    let ((), said) = tokio::join!(discard_output(out), read_last_bytes(err));
    Ok(match wait_for_status(end).await? {
        Some(code) => (code, said),
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
    let RunningProgram {
        mut feed,
        out,
        err,
        end,
    } = start_program(cells, cell, with_timeout(argv, within), None).await?;
    let write_input = async move {
        // A program that does not read its input reports the reason on standard error.
        let _ended_early = feed.write_all(question).await;
    };
    let mut answer = Vec::new();
    let mut out = out.take(ANSWER_MAX);
    let ((), read, said) = tokio::join!(
        write_input,
        out.read_to_end(&mut answer),
        read_last_bytes(err)
    );
    read.map_err(Error::file("read", "an answer"))?;
    match wait_for_status(end).await? {
        Some(0) => Ok(answer),
        code => {
            let code = code.map_or_else(|| "lost".to_owned(), |c| c.to_string());
            let text = format!(
                "a program in the cell {name} failed (status {code}): {}",
                said.trim()
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
    end: tokio::task::JoinHandle<abbey_cells::Result<HostdReply>>,
) -> Result<Option<i32>> {
    match end.await {
        Ok(Ok(HostdReply::Exit { code })) => Ok(Some(code)),
        Ok(Err(error)) => Err(Error::Cell(error)),
        Ok(Ok(_)) | Err(_) => Ok(None),
    }
}

async fn discard_output(mut pipe: pipe::Receiver) {
    let mut buffer = vec![0u8; 16 << 10];
    while let Ok(1..) = pipe.read(&mut buffer).await {}
}

/// Reads a pipe to its end and returns the last [`STDERR_KEPT_MAX`] bytes.
async fn read_last_bytes(mut pipe: pipe::Receiver) -> String {
    let (mut buffer, mut kept) = (vec![0u8; 16 << 10], Vec::new());
    while let Ok(n @ 1..) = pipe.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..n]);
        let over = kept.len().saturating_sub(STDERR_KEPT_MAX);
        kept.drain(..over);
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// Runs a program in the cell of an agent or a service for the operator, and streams its output as JSON Lines; the
/// last line has its exit status.
pub(crate) async fn stream_exec(
    cells: &Arc<CellsState>,
    cell: CellName,
    body: ExecBody,
    by: Principal,
) -> Result<Response> {
    let stdin = body
        .stdin
        .map(|t| BASE64.decode(t))
        .transpose()
        .map_err(|e| Problem::new(FaultKind::Invalid, e.to_string()))?;
    let note = NewAuditEntry {
        actor: by,
        action: "cell.exec".to_owned(),
        entity: cell.to_string(),
        detail: json!({ "argv": body.argv }),
    };
    let RunningProgram {
        mut feed,
        out,
        err,
        end: running,
    } = start_program(cells, cell, body.argv, Some(note)).await?;
    drop(cells.core.rt.spawn_untracked(async move {
        let _ended_early = feed.write_all(&stdin.unwrap_or_default()).await;
    }));
    let (lines, stream) =
        mpsc::channel::<std::result::Result<String, std::convert::Infallible>>(64);
    drop(cells.core.rt.spawn_untracked(async move {
        tokio::join!(
            stream_pipe("stdout", out, &lines),
            stream_pipe("stderr", err, &lines)
        );
        let end = match running.await {
            Ok(Ok(HostdReply::Exit { code })) => json!({ "exit": code }),
            Ok(Err(error)) => json!({ "exit": 125, "error": Error::Cell(error).chain() }),
            Ok(Ok(_)) | Err(_) => json!({ "exit": 125 }),
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
