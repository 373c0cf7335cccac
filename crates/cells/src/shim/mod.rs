//! The shim: one small process for each cell, which owns it and outlives the control plane.
//!
//! One thread, one `poll`. It launches the child, pumps its output into the log, forwards the
//! door to the house's socket, answers `status` and `stop`, reaps, and at the end makes sure that
//! nothing is left and writes how it ended. Deliberately absent: async, tasks, policy.

mod birth;
mod control;
mod forward;
mod log;
mod phase;
mod session;

use crate::container;
use crate::guest::ShimNotice;
use crate::record::{now, write_json_without_sync};
use crate::spec::{ListenAddress, PortForward};
use crate::sys::cgroup::ControlGroups;
use crate::sys::process;
use crate::sys::terminal::Terminal;
use crate::{CellRecord, CellSpec, Error, Result, crash, microvm};
use abbey_model::{
    Bytes, CellUsage, ExitKind, ExitRecord, Generation, Layer, Millis, Redactor, Secret,
};
use forward::PortForwarder;
use log::{AROUND, CONSOLE, CellLog};
use phase::{CellPhase, PhaseAction, PhaseEvent};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitOptions};
use session::GuestSession;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

/// Runs the shim of a cell in this process until the cell has ended. `report` is called once with whether the
/// program started; with `streams` the program uses these instead of the log.
///
/// # Errors
/// Why the program did not start; this was also reported.
pub(crate) fn run_shim(
    generation: Generation,
    spec: CellSpec,
    streams: Option<[OwnedFd; 3]>,
    report: impl FnOnce(std::result::Result<(), &str>),
) -> Result<()> {
    // A session of its own, so that nothing aimed at the control plane's terminal reaches it.
    let _already_leader = rustix::process::setsid();
    match Shim::launch(generation, spec, streams) {
        Ok(mut shim) => {
            report(Ok(()));
            crash::point("shim.reported");
            shim.serve();
            Ok(())
        }
        Err((spec, generation, error)) => {
            let why = crate::error::error_chain(&error);
            // Another boot may be up: its records are not ours to overwrite.
            if !matches!(error, Error::Busy(_)) {
                let record = ExitRecord {
                    generation,
                    exit: ExitKind::SpawnFailed { error: why.clone() },
                    ended_at: now(),
                    spent: None,
                };
                let _unwritable = write_json_without_sync(&spec.run_dir.join("exit.json"), &record);
            }
            report(Err(&why));
            Err(error)
        }
    }
}

/// Reads of one stream in one turn; there are others to hear.
const READS_MAX: usize = 32;

/// Time for the last words of a guest to be taken by whoever reads them.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(30);

/// Longest time to hold a cell; the kernel takes microseconds for each process.
const HOLD_WITHIN: Duration = Duration::from_millis(400);

struct Shim {
    spec: CellSpec,
    generation: Generation,
    groups: Option<ControlGroups>,
    child: abbey_launch::Child,
    /// Where the first process of an isolated cell reports how the program ended; none for a plain child.
    channel: Option<OwnedFd>,
    output: Vec<(&'static str, Option<OwnedFd>)>,
    ready_pipe: Option<OwnedFd>,
    /// Changed by [`Shim::advance`] alone.
    phase: CellPhase,
    control: UnixListener,
    forwards: Vec<PortForwarder>,
    terminal: Option<Terminal>,
    /// Of a machine.
    session: Option<GuestSession>,
    log: CellLog,
    /// Held for as long as the cell lives: no second boot of it can begin (hazard 4).
    _lock: fs::File,
}

/// Makes the cell's directory and takes it for this boot.
fn claim_cell(spec: &CellSpec) -> Result<fs::File> {
    use std::os::unix::fs::PermissionsExt;
    for dir in [&spec.run_dir, &spec.log_dir] {
        fs::create_dir_all(dir).map_err(Error::file("make", dir))?;
        // The group is the control plane's, by the parent's set-group-id bit.
        fs::set_permissions(dir, fs::Permissions::from_mode(0o2750))
            .map_err(Error::file("protect", dir))?;
    }
    let staging = spec.staging_dir();
    fs::create_dir_all(&staging).map_err(Error::file("make", staging))?;
    let path = spec.run_dir.join("lock");
    crate::sys::lock::try_lock_file(&path)?.ok_or_else(|| Error::Busy(spec.cell.clone()))
}

impl Shim {
    fn launch(
        generation: Generation,
        spec: CellSpec,
        streams: Option<[OwnedFd; 3]>,
    ) -> std::result::Result<Shim, (CellSpec, Generation, Error)> {
        match Self::try_launch(generation, &spec, streams) {
            Ok(build) => Ok(build(spec)),
            Err(error) => Err((spec, generation, error)),
        }
    }

