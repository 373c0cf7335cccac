//! Firecracker by its API: small documents over HTTP on a Unix socket.
//!
//! Every call has a time of its own, is repeated only where twice is once, and answers with a typed fault. A
//! socket that is there says nothing: ready is who answers, under the name that was given.
//! Source: Firecracker's API description, `firecracker.yaml` of version 1.

use crate::{CellSpec, Error, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where its files are in its own eyes.
const ROOT: &str = "/vm";
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

/// `machine-config`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineConfig {
    /// Processors; 1 to 32.
    pub vcpu_count: u32,
    /// Memory, MiB.
    pub mem_size_mib: u64,
    /// Whether two share a core.
    pub smt: bool,
    /// Whether it keeps account of what was written, for snapshots of the difference.
    pub track_dirty_pages: bool,
}

/// `boot-source`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootSource {
    /// Uncompressed kernel.
    pub kernel_image_path: String,
    /// First file system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initrd_path: Option<String>,
    /// Command line of the kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_args: Option<String>,
}

/// What flows through at most: `size` at once, and so much again in `refill_time`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenBucket {
    /// Bytes or operations.
    pub size: u64,
    /// Milliseconds.
    pub refill_time: u64,
}

/// Limits of a drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimiter {
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<TokenBucket>,
    /// Operations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ops: Option<TokenBucket>,
}

/// When a guest's flush is one of the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CacheType {
    /// Never.
    Unsafe,
    /// Always.
    Writeback,
}

/// `drives/{drive_id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drive {
    /// Its name.
    pub drive_id: String,
    /// File.
    pub path_on_host: String,
    /// Whether the kernel is to boot from it.
    pub is_root_device: bool,
    /// Whether it cannot be written.
    pub is_read_only: bool,
    /// When flushes count.
    pub cache_type: CacheType,
    /// Limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<RateLimiter>,
}

/// `vsock`: the channel to the guest, which is a Unix socket outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vsock {
    /// Address of the guest.
    pub guest_cid: u32,
    /// The socket; a guest that calls port N calls this path with `_N` behind it.
    pub uds_path: String,
}

/// `entropy`: random numbers from the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entropy {}

/// `actions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ActionType {
    /// Begin.
    InstanceStart,
    /// As somebody at the keyboard would ask for the end.
    SendCtrlAltDel,
    /// Write what was counted.
    FlushMetrics,
}

/// Body of `actions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    /// Which.
    pub action_type: ActionType,
}

/// State that a machine is brought to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum VmState {
    /// It stands still.
    Paused,
    /// It goes on.
    Resumed,
}

/// Body of `vm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vm {
    /// Which.
    pub state: VmState,
}

/// What a snapshot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotType {
    /// Everything.
    Full,
    /// What was written since the last.
    Diff,
}

/// `snapshot/create`; the machine stands still.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotCreate {
    /// What it holds.
    pub snapshot_type: SnapshotType,
    /// File for the devices.
    pub snapshot_path: String,
    /// File for the memory.
    pub mem_file_path: String,
}

/// Where memory comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackendType {
    /// A file, of which what is written to is copied.
    File,
    /// A process that is asked for each page.
    Uffd,
}

/// Memory of a machine that is brought back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryBackend {
    /// Which kind.
    pub backend_type: BackendType,
    /// File or socket.
    pub backend_path: String,
}

/// `snapshot/load`; nothing was configured before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotLoad {
    /// File with the devices.
    pub snapshot_path: String,
    /// Its memory.
    pub mem_backend: MemoryBackend,
    /// Whether it goes on at once.
    pub resume_vm: bool,
}

/// What it says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceInfo {
    /// The name that it was given.
    pub id: String,
    /// `Not started`, `Running` or `Paused`.
    pub state: String,
    /// Version.
    pub vmm_version: String,
    /// Program.
    pub app_name: String,
}

/// Why it refused.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Fault {
    fault_message: String,
}

