//! The helper itself: one thread that accepts, and a process for each call.

use super::house_subnets::withdraw_subnets;
use super::journal::{self, JournalLine};
use super::network_guard::NetworkGuard;
use super::operation::{
    Hello, HostdOperation, HostdReply, HostdRequest, REQUEST_MAX, refused, still_running,
};
use super::spare_networks::SpareNetworks;
use super::spare_process::SpareProcess;
use super::startup::{ANOTHER_HOSTD, START};
use super::users_lock::take_users;
use super::{
    HostdConfig, admission, checkpoint_sink, checkpoints, deleted_homes, disks, exec, guest,
    home_layout, host_facts, named_files, network_guard, owner_files, ownership, pack, rename,
    stage, sweep,
};
use crate::allocation::Allocations;
use crate::network::firewall;
use crate::program_stream::ProgramInvocation;
use crate::shim::ShimParts;
use crate::sys::cgroup::ControlGroups;
use crate::sys::{descriptors, lock, programs};
use crate::{Error, Result, allocation, crash, files, record, shim};
use abbey_model::{CellName, CheckpointLine, Millis};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

/// Time for a request to arrive.
const REQUEST_WITHIN: Duration = Duration::from_secs(5);
/// Pause after a call could not be accepted.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Accepts calls on hostd's socket, and serves each in a process of its own, until an `end` operation. `ready` is
/// called once calls are accepted.
///
/// # Errors
/// If the lock is taken or the socket cannot be created.
pub fn serve_hostd(config: &HostdConfig, ready: impl FnOnce()) -> Result<()> {
    let held = take_lock(config)?;
    let users = take_users(config)?;
    // Also of an earlier house at this path, whose processes were killed.
    deleted_homes::clean_up_after_deleted_homes(&config.home);
    let path = HostdConfig::socket_path(&config.home);
    let _stale = fs::remove_file(&path);
    let listener = UnixListener::bind(&path).map_err(Error::file("listen on", &path))?;
    protect(config, &path)?;
    super::reboot::record_ends_of_previous_boot(&config.hostd_dir(), &config.cell_records_dir())?;
    let children =
        abbey_launch::child_exit_fd().map_err(Error::file("watch", "the end of children"))?;
    let guard = config.privileged.then(NetworkGuard::open).transpose();
    let mut guard = guard.map_err(Error::file("watch", "the networks"))?;
    let spare = config.privileged.then(SpareNetworks::open).transpose();
    let mut spare = spare.map_err(Error::file("make", "a socket pair"))?;
    let mut process = SpareProcess::none();
    // Here and not in the process of each start, which would do it again.
    crate::sandbox::prepare_for_forks();
    if programs::is_installed(crate::microvm::QEMU) {
        abbey_launch::tsc_khz();
    }
    ready();
    loop {
        let mut fds = vec![
            PollFd::new(&listener, PollFlags::IN),
            PollFd::new(&children, PollFlags::IN),
        ];
        fds.extend(guard.iter().flat_map(NetworkGuard::poll_fds));
        let patience = [
            guard.as_ref().and_then(NetworkGuard::next_deadline),
            spare.as_ref().and_then(SpareNetworks::next_deadline),
            process.next_deadline(),
        ];
        let patience = patience.into_iter().flatten().min();
        let patience = patience.and_then(|time| Timespec::try_from(time).ok());
        let quiet = match poll(&mut fds, patience.as_ref()) {
            Ok(0) => true,
            Ok(_) | Err(rustix::io::Errno::INTR) => false,
            Err(e) => return Err(Error::file("wait on", &path)(e.into())),
        };
        let (called, ended) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
        let changed = fds[2..].iter().any(|fd| !fd.revents().is_empty());
        if ended {
            let mut drained = [0u8; 1024];
            let _one_signal_may_stand_for_many = rustix::io::read(&children, &mut drained);
            while let Ok(Some((pid, _))) =
                rustix::process::wait(rustix::process::WaitOptions::NOHANG)
            {
                if let Some(guard) = &mut guard {
                    guard.note_end(pid);
                }
            }
        }
        // The call to end removed it.
        if !path.exists() {
            return Ok(());
        }
        if let Some(guard) = &mut guard {
            if changed {
                guard.read_notices();
            }
            if guard.is_due() {
                match abbey_launch::fork() {
                    Ok(None) => {
                        drop((held, users, listener, children, process));
                        abbey_launch::unblock_signals();
                        network_guard::check_networks(config);
                        abbey_launch::exit_immediately(0);
                    }
                    Ok(Some(pid)) => guard.note_start(pid),
                    // The next notice or call tries again.
                    Err(_) => {}
                }
            }
        }
        if quiet && let Some(place) = process.fork_if_due() {
            drop((held, users, listener, children, guard, process));
            abbey_launch::unblock_signals();
            let status = match place.wait_for_call() {
                Some(stream) => i32::from(attend(config, &stream, spare).is_err()),
                None => 0,
            };
            abbey_launch::exit_immediately(status);
        }
        if let Some(spare) = spare.as_mut().filter(|_| quiet) {
            spare.make_if_due();
        }
        if !called {
            continue;
        }
        let Ok((stream, _)) = listener.accept() else {
            // Without a free descriptor the call stays in the queue, and `poll` reports it at once again.
            std::thread::sleep(ACCEPT_AGAIN);
            continue;
        };
        if let Some(spare) = &mut spare {
            spare.note_call();
        }
        if process.hand_over(&stream) {
            continue;
        }
        match abbey_launch::fork() {
            Ok(None) => {
                // A copy that lives on as a shim must not hold the helper's place.
                drop((held, users, listener, children, guard, process));
                abbey_launch::unblock_signals();
                let status = i32::from(attend(config, &stream, spare).is_err());
                abbey_launch::exit_immediately(status);
            }
            // The caller sees its connection close and tries again.
            Ok(Some(_)) | Err(_) => drop(stream),
        }
    }
}

