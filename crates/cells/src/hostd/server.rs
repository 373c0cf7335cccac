//! The helper itself: one thread that accepts, and a process for each call.

use super::journal::{self, Line};
use super::operation::{Hello, Operation, REQUEST_MAX, Reply, Request};
use super::{Config, admission, exec, guest, host_facts, owner_files, pack, stage, sweep};
use crate::allocation::Claims;
use crate::network::firewall;
use crate::sys::{descriptors, lock};
use crate::{Error, Result, allocation, crash, files, record, shim};
use abbey_model::{CellName, Millis};
use rustix::event::{PollFd, PollFlags, poll};
use std::fs;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

/// Time for a request to arrive.
const REQUEST_WITHIN: Duration = Duration::from_secs(5);

/// Serves until it is told to end. `ready` is called once calls are accepted.
///
/// # Errors
/// When it cannot listen.
pub fn serve(config: &Config, ready: impl FnOnce()) -> Result<()> {
    let held = take_lock(config)?;
    let path = Config::socket(&config.home);
    let _stale = fs::remove_file(&path);
    let listener = UnixListener::bind(&path).map_err(Error::file("listen on", &path))?;
    protect(config, &path)?;
    super::reboot::settle(&config.dir(), &config.cells())?;
    let children =
        abbey_launch::child_events().map_err(Error::file("watch", "the end of children"))?;
    ready();
    loop {
        let mut fds = [
            PollFd::new(&listener, PollFlags::IN),
            PollFd::new(&children, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Error::file("wait on", &path)(e.into())),
        }
        let (called, ended) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
        if ended {
            let mut drained = [0u8; 1024];
            let _one_signal_may_stand_for_many = rustix::io::read(&children, &mut drained);
            while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {}
        }
        // The call to end removed it.
        if !path.exists() {
            return Ok(());
        }
        if !called {
            continue;
        }
        let Ok((stream, _)) = listener.accept() else {
            continue;
        };
        match abbey_launch::fork() {
            Ok(None) => {
                // A copy that lives on as a shim must not hold the helper's place.
                drop((held, listener, children));
                abbey_launch::unblock_signals();
                let status = i32::from(attend(config, &stream).is_err());
                abbey_launch::leave(status);
            }
            // The caller sees its connection close and tries again.
            Ok(Some(_)) | Err(_) => drop(stream),
        }
    }
}

/// One hostd a house: the second finds out and leaves.
fn take_lock(config: &Config) -> Result<fs::File> {
    let path = config.dir().join("hostd.lock");
    let busy = || Error::file("lock", &path)(io::ErrorKind::WouldBlock.into());
    lock::try_take(&path)?.ok_or_else(busy)
}

/// The control plane may call, and nobody else but root.
fn protect(config: &Config, path: &Path) -> Result<()> {
    use std::os::unix::fs::{PermissionsExt, chown};
    if config.privileged {
        chown(path, Some(0), Some(config.serve_uid)).map_err(Error::file("hand over", path))?;
    }
    let mode = if config.privileged { 0o660 } else { 0o600 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(Error::file("protect", path))
}

/// One call, in a process of its own.
fn attend(config: &Config, stream: &UnixStream) -> io::Result<()> {
    let peer = rustix::net::sockopt::socket_peercred(stream)?;
    let (uid, pid) = (peer.uid.as_raw(), peer.pid.as_raw_nonzero().get());
    let mut line = Line {
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
        Reply::Refused {
            why: format!("user {uid} is not the control plane of this house"),
        }
    } else {
        stream.set_read_timeout(Some(REQUEST_WITHIN))?;
        let (bytes, fds) = descriptors::receive(stream, REQUEST_MAX)?;
        match parse(&bytes) {
            Err(why) => Reply::Refused { why },
            Ok(request) => {
                let (op, subject) = request.operation.summary();
                op.clone_into(&mut line.op);
                line.subject = subject;
                line.dry_run = request.dry_run;
                perform(config, request, fds, stream, &line)
            }
        }
    };
    line.outcome = outcome(&reply);
    let only_looked = ["hello", "owners", "read", "observe"].contains(&line.op.as_str());
    if !only_looked && reply != Reply::InForce {
        journal::append(&config.dir(), &line);
    }
    answer(stream, &reply)
}

/// A request as it came over the wire; everything about it is in doubt.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn parse(bytes: &[u8]) -> std::result::Result<Request, String> {
    if bytes.len() as u64 > REQUEST_MAX {
        return Err("the request is too long".to_owned());
    }
    serde_json::from_slice(bytes).map_err(|e| format!("the request is not understood: {e}"))
}

