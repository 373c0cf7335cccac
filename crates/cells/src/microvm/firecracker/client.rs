//! Firecracker by its API: small documents over HTTP on a Unix socket.
//!
//! Every call has a time of its own, is repeated only where twice is once, and answers with a typed fault. A
//! socket that is there says nothing: ready is who answers, under the name that was given.
//! Source: Firecracker's API description, `firecracker.yaml` of version 1.

use super::api::*;
use crate::{CellSpec, Error, Result};
use abbey_support::http;
use bytes::Bytes;
use hyper::{Method, Request, header};
use serde::Deserialize;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Port of the house, as its guest calls it.
pub(crate) const HOUSE_PORT: u32 = 1024;
/// Where its files are in its own eyes.
pub(super) const ROOT: &str = "/vm";
/// Address of the guest on its socket to the host; 0 to 2 have meanings of their own.
const GUEST_CID: u32 = 3;
/// Longest answer, bytes.
const ANSWER_MAX: usize = 64 << 10;
/// Times that a call is made which may be repeated.
const TRIES: u32 = 3;
/// Distance between two of them.
const AGAIN_AFTER: Duration = Duration::from_millis(50);
/// Distance between two looks at one that starts.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Why it refused.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Fault {
    fault_message: String,
}

/// Calls of Firecracker's API that Abbey uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirecrackerCall {
    /// Sets processors and memory.
    MachineConfig(MachineConfig),
    /// Sets kernel, initial file system and command line.
    Boot(BootSource),
    /// Adds a drive.
    Drive(Drive),
    /// Adds the vsock device.
    Vsock(Vsock),
    /// Adds the entropy device.
    Entropy(EntropyDevice),
    /// Performs an action, such as the start.
    Action(InstanceAction),
    /// Pauses or resumes the microVM.
    State(Vm),
    /// Creates a snapshot.
    Create(SnapshotCreate),
    /// Loads a snapshot.
    Load(SnapshotLoad),
}

impl FirecrackerCall {
    /// HTTP method and path of the call.
    pub fn method_and_path(&self) -> (Method, String) {
        let put = |path: &str| (Method::PUT, path.to_owned());
        match self {
            FirecrackerCall::MachineConfig(_) => put("/machine-config"),
            FirecrackerCall::Boot(_) => put("/boot-source"),
            FirecrackerCall::Drive(drive) => (Method::PUT, format!("/drives/{}", drive.drive_id)),
            FirecrackerCall::Vsock(_) => put("/vsock"),
            FirecrackerCall::Entropy(_) => put("/entropy"),
            FirecrackerCall::Action(_) => put("/actions"),
            FirecrackerCall::State(_) => (Method::PATCH, "/vm".to_owned()),
            FirecrackerCall::Create(_) => put("/snapshot/create"),
            FirecrackerCall::Load(_) => put("/snapshot/load"),
        }
    }

    /// JSON body of the call.
    ///
    /// # Errors
    /// Never in practice: all keys of these documents are strings.
    pub fn body(&self) -> serde_json::Result<Value> {
        match self {
            FirecrackerCall::MachineConfig(body) => serde_json::to_value(body),
            FirecrackerCall::Boot(body) => serde_json::to_value(body),
            FirecrackerCall::Drive(body) => serde_json::to_value(body),
            FirecrackerCall::Vsock(body) => serde_json::to_value(body),
            FirecrackerCall::Entropy(body) => serde_json::to_value(body),
            FirecrackerCall::Action(body) => serde_json::to_value(body),
            FirecrackerCall::State(body) => serde_json::to_value(body),
            FirecrackerCall::Create(body) => serde_json::to_value(body),
            FirecrackerCall::Load(body) => serde_json::to_value(body),
        }
    }

    /// Longest time for an answer: memory is written and read whole by some.
    const fn within(&self) -> Duration {
        match self {
            FirecrackerCall::Create(_) | FirecrackerCall::Load(_) => Duration::from_secs(60),
            FirecrackerCall::Action(_) => Duration::from_secs(10),
            _ => Duration::from_secs(2),
        }
    }

    /// Whether doing it twice is doing it once: what describes, and what brings to a state.
    const fn may_repeat(&self) -> bool {
        !matches!(
            self,
            FirecrackerCall::Action(_) | FirecrackerCall::Create(_) | FirecrackerCall::Load(_)
        )
    }
}

