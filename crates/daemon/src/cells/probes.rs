//! Probes of services: whether what listens at an address works, and which process of a cell a signal has stopped.

use crate::cells::observations::Seen;
use crate::core::runtime::{Runtime, run_blocking};
use abbey_engine::supervision::Desired;
use abbey_model::{CellKind, Observed};
use abbey_plan::{Probe, Service, ServiceKind};
use std::net::SocketAddrV4;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest wait for a connection, and for its answer.
const PROBE_WITHIN: Duration = Duration::from_millis(400);

/// Longest wait for PostgreSQL, which makes a process for each connection.
const POSTGRES_WITHIN: Duration = Duration::from_secs(1);

/// Request of a client of PostgreSQL to use TLS: its length, and the code 80877103. Source: PostgreSQL, "Message Formats",
/// `SSLRequest`.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// Probes an address once.
pub(crate) async fn is_answering(rt: &Runtime, at: SocketAddrV4, probe: Probe<'_>) -> bool {
    let Ok(Ok(stream)) = rt.timeout(PROBE_WITHIN, TcpStream::connect(at)).await else {
        return false;
    };
    match probe {
        Probe::Connect => true,
        Probe::Http(path) => {
            let status = abbey_support::http::get_status(stream, path, PROBE_WITHIN).await;
            status.is_ok_and(|s| s == 200)
        }
        Probe::Postgres => {
            let answer = rt.timeout(POSTGRES_WITHIN, request_tls(stream)).await;
            answer.is_ok_and(|a| a.is_ok_and(|byte| matches!(byte, b'S' | b'N')))
        }
    }
}

/// First byte of the answer of PostgreSQL to the request to use TLS. A process that the server makes gives it before it
/// authenticates anybody: `S` or `N`. It logs nothing when the client goes then.
async fn request_tls(mut stream: TcpStream) -> std::io::Result<u8> {
    stream.write_all(&SSL_REQUEST).await?;
    stream.read_u8().await
}

/// Whether what listens at an address is a process below the shim; true without one.
pub(crate) async fn listens(shim: Option<i32>, at: SocketAddrV4) -> bool {
    let Some(shim) = shim else {
        return true;
    };
    let found = run_blocking(move || abbey_cells::descendants_listen(shim, at)).await;
    found.unwrap_or(true)
}

/// Process of a running cell that a signal has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoppedProcess {
    /// Process of the cell's shim.
    Shim(i32),
    /// Main process of the cell, or its program below that.
    Program(i32),
}

impl StoppedProcess {
    /// What to say of it.
    pub(crate) fn describe(self) -> String {
        let (what, pid) = match self {
            StoppedProcess::Shim(pid) => ("the shim of its cell", pid),
            StoppedProcess::Program(pid) => ("its program", pid),
        };
        format!("{what} (process {pid}) is stopped by a signal; `kill -CONT {pid}` resumes it")
    }
}

/// Process of a cell of this kind that a signal has stopped although the cell is to run: its shim, its main process, or up
/// to `below` generations of oldest children below its program.
pub(crate) fn stopped_process(seen: &Seen, kind: CellKind, below: usize) -> Option<StoppedProcess> {
    let runs = matches!(
        seen.observed,
        Observed::Running {
            stopping: false,
            paused: false,
            ..
        }
    );
    // The operator suspends by the same signal where there are no control groups.
    if !runs || !matches!(seen.desired, Desired::Up { .. }) {
        return None;
    }
    let record = seen.record.as_ref()?;
    let shim = &record.shim;
    if abbey_cells::is_alive(shim) && abbey_cells::is_stopped(shim.pid) == Some(true) {
        return Some(StoppedProcess::Shim(shim.pid));
    }
    let main = record.child.as_ref().filter(|m| abbey_cells::is_alive(m))?;
    // The first process of a sandbox has the program as its child.
    let first = usize::from(kind == CellKind::Sandbox);
    abbey_cells::first_stopped(main.pid, first + below).map(StoppedProcess::Program)
}

/// As [`stopped_process`], of the cell of a service that the house runs.
pub(crate) fn stopped_service_process(seen: &Seen, service: &Service) -> Option<StoppedProcess> {
    // Abbey's own program has the server as its child.
    let below = usize::from(service.kind == ServiceKind::Postgres);
    stopped_process(seen, service.cell, below)
}
