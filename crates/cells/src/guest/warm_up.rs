//! A microVM that waits for its instructions, as a template or started from one.

use super::channel::{Channel, ChannelPeer, ChannelSide, StreamEnds};
use super::protocol::{GuestNotice, ShimNotice};
use super::setup;
use super::shim_link::{log_to_console, send_guest_notice};
use crate::Result;
use rustix::event::poll;
use rustix::process::Pid;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Time for the guest to be idle before a rehearsal; longer than a tick of its kernel.
const IDLE: Duration = Duration::from_millis(50);
/// Rehearsals after which little is left that runs for the first time; each is interrupted at other places.
const REHEARSALS: usize = 3;
/// Where the programs of every image are.
const PROGRAMS: &str = "/usr/bin";
/// Bytes of a program that are read to warm up.
const READ: u64 = 64 << 10;

/// A process that answers like the shim, for a rehearsal: it takes every stream and everything in it.
pub(super) struct StandIn {
    /// Channel to it; it ends once this is closed.
    pub(super) channel: Channel,
    /// The process, which has to be waited for.
    pub(super) process: Option<Pid>,
}

impl StandIn {
    pub(super) fn start() -> io::Result<StandIn> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        match abbey_launch::fork()? {
            None => {
                drop(ours);
                let mut channel = Channel::new(theirs.into(), ChannelSide::Host);
                while channel.transfer(&mut TakesAll).is_ok() {
                    let mut fds = Vec::new();
                    channel.add_poll_fds(&mut fds);
                    let _interrupted = poll(&mut fds, None);
                }
                abbey_launch::exit_immediately(0)
            }
            Some(process) => Ok(StandIn {
                channel: Channel::new(ours.into(), ChannelSide::Guest),
                process: Pid::from_raw(process),
            }),
        }
    }
}

struct TakesAll;
impl ChannelPeer for TakesAll {
    fn notice(&mut self, _text: &[u8]) {}
    fn accept(&mut self, _header: &[u8]) -> Option<StreamEnds> {
        let nowhere = OpenOptions::new().read(true).write(true).open("/dev/null");
        StreamEnds::from_socket(nowhere.ok()?.into()).ok()
    }
}

/// Reads the beginnings of a few programs at random, which are probably none that were read before: files that are in no
/// memory yet are found and read by code of the kernel that would not be reached otherwise. Errors are ignored.
pub(super) fn read_any_programs() {
    let mut random = [0u8; 4];
    let _others_then = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
    let programs = fs::read_dir(PROGRAMS).into_iter().flatten().flatten();
    let programs: Vec<_> = programs.map(|p| p.path()).collect();
    for n in random {
        let any = programs.get(usize::from(n) * programs.len() / 256);
        if let Some(Ok(file)) = any.map(File::open) {
            let mut bytes = Vec::new();
            let _unreadable = file.take(READ).read_to_end(&mut bytes);
        }
    }
}

/// Warms up by a rehearsal and waits until the shim says that the instructions can be read. A template is saved here,
/// and microVMs started from it continue here.
pub(super) fn wait_for_instructions(channel: &mut Channel, rehearse: impl Fn() -> Result<()>) {
    let warm_up = || {
        // A processor that idles stops its clock, and starts it again when something arrives.
        std::thread::sleep(IDLE);
        // Without it the first program merely takes longer.
        if let Err(error) = rehearse() {
            log_to_console(&crate::error::error_chain(&error));
        }
    };
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
    send_guest_notice(channel, &GuestNotice::Waiting {});
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
            for _ in 0..REHEARSALS {
                warm_up();
            }
            send_guest_notice(channel, &GuestNotice::Warm {});
        }
    }
}
