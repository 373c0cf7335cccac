//! The loop of the first process.

use super::channel::{Channel, ChannelPeer, ChannelSide, StreamEnds};
use super::protocol::{GuestConfig, GuestNotice, GuestRequest, GuestStream, ShimNotice, UID};
use super::{request, setup};
use crate::files::{pack_to_stream, unpack_stream};
use crate::sys::cgroup::ControlGroups;
use crate::sys::programs::{c_string, find_program};
use crate::sys::terminal::Terminal;
use crate::{Error, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions};
use std::fs;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Time for the port to appear and to open.
const PORT_WITHIN: Duration = Duration::from_secs(20);
/// Number of the descriptor that a container is given.
const CHANNEL: i32 = 4;
/// Address of the host for every guest. Source: vsock(7).
const HOST_CID: u32 = 2;
/// Time for the last words to be taken.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(5);
/// Time for what the program said to be taken once it has ended.
const SLOW_READER_WITHIN: Duration = Duration::from_secs(60);
/// Open files of the program.
const OPEN_FILES: u64 = 4096;
/// The house's own program, and how it is started.
const OWN: [&str; 4] = [
    "/abbey/lib/ld.so",
    "--library-path",
    "/abbey/lib",
    "/abbey/abbey",
];

/// Runs as the first process of a microVM or container: sets it up, runs its program, and ends it. Never returns.
pub fn run_guest() -> ! {
    let contained = setup::is_container();
    // Whatever goes wrong is told on the console, which the shim writes down.
    match port(contained) {
        Err(error) => tell(&format!(
            "the guest has no port: {}",
            crate::error::error_chain(&error)
        )),
        Ok(port) => {
            let mut channel = Channel::new(port, ChannelSide::Guest);
            match Guest::start(&mut channel) {
                Ok(guest) => guest.live(channel),
                Err(error) => {
                    let why = crate::error::error_chain(&error);
                    tell(&format!("the guest cannot start: {why}"));
                    say(&mut channel, &GuestNotice::Failed { why });
                    flush(&mut channel);
                }
            }
        }
    }
    setup::exit_guest(contained)
}

/// Writes on the console.
fn tell(text: &str) {
    let line = format!("abbey: {text}\n");
    let _nowhere_else_to_say_so = rustix::io::write(rustix::stdio::stdout(), line.as_bytes());
}

