//! `abbey exec`: one more program in a cell that is up, its output streamed as JSON Lines.

use crate::Error;
use crate::error::Result;
use crate::home::publish;
use crate::house::House;
use crate::provision;
use abbey_api::{ExecBody, Problem};
use abbey_cells::EnterSpec;
use abbey_model::{CellName, FaultKind, Principal, Slug};
use abbey_store::Note;
use axum::body::Body;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;
use std::process::Stdio;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
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
    let record = house
        .backend
        .record(&cell)?
        .filter(|r| r.child.as_ref().is_some_and(abbey_cells::is_alive));
    let Some(record) = record else {
        return Err(Error::Cell(abbey_cells::Error::NotRunning(cell)));
    };
    let spec = provision::cell_spec(house, &current, &cell)?
        .ok_or_else(|| Problem::new(FaultKind::NotFound, "no cell"))?;
    let stdin = body
        .stdin
        .map(|t| BASE64.decode(t))
        .transpose()
        .map_err(|e| Problem::new(FaultKind::Invalid, e.to_string()))?;
    let enter = EnterSpec {
        argv: body.argv.clone(),
        env: spec.env,
        cwd: spec.cwd,
        uid: spec.uid,
        groups: record.groups,
    };
    let serial = house.store.now().0;
    let file = house
        .home
        .run()
        .join(format!("enter-{slug}-{serial}-{:08x}", rand_u32()));
    let bytes =
        serde_json::to_vec(&enter).map_err(|e| Problem::new(FaultKind::Internal, e.to_string()))?;
    publish(&file, &bytes, 0o600)?;
    let own = std::path::Path::new("/proc/self/exe");
    let mut child = tokio::process::Command::new(own)
        .args(["role", "enter"])
        .arg(&file)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(Error::file("run", own))?;
    let note = Note {
        actor: Principal::Operator,
        action: "cell.exec".to_owned(),
        entity: cell.to_string(),
        detail: json!({ "argv": body.argv }),
    };
    house.store.append(note).await?;
    if let Some(mut pipe) = child.stdin.take() {
        drop(tokio::spawn(async move {
            let _ended_early = pipe.write_all(&stdin.unwrap_or_default()).await;
        }));
    }
    let (lines, stream) =
        mpsc::channel::<std::result::Result<String, std::convert::Infallible>>(64);
    let (out, err) = (child.stdout.take(), child.stderr.take());
    drop(tokio::spawn(async move {
        tokio::join!(pump("stdout", out, &lines), pump("stderr", err, &lines));
        let status = match child.wait().await {
            Ok(status) => {
                use std::os::unix::process::ExitStatusExt;
                // As shells do: 128 and the number of the signal.
                status
                    .code()
                    .or_else(|| status.signal().map(|s| 128 + s))
                    .unwrap_or(125)
            }
            Err(_) => 125,
        };
        let _caller_gone = lines
            .send(Ok(format!("{}\n", json!({ "exit": status }))))
            .await;
    }));
    let stream = futures_util::stream::unfold(stream, async |mut s| s.recv().await.map(|l| (l, s)));
    Ok(Response::builder()
        .header("content-type", "application/jsonl")
        .body(Body::from_stream(stream))
        .unwrap_or_default())
}

async fn pump(
    name: &str,
    pipe: Option<impl AsyncRead + Unpin>,
    lines: &mpsc::Sender<std::result::Result<String, std::convert::Infallible>>,
) {
    let Some(mut pipe) = pipe else { return };
    let mut buffer = vec![0u8; 16 << 10];
    while let Ok(n @ 1..) = pipe.read(&mut buffer).await {
        let line = format!("{}\n", json!({ name: BASE64.encode(&buffer[..n]) }));
        if lines.send(Ok(line)).await.is_err() {
            return;
        }
    }
}

fn rand_u32() -> u32 {
    let mut bytes = [0u8; 4];
    // Only keeps two names of one millisecond apart; the file is made with O_EXCL.
    let _zero_is_fine = getrandom::fill(&mut bytes);
    u32::from_ne_bytes(bytes)
}
