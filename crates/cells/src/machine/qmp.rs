//! QEMU's monitor: a line of JSON for each word, both ways. Only its events are of interest here: they tell
//! how a machine ended.
//! Source: QEMU's documentation, interop/qmp-spec.

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use serde_json::Value;
use std::os::fd::OwnedFd;

/// Longest line; events are short.
const LINE_MAX: usize = 64 << 10;

/// Our end of it.
pub(crate) struct Monitor {
    fd: Option<OwnedFd>,
    line: Vec<u8>,
    /// Why the guest's processors stopped for good, in QEMU's words.
    pub(crate) shutdown: Option<String>,
}

impl Monitor {
    /// Says hello; QEMU tells nothing before.
    pub(crate) fn new(fd: OwnedFd) -> Monitor {
        let _it_is_gone = rustix::io::write(&fd, b"{\"execute\":\"qmp_capabilities\"}\n");
        Monitor {
            fd: Some(fd),
            line: Vec::new(),
            shutdown: None,
        }
    }

    pub(crate) fn watch<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        fds.extend(self.fd.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN)));
    }

    /// Hears what came.
    pub(crate) fn turn(&mut self) {
        let mut buffer = [0u8; 4096];
        while let Some(fd) = &self.fd {
            match rustix::io::read(fd, &mut buffer) {
                Ok(n @ 1..) if self.line.len() < LINE_MAX => {
                    self.line.extend_from_slice(&buffer[..n]);
                    while let Some(end) = self.line.iter().position(|b| *b == b'\n') {
                        let line: Vec<u8> = self.line.drain(..=end).collect();
                        self.hear(&line);
                    }
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                Ok(_) | Err(_) => self.fd = None,
            }
        }
    }

    fn hear(&mut self, line: &[u8]) {
        let Ok(value) = serde_json::from_slice::<Value>(line) else {
            return;
        };
        if value["event"] == "SHUTDOWN" {
            let reason = value["data"]["reason"].as_str();
            self.shutdown = Some(reason.unwrap_or("unknown").to_owned());
        }
    }
}
