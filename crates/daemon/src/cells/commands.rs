//! `abbey run`: one command in a fresh cell, gone with it.
//!
//! What the command holds (a user, files, a network if it may go out directly) is claimed from the
//! far end of the house's ranges, so that it never meets what the plan gives, and taken back when
//! it has ended, however it ended.

use crate::cells::command_table::CommandGrant;
use crate::cells::exec::{check_argv, pipe, pump};
use crate::cells::process_end;
use crate::cells::specs::{Ways, tmp_size};
use crate::cells::state::CellsState;
use crate::cells::vm_shapes::{Shape, Source};
use crate::core::error::{Error, Result};
use crate::core::hostd;
use crate::core::runtime::Runtime;
use crate::net::firewall;
use abbey_api::{CommandBody, Problem};
use abbey_cells::hostd::{Claim, Operation};
use abbey_cells::microvm::image::DEFAULT;
use abbey_cells::microvm::{Machine, Origin};
use abbey_cells::{Bind, CellSpec, Network, Program, Sandbox};
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

/// Commands at once.
const COMMANDS_MAX: usize = 64;
/// Longest time for a command.
const TIMEOUT_MAX: Millis = Millis::from_secs(24 * 3600);
/// Time for a command to end by itself once it was asked to.
const GRACE: Millis = Millis::from_secs(2);
/// Time for a machine to boot without a command.
const WAITS_WITHIN: Millis = Millis::from_secs(180);
/// Where its files are in its own eyes.
const ROOT: &str = "/work";
/// Most bytes of files that are handed back, packed.
const TAKEN_MAX: u64 = 64 << 20;

/// What was asked for, understood.
struct Wanted {
    argv: Vec<String>,
    cell: CellKind,
    /// What a machine boots from.
    image: String,
    limits: Limits,
    egress: Egress,
    profile: abbey_model::Profile,
    waived: BTreeSet<Layer>,
    timeout: Option<Millis>,
    stdin: Vec<u8>,
    files: Option<Vec<u8>>,
    take: Vec<PathBuf>,
}

/// Something about the house that is not the caller's fault.
pub(crate) fn failed(why: impl Into<String>) -> Error {
    Problem::new(FaultKind::Internal, why).into()
}

fn invalid(why: impl Into<String>) -> Error {
    Problem::new(FaultKind::Invalid, why).into()
}

impl Wanted {
    fn of(body: CommandBody) -> Result<Wanted> {
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
                "a command cannot run in a {cell} in this version"
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
            return Err(invalid("a timeout is more than nothing and at most a day"));
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
                "a microVM has no interface: it goes out by name through the proxy, not to addresses",
            ));
        }
        let image = body.image.unwrap_or_else(|| DEFAULT.to_owned());
        image.parse::<Slug>().map_err(|e| invalid(e.to_string()))?;
        Ok(Wanted {
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
        })
    }

    /// What a machine for it must be like; none when it runs in none.
    fn shape(&self) -> Option<Shape> {
        (self.cell == CellKind::Microvm).then(|| Shape {
            image: self.image.clone(),
            memory: self.limits.memory,
            cpu_milli: self.limits.cpu_milli,
        })
    }

    /// Whether it goes out directly, and so needs a network.
    fn goes_out(&self) -> bool {
        let direct = self.egress == Egress::Full || self.egress.nets().next().is_some();
        direct && self.cell != CellKind::Microvm
    }
}

