//! A tool server in a cell: a program that speaks the Model Context Protocol on its standard streams, and a door by
//! which the house alone asks it. Source: MCP specification 2025-06-18, `stdio` transport and lifecycle.

use crate::door::{self, text_response};
use crate::{Error, Result};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::ChildStdin;
use tokio::sync::oneshot;

/// Version of the protocol that is spoken.
const VERSION: &str = "2025-06-18";
/// Longest line that a server may send, bytes.
const LINE_MAX: u64 = 4 << 20;
/// Time for one answer, and for the first.
const WITHIN: Duration = Duration::from_secs(120);
const READY_WITHIN: Duration = Duration::from_secs(30);

/// The tool server, and the pending requests by id.
#[derive(Debug)]
struct Bridge {
    to: tokio::sync::Mutex<ChildStdin>,
    waiting: Mutex<BTreeMap<u64, oneshot::Sender<Value>>>,
    next: AtomicU64,
}

impl Bridge {
    async fn send(&self, message: &Value) -> std::io::Result<()> {
        let mut line = message.to_string();
        line.push('\n');
        let mut to = self.to.lock().await;
        to.write_all(line.as_bytes()).await?;
        to.flush().await
    }

    /// Asks, and waits; the answer's `result`, or its `error`.
    async fn ask(
        &self,
        method: &str,
        params: &Value,
        within: Duration,
    ) -> std::result::Result<Value, Value> {
        let id = self.next.fetch_add(1, Ordering::SeqCst);
        let (tell, told) = oneshot::channel();
        let waiting = || self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting().insert(id, tell);
        let failed = |text: String| json!({ "code": -32_000, "message": text });
        let message = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        let answer = async {
            self.send(&message)
                .await
                .map_err(|e| failed(e.to_string()))?;
            told.await
                .map_err(|_| failed("the tool server ended".to_owned()))
        };
        let answer = tokio::time::timeout(within, answer).await;
        waiting().remove(&id);
        let answer =
            answer.unwrap_or_else(|_| Err(failed(format!("no answer within {within:?}"))))?;
        match answer.get("error") {
            Some(error) => Err(error.clone()),
            None => Ok(answer["result"].clone()),
        }
    }

    /// Reads the messages of the tool server until it ends.
    async fn listen(&self, from: impl tokio::io::AsyncRead + Unpin) {
        let mut from = BufReader::new(from);
        loop {
            let mut line = Vec::new();
            let read = (&mut from)
                .take(LINE_MAX)
                .read_until(b'\n', &mut line)
                .await;
            match read {
                Ok(0) | Err(_) => break,
                Ok(_) if line.last() != Some(&b'\n') => {
                    eprintln!("error: the tool server sent a line of more than {LINE_MAX} bytes");
                    break;
                }
                Ok(_) => {}
            }
            let Ok(message) = serde_json::from_slice::<Value>(&line) else {
                eprintln!("warning: the tool server sent a line that is not JSON");
                continue;
            };
            match (message["id"].as_u64(), message.get("method")) {
                (Some(id), None) => {
                    let waits = self
                        .waiting
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .remove(&id);
                    if let Some(tell) = waits {
                        let _nobody_waits_any_more = tell.send(message);
                    }
                }
                // A request to the client, which implements no methods.
                (_, Some(_)) if !message["id"].is_null() => {
                    let refusal = json!({ "jsonrpc": "2.0", "id": message["id"], "error": { "code": -32_601, "message": "not offered" } });
                    let _it_ends = self.send(&refusal).await;
                }
                _ => {}
            }
        }
        // Pending requests fail.
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

/// Runs the tool server `command` and an HTTP bridge to it on `address:port`, until either ends.
pub(crate) async fn serve_tools(address: &str, port: u16, command: &[OsString]) -> Result<i32> {
    let Some((program, args)) = command.split_first() else {
        return Err(Error::InvalidRequest(
            "the command of the tool server is missing after `--`".to_owned(),
        ));
    };
    let mut child = tokio::process::Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(Error::file("start", program))?;
    let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(Error::InvalidRequest(
            "the tool server has no standard streams".to_owned(),
        ));
    };
    let bridge = Arc::new(Bridge {
        to: tokio::sync::Mutex::new(to),
        waiting: Mutex::default(),
        next: AtomicU64::new(1),
    });
    let ears = Arc::clone(&bridge);
    let listening = tokio::spawn(async move { ears.listen(from).await });
    let hello = json!({
        "protocolVersion": VERSION,
        "capabilities": {},
        "clientInfo": { "name": "abbey", "version": env!("CARGO_PKG_VERSION") },
    });
    let refused = |what, error: &Value| Error::Refused {
        what,
        said: error["message"]
            .as_str()
            .unwrap_or("it gave no reason")
            .to_owned(),
    };
    bridge
        .ask("initialize", &hello, READY_WITHIN)
        .await
        .map_err(|e| refused("the tool server", &e))?;
    let ready = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
    bridge
        .send(&ready)
        .await
        .map_err(Error::file("tell", program))?;
    let router = Router::new().route("/ask", post(ask)).with_state(bridge);
    tokio::select! {
        served = door::serve_http(router, address, port) => served,
        status = child.wait() => {
            listening.abort();
            let status = status.map_err(Error::file("wait for", program))?;
            eprintln!("error: the tool server ended: {status}");
            Ok(status.code().filter(|c| *c != 0).unwrap_or(1))
        }
    }
}

/// `{"method": …, "params": …}`: the result, or 502 with the error.
async fn ask(State(bridge): State<Arc<Bridge>>, Json(asked): Json<Value>) -> Response {
    let Some(method) = asked["method"].as_str() else {
        return text_response(StatusCode::BAD_REQUEST, "`method` is missing");
    };
    match bridge.ask(method, &asked["params"], WITHIN).await {
        Ok(result) => Json(result).into_response(),
        Err(error) => (StatusCode::BAD_GATEWAY, Json(error)).into_response(),
    }
}
