//! What surrounds the simulated control plane: requests to it, its helper, and what may come between gateway and ledger.

use abbey_cells::hostd::{HostdApi, HostdOperation, HostdReply};
use abbey_daemon::SimulatedHouse;
use abbey_gateway::{BoxFuture, Meter, ReservationRefused, ReservationRequest, Settlement};
use abbey_model::ReservationId;
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Model call whose settlement the planted fault loses.
const LOST_CALL: u64 = 5;

/// A life of the control plane.
pub(super) struct Life {
    // The runtime goes first: a kill runs nothing to its end.
    pub(super) tokio: tokio::runtime::Runtime,
    pub(super) house: SimulatedHouse,
    credentials: Mutex<Credentials>,
}

/// Credentials as their owners hold them: read from their files once.
#[derive(Default)]
struct Credentials {
    operator: Option<String>,
    /// Credential for the agent API, and key for the model gateway, by agent.
    agents: BTreeMap<String, (String, String)>,
}

impl Life {
    pub(super) fn new(tokio: tokio::runtime::Runtime, house: SimulatedHouse) -> Life {
        Life {
            tokio,
            house,
            credentials: Mutex::default(),
        }
    }

    fn credentials(&self) -> MutexGuard<'_, Credentials> {
        self.credentials
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The operator's credential.
    pub(super) fn operator_token(&self) -> Option<String> {
        let mut held = self.credentials();
        if held.operator.is_none() {
            held.operator = self.house.operator_token().ok();
        }
        held.operator.clone()
    }

    /// Credentials of an agent for its API and for the model gateway; none before it was provisioned.
    pub(super) fn agent_tokens(&self, name: &str) -> Option<(String, String)> {
        let mut held = self.credentials();
        if let Some(tokens) = held.agents.get(name) {
            return Some(tokens.clone());
        }
        let (token, key) = self.house.agent_tokens(&name.parse().ok()?)?;
        let tokens = (token.trim().to_owned(), key.trim().to_owned());
        held.agents.insert(name.to_owned(), tokens.clone());
        Some(tokens)
    }

    /// Reads the credentials of an agent again; returns whether they are others now.
    pub(super) fn refresh_agent_tokens(&self, name: &str) -> bool {
        let before = self.credentials().agents.remove(name);
        self.agent_tokens(name) != before
    }

    /// Has all credentials of agents read again when they are used next: another plan is in force.
    pub(super) fn forget_agent_tokens(&self) {
        self.credentials().agents.clear();
    }
}

/// Directory of a file system in memory, if the host has one: nothing here tests what a loss of power does.
pub(super) fn memory() -> PathBuf {
    let shm = PathBuf::from("/dev/shm");
    if shm.is_dir() {
        shm
    } else {
        std::env::temp_dir()
    }
}

/// A request: `POST` with a body, `GET` without one.
pub(super) fn request(
    path: &str,
    headers: &[(&str, String)],
    body: Option<Vec<u8>>,
) -> axum::http::Request<Vec<u8>> {
    let mut builder = axum::http::Request::builder().uri(path);
    for (name, value) in headers {
        builder = builder.header(*name, value);
    }
    let builder = match body {
        Some(_) => builder
            .method("POST")
            .header("content-type", "application/json"),
        None => builder.method("GET"),
    };
    builder
        .body(body.unwrap_or_default())
        .unwrap_or_else(|_| axum::http::Request::new(Vec::new()))
}

pub(super) fn parse((status, body): (u16, String)) -> (u16, Value) {
    (
        status,
        serde_json::from_str(&body).unwrap_or(Value::String(body)),
    )
}

/// hostd of an ordinary user on a host that has everything.
#[derive(Debug)]
pub(super) struct CapableHostd(pub(super) Arc<dyn HostdApi>);

impl HostdApi for CapableHostd {
    fn call(
        &self,
        operation: HostdOperation,
        fds: &[BorrowedFd<'_>],
    ) -> abbey_cells::Result<HostdReply> {
        match operation {
            HostdOperation::Observe { .. } => Ok(HostdReply::Host {
                facts: Box::default(),
            }),
            other => self.0.call(other, fds),
        }
    }
}

/// A meter that loses one settlement: a planted fault.
pub(super) struct LossyMeter {
    pub(super) meter: Arc<dyn Meter>,
    /// Settlements so far.
    pub(super) settled: Arc<AtomicU64>,
}

impl Meter for LossyMeter {
    fn reserve(
        &self,
        request: ReservationRequest,
    ) -> BoxFuture<'static, Result<ReservationId, ReservationRefused>> {
        self.meter.reserve(request)
    }

    fn settle(&self, id: ReservationId, settlement: Settlement) -> BoxFuture<'static, ()> {
        match self.settled.fetch_add(1, Ordering::SeqCst) + 1 == LOST_CALL {
            true => Box::pin(std::future::ready(())),
            false => self.meter.settle(id, settlement),
        }
    }
}
