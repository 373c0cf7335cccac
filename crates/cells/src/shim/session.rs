//! Session of a shim with the guest of its microVM or container: the channel, and how the guest ended.

use super::guest_clock::GuestClock;
use super::guest_handler::{GuestHandler, guest_port_forwards};
use crate::guest::channel::{Channel, ChannelSide, StreamEnds};
use crate::guest::{GuestRequest, ShimNotice};
use crate::microvm::firecracker::FirecrackerSetup;
use crate::microvm::{GuestLine, MicroVmTemplate, PreparedGuest, QemuMonitor, SnapshotRole};
use crate::sys::accept_pause::AcceptPause;
use crate::{CellSpec, Error, Result, microvm};
use abbey_model::{ExitKind, VmEnd};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, WaitOptions};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What a dying kernel says on its console.
const PANIC: &[u8] = b"Kernel panic - not syncing";
/// Time for files to be packed or unpacked after the guest has ended.
const FILES_WITHIN: Duration = Duration::from_secs(30);

/// Session with a guest and its virtual machine monitor.
pub(super) struct GuestSession {
    /// Absent until the guest has called.
    channel: Option<Channel>,
    /// Where it calls, and the user by whom.
    calls: Option<(UnixListener, Option<u32>)>,
    calls_pause: AcceptPause,
    /// Where whoever tells the microVM's program what to do says that it failed.
    firecracker_setup: Option<OwnedFd>,
    /// Of a program that can be asked.
    monitor: Option<QemuMonitor>,
    house: GuestHandler,
    /// What the guest did that it may not.
    broken: Option<&'static str>,
    closed: bool,
    console: Vec<u8>,
    panicked: bool,
    plan: SnapshotPlan,
    _held: Option<microvm::drives::LockedDrives>,
}

/// What is done with the microVM beside running it.
enum SnapshotPlan {
    /// Nothing.
    Run,
    /// A snapshot is created once it waits.
    Make {
        template: MicroVmTemplate,
        asked: bool,
    },
    /// It is brought back, and told to go on or to warm up.
    Restore { waits: bool, told: bool },
}

impl GuestSession {
    /// Session with the guest of a prepared microVM or container. `waits`: it is kept without a program; `streams`:
    /// standard streams of the caller for a program that does not use the log.
    pub(super) fn new(
        spec: &CellSpec,
        files: PathBuf,
        waits: bool,
        prepared: PreparedGuest,
        streams: Option<[OwnedFd; 3]>,
    ) -> GuestSession {
        let mut monitor = prepared.monitor.map(QemuMonitor::new);
        let (channel, calls) = match prepared.line {
            GuestLine::Open(fd) => (Some(Channel::new(fd, ChannelSide::Host)), None),
            GuestLine::Called { at, uid } => (None, Some((at, uid))),
        };
        let plan = match prepared.aside {
            SnapshotRole::Nothing => SnapshotPlan::Run,
            SnapshotRole::Make(template) => SnapshotPlan::Make {
                template,
                asked: false,
            },
            SnapshotRole::Restore(devices) => {
                if let Some(monitor) = &mut monitor {
                    monitor.restore(devices);
                }
                SnapshotPlan::Restore { waits, told: false }
            }
        };
        let mut session = GuestSession {
            channel,
            calls,
            calls_pause: AcceptPause::default(),
            firecracker_setup: None,
            monitor,
            plan,
            house: GuestHandler {
                cell: spec.cell.to_string(),
                forwards: guest_port_forwards(spec),
                streams: streams.map(|s| s.map(Some)),
                outputs: Vec::new(),
                files,
                config: microvm::config_path(spec),
                ready: false,
                beat: false,
                clock: GuestClock::default(),
                microvm: spec.microvm.is_some(),
                running: false,
                waiting: false,
                warm: false,
                ended: None,
                failed: None,
                helpers: Vec::new(),
            },
            broken: None,
            closed: false,
            console: Vec::new(),
            panicked: false,
            _held: prepared.held,
        };
        if let Some(firecracker_setup) = prepared.firecracker_setup {
            match start_firecracker_setup(&firecracker_setup) {
                Ok((pid, said)) => {
                    session.house.helpers.push(pid);
                    session.firecracker_setup = Some(said);
                }
                Err(error) => session.house.failed = Some(crate::error::error_chain(&error)),
            }
        }
        session
    }

