//! `abbey run`: runs one command in a new cell that is removed with it.
//!
//! The command's resources (a user, files, a subnet if it needs direct network access) are
//! allocated from the upper end of the house's ranges, so that they don't collide with those of a
//! plan, and are released when it has ended for any reason.

use crate::cells::command_table::CommandGrant;
use crate::cells::exec::{check_argv, create_pipe, stream_pipe};
use crate::cells::process_end;
use crate::cells::specs::{CellConnectivity, tmpfs_size};
use crate::cells::state::CellsState;
use crate::cells::vm_shapes::{VmShape, VmSource};
use crate::core::error::{Error, Result};
use crate::core::hostd;
use crate::core::runtime::Runtime;
use crate::net::firewall;
use abbey_api::{CommandBody, Problem};
use abbey_cells::hostd::{Allocation, HostdOperation};
use abbey_cells::microvm::image::DEFAULT;
use abbey_cells::microvm::{BootOrigin, MicroVm};
use abbey_cells::{Bind, CellNetwork, CellProgram, CellSpec, Sandbox};
use abbey_model::{
    Bytes, CellKind, CellName, Egress, ExitKind, FaultKind, Generation, Layer, Limits, Millis,
    Observed, Principal, Slug, Subnet, Vmm,
};
use abbey_store::NewAuditEntry;
use axum::body::Body;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};

/// Most commands at once.
const COMMANDS_MAX: usize = 64;
/// Longest timeout of a command.
const TIMEOUT_MAX: Millis = Millis::from_secs(24 * 3600);
/// Time for a command to exit after SIGTERM.
const GRACE: Millis = Millis::from_secs(2);
/// Longest boot of a microVM without a command.
const WAITS_WITHIN: Millis = Millis::from_secs(180);
/// Path of the command's files inside its cell.
const ROOT: &str = "/work";
/// Largest archive of result files, bytes.
const TAKEN_MAX: u64 = 64 << 20;

/// A validated request for a command.
struct CommandRequest {
    argv: Vec<String>,
    cell: CellKind,
    /// Image of a microVM.
    image: String,
    limits: Limits,
    egress: Egress,
    profile: abbey_model::Profile,
    waived: BTreeSet<Layer>,
    timeout: Option<Millis>,
    stdin: Vec<u8>,
    files: Option<Vec<u8>>,
    take: Vec<PathBuf>,
    /// Principal that has it run, for the audit log.
    requested_by: Principal,
}

/// An error of kind `Internal` with this explanation.
pub(crate) fn internal_error(why: impl Into<String>) -> Error {
    Problem::new(FaultKind::Internal, why).into()
}

fn invalid(why: impl Into<String>) -> Error {
    Problem::new(FaultKind::Invalid, why).into()
}

impl CommandRequest {
    fn parse(body: CommandBody, requested_by: Principal) -> Result<CommandRequest> {
        let decode = |text: Option<String>| {
            let decoded = text.map(|t| BASE64.decode(t)).transpose();
            decoded.map_err(|e| invalid(e.to_string()))
        };
        let base = Limits::default();
        check_argv(&body.argv)?;
        let cell = match body.cell.as_deref() {
            None => CellKind::Sandbox,
            Some(name) => name.parse().map_err(invalid)?,
        };
        if !matches!(
            cell,
            CellKind::Sandbox | CellKind::Process | CellKind::Microvm
        ) {
            return Err(invalid(format!(
                "a command cannot run in a {cell}; use sandbox, process or microvm"
            )));
        }
        let egress = match body.egress.as_slice() {
            [] => Egress::None,
            [word] if word == "none" => Egress::None,
            [word] if word == "full" => Egress::Full,
            rules => {
                let rules = rules.iter().map(|r| r.parse().map_err(invalid));
                Egress::List(rules.collect::<Result<_>>()?)
            }
        };
        let timeout = body.timeout_ms.map(Millis);
        if timeout.is_some_and(|t| t <= Millis(0) || t > TIMEOUT_MAX) {
            return Err(invalid(
                "`timeout_ms` must be more than 0 and at most 86400000",
            ));
        }
        let limits = Limits {
            memory: body.memory_bytes.map_or(base.memory, Bytes),
            cpu_milli: body.cpu_milli.unwrap_or(base.cpu_milli).max(1),
            processes: body.processes.unwrap_or(base.processes).max(1),
            io: None,
        };
        let least = match cell {
            CellKind::Microvm => 128,
            _ => 4,
        };
        if limits.memory < Bytes(least << 20) {
            let text = format!("a command in a {cell} needs {least} MiB of memory at least");
            return Err(invalid(text));
        }
        if cell == CellKind::Microvm && egress.nets().next().is_some() {
            return Err(invalid(
                "a microVM has no network interface, so `egress` may name hosts but no addresses",
            ));
        }
        let image = body.image.unwrap_or_else(|| DEFAULT.to_owned());
        image.parse::<Slug>().map_err(|e| invalid(e.to_string()))?;
        Ok(CommandRequest {
            argv: body.argv,
            cell,
            image,
            limits,
            egress,
            profile: body
                .profile
                .map_or(Ok(Default::default()), |p| FromStr::from_str(&p))
                .map_err(invalid)?,
            waived: body
                .waive
                .iter()
                .map(|l| l.parse().map_err(invalid))
                .collect::<Result<_>>()?,
            timeout,
            stdin: decode(body.stdin)?.unwrap_or_default(),
            files: decode(body.files)?,
            take: body.take.into_iter().map(PathBuf::from).collect(),
            requested_by,
        })
    }

