//! The shim: one small process for each cell, which owns it and outlives the control plane.
//!
//! One thread, one `poll`. It launches the child, pumps its output into the log, forwards the
//! door to the house's socket, answers `status` and `stop`, reaps, and at the end makes sure that
//! nothing is left and writes how it ended. Deliberately absent: async, tasks, policy.

mod control;
mod forward;
mod guest_clock;
mod guest_handler;
mod heartbeat;
mod log;
mod log_rate;
mod phase;
mod program;
mod session;
mod start;
mod stop;

use crate::guest::ShimNotice;
use crate::network::wall::CellRules;
use crate::record::{now, write_json_without_sync};
use crate::sys::accept_pause::AcceptPause;
use crate::sys::cgroup::ControlGroups;
use crate::sys::process;
use crate::sys::terminal::Terminal;
use crate::{CellSpec, Error, Result, crash};
use abbey_model::{ExitKind, ExitRecord, Generation};
use forward::{Connection, PortForwarder};
use heartbeat::Heartbeat;
use log::{CONSOLE, CellLog};
use log_rate::LogRate;
use phase::{CellPhase, PhaseAction, PhaseEvent};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use session::GuestSession;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

/// What a cell is started with beside its specification.
pub(crate) struct ShimParts {
    /// Rules that are loaded inside the network of the cell, if it has one, before the program starts.
    pub(crate) rules: Option<CellRules>,
    /// Standard streams of the program; none are those of the log.
    pub(crate) streams: Option<[OwnedFd; 3]>,
    /// Network namespace with only loopback that becomes the cell's; without it the start makes one.
    pub(crate) network: Option<OwnedFd>,
}

