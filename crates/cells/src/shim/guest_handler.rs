//! What a guest may report to its shim, and the streams that it may open.

use super::forward::connect_to_target;
use super::guest_clock::GuestClock;
use crate::files::{ArchivedLinks, open_owner_dir, pack_to_stream, unpack_stream};
use crate::guest::channel::{ChannelPeer, StreamEnds};
use crate::guest::{GuestNotice, GuestStream};
use crate::spec::{ForwardTarget, ListenAddress, PortForward};
use crate::{CellSpec, Error, Result, crash};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Our side of the channel.
pub(super) struct GuestHandler {
    pub(super) cell: String,
    pub(super) forwards: Vec<PortForward>,
    /// The caller's, for a program that speaks to it and not to the log.
    pub(super) streams: Option<[Option<OwnedFd>; 3]>,
    /// New outputs for the log.
    pub(super) outputs: Vec<(&'static str, OwnedFd)>,
    pub(super) files: PathBuf,
    pub(super) config: PathBuf,
    pub(super) ready: bool,
    /// Whether the program was heard: it announced that it is ready, or sent a heartbeat.
    pub(super) beat: bool,
    /// Whether the guest has a clock of its own.
    pub(super) microvm: bool,
    /// Whether its program was started.
    pub(super) running: bool,
    /// Comparison of its clock with ours.
    pub(super) clock: GuestClock,
    /// Whether it has booted and waits.
    pub(super) waiting: bool,
    /// Whether it has run a program while it waited.
    pub(super) warm: bool,
    pub(super) ended: Option<(i32, bool, bool)>,
    pub(super) failed: Option<String>,
    /// Processes that pack and unpack.
    pub(super) helpers: Vec<i32>,
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
            Ok(GuestNotice::Clock { off_ms }) => self.clock.note(off_ms, Instant::now()),
            Ok(GuestNotice::Running { .. }) => {
                self.running = true;
                // A container has the clock of the host.
                if self.microvm {
                    self.clock.check_at(Instant::now());
                }
                // The microVM has it open for as long as it runs; nobody else needs it.
                let _read_already = fs::remove_file(&self.config);
            }
            Ok(GuestNotice::Waiting {}) => {
                crash::point("template.waits");
                self.waiting = true;
            }
            Ok(GuestNotice::Warm {}) => self.warm = true,
            Ok(GuestNotice::Ready {}) => {
                self.beat = true;
                self.ready = true;
            }
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
                let handle = open_owner_dir(dir)?;
                for name in entries(dir)? {
                    handle
                        .remove_tree(&name)
                        .map_err(Error::file("remove", name))?;
                }
                unpack_stream(dir, None, ArchivedLinks::Made, from)
            }),
        }
    }
}

/// Port forwards that the guest listens on, in the order in which its instructions list them.
pub(super) fn guest_port_forwards(spec: &CellSpec) -> Vec<PortForward> {
    let inside = |f: &&PortForward| matches!(f.at, ListenAddress::Cell(_));
    spec.forwards.iter().filter(inside).cloned().collect()
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).map_err(Error::file("list", dir))?;
    Ok(entries.flatten().map(|e| e.file_name().into()).collect())
}