    fn try_launch(
        generation: Generation,
        spec: &CellSpec,
        streams: Option<[OwnedFd; 3]>,
    ) -> Result<impl FnOnce(CellSpec) -> Shim + use<>> {
        let me = i32::try_from(std::process::id()).unwrap_or(0);
        let lost = || Error::Shim {
            cell: spec.cell.clone(),
            why: "/proc is not readable".to_owned(),
        };
        let mut record = CellRecord {
            generation,
            digest: spec.digest.clone(),
            shim: process::identify(me).ok_or_else(lost)?,
            child: None,
            started_at: now(),
            groups: Vec::new(),
            in_force: None,
            layers: BTreeSet::new(),
            sandbox: spec.sandbox.clone(),
            microvm: spec.microvm.is_some(),
            container: spec.container.is_some(),
            boot: None,
            network: spec.network,
        };
        let lock = claim_cell(spec)?;
        crash::point("shim.claimed");
        // The intent is on disk before the first side effect (hazards 6 and 7).
        write_json_without_sync(&spec.run_dir.join("shim.json"), &record)?;
        crash::point("shim.intent");
        let control = listen(&spec.run_dir.join("control.sock"))?;
        let log = CellLog::open(
            &spec.log_dir,
            Redactor::new(spec.secrets.iter().map(Secret::new)),
        )?;
        let mut prepared = match (&spec.microvm, &spec.container) {
            (Some(microvm), _) => Some(microvm::prepare_microvm(spec, microvm, generation.0)?),
            (None, Some(container)) => {
                let prepared = container::prepare_container(spec, container, generation.0);
                Some(prepared?)
            }
            (None, None) => None,
        };
        let beside = prepared
            .as_mut()
            .map_or_else(Vec::new, |p| std::mem::take(&mut p.fds));
        if prepared.is_some() {
            crash::point("machine.prepared");
        }
        record.boot = prepared.as_ref().map(|p| p.aside.boot_kind().to_owned());
        // Around a microVM is a cell like any other.
        let outer = prepared.as_ref().map_or(spec, |p| &p.outer);
        let groups = match ControlGroups::create(&spec.group, &spec.cell.to_string(), &outer.limits)
        {
            Ok(groups) => Some(groups),
            Err(_) if spec.waived.contains(&Layer::Limits) => None,
            Err(error) => return Err(error),
        };
        let groups = match (groups, outer.limits.io) {
            (Some(mut groups), Some(io)) => {
                let bound = groups.limit_io(&spec.group, &spec.cell.to_string(), &spec.run_dir, io);
                match bound {
                    Err(error) if !spec.waived.contains(&Layer::Limits) => return Err(error),
                    _ => Some(groups),
                }
            }
            (groups, _) => groups,
        };
        crash::point("shim.groups");
        if let Some(groups) = &groups {
            record.groups = groups.paths().to_vec();
            record.in_force = groups.read_limits();
            let io = record.in_force.and_then(|l| l.io);
            let missing = record.in_force.is_none() || io != outer.limits.io;
            if missing && !spec.waived.contains(&Layer::Limits) {
                return Err(Error::Limits(
                    "the kernel does not show all of them as applied".to_owned(),
                ));
            }
        }
        abbey_launch::become_subreaper().map_err(Error::file("adopt", "orphans"))?;
        let limited = record.in_force.is_some();
        // The program in a microVM speaks through its guest.
        let (streams, inner) = match prepared {
            Some(_) => (None, streams),
            None => (streams, None),
        };
        let birth = birth::launch_program(outer, groups.as_ref(), limited, streams, beside)?;
        crash::point("shim.running");
        record.child = process::identify(birth.child.pid);
        record.layers.clone_from(&birth.layers);
        write_json_without_sync(&spec.run_dir.join("shim.json"), &record)?;
        let ready_until = spec
            .ready_within
            .map(|within| Instant::now() + within.to_std());
        let [stdout, stderr, ready_pipe] = birth.pipes;
        let forwards = open_forwards(spec, birth.listeners)?;
        let microvm = spec.microvm.as_ref();
        let files = microvm.map(|m| m.files.clone()).unwrap_or_default();
        let waits = microvm.is_some_and(|m| m.origin.waits());
        let session = prepared.map(|p| GuestSession::new(spec, files, waits, p, inner));
        let (child, channel, terminal) = (birth.child, birth.channel, birth.terminal);
        Ok(move |spec: CellSpec| Shim {
            generation,
            groups,
            child,
            channel,
            output: match session {
                None => vec![("out", Some(stdout)), ("err", Some(stderr))],
                Some(_) => vec![(CONSOLE, Some(stdout)), (AROUND, Some(stderr))],
            },
            ready_pipe: ready_until
                .filter(|_| session.is_none())
                .map(|_| ready_pipe),
            phase: CellPhase::initial(ready_until),
            control,
            forwards,
            terminal,
            session,
            log,
            spec,
            _lock: lock,
        })
    }