fn outcome(reply: &Reply) -> String {
    match reply {
        Reply::Trial => "on trial".to_owned(),
        Reply::InForce => "in force".to_owned(),
        Reply::Done
        | Reply::Hello(_)
        | Reply::Owners { .. }
        | Reply::Text { .. }
        | Reply::Archives { .. }
        | Reply::Snapshot { .. }
        | Reply::Host { .. } => "done".to_owned(),
        Reply::Exit { code } => format!("done: status {code}"),
        Reply::Refused { why } => format!("refused: {why}"),
        Reply::Failed { why } => format!("failed: {why}"),
    }
}

fn answer(mut stream: &UnixStream, reply: &Reply) -> io::Result<()> {
    stream.set_write_timeout(Some(REQUEST_WITHIN))?;
    let mut bytes = serde_json::to_vec(reply)?;
    bytes.push(b'\n');
    stream.write_all(&bytes)
}

fn perform(
    config: &Config,
    request: Request,
    fds: Vec<OwnedFd>,
    stream: &UnixStream,
    line: &Line,
) -> Reply {
    match attempt(config, request, fds, stream, line) {
        Ok(reply) => reply,
        Err(error) => Reply::Failed {
            why: crate::error::chain(&error),
        },
    }
}

fn refused(why: impl Into<String>) -> Result<Reply> {
    Ok(Reply::Refused { why: why.into() })
}

