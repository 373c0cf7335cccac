//! The life of one command in its cell: claims, start, output, exit, and removal.

use crate::cells::command_request::{CommandRequest, TIMEOUT_MAX};
use crate::cells::command_table::CommandGrant;
use crate::cells::exec::{create_pipe, stream_pipe};
use crate::cells::process_end;
use crate::cells::specs::{CellConnectivity, tmpfs_size};
use crate::cells::state::CellsState;
use crate::cells::vm_shapes::VmSource;
use crate::core::error::{Error, Result};
use crate::core::hostd;
use crate::net::firewall;
use abbey_api::Problem;
use abbey_cells::hostd::{Allocation, HostdOperation};
use abbey_cells::microvm::{BootOrigin, MicroVm};
use abbey_cells::{Bind, CellNetwork, CellProgram, CellSpec, Sandbox};
use abbey_model::{
    Bytes, CellKind, CellName, ExitKind, FaultKind, Generation, Millis, Observed, Slug, Vmm,
};
use abbey_store::NewAuditEntry;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};

/// Time for a command to exit after SIGTERM.
const GRACE: Millis = Millis::from_secs(2);
/// Path of the command's files inside its cell.
const ROOT: &str = "/work";
/// Largest archive of result files, bytes.
const TAKEN_MAX: u64 = 64 << 20;

/// Sender of the lines of the response.
pub(super) type ResponseLines = mpsc::Sender<std::result::Result<String, std::convert::Infallible>>;

/// One command in its cell.
pub(super) struct CommandRun {
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
    /// Handle of one command run. `slug` is the random name of this run and of its cell. Starts nothing.
    pub(super) fn new(cells: &Arc<CellsState>, slug: Slug, source: VmSource) -> CommandRun {
        CommandRun {
            cells: Arc::clone(cells),
            cell: CellName::Run(slug.clone()),
            slug,
            source,
        }
    }

    /// Claims the command's user and subnet at hostd and creates its directory; may be repeated.
    pub(super) async fn claim_resources(&self, lease: &CommandGrant) -> Result<()> {
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

    /// Specification of the command's cell.
    pub(super) fn build_spec(&self, lease: &CommandGrant, wanted: &CommandRequest) -> CellSpec {
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
                .grant(&cell, need, reserve, self.cells.core.rt.now());
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
    pub(super) async fn run_to_end(
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
        drop(self.cells.core.rt.spawn_untracked(async move {
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
                | ExitKind::HostRestarted
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
    pub(super) async fn release_everything(&self) {
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

/// Removes the cell and the files of a command.
pub(super) async fn sweep_and_discard(cells: &CellsState, cell: &CellName) -> Result<()> {
    let (backend, owner) = (Arc::clone(&cells.backend), cell.clone());
    hostd::call_blocking(move || backend.sweep(&owner)).await?;
    let owner = cell.clone();
    hostd::run_operation(&cells.core.hostd, HostdOperation::Discard { owner }).await
}

/// An unnamed temporary file with this content.
fn scratch_file(content: &[u8]) -> std::io::Result<File> {
    let mut file = tempfile::tempfile()?;
    file.write_all(content)?;
    file.rewind()?;
    Ok(file)
}