    /// Shape of the microVM that the command needs; `None` for other kinds of cell.
    fn vm_shape(&self) -> Option<VmShape> {
        (self.cell == CellKind::Microvm).then(|| VmShape {
            image: self.image.clone(),
            memory: self.limits.memory,
            cpu_milli: self.limits.cpu_milli,
        })
    }

    /// Whether the command connects to addresses directly and so needs a subnet.
    fn needs_network(&self) -> bool {
        let direct = self.egress == Egress::Full || self.egress.nets().next().is_some();
        direct && self.cell != CellKind::Microvm
    }
}

/// Runs a command in a new cell, and streams its output as JSON Lines; the last line has its exit
/// code.
///
/// # Errors
/// If the request is invalid or the cell cannot be started.
pub(crate) async fn run_command(
    cells: &Arc<CellsState>,
    body: CommandBody,
    by: Principal,
) -> Result<Response> {
    let wanted = CommandRequest::parse(body, by)?;
    let mut source = match wanted.vm_shape() {
        Some(shape) => cells.pool.take_for_command(&shape, cells.core.rt.instant()),
        None => VmSource::Cold,
    };
    let waiting = match &source {
        VmSource::Warm { slug, .. } => {
            let lease = cells.commands.assign_waiting_vm(slug, &wanted.egress);
            lease.map(|lease| {
                let egress = wanted.egress.clone();
                cells.net.command_egress.set(slug.clone(), egress);
                (slug.clone(), lease)
            })
        }
        VmSource::Template(_) | VmSource::Cold => None,
    };
    let (slug, lease) = match waiting {
        Some(taken) => taken,
        None => {
            if matches!(source, VmSource::Warm { .. }) {
                source = VmSource::Cold;
            }
            let slug = random_command_name(&cells.core.rt)?;
            let lease = reserve_grant(cells, &slug, &wanted).await?;
            (slug, lease)
        }
    };
    let running = CommandRun::new(cells, slug, source);
    let (lines, stream) = mpsc::channel(64);
    let (ready, begun) = oneshot::channel();
    // A task of its own, so that the cell is removed even if the caller disconnects.
    drop(
        cells
            .core
            .rt
            .spawn(running.run_to_end(lease, wanted, lines, ready)),
    );
    let task_ended = |_| {
        Problem::new(
            FaultKind::Internal,
            "the task that runs the command ended unexpectedly; see the log of the control plane",
        )
    };
    begun.await.map_err(task_ended)??;
    let stream = futures_util::stream::unfold(stream, async |mut s| s.recv().await.map(|l| (l, s)));
    Ok(Response::builder()
        .header("content-type", "application/jsonl")
        .body(Body::from_stream(stream))
        .unwrap_or_default())
}