pub(super) fn attempt(
    config: &Config,
    request: Request,
    fds: Vec<OwnedFd>,
    stream: &UnixStream,
    line: &Line,
) -> Result<Reply> {
    let dry = request.dry_run;
    let held = || allocation::open(&config.dir());
    match request.operation {
        Operation::Hello {} => {
            let uid_first = held()?.claims.uid_first;
            Ok(Reply::Hello(Hello {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                // The one that accepts, not this copy of it.
                pid: rustix::process::getppid().map_or(0, |p| p.as_raw_nonzero().get()),
                privileged: config.privileged,
                uid_first,
            }))
        }
        Operation::Owners {} => Ok(Reply::Owners {
            owners: held()?.claims.owners.into_keys().collect(),
        }),
        Operation::Claim { owner, claim } => {
            let mut held = held()?;
            if claim.uid.is_some() && !config.privileged {
                return refused("without privilege there are no users to give");
            }
            let before = held.claims.owners.get(&owner).cloned();
            match held.claims.give(&owner, claim) {
                Err(why) => return refused(why),
                Ok(()) if dry || before.as_ref() == held.claims.owners.get(&owner) => {}
                Ok(()) => {
                    crash::point("hostd.claim");
                    held.save()?;
                    crash::point("hostd.claimed");
                }
            }
            Ok(Reply::Done)
        }
        Operation::Release { owner } => {
            let mut held = held()?;
            if config.cells().join(owner.to_string()).exists() {
                return refused(format!("{owner} still has a cell"));
            }
            if config.dir_of(&owner).exists() {
                return refused(format!("{owner} still has files"));
            }
            if !dry && held.claims.owners.remove(&owner).is_some() {
                held.save()?;
                crash::point("hostd.released");
            }
            Ok(Reply::Done)
        }
        Operation::Prepare { owner, files } => {
            let uid = match claimed(config, &held()?.claims, &owner) {
                Ok(uid) => uid,
                Err(why) => return refused(why),
            };
            if !dry {
                crash::point("hostd.prepare");
                mounted(config, &owner)?;
                files::prepare_in(
                    &config.dir_of(&owner),
                    &owner,
                    config.serve_uid,
                    uid,
                    &files,
                )?;
                let agent = matches!(owner, CellName::Agent(_));
                if agent && guest::runs(&config.cells(), &owner)? {
                    guest::prepare(config, &owner, &files)?;
                }
                crash::point("hostd.prepared");
            }
            Ok(Reply::Done)
        }
        Operation::Observe {} => {
            let claims = held()?.claims;
            let first = config.privileged.then_some(claims.uid_first + 1);
            let facts = host_facts::observe(&config.group, first, claims.tag(), &config.images());
            Ok(Reply::Host {
                facts: Box::new(facts),
            })
        }
        Operation::Read { owner, file } => {
            let text = match guest::runs(&config.cells(), &owner)? {
                true => guest::read(config, &owner, file)?,
                false => {
                    mounted(config, &owner)?;
                    files::read_in(&config.dir_of(&owner), &file)?
                }
            };
            Ok(Reply::Text { text })
        }
        Operation::Archives {} => Ok(Reply::Archives {
            archives: owner_files::archives(config)?,
        }),
        Operation::Restore { owner, stamp } => {
            if !is_stamp(&stamp) || !matches!(owner, CellName::Agent(_)) {
                return refused("an agent's files are brought back by their stamp");
            }
            if !dry {
                crash::point("hostd.restore");
                owner_files::restore(config, &owner, &stamp)?;
                crash::point("hostd.restored");
            }
            Ok(Reply::Done)
        }
        Operation::Snapshot { label } => {
            if !is_stamp(&label) {
                return refused("a label is letters, digits and hyphens");
            }
            if dry {
                return Ok(Reply::Done);
            }
            let name = super::zfs::snapshot(&config.home, &label)?;
            Ok(Reply::Snapshot { name })
        }
        Operation::Archive { owner, stamp } => {
            if !is_stamp(&stamp) {
                return refused("a stamp is letters, digits and hyphens");
            }
            if !dry {
                crash::point("hostd.archive");
                owner_files::archive(config, &owner, &stamp)?;
                crash::point("hostd.archived");
            }
            Ok(Reply::Done)
        }
        Operation::Stage { owner } => {
            let uid = match claimed(config, &held()?.claims, &owner) {
                Ok(uid) => uid,
                Err(why) => return refused(why),
            };
            match (&owner, fds.into_iter().next()) {
                (CellName::Agent(_) | CellName::Service(_), _) => {
                    refused("only the files of a single command are brought along")
                }
                (CellName::Run(_), None) => refused("no archive came along"),
                (CellName::Run(_), Some(_)) if dry => Ok(Reply::Done),
                (CellName::Run(_), Some(fd)) => {
                    stage::stage(config, &owner, uid, fd).map(|()| Reply::Done)
                }
            }
        }
        Operation::Collect { owner, paths } => match (&owner, fds.into_iter().next()) {
            (CellName::Agent(_) | CellName::Service(_), _) => {
                refused("only the files of a single command are taken along")
            }
            (CellName::Run(_), None) => refused("no file came along"),
            (CellName::Run(_), Some(_)) if dry => Ok(Reply::Done),
            (CellName::Run(_), Some(fd)) => {
                stage::collect(config, &owner, &paths, fd).map(|()| Reply::Done)
            }
        },
        Operation::Discard { owner } => {
            if !matches!(owner, CellName::Run(_)) {
                return refused("only the files of a single command are ever deleted");
            }
            if config.cells().join(owner.to_string()).exists() {
                return refused(format!("{owner} still has a cell"));
            }
            if !dry {
                stage::discard(config, &owner)?;
                let mut held = held()?;
                if held.claims.owners.remove(&owner).is_some() {
                    held.save()?;
                }
            }
            Ok(Reply::Done)
        }
        Operation::Pack { owner } => match fds.into_iter().next() {
            None => refused("no file came along"),
            Some(_) if dry => Ok(Reply::Done),
            Some(fd) => {
                let claims = held()?.claims;
                pack::pack(config, &claims, owner.as_ref(), fd).map(|()| Reply::Done)
            }
        },
        Operation::Firewall { confirm_within } => firewall(config, dry, confirm_within, stream),
        Operation::Start { generation, spec } => {
            let claims = held()?.claims;
            let spec = match admission::admit(config, &claims, *spec) {
                Ok(spec) => spec,
                Err(why) => return refused(why),
            };
            if dry {
                return Ok(Reply::Done);
            }
            if spec.network.is_some() {
                stand_guard(config)?;
            }
            if spec.sandbox.is_some() {
                mounted(config, &spec.cell)?;
            }
            let streams = match fds.is_empty() {
                true => None,
                false => match <[OwnedFd; 3]>::try_from(fds) {
                    Ok(streams) => Some(streams),
                    Err(_) => {
                        return refused("three descriptors come along: input, output, errors");
                    }
                },
            };
            start(config, generation, spec, streams, stream, line)
        }
        Operation::Begin { spec } => {
            let spec = match admission::admit(config, &held()?.claims, *spec) {
                Ok(spec) => spec,
                Err(why) => return refused(why),
            };
            let Ok(streams) = <[OwnedFd; 3]>::try_from(fds) else {
                return refused("three descriptors come along: input, output, errors");
            };
            if !spec.machine.as_ref().is_some_and(|m| m.origin.waits()) {
                return refused("only a machine that waits can begin");
            }
            if dry {
                return Ok(Reply::Done);
            }
            guest::begin(config, spec, &streams).map(|()| Reply::Done)
        }
        Operation::Sweep { cell } => {
            if !dry {
                sweep::sweep(&config.cells(), &config.group, &cell)?;
            }
            Ok(Reply::Done)
        }
        Operation::Enter {
            cell,
            argv,
            env,
            cwd,
        } => {
            let uid = match claimed(config, &held()?.claims, &cell) {
                Ok(uid) => uid,
                Err(why) => return refused(why),
            };
            let Ok(streams) = <[OwnedFd; 3]>::try_from(fds) else {
                return refused("three descriptors come along: input, output, errors");
            };
            if argv.is_empty() {
                return refused("no program was named");
            }
            if dry {
                return Ok(Reply::Done);
            }
            if guest::serves(&config.cells(), &cell)? {
                let program = crate::guest::Command { argv, env, cwd };
                return guest::enter(&config.cells(), &cell, &program, streams, stream)
                    .map(|code| Reply::Exit { code });
            }
            let program = exec::Program { argv, env, cwd };
            exec::run(&config.cells(), &cell, uid, &program, streams, stream)
                .map(|code| Reply::Exit { code })
        }
        Operation::End {} => {
            if !dry {
                let empty = fs::remove_dir(config.cells()).is_ok();
                let parted = match empty && config.privileged {
                    true => part(config, held()?.claims.tag()),
                    false => Ok(()),
                };
                // The one that accepts looks after each call whether its socket is still there. It
                // ends whatever else happened; the next one finds what is left.
                let path = Config::socket(&config.home);
                fs::remove_file(&path).map_err(Error::file("remove", path))?;
                parted?;
            }
            Ok(Reply::Done)
        }
    }
}

