//! A model provider that answers as the simulation says: well, late, wrong, or not at all.

use super::clock::TurnedClock;
use super::disk_space::SimulatedDisk;
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::json;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// How a call ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behaviour {
    /// An answer with usage.
    Good,
    /// An answer after this time.
    Slow(Duration),
    /// An answer that claims more usage than the call could have.
    Overstated,
    /// An answer without usage.
    NoUsage,
    /// An answer that breaks off.
    Cut,
    /// 429 that asks for a pause of this many seconds.
    RateLimited(u32),
    /// An answer that is none of a model.
    Nonsense,
    /// 503.
    Failing,
    /// No answer ever, as the control plane is killed meanwhile.
    Silent,
}

struct Shared {
    behaviour: Mutex<Behaviour>,
    calls: AtomicU64,
    clock: Arc<TurnedClock>,
    silent: Arc<Notify>,
    disk: Arc<SimulatedDisk>,
    /// Whether the next call fills the disk.
    fills_disk: AtomicBool,
}

/// A provider on a loopback port, which outlives every control plane.
pub(super) struct Provider {
    pub(super) port: u16,
    shared: Arc<Shared>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Provider {
    pub(super) fn start(
        clock: Arc<TurnedClock>,
        disk: Arc<SimulatedDisk>,
    ) -> std::io::Result<Provider> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let listener = runtime.block_on(tokio::net::TcpListener::bind(("127.0.0.1", 0)))?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            behaviour: Mutex::new(Behaviour::Good),
            calls: AtomicU64::new(0),
            clock,
            silent: Arc::new(Notify::new()),
            disk,
            fills_disk: AtomicBool::new(false),
        });
        let router = Router::new()
            .route("/v1/chat/completions", post(answer))
            .with_state(Arc::clone(&shared));
        drop(runtime.spawn(async move { axum::serve(listener, router).await }));
        Ok(Provider {
            port,
            shared,
            runtime: Some(runtime),
        })
    }

    /// How calls end from now on.
    pub(super) fn behave(&self, behaviour: Behaviour) {
        let mut now = self
            .shared
            .behaviour
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *now = behaviour;
    }

    pub(super) fn behaviour(&self) -> Behaviour {
        *self
            .shared
            .behaviour
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the next call fill the disk of the house before it is answered.
    pub(super) fn fill_disk_with_next_call(&self) {
        self.shared.fills_disk.store(true, Ordering::SeqCst);
    }

    /// Has no call fill the disk any more.
    pub(super) fn fill_no_disk(&self) {
        self.shared.fills_disk.store(false, Ordering::SeqCst);
    }

    /// Calls that arrived so far.
    pub(super) fn calls(&self) -> u64 {
        self.shared.calls.load(Ordering::SeqCst)
    }

    /// Notified once a call arrived that is not answered.
    pub(super) fn silent(&self) -> Arc<Notify> {
        Arc::clone(&self.shared.silent)
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn answer(State(shared): State<Arc<Shared>>, _request: axum::body::Bytes) -> Response {
    shared.calls.fetch_add(1, Ordering::SeqCst);
    if shared.fills_disk.swap(false, Ordering::SeqCst) {
        shared.disk.set_full(true);
    }
    let behaviour = *shared
        .behaviour
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let refused = |status: StatusCode| {
        let body = json!({ "error": { "message": "simulated", "type": "simulated" } });
        (status, axum::Json(body)).into_response()
    };
    let mut usage = json!({ "prompt_tokens": 40, "completion_tokens": 60, "total_tokens": 100 });
    match behaviour {
        Behaviour::Good => {}
        Behaviour::Slow(time) => shared.clock.advance(time),
        Behaviour::Overstated => {
            usage = json!({ "prompt_tokens": 400, "completion_tokens": 900, "total_tokens": 1300 })
        }
        Behaviour::NoUsage => usage = serde_json::Value::Null,
        Behaviour::Cut => {
            let part = Ok::<_, std::io::Error>(bytes::Bytes::from_static(b"{\"id\":"));
            let broken = Err(std::io::Error::other("simulated"));
            return Body::from_stream(futures_util::stream::iter([part, broken])).into_response();
        }
        Behaviour::Nonsense => return "<html>simulated</html>".into_response(),
        Behaviour::RateLimited(seconds) => {
            let mut headers = HeaderMap::new();
            headers.insert("retry-after", seconds.into());
            return (headers, refused(StatusCode::TOO_MANY_REQUESTS)).into_response();
        }
        Behaviour::Failing => return refused(StatusCode::SERVICE_UNAVAILABLE),
        Behaviour::Silent => {
            shared.silent.notify_one();
            std::future::pending::<()>().await;
        }
    }
    let message = json!({ "role": "assistant", "content": "done" });
    axum::Json(json!({
        "id": "simulated", "object": "chat.completion", "created": 0, "model": "m",
        "choices": [{ "index": 0, "message": message, "finish_reason": "stop" }],
        "usage": usage,
    }))
    .into_response()
}