/// Runs a command, and streams what it says as JSON Lines; the last line tells how it ended.
pub(crate) async fn command(cells: &Arc<CellsState>, body: CommandBody) -> Result<Response> {
    let wanted = Wanted::of(body)?;
    let mut source = match wanted.shape() {
        Some(shape) => cells.pool.take(&shape, cells.core.rt.instant()),
        None => Source::Cold,
    };
    let waiting = match &source {
        Source::Warm { slug, .. } => {
            let lease = cells.commands.take_over(slug, &wanted.egress);
            lease.map(|lease| {
                let egress = wanted.egress.clone();
                cells.net.command_egress.set(slug.clone(), egress);
                (slug.clone(), lease)
            })
        }
        Source::Template(_) | Source::Cold => None,
    };
    let (slug, lease) = match waiting {
        Some(taken) => taken,
        None => {
            if matches!(source, Source::Warm { .. }) {
                source = Source::Cold;
            }
            let slug = fresh_name(&cells.core.rt)?;
            let lease = lease(cells, &slug, &wanted).await?;
            (slug, lease)
        }
    };
    let running = Running::of(cells, slug, source);
    let (lines, stream) = mpsc::channel(64);
    let (ready, begun) = oneshot::channel();
    // A task of its own: a caller who leaves at any moment must not leave the command behind.
    drop(
        cells
            .core
            .rt
            .spawn(running.live(lease, wanted, lines, ready)),
    );
    let lost = |_| Problem::new(FaultKind::Internal, "the command was lost");
    begun.await.map_err(lost)??;
    let stream = futures_util::stream::unfold(stream, async |mut s| s.recv().await.map(|l| (l, s)));
    Ok(Response::builder()
        .header("content-type", "application/jsonl")
        .body(Body::from_stream(stream))
        .unwrap_or_default())
}

/// A name that no other command has.
fn fresh_name(rt: &Runtime) -> Result<Slug> {
    let mut random = [0u8; 4];
    rt.fill_random(&mut random)?;
    let name = format!("r{:08x}", u32::from_be_bytes(random));
    name.parse().map_err(|_| invalid("no name"))
}

/// Starts a machine that has no command yet; it waits for one, or becomes what others begin from.
pub(crate) async fn start_waiting(
    cells: &Arc<CellsState>,
    shape: &Shape,
    origin: Origin,
) -> Result<Slug> {
    let wanted = Wanted {
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
    };
    let slug = fresh_name(&cells.core.rt)?;
    let lease = lease(cells, &slug, &wanted).await?;
    let running = Running::of(cells, slug.clone(), Source::Cold);
    let started = async {
        running.own(&lease).await?;
        let mut spec = running.spec(&lease, &wanted);
        spec.ready_within = Some(WAITS_WITHIN);
        if let Some(machine) = &mut spec.machine {
            machine.origin = origin;
        }
        let (spec, generation) = (Box::new(spec), Generation(1));
        hostd::call(&cells.core.hostd, Operation::Start { generation, spec }).await
    };
    match started.await {
        Ok(()) => Ok(slug),
        Err(error) => {
            running.clear().await;
            Err(error)
        }
    }
}

/// Ends a machine that was kept, and takes everything back from it.
pub(crate) async fn let_go(cells: &Arc<CellsState>, slug: &Slug) {
    Running::of(cells, slug.clone(), Source::Cold).clear().await;
}

