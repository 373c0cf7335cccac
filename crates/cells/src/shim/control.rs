//! What a shim is asked over its control socket, and what it answers.

use super::Shim;
use super::forward::Connection;
use super::guest_handler::guest_port_forwards;
use super::phase::{CellPhase, PhaseEvent};
use super::session::GuestSession;
use crate::control::{ShimRequest, ShimStatus};
use crate::guest::GuestRequest;
use crate::microvm::MicroVmTemplate;
use crate::sys::descriptors;
use crate::sys::tcp::start_tcp_connection;
use crate::{CellSpec, ForwardTarget, ListenAddress, crash, microvm, network};
use abbey_launch::NetworkNamespace;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Longest request, bytes.
const REQUEST_MAX: u64 = 4 << 20;
/// Probes at once; further ones are answered without a connection.
const PROBES_MAX: usize = 16;

/// What a caller stays for after its answer.
enum Stay {
    /// A stream to the guest or the terminal.
    Guest(GuestRequest),
    /// The agent's own port, or why no connection to it could be begun.
    Door(io::Result<OwnedFd>),
}

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
        while let Some((stream, _)) = self.control_pause.accepted(self.control.accept()) {
            // One short exchange; a slow caller is cut off rather than waited for.
            let Ok(Some(ask)) = self.answer_request(&stream) else {
                continue;
            };
            match (&mut self.session, &mut self.terminal, ask) {
                (_, _, Stay::Door(door)) => {
                    // A caller sees a closed connection where nothing answers at the port.
                    if let Ok(door) = door
                        && stream.set_nonblocking(true).is_ok()
                    {
                        self.probes.push(Connection::between(stream.into(), door));
                    }
                }
                (Some(session), _, Stay::Guest(ask)) => session.open_stream(&ask, stream),
                (None, Some(terminal), Stay::Guest(GuestRequest::Attach { rows, columns })) => {
                    terminal.add_viewer(stream, (rows, columns));
                }
                _ => {}
            }
        }
    }

    /// A connection to the agent's own port, made where its programs make theirs. None where the shim cannot go: without
    /// privilege in a network of the cell's own.
    fn open_door(&self) -> Option<Stay> {
        if self.session.is_some() {
            let forwards = guest_port_forwards(&self.spec);
            let mut targets = forwards.iter().map(|f| &f.to);
            let index = targets.position(|to| matches!(to, ForwardTarget::House(_)))?;
            return Some(Stay::Guest(GuestRequest::Connect { index }));
        }
        if self.probes.len() >= PROBES_MAX {
            return None;
        }
        let mut doors = self.spec.forwards.iter();
        let door = doors.find(|f| matches!(f.to, ForwardTarget::House(_)))?;
        let socket = match (door.at, &self.spec.sandbox) {
            (ListenAddress::Cell(at), Some(_)) => {
                let namespace = NetworkNamespace::OfProcess(self.child.pid);
                network::within_network(namespace, || start_tcp_connection(&at))
            }
            (ListenAddress::Cell(at) | ListenAddress::Host(at), _) => start_tcp_connection(&at),
        };
        match socket {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => None,
            socket => Some(Stay::Door(socket)),
        }
    }

    /// Answers; gives what a caller stays for.
    fn answer_request(&mut self, stream: &UnixStream) -> io::Result<Option<Stay>> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_millis(500)))?;
        stream.set_write_timeout(Some(Duration::from_millis(500)))?;
        let (line, passed) = descriptors::receive_line(stream, REQUEST_MAX)?;
        let (mut stays, mut lends, mut door) = (None, false, false);
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
            ShimRequest::Probe => {
                stays = self.open_door();
                door = stays.is_some();
            }
            ShimRequest::Attach { rows, columns } => {
                stays = Some(Stay::Guest(GuestRequest::Attach { rows, columns }))
            }
            ShimRequest::Guest { ask } => stays = Some(Stay::Guest(ask)),
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
            hung: self.heartbeat.is_overdue(Instant::now()) && !self.phase.is_paused(),
            clock_off_ms: self.session.as_ref().and_then(GuestSession::clock_off_ms),
            door,
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
