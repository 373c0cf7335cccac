//! What a shim is asked over its control socket, and what it answers.

use super::Shim;
use super::phase::{CellPhase, PhaseEvent};
use super::session::GuestSession;
use crate::control::{ShimRequest, ShimStatus};
use crate::guest::GuestRequest;
use crate::microvm::MicroVmTemplate;
use crate::sys::descriptors;
use crate::{CellSpec, crash, microvm};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Longest request, bytes.
const REQUEST_MAX: u64 = 4 << 20;

impl Shim {
    /// Tells a microVM that waits what it waited for.
    fn begin_program(&mut self, spec: &CellSpec, fds: Vec<OwnedFd>) -> bool {
        let waits = self.spec.microvm.as_ref().is_some_and(|m| m.origin.waits());
        let (Some(microvm), Ok(streams)) = (&spec.microvm, <[OwnedFd; 3]>::try_from(fds)) else {
            return false;
        };
        if !waits || !self.phase.may_begin() {
            return false;
        }
        if microvm::write_waiting_instructions(spec, microvm, self.generation.0).is_err() {
            return false;
        }
        crash::point("machine.begun");
        self.apply_event(PhaseEvent::Begun);
        self.set_paused(false);
        if let Some(session) = &mut self.session {
            session.begin_program(spec, streams);
        }
        !self.phase.is_paused()
    }

    /// Accepts and answers all waiting requests on the control socket.
    pub(super) fn accept_requests(&mut self) {
        while let Ok((stream, _)) = self.control.accept() {
            // One short exchange; a slow caller is cut off rather than waited for.
            let Ok(Some(ask)) = self.answer_request(&stream) else {
                continue;
            };
            match (&mut self.session, &mut self.terminal, ask) {
                (Some(session), _, ask) => session.open_stream(&ask, stream),
                (None, Some(terminal), GuestRequest::Attach { rows, columns }) => {
                    terminal.add_viewer(stream, (rows, columns));
                }
                _ => {}
            }
        }
    }

    /// Answers; gives what a caller stays for.
    fn answer_request(&mut self, stream: &UnixStream) -> io::Result<Option<GuestRequest>> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_millis(500)))?;
        stream.set_write_timeout(Some(Duration::from_millis(500)))?;
        let (line, passed) = descriptors::receive_line(stream, REQUEST_MAX)?;
        let (mut stays, mut lends) = (None, false);
        let request = serde_json::from_slice(&line)?;
        // What hostd checks first goes by hostd alone: the control plane's own user may look, hold and stop.
        if let ShimRequest::Guest { .. } | ShimRequest::Template {} | ShimRequest::Begin { .. } =
            request
            && rustix::net::sockopt::socket_peercred(stream)?.uid != rustix::process::geteuid()
        {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        match request {
            ShimRequest::Status => {}
            ShimRequest::Attach { rows, columns } => {
                stays = Some(GuestRequest::Attach { rows, columns })
            }
            ShimRequest::Guest { ask } => stays = Some(ask),
            ShimRequest::Template {} => lends = true,
            ShimRequest::Begin { spec } => {
                if !self.begin_program(&spec, passed) {
                    return Err(io::ErrorKind::InvalidInput.into());
                }
            }
            ShimRequest::Stop { grace } => {
                // What is held cannot end by itself.
                self.set_paused(false);
                self.handle_stop_request(grace);
            }
            ShimRequest::Pause { pause } => self.set_paused(pause && self.phase.may_pause()),
        }
        let status = ShimStatus {
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
        let fds = self.template().filter(|_| lends).map(MicroVmTemplate::fds);
        descriptors::send_with_descriptors(
            stream,
            &answer,
            fds.as_ref().map_or(&[], |f| f.as_slice()),
        )?;
        Ok(stays)
    }

    /// What this microVM has become for others.
    fn template(&self) -> Option<&MicroVmTemplate> {
        let session = self
            .session
            .as_ref()
            .filter(|_| matches!(self.phase, CellPhase::Keeping { .. }));
        session.and_then(GuestSession::finished_template)
    }
}