/// One hostd a house: the second finds out and leaves.
fn take_lock(config: &HostdConfig) -> Result<fs::File> {
    let held = || Error::Hostd {
        op: START,
        why: ANOTHER_HOSTD.to_owned(),
    };
    lock::try_lock_file(&HostdConfig::lock_path(&config.home))?.ok_or_else(held)
}

/// The control plane may call, and nobody else but root.
fn protect(config: &HostdConfig, path: &Path) -> Result<()> {
    use std::os::unix::fs::{PermissionsExt, chown};
    if config.privileged {
        chown(path, Some(0), Some(config.serve_uid)).map_err(Error::file("hand over", path))?;
    }
    let mode = if config.privileged { 0o660 } else { 0o600 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(Error::file("protect", path))
}

/// One call, in a process of its own.
fn attend(
    config: &HostdConfig,
    stream: &UnixStream,
    spare: Option<SpareNetworks>,
) -> io::Result<()> {
    let peer = rustix::net::sockopt::socket_peercred(stream)?;
    let (uid, pid) = (peer.uid.as_raw(), peer.pid.as_raw_nonzero().get());
    let mut line = JournalLine {
        at: record::now(),
        uid,
        pid,
        op: "call".to_owned(),
        subject: String::new(),
        dry_run: false,
        outcome: String::new(),
    };
    let own = rustix::process::geteuid().as_raw();
    let reply = if uid != own && uid != config.serve_uid && uid != 0 {
        HostdReply::Refused {
            why: format!("user {uid} is not the control plane of this house"),
        }
    } else {
        stream.set_read_timeout(Some(REQUEST_WITHIN))?;
        let (bytes, fds) = descriptors::receive_line(stream, REQUEST_MAX)?;
        match parse_request(&bytes) {
            // Somebody only asked whether connections are accepted.
            _ if bytes.is_empty() => return Ok(()),
            Err(why) => HostdReply::Refused { why },
            Ok(request) => {
                let (op, subject) = request.operation.summary();
                op.clone_into(&mut line.op);
                line.subject = subject;
                line.dry_run = request.dry_run;
                perform_operation(config, request, fds, stream, &line, spare).unwrap_or_else(
                    |error| HostdReply::Failed {
                        why: error.into_reason(),
                    },
                )
            }
        }
    };
    line.outcome = outcome(&reply);
    // An entry about a checkpoint of the audit log would need the next checkpoint.
    let quiet = ["hello", "owners", "read", "observe", "checkpoints"];
    let only_looked = quiet.contains(&line.op.as_str());
    if !only_looked && reply != HostdReply::InForce {
        journal::append_journal_line(&config.hostd_dir(), &line);
    }
    answer(stream, &reply)
}

/// Parses a request from the wire, which is untrusted.
///
/// # Errors
/// A sentence that says what is invalid.
pub fn parse_request(bytes: &[u8]) -> std::result::Result<HostdRequest, String> {
    if bytes.len() as u64 > REQUEST_MAX {
        return Err("the request is too long".to_owned());
    }
    serde_json::from_slice(bytes).map_err(|e| format!("the request is invalid: {e}"))
}

fn outcome(reply: &HostdReply) -> String {
    match reply {
        HostdReply::Trial => "on trial".to_owned(),
        HostdReply::InForce => "in force".to_owned(),
        HostdReply::Done
        | HostdReply::Hello(_)
        | HostdReply::Owners { .. }
        | HostdReply::Text { .. }
        | HostdReply::Archives { .. }
        | HostdReply::Packed { .. }
        | HostdReply::Snapshot { .. }
        | HostdReply::Host { .. } => "done".to_owned(),
        HostdReply::Exit { code } => format!("done: status {code}"),
        HostdReply::Refused { why } => format!("refused: {why}"),
        HostdReply::Failed { why } => format!("failed: {why}"),
    }
}

fn answer(mut stream: &UnixStream, reply: &HostdReply) -> io::Result<()> {
    stream.set_write_timeout(Some(REQUEST_WITHIN))?;
    let mut bytes = serde_json::to_vec(reply)?;
    bytes.push(b'\n');
    stream.write_all(&bytes)
}

/// Checks and performs one operation, or only checks it for a dry run. `stream` is the caller's connection, `line`
/// the journal line that a started shim completes, `spare` the networks of which a start takes one.
pub(super) fn perform_operation(
    config: &HostdConfig,
    request: HostdRequest,
    fds: Vec<OwnedFd>,
    stream: &UnixStream,
    line: &JournalLine,
    spare: Option<SpareNetworks>,
) -> Result<HostdReply> {
    let dry = request.dry_run;
    // Whoever serves a long call keeps none of them.
    let spare = spare.filter(|_| matches!(request.operation, HostdOperation::Start { .. }));
    let held = || allocation::lock_allocations(&config.hostd_dir());
    match request.operation {
        HostdOperation::Hello {} => {
            let uid_first = held()?.allocations.uid_first;
            Ok(HostdReply::Hello(Hello {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                // The one that accepts, not this copy of it.
                pid: rustix::process::getppid().map_or(0, |p| p.as_raw_nonzero().get()),
                privileged: config.privileged,
                uid_first,
            }))
        }
        HostdOperation::Owners {} => Ok(HostdReply::Owners {
            owners: held()?.allocations.owners,
        }),
        HostdOperation::Allocate { owner, allocation } => {
            ownership::allocate(config, held()?, &owner, allocation, dry)
        }
        HostdOperation::Release { owner } => ownership::release(config, held()?, &owner, dry),
        HostdOperation::Rename { owner, to } => {
            let mut held = held()?;
            if let Err(why) = rename::check(config, &held.allocations, &owner, &to) {
                return refused(why);
            }
            if !dry {
                crash::point("hostd.rename");
                rename::move_files(config, &owner, &to)?;
                if let Some(allocation) = held.allocations.owners.remove(&owner) {
                    let noted = &mut held.allocations;
                    for owners in [&mut noted.prepared, &mut noted.on_drives] {
                        if owners.remove(&owner) {
                            owners.insert(to.clone());
                        }
                    }
                    held.allocations.owners.insert(to, allocation);
                    held.save()?;
                }
                crash::point("hostd.renamed");
            }
            Ok(HostdReply::Done)
        }
        HostdOperation::Prepare { owner, files } => {
            let allocations = held()?.allocations;
            let uid = match claimed(config, &allocations, &owner) {
                Ok(uid) => uid,
                Err(why) => return refused(why),
            };
            if let Err(why) = ownership::require_files(config, &allocations, &owner) {
                return refused(why);
            }
            if !dry {
                crash::point("hostd.prepare");
                disks::mount_disks_of(config, &allocations, &owner)?;
                let (parent, name) = config.open_parent(&owner)?;
                let had_files = allocations.prepared.contains(&owner);
                let serve_uid = config.serve_uid;
                files::prepare_owner_files(
                    &parent, name, &owner, serve_uid, uid, had_files, &files,
                )?;
                let agent = matches!(owner, CellName::Agent(_));
                if agent && guest::is_running_microvm(&config.cell_records_dir(), &owner)? {
                    guest::write_guest_files(config, &owner, &files)?;
                }
                ownership::note_files(config, &allocations, &owner)?;
                crash::point("hostd.prepared");
            }
            Ok(HostdReply::Done)
        }
        HostdOperation::Observe {
            container_images,
            sizes_of,
        } => {
            let allocations = held()?.allocations;
            let mut facts = host_facts::observe_host(config, &allocations, container_images);
            facts.files_off_drives = host_facts::sizes_off_drives(config, sizes_of);
            Ok(HostdReply::Host {
                facts: Box::new(facts),
            })
        }
        HostdOperation::Read { owner, file } => {
            let text = match guest::is_running_microvm(&config.cell_records_dir(), &owner)? {
                true => guest::read_guest_file(config, &owner, file)?,
                false => {
                    let allocations = held()?.allocations;
                    disks::mount_disks_of(config, &allocations, &owner)?;
                    files::read_owner_file(&config.open_owner_dir(&owner)?, &file)?
                }
            };
            Ok(HostdReply::Text { text })
        }
        HostdOperation::ReadSecret { path } => match named_files::read_secret_file(config, &path) {
            Ok(text) => Ok(HostdReply::Text { text }),
            Err(why) => refused(why),
        },
        HostdOperation::ProtectHome {} => home_layout::protect_home(config, dry),
        HostdOperation::Archives {} => Ok(HostdReply::Archives {
            archives: owner_files::list_archives(config)?,
        }),
        HostdOperation::Restore { owner, stamp } => {
            if !is_stamp(&stamp) || !matches!(owner, CellName::Agent(_)) {
                return refused(
                    "only an agent's files can be restored, by the time stamp of their archive",
                );
            }
            if guest::is_running(&config.cell_records_dir(), &owner)? {
                return refused(still_running(&owner));
            }
            if !dry {
                crash::point("hostd.restore");
                owner_files::restore_owner_files(config, &owner, &stamp)?;
                crash::point("hostd.restored");
            }
            Ok(HostdReply::Done)
        }
        HostdOperation::Fill { owner } => {
            let known = held()?.allocations.owners.contains_key(&owner);
            if known || !matches!(owner, CellName::Agent(_)) {
                return refused("only an agent that is still to be created can be filled");
            }
            match fds.into_iter().next() {
                None => refused("the request passed no file descriptor of an archive"),
                Some(_) if dry => Ok(HostdReply::Done),
                Some(fd) => {
                    owner_files::fill_owner_files(config, &owner, fd)?;
                    Ok(HostdReply::Done)
                }
            }
        }
        HostdOperation::Snapshot { label } => {
            if !is_stamp(&label) {
                return refused("a label consists of letters, digits and hyphens");
            }
            if dry {
                return Ok(HostdReply::Done);
            }
            let name = super::zfs::create_zfs_snapshot(&config.home, &label)?;
            Ok(HostdReply::Snapshot { name })
        }
        HostdOperation::Archive { owner, stamp } => {
            if !is_stamp(&stamp) {
                return refused("a time stamp consists of letters, digits and hyphens");
            }
            if guest::is_running(&config.cell_records_dir(), &owner)? {
                return refused(still_running(&owner));
            }
            if !dry {
                crash::point("hostd.archive");
                ownership::forget_files(config, &owner)?;
                owner_files::archive_owner_files(config, &owner, &stamp)?;
                crash::point("hostd.archived");
            }
            Ok(HostdReply::Done)
        }
        HostdOperation::Stage { owner } => {
            let uid = match claimed(config, &held()?.allocations, &owner) {
                Ok(uid) => uid,
                Err(why) => return refused(why),
            };
            match (&owner, fds.into_iter().next()) {
                (CellName::Agent(_) | CellName::Service(_), _) => {
                    refused("only a command (`run-…`) has staged files")
                }
                (CellName::Run(_), None) => {
                    refused("the request passed no file descriptor of an archive")
                }
                // A microVM that waits for its program does not see these files until it begins.
                (CellName::Run(_), Some(_))
                    if config.is_live(&owner)
                        && !guest::is_running_microvm(&config.cell_records_dir(), &owner)? =>
                {
                    refused(still_running(&owner))
                }
                (CellName::Run(_), Some(_)) if dry => Ok(HostdReply::Done),
                (CellName::Run(_), Some(fd)) => {
                    stage::unpack_command_files(config, &owner, uid, fd).map(|()| HostdReply::Done)
                }
            }
        }
        HostdOperation::Collect { owner, paths } => match (&owner, fds.into_iter().next()) {
            (CellName::Agent(_) | CellName::Service(_), _) => {
                refused("only files of a command (`run-…`) can be collected")
            }
            (CellName::Run(_), None) => refused("the request passed no file descriptor"),
            (CellName::Run(_), Some(_)) if dry => Ok(HostdReply::Done),
            (CellName::Run(_), Some(fd)) => {
                stage::pack_command_files(config, &owner, &paths, fd).map(|()| HostdReply::Done)
            }
        },
        HostdOperation::Discard { owner } => {
            if !matches!(owner, CellName::Run(_)) {
                return refused("only files of a command (`run-…`) can be deleted");
            }
            if config.is_live(&owner) {
                return refused(still_running(&owner));
            }
            if !dry {
                stage::delete_command_files(config, &owner)?;
                let mut held = held()?;
                if held.allocations.owners.remove(&owner).is_some() {
                    held.save()?;
                }
            }
            Ok(HostdReply::Done)
        }
        HostdOperation::Pack { owner, services } => match fds.into_iter().next() {
            None => refused("the request passed no file descriptor"),
            Some(_) if dry => Ok(HostdReply::Done),
            Some(fd) => {
                let allocations = held()?.allocations;
                let scope = pack::PackScope {
                    one: owner.as_ref(),
                    services,
                };
                let packed = pack::pack_owners(config, &allocations, scope, fd, stream)?;
                Ok(HostdReply::Packed {
                    left_out: packed.left_out,
                    incomplete: packed.incomplete,
                })
            }
        },
        HostdOperation::KeepCheckpoints { checkpoints } => {
            if let Some(why) = checkpoints::why_refused(&checkpoints) {
                return refused(why);
            }
            if !dry {
                let lines: Vec<_> = checkpoints
                    .into_iter()
                    .map(CheckpointLine::Checkpoint)
                    .collect();
                checkpoints::append_checkpoint_lines(&config.hostd_dir(), &lines)?;
            }
            Ok(HostdReply::Done)
        }
        HostdOperation::CopyCheckpoints { path } => {
            if dry {
                return Ok(HostdReply::Done);
            }
            match checkpoint_sink::copy_checkpoints(config, &path) {
                Ok(()) => Ok(HostdReply::Done),
                Err(why) => refused(why),
            }
        }
        HostdOperation::Firewall { confirm_within } => {
            firewall(config, dry, confirm_within, stream)
        }
        HostdOperation::Start { generation, spec } => {
            // Rules are never made from what somebody held a moment ago.
            let networked = spec.network.is_some();
            let firewall = networked.then(|| lock_firewall(&config.hostd_dir()));
            let firewall = firewall.transpose()?;
            let allocations = held()?.allocations;
            let spec = match admission::validate_spec(config, &allocations, *spec) {
                Ok(spec) => spec,
                Err(why) => return refused(why),
            };
            if dry {
                return Ok(HostdReply::Done);
            }
            if networked {
                stand_guard(config, &allocations)?;
            }
            drop(firewall);
            if spec.microvm.is_none() && allocations.on_drives.contains(&spec.cell) {
                ownership::forget_drives(config, &spec.cell)?;
            }
            if spec.sandbox.is_some() {
                disks::mount_disks_of(config, &allocations, &spec.cell)?;
                if let Err(why) = admission::verify_own_binds(config, &spec) {
                    return refused(why);
                }
            }
            let streams = match fds.is_empty() {
                true => None,
                false => match <[OwnedFd; 3]>::try_from(fds) {
                    Ok(streams) => Some(streams),
                    Err(_) => {
                        return refused(
                            "exactly three file descriptors must be passed: standard input, output and error",
                        );
                    }
                },
            };
            let allocation = allocations.owners.get(&spec.cell);
            let rules = match allocation.filter(|_| spec.network.is_some()) {
                Some(allocation) => {
                    let host = crate::network::wall::host_addresses(&allocations)?;
                    crate::network::wall::cell_rules(allocation, &host)
                }
                None => None,
            };
            let spare = spare.filter(|_| spec.sandbox.is_some());
            let network = spare.and_then(SpareNetworks::take);
            let parts = ShimParts {
                rules,
                streams,
                network,
            };
            start(config, generation, spec, parts, stream, line)
        }
        HostdOperation::Begin { spec } => {
            let spec = match admission::validate_spec(config, &held()?.allocations, *spec) {
                Ok(spec) => spec,
                Err(why) => return refused(why),
            };
            let Ok(streams) = <[OwnedFd; 3]>::try_from(fds) else {
                return refused(
                    "exactly three file descriptors must be passed: standard input, output and error",
                );
            };
            if !spec.microvm.as_ref().is_some_and(|m| m.origin.waits()) {
                return refused(
                    "a program can be started only in a microVM that is waiting for one",
                );
            }
            if dry {
                return Ok(HostdReply::Done);
            }
            guest::begin_program(config, spec, &streams).map(|()| HostdReply::Done)
        }
        HostdOperation::Sweep { cell } => {
            if !dry {
                sweep::sweep_cell(&config.cell_records_dir(), &config.group, &cell)?;
            }
            Ok(HostdReply::Done)
        }
        HostdOperation::Enter {
            cell,
            argv,
            env,
            cwd,
            terminal,
        } => {
            let uid = match claimed(config, &held()?.allocations, &cell) {
                Ok(uid) => uid,
                Err(why) => return refused(why),
            };
            let Ok([caller]) = <[OwnedFd; 1]>::try_from(fds).map(|fds| fds.map(UnixStream::from))
            else {
                return refused(
                    "exactly one file descriptor must be passed: the connection for the program's streams",
                );
            };
            if argv.is_empty() {
                return refused("the request names no program to run");
            }
            if dry {
                return Ok(HostdReply::Done);
            }
            let program = ProgramInvocation {
                argv,
                env,
                cwd,
                terminal,
            };
            let cells = config.cell_records_dir();
            let ended = match guest::has_running_guest(&cells, &cell)? {
                true => guest::run_in_guest(&cells, &cell, &program, &caller),
                false => exec::run_in_cell(&cells, &cell, uid, &program, &caller),
            };
            ended.map(|code| HostdReply::Exit { code })
        }
        HostdOperation::End {} => {
            if !dry {
                let empty = fs::remove_dir(config.cell_records_dir()).is_ok();
                if empty {
                    ControlGroups::remove_unused(&config.group, |_| false);
                }
                let parted = match empty && config.privileged {
                    true => {
                        let _nobody_repairs_it = lock_firewall(&config.hostd_dir())?;
                        let allocations = held()?.allocations;
                        withdraw_subnets(&allocations);
                        deleted_homes::clean_up_after_deleted_homes(&config.home);
                        part(config, allocations.house_tag())
                    }
                    false => Ok(()),
                };
                // The one that accepts looks after each call whether its socket is still there. It
                // ends whatever else happened; the next one finds what is left.
                let path = HostdConfig::socket_path(&config.home);
                fs::remove_file(&path).map_err(Error::file("remove", path))?;
                parted?;
            }
            Ok(HostdReply::Done)
        }
    }
}

/// Waits for the lock under which interfaces and firewall rules of the house change.
pub(super) fn lock_firewall(dir: &Path) -> Result<fs::File> {
    lock::lock_file(&dir.join("firewall.lock"))
}

/// Takes everything of the house off the network of the host.
fn part(config: &HostdConfig, tag: crate::HouseTag) -> Result<()> {
    crate::network::remove_all_interfaces(tag).map_err(Error::file("remove", "interfaces"))?;
    firewall::remove_firewall(&config.hostd_dir(), tag)
}

/// Longest time for a firewall to be on trial.
const TRIAL_MAX: Millis = Millis::from_secs(60);

/// Brings the firewall to what the owners hold; see [`HostdOperation::Firewall`].
fn firewall(
    config: &HostdConfig,
    dry: bool,
    confirm_within: Millis,
    stream: &UnixStream,
) -> Result<HostdReply> {
    let dir = config.hostd_dir();
    if !config.privileged {
        return Ok(HostdReply::InForce);
    }
    if confirm_within <= Millis(0) || confirm_within > TRIAL_MAX {
        return refused("`confirm_within` must be more than 0 and at most 1 minute");
    }
    let _one_at_a_time = lock_firewall(&dir)?;
    // Others may change what they hold while it is on trial; the lock of the allocations is not kept.
    // By value: a borrow would keep the lock with it.
    let allocations = allocation::lock_allocations(&dir)?.allocations;
    let tag = allocations.house_tag();
    if allocations.owners.values().all(|c| c.subnet.is_none()) {
        return match dry || !firewall::was_firewall_applied(&dir) {
            true => Ok(HostdReply::InForce),
            false => part(config, tag).map(|()| HostdReply::Done),
        };
    }
    if !dry {
        let on_bridge = allocations.bridged_subnets();
        crate::network::bridge::update_bridge(tag, &on_bridge)
            .map_err(Error::file("set up", "the bridge"))?;
    }
    if !dry {
        crate::network::repair::refresh_cell_rules(&config.cell_records_dir(), &allocations)?;
    }
    if firewall::is_firewall_current(&dir, tag, &allocations) {
        return Ok(HostdReply::InForce);
    }
    if dry {
        return Ok(HostdReply::Done);
    }
    crash::point("hostd.firewall");
    let before = firewall::apply_firewall(&dir, tag, &allocations)?;
    crash::point("hostd.fired");
    let heard = answer(stream, &HostdReply::Trial).and_then(|()| {
        stream.set_read_timeout(Some(confirm_within.to_std()))?;
        let mut word = [0u8; 1];
        io::Read::read_exact(&mut &*stream, &mut word)
    });
    match heard {
        Ok(()) => Ok(HostdReply::Done),
        Err(_) => {
            firewall::restore_firewall(&dir, tag, before)?;
            let why = "the new rules were not confirmed in time and were rolled back".to_owned();
            Ok(HostdReply::Failed { why })
        }
    }
}

/// No cell with a network is started behind a firewall that is not there: it is put up again, or
/// the start fails. The caller holds the lock of the firewall, and read the allocations under it.
fn stand_guard(config: &HostdConfig, allocations: &Allocations) -> Result<()> {
    let dir = config.hostd_dir();
    let tag = allocations.house_tag();
    crate::network::bridge::update_bridge(tag, &allocations.bridged_subnets())
        .map_err(Error::file("set up", "the bridge"))?;
    match firewall::is_firewall_current(&dir, tag, allocations) {
        true => Ok(()),
        false => firewall::apply_firewall(&dir, tag, allocations).map(drop),
    }
}

/// Part of a name that could be nothing else.
fn is_stamp(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    !text.is_empty() && text.len() <= 40 && text.bytes().all(plain)
}

/// The user of an owner, who must have been claimed where there are users to give.
fn claimed(
    config: &HostdConfig,
    allocations: &Allocations,
    owner: &CellName,
) -> std::result::Result<Option<u32>, String> {
    match allocations.owners.get(owner) {
        Some(claim) if !config.privileged || claim.uid.is_some() => Ok(claim.uid),
        _ => Err(format!("{owner} has no allocation")),
    }
}

/// Becomes the shim of a cell. Comes back only when it did not start.
fn start(
    config: &HostdConfig,
    generation: abbey_model::Generation,
    spec: crate::CellSpec,
    parts: ShimParts,
    stream: &UnixStream,
    line: &JournalLine,
) -> Result<HostdReply> {
    let caller = stream
        .try_clone()
        .map_err(Error::file("keep", "the connection"))?;
    abbey_launch::set_process_title(&format!("abbey role shim {}", spec.cell));
    let (dir, mut line) = (config.hostd_dir(), line.clone());
    let report = move |outcome: std::result::Result<(), &str>| {
        let reply = match outcome {
            Ok(()) => HostdReply::Done,
            Err(why) => HostdReply::Failed {
                why: why.to_owned(),
            },
        };
        line.outcome = self::outcome(&reply);
        journal::append_journal_line(&dir, &line);
        let _caller_gone = answer(&caller, &reply);
        let _caller_gone = caller.shutdown(std::net::Shutdown::Both);
    };
    let ended = shim::run_shim(generation, spec, parts, report);
    abbey_launch::exit_immediately(i32::from(ended.is_err()))
}