/// A random name for a command, such as `r3f2a9c1d`.
fn random_command_name(rt: &Runtime) -> Result<Slug> {
    let mut random = [0u8; 4];
    rt.fill_random(&mut random)?;
    let name = format!("r{:08x}", u32::from_be_bytes(random));
    name.parse()
        .map_err(|_| invalid("could not generate a name for the command"))
}

/// Starts a microVM that waits for a command or serves as a template, and returns its name.
pub(crate) async fn start_vm_without_command(
    cells: &Arc<CellsState>,
    shape: &VmShape,
    origin: BootOrigin,
) -> Result<Slug> {
    let wanted = CommandRequest {
        argv: Vec::new(),
        cell: CellKind::Microvm,
        image: shape.image.clone(),
        limits: Limits {
            memory: shape.memory,
            cpu_milli: shape.cpu_milli,
            ..Limits::default()
        },
        egress: Egress::None,
        profile: abbey_model::Profile::default(),
        waived: BTreeSet::new(),
        timeout: None,
        stdin: Vec::new(),
        files: None,
        take: Vec::new(),
        requested_by: Principal::House,
    };
    let slug = random_command_name(&cells.core.rt)?;
    let lease = reserve_grant(cells, &slug, &wanted).await?;
    let running = CommandRun::new(cells, slug.clone(), VmSource::Cold);
    let started = async {
        running.claim_resources(&lease).await?;
        let mut spec = running.build_spec(&lease, &wanted);
        spec.ready_within = Some(WAITS_WITHIN);
        if let Some(microvm) = &mut spec.microvm {
            microvm.origin = origin;
        }
        let (spec, generation) = (Box::new(spec), Generation(1));
        hostd::run_operation(
            &cells.core.hostd,
            HostdOperation::Start { generation, spec },
        )
        .await
    };
    match started.await {
        Ok(()) => Ok(slug),
        Err(error) => {
            running.release_everything().await;
            Err(error)
        }
    }
}

/// Stops a pooled microVM and releases its resources.
pub(crate) async fn discard_vm(cells: &Arc<CellsState>, slug: &Slug) {
    CommandRun::new(cells, slug.clone(), VmSource::Cold)
        .release_everything()
        .await;
}

/// Reserves an entry in the command table with a user and a subnet that no other command has.
///
/// # Errors
/// If the limit of commands is reached or no subnet is free.
async fn reserve_grant(
    cells: &Arc<CellsState>,
    slug: &Slug,
    wanted: &CommandRequest,
) -> Result<CommandGrant> {
    let hostd = Arc::clone(&cells.core.hostd);
    let network = wanted.needs_network() && wanted.cell.isolates();
    let (hello, unusable) = hostd::call_blocking(move || {
        let unusable = match network {
            true => hostd.observe_host()?.no_network,
            false => None,
        };
        Ok((hostd.hello()?, unusable))
    })
    .await?;
    let current = cells.core.plan.current();
    let mut leases = cells.commands.lock_grants();
    if leases.len() >= COMMANDS_MAX {
        let text = format!("{COMMANDS_MAX} commands are already running; wait until one has ended");
        return Err(Problem::new(FaultKind::Limit, text).into());
    }
    let uids: BTreeSet<u32> = leases.values().filter_map(|l| l.uid).collect();
    let last = hello.uid_first + 0xffff;
    let uid = hello
        .privileged
        .then(|| (hello.uid_first..=last).rev().find(|u| !uids.contains(u)))
        .flatten();
    let mut subnet = None;
    if network && unusable.is_none() {
        let taken: BTreeSet<Subnet> = leases.values().filter_map(|l| l.subnet).collect();
        let held = |s: &Subnet| {
            let rows = current.iter().flat_map(|c| c.registry.rows());
            rows.filter_map(|r| r.value.parse::<Subnet>().ok())
                .any(|r| r.overlaps(*s))
        };
        let pool = current.as_ref().map(|c| c.house.network.clone());
        let all = pool.into_iter().flat_map(|n| n.subnets_from_the_end());
        subnet = all.take(1024).find(|s| !taken.contains(s) && !held(s));
        if subnet.is_none() {
            return Err(Problem::new(FaultKind::Limit, "no subnet is free for the command; wait until another command has ended, or enlarge `network.pool`").into());
        }
    }
    let lease = CommandGrant {
        uid,
        subnet,
        egress: wanted.egress.clone(),
    };
    let egress = wanted.egress.clone();
    cells.net.command_egress.set(slug.clone(), egress);
    leases.insert(slug.clone(), lease.clone());
    Ok(lease)
}

