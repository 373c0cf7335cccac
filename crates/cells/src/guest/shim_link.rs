//! Link of the guest to its shim: the port, notices, and archives of files; and the console.

use super::channel::{Channel, ChannelPeer, StreamEnds};
use super::protocol::{GuestNotice, GuestStream};
use super::setup;
use crate::{Error, Result};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, WaitOptions};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// Time for the port to appear and to open.
const PORT_WITHIN: Duration = Duration::from_secs(20);
/// Number of the descriptor that a container is given.
const CHANNEL: i32 = 4;
/// Address of the host for every guest. Source: vsock(7).
const HOST_CID: u32 = 2;
/// Time for the last words to be taken.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(5);

/// Writes a line to the guest's console, which the shim copies to the cell's log.
pub(super) fn log_to_console(text: &str) {
    let line = format!("abbey: {text}\n");
    let _nowhere_else_to_say_so = rustix::io::write(rustix::stdio::stdout(), line.as_bytes());
}

/// Opens the channel to the shim: the inherited descriptor of a container, the virtio port, or a vsock connection.
/// Retries for 20 s, because the port appears late.
pub(super) fn open_shim_port(contained: bool) -> Result<OwnedFd> {
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

/// Queues a notice for the shim on the channel.
pub(super) fn send_guest_notice(channel: &mut Channel, news: &GuestNotice) {
    if let Ok(text) = serde_json::to_vec(news) {
        channel.send_notice(&text);
    }
}

/// Sends everything that is queued on the channel, for at most 5 s.
pub(super) fn flush_channel(channel: &mut Channel) {
    let until = Instant::now() + LAST_WORDS_WITHIN;
    while !channel.is_flushed() && Instant::now() < until {
        if channel.transfer(&mut IgnoringPeer).is_err() {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Transfers a tar archive over a new stream; `work` packs or unpacks it in a forked process. Blocks until it is
/// complete.
pub(super) fn transfer_archive(
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
                log_to_console(&crate::error::error_chain(error));
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
                channel.transfer(&mut IgnoringPeer).map_err(lost)?;
                match rustix::process::waitpid(pid, WaitOptions::NOHANG) {
                    Ok(Some((_, status))) if status.exit_status() == Some(0) => break,
                    Ok(None) => std::thread::sleep(Duration::from_millis(1)),
                    _ => return Err(lost("it could not be packed or unpacked")),
                }
            }
            // What was packed is on its way before anything else is said.
            let until = Instant::now() + Duration::from_secs(60);
            while channel.has_unsent_output() && Instant::now() < until {
                channel.transfer(&mut IgnoringPeer).map_err(lost)?;
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        }
    }
}

pub(super) struct IgnoringPeer;
impl ChannelPeer for IgnoringPeer {
    fn notice(&mut self, _text: &[u8]) {}
    fn accept(&mut self, _header: &[u8]) -> Option<StreamEnds> {
        None
    }
}