/// Takes everything of the house off the network of the host.
fn part(config: &Config, tag: crate::Tag) -> Result<()> {
    crate::network::disconnect_all(tag).map_err(Error::file("remove", "interfaces"))?;
    firewall::remove(&config.dir(), tag)
}

/// Longest time for a firewall to be on trial.
const TRIAL_MAX: Millis = Millis::from_secs(60);

/// Brings the firewall to what the owners hold; see [`Operation::Firewall`].
fn firewall(
    config: &Config,
    dry: bool,
    confirm_within: Millis,
    stream: &UnixStream,
) -> Result<Reply> {
    let dir = config.dir();
    if !config.privileged {
        return Ok(Reply::InForce);
    }
    if confirm_within <= Millis(0) || confirm_within > TRIAL_MAX {
        return refused("a trial takes more than nothing and at most a minute");
    }
    let _one_at_a_time = lock::wait(&dir.join("firewall.lock"))?;
    // Others may change what they hold while it is on trial; the lock of the claims is not kept.
    // By value: a borrow would keep the lock with it.
    let claims = allocation::open(&dir)?.claims;
    let tag = claims.tag();
    if claims.owners.values().all(|c| c.subnet.is_none()) {
        return match dry || !firewall::is_there(&dir) {
            true => Ok(Reply::InForce),
            false => part(config, tag).map(|()| Reply::Done),
        };
    }
    if !dry {
        let on_bridge = claims.on_bridge();
        crate::network::bridge::stand(tag, &on_bridge)
            .map_err(Error::file("set up", "the bridge"))?;
    }
    if firewall::in_force(&dir, tag, &claims) {
        return Ok(Reply::InForce);
    }
    if dry {
        return Ok(Reply::Done);
    }
    crash::point("hostd.firewall");
    let before = firewall::apply(&dir, tag, &claims)?;
    crash::point("hostd.fired");
    let heard = answer(stream, &Reply::Trial).and_then(|()| {
        stream.set_read_timeout(Some(confirm_within.to_std()))?;
        let mut word = [0u8; 1];
        io::Read::read_exact(&mut &*stream, &mut word)
    });
    match heard {
        Ok(()) => Ok(Reply::Done),
        Err(_) => {
            firewall::restore(&dir, tag, before)?;
            let why = "nobody confirmed the new rules in time; the old ones are back".to_owned();
            Ok(Reply::Failed { why })
        }
    }
}

