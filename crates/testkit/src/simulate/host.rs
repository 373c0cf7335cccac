//! What surrounds the simulated control plane: requests to it, its helper, and what may come between gateway and ledger.

use abbey_cells::hostd::{HostdApi, HostdOperation, HostdReply};
use abbey_daemon::SimulatedHouse;
use abbey_gateway::{BoxFuture, Meter, ReservationRefused, ReservationRequest, Settlement};
use abbey_model::ReservationId;
use serde_json::Value;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Model call whose settlement the planted fault loses.
const LOST_CALL: u64 = 5;

/// A life of the control plane.
pub(super) struct Life {
    // The runtime goes first: a kill runs nothing to its end.
    pub(super) tokio: tokio::runtime::Runtime,
    pub(super) house: SimulatedHouse,
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