/// Sender of the lines of the response.
type ResponseLines = mpsc::Sender<std::result::Result<String, std::convert::Infallible>>;

/// One command in its cell.
struct CommandRun {
    cells: Arc<CellsState>,
    slug: Slug,
    cell: CellName,
    source: VmSource,
}

/// The control plane's ends of a command's standard streams.
struct CommandStreams {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

impl CommandRun {
    fn new(cells: &Arc<CellsState>, slug: Slug, source: VmSource) -> CommandRun {
        CommandRun {
            cells: Arc::clone(cells),
            cell: CellName::Run(slug.clone()),
            slug,
            source,
        }
    }

    /// Claims the command's user and subnet at hostd and creates its directory; may be repeated.
    async fn claim_resources(&self, lease: &CommandGrant) -> Result<()> {
        let allocation = Allocation {
            uid: lease.uid,
            subnet: lease.subnet,
            bridged: lease.subnet.is_some()
                && self
                    .cells
                    .core
                    .plan
                    .current()
                    .is_some_and(|c| c.house.network.bridged),
            egress: lease.egress.clone(),
            ..Allocation::default()
        };
        let owned = HostdOperation::Allocate {
            owner: self.cell.clone(),
            allocation,
        };
        hostd::run_operation(&self.cells.core.hostd, owned).await?;
        let prepared = HostdOperation::Prepare {
            owner: self.cell.clone(),
            files: Vec::new(),
        };
        hostd::run_operation(&self.cells.core.hostd, prepared).await
    }

    async fn prepare(&self, lease: &CommandGrant, wanted: &CommandRequest) -> Result<()> {
        let owner = || self.cell.clone();
        let note = NewAuditEntry {
            actor: wanted.requested_by.clone(),
            action: "command.run".to_owned(),
            entity: self.cell.to_string(),
            detail: json!({ "argv": wanted.argv, "cell": wanted.cell, "egress": wanted.egress.to_string() }),
        };
        self.cells.core.store.append_audit_entry(note).await?;
        self.claim_resources(lease).await?;
        if let Some(archive) = &wanted.files {
            let file = scratch_file(archive).map_err(Error::file("create", "a scratch file"))?;
            let (hostd, owner) = (Arc::clone(&self.cells.core.hostd), owner());
            hostd::call_blocking(move || {
                hostd.call(HostdOperation::Stage { owner }, &[file.as_fd()])
            })
            .await?;
        }
        match lease.subnet {
            Some(_) => firewall::apply_planned_firewall(&self.cells.net)
                .await
                .map(drop),
            None => Ok(()),
        }
    }

    fn build_spec(&self, lease: &CommandGrant, wanted: &CommandRequest) -> CellSpec {
        let home = &self.cells.core.home;
        let dir = home.command_dir(self.slug.as_str());
        let connectivity = CellConnectivity::for_command(&self.cells, wanted.cell, lease.subnet);
        let microvm = (wanted.cell == CellKind::Microvm).then(|| MicroVm {
            image: wanted.image.clone(),
            origin: self.vm_origin(),
            vmm: Vmm::Qemu,
            drives: None,
            brings: wanted.files.is_some(),
            take: wanted.take.clone(),
            images: PathBuf::new(),
            files: PathBuf::new(),
        });
        let (cwd, sandbox) = match wanted.cell {
            CellKind::Process => (dir, None),
            CellKind::Microvm => (PathBuf::from(ROOT), None),
            _ => {
                let bind = Bind {
                    source: dir,
                    path: PathBuf::from(ROOT),
                    writable: true,
                };
                let sandbox = Sandbox {
                    binds: vec![bind],
                    profile: wanted.profile,
                    tmp: tmpfs_size(&wanted.limits),
                };
                (PathBuf::from(ROOT), Some(sandbox))
            }
        };
        let mut env: Vec<(String, String)> = [
            ("HOME", cwd.display().to_string()),
            (
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
            ),
            ("LANG", "C.UTF-8".to_owned()),
            ("LC_ALL", "C.UTF-8".to_owned()),
        ]
        .map(|(k, v)| (k.to_owned(), v))
        .to_vec();
        env.extend(connectivity.environment());
        // The shell's exec searches the program inside the cell and reports 126 and 127 as usual.
        let shell = ["sh", "-c", "exec \"$@\"", "sh"].map(str::to_owned);
        CellSpec {
            cell: self.cell.clone(),
            kind: wanted.cell,
            digest: String::new(),
            program: CellProgram::Path(PathBuf::from("/bin/sh")),
            argv: shell
                .into_iter()
                .chain(wanted.argv.iter().cloned())
                .collect(),
            env,
            cwd,
            uid: lease.uid,
            limits: wanted.limits,
            waived: wanted.waived.clone(),
            sandbox,
            microvm,
            container: None,
            network: lease.subnet.map(|subnet| CellNetwork {
                subnet,
                tag: None,
                bridged: false,
            }),
            forwards: connectivity.port_forwards(),
            terminal: false,
            ready_within: None,
            run_dir: home.cell_records_dir().join(self.cell.to_string()),
            log_dir: home.cell_log_dir(&self.cell.to_string()),
            group: home.cgroup_name(),
            secrets: Vec::new(),
            asks_root: false,
        }
    }