    fn serve(&mut self) {
        loop {
            self.reap();
            if let CellPhase::Ended(exit) = &self.phase {
                self.finish(exit.clone());
                return;
            }
            self.advance(PhaseEvent::Clock(Instant::now()));
            if self.wait().is_err() {
                // Without poll the shim is blind; end the cell rather than lose sight of it.
                self.kill();
            }
            self.pump();
            self.hear_guest();
            self.accept_requests();
            for forward in &mut self.forwards {
                forward.transfer();
            }
        }
    }

    /// Waits for anything to happen.
    fn wait(&mut self) -> io::Result<()> {
        let keeping = matches!(self.phase, CellPhase::Keeping { .. });
        let monitor = self.session.as_ref().and_then(GuestSession::next_deadline);
        let next = [self.phase.next_deadline(), monitor.filter(|_| !keeping)]
            .into_iter()
            .flatten()
            .min();
        // The ordinary wait is bounded as a safety net only; everything wakes by descriptor.
        let patience = next.map_or(Duration::from_secs(30), |at| {
            at.saturating_duration_since(Instant::now())
        });
        let timeout = Timespec::try_from(patience).map_err(io::Error::other)?;
        let mut fds = vec![PollFd::new(&self.control, PollFlags::IN)];
        if !keeping {
            fds.push(PollFd::new(&self.child.pidfd, PollFlags::IN));
        }
        fds.extend(
            self.output
                .iter()
                .filter_map(|(_, fd)| fd.as_ref())
                .map(|fd| PollFd::new(fd, PollFlags::IN)),
        );
        fds.extend(
            self.ready_pipe
                .as_ref()
                .map(|fd| PollFd::new(fd, PollFlags::IN)),
        );
        for forward in &self.forwards {
            forward.add_poll_fds(&mut fds);
        }
        if let Some(terminal) = &self.terminal {
            terminal.add_poll_fds(&mut fds);
        }
        if let Some(session) = &self.session {
            session.add_poll_fds(&mut fds);
        }
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Moves output into the log and hears the announcement of readiness.
    fn pump(&mut self) {
        let mut buffer = [0u8; 8192];
        for (stream, slot) in &mut self.output {
            let Some(fd) = slot else { continue };
            for _ in 0..READS_MAX {
                match rustix::io::read(&*fd, &mut buffer) {
                    Ok(0) => {
                        *slot = None;
                        break;
                    }
                    Ok(n) => {
                        if let Some(session) = self.session.as_mut().filter(|_| *stream == CONSOLE)
                        {
                            session.scan_console(&buffer[..n]);
                        }
                        self.log.append(stream, &buffer[..n], now());
                    }
                    Err(_) => break,
                }
            }
        }
        if let Some(terminal) = &mut self.terminal {
            terminal.transfer(|bytes| self.log.append("out", bytes, now()));
        }
        if let Some(fd) = &self.ready_pipe {
            match rustix::io::read(fd, &mut buffer) {
                Ok(n) => {
                    let announced = buffer[..n].contains(&b'\n');
                    if n == 0 || announced {
                        self.ready_pipe = None;
                    }
                    if announced {
                        self.advance(PhaseEvent::Announced);
                    }
                }
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Err(_) => self.ready_pipe = None,
            }
        }
    }

    /// Hears a guest, and does what it may ask of us.
    fn hear_guest(&mut self) {
        let Some(session) = &mut self.session else {
            return;
        };
        let (outputs, fair) = session.process_messages();
        let (ready, warm) = (session.is_ready(), session.is_warm());
        let failed = !fair || session.failure().is_some();
        let outputs = outputs.into_iter().map(|(name, fd)| (name, Some(fd)));
        self.output.extend(outputs);
        if ready {
            self.advance(PhaseEvent::Announced);
        }
        if failed {
            self.advance(PhaseEvent::GuestFailed);
        }
        // With everything in memory it is paused until it is needed.
        if warm && self.phase.may_wait() {
            self.pause(true);
            if self.phase.is_paused() {
                self.advance(PhaseEvent::Warmed);
            }
        }
    }

    /// Goes to the phase after an event, and does what that takes.
    fn advance(&mut self, event: PhaseEvent) {
        let (phase, actions) = self.phase.after(event);
        self.phase = phase;
        for action in actions {
            match action {
                PhaseAction::RequestStop(grace) => self.request_stop(grace),
                PhaseAction::HangUp => {
                    // Closing our end is what tells the session that its terminal is gone.
                    self.terminal = None;
                    if let Some(session) = &mut self.session {
                        session.send_notice(&ShimNotice::HangUp {});
                    }
                }
                PhaseAction::Terminate => {
                    let _gone_already =
                        rustix::process::pidfd_send_signal(&self.child.pidfd, Signal::TERM);
                }
                PhaseAction::Kill => self.kill(),
            }
        }
    }

    /// Holds everything below us, or lets it go on.
    fn pause(&mut self, pause: bool) {
        if pause == self.phase.is_paused() {
            return;
        }
        let done = match &self.groups {
            Some(groups) => groups.set_frozen(pause, HOLD_WITHIN),
            None => {
                let below = || process::process_tree(self.child.pid);
                process::signal_until_stopped(below, pause, Instant::now() + HOLD_WITHIN)
            }
        };
        match (pause, done) {
            // Held by halves is worse than not at all.
            (true, false) => drop(
                self.groups
                    .as_ref()
                    .map(|g| g.set_frozen(false, HOLD_WITHIN)),
            ),
            (pause, _) => self.advance(PhaseEvent::Paused(pause)),
        }
        // Its clock stood still.
        let paused = self.phase.is_paused();
        if let Some(session) = self.session.as_mut().filter(|_| !paused) {
            session.send_notice(&ShimNotice::Clock { now_ms: now().0 });
        }
    }

    fn ask_to_stop(&mut self, grace: Millis) {
        self.advance(PhaseEvent::StopRequested {
            now: Instant::now(),
            grace: grace.to_std(),
            terminal: self.spec.terminal,
            guest: self.session.is_some(),
        });
    }

    /// Asks the program to end by itself.
    fn request_stop(&mut self, grace: Duration) {
        if let Some(session) = &mut self.session {
            // The agent first, then its guest, then the program around it, then force.
            let within_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX) * 6 / 10;
            session.send_notice(&ShimNotice::Stop { within_ms });
        } else if self.channel.is_some() {
            // The first process of an isolated cell passes the signal on.
            let _gone_already = rustix::process::pidfd_send_signal(&self.child.pidfd, Signal::TERM);
        } else if let Some(group) = Pid::from_raw(self.child.pid) {
            // The whole group, as the child may be a launcher of something else.
            let _gone_already = rustix::process::kill_process_group(group, Signal::TERM);
        }
    }

