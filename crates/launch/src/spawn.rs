//! Starts a program in a child process: control groups, limits, user, descriptors, then exec.

use crate::isolation::BpfInstruction;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Program to execute.
#[derive(Debug)]
pub enum Executable {
    /// Path of the program, and an open file of it for a user who cannot reach the path.
    Path(CString, Option<OwnedFd>),
    /// Open file of the program.
    File(OwnedFd),
}

/// Control groups that a child is in before it does anything.
///
/// Each way in is the one that does not wait for every processor: a process that moves itself by
/// `cgroup.procs` waits for the kernel to see that no other forks or executes just then, about 10 ms. Source:
/// clone(2), and `cgroup_procs_write_start` of the kernel.
#[derive(Debug, Default)]
pub struct CgroupEntrances {
    /// Directory of version 2, in which the child is born.
    pub born_in: Option<OwnedFd>,
    /// Open `tasks` of version 1, by which the child moves itself, being one thread.
    pub joined: Vec<OwnedFd>,
}

/// Specification of a child process.
#[derive(Debug)]
pub struct LaunchSpec {
    /// Program to execute.
    pub program: Executable,
    /// Arguments; the first is the program's name.
    pub argv: Vec<CString>,
    /// Complete environment, as `NAME=value`.
    pub env: Vec<CString>,
    /// Working directory.
    pub cwd: CString,
    /// User and group id to change to; none keeps the caller's.
    pub user: Option<u32>,
    /// Control groups of the child.
    pub groups: CgroupEntrances,
    /// Resource limits as (resource, value); soft and hard limits are equal.
    pub rlimits: Vec<(i32, u64)>,
    /// Descriptors of the child from number 0 on: standard input, output, error, and further ones.
    pub fds: Vec<OwnedFd>,
    /// Whether the child starts a session of its own.
    pub new_session: bool,
    /// Whether descriptor 0 is a terminal that becomes the session's controlling terminal.
    pub terminal: bool,
    /// Whether the child is killed when the thread that spawned it ends.
    pub dies_with_parent: bool,
    /// Whether the child may gain privileges by executing programs: only for programs in a microVM, and rootless
    /// Podman.
    pub new_privileges: bool,
}

/// Steps of a launch, for messages.
const STAGES: [&str; 9] = [
    "join a control group",
    "start a session",
    "set a resource limit",
    "become its user",
    "enter the working directory",
    "forbid new privileges",
    "arrange descriptors",
    "tie its life to the shim",
    EXECUTE,
];

/// The stage at which no further process could be made.
pub const FORK: &str = "fork";

/// The stage at which the program itself could not be executed.
pub const EXECUTE: &str = "execute the program";

/// A child could not be started.
#[derive(Debug)]
pub struct SpawnError {
    /// Step that failed.
    pub stage: &'static str,
    /// System error.
    pub source: io::Error,
}

impl SpawnError {
    /// Forks the calling process, which must have one thread. Returns the child's pid in the parent and none in the
    /// child.
    fn fork(source: io::Error) -> Self {
        SpawnError {
            stage: FORK,
            source,
        }
    }
}

impl std::fmt::Display for SpawnError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "could not {}", self.stage)
    }
}
impl std::error::Error for SpawnError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Pointers prepared before the fork; they borrow from the [`LaunchSpec`] beside them.
struct Prepared<'a> {
    spec: &'a LaunchSpec,
    groups: &'a [OwnedFd],
    argv: Vec<*const libc::c_char>,
    env: Vec<*const libc::c_char>,
    fds: Vec<RawFd>,
}

impl<'a> Prepared<'a> {
    fn new(spec: &'a LaunchSpec, groups: &'a CgroupEntrances) -> Self {
        let pointers = |texts: &[CString]| {
            texts
                .iter()
                .map(|t| t.as_ptr())
                .chain([std::ptr::null()])
                .collect::<Vec<_>>()
        };
        Prepared {
            spec,
            groups: &groups.joined,
            argv: pointers(&spec.argv),
            env: pointers(&spec.env),
            fds: spec.fds.iter().map(AsRawFd::as_raw_fd).collect(),
        }
    }