    fn vm_origin(&self) -> BootOrigin {
        let (template, waits) = match &self.source {
            VmSource::Cold => return BootOrigin::Cold,
            VmSource::Template(template) => (template, false),
            VmSource::Warm { template, .. } => (template, true),
        };
        let template = CellName::Run(template.clone());
        BootOrigin::From { template, waits }
    }

    async fn start(
        &mut self,
        lease: &CommandGrant,
        wanted: &CommandRequest,
    ) -> Result<CommandStreams> {
        if !matches!(self.source, VmSource::Warm { .. }) {
            return self.launch(lease, wanted).await;
        }
        match self.launch(lease, wanted).await {
            Ok(streams) => Ok(streams),
            Err(error) => {
                // The waiting microVM is unusable, so the command gets one that boots for it.
                tracing::warn!(cell = %self.cell, error = error.chain(), "a waiting microVM could not be used; booting another one for the command");
                let (backend, cell) = (Arc::clone(&self.cells.backend), self.cell.clone());
                hostd::call_blocking(move || backend.sweep(&cell)).await?;
                self.source = VmSource::Cold;
                self.launch(lease, wanted).await
            }
        }
    }

    async fn launch(
        &self,
        lease: &CommandGrant,
        wanted: &CommandRequest,
    ) -> Result<CommandStreams> {
        let ((stdin_child, stdin), (stdout, out), (stderr, err)) =
            (create_pipe()?, create_pipe()?, create_pipe()?);
        if !matches!(self.source, VmSource::Warm { .. }) {
            let current = self.cells.core.plan.current();
            let reserve = current.map_or(Bytes(0), |c| c.house.admission.memory_reserve);
            let need = crate::cells::memory::memory_to_start(wanted.cell, &wanted.limits, None);
            let cell = CellName::Run(self.slug.clone());
            let taken = self
                .cells
                .memory
                .grant(&cell, need, reserve, self.cells.core.rt.instant());
            taken.map_err(|why| Problem::new(FaultKind::Conflict, why))?;
        }
        let spec = Box::new(self.build_spec(lease, wanted));
        let hostd = Arc::clone(&self.cells.core.hostd);
        let operation = match self.source {
            VmSource::Warm { .. } => HostdOperation::Begin { spec },
            VmSource::Template(_) | VmSource::Cold => HostdOperation::Start {
                generation: Generation(1),
                spec,
            },
        };
        hostd::call_blocking(move || {
            let fds = [stdin_child.as_fd(), out.as_fd(), err.as_fd()];
            hostd.call(operation, &fds)
        })
        .await?;
        Ok(CommandStreams {
            stdin,
            stdout,
            stderr,
        })
    }

