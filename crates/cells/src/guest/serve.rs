//! The loop of the first process.

use super::channel::{Channel, ChannelPeer, ChannelSide, StreamEnds};
use super::program::{open_standard_streams, spawn_main_program};
use super::protocol::{GuestConfig, GuestNotice, GuestRequest, GuestStream, ShimNotice, UID};
use super::shim_link::{
    IgnoringPeer, flush_channel, log_to_console, open_shim_port, send_guest_notice,
    transfer_archive,
};
use super::warm_up::{StandIn, read_any_programs, wait_for_instructions};
use super::{request, setup};
use crate::files::{ArchivedLinks, pack_to_stream, unpack_stream};
use crate::sys::accept_pause::AcceptPause;
use crate::sys::cgroup::ControlGroups;
use crate::sys::tcp::start_tcp_connection;
use crate::sys::terminal::Terminal;
use crate::{Error, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// Time for what the program said to be taken once it has ended.
const SLOW_READER_WITHIN: Duration = Duration::from_secs(60);

/// Connections from the guest to the house at once; more wait in the kernel's queue, so that streams are left for what the
/// house asks.
const CONNECTIONS_MAX: usize = 128;

/// Runs as the first process of a microVM or container: sets it up, runs its program, and ends it. Never returns.
pub fn run_guest() -> ! {
    let contained = setup::is_container();
    // Whatever goes wrong is told on the console, which the shim writes down.
    match open_shim_port(contained) {
        Err(error) => log_to_console(&format!(
            "the guest has no port: {}",
            crate::error::error_chain(&error)
        )),
        Ok(port) => {
            let mut channel = Channel::new(port, ChannelSide::Guest);
            match Guest::start(&mut channel) {
                Ok(guest) => guest.serve(channel),
                Err(error) => {
                    let why = crate::error::error_chain(&error);
                    log_to_console(&format!("the guest cannot start: {why}"));
                    send_guest_notice(&mut channel, &GuestNotice::Failed { why });
                    flush_channel(&mut channel);
                }
            }
        }
    }
    setup::exit_guest(contained)
}

struct Guest {
    config: GuestConfig,
    groups: ControlGroups,
    child: abbey_launch::Child,
    children: OwnedFd,
    ready: Option<OwnedFd>,
    listeners: Vec<TcpListener>,
    accept_pause: AcceptPause,
    /// The program's terminal, and where what it says is written down.
    terminal: Option<(Terminal, OwnedFd)>,
    /// Streams of the program's, which are offered first.
    offers: Vec<(GuestStream, StreamEnds)>,
    /// Processes that serve requests.
    request_processes: Vec<i32>,
    /// When the program is killed.
    kill_at: Option<Instant>,
    /// Whether its end was asked for.
    asked: bool,
    /// How it ended.
    status: Option<i32>,
    /// How far the clock was ahead when it was compared; none once that is reported.
    clock_off_ms: Option<i64>,
}

impl Guest {
    fn start(channel: &mut Channel) -> Result<Guest> {
        if !setup::is_container() {
            setup::mount_system_file_systems()?;
            if setup::waits_for_instructions() {
                wait_for_instructions(channel, Guest::rehearse);
            }
        }
        Guest::begin(channel, setup::read_config()?)
    }

    /// Does once what will be done when the instructions come, with others and with a stand-in at the other end: code
    /// is in memory and translated, groups and files exist.
    fn rehearse() -> Result<()> {
        let _none_yet = setup::read_config();
        read_any_programs();
        let text = GuestConfig::sample().and_then(|c| serde_json::to_vec(&c).ok());
        let Some(config) = text.and_then(|t| serde_json::from_slice(&t).ok()) else {
            return Ok(());
        };
        let stand_in = StandIn::start().map_err(Error::file("make", "a channel"))?;
        let mut channel = stand_in.channel;
        let begun = Guest::begin(&mut channel, config).map(|mut guest| {
            guest.announce(&mut channel);
            let _status = guest.serve_until_exit(&mut channel);
        });
        drop(channel);
        let _ended = rustix::process::waitpid(stand_in.process, WaitOptions::empty());
        begun
    }

    /// Sets up what the instructions say, and starts their program.
    fn begin(channel: &mut Channel, config: GuestConfig) -> Result<Guest> {
        // A container was made with all of it, which is verified before anything else runs in it.
        if config.contained {
            setup::verify_container(&config.cell)?;
        } else {
            setup::set_identity(&config)?;
            setup::mount_drives_and_write_files(&config)?;
        }
        if config.brings {
            transfer_archive(channel, &GuestStream::Bring {}, |stream| {
                unpack_stream(
                    Path::new(setup::WORK),
                    Some(UID),
                    ArchivedLinks::Refused,
                    stream,
                )
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
        let (fds, terminal, ready) = open_standard_streams(&config, &mut offers)?;
        let child = spawn_main_program(&config, &groups, fds)?;
        Ok(Guest {
            config,
            groups,
            child,
            children,
            ready,
            listeners,
            accept_pause: AcceptPause::default(),
            terminal,
            offers,
            request_processes: Vec::new(),
            kill_at: None,
            asked: false,
            status: None,
            clock_off_ms: None,
        })
    }

    /// Says that the program was started, and that it is ready if it will not say so itself.
    fn announce(&self, channel: &mut Channel) {
        let system = rustix::system::uname();
        let kernel = system.release().to_string_lossy().into_owned();
        send_guest_notice(channel, &GuestNotice::Running { kernel });
        if self.ready.is_none() {
            send_guest_notice(channel, &GuestNotice::Ready {});
        }
    }

    fn serve(mut self, mut channel: Channel) -> ! {
        self.announce(&mut channel);
        match self.serve_until_exit(&mut channel) {
            Some(status) => self.end_guest(&mut channel, status),
            // Nobody can be served any more; the shim ends the microVM in any case.
            None => setup::exit_guest(self.config.contained),
        }
    }

    /// Serves the program until it has ended. Returns its wait status; none if the channel was closed before.
    fn serve_until_exit(&mut self, channel: &mut Channel) -> Option<i32> {
        loop {
            for (offer, ends) in std::mem::take(&mut self.offers) {
                let header = serde_json::to_vec(&offer).unwrap_or_default();
                channel.open_stream(&header, ends);
            }
            self.wait_for_events(channel);
            channel.transfer(self).ok()?;
            if let Some(off_ms) = self.clock_off_ms.take() {
                send_guest_notice(channel, &GuestNotice::Clock { off_ms });
            }
            self.reap_children();
            self.read_readiness(channel);
            self.accept_connections(channel);
            if let Some((terminal, transcript)) = &mut self.terminal {
                terminal.transfer(true, |bytes| {
                    let _more_than_is_written_down = rustix::io::write(&*transcript, bytes);
                });
            }
            if self.kill_at.is_some_and(|at| Instant::now() >= at) {
                self.kill_at = None;
                let _gone_already =
                    rustix::process::pidfd_send_signal(&self.child.pidfd, Signal::KILL);
            }
            if self.status.is_some() {
                return self.status;
            }
        }
    }

    fn wait_for_events(&self, channel: &Channel) {
        let pause = self.accept_pause.end();
        let next = [self.kill_at, pause].into_iter().flatten().min();
        let patience = next.map_or(Duration::from_secs(30), |at| {
            at.saturating_duration_since(Instant::now())
        });
        let mut fds = vec![PollFd::new(&self.children, PollFlags::IN)];
        fds.extend(self.ready.as_ref().map(|r| PollFd::new(r, PollFlags::IN)));
        if channel.opened_streams() < CONNECTIONS_MAX && pause.is_none() {
            fds.extend(self.listeners.iter().map(|l| PollFd::new(l, PollFlags::IN)));
        }
        if let Some((terminal, _)) = &self.terminal {
            terminal.add_poll_fds(&mut fds, true);
        }
        channel.add_poll_fds(&mut fds);
        let timeout = Timespec::try_from(patience).ok();
        let _interrupted = poll(&mut fds, timeout.as_ref());
    }

    fn reap_children(&mut self) {
        let mut drained = [0u8; 1024];
        let _one_signal_may_stand_for_many = rustix::io::read(&self.children, &mut drained);
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get();
            self.request_processes.retain(|s| *s != pid);
            if pid == self.child.pid {
                self.status = Some(status.as_raw());
            }
        }
    }

    fn read_readiness(&mut self, channel: &mut Channel) {
        let Some(fd) = &self.ready else { return };
        let mut buffer = [0u8; 64];
        match rustix::io::read(fd, &mut buffer) {
            Ok(n) => {
                if buffer[..n].contains(&b'\n') {
                    send_guest_notice(channel, &GuestNotice::Ready {});
                }
                if n == 0 {
                    self.ready = None;
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.ready = None,
        }
    }

    /// Calls of the ports that lead to the house.
    fn accept_connections(&mut self, channel: &Channel) {
        for (index, listener) in self.listeners.iter().enumerate() {
            while channel.opened_streams() + self.offers.len() < CONNECTIONS_MAX
                && let Some((stream, _)) = self.accept_pause.accepted(listener.accept())
            {
                let _slower_without = stream.set_nodelay(true);
                if let Ok(ends) = StreamEnds::from_socket(stream.into()) {
                    self.offers.push((GuestStream::Forward { index }, ends));
                }
            }
        }
    }

    /// Leaves nothing behind, says how it ended, and takes the microVM down.
    fn end_guest(&mut self, channel: &mut Channel, status: i32) -> ! {
        for pid in &self.request_processes {
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
            if channel.transfer(&mut IgnoringPeer).is_err() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        if !self.config.take.is_empty() {
            let take = self.config.take.clone();
            let taken = transfer_archive(channel, &GuestStream::Take {}, |stream| {
                pack_to_stream(Path::new(setup::WORK), &take, stream)
            });
            if let Err(error) = taken {
                log_to_console(&crate::error::error_chain(&error));
            }
        }
        let clean = setup::unmount_drives(&self.config);
        let ended = GuestNotice::Ended {
            status,
            out_of_memory,
            clean,
        };
        send_guest_notice(channel, &ended);
        flush_channel(channel);
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
            Ok(ShimNotice::Clock { now_ms }) => {
                self.clock_off_ms = Some(setup::correct_clock(now_ms));
            }
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
        if let GuestRequest::Connect { index } = ask {
            let socket = start_tcp_connection(self.config.listen.get(index)?).ok()?;
            return StreamEnds::from_socket(socket).ok();
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
                self.request_processes.push(pid);
                Some(ends)
            }
            Err(_) => None,
        }
    }
}
