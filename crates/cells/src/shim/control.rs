//! What a shim is asked over its control socket, and what it answers.

use super::Shim;
use super::phase::{Event, Phase};
use super::session::Session;
use crate::control::{Request, Status};
use crate::guest::Ask;
use crate::microvm::Template;
use crate::sys::descriptors;
use crate::{CellSpec, crash, microvm};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Longest request, bytes.
const REQUEST_MAX: u64 = 4 << 20;

impl Shim {
    /// Tells a machine that waits what it waited for.
    fn begin(&mut self, spec: &CellSpec, fds: Vec<OwnedFd>) -> bool {
        let waits = self.spec.machine.as_ref().is_some_and(|m| m.origin.waits());
        let (Some(machine), Ok(streams)) = (&spec.machine, <[OwnedFd; 3]>::try_from(fds)) else {
            return false;
        };
        if !waits || !self.phase.may_begin() {
            return false;
        }
        if microvm::tell(spec, machine, self.generation.0).is_err() {
            return false;
        }
        crash::point("machine.begun");
        self.advance(Event::Begun);
        self.pause(false);
        if let Some(session) = &mut self.session {
            session.begin(spec, streams);
        }
        !self.phase.is_paused()
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
        let (line, passed) = descriptors::receive(stream, REQUEST_MAX)?;
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
            Request::Pause { pause } => self.pause(pause && self.phase.may_pause()),
        }
        let status = Status {
            generation: self.generation,
            digest: self.spec.digest.clone(),
            ready: self.phase.is_ready(),
            stopping: self.phase.stop_requested(),
            paused: self.phase.is_paused(),
            terminal: self.terminal.is_some() || self.session.is_some() && self.spec.terminal,
            template: self.template().map(|t| t.key.clone()),
            begun: self.phase.has_begun(),
        };
        let mut answer = serde_json::to_vec(&status)?;
        answer.push(b'\n');
        let fds = self.template().filter(|_| lends).map(Template::fds);
        descriptors::send(stream, &answer, fds.as_ref().map_or(&[], |f| f.as_slice()))?;
        Ok(stays)
    }

    /// What this machine has become for others.
    fn template(&self) -> Option<&Template> {
        let session = self
            .session
            .as_ref()
            .filter(|_| matches!(self.phase, Phase::Keeping { .. }));
        session.and_then(Session::template)
    }
}