    /// Prepares, starts and follows the command, and removes its cell. `ready` gets the outcome of
    /// the start.
    async fn run_to_end(
        mut self,
        lease: CommandGrant,
        wanted: CommandRequest,
        lines: ResponseLines,
        ready: oneshot::Sender<Result<()>>,
    ) {
        let started = match self.prepare(&lease, &wanted).await {
            Ok(()) => self.start(&lease, &wanted).await,
            Err(error) => Err(error),
        };
        let streams = match started {
            Ok(streams) => streams,
            Err(error) => {
                self.release_everything().await;
                let _caller_gone = ready.send(Err(error));
                return;
            }
        };
        let _caller_gone = ready.send(Ok(()));
        if let Some(shape) = wanted.vm_shape() {
            crate::cells::vm_pool::refill_in_background(&self.cells, &shape);
        }
        let end = match self.stream_until_exit(streams, &wanted, &lines).await {
            Ok(end) => end,
            Err(error) => json!({ "exit": 125, "error": error.chain() }),
        };
        // The cell is removed before the caller gets the last line.
        self.release_everything().await;
        let _caller_gone = lines.send(Ok(format!("{end}\n"))).await;
    }

    /// Streams the command's output until it exits, its timeout ends, or the caller disconnects;
    /// returns the last line of the response.
    async fn stream_until_exit(
        &self,
        streams: CommandStreams,
        wanted: &CommandRequest,
        lines: &ResponseLines,
    ) -> Result<Value> {
        let broken = || Error::file("use", "a pipe");
        let mut feed = pipe::Sender::from_owned_fd(streams.stdin).map_err(broken())?;
        let out = pipe::Receiver::from_owned_fd(streams.stdout).map_err(broken())?;
        let err = pipe::Receiver::from_owned_fd(streams.stderr).map_err(broken())?;
        let input = wanted.stdin.clone();
        drop(self.cells.core.rt.detach(async move {
            let _ended_early = feed.write_all(&input).await;
        }));
        let record = self.cells.backend.record(&self.cell)?;
        if let Some(record) = &record {
            let boot = match self.source {
                VmSource::Warm { .. } => Some("warm".to_owned()),
                VmSource::Template(_) | VmSource::Cold => record.boot.clone(),
            };
            let line = json!({ "cell": wanted.cell, "layers": record.layers, "boot": boot });
            let _caller_gone = lines.send(Ok(format!("{line}\n"))).await;
        }
        let carried = async {
            tokio::join!(
                stream_pipe("stdout", out, lines),
                stream_pipe("stderr", err, lines)
            )
        };
        let timeout = wanted.timeout.map_or(TIMEOUT_MAX, |t| t);
        let mut timed_out = false;
        tokio::select! {
            _ends = carried => {}
            () = self.cells.core.rt.sleep(timeout.to_std()) => timed_out = true,
            () = lines.closed() => {}
            () = self.cells.core.rt.stopped() => {}
        }
        // A command may close its output before it exits; its timeout still applies.
        let ended = match timed_out || lines.is_closed() || self.cells.core.rt.is_stopping() {
            true => None,
            false => self
                .cells
                .core
                .rt
                .timeout(timeout.to_std(), self.wait_for_exit())
                .await
                .ok(),
        };
        let exit = match ended {
            Some(exit) => exit?,
            None => {
                timed_out |= !lines.is_closed();
                let (backend, cell) = (Arc::clone(&self.cells.backend), self.cell.clone());
                hostd::call_blocking(move || backend.stop(&cell, GRACE)).await?;
                self.wait_for_exit().await?
            }
        };
        let (kind, spent) = exit;
        let code = match (&kind, timed_out) {
            (_, true) => 124,
            (ExitKind::Code { code }, _) => *code,
            (ExitKind::Signal { signal }, _) => 128 + signal,
            (ExitKind::OutOfMemory | ExitKind::Killed, _) => 137,
            (ExitKind::Stopped, _) => 143,
            (
                ExitKind::NotReady
                | ExitKind::SpawnFailed { .. }
                | ExitKind::Lost
                | ExitKind::Machine { .. },
                _,
            ) => 125,
        };
        let files = match wanted.take.is_empty() {
            true => None,
            false => Some(self.collect_files(&wanted.take).await?),
        };
        Ok(json!({
            "exit": code,
            "reason": kind.to_string(),
            "timed_out": timed_out,
            "usage": spent.map(|s| json!({ "cpu_us": s.cpu_us, "memory_peak_bytes": s.memory_peak.0 })),
            "files": files,
        }))
    }

