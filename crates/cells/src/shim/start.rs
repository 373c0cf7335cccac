//! From a specification to a shim whose program runs: record, limits, isolation, port forwards.

use super::forward::PortForwarder;
use super::heartbeat::Heartbeat;
use super::log::{AROUND, CONSOLE, CellLog};
use super::log_rate::LogRate;
use super::phase::CellPhase;
use super::session::GuestSession;
use super::{Shim, ShimParts, program};
use crate::record::{now, write_json_without_sync};
use crate::spec::{ListenAddress, PortForward};
use crate::sys::accept_pause::AcceptPause;
use crate::sys::cgroup::ControlGroups;
use crate::sys::process;
use crate::{CellRecord, CellSpec, Error, Result, container, crash, microvm};
use abbey_model::{Generation, Layer, Limits, Redactor, Secret};
use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Instant;

/// Makes the cell's directory and takes it for this boot.
fn claim_cell(spec: &CellSpec) -> Result<fs::File> {
    use std::os::unix::fs::PermissionsExt;
    for dir in [&spec.run_dir, &spec.log_dir] {
        fs::create_dir_all(dir).map_err(Error::file("make", dir))?;
        // The group is the control plane's, by the parent's set-group-id bit.
        fs::set_permissions(dir, fs::Permissions::from_mode(0o2750))
            .map_err(Error::file("protect", dir))?;
    }
    let path = spec.run_dir.join("lock");
    crate::sys::lock::try_lock_file(&path)?.ok_or_else(|| Error::Busy(spec.cell.clone()))
}

impl Shim {
    /// Creates the records, limits and isolation of a cell and starts its program. A failure returns the
    /// specification and boot number with the error.
    pub(super) fn launch(
        generation: Generation,
        spec: CellSpec,
        parts: ShimParts,
    ) -> std::result::Result<Shim, (CellSpec, Generation, Error)> {
        match Self::try_launch(generation, &spec, parts) {
            Ok(build) => Ok(build(spec)),
            Err(error) => Err((spec, generation, error)),
        }
    }

    fn try_launch(
        generation: Generation,
        spec: &CellSpec,
        parts: ShimParts,
    ) -> Result<impl FnOnce(CellSpec) -> Shim + use<>> {
        let me = i32::try_from(std::process::id()).unwrap_or(0);
        let lost = || Error::Shim {
            cell: spec.cell.clone(),
            why: "/proc is not readable".to_owned(),
        };
        let mut record = CellRecord {
            generation,
            digest: spec.digest.clone(),
            shim: process::identify(me).ok_or_else(lost)?,
            child: None,
            started_at: now(),
            groups: Vec::new(),
            in_force: None,
            processes: Some(spec.limits.processes),
            layers: BTreeSet::new(),
            sandbox: spec.sandbox.clone(),
            microvm: spec.microvm.is_some(),
            container: spec.container.is_some(),
            boot: None,
            network: spec.network,
        };
        let lock = claim_cell(spec)?;
        crash::point("shim.claimed");
        // The intent is on disk before the first side effect (hazards 6 and 7).
        write_json_without_sync(&spec.run_dir.join("shim.json"), &record)?;
        crash::point("shim.intent");
        let mut prepared = match (&spec.microvm, &spec.container) {
            (Some(microvm), _) => Some(microvm::prepare_microvm(spec, microvm, generation.0)?),
            (None, Some(container)) => {
                let prepared = container::prepare_container(spec, container, generation.0);
                Some(prepared?)
            }
            (None, None) => None,
        };
        let beside = prepared
            .as_mut()
            .map_or_else(Vec::new, |p| std::mem::take(&mut p.fds));
        if prepared.is_some() {
            crash::point("machine.prepared");
        }
        record.boot = prepared.as_ref().map(|p| p.aside.boot_kind().to_owned());
        // Around a microVM is a cell like any other.
        let outer = prepared.as_ref().map_or(spec, |p| &p.outer);
        let groups = create_groups(spec, outer)?;
        crash::point("shim.groups");
        if let Some(groups) = &groups {
            record.groups = groups.paths().to_vec();
        }
        abbey_launch::become_subreaper().map_err(Error::file("adopt", "orphans"))?;
        // The program in a microVM speaks through its guest.
        let (streams, inner) = match prepared {
            Some(_) => (None, parts.streams),
            None => (parts.streams, None),
        };
        let parts = ShimParts { streams, ..parts };
        let mut opened = None;
        let mut prepare = || {
            record.in_force = match &groups {
                Some(groups) => apply_limits(spec, outer, groups)?,
                None => None,
            };
            let secrets = Redactor::new(spec.secrets.iter().map(Secret::new));
            let log = CellLog::open(&spec.log_dir, secrets)?;
            opened = Some((listen(&spec.run_dir.join("control.sock"))?, log));
            Ok(record.in_force.is_some())
        };
        let launched =
            program::launch_program(outer, parts, groups.as_ref(), &mut prepare, beside)?;
        let (control, log) = opened.ok_or_else(|| Error::Shim {
            cell: spec.cell.clone(),
            why: "the program was started unprepared".to_owned(),
        })?;
        crash::point("shim.running");
        record.child = process::identify(launched.child.pid);
        record.layers.clone_from(&launched.layers);
        write_json_without_sync(&spec.run_dir.join("shim.json"), &record)?;
        let ready_until = spec
            .ready_within
            .map(|within| Instant::now() + within.to_std());
        let [stdout, stderr, ready_pipe] = launched.pipes;
        let forwards = open_forwards(spec, launched.listeners)?;
        let microvm = spec.microvm.as_ref();
        let files = microvm.map(|m| m.files.clone()).unwrap_or_default();
        let waits = microvm.is_some_and(|m| m.origin.waits());
        let session = prepared.map(|p| GuestSession::new(spec, files, waits, p, inner));
        let (child, channel, terminal) = (launched.child, launched.channel, launched.terminal);
        Ok(move |spec: CellSpec| Shim {
            generation,
            groups,
            child,
            channel,
            output: match session {
                None => vec![("out", Some(stdout)), ("err", Some(stderr))],
                Some(_) => vec![(CONSOLE, Some(stdout)), (AROUND, Some(stderr))],
            },
            ready_pipe: ready_until
                .filter(|_| session.is_none())
                .map(|_| ready_pipe),
            phase: CellPhase::initial(ready_until),
            control,
            control_pause: AcceptPause::default(),
            forwards,
            probes: Vec::new(),
            heartbeat: Heartbeat::default(),
            terminal,
            session,
            log,
            log_rate: LogRate::new(Instant::now()),
            spec,
            _lock: lock,
        })
    }
}

