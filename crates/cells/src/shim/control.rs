//! What a shim is asked over its control socket, and what it answers.

use super::Shim;
use super::session::Session;
use crate::guest::Ask;
use crate::machine::Template;
use crate::{CellSpec, crash, machine, passing};
use abbey_model::{Generation, Millis};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Longest request, bytes.
const REQUEST_MAX: u64 = 4 << 20;

/// What the control plane asks.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// How it stands.
    Status,
    /// End within `grace`.
    Stop {
        /// Time to end by itself.
        grace: Millis,
    },
    /// Look on and type: after the answer the connection carries the terminal.
    Attach {
        /// Rows of the viewer.
        rows: u16,
        /// Its columns.
        columns: u16,
    },
    /// Speak to the guest of a machine: after the answer the connection is a stream to it.
    Guest {
        /// What for.
        ask: Ask,
    },
    /// The memory of a machine that was put aside: two descriptors come with the answer.
    Template {},
    /// Run a program in a machine that waits: three descriptors come along, where it speaks.
    Begin {
        /// Of what.
        spec: Box<CellSpec>,
    },
    /// Hold everything where it is, or let it go on.
    Pause {
        /// Which.
        pause: bool,
    },
}

/// What the shim answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Which boot.
    pub generation: Generation,
    /// Digest of the specification.
    pub digest: String,
    /// Whether the child announced readiness.
    pub ready: bool,
    /// Whether it was asked to stop.
    pub stopping: bool,
    /// Whether everything in it is held.
    #[serde(default)]
    pub paused: bool,
    /// Whether there is a terminal to attach to.
    #[serde(default)]
    pub terminal: bool,
    /// What a template was made from, if this is one.
    #[serde(default)]
    pub template: Option<String>,
    /// Whether a machine that waited was told what for.
    #[serde(default)]
    pub begun: bool,
}

impl Shim {
    /// Tells a machine that waits what it waited for.
    fn begin(&mut self, spec: &CellSpec, fds: Vec<OwnedFd>) -> bool {
        let waits = self.spec.machine.as_ref().is_some_and(|m| m.origin.waits());
        let (Some(machine), Ok(streams)) = (&spec.machine, <[OwnedFd; 3]>::try_from(fds)) else {
            return false;
        };
        if !waits || self.begun || self.stopping.is_some() || !self.ready {
            return false;
        }
        if machine::tell(spec, machine, self.generation.0).is_err() {
            return false;
        }
        crash::point("machine.begun");
        self.begun = true;
        self.pause(false);
        if let Some(session) = &mut self.session {
            session.begin(spec, streams);
        }
        !self.paused
    }

    pub(super) fn answer(&mut self) {
        while let Ok((stream, _)) = self.control.accept() {
            // One short exchange; a slow caller is cut off rather than waited for.
            let Ok(Some(ask)) = self.exchange(&stream) else {
                continue;
            };
            match (&mut self.session, &mut self.terminal, ask) {
                (Some(session), _, ask) => session.ask(&ask, stream),
                (None, Some(terminal), Ask::Attach { rows, columns }) => {
                    terminal.join(stream, (rows, columns));
                }
                _ => {}
            }
        }
    }

    /// Answers; gives what a caller stays for.
    fn exchange(&mut self, stream: &UnixStream) -> io::Result<Option<Ask>> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_millis(500)))?;
        stream.set_write_timeout(Some(Duration::from_millis(500)))?;
        let (line, passed) = passing::receive(stream, REQUEST_MAX)?;
        let (mut stays, mut lends) = (None, false);
        let request = serde_json::from_slice(&line)?;
        // What hostd checks first goes by hostd alone: the control plane's own user may look, hold and stop.
        if let Request::Guest { .. } | Request::Template {} | Request::Begin { .. } = request
            && rustix::net::sockopt::socket_peercred(stream)?.uid != rustix::process::geteuid()
        {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        match request {
            Request::Status => {}
            Request::Attach { rows, columns } => stays = Some(Ask::Attach { rows, columns }),
            Request::Guest { ask } => stays = Some(ask),
            Request::Template {} => lends = true,
            Request::Begin { spec } => {
                if !self.begin(&spec, passed) {
                    return Err(io::ErrorKind::InvalidInput.into());
                }
            }
            Request::Stop { grace } => {
                // What is held cannot end by itself.
                self.pause(false);
                self.ask_to_stop(grace);
            }
            Request::Pause { pause } => self.pause(pause && self.stopping.is_none()),
        }
        let status = Status {
            generation: self.generation,
            digest: self.spec.digest.clone(),
            ready: self.ready,
            stopping: self.stopping.is_some(),
            paused: self.paused,
            terminal: self.terminal.is_some() || self.session.is_some() && self.spec.terminal,
            template: self.template().map(|t| t.key.clone()),
            begun: self.begun,
        };
        let mut answer = serde_json::to_vec(&status)?;
        answer.push(b'\n');
        let fds = self.template().filter(|_| lends).map(Template::fds);
        passing::send(stream, &answer, fds.as_ref().map_or(&[], |f| f.as_slice()))?;
        Ok(stays)
    }

    /// What this machine has become for others.
    fn template(&self) -> Option<&Template> {
        let session = self.session.as_ref().filter(|_| self.keeping);
        session.and_then(Session::template)
    }
}