/// Takes a place among the running commands, with a user and addresses that no other has.
async fn lease(cells: &Arc<CellsState>, slug: &Slug, wanted: &Wanted) -> Result<CommandGrant> {
    let hostd = Arc::clone(&cells.core.hostd);
    let network = wanted.goes_out() && wanted.cell.isolates();
    let (hello, unusable) = hostd::ask(move || {
        let unusable = match network {
            true => hostd.observe()?.no_network,
            false => None,
        };
        Ok((hostd.hello()?, unusable))
    })
    .await?;
    let current = cells.core.plan.current();
    let mut leases = cells.commands.leases();
    if leases.len() >= COMMANDS_MAX {
        let text = format!("{COMMANDS_MAX} commands run already; wait for one to end");
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
            return Err(Problem::new(FaultKind::Limit, "no subnet is left in the pool").into());
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

/// Where the answer goes, line by line.
type Lines = mpsc::Sender<std::result::Result<String, std::convert::Infallible>>;

struct Running {
    cells: Arc<CellsState>,
    slug: Slug,
    cell: CellName,
    source: Source,
}

/// Our ends of a command's streams, and the process that owns its cell.
struct Streams {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

impl Running {
    fn of(cells: &Arc<CellsState>, slug: Slug, source: Source) -> Running {
        Running {
            cells: Arc::clone(cells),
            cell: CellName::Run(slug.clone()),
            slug,
            source,
        }
    }

    /// Claims what it has and makes its directory; twice is once.
    async fn own(&self, lease: &CommandGrant) -> Result<()> {
        let claim = Claim {
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
            ..Claim::default()
        };
        let owned = Operation::Claim {
            owner: self.cell.clone(),
            claim,
        };
        hostd::call(&self.cells.core.hostd, owned).await?;
        let prepared = Operation::Prepare {
            owner: self.cell.clone(),
            files: Vec::new(),
        };
        hostd::call(&self.cells.core.hostd, prepared).await
    }

    async fn prepare(&self, lease: &CommandGrant, wanted: &Wanted) -> Result<()> {
        let owner = || self.cell.clone();
        let note = NewAuditEntry {
            actor: Principal::Operator,
            action: "command.run".to_owned(),
            entity: self.cell.to_string(),
            detail: json!({ "argv": wanted.argv, "cell": wanted.cell, "egress": wanted.egress.to_string() }),
        };
        self.cells.core.store.append_audit_entry(note).await?;
        self.own(lease).await?;
        if let Some(archive) = &wanted.files {
            let file = scratch(archive).map_err(Error::file("make", "a scratch file"))?;
            let (hostd, owner) = (Arc::clone(&self.cells.core.hostd), owner());
            hostd::ask(move || hostd.call(Operation::Stage { owner }, &[file.as_fd()])).await?;
        }
        match lease.subnet {
            Some(_) => firewall::raise(&self.cells.net).await.map(drop),
            None => Ok(()),
        }
    }

    fn spec(&self, lease: &CommandGrant, wanted: &Wanted) -> CellSpec {
        let home = &self.cells.core.home;
        let dir = home.command(self.slug.as_str());
        let ways = Ways::of_command(&self.cells, wanted.cell, lease.subnet);
        let machine = (wanted.cell == CellKind::Microvm).then(|| Machine {
            image: wanted.image.clone(),
            origin: self.origin(),
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
                    tmp: tmp_size(&wanted.limits),
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
        env.extend(ways.environment());
        // A shell's exec finds the program inside and tells 126 and 127 as everybody knows them.
        let shell = ["sh", "-c", "exec \"$@\"", "sh"].map(str::to_owned);
        CellSpec {
            cell: self.cell.clone(),
            kind: wanted.cell,
            digest: String::new(),
            program: Program::Path(PathBuf::from("/bin/sh")),
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
            machine,
            container: None,
            network: lease.subnet.map(|subnet| Network {
                subnet,
                tag: None,
                bridged: false,
            }),
            forwards: ways.forwards(),
            terminal: false,
            ready_within: None,
            run_dir: home.cells().join(self.cell.to_string()),
            log_dir: home.cell_logs(&self.cell.to_string()),
            group: home.group(),
            secrets: Vec::new(),
            asks_root: false,
        }
    }

    fn origin(&self) -> Origin {
        let (template, waits) = match &self.source {
            Source::Cold => return Origin::Cold,
            Source::Template(template) => (template, false),
            Source::Warm { template, .. } => (template, true),
        };
        let template = CellName::Run(template.clone());
        Origin::From { template, waits }
    }

    async fn start(&mut self, lease: &CommandGrant, wanted: &Wanted) -> Result<Streams> {
        if !matches!(self.source, Source::Warm { .. }) {
            return self.launch(lease, wanted).await;
        }
        match self.launch(lease, wanted).await {
            Ok(streams) => Ok(streams),
            Err(error) => {
                // It waited in vain: something happened to it. The command gets a machine all the same.
                tracing::warn!(cell = %self.cell, error = error.chain(), "a machine that waited is of no use");
                let (backend, cell) = (Arc::clone(&self.cells.backend), self.cell.clone());
                hostd::ask(move || backend.sweep(&cell)).await?;
                self.source = Source::Cold;
                self.launch(lease, wanted).await
            }
        }
    }

    async fn launch(&self, lease: &CommandGrant, wanted: &Wanted) -> Result<Streams> {
        let ((stdin_child, stdin), (stdout, out), (stderr, err)) = (pipe()?, pipe()?, pipe()?);
        if !matches!(self.source, Source::Warm { .. }) {
            let current = self.cells.core.plan.current();
            let reserve = current.map_or(Bytes(0), |c| c.house.admission.memory_reserve);
            let need = crate::cells::memory::need(wanted.cell, &wanted.limits, None);
            let cell = CellName::Run(self.slug.clone());
            let taken = self
                .cells
                .memory
                .take(&cell, need, reserve, self.cells.core.rt.instant());
            taken.map_err(|why| Problem::new(FaultKind::Conflict, why))?;
        }
        let spec = Box::new(self.spec(lease, wanted));
        let hostd = Arc::clone(&self.cells.core.hostd);
        let operation = match self.source {
            Source::Warm { .. } => Operation::Begin { spec },
            Source::Template(_) | Source::Cold => Operation::Start {
                generation: Generation(1),
                spec,
            },
        };
        hostd::ask(move || {
            let fds = [stdin_child.as_fd(), out.as_fd(), err.as_fd()];
            hostd.call(operation, &fds)
        })
        .await?;
        Ok(Streams {
            stdin,
            stdout,
            stderr,
        })
    }

    /// From nothing to nothing: prepares, starts, follows, and takes everything away.
    async fn live(
        mut self,
        lease: CommandGrant,
        wanted: Wanted,
        lines: Lines,
        ready: oneshot::Sender<Result<()>>,
    ) {
        let started = match self.prepare(&lease, &wanted).await {
            Ok(()) => self.start(&lease, &wanted).await,
            Err(error) => Err(error),
        };
        let streams = match started {
            Ok(streams) => streams,
            Err(error) => {
                self.clear().await;
                let _caller_gone = ready.send(Err(error));
                return;
            }
        };
        let _caller_gone = ready.send(Ok(()));
        if let Some(shape) = wanted.shape() {
            crate::cells::vm_pool::refill(&self.cells, &shape);
        }
        let end = match self.follow(streams, &wanted, &lines).await {
            Ok(end) => end,
            Err(error) => json!({ "exit": 125, "error": error.chain() }),
        };
        // Nothing is left when the caller hears that it has ended.
        self.clear().await;
        let _caller_gone = lines.send(Ok(format!("{end}\n"))).await;
    }

    /// Carries its output until it has ended, is out of time, or nobody listens any more.
    async fn follow(&self, streams: Streams, wanted: &Wanted, lines: &Lines) -> Result<Value> {
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
                Source::Warm { .. } => Some("warm".to_owned()),
                Source::Template(_) | Source::Cold => record.boot.clone(),
            };
            let told = json!({ "cell": wanted.cell, "layers": record.layers, "boot": boot });
            let _caller_gone = lines.send(Ok(format!("{told}\n"))).await;
        }
        let carried =
            async { tokio::join!(pump("stdout", out, lines), pump("stderr", err, lines)) };
        let patience = wanted.timeout.map_or(TIMEOUT_MAX, |t| t);
        let mut timed_out = false;
        tokio::select! {
            _ends = carried => {}
            () = self.cells.core.rt.sleep(patience.to_std()) => timed_out = true,
            () = lines.closed() => {}
            () = self.cells.core.rt.stopped() => {}
        }
        // Its output may end before it does; without output it may go on for as long as it may.
        let ended = match timed_out || lines.is_closed() || self.cells.core.rt.is_stopping() {
            true => None,
            false => self
                .cells
                .core
                .rt
                .timeout(patience.to_std(), self.ended())
                .await
                .ok(),
        };
        let exit = match ended {
            Some(exit) => exit?,
            None => {
                timed_out |= !lines.is_closed();
                let (backend, cell) = (Arc::clone(&self.cells.backend), self.cell.clone());
                hostd::ask(move || backend.stop(&cell, GRACE)).await?;
                self.ended().await?
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
            false => Some(self.collect(&wanted.take).await?),
        };
        Ok(json!({
            "exit": code,
            "reason": kind.to_string(),
            "timed_out": timed_out,
            "usage": spent.map(|s| json!({ "cpu_us": s.cpu_us, "memory_peak_bytes": s.memory_peak.0 })),
            "files": files,
        }))
    }

    /// Resolves when the cell has ended, with its record.
    async fn ended(&self) -> Result<(ExitKind, Option<abbey_model::CellUsage>)> {
        loop {
            let (backend, cell) = (Arc::clone(&self.cells.backend), self.cell.clone());
            let observed = hostd::ask(move || backend.observe(&cell)).await?;
            match observed {
                Observed::Exited(record) => return Ok((record.exit, record.spent)),
                Observed::Running { .. } => {
                    let record = self.cells.backend.record(&self.cell)?;
                    process_end::process_end(record.map(|r| r.shim.pid)).await;
                }
                Observed::Nothing | Observed::Orphaned { .. } => return Ok((ExitKind::Lost, None)),
            }
        }
    }

    async fn collect(&self, paths: &[PathBuf]) -> Result<String> {
        let mut file = tempfile::tempfile().map_err(Error::file("make", "a scratch file"))?;
        let to = file
            .try_clone()
            .map_err(Error::file("make", "a scratch file"))?;
        let (hostd, owner, paths) = (
            Arc::clone(&self.cells.core.hostd),
            self.cell.clone(),
            paths.to_vec(),
        );
        hostd::ask(move || hostd.call(Operation::Collect { owner, paths }, &[to.as_fd()])).await?;
        let mut bytes = Vec::new();
        file.rewind()
            .and_then(|()| file.take(TAKEN_MAX + 1).read_to_end(&mut bytes))
            .map_err(Error::file("read", "a scratch file"))?;
        match bytes.len() as u64 > TAKEN_MAX {
            true => Err(Problem::new(FaultKind::TooLarge, "more than 64 MiB of files").into()),
            false => Ok(BASE64.encode(&bytes)),
        }
    }

    /// Takes everything away.
    async fn clear(&self) {
        if let Err(error) = discard(&self.cells, &self.cell).await {
            tracing::warn!(cell = %self.cell, error = error.chain(), "a command left something; it is removed at the next start");
        }
        let lease = self.cells.commands.leases().remove(&self.slug);
        self.cells.net.command_egress.remove(&self.slug);
        if lease.is_some_and(|l| l.subnet.is_some())
            && let Err(error) = firewall::raise(&self.cells.net).await
        {
            tracing::warn!(
                error = error.chain(),
                "the firewall still knows a command that has ended"
            );
        }
    }
}

async fn discard(cells: &CellsState, cell: &CellName) -> Result<()> {
    let (backend, owner) = (Arc::clone(&cells.backend), cell.clone());
    hostd::ask(move || backend.sweep(&owner)).await?;
    let owner = cell.clone();
    hostd::call(&cells.core.hostd, Operation::Discard { owner }).await
}

/// Removes what commands left that nobody waits for any more, after a crash.
pub(crate) async fn clear_leftovers(cells: &CellsState, owners: &[CellName]) -> Result<()> {
    let on_disk = crate::core::home::slugs_in(&cells.core.home.root().join("runs"))?;
    let holding = owners.iter().filter_map(|o| match o {
        CellName::Run(slug) => Some(slug.clone()),
        CellName::Agent(_) | CellName::Service(_) => None,
    });
    let known: BTreeSet<Slug> = on_disk.into_iter().chain(holding).collect();
    for slug in known.into_iter().filter(|s| !cells.commands.runs(s)) {
        discard(cells, &CellName::Run(slug)).await?;
    }
    Ok(())
}

/// A file that nobody else can name, with a content.
fn scratch(content: &[u8]) -> std::io::Result<File> {
    let mut file = tempfile::tempfile()?;
    file.write_all(content)?;
    file.rewind()?;
    Ok(file)
}