    /// Ends the child and everything below it.
    fn kill(&self) {
        let _gone_already = rustix::process::pidfd_send_signal(&self.child.pidfd, Signal::KILL);
        if let Some(groups) = &self.groups {
            let _survivors_are_reported_later = groups.kill_all(Duration::from_secs(5));
        } else {
            self.kill_descendants();
        }
    }

    /// Without control groups: we are the reaper of every orphan below us, so children found here
    /// until none is left are all there were.
    fn kill_descendants(&self) {
        let me = std::process::id();
        for _ in 0..200 {
            let listed =
                fs::read_to_string(format!("/proc/{me}/task/{me}/children")).unwrap_or_default();
            let pids: Vec<Pid> = listed
                .split_whitespace()
                .filter_map(|p| Pid::from_raw(p.parse().ok()?))
                .collect();
            if pids.is_empty() {
                return;
            }
            for pid in pids {
                let _gone_already = rustix::process::kill_process(pid, Signal::KILL);
            }
            while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Collects ended children; the main one decides how the cell ended.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if pid.as_raw_nonzero().get() != self.child.pid {
                continue;
            }
            let ran_out = self
                .groups
                .as_ref()
                .is_some_and(ControlGroups::ran_out_of_memory);
            let own = (status.exit_status(), status.terminating_signal());
            // When the first process itself was killed, all went with it and it said nothing.
            let told = self
                .channel
                .as_ref()
                .and_then(abbey_launch::IsolatedChild::read_exit_status);
            let ended = told.map_or(own, |raw| {
                use std::os::unix::process::ExitStatusExt;
                let status = std::process::ExitStatus::from_raw(raw);
                (status.code(), status.signal())
            });
            let stop_requested = self.phase.stop_requested();
            let timed_out = self.phase.stop_timed_out();
            if let Some(session) = self.session.as_mut().filter(|_| !timed_out) {
                // Its last words came before its end.
                let _heard = session.process_messages();
                let sealed = session
                    .finished_template()
                    .is_some_and(|t| t.seal().is_ok());
                let event = match sealed {
                    true => {
                        crash::point("template.sealed");
                        PhaseEvent::TemplateSealed
                    }
                    false => PhaseEvent::GuestEnded(session.exit_kind(stop_requested, ended.0)),
                };
                self.advance(event);
                continue;
            }
            self.advance(PhaseEvent::ProgramEnded(match ended {
                (_, Some(9)) if ran_out => ExitKind::OutOfMemory,
                (Some(code), _) => ExitKind::Code { code },
                (None, Some(signal)) => ExitKind::Signal { signal },
                (None, None) => ExitKind::Lost,
            }));
        }
    }