/// Runs the shim of a cell in this process until the cell has ended. `report` is called once with whether the
/// program started.
///
/// # Errors
/// Why the program did not start; this was also reported.
pub(crate) fn run_shim(
    generation: Generation,
    spec: CellSpec,
    parts: ShimParts,
    report: impl FnOnce(std::result::Result<(), &str>),
) -> Result<()> {
    // A session of its own, so that nothing aimed at the control plane's terminal reaches it.
    let _already_leader = rustix::process::setsid();
    match Shim::launch(generation, spec, parts) {
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
    /// Changed by [`Shim::apply_event`] alone.
    phase: CellPhase,
    control: UnixListener,
    control_pause: AcceptPause,
    forwards: Vec<PortForwarder>,
    /// Probes of the agent's own port that are under way.
    probes: Vec<Connection>,
    heartbeat: Heartbeat,
    terminal: Option<Terminal>,
    /// Of a machine.
    session: Option<GuestSession>,
    log: CellLog,
    log_rate: LogRate,
    /// Held for as long as the cell lives: no second boot of it can begin (hazard 4).
    _lock: fs::File,
}

impl Shim {
    fn serve(&mut self) {
        loop {
            self.reap_children();
            if let CellPhase::Ended(exit) = &self.phase {
                self.finish_cell(exit.clone());
                return;
            }
            self.apply_event(PhaseEvent::Clock(Instant::now()));
            if self.wait_for_events().is_err() {
                // Without poll the shim is blind; end the cell rather than lose sight of it.
                self.kill_cell();
            }
            self.copy_output_to_log(true);
            self.process_guest_messages();
            self.accept_requests();
            for forward in &mut self.forwards {
                forward.transfer();
            }
            self.probes.retain_mut(Connection::turn);
        }
    }

    /// Waits for anything to happen.
    fn wait_for_events(&mut self) -> io::Result<()> {
        let keeping = matches!(self.phase, CellPhase::Keeping { .. });
        let monitor = self.session.as_ref().and_then(GuestSession::next_deadline);
        let next = [self.phase.next_deadline(), monitor.filter(|_| !keeping)];
        let pauses = self.forwards.iter().map(PortForwarder::next_deadline);
        let silence = self.log_rate.paused_until(Instant::now());
        let pauses = pauses.chain([self.control_pause.end(), silence]);
        let next = next.into_iter().chain(pauses).flatten().min();
        // The ordinary wait is bounded as a safety net only; everything wakes by descriptor.
        let patience = next.map_or(Duration::from_secs(30), |at| {
            at.saturating_duration_since(Instant::now())
        });
        let timeout = Timespec::try_from(patience).map_err(io::Error::other)?;
        let mut fds = Vec::new();
        if self.control_pause.end().is_none() {
            fds.push(PollFd::new(&self.control, PollFlags::IN));
        }
        if !keeping {
            fds.push(PollFd::new(&self.child.pidfd, PollFlags::IN));
        }
        fds.extend(
            self.output
                .iter()
                .filter(|_| silence.is_none())
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
        for probe in &self.probes {
            probe.watch(&mut fds);
        }
        if let Some(terminal) = &self.terminal {
            terminal.add_poll_fds(&mut fds, silence.is_none());
        }
        if let Some(session) = &self.session {
            session.add_poll_fds(&mut fds);
        }
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Moves output into the log and hears the announcement of readiness. With `bounded` output is read at the rate of the
    /// log only.
    fn copy_output_to_log(&mut self, bounded: bool) {
        let mut buffer = [0u8; 8192];
        let pauses = |rate: &LogRate| bounded && rate.paused_until(Instant::now()).is_some();
        for (stream, slot) in &mut self.output {
            let Some(fd) = slot else { continue };
            for _ in 0..READS_MAX {
                if pauses(&self.log_rate) {
                    break;
                }
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
                        let written = self.log.append(stream, &buffer[..n], now());
                        self.log_rate.count(written, Instant::now());
                    }
                    Err(_) => break,
                }
            }
        }
        if let Some(terminal) = &mut self.terminal {
            let reads = !pauses(&self.log_rate);
            terminal.transfer(reads, |bytes| {
                let written = self.log.append("out", bytes, now());
                self.log_rate.count(written, Instant::now());
            });
        }
        if let Some(fd) = &self.ready_pipe {
            match rustix::io::read(fd, &mut buffer) {
                Ok(n) => {
                    let announced = buffer[..n].contains(&b'\n');
                    if n == 0 {
                        self.ready_pipe = None;
                    }
                    // Every line after the first is a heartbeat.
                    if announced {
                        self.heartbeat.beat(Instant::now());
                        self.apply_event(PhaseEvent::Announced);
                    }
                }
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Err(_) => self.ready_pipe = None,
            }
        }
    }

    /// Hears a guest, and does what it may ask of us.
    fn process_guest_messages(&mut self) {
        let Some(session) = &mut self.session else {
            return;
        };
        let (outputs, fair) = session.process_messages();
        let (ready, warm) = (session.is_ready(), session.is_warm());
        // The guest itself says that a program which announces nothing is ready.
        if session.take_heartbeat() && self.spec.ready_within.is_some() {
            self.heartbeat.beat(Instant::now());
        }
        let failed = !fair || session.failure().is_some();
        let outputs = outputs.into_iter().map(|(name, fd)| (name, Some(fd)));
        self.output.extend(outputs);
        if ready {
            self.apply_event(PhaseEvent::Announced);
        }
        if failed {
            self.apply_event(PhaseEvent::GuestFailed);
        }
        // With everything in memory it is paused until it is needed.
        if warm && self.phase.may_wait() {
            self.set_paused(true);
            if self.phase.is_paused() {
                self.apply_event(PhaseEvent::Warmed);
            }
        }
    }

    /// Goes to the phase after an event, and does what that takes.
    fn apply_event(&mut self, event: PhaseEvent) {
        let (phase, actions) = self.phase.after(event);
        self.phase = phase;
        for action in actions {
            match action {
                PhaseAction::RequestStop(grace) => self.ask_program_to_end(grace),
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
                PhaseAction::Kill => self.kill_cell(),
            }
        }
    }

    /// Holds everything below us, or lets it go on.
    fn set_paused(&mut self, pause: bool) {
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
            (pause, _) => self.apply_event(PhaseEvent::Paused(pause)),
        }
        // Its clock stood still, and so did its heart.
        let paused = self.phase.is_paused();
        if !paused {
            self.heartbeat.resume(Instant::now());
        }
        if let Some(session) = &mut self.session {
            session.set_clock_compared(!paused);
        }
    }
}