    /// Adds the descriptors of the channel, listener, setup process and QEMU monitor to a `poll` set.
    pub(super) fn add_poll_fds<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        if let Some(channel) = self.channel.as_ref().filter(|_| !self.closed) {
            channel.add_poll_fds(fds);
        }
        let calls = self.calls.iter();
        let calls = calls
            .filter(|_| self.calls_pause.end().is_none())
            .map(|(at, _)| PollFd::new(at, PollFlags::IN));
        fds.extend(calls);
        fds.extend(
            self.firecracker_setup
                .iter()
                .map(|fd| PollFd::new(fd, PollFlags::IN)),
        );
        if let Some(monitor) = &self.monitor {
            monitor.add_poll_fds(fds);
        }
    }

    /// Processes messages of guest and monitor without waiting. Returns new output pipes of the program with their
    /// log stream names, and false if the guest violated the protocol.
    pub(super) fn process_messages(&mut self) -> (Vec<(&'static str, OwnedFd)>, bool) {
        if let Some(monitor) = &mut self.monitor {
            monitor.process_messages();
        }
        self.advance_snapshot_plan();
        if self.house.clock.take_due(Instant::now()) {
            let now_ms = crate::record::now().0;
            self.send_notice(&ShimNotice::Clock { now_ms });
        }
        self.accept_guest_connection();
        self.read_setup_result();
        if !self.closed
            && let Some(channel) = &mut self.channel
            && let Err(why) = channel.transfer(&mut self.house)
        {
            self.closed = true;
            let gone = why.contains("closed") || why.contains("broke");
            self.broken = (!gone).then_some(why);
        }
        let outputs = std::mem::take(&mut self.house.outputs);
        (outputs, self.broken.is_none())
    }

    /// Takes the call of the guest, once, and only from the program that runs it.
    fn accept_guest_connection(&mut self) {
        let Some((at, uid)) = &self.calls else { return };
        let Some((stream, _)) = self.calls_pause.accepted(at.accept()) else {
            return;
        };
        let caller = rustix::net::sockopt::socket_peercred(&stream).map(|c| c.uid.as_raw());
        let expected = uid.unwrap_or_else(|| rustix::process::geteuid().as_raw());
        if caller != Ok(expected) || stream.set_nonblocking(true).is_err() {
            return;
        }
        self.channel = Some(Channel::new(stream.into(), ChannelSide::Host));
        self.calls = None;
    }

    /// Hears whether the microVM's program did what it was told: silence to the end is yes.
    fn read_setup_result(&mut self) {
        let Some(fd) = &self.firecracker_setup else {
            return;
        };
        let mut text = [0u8; 1024];
        match rustix::io::read(fd, &mut text) {
            Ok(0) => self.firecracker_setup = None,
            Ok(n) => {
                let why = String::from_utf8_lossy(&text[..n]).into_owned();
                self.house.failed.get_or_insert(why);
                self.firecracker_setup = None;
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(_) => self.firecracker_setup = None,
        }
    }

    /// The next step with templates.
    fn advance_snapshot_plan(&mut self) {
        let Some(monitor) = &mut self.monitor else {
            return;
        };
        if let Some(why) = &monitor.failed {
            let text =
                format!("the snapshot of the microVM could not be created or restored: {why}");
            self.house.failed.get_or_insert(text);
            return;
        }
        let done = monitor.is_done();
        let order = match &mut self.plan {
            SnapshotPlan::Make { template, asked } if self.house.waiting && !*asked => {
                *asked = true;
                match template.devices.try_clone() {
                    Ok(devices) => monitor.snapshot(devices),
                    Err(e) => self.house.failed = Some(e.to_string()),
                }
                return;
            }
            SnapshotPlan::Restore { waits, told } if done && !*told => {
                *told = true;
                match waits {
                    true => ShimNotice::Warm {},
                    false => ShimNotice::Begin {},
                }
            }
            SnapshotPlan::Run | SnapshotPlan::Make { .. } | SnapshotPlan::Restore { .. } => return,
        };
        self.send_notice(&order);
    }

    /// Template that this microVM was saved as, once saving has completed.
    pub(super) fn finished_template(&self) -> Option<&MicroVmTemplate> {
        match &self.plan {
            SnapshotPlan::Make {
                template,
                asked: true,
            } => {
                let monitor = self.monitor.as_ref()?;
                let done = monitor.is_done() && monitor.failed.is_none();
                done.then_some(template)
            }
            _ => None,
        }
    }

    /// Whether the microVM has warmed up and waits for its program.
    pub(super) fn is_warm(&self) -> bool {
        self.house.warm
    }

    /// Tells a waiting guest to read its instructions and to run its program with these standard streams.
    pub(super) fn begin_program(&mut self, spec: &CellSpec, streams: [OwnedFd; 3]) {
        self.house.forwards = guest_port_forwards(spec);
        self.house.streams = Some(streams.map(Some));
        self.send_notice(&ShimNotice::Begin {});
    }

    /// Instant at which the session must run again even if no descriptor is ready.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let monitor = self.monitor.as_ref().and_then(QemuMonitor::next_deadline);
        let clock = self.house.clock.next_deadline();
        let pause = self.calls_pause.end();
        [monitor, clock, pause].into_iter().flatten().min()
    }

    /// Compares the clock of a guest that runs with the host's, at once and then from time to time, or stops that.
    pub(super) fn set_clock_compared(&mut self, compared: bool) {
        match compared && self.house.running && self.house.microvm {
            true => self.house.clock.check_at(Instant::now()),
            false => self.house.clock.hold(),
        }
    }

    /// How far the clock of the guest was ahead of the host's when they were compared last, milliseconds.
    pub(super) fn clock_off_ms(&self) -> Option<i64> {
        self.house.clock.off_ms()
    }

    /// Whether the guest reported that its program is ready.
    pub(super) fn is_ready(&self) -> bool {
        self.house.ready
    }

    /// Whether the guest passed on an announcement or heartbeat of its program since the last call.
    pub(super) fn take_heartbeat(&mut self) -> bool {
        std::mem::take(&mut self.house.beat)
    }

    /// Reason why the guest or its program could not be started, if so.
    pub(super) fn failure(&self) -> Option<&str> {
        self.house.failed.as_deref()
    }

    /// Sends a notice to the guest, such as a request to stop.
    pub(super) fn send_notice(&mut self, order: &ShimNotice) {
        if let (Ok(text), Some(channel)) = (serde_json::to_vec(order), &mut self.channel) {
            channel.send_notice(&text);
        }
    }

    /// Connects a caller to a new stream to the guest for this request.
    pub(super) fn open_stream(&mut self, ask: &GuestRequest, caller: UnixStream) {
        let ends = StreamEnds::from_socket(caller.into());
        if let (Ok(header), Ok(ends), Some(channel)) =
            (serde_json::to_vec(ask), ends, &mut self.channel)
        {
            channel.open_stream(&header, ends);
        }
    }

    /// Searches console output for the message of a kernel panic.
    pub(super) fn scan_console(&mut self, bytes: &[u8]) {
        self.console.extend_from_slice(bytes);
        let found = |text: &[u8]| text.windows(PANIC.len()).any(|w| w == PANIC);
        self.panicked |= found(&self.console);
        let over = self.console.len().saturating_sub(PANIC.len());
        self.console.drain(..over);
    }

    /// How the cell ended, after its virtual machine monitor or container has exited with `status`. `asked`: a stop
    /// was requested.
    pub(super) fn exit_kind(&self, asked: bool, status: Option<i32>) -> ExitKind {
        use std::os::unix::process::ExitStatusExt;
        if let Some((raw, out_of_memory, _)) = self.house.ended {
            let ended = std::process::ExitStatus::from_raw(raw);
            return match (ended.code(), ended.signal()) {
                _ if asked => ExitKind::Stopped,
                (_, Some(9)) if out_of_memory => ExitKind::OutOfMemory,
                (Some(code), _) => ExitKind::Code { code },
                (None, Some(signal)) => ExitKind::Signal { signal },
                (None, None) => ExitKind::Lost,
            };
        }
        if let Some(why) = &self.house.failed {
            return ExitKind::SpawnFailed { error: why.clone() };
        }
        let shutdown = self.monitor.as_ref().and_then(|m| m.shutdown.as_deref());
        let end = match (&self.broken, shutdown) {
            (Some(what), _) => VmEnd::Garbage {
                what: (*what).to_owned(),
            },
            _ if self.panicked => VmEnd::Panicked,
            (None, Some("guest-panic")) => VmEnd::Panicked,
            (None, Some("guest-shutdown")) => VmEnd::PoweredOff,
            (None, Some("guest-reset")) => VmEnd::Rebooted,
            (None, _) if asked => return ExitKind::Stopped,
            (None, _) => VmEnd::Monitor { status },
        };
        ExitKind::Machine { end }
    }

    /// Whether the guest reported that it unmounted all drives; none if it did not report its end.
    pub(super) fn were_drives_unmounted(&self) -> Option<bool> {
        self.house.ended.map(|(_, _, clean)| clean)
    }

    /// Delivers output that the guest sent before its end. Returns whether some is left.
    pub(super) fn drain_output(&mut self) -> bool {
        self.channel
            .as_mut()
            .is_some_and(Channel::drain_to_local_ends)
    }

    /// Waits up to 30 s for the processes that pack and unpack files, and removes the instructions file.
    pub(super) fn finish_file_transfers(&mut self) {
        // Nobody writes into their streams any more.
        if let Some(channel) = &mut self.channel {
            channel.close_streams();
        }
        let until = Instant::now() + FILES_WITHIN;
        for pid in std::mem::take(&mut self.house.helpers) {
            while let Ok(None) = rustix::process::waitpid(Pid::from_raw(pid), WaitOptions::NOHANG) {
                if Instant::now() >= until {
                    break;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        let _read_already = fs::remove_file(&self.house.config);
    }
}

/// A process that tells the microVM's program what to do; it goes with the shim. What goes wrong comes over the
/// descriptor.
fn start_firecracker_setup(firecracker_setup: &FirecrackerSetup) -> Result<(i32, OwnedFd)> {
    let broken = || Error::file("start", "the configuration of Firecracker");
    let (said, says) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| broken()(e.into()))?;
    rustix::io::ioctl_fionbio(&said, true).map_err(|e| broken()(e.into()))?;
    match abbey_launch::fork().map_err(broken())? {
        None => {
            let signal = Some(rustix::process::Signal::KILL);
            let _told_to_a_dead_shim = rustix::process::set_parent_process_death_signal(signal);
            let told = firecracker_setup.configure_and_start();
            if let Err(error) = &told {
                let _nobody_hears =
                    rustix::io::write(&says, crate::error::error_chain(error).as_bytes());
            }
            abbey_launch::exit_immediately(i32::from(told.is_err()))
        }
        Some(pid) => Ok((pid, said)),
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