    /// Becomes the program; returns only on failure, with the stage and the error number.
    ///
    /// # Safety
    /// Only in a process that may be replaced; after a fork only when the parent had one thread
    /// or the child does nothing but this. Makes system calls only: no allocation, no locks.
    unsafe fn become_it(&self) -> (usize, i32) {
        // SAFETY: of the whole body: every pointer comes from a CString, Vec or fd that `self` borrows
        // and that outlives the call; all calls are plain system calls with checked results.
        unsafe {
            let failed = |stage: usize| (stage, *libc::__errno_location());
            if join_v1_cgroups(self.groups).is_err() {
                return failed(0);
            }
            if self.spec.new_session && libc::setsid() < 0 {
                return failed(1);
            }
            if set_resource_limits(&self.spec.rlimits).is_err() {
                return failed(2);
            }
            libc::umask(0o077);
            if let Some(id) = self.spec.user
                && (libc::setgroups(0, std::ptr::null()) != 0
                    || libc::setresgid(id, id, id) != 0
                    || libc::setresuid(id, id, id) != 0)
            {
                return failed(3);
            }
            // As its user: a directory that the user may not enter lends it nothing below.
            if libc::chdir(self.spec.cwd.as_ptr()) != 0 {
                return failed(4);
            }
            if !self.spec.new_privileges && libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            {
                return failed(5);
            }
            // Move every wanted descriptor out of the way first, then into place.
            let base = 100;
            for (i, fd) in self.fds.iter().enumerate() {
                if libc::dup3(*fd, base + i as i32, libc::O_CLOEXEC) < 0 {
                    return failed(6);
                }
            }
            for i in 0..self.fds.len() as i32 {
                if libc::dup2(base + i, i) < 0 {
                    return failed(6);
                }
            }
            if self.spec.terminal && libc::ioctl(0, libc::TIOCSCTTY, 0) != 0 {
                return failed(6);
            }
            // Nothing else is inherited: all other descriptors close on exec.
            let first = self.fds.len() as libc::c_uint;
            libc::syscall(
                libc::SYS_close_range,
                first,
                libc::c_uint::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            );
            for signal in 1..32 {
                libc::signal(signal, libc::SIG_DFL);
            }
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
            // After the change of user, which clears it.
            if self.spec.dies_with_parent
                && libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) != 0
            {
                return failed(7);
            }
            let by_file = |fd: RawFd| {
                libc::syscall(
                    libc::SYS_execveat,
                    fd,
                    c"".as_ptr(),
                    self.argv.as_ptr(),
                    self.env.as_ptr(),
                    libc::AT_EMPTY_PATH,
                );
            };
            match &self.spec.program {
                Executable::Path(path, file) => {
                    libc::execve(path.as_ptr(), self.argv.as_ptr(), self.env.as_ptr());
                    if *libc::__errno_location() == libc::EACCES
                        && let Some(file) = file
                    {
                        by_file(file.as_raw_fd());
                    }
                }
                Executable::File(file) => by_file(file.as_raw_fd()),
            }
            failed(8)
        }
    }

    /// The whole of a forked child: becomes the program, or reports why not and ends.
    fn run(&self, report: &OwnedFd) -> ! {
        // SAFETY: we are the child; see `become_it`. The report's descriptor is moved above those that are
        // arranged, so that it survives until exec closes it.
        unsafe {
            let report = libc::fcntl(report.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 200);
            let (stage, errno) = self.become_it();
            let message = [stage as i32, errno];
            libc::write(report, message.as_ptr().cast(), 8);
            libc::_exit(127);
        }
    }
}

/// Running child process.
#[derive(Debug)]
pub struct Child {
    /// Process id.
    pub pid: i32,
    /// Handle that never refers to another process.
    pub pidfd: OwnedFd,
}

/// Moves the calling thread into version 1 control groups, by writing to their open `tasks` files.
pub(crate) fn join_v1_cgroups(groups: &[OwnedFd]) -> io::Result<()> {
    for group in groups {
        rustix::io::write(group, b"0")?;
    }
    Ok(())
}

