//! One more program in a cell that is up.

use crate::program_stream::{ProgramInvocation, follow_program, open_streams, report_not_run};
use crate::record;
use crate::sys::cgroup::ControlGroups;
use crate::sys::process;
use crate::sys::programs::{c_string, find_program, program_rlimits};
use crate::{CellRecord, Error, Result, sandbox};
use abbey_model::CellName;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Runs a further program in a running cell, carries its streams, and waits for it; kills it if the caller disconnects.
/// Returns a shell's status: 127 not found, 126 not executable (both with a line on the program's standard error), 128
/// plus the signal.
pub(super) fn run_in_cell(
    cells: &Path,
    cell: &CellName,
    uid: Option<u32>,
    program: &ProgramInvocation,
    caller: &UnixStream,
) -> Result<i32> {
    let not_running = || Error::NotRunning(cell.clone());
    let record: CellRecord = record::read_json(&cells.join(cell.to_string()).join("shim.json"))?
        .ok_or_else(not_running)?;
    let child = record.child.as_ref().ok_or_else(not_running)?;
    // The handle first, the check after: the number cannot change its meaning in between.
    let init = pidfd_open(
        Pid::from_raw(child.pid).ok_or_else(not_running)?,
        PidfdFlags::empty(),
    )
    .map_err(|_| not_running())?;
    if !process::is_alive(child) {
        return Err(not_running());
    }
    let search = program.env.iter().find(|(k, _)| k == "PATH");
    let search = search.map_or("", |(_, v)| v.as_str());
    let name = program.argv.first().map_or("", String::as_str);
    let isolated = record.sandbox.is_some();
    let texts = |all: &mut dyn Iterator<Item = String>| {
        all.map(|t| c_string(t.as_bytes()))
            .collect::<Result<Vec<_>>>()
    };
    let groups = ControlGroups::from_paths(record.groups.clone()).open_for_launch()?;
    let failed = |stage: &str, e: &io::Error| Error::Isolation {
        cell: cell.clone(),
        why: format!("could not {stage}: {e}"),
    };
    if let Some(sandbox_spec) = &record.sandbox {
        let door = way_in(init, child.pid).ok_or_else(not_running)?;
        let target = sandbox::entry_restrictions(door, sandbox_spec)?;
        abbey_launch::enter_isolation(&groups, &target).map_err(|e| failed(&e.what, &e.source))?;
    }
    // Inside, so that a program is one of the cell's own root.
    let Some(path) = find_program(name, search, &program.cwd) else {
        return Ok(report_not_run(caller, name, io::ErrorKind::NotFound));
    };
    // Inside, so that a terminal is one of the cell.
    let (ends, fds) = open_streams(program.terminal, uid.filter(|_| !isolated))?;
    let launch = abbey_launch::LaunchSpec {
        program: abbey_launch::Executable::Path(
            c_string(path.as_os_str().as_encoded_bytes())?,
            None,
        ),
        argv: texts(&mut program.argv.iter().cloned())?,
        env: texts(&mut program.env.iter().map(|(k, v)| format!("{k}={v}")))?,
        cwd: c_string(program.cwd.as_os_str().as_encoded_bytes())?,
        user: uid.filter(|_| !isolated),
        groups,
        rlimits: program_rlimits(record.processes),
        fds,
        new_session: true,
        terminal: program.terminal.is_some(),
        dies_with_parent: true,
        new_privileges: false,
    };
    let child = match isolated {
        false => abbey_launch::spawn(&launch).map_err(|e| (e.stage.to_owned(), e.source)),
        true => abbey_launch::spawn_in_isolation(&launch).map_err(|e| (e.what, e.source)),
    };
    let child = match child {
        Ok(child) => child,
        // Only the program's own execution is its caller's affair.
        Err((stage, e)) => {
            let kind = e.kind();
            let absent = matches!(
                kind,
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
            );
            return match kind {
                _ if stage == abbey_launch::EXECUTE && absent => {
                    Ok(report_not_run(caller, name, kind))
                }
                io::ErrorKind::WouldBlock if stage == abbey_launch::FORK => {
                    Err(Error::ProcessLimit {
                        cell: cell.clone(),
                        limit: record.processes,
                    })
                }
                _ => Err(failed(&stage, &e)),
            };
        }
    };
    drop(launch);
    Ok(follow_program(&child, ends, caller, Vec::new()))
}

/// A process through whose namespaces one may enter. The first process of a cell hides from other
/// users, and so from an ordinary user's hostd; its program, which was executed inside, does not.
fn way_in(init: OwnedFd, pid: i32) -> Option<OwnedFd> {
    if rustix::process::geteuid().is_root() {
        return Some(init);
    }
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    let program = children.split_whitespace().next()?.parse().ok()?;
    let handle = pidfd_open(Pid::from_raw(program)?, PidfdFlags::empty()).ok()?;
    // Still its child after we hold it: the number meant the same all the while.
    let after = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    let same = after.split_whitespace().any(|p| p.parse() == Ok(program));
    same.then_some(handle)
}
