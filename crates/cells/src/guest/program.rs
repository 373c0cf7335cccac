//! Programs that the guest starts, with their standard streams.

use super::channel::StreamEnds;
use super::protocol::{GuestConfig, GuestStream, UID};
use super::setuid::has_setuid_programs;
use crate::sys::cgroup::ControlGroups;
use crate::sys::programs::{c_arguments, c_environment, c_string, find_program, program_rlimits};
use crate::sys::terminal::Terminal;
use crate::{Error, Result};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Abbey's own program in a microVM or container, and how it is started there.
pub const OWN_IN_GUEST: [&str; 4] = [
    "/abbey/lib/ld.so",
    "--library-path",
    "/abbey/lib",
    "/abbey/abbey",
];

pub(super) type StandardStreams = (Vec<OwnedFd>, Option<(Terminal, OwnedFd)>, Option<OwnedFd>);

/// Creates the standard streams of the guest's program: a terminal or pipes, whose other ends are added to `offers`
/// as streams to the shim.
pub(super) fn open_standard_streams(
    config: &GuestConfig,
    offers: &mut Vec<(GuestStream, StreamEnds)>,
) -> Result<StandardStreams> {
    let (ready, ready_child) = close_on_exec_pipe()?;
    rustix::io::ioctl_fionbio(ready.as_fd(), true)
        .map_err(|e| Error::file("make", "a pipe")(e.into()))?;
    // In a container there is one user.
    let user = (!config.contained).then(|| rustix::fs::Uid::from_raw(UID));
    rustix::fs::fchown(&ready_child, user, None)
        .map_err(|e| Error::file("hand over", "a pipe")(e.into()))?;
    let ready = config.announces.then_some(ready);
    let nonblocking = |fd: &OwnedFd| {
        rustix::io::ioctl_fionbio(fd, true).map_err(|e| Error::file("make", "a pipe")(e.into()))
    };
    if config.terminal {
        let (terminal, slave) = Terminal::open((!config.contained).then_some(UID))?;
        let copy = |fd: &OwnedFd| fd.try_clone().map_err(Error::file("use", "the terminal"));
        let fds = vec![copy(&slave)?, copy(&slave)?, slave, ready_child];
        let (ours, transcript) = close_on_exec_pipe()?;
        nonblocking(&ours)?;
        nonblocking(&transcript)?;
        offers.push((
            GuestStream::Output { errors: false },
            StreamEnds {
                reader: Some(ours),
                writer: None,
            },
        ));
        return Ok((fds, Some((terminal, transcript)), ready));
    }
    let mut fds = Vec::new();
    let (input, ours) = close_on_exec_pipe()?;
    nonblocking(&ours)?;
    fds.push(input);
    offers.push((
        GuestStream::Input {},
        StreamEnds {
            reader: None,
            writer: Some(ours),
        },
    ));
    for errors in [false, true] {
        let (ours, output) = close_on_exec_pipe()?;
        nonblocking(&ours)?;
        fds.push(output);
        offers.push((
            GuestStream::Output { errors },
            StreamEnds {
                reader: Some(ours),
                writer: None,
            },
        ));
    }
    for fd in &fds {
        rustix::fs::fchown(fd, user, None)
            .map_err(|e| Error::file("hand over", "a pipe")(e.into()))?;
    }
    fds.push(ready_child);
    Ok((fds, None, ready))
}

/// Creates a pipe whose ends (reader, writer) are closed on exec.
pub(super) fn close_on_exec_pipe() -> Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| Error::file("make", "a pipe")(e.into()))
}

/// Starts the program that the guest's instructions name, with these descriptors.
pub(super) fn spawn_main_program(
    config: &GuestConfig,
    groups: &ControlGroups,
    fds: Vec<OwnedFd>,
) -> Result<abbey_launch::Child> {
    let mut env = config.env.clone();
    if config.terminal {
        env.push(("TERM".to_owned(), "xterm-256color".to_owned()));
    }
    if config.announces {
        env.push(("ABBEY_READY_FD".to_owned(), "3".to_owned()));
    }
    let argv = match config.own {
        true => OWN_IN_GUEST
            .map(str::to_owned)
            .into_iter()
            .chain(config.argv.iter().skip(1).cloned())
            .collect(),
        false => config.argv.clone(),
    };
    launch_as_guest_user(&argv, &env, &config.cwd, groups, fds, config.terminal)
}

/// Starts a program in the guest as its ordinary user, within the control groups.
pub(super) fn launch_as_guest_user(
    argv: &[String],
    env: &[(String, String)],
    cwd: &Path,
    groups: &ControlGroups,
    fds: Vec<OwnedFd>,
    terminal: bool,
) -> Result<abbey_launch::Child> {
    let name = argv.first().map_or("", String::as_str);
    let search = env.iter().find(|(k, _)| k == "PATH");
    let search = search.map_or("", |(_, v)| v.as_str());
    let path: PathBuf = find_program(name, search, cwd)
        .ok_or_else(|| Error::file("find", name)(std::io::ErrorKind::NotFound.into()))?;
    // In a container everything is one user's, and the filter of system calls refuses `clone3`.
    let machine = rustix::process::getuid().is_root();
    let mut env = env.to_vec();
    env.push(("ABBEY_LIBRARIES".to_owned(), "/abbey/lib".to_owned()));
    let spec = abbey_launch::LaunchSpec {
        program: abbey_launch::Executable::Path(
            c_string(path.as_os_str().as_encoded_bytes())?,
            None,
        ),
        argv: c_arguments(argv)?,
        env: c_environment(&env)?,
        cwd: c_string(cwd.as_os_str().as_encoded_bytes())?,
        user: machine.then_some(UID),
        groups: groups.open_for_launch()?,
        rlimits: program_rlimits(None),
        fds,
        new_session: true,
        terminal,
        dies_with_parent: true,
        new_privileges: machine && has_setuid_programs(),
    };
    let started = match machine {
        true => abbey_launch::spawn_without_copy(&spec),
        false => abbey_launch::spawn(&spec),
    };
    started.map_err(|e| Error::File {
        what: e.stage,
        path,
        source: e.source,
    })
}

/// Reads a stream to its end. Fails if it has more than `most` bytes.
pub(super) fn read_to_end_bounded(stream: &UnixStream, most: u64) -> Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    stream
        .take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(Error::file("read", "a request"))?;
    match bytes.len() as u64 > most {
        true => Err(Error::file("read", "a request")(std::io::Error::other(
            "it is too long",
        ))),
        false => Ok(bytes),
    }
}