/// Sets resource limits of this process, given as (resource, value); soft and hard limits are equal.
pub(crate) fn set_resource_limits(limits: &[(i32, u64)]) -> io::Result<()> {
    for (resource, value) in limits {
        let limit = libc::rlimit {
            rlim_cur: *value,
            rlim_max: *value,
        };
        // SAFETY: the structure outlives the call.
        if unsafe { libc::setrlimit(*resource as _, &raw const limit) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Moves the calling process into control groups of both versions.
pub(crate) fn join_cgroups(groups: &CgroupEntrances) -> io::Result<()> {
    join_v1_cgroups(&groups.joined)?;
    if let Some(directory) = &groups.born_in {
        use rustix::fs::{Mode, OFlags, openat};
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let entrance = openat(directory, "cgroup.procs", flags, Mode::empty())?;
        rustix::io::write(&entrance, b"0")?;
    }
    Ok(())
}

/// Source: `linux/sched.h`; the value that `libc` has is cut to 32 bits.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Forks the calling process into new namespaces (`flags` of clone(2)) and a version 2 control group. Returns the
/// child's pid and pidfd in the parent, and no pidfd in the child.
pub(crate) fn clone_process(
    flags: libc::c_int,
    group: Option<&OwnedFd>,
) -> io::Result<(i32, Option<OwnedFd>)> {
    let mut pidfd: libc::c_int = -1;
    let mut flags = u64::from((flags | libc::CLONE_PIDFD).cast_unsigned());
    if group.is_some() {
        flags |= CLONE_INTO_CGROUP;
    }
    let arguments = libc::clone_args {
        flags,
        pidfd: (&raw mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: group.map_or(0, |g| g.as_raw_fd().cast_unsigned().into()),
    };
    // SAFETY: without CLONE_VM and with no stack this is a fork; the caller has one thread, so the
    // copy is consistent. The structure and the handle's place outlive the call.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const arguments,
            size_of::<libc::clone_args>(),
        )
    };
    match pid {
        0 => Ok((0, None)),
        // SAFETY: the kernel has just made the descriptor for us.
        1.. => Ok((i32::try_from(pid).unwrap_or(0), unsafe {
            Some(OwnedFd::from_raw_fd(pidfd))
        })),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Installs a seccomp filter on the calling thread for good.
pub(crate) fn install_seccomp_filter(program: &[BpfInstruction]) -> io::Result<()> {
    let program: Vec<libc::sock_filter> = program
        .iter()
        .map(|(code, jt, jf, k)| libc::sock_filter {
            code: *code,
            jt: *jt,
            jf: *jf,
            k: *k,
        })
        .collect();
    let header = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap_or(u16::MAX),
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the program outlives the call, which copies it.
    let done = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const header,
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Starts a program in a child process with the groups, limits, user and descriptors of `spec`.
///
/// # Errors
/// [`SpawnError`] with the step that failed; no process is left.
pub fn spawn(spec: &LaunchSpec) -> Result<Child, SpawnError> {
    spawn_into(spec, &spec.groups)
}

/// Starts a program from a process that is in the right control groups already. The child shares the parent's
/// memory until it executes (`CLONE_VM`), so nothing is copied; therefore `spec` must not change the user.
pub(crate) fn spawn_sharing_memory(spec: &LaunchSpec) -> Result<Child, SpawnError> {
    const STACK: usize = 64 << 10;
    debug_assert!(spec.user.is_none());
    let groups = CgroupEntrances::default();
    let errand = (Prepared::new(spec, &groups), report_pipe()?);
    let mut stack = vec![0u128; STACK / 16];
    extern "C" fn child(errand: *mut libc::c_void) -> libc::c_int {
        // SAFETY: the pointer is to the errand of the waiting parent.
        let (prepared, (_, out)) = unsafe { &*errand.cast::<(Prepared<'_>, (OwnedFd, OwnedFd))>() };
        prepared.run(out)
    }
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the stack grows down from its end, is aligned to 16 bytes and, as the errand, outlives the child's
    // use of it: the parent goes on only when the child has executed its program or is gone.
    let pid = unsafe {
        let top = stack.as_mut_ptr().add(stack.len()).cast();
        libc::clone(child, top, flags, (&raw const errand).cast_mut().cast())
    };
    if pid < 0 {
        return Err(SpawnError::fork(io::Error::last_os_error()));
    }
    let (_, (report_in, report_out)) = errand;
    drop(report_out);
    wait_for_exec(pid, &report_in)
}

/// Starts a program, as [`spawn`], in a child that shares the caller's memory until it executes: nothing is copied, and no
/// page is written anew afterwards. For a caller whose memory is worth nothing to the user of `spec`, such as the first
/// process of a microVM: once the child has changed its user, the kernel lets no process of that user look into memory
/// that is shared like this (`commit_creds` makes it undumpable), but the child may be stopped there, and the caller
/// with it.
///
/// # Errors
/// As [`spawn`].
#[cfg(target_arch = "x86_64")]
pub fn spawn_without_copy(spec: &LaunchSpec) -> Result<Child, SpawnError> {
    const STACK: usize = 64 << 10;
    let errand = (Prepared::new(spec, &spec.groups), report_pipe()?);
    let mut stack = vec![0u128; STACK / 16];
    extern "C" fn child(errand: *mut libc::c_void) -> ! {
        // SAFETY: the pointer is to the errand of the waiting caller.
        let (prepared, (_, out)) = unsafe { &*errand.cast::<(Prepared<'_>, (OwnedFd, OwnedFd))>() };
        prepared.run(out)
    }
    let group = spec.groups.born_in.as_ref();
    let shared = u64::from((libc::CLONE_VM | libc::CLONE_VFORK).cast_unsigned());
    let arguments = libc::clone_args {
        flags: shared | group.map_or(0, |_| CLONE_INTO_CGROUP),
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: stack.as_mut_ptr() as u64,
        stack_size: size_of_val(stack.as_slice()) as u64,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: group.map_or(0, |g| g.as_raw_fd().cast_unsigned().into()),
    };
    let pid: i64;
    // SAFETY: the child begins on the stack that it was given, which is aligned to 16 bytes and, as the errand,
    // outlives its use: the caller goes on only when the child has executed its program or is gone. The child never
    // comes back from the call, so what the compiler expects after it holds in the caller alone. The kernel changes
    // no other registers than those named.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => pid,
            in("rdi") &raw const arguments,
            in("rsi") size_of::<libc::clone_args>(),
            in("r12") &raw const errand,
            in("r13") child as extern "C" fn(*mut libc::c_void) -> !,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    let (_, (report_in, report_out)) = errand;
    drop(report_out);
    match i32::try_from(pid) {
        Ok(pid @ 1..) => wait_for_exec(pid, &report_in),
        other => {
            let errno = other.unwrap_or_default().saturating_neg();
            Err(SpawnError::fork(io::Error::from_raw_os_error(errno)))
        }
    }
}

/// As [`spawn`], where nobody wrote how a child shares memory on this architecture.
///
/// # Errors
/// As [`spawn`].
#[cfg(not(target_arch = "x86_64"))]
pub fn spawn_without_copy(spec: &LaunchSpec) -> Result<Child, SpawnError> {
    spawn(spec)
}

/// Starts a program in a child process, as [`spawn`], but in the control groups `groups`.
pub(crate) fn spawn_into(spec: &LaunchSpec, groups: &CgroupEntrances) -> Result<Child, SpawnError> {
    let prepared = Prepared::new(spec, groups);
    let (report_in, report_out) = report_pipe()?;
    // The caller has one thread, so the child's copy is consistent; the child only runs `become_it`, writes
    // its report and leaves without running destructors.
    let forked = match &groups.born_in {
        Some(group) => clone_process(0, Some(group)).map(|(pid, _)| pid),
        // SAFETY: as said.
        None => match unsafe { libc::fork() } {
            pid @ 0.. => Ok(pid),
            _ => Err(io::Error::last_os_error()),
        },
    };
    let pid = forked.map_err(SpawnError::fork)?;
    if pid == 0 {
        prepared.run(&report_out);
    }
    drop(report_out);
    wait_for_exec(pid, &report_in)
}

/// Pipe over which a child reports the step and errno if it cannot execute its program.
pub(crate) fn report_pipe() -> Result<(OwnedFd, OwnedFd), SpawnError> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| SpawnError {
        stage: "make a pipe",
        source: e.into(),
    })
}

/// Waits until a child has executed its program, which closes the report pipe, or reports why it could not.
pub(crate) fn wait_for_exec(pid: i32, report: &OwnedFd) -> Result<Child, SpawnError> {
    let pidfd = pidfd_open(pid);
    let mut message = [0u8; 8];
    let mut got = 0;
    while got < 8 {
        match rustix::io::read(report, &mut message[got..]) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => {
                return Err(SpawnError {
                    stage: "hear from the child",
                    source: e.into(),
                });
            }
        }
    }
    if got == 8 {
        let number = |b: &[u8]| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]);
        let stage = usize::try_from(number(&message[..4]))
            .unwrap_or(0)
            .min(STAGES.len() - 1);
        // SAFETY: waits for the child that we forked and nobody else knows.
        unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
        let source = io::Error::from_raw_os_error(number(&message[4..]));
        return Err(SpawnError {
            stage: STAGES[stage],
            source,
        });
    }
    Ok(Child {
        pid,
        pidfd: pidfd.map_err(|source| SpawnError {
            stage: "open a handle of the child",
            source,
        })?,
    })
}

fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: a plain system call; the result is checked before it is owned.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// A copy of the caller: its number in the caller, none in the copy. The caller must have one
/// thread.
///
/// # Errors
/// What the system says.
pub fn fork() -> io::Result<Option<i32>> {
    // SAFETY: with one thread the copy is consistent, and both go on as ordinary processes.
    match unsafe { libc::fork() } {
        0 => Ok(None),
        pid if pid > 0 => Ok(Some(pid)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Exits this process at once, without running destructors or exit handlers, which a forked child must not run
/// twice.
pub fn exit_immediately(status: i32) -> ! {
    // SAFETY: ends this process.
    unsafe { libc::_exit(status) }
}

/// Number of the resource limit on open files.
pub const NOFILE: i32 = libc::RLIMIT_NOFILE as i32;
/// Number of the resource limit on core dumps.
pub const CORE: i32 = libc::RLIMIT_CORE as i32;

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(program: &str, script: &str) -> LaunchSpec {
        let text = |t: &str| CString::new(t).unwrap();
        LaunchSpec {
            program: Executable::Path(text(program), None),
            argv: ["sh", "-c", script].map(text).to_vec(),
            env: vec![text("A=1")],
            cwd: text("/"),
            user: None,
            groups: CgroupEntrances::default(),
            rlimits: vec![(NOFILE, 64)],
            fds: Vec::new(),
            new_session: true,
            terminal: false,
            dies_with_parent: false,
            new_privileges: false,
        }
    }

    fn status(child: &Child) -> i32 {
        let mut status = 0;
        // SAFETY: waits for a child of this test.
        unsafe { libc::waitpid(child.pid, &raw mut status, 0) };
        libc::WEXITSTATUS(status)
    }

    #[test]
    fn a_child_without_a_copy_runs_like_any_other() {
        let program = spec("/bin/sh", "exit $((6 + A))");
        assert_eq!(status(&spawn_without_copy(&program).unwrap()), 7);
        let limited = spec("/bin/sh", "exit $(ulimit -n)");
        assert_eq!(status(&spawn_without_copy(&limited).unwrap()), 64);
    }

    #[test]
    fn a_child_without_a_copy_reports_why_it_could_not_execute() {
        for _ in 0..3 {
            let failed = spawn_without_copy(&spec("/nowhere", "")).unwrap_err();
            assert_eq!(failed.stage, EXECUTE);
            assert_eq!(failed.source.raw_os_error(), Some(libc::ENOENT));
        }
    }
}