/// Opens the port to the house. Its node appears late, and the first open may fail although it is there.
fn port(contained: bool) -> Result<OwnedFd> {
    if contained {
        abbey_launch::set_not_dumpable().map_err(Error::file("hide", "the first process"))?;
        let channel =
            abbey_launch::take_inherited_fd(CHANNEL).map_err(Error::file("use", "the channel"))?;
        let _nonblocking = rustix::io::ioctl_fionbio(&channel, true);
        return Ok(channel);
    }
    let until = Instant::now() + PORT_WITHIN;
    loop {
        let ports = fs::read_dir("/sys/class/virtio-ports");
        let ours = ports.into_iter().flatten().flatten().find(|p| {
            fs::read_to_string(p.path().join("name")).is_ok_and(|n| n.trim() == "abbey.guest")
        });
        let path = ours.map(|p| Path::new("/dev").join(p.file_name()));
        if let Some(path) = path {
            let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
            match rustix::fs::open(&path, flags, Mode::empty()) {
                Ok(fd) => return Ok(fd),
                Err(e) if Instant::now() >= until => {
                    return Err(Error::file("open", path)(e.into()));
                }
                Err(_) => {}
            }
        } else if let Some(channel) = setup::vsock_port() {
            // The house listens, but the monitor may not lead there yet.
            match abbey_launch::connect_vsock(HOST_CID, channel) {
                Ok(fd) => {
                    let _nonblocking = rustix::io::ioctl_fionbio(&fd, true);
                    return Ok(fd);
                }
                Err(e) if Instant::now() >= until => {
                    return Err(Error::file("call", "the house")(e));
                }
                Err(_) => {}
            }
        } else if Instant::now() >= until {
            let missing = std::io::ErrorKind::NotFound;
            return Err(Error::file("find", "the port to the house")(missing.into()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn say(channel: &mut Channel, news: &GuestNotice) {
    if let Ok(text) = serde_json::to_vec(news) {
        channel.send_notice(&text);
    }
}

/// Waits until everything was taken, but not for long.
fn flush(channel: &mut Channel) {
    let until = Instant::now() + LAST_WORDS_WITHIN;
    while !channel.is_flushed() && Instant::now() < until {
        if channel.transfer(&mut Deaf).is_err() {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Does nothing until it is told what this microVM is for. Here a template ends, and what comes from it
/// begins.
fn wait_for_orders(channel: &mut Channel) {
    #[derive(Default)]
    struct Waiting {
        warm: bool,
        begin: bool,
    }
    impl ChannelPeer for Waiting {
        fn notice(&mut self, text: &[u8]) {
            match serde_json::from_slice(text) {
                Ok(ShimNotice::Warm {}) => self.warm = true,
                // Whoever is to stop before it began has nothing to stop.
                Ok(ShimNotice::Stop { .. }) => setup::reboot(),
                Ok(ShimNotice::Begin {}) => self.begin = true,
                Ok(ShimNotice::Clock { .. } | ShimNotice::HangUp {}) | Err(_) => {}
            }
        }
        fn accept(&mut self, _header: &[u8]) -> Option<StreamEnds> {
            None
        }
    }
    warm_up();
    say(channel, &GuestNotice::Waiting {});
    let mut orders = Waiting::default();
    while !orders.begin {
        let mut fds = Vec::new();
        channel.add_poll_fds(&mut fds);
        let _interrupted = poll(&mut fds, None);
        drop(fds);
        if channel.transfer(&mut orders).is_err() {
            setup::reboot();
        }
        if std::mem::take(&mut orders.warm) {
            warm_up();
            say(channel, &GuestNotice::Warm {});
        }
    }
}

/// Does once what will be done when it begins: takes instructions, and runs a program as the ordinary user.
fn warm_up() {
    let run = || -> Result<()> {
        let _none_yet = setup::read_config();
        let told = GuestConfig::sample().and_then(|c| serde_json::to_vec(&c).ok());
        if let Some(sample) = told.and_then(|t| serde_json::from_slice(&t).ok()) {
            setup::set_identity(&sample)?;
            setup::mount_drives_and_write_files(&sample)?;
        }
        let groups = ControlGroups::create("abbey", "warm", &abbey_model::Limits::default())?;
        let open = || {
            let null = fs::File::options().read(true).write(true).open("/dev/null");
            null.map(OwnedFd::from)
                .map_err(Error::file("open", "/dev/null"))
        };
        let fds = vec![open()?, open()?, open()?, open()?];
        let argv = ["sh", "-c", "exec \"$@\"", "sh", "sh", "-c", "true | cat"].map(str::to_owned);
        let env = [("PATH".to_owned(), "/usr/bin:/bin".to_owned())];
        let child = launch_as_guest_user(&argv, &env, Path::new("/"), &groups, fds, false)?;
        let _status = rustix::process::waitpid(Pid::from_raw(child.pid), WaitOptions::empty());
        groups.remove()
    };
    // Without it the first program merely takes longer.
    if let Err(error) = run() {
        tell(&crate::error::error_chain(&error));
    }
}

/// An archive to or from the house, while nothing else goes on: a process of its own packs, this one
/// carries.
fn transfer(
    channel: &mut Channel,
    offer: &GuestStream,
    work: impl FnOnce(OwnedFd) -> Result<()>,
) -> Result<()> {
    let (ends, stream) = StreamEnds::pair().map_err(Error::file("make", "a stream"))?;
    match abbey_launch::fork().map_err(Error::file("start", "a transfer"))? {
        None => {
            drop(ends);
            let done = work(stream.into());
            if let Err(error) = &done {
                tell(&crate::error::error_chain(error));
            }
            abbey_launch::exit_immediately(i32::from(done.is_err()))
        }
        Some(pid) => {
            drop(stream);
            channel.open_stream(&serde_json::to_vec(offer).unwrap_or_default(), ends);
            let pid = Pid::from_raw(pid);
            let lost =
                |why: &str| Error::file("carry", "files")(std::io::Error::other(why.to_owned()));
            loop {
                channel.transfer(&mut Deaf).map_err(lost)?;
                match rustix::process::waitpid(pid, WaitOptions::NOHANG) {
                    Ok(Some((_, status))) if status.exit_status() == Some(0) => break,
                    Ok(None) => std::thread::sleep(Duration::from_millis(1)),
                    _ => return Err(lost("it could not be packed or unpacked")),
                }
            }
            // What was packed is on its way before anything else is said.
            let until = Instant::now() + Duration::from_secs(60);
            while channel.has_unsent_output() && Instant::now() < until {
                channel.transfer(&mut Deaf).map_err(lost)?;
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        }
    }
}

struct Deaf;
impl ChannelPeer for Deaf {
    fn notice(&mut self, _text: &[u8]) {}
    fn accept(&mut self, _header: &[u8]) -> Option<StreamEnds> {
        None
    }
}

struct Guest {
    config: GuestConfig,
    groups: ControlGroups,
    child: abbey_launch::Child,
    children: OwnedFd,
    ready: Option<OwnedFd>,
    listeners: Vec<TcpListener>,
    /// The program's terminal, and where what it says is written down.
    terminal: Option<(Terminal, OwnedFd)>,
    /// Streams of the program's, which are offered first.
    offers: Vec<(GuestStream, StreamEnds)>,
    /// Processes that serve requests.
    servants: Vec<i32>,
    /// When the program is killed.
    kill_at: Option<Instant>,
    /// Whether its end was asked for.
    asked: bool,
    /// How it ended.
    status: Option<i32>,
}

impl Guest {
    fn start(channel: &mut Channel) -> Result<Guest> {
        let contained = setup::is_container();
        if !contained {
            setup::mount_system_file_systems()?;
            if setup::waits_for_instructions() {
                wait_for_orders(channel);
            }
        }
        let config = setup::read_config()?;
        // A container was made with all of it.
        if !contained {
            setup::set_identity(&config)?;
            setup::mount_drives_and_write_files(&config)?;
        }
        if config.brings {
            transfer(channel, &GuestStream::Bring {}, |stream| {
                unpack_stream(Path::new(setup::WORK), Some(UID), stream)
            })?;
        }
        let groups = setup::create_limits(&config)?;
        let children =
            abbey_launch::child_exit_fd().map_err(Error::file("watch", "the end of children"))?;
        let listeners = config
            .listen
            .iter()
            .map(|at| {
                let listener = TcpListener::bind(at).and_then(|l| {
                    l.set_nonblocking(true)?;
                    Ok(l)
                });
                listener.map_err(Error::file("listen on", at.to_string()))
            })
            .collect::<Result<Vec<_>>>()?;
        let mut offers = Vec::new();
        let (fds, terminal, ready) = streams(&config, &mut offers)?;
        let child = spawn(&config, &groups, fds)?;
        Ok(Guest {
            config,
            groups,
            child,
            children,
            ready,
            listeners,
            terminal,
            offers,
            servants: Vec::new(),
            kill_at: None,
            asked: false,
            status: None,
        })
    }

    fn live(mut self, mut channel: Channel) -> ! {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let kernel = release.trim().to_owned();
        say(&mut channel, &GuestNotice::Running { kernel });
        if self.ready.is_none() {
            say(&mut channel, &GuestNotice::Ready {});
        }
        loop {
            for (offer, ends) in std::mem::take(&mut self.offers) {
                let header = serde_json::to_vec(&offer).unwrap_or_default();
                channel.open_stream(&header, ends);
            }
            self.wait(&channel);
            if channel.transfer(&mut self).is_err() {
                // Nobody can be served any more; the shim ends the microVM in any case.
                setup::exit_guest(self.config.contained);
            }
            self.reap();
            self.hear_ready(&mut channel);
            self.accept();
            if let Some((terminal, transcript)) = &mut self.terminal {
                terminal.transfer(|bytes| {
                    let _more_than_is_written_down = rustix::io::write(&*transcript, bytes);
                });
            }
            if self.kill_at.is_some_and(|at| Instant::now() >= at) {
                self.kill_at = None;
                let _gone_already =
                    rustix::process::pidfd_send_signal(&self.child.pidfd, Signal::KILL);
            }
            if let Some(status) = self.status {
                self.end(&mut channel, status);
            }
        }
    }

    fn wait(&self, channel: &Channel) {
        let patience = self.kill_at.map_or(Duration::from_secs(30), |at| {
            at.saturating_duration_since(Instant::now())
        });
        let mut fds = vec![PollFd::new(&self.children, PollFlags::IN)];
        fds.extend(self.ready.as_ref().map(|r| PollFd::new(r, PollFlags::IN)));
        fds.extend(self.listeners.iter().map(|l| PollFd::new(l, PollFlags::IN)));
        if let Some((terminal, _)) = &self.terminal {
            terminal.add_poll_fds(&mut fds);
        }
        channel.add_poll_fds(&mut fds);
        let timeout = Timespec::try_from(patience).ok();
        let _interrupted = poll(&mut fds, timeout.as_ref());
    }

    fn reap(&mut self) {
        let mut drained = [0u8; 1024];
        let _one_signal_may_stand_for_many = rustix::io::read(&self.children, &mut drained);
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get();
            self.servants.retain(|s| *s != pid);
            if pid == self.child.pid {
                self.status = Some(status.as_raw());
            }
        }
    }

    fn hear_ready(&mut self, channel: &mut Channel) {
        let Some(fd) = &self.ready else { return };
        let mut buffer = [0u8; 64];
        match rustix::io::read(fd, &mut buffer) {
            Ok(n) => {
                if buffer[..n].contains(&b'\n') {
                    say(channel, &GuestNotice::Ready {});
                }
                self.ready = None;
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.ready = None,
        }
    }

    /// Calls of the ports that lead to the house.
    fn accept(&mut self) {
        for (index, listener) in self.listeners.iter().enumerate() {
            while let Ok((stream, _)) = listener.accept() {
                let _slower_without = stream.set_nodelay(true);
                if let Ok(ends) = StreamEnds::from_socket(stream.into()) {
                    self.offers.push((GuestStream::Forward { index }, ends));
                }
            }
        }
    }

    /// Leaves nothing behind, says how it ended, and takes the microVM down.
    fn end(&mut self, channel: &mut Channel, status: i32) -> ! {
        for pid in &self.servants {
            if let Some(pid) = Pid::from_raw(*pid) {
                let _gone_already = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
        // The end of it is the end of what is written down.
        self.terminal = None;
        let out_of_memory = self.groups.ran_out_of_memory();
        let _all_go_with_the_machine = self.groups.kill_all(Duration::from_secs(5));
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
        // What the program said last: whoever reads slowly gets all of it, unless an end was asked for.
        let patience = match self.asked {
            true => Duration::from_secs(1),
            false => SLOW_READER_WITHIN,
        };
        let until = Instant::now() + patience;
        while channel.has_unsent_output() && Instant::now() < until {
            if channel.transfer(&mut Deaf).is_err() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        if !self.config.take.is_empty() {
            let take = self.config.take.clone();
            let taken = transfer(channel, &GuestStream::Take {}, |stream| {
                pack_to_stream(Path::new(setup::WORK), &take, stream)
            });
            if let Err(error) = taken {
                tell(&crate::error::error_chain(&error));
            }
        }
        let clean = setup::unmount_drives(&self.config);
        let ended = GuestNotice::Ended {
            status,
            out_of_memory,
            clean,
        };
        say(channel, &ended);
        flush(channel);
        setup::exit_guest(self.config.contained)
    }
}

impl ChannelPeer for Guest {
    fn notice(&mut self, text: &[u8]) {
        match serde_json::from_slice(text) {
            Ok(ShimNotice::Stop { within_ms }) => {
                self.asked = true;
                let within = Duration::from_millis(within_ms);
                self.kill_at.get_or_insert_with(|| Instant::now() + within);
                if let Some(group) = Pid::from_raw(self.child.pid) {
                    let _gone_already = rustix::process::kill_process_group(group, Signal::TERM);
                }
            }
            Ok(ShimNotice::Clock { now_ms }) => setup::set_clock(now_ms),
            Ok(ShimNotice::HangUp {}) => self.terminal = None,
            Ok(ShimNotice::Warm {} | ShimNotice::Begin {}) | Err(_) => {}
        }
    }

    fn accept(&mut self, header: &[u8]) -> Option<StreamEnds> {
        let ask: GuestRequest = serde_json::from_slice(header).ok()?;
        let (ends, stream) = StreamEnds::pair().ok()?;
        if let GuestRequest::Attach { rows, columns } = ask {
            self.terminal
                .as_mut()?
                .0
                .add_viewer(stream, (rows, columns));
            return Some(ends);
        }
        match abbey_launch::fork() {
            Ok(None) => {
                abbey_launch::unblock_signals();
                // The copy holds what the microVM holds, and lets go of it at once.
                self.listeners.clear();
                drop(ends);
                request::serve_guest_request(&self.config, &self.groups, &ask, &stream);
                abbey_launch::exit_immediately(0)
            }
            Ok(Some(pid)) => {
                self.servants.push(pid);
                Some(ends)
            }
            Err(_) => None,
        }
    }
}

type Streams = (Vec<OwnedFd>, Option<(Terminal, OwnedFd)>, Option<OwnedFd>);

/// The program's descriptors; what leads to the house is offered to it.
fn streams(config: &GuestConfig, offers: &mut Vec<(GuestStream, StreamEnds)>) -> Result<Streams> {
    let (ready, ready_child) = close_on_exec_pipe()?;
    rustix::io::ioctl_fionbio(ready.as_fd(), true)
        .map_err(|e| Error::file("make", "a pipe")(e.into()))?;
    // In a container there is one user.
    let user = (!config.contained).then(|| rustix::fs::Uid::from_raw(UID));
    rustix::fs::fchown(&ready_child, user, None)
        .map_err(|e| Error::file("hand over", "a pipe")(e.into()))?;
    let ready = config.announces.then_some(ready);
    let nonblocking = |fd: &OwnedFd| {
        rustix::io::ioctl_fionbio(fd, true).map_err(|e| Error::file("make", "a pipe")(e.into()))
    };
    if config.terminal {
        let (terminal, slave) = Terminal::open((!config.contained).then_some(UID))?;
        let copy = |fd: &OwnedFd| fd.try_clone().map_err(Error::file("use", "the terminal"));
        let fds = vec![copy(&slave)?, copy(&slave)?, slave, ready_child];
        let (ours, transcript) = close_on_exec_pipe()?;
        nonblocking(&ours)?;
        nonblocking(&transcript)?;
        offers.push((
            GuestStream::Output { errors: false },
            StreamEnds {
                reader: Some(ours),
                writer: None,
            },
        ));
        return Ok((fds, Some((terminal, transcript)), ready));
    }
    let mut fds = Vec::new();
    let (input, ours) = close_on_exec_pipe()?;
    nonblocking(&ours)?;
    fds.push(input);
    offers.push((
        GuestStream::Input {},
        StreamEnds {
            reader: None,
            writer: Some(ours),
        },
    ));
    for errors in [false, true] {
        let (ours, output) = close_on_exec_pipe()?;
        nonblocking(&ours)?;
        fds.push(output);
        offers.push((
            GuestStream::Output { errors },
            StreamEnds {
                reader: Some(ours),
                writer: None,
            },
        ));
    }
    for fd in &fds {
        rustix::fs::fchown(fd, user, None)
            .map_err(|e| Error::file("hand over", "a pipe")(e.into()))?;
    }
    fds.push(ready_child);
    Ok((fds, None, ready))
}

/// Creates a pipe whose ends (reader, writer) are closed on exec.
pub(super) fn close_on_exec_pipe() -> Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| Error::file("make", "a pipe")(e.into()))
}

/// Starts the program that the microVM is for.
fn spawn(
    config: &GuestConfig,
    groups: &ControlGroups,
    fds: Vec<OwnedFd>,
) -> Result<abbey_launch::Child> {
    let mut env = config.env.clone();
    if config.terminal {
        env.push(("TERM".to_owned(), "xterm-256color".to_owned()));
    }
    if config.announces {
        env.push(("ABBEY_READY_FD".to_owned(), "3".to_owned()));
    }
    let argv = match config.own {
        true => OWN
            .map(str::to_owned)
            .into_iter()
            .chain(config.argv.iter().skip(1).cloned())
            .collect(),
        false => config.argv.clone(),
    };
    launch_as_guest_user(&argv, &env, &config.cwd, groups, fds, config.terminal)
}

/// Starts a program in the guest as its ordinary user, within the control groups.
pub(super) fn launch_as_guest_user(
    argv: &[String],
    env: &[(String, String)],
    cwd: &Path,
    groups: &ControlGroups,
    fds: Vec<OwnedFd>,
    terminal: bool,
) -> Result<abbey_launch::Child> {
    let name = argv.first().map_or("", String::as_str);
    let search = env.iter().find(|(k, _)| k == "PATH");
    let search = search.map_or("", |(_, v)| v.as_str());
    let path: PathBuf = find_program(name, search, cwd)
        .ok_or_else(|| Error::file("find", name)(std::io::ErrorKind::NotFound.into()))?;
    let mut env = env.to_vec();
    env.push(("ABBEY_LIBRARIES".to_owned(), "/abbey/lib".to_owned()));
    let spec = abbey_launch::LaunchSpec {
        program: abbey_launch::Executable::Path(
            c_string(path.as_os_str().as_encoded_bytes())?,
            None,
        ),
        argv: argv
            .iter()
            .map(|a| c_string(a.as_bytes()))
            .collect::<Result<_>>()?,
        env: env
            .iter()
            .map(|(k, v)| c_string(format!("{k}={v}").as_bytes()))
            .collect::<Result<_>>()?,
        cwd: c_string(cwd.as_os_str().as_encoded_bytes())?,
        user: rustix::process::getuid().is_root().then_some(UID),
        groups: groups.open_for_launch()?,
        rlimits: vec![(abbey_launch::CORE, 0), (abbey_launch::NOFILE, OPEN_FILES)],
        fds,
        new_session: true,
        terminal,
        dies_with_parent: true,
        new_privileges: rustix::process::getuid().is_root(),
    };
    abbey_launch::spawn(&spec).map_err(|e| Error::File {
        what: e.stage,
        path,
        source: e.source,
    })
}

/// Reads a stream to its end. Fails if it has more than `most` bytes.
pub(super) fn read_to_end_bounded(stream: &UnixStream, most: u64) -> Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    stream
        .take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(Error::file("read", "a request"))?;
    match bytes.len() as u64 > most {
        true => Err(Error::file("read", "a request")(std::io::Error::other(
            "it is too long",
        ))),
        false => Ok(bytes),
    }
}