    /// Makes sure that nothing is left, then says how it ended. The record comes last: it means
    /// that the cell's processes are gone.
    fn finish(&mut self, exit: ExitKind) {
        if let Some(session) = &mut self.session {
            // What the program said last is in pipes of ours.
            let (outputs, _) = session.process_messages();
            let outputs = outputs.into_iter().map(|(name, fd)| (name, Some(fd)));
            self.output.extend(outputs);
        }
        // Whoever reads slowly gets all of it, for a while.
        let until = Instant::now() + LAST_WORDS_WITHIN;
        while self
            .session
            .as_mut()
            .is_some_and(GuestSession::drain_output)
            && Instant::now() < until
        {
            self.pump();
            std::thread::sleep(Duration::from_millis(1));
        }
        if let Some(session) = &mut self.session {
            session.finish_file_transfers();
            if session.were_drives_unmounted() == Some(false) {
                let text = b"abbey: a drive could not be taken off whole\n";
                self.log.append(AROUND, text, now());
            }
        }
        self.kill();
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
        self.pump();
        self.log.flush(now());
        let spent = CellUsage {
            cpu_us: abbey_launch::children_cpu_us(),
            memory_peak: self
                .groups
                .as_ref()
                .map_or(Bytes(0), ControlGroups::memory_peak),
        };
        if let Some(groups) = &self.groups {
            let _swept_by_the_house = groups.remove();
        }
        if self.spec.container.is_some() {
            let groups =
                ControlGroups::find_existing(&self.spec.group, &self.spec.cell.to_string());
            let _swept_by_the_house = groups.remove();
        }
        crash::point("shim.ended");
        let record = ExitRecord {
            generation: self.generation,
            exit,
            ended_at: now(),
            spent: Some(spent),
        };
        let _disk_full = write_json_without_sync(&self.spec.run_dir.join("exit.json"), &record);
        let _gone_already = fs::remove_file(self.spec.run_dir.join("control.sock"));
    }
}

/// Every forward behind its listener; those of the cell's own network were made in it.
fn open_forwards(spec: &CellSpec, listeners: Vec<OwnedFd>) -> Result<Vec<PortForwarder>> {
    let mut made = listeners.into_iter();
    let open = |forward: &PortForward| match (forward.at, spec.sandbox.is_some()) {
        (ListenAddress::Cell(_), true) => {
            let lost = || Error::Shim {
                cell: spec.cell.clone(),
                why: "a listener was not handed over".to_owned(),
            };
            let listener = made.next().ok_or_else(lost)?;
            PortForwarder::with_listener(listener, forward, &spec.cell)
        }
        _ => PortForwarder::listen(forward, &spec.cell),
    };
    // Ports inside a microVM are its guest's to open.
    let guest = spec.microvm.is_some() || spec.container.is_some();
    let ours = |f: &&PortForward| !guest || matches!(f.at, ListenAddress::Host(_));
    spec.forwards.iter().filter(ours).map(open).collect()
}

fn listen(path: &Path) -> Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    let _stale = fs::remove_file(path);
    let listener = UnixListener::bind(path).map_err(Error::file("listen on", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))
        .map_err(Error::file("protect", path))?;
    listener
        .set_nonblocking(true)
        .map_err(Error::file("listen on", path))?;
    Ok(listener)
}