/// No cell with a network is started behind a firewall that is not there: it is put up again, or
/// the start fails.
fn stand_guard(config: &Config) -> Result<()> {
    let dir = config.dir();
    let _one_at_a_time = lock::wait(&dir.join("firewall.lock"))?;
    // Read under the lock: rules are never made from what somebody held a moment ago.
    let claims = allocation::open(&dir)?.claims;
    let tag = claims.tag();
    crate::network::bridge::stand(tag, &claims.on_bridge())
        .map_err(Error::file("set up", "the bridge"))?;
    match firewall::in_force(&dir, tag, &claims) {
        true => Ok(()),
        false => firewall::apply(&dir, tag, &claims).map(drop),
    }
}

/// Mounts the file systems that an owner's files are on, for the rest of this process.
fn mounted(config: &Config, owner: &CellName) -> Result<()> {
    let claims = allocation::open(&config.dir())?.claims;
    match claims.owners.get(owner).and_then(|c| c.disks) {
        Some(disks) if config.privileged => super::disks::enter(config, owner, disks),
        _ => Ok(()),
    }
}

/// Part of a name that could be nothing else.
fn is_stamp(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    !text.is_empty() && text.len() <= 40 && text.bytes().all(plain)
}

/// The user of an owner, who must have been claimed where there are users to give.
fn claimed(
    config: &Config,
    claims: &Claims,
    owner: &CellName,
) -> std::result::Result<Option<u32>, String> {
    match claims.owners.get(owner) {
        Some(claim) if !config.privileged || claim.uid.is_some() => Ok(claim.uid),
        _ => Err(format!("{owner} was not claimed")),
    }
}

/// Becomes the shim of a cell. Comes back only when it did not start.
fn start(
    config: &Config,
    generation: abbey_model::Generation,
    spec: crate::CellSpec,
    streams: Option<[OwnedFd; 3]>,
    stream: &UnixStream,
    line: &Line,
) -> Result<Reply> {
    let caller = stream
        .try_clone()
        .map_err(Error::file("keep", "the connection"))?;
    abbey_launch::set_title(&format!("abbey role shim {}", spec.cell));
    let (dir, mut line) = (config.dir(), line.clone());
    let report = move |outcome: std::result::Result<(), &str>| {
        let reply = match outcome {
            Ok(()) => Reply::Done,
            Err(why) => Reply::Failed {
                why: why.to_owned(),
            },
        };
        line.outcome = self::outcome(&reply);
        journal::append(&dir, &line);
        let _caller_gone = answer(&caller, &reply);
        let _caller_gone = caller.shutdown(std::net::Shutdown::Both);
    };
    let ended = shim::run(generation, spec, streams, report);
    abbey_launch::leave(i32::from(ended.is_err()))
}
