//! `abbey exec`: one more program in a cell that is up, its output streamed as JSON Lines.

use crate::Error;
use crate::error::Result;
use crate::house::House;
use crate::specs;
use abbey_api::{ExecBody, Problem};
use abbey_cells::hostd::{Operation, Reply};
use abbey_model::{CellName, FaultKind, Principal, Slug};
use abbey_store::Note;
use axum::body::Body;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

/// Starts the program and streams it.
pub(crate) async fn exec(house: &Arc<House>, slug: &Slug, body: ExecBody) -> Result<Response> {
    let cell = CellName::Agent(slug.clone());
    let current = house
        .current()
        .filter(|c| c.house.agents.contains_key(slug));
    let Some(current) = current else {
        return Err(
            Problem::new(FaultKind::NotFound, format!("there is no agent `{slug}`")).into(),
        );
    };
    if body.argv.is_empty() {
        return Err(Problem::new(FaultKind::Invalid, "no command was given").into());
    }
    let record = house.backend.record(&cell)?;
    if !record.is_some_and(|r| r.child.as_ref().is_some_and(abbey_cells::is_alive)) {
        return Err(Error::Cell(abbey_cells::Error::NotRunning(cell)));
    }
    let spec = specs::cell_spec(house, &current, &cell)?
        .ok_or_else(|| Problem::new(FaultKind::NotFound, "no cell"))?;
    let stdin = body
        .stdin
        .map(|t| BASE64.decode(t))
        .transpose()
        .map_err(|e| Problem::new(FaultKind::Invalid, e.to_string()))?;
    let (stdin_child, stdin_ours) = pipe()?;
    let (out, out_child) = pipe()?;
    let (err, err_child) = pipe()?;
    let enter = Operation::Enter {
        cell: cell.clone(),
        argv: body.argv.clone(),
        env: spec.env,
        cwd: spec.cwd,
    };
    let note = Note {
        actor: Principal::Operator,
        action: "cell.exec".to_owned(),
        entity: cell.to_string(),
        detail: json!({ "argv": body.argv }),
    };
    house.store.append(note).await?;
    let hostd = Arc::clone(&house.hostd);
    let running = tokio::task::spawn_blocking(move || {
        let fds = [stdin_child.as_fd(), out_child.as_fd(), err_child.as_fd()];
        hostd.call(enter, &fds)
    });
    let (mut feed, out, err) = (
        pipe::Sender::from_owned_fd(stdin_ours).map_err(Error::file("use", "a pipe"))?,
        pipe::Receiver::from_owned_fd(out).map_err(Error::file("use", "a pipe"))?,
        pipe::Receiver::from_owned_fd(err).map_err(Error::file("use", "a pipe"))?,
    );
    drop(tokio::spawn(async move {
        let _ended_early = feed.write_all(&stdin.unwrap_or_default()).await;
    }));
    let (lines, stream) =
        mpsc::channel::<std::result::Result<String, std::convert::Infallible>>(64);
    drop(tokio::spawn(async move {
        tokio::join!(pump("stdout", out, &lines), pump("stderr", err, &lines));
        let end = match running.await {
            Ok(Ok(Reply::Exit { code })) => json!({ "exit": code }),
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

pub(crate) async fn pump(
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

pub(crate) fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    let made = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
    made.map_err(|e| Error::file("make", "a pipe")(e.into()))
}