    /// Waits until the cell has ended, and returns its exit record.
    async fn wait_for_exit(&self) -> Result<(ExitKind, Option<abbey_model::CellUsage>)> {
        loop {
            let (backend, cell) = (Arc::clone(&self.cells.backend), self.cell.clone());
            let observed = hostd::call_blocking(move || backend.observe(&cell)).await?;
            match observed {
                Observed::Exited(record) => return Ok((record.exit, record.spent)),
                Observed::Running { .. } => {
                    let record = self.cells.backend.record(&self.cell)?;
                    process_end::wait_for_process_end(record.map(|r| r.shim.pid)).await;
                }
                Observed::Nothing | Observed::Orphaned { .. } => return Ok((ExitKind::Lost, None)),
            }
        }
    }

    async fn collect_files(&self, paths: &[PathBuf]) -> Result<String> {
        let mut file = tempfile::tempfile().map_err(Error::file("create", "a scratch file"))?;
        let to = file
            .try_clone()
            .map_err(Error::file("create", "a scratch file"))?;
        let (hostd, owner, paths) = (
            Arc::clone(&self.cells.core.hostd),
            self.cell.clone(),
            paths.to_vec(),
        );
        hostd::call_blocking(move || {
            hostd.call(HostdOperation::Collect { owner, paths }, &[to.as_fd()])
        })
        .await?;
        let mut bytes = Vec::new();
        file.rewind()
            .and_then(|()| file.take(TAKEN_MAX + 1).read_to_end(&mut bytes))
            .map_err(Error::file("read", "a scratch file"))?;
        match bytes.len() as u64 > TAKEN_MAX {
            true => Err(Problem::new(
                FaultKind::TooLarge,
                "the result files exceed 64 MiB; return fewer files",
            )
            .into()),
            false => Ok(BASE64.encode(&bytes)),
        }
    }

    /// Removes the cell and files of the command and releases its grant. A failure is logged, and
    /// the removal is repeated at the next start.
    async fn release_everything(&self) {
        if let Err(error) = sweep_and_discard(&self.cells, &self.cell).await {
            tracing::warn!(cell = %self.cell, error = error.chain(), "the files or cell of a command could not be removed; they are removed at the next start of the control plane");
        }
        let lease = self.cells.commands.lock_grants().remove(&self.slug);
        self.cells.net.command_egress.remove(&self.slug);
        if lease.is_some_and(|l| l.subnet.is_some())
            && let Err(error) = firewall::apply_planned_firewall(&self.cells.net).await
        {
            tracing::warn!(
                error = error.chain(),
                "the firewall could not be updated after a command ended; it is checked again within 5 seconds"
            );
        }
    }
}

async fn sweep_and_discard(cells: &CellsState, cell: &CellName) -> Result<()> {
    let (backend, owner) = (Arc::clone(&cells.backend), cell.clone());
    hostd::call_blocking(move || backend.sweep(&owner)).await?;
    let owner = cell.clone();
    hostd::run_operation(&cells.core.hostd, HostdOperation::Discard { owner }).await
}

/// Removes cells and files of commands that a crashed control plane left behind.
pub(crate) async fn discard_leftover_commands(
    cells: &CellsState,
    owners: &[CellName],
) -> Result<()> {
    let on_disk = crate::core::home::list_slug_dirs(&cells.core.home.root().join("runs"))?;
    let holding = owners.iter().filter_map(|o| match o {
        CellName::Run(slug) => Some(slug.clone()),
        CellName::Agent(_) | CellName::Service(_) => None,
    });
    let known: BTreeSet<Slug> = on_disk.into_iter().chain(holding).collect();
    for slug in known.into_iter().filter(|s| !cells.commands.is_running(s)) {
        sweep_and_discard(cells, &CellName::Run(slug)).await?;
    }
    Ok(())
}

/// An unnamed temporary file with this content.
fn scratch_file(content: &[u8]) -> std::io::Result<File> {
    let mut file = tempfile::tempfile()?;
    file.write_all(content)?;
    file.rewind()?;
    Ok(file)
}