/// Everything that is asked of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// Processors and memory.
    Machine(MachineConfig),
    /// Kernel.
    Boot(BootSource),
    /// One drive.
    Drive(Drive),
    /// The channel.
    Vsock(Vsock),
    /// Random numbers.
    Entropy(Entropy),
    /// Something to do.
    Action(Action),
    /// Stand still, or go on.
    State(Vm),
    /// Put aside.
    Create(SnapshotCreate),
    /// Bring back.
    Load(SnapshotLoad),
}

impl Call {
    /// Method and path.
    pub fn place(&self) -> (Method, String) {
        let put = |path: &str| (Method::PUT, path.to_owned());
        match self {
            Call::Machine(_) => put("/machine-config"),
            Call::Boot(_) => put("/boot-source"),
            Call::Drive(drive) => (Method::PUT, format!("/drives/{}", drive.drive_id)),
            Call::Vsock(_) => put("/vsock"),
            Call::Entropy(_) => put("/entropy"),
            Call::Action(_) => put("/actions"),
            Call::State(_) => (Method::PATCH, "/vm".to_owned()),
            Call::Create(_) => put("/snapshot/create"),
            Call::Load(_) => put("/snapshot/load"),
        }
    }

    /// The document.
    ///
    /// # Errors
    /// Never, as these documents have no keys that are no text.
    pub fn body(&self) -> serde_json::Result<Value> {
        match self {
            Call::Machine(body) => serde_json::to_value(body),
            Call::Boot(body) => serde_json::to_value(body),
            Call::Drive(body) => serde_json::to_value(body),
            Call::Vsock(body) => serde_json::to_value(body),
            Call::Entropy(body) => serde_json::to_value(body),
            Call::Action(body) => serde_json::to_value(body),
            Call::State(body) => serde_json::to_value(body),
            Call::Create(body) => serde_json::to_value(body),
            Call::Load(body) => serde_json::to_value(body),
        }
    }

    /// Longest time for an answer: memory is written and read whole by some.
    const fn within(&self) -> Duration {
        match self {
            Call::Create(_) | Call::Load(_) => Duration::from_secs(60),
            Call::Action(_) => Duration::from_secs(10),
            _ => Duration::from_secs(2),
        }
    }

    /// Whether doing it twice is doing it once: what describes, and what brings to a state.
    const fn may_repeat(&self) -> bool {
        !matches!(self, Call::Action(_) | Call::Create(_) | Call::Load(_))
    }
}