/// Creates the control groups of a cell, without limits but that of its disk; none if they can't be created and limits are
/// waived.
fn create_groups(spec: &CellSpec, outer: &CellSpec) -> Result<Option<ControlGroups>> {
    let waived = spec.waived.contains(&Layer::Limits);
    let (house, cell) = (&spec.group, spec.cell.to_string());
    let mut groups = match ControlGroups::create_unlimited(house, &cell) {
        Ok(groups) => groups,
        Err(_) if waived => return Ok(None),
        Err(error) => return Err(not_limited(error)),
    };
    if let Some(io) = outer.limits.io {
        match groups.limit_io(house, &cell, &spec.run_dir, io) {
            Err(error) if !waived => return Err(error),
            _ => {}
        }
    }
    Ok(Some(groups))
}

/// Sets the limits of a cell and reads them back from the kernel; none if they are not all in force and were waived.
fn apply_limits(
    spec: &CellSpec,
    outer: &CellSpec,
    groups: &ControlGroups,
) -> Result<Option<Limits>> {
    let waived = spec.waived.contains(&Layer::Limits);
    match groups.set_limits(&outer.limits) {
        Ok(()) => {}
        Err(_) if waived => return Ok(None),
        Err(error) => return Err(not_limited(error)),
    }
    let in_force = groups.read_limits();
    let missing = in_force.is_none_or(|limits| limits.io != outer.limits.io);
    if missing && !waived {
        return Err(Error::Limits(
            "the kernel does not report all of them as applied".to_owned(),
        ));
    }
    Ok(in_force)
}

/// A failure of the control groups, as one of the limits.
fn not_limited(error: Error) -> Error {
    match error {
        Error::Limits(why) => Error::Limits(why),
        error => Error::Limits(crate::error::error_chain(&error)),
    }
}

/// Every forward behind its listener; those of the cell's own network were made in it.
fn open_forwards(spec: &CellSpec, listeners: Vec<OwnedFd>) -> Result<Vec<PortForwarder>> {
    let mut made = listeners.into_iter();
    let open = |forward: &PortForward| match (forward.at, spec.sandbox.is_some()) {
        (ListenAddress::Cell(_), true) => {
            let lost = || Error::Shim {
                cell: spec.cell.clone(),
                why: "a listening socket was not passed".to_owned(),
            };
            let listener = made.next().ok_or_else(lost)?;
            PortForwarder::with_listener(listener, forward, &spec.cell)
        }
        _ => PortForwarder::listen(forward, &spec.cell),
    };
    // Ports inside a microVM are its guest's to open.
    let guest = spec.microvm.is_some() || spec.container.is_some();
    let ours = |f: &&PortForward| !guest || matches!(f.at, ListenAddress::Host(_));
    spec.forwards.iter().filter(ours).map(open).collect()
}

fn listen(path: &Path) -> Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    let _stale = fs::remove_file(path);
    let listener = UnixListener::bind(path).map_err(Error::file("listen on", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))
        .map_err(Error::file("protect", path))?;
    listener
        .set_nonblocking(true)
        .map_err(Error::file("listen on", path))?;
    Ok(listener)
}