/// Calls that configure and start a microVM, in order. `lasting` says whether it has drives of its own,
/// `drive_limit` limits their throughput.
pub(super) fn configuration_calls(
    spec: &CellSpec,
    lasting: bool,
    drive_limit: Option<RateLimiter>,
) -> Vec<FirecrackerCall> {
    let file = |name: &str| format!("{ROOT}/{name}");
    let mut drives = vec![("base", true), ("tools", true), ("config", true)];
    if lasting {
        drives.extend([("scratch", false), ("state", false), ("workspace", false)]);
    }
    let names: Vec<&str> = drives.iter().map(|(name, _)| *name).collect();
    let mut calls = vec![
        FirecrackerCall::MachineConfig(MachineConfig {
            vcpu_count: spec.limits.cpu_milli.div_ceil(1000).clamp(1, 32),
            mem_size_mib: (spec.limits.memory.0 >> 20).max(64),
            smt: false,
            track_dirty_pages: false,
        }),
        FirecrackerCall::Boot(BootSource {
            kernel_image_path: file("kernel"),
            initrd_path: Some(file("initrd")),
            boot_args: Some(command_line(&names)),
        }),
    ];
    calls.extend(drives.into_iter().map(|(name, is_read_only)| {
        FirecrackerCall::Drive(Drive {
            drive_id: name.to_owned(),
            path_on_host: file(name),
            is_root_device: false,
            is_read_only,
            cache_type: match name {
                "state" | "workspace" => CacheType::Writeback,
                _ => CacheType::Unsafe,
            },
            rate_limiter: drive_limit.filter(|_| !is_read_only),
        })
    }));
    calls.extend([
        FirecrackerCall::Vsock(Vsock {
            guest_cid: GUEST_CID,
            uds_path: file("run/guest"),
        }),
        FirecrackerCall::Entropy(EntropyDevice {}),
        FirecrackerCall::Action(InstanceAction {
            action_type: ActionType::InstanceStart,
        }),
    ]);
    calls
}

/// Client of one Firecracker process.
#[derive(Debug)]
pub struct FirecrackerClient {
    socket: PathBuf,
    id: String,
}

impl FirecrackerClient {
    /// Client of the Firecracker process with this API socket and instance id. Does not connect yet.
    pub fn new(socket: &Path, id: &str) -> FirecrackerClient {
        FirecrackerClient {
            socket: socket.to_owned(),
            id: id.to_owned(),
        }
    }

    fn failed(&self, what: impl Into<String>) -> Error {
        Error::Monitor {
            socket: self.socket.clone(),
            why: what.into(),
        }
    }

    /// Waits until the API answers with the expected instance id.
    ///
    /// # Errors
    /// If nothing answers within `within`, or another instance does.
    pub fn wait_until_ready(&self, within: Duration) -> Result<InstanceInfo> {
        let until = Instant::now() + within;
        loop {
            match self.instance_info() {
                Ok(info) if info.id == self.id => return Ok(info),
                Ok(info) => {
                    let text = format!(
                        "microVM `{}` answers on this socket instead of `{}`",
                        info.id, self.id
                    );
                    return Err(self.failed(text));
                }
                Err(error) if Instant::now() >= until => return Err(error),
                Err(_) => std::thread::sleep(LOOK_EVERY),
            }
        }
    }

    /// Id, state and version of the instance.
    ///
    /// # Errors
    /// As [`FirecrackerClient::call`].
    pub fn instance_info(&self) -> Result<InstanceInfo> {
        let within = Duration::from_secs(2);
        let bytes = self.exchange(&Method::GET, "/", Bytes::new(), within)?;
        serde_json::from_slice(&bytes)
            .map_err(|e| self.failed(format!("its answer is invalid: {e}")))
    }

    /// Sends one call; repeats an idempotent one that got no answer.
    ///
    /// # Errors
    /// [`Error::Monitor`] with Firecracker's reason, or that it did not answer.
    pub fn call(&self, call: &FirecrackerCall) -> Result<()> {
        let (method, path) = call.method_and_path();
        let body = call.body().map_err(|e| self.failed(e.to_string()))?;
        let body = Bytes::from(body.to_string());
        let tries = if call.may_repeat() { TRIES } else { 1 };
        let mut tried = 1;
        loop {
            match self.exchange(&method, &path, body.clone(), call.within()) {
                Ok(_) => return Ok(()),
                // What was understood and refused is refused again.
                Err(Error::Refused { why }) => return Err(self.failed(format!("{path}: {why}"))),
                Err(error) if tried >= tries => return Err(error),
                Err(_) => std::thread::sleep(AGAIN_AFTER * tried),
            }
            tried += 1;
        }
    }

    /// Sends calls in order, stopping at the first failure.
    ///
    /// # Errors
    /// The first call that failed.
    pub fn run_calls(&self, steps: &[FirecrackerCall]) -> Result<()> {
        steps.iter().try_for_each(|step| self.call(step))
    }

    fn exchange(
        &self,
        method: &Method,
        path: &str,
        body: Bytes,
        within: Duration,
    ) -> Result<Bytes> {
        let failed = |e: &dyn std::fmt::Display| self.failed(format!("{path}: {e}"));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(|e| failed(&e))?;
        let limits = http::Limits {
            within,
            body_max: ANSWER_MAX,
        };
        let response =
            http::exchange_unix_blocking(&self.socket, request, limits).map_err(|e| failed(&e))?;
        let (status, bytes) = (response.status(), response.into_body());
        if status.is_success() {
            return Ok(bytes);
        }
        let fault: Option<Fault> = serde_json::from_slice(&bytes).ok();
        let why = fault.map_or_else(|| format!("status {status}"), |f| f.fault_message);
        match status.is_client_error() {
            true => Err(Error::Refused { why }),
            false => Err(self.failed(format!("{path}: {why}"))),
        }
    }
}

/// The kernel's command line. Its drives have no serial numbers, so the guest is told their order.
fn command_line(drives: &[&str]) -> String {
    format!(
        "console=ttyS0 quiet reboot=k panic=-1 pci=off abbey.channel={HOUSE_PORT} abbey.drives={}",
        drives.join(",")
    )
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