/// How a machine is put together: the order in which it is told, up to its start.
pub fn steps(spec: &CellSpec, lasting: bool, drive_limit: Option<RateLimiter>) -> Vec<Call> {
    let file = |name: &str| format!("{ROOT}/{name}");
    let mut calls = vec![
        Call::Machine(MachineConfig {
            vcpu_count: spec.limits.cpu_milli.div_ceil(1000).clamp(1, 32),
            mem_size_mib: (spec.limits.memory.0 >> 20).max(64),
            smt: false,
            track_dirty_pages: false,
        }),
        Call::Boot(BootSource {
            kernel_image_path: file("kernel"),
            initrd_path: Some(file("initrd")),
            boot_args: Some("console=ttyS0 quiet reboot=k panic=-1 pci=off".to_owned()),
        }),
    ];
    let mut drives = vec![("base", true), ("tools", true), ("config", true)];
    if lasting {
        drives.extend([("scratch", false), ("state", false), ("workspace", false)]);
    }
    calls.extend(drives.into_iter().map(|(name, is_read_only)| {
        Call::Drive(Drive {
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
        Call::Vsock(Vsock {
            guest_cid: GUEST_CID,
            uds_path: file("run/guest"),
        }),
        Call::Entropy(Entropy {}),
        Call::Action(Action {
            action_type: ActionType::InstanceStart,
        }),
    ]);
    calls
}

/// One Firecracker.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    id: String,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    /// The one that was given this name and this socket.
    ///
    /// # Errors
    /// When the system gives no means to wait for it.
    pub fn new(socket: &Path, id: &str) -> Result<Client> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::file("wait for", socket))?;
        Ok(Client {
            socket: socket.to_owned(),
            id: id.to_owned(),
            runtime,
        })
    }

    fn failed(&self, what: impl Into<String>) -> Error {
        Error::Monitor {
            socket: self.socket.clone(),
            why: what.into(),
        }
    }

    /// Waits until it answers a real question, and is the one that was started.
    ///
    /// # Errors
    /// When nobody does in time, or another one does.
    pub fn ready(&self, within: Duration) -> Result<InstanceInfo> {
        let until = Instant::now() + within;
        loop {
            match self.describe() {
                Ok(info) if info.id == self.id => return Ok(info),
                Ok(info) => {
                    let text = format!("`{}` answers there, and not `{}`", info.id, self.id);
                    return Err(self.failed(text));
                }
                Err(error) if Instant::now() >= until => return Err(error),
                Err(_) => std::thread::sleep(LOOK_EVERY),
            }
        }
    }

    /// What it says of itself.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn describe(&self) -> Result<InstanceInfo> {
        let within = Duration::from_secs(2);
        let bytes = self.exchange(&Method::GET, "/", Bytes::new(), within)?;
        serde_json::from_slice(&bytes)
            .map_err(|e| self.failed(format!("its answer makes no sense: {e}")))
    }

    /// Asks for one thing.
    ///
    /// # Errors
    /// [`Error::Monitor`] with its own words, or that it did not answer.
    pub fn call(&self, call: &Call) -> Result<()> {
        let (method, path) = call.place();
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

    /// Puts a machine together and starts it.
    ///
    /// # Errors
    /// The first step that failed.
    pub fn start(&self, steps: &[Call]) -> Result<()> {
        steps.iter().try_for_each(|step| self.call(step))
    }

    fn exchange(
        &self,
        method: &Method,
        path: &str,
        body: Bytes,
        within: Duration,
    ) -> Result<Bytes> {
        let ask = async {
            let broken = |e: &dyn std::fmt::Display| self.failed(format!("{path}: {e}"));
            let stream = tokio::net::UnixStream::connect(&self.socket)
                .await
                .map_err(|e| broken(&e))?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream))
                    .await
                    .map_err(|e| broken(&e))?;
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header(header::HOST, "localhost")
                .header(header::ACCEPT, "application/json")
                .header(header::CONTENT_TYPE, "application/json")
                .body(Full::new(body))
                .map_err(|e| broken(&e))?;
            let answer = async {
                let response = sender.send_request(request).await.map_err(|e| broken(&e))?;
                let status = response.status();
                let body = Limited::new(response.into_body(), ANSWER_MAX)
                    .collect()
                    .await;
                Ok((status, body.map_err(|e| broken(&e))?.to_bytes()))
            };
            // Whoever answers may keep the connection open: the answer is the end of it.
            let carried = async {
                let _closed = connection.await;
                std::future::pending().await
            };
            tokio::select! {
                answer = answer => answer,
                () = carried => Err(broken(&"the connection closed")),
            }
        };
        let timed = self
            .runtime
            .block_on(async { tokio::time::timeout(within, ask).await });
        let (status, bytes): (StatusCode, Bytes) =
            timed.map_err(|_| self.failed(format!("{path}: no answer in {within:?}")))??;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    /// What the description of the API says about bodies, as far as it is used here.
    fn description() -> BTreeMap<String, Value> {
        serde_json::from_str(include_str!("firecracker-api.json")).unwrap()
    }

    /// Where in the description a call is.
    fn entry(method: &Method, path: &str) -> String {
        match path.strip_prefix("/drives/") {
            Some(_) => format!("{method} /drives/{{drive_id}}"),
            None => format!("{method} {path}"),
        }
    }

    fn spec() -> CellSpec {
        use abbey_model::{Bytes, CellKind, Limits};
        CellSpec {
            cell: "agent-a".parse().unwrap(),
            kind: CellKind::Microvm,
            digest: String::new(),
            program: crate::Program::Own,
            argv: Vec::new(),
            env: Vec::new(),
            cwd: "/".into(),
            uid: None,
            limits: Limits {
                memory: Bytes(256 << 20),
                cpu_milli: 1500,
                processes: 64,
            },
            waived: Default::default(),
            sandbox: None,
            machine: None,
            network: None,
            forwards: Vec::new(),
            terminal: false,
            ready_within: None,
            run_dir: "/run".into(),
            log_dir: "/log".into(),
            group: String::new(),
            secrets: Vec::new(),
        }
    }

    fn every_call() -> Vec<Call> {
        let bucket = TokenBucket {
            size: 1 << 20,
            refill_time: 100,
        };
        let limit = RateLimiter {
            bandwidth: Some(bucket),
            ops: None,
        };
        let mut calls = steps(&spec(), true, Some(limit));
        for state in [VmState::Paused, VmState::Resumed] {
            calls.push(Call::State(Vm { state }));
        }
        for action_type in [ActionType::SendCtrlAltDel, ActionType::FlushMetrics] {
            calls.push(Call::Action(Action { action_type }));
        }
        calls.extend([
            Call::Create(SnapshotCreate {
                snapshot_type: SnapshotType::Full,
                snapshot_path: "/vm/run/devices".to_owned(),
                mem_file_path: "/vm/run/memory".to_owned(),
            }),
            Call::Load(SnapshotLoad {
                snapshot_path: "/vm/run/devices".to_owned(),
                mem_backend: MemoryBackend {
                    backend_type: BackendType::File,
                    backend_path: "/vm/run/memory".to_owned(),
                },
                resume_vm: false,
            }),
        ]);
        calls
    }

    #[test]
    fn every_document_is_as_the_description_has_it() {
        let description = description();
        let mut used = std::collections::BTreeSet::new();
        for call in every_call() {
            let (method, path) = call.place();
            let entry = entry(&method, &path);
            let schema = description.get(&entry).unwrap_or_else(|| panic!("{entry}"));
            let body = call.body().unwrap();
            if let Err(error) = jsonschema::validate(schema, &body) {
                panic!("{entry}: {body}: {error}");
            }
            used.insert(entry);
        }
        assert_eq!(used.len(), description.len(), "every entry is used");
    }

    #[test]
    fn a_machine_is_told_in_this_order() {
        let told: Vec<String> = steps(&spec(), true, None)
            .iter()
            .map(|c| {
                let (method, path) = c.place();
                format!("{method} {path} {}", c.body().unwrap())
            })
            .collect();
        insta::assert_snapshot!(told.join("\n"));
    }

    /// Plays Firecracker: checks every body against the description, and answers from a list of ill manners
    /// first.
    struct Fake {
        heard: Arc<Mutex<Vec<String>>>,
        socket: PathBuf,
        _dir: tempfile::TempDir,
    }

    #[derive(Clone, Copy, PartialEq)]
    enum Manners {
        Good,
        /// The first calls find nobody.
        Late,
        /// It takes calls and never answers.
        Mute,
        /// It breaks off the first time.
        Breaks,
        /// It is another one.
        Other,
    }

    fn fake(manners: Manners) -> Fake {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("api.sock");
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (path, said) = (socket.clone(), Arc::clone(&heard));
        if manners == Manners::Late {
            // A socket that nobody listens on any more.
            drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        }
        drop(std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                if manners == Manners::Late {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    std::fs::remove_file(&path).unwrap();
                }
                let listener = tokio::net::UnixListener::bind(&path).unwrap();
                let mut first = true;
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    if std::mem::take(&mut first) && manners == Manners::Breaks {
                        continue;
                    }
                    let said = Arc::clone(&said);
                    let service = hyper::service::service_fn(move |request| {
                        answer(request, Arc::clone(&said), manners)
                    });
                    drop(tokio::spawn(
                        hyper::server::conn::http1::Builder::new()
                            .serve_connection(TokioIo::new(stream), service),
                    ));
                }
            });
        }));
        Fake {
            heard,
            socket,
            _dir: dir,
        }
    }

    async fn answer(
        request: Request<hyper::body::Incoming>,
        said: Arc<Mutex<Vec<String>>>,
        manners: Manners,
    ) -> std::result::Result<hyper::Response<Full<Bytes>>, Infallible> {
        if manners == Manners::Mute {
            std::future::pending::<()>().await;
        }
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let reply = |status: u16, text: String| {
            let built = hyper::Response::builder().status(status);
            Ok(built.body(Full::new(Bytes::from(text))).unwrap())
        };
        if method == Method::GET && path == "/" {
            let id = if manners == Manners::Other {
                "other"
            } else {
                "mine"
            };
            let info = serde_json::json!({ "id": id, "state": "Not started", "vmm_version": "1.10.0", "app_name": "Firecracker" });
            return reply(200, info.to_string());
        }
        let entry = entry(&method, &path);
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let fault = |why: &str| serde_json::json!({ "fault_message": why }).to_string();
        match description().get(&entry) {
            None => reply(400, fault("no such path")),
            Some(schema) if !jsonschema::is_valid(schema, &body) => {
                reply(400, fault("no such body"))
            }
            Some(_) if body["drive_id"] == "refused" => reply(400, fault("the file is not there")),
            Some(_) => {
                said.lock().unwrap().push(entry);
                reply(204, String::new())
            }
        }
    }

    fn client(fake: &Fake) -> Client {
        Client::new(&fake.socket, "mine").unwrap()
    }

    #[test]
    fn a_machine_is_configured_started_put_aside_and_brought_back() {
        let fake = fake(Manners::Good);
        let client = client(&fake);
        assert_eq!(
            client.ready(Duration::from_secs(5)).unwrap().state,
            "Not started"
        );
        client.start(&every_call()).unwrap();
        let heard = fake.heard.lock().unwrap();
        assert_eq!(heard.len(), every_call().len());
        assert_eq!(
            heard.first().map(String::as_str),
            Some("PUT /machine-config")
        );
        assert_eq!(heard.last().map(String::as_str), Some("PUT /snapshot/load"));
    }

    #[test]
    fn a_refusal_is_told_in_its_own_words_and_ends_the_start() {
        let fake = fake(Manners::Good);
        let client = client(&fake);
        client.ready(Duration::from_secs(5)).unwrap();
        let mut calls = steps(&spec(), false, None);
        if let Call::Drive(drive) = &mut calls[3] {
            drive.drive_id = "refused".to_owned();
        }
        let told = client.start(&calls).unwrap_err().to_string();
        assert!(told.contains("the file is not there"), "{told}");
        assert_eq!(fake.heard.lock().unwrap().len(), 3, "nothing after it");
    }

    #[test]
    fn ready_is_who_answers_under_the_right_name() {
        let late = fake(Manners::Late);
        client(&late).ready(Duration::from_secs(5)).unwrap();
        let other = fake(Manners::Other);
        let told = client(&other).ready(Duration::from_secs(5)).unwrap_err();
        assert!(told.to_string().contains("`other` answers there"), "{told}");
        let mute = fake(Manners::Mute);
        let told = client(&mute).ready(Duration::from_millis(10)).unwrap_err();
        assert!(told.to_string().contains("no answer"), "{told}");
    }

    #[test]
    fn only_what_may_be_repeated_is() {
        let breaks = fake(Manners::Breaks);
        // The first connection breaks off: once more for a description, and never for an action.
        client(&breaks).call(&every_call()[0]).unwrap();
        let breaks = fake(Manners::Breaks);
        let action = Call::Action(Action {
            action_type: ActionType::InstanceStart,
        });
        assert!(client(&breaks).call(&action).is_err());
    }
}
