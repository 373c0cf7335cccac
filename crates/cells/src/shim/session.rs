//! Session of a shim with the guest of its microVM or container: the channel, and how the guest ended.

use super::forward::connect_to_target;
use crate::files::{pack_to_stream, unpack_stream};
use crate::guest::channel::{Channel, ChannelPeer, ChannelSide, StreamEnds};
use crate::guest::{GuestNotice, GuestRequest, GuestStream, ShimNotice};
use crate::microvm::firecracker::FirecrackerSetup;
use crate::microvm::{GuestLine, MicroVmTemplate, PreparedGuest, QemuMonitor, SnapshotRole};
use crate::spec::{ForwardTarget, ListenAddress, PortForward};
use crate::{CellSpec, Error, Result, crash, microvm};
use abbey_model::{ExitKind, VmEnd};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, WaitOptions};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What a dying kernel says on its console.
const PANIC: &[u8] = b"Kernel panic - not syncing";
/// Time for files to be packed or unpacked after the guest has ended.
const FILES_WITHIN: Duration = Duration::from_secs(30);

/// A guest and its machine.
pub(super) struct GuestSession {
    /// Absent until the guest has called.
    channel: Option<Channel>,
    /// Where it calls, and the user by whom.
    calls: Option<(UnixListener, Option<u32>)>,
    /// Where whoever tells the microVM's program what to do says that it failed.
    teller: Option<OwnedFd>,
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

/// Our side of the channel.
struct GuestHandler {
    cell: String,
    forwards: Vec<PortForward>,
    /// The caller's, for a program that speaks to it and not to the log.
    streams: Option<[Option<OwnedFd>; 3]>,
    /// New outputs for the log.
    outputs: Vec<(&'static str, OwnedFd)>,
    files: PathBuf,
    config: PathBuf,
    ready: bool,
    /// Whether it has booted and waits.
    waiting: bool,
    /// Whether it has run a program while it waited.
    warm: bool,
    ended: Option<(i32, bool, bool)>,
    failed: Option<String>,
    /// Processes that pack and unpack.
    helpers: Vec<i32>,
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
            teller: None,
            monitor,
            plan,
            house: GuestHandler {
                cell: spec.cell.to_string(),
                forwards: inside(spec),
                streams: streams.map(|s| s.map(Some)),
                outputs: Vec::new(),
                files,
                config: microvm::config_path(spec),
                ready: false,
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
        if let Some(teller) = prepared.teller {
            match tell(&teller) {
                Ok((pid, said)) => {
                    session.house.helpers.push(pid);
                    session.teller = Some(said);
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
        let calls = self
            .calls
            .iter()
            .map(|(at, _)| PollFd::new(at, PollFlags::IN));
        fds.extend(calls);
        fds.extend(self.teller.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
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
        self.go_on();
        self.pick_up();
        self.hear_teller();
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
    fn pick_up(&mut self) {
        let Some((at, uid)) = &self.calls else { return };
        let Ok((stream, _)) = at.accept() else { return };
        let caller = rustix::net::sockopt::socket_peercred(&stream).map(|c| c.uid.as_raw());
        let expected = uid.unwrap_or_else(|| rustix::process::geteuid().as_raw());
        if caller != Ok(expected) || stream.set_nonblocking(true).is_err() {
            return;
        }
        self.channel = Some(Channel::new(stream.into(), ChannelSide::Host));
        self.calls = None;
    }

    /// Hears whether the microVM's program did what it was told: silence to the end is yes.
    fn hear_teller(&mut self) {
        let Some(fd) = &self.teller else { return };
        let mut text = [0u8; 1024];
        match rustix::io::read(fd, &mut text) {
            Ok(0) => self.teller = None,
            Ok(n) => {
                let why = String::from_utf8_lossy(&text[..n]).into_owned();
                self.house.failed.get_or_insert(why);
                self.teller = None;
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(_) => self.teller = None,
        }
    }

    /// The next step with templates.
    fn go_on(&mut self) {
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
        self.house.forwards = inside(spec);
        self.house.streams = Some(streams.map(Some));
        self.send_notice(&ShimNotice::Begin {});
    }

    /// Instant at which the session must run again even if no descriptor is ready.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.monitor.as_ref().and_then(QemuMonitor::next_deadline)
    }

    /// Whether the guest reported that its program is ready.
    pub(super) fn is_ready(&self) -> bool {
        self.house.ready
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
fn tell(teller: &FirecrackerSetup) -> Result<(i32, OwnedFd)> {
    let broken = || Error::file("start", "the one who tells");
    let (said, says) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| broken()(e.into()))?;
    rustix::io::ioctl_fionbio(&said, true).map_err(|e| broken()(e.into()))?;
    match abbey_launch::fork().map_err(broken())? {
        None => {
            let signal = Some(rustix::process::Signal::KILL);
            let _told_to_a_dead_shim = rustix::process::set_parent_process_death_signal(signal);
            let told = teller.configure_and_start();
            if let Err(error) = &told {
                let _nobody_hears =
                    rustix::io::write(&says, crate::error::error_chain(error).as_bytes());
            }
            abbey_launch::exit_immediately(i32::from(told.is_err()))
        }
        Some(pid) => Ok((pid, said)),
    }
}

impl GuestHandler {
    fn forward(&self, index: usize) -> Option<StreamEnds> {
        let forward = self.forwards.get(index)?;
        let socket = connect_to_target(&forward.to).ok()?;
        if let ForwardTarget::Egress(_) | ForwardTarget::Names(_) = forward.to {
            let preface = format!("{}\n", self.cell);
            // A few bytes into a connection that has just been made.
            rustix::io::write(&socket, preface.as_bytes()).ok()?;
        }
        StreamEnds::from_socket(socket).ok()
    }

    fn output(&mut self, errors: bool) -> Option<StreamEnds> {
        if let Some(streams) = &mut self.streams {
            let fd = streams[1 + usize::from(errors)].take()?;
            rustix::io::ioctl_fionbio(&fd, true).ok()?;
            return Some(StreamEnds {
                reader: None,
                writer: Some(fd),
            });
        }
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).ok()?;
        for fd in [&reader, &writer] {
            rustix::io::ioctl_fionbio(fd, true).ok()?;
        }
        self.outputs
            .push((if errors { "err" } else { "out" }, reader));
        Some(StreamEnds {
            reader: None,
            writer: Some(writer),
        })
    }

    fn input(&mut self) -> StreamEnds {
        let fd = self.streams.as_mut().and_then(|s| s[0].take());
        if let Some(fd) = &fd {
            let _blocks_instead = rustix::io::ioctl_fionbio(fd, true);
        }
        StreamEnds {
            reader: fd,
            writer: None,
        }
    }

    /// A process of its own packs or unpacks; what comes from a guest is not trusted.
    fn files(&mut self, work: impl FnOnce(&Path, OwnedFd) -> Result<()>) -> Option<StreamEnds> {
        let (ends, stream) = StreamEnds::pair().ok()?;
        match abbey_launch::fork().ok()? {
            None => {
                drop(ends);
                let done = work(&self.files, stream.into());
                abbey_launch::exit_immediately(i32::from(done.is_err()))
            }
            Some(pid) => {
                self.helpers.push(pid);
                Some(ends)
            }
        }
    }
}

impl ChannelPeer for GuestHandler {
    fn notice(&mut self, text: &[u8]) {
        match serde_json::from_slice(text) {
            Ok(GuestNotice::Running { .. }) => {
                // The microVM has it open for as long as it runs; nobody else needs it.
                let _read_already = fs::remove_file(&self.config);
            }
            Ok(GuestNotice::Waiting {}) => {
                crash::point("template.waits");
                self.waiting = true;
            }
            Ok(GuestNotice::Warm {}) => self.warm = true,
            Ok(GuestNotice::Ready {}) => self.ready = true,
            Ok(GuestNotice::Failed { why }) => self.failed = Some(why),
            Ok(GuestNotice::Ended {
                status,
                out_of_memory,
                clean,
            }) => {
                crash::point("machine.ended");
                self.ended = Some((status, out_of_memory, clean));
            }
            Err(_) => {}
        }
    }

    fn accept(&mut self, header: &[u8]) -> Option<StreamEnds> {
        match serde_json::from_slice(header).ok()? {
            GuestStream::Forward { index } => self.forward(index),
            GuestStream::Output { errors } => self.output(errors),
            GuestStream::Input {} => Some(self.input()),
            GuestStream::Bring {} => self.files(|dir, to| pack_to_stream(dir, &entries(dir)?, to)),
            GuestStream::Take {} => self.files(|dir, from| {
                for path in entries(dir)? {
                    let path = dir.join(path);
                    let removed = match path.is_dir() {
                        true => fs::remove_dir_all(&path),
                        false => fs::remove_file(&path),
                    };
                    removed.map_err(Error::file("remove", path))?;
                }
                unpack_stream(dir, None, from)
            }),
        }
    }
}

/// Ports inside a microVM, in the order in which its guest knows them.
fn inside(spec: &CellSpec) -> Vec<PortForward> {
    let inside = |f: &&PortForward| matches!(f.at, ListenAddress::Cell(_));
    spec.forwards.iter().filter(inside).cloned().collect()
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).map_err(Error::file("list", dir))?;
    Ok(entries.flatten().map(|e| e.file_name().into()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn session() -> (GuestSession, UnixStream, UnixStream) {
        let pair = || {
            let (ours, theirs) = UnixStream::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            theirs.set_nonblocking(true).unwrap();
            (OwnedFd::from(ours), theirs)
        };
        let ((channel, guest), (monitor, qemu)) = (pair(), pair());
        let prepared = PreparedGuest {
            outer: CellSpec::sample(),
            fds: Vec::new(),
            line: GuestLine::Open(channel),
            teller: None,
            monitor: Some(monitor),
            held: None,
            aside: SnapshotRole::Nothing,
        };
        (
            GuestSession::new(
                &CellSpec::sample(),
                "/nonexistent".into(),
                false,
                prepared,
                None,
            ),
            guest,
            qemu,
        )
    }

    /// Numbers that look like chance and can be had again (xorshift64*).
    struct Chance(u64);
    impl Chance {
        fn below(&mut self, n: usize) -> usize {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            let number = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D);
            usize::try_from(number % (n.max(1) as u64)).unwrap()
        }
    }

    /// Sound words of a guest, and what is no word at all. Those that start a process of the shim are left
    /// out: a test has several threads.
    const WORDS: [&str; 14] = [
        r#"{"say":"running","kernel":"6.1"}"#,
        r#"{"say":"ready"}"#,
        r#"{"say":"ended","status":0,"out_of_memory":false,"clean":true}"#,
        r#"{"say":"ended","status":-2147483648,"out_of_memory":true,"clean":false}"#,
        r#"{"say":"warm"}"#,
        r#"{"open":"forward","index":0}"#,
        r#"{"open":"forward","index":18446744073709551615}"#,
        r#"{"open":"output","errors":false}"#,
        r#"{"open":"output","errors":true}"#,
        r#"{"open":"input"}"#,
        r#"{"say":{"say":{"say":{"say":{"say":{}}}}}}"#,
        r#"{"__proto__":1,"say":"ready","say":"failed"}"#,
        "\u{0}\u{1}\u{ffff}",
        "",
    ];

    /// One frame, mostly sound, of a guest that has opened so many streams.
    fn frame(chance: &mut Chance, opened: &mut u32) -> Vec<u8> {
        let kind = match chance.below(80) {
            0 => chance.below(256) as u8,
            n => b"nnodddcer"[n % 9],
        };
        let id = match kind {
            b'n' => 0,
            b'o' => {
                *opened += 1;
                *opened * 2 - 1
            }
            _ => match chance.below(80) {
                0 => [0u32, 2, u32::MAX][chance.below(3)],
                _ => u32::try_from(chance.below(*opened as usize + 1)).unwrap() * 2 + 1,
            },
        };
        let content: Vec<u8> = match (kind, chance.below(8)) {
            (b'c', _) => u32::try_from(chance.below(3))
                .unwrap()
                .to_le_bytes()
                .to_vec(),
            (b'e' | b'r', _) => Vec::new(),
            (b'd', _) => vec![b'x'; chance.below(2_000)],
            (_, 0) => (0..chance.below(64))
                .map(|_| chance.below(256) as u8)
                .collect(),
            _ => WORDS[chance.below(WORDS.len())].as_bytes().to_vec(),
        };
        let mut bytes = vec![kind];
        bytes.extend(id.to_le_bytes());
        let length = u16::try_from(content.len()).unwrap_or(u16::MAX);
        bytes.extend(length.to_le_bytes());
        bytes.extend(content);
        if chance.below(100) == 0 {
            let at = chance.below(bytes.len());
            bytes[at] ^= 1 << chance.below(8);
        }
        bytes
    }

    /// A minute in every check, as long as wanted by `ABBEY_FUZZ_SECONDS`, from a start that
    /// `ABBEY_FUZZ_SEED` repeats.
    #[test]
    fn a_shim_survives_whatever_a_guest_sends() {
        let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
        let seconds = number("ABBEY_FUZZ_SECONDS").unwrap_or(60);
        let seed = number("ABBEY_FUZZ_SEED").unwrap_or(0x5eed);
        let mut chance = Chance(seed.max(1));
        let until = Instant::now() + Duration::from_secs(seconds);
        let (mut sessions, mut frames, mut broken) = (0u64, 0u64, 0u64);
        while Instant::now() < until {
            sessions += 1;
            let (mut session, mut guest, mut qemu) = session();
            let mut opened = 0;
            for _ in 0..200 {
                frames += 1;
                let bytes = frame(&mut chance, &mut opened);
                let _full_or_closed = guest.write_all(&bytes);
                if chance.below(20) == 0 {
                    let _full_or_closed = qemu.write_all(&bytes);
                    let _full_or_closed = qemu.write_all(b"\n");
                }
                let (outputs, fair) = session.process_messages();
                assert!(outputs.len() <= crate::guest::channel::STREAMS_MAX);
                if chance.below(4) == 0 {
                    let mut heard = [0u8; 4096];
                    let _nothing = std::io::Read::read(&mut guest, &mut heard);
                }
                if !fair {
                    broken += 1;
                    break;
                }
            }
            let _whatever_it_was = session.exit_kind(false, Some(0)).to_string();
            session.finish_file_transfers();
        }
        println!("{frames} frames in {sessions} sessions from seed {seed}: {broken} were cut off");
        assert!(broken > 0 && frames > sessions, "it bites, and not at once");
    }
}
