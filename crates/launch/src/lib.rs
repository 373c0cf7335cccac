//! The code between fork and exec.
//!
//! [`spawn`] forks the calling process, which must be small and have one thread (the shim), and
//! the child turns itself into the wanted program: session, control groups, limits, user,
//! descriptors, signals, then exec. Everything that needs memory is prepared before the fork; the
//! child only makes system calls. Deliberately absent: async, logging, policy.
//!
//! This is the one room where `unsafe` is normal; each block says why it is sound.
#![allow(unsafe_code)]

mod enter;
mod init;
mod inside;
mod landlock;
mod walls;

pub use enter::{Target, run_behind};
pub use landlock::version as landlock_version;
pub use walls::{
    Attributes, Error as WallError, INNER_UID, InForce, Instruction, Landlock, Mount, Walled,
    Walls, spawn as spawn_walled,
};

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// The program to run.
#[derive(Debug)]
pub enum Program {
    /// A path. When the child's user cannot reach it, the file opened here is used instead.
    Path(CString, Option<OwnedFd>),
    /// This open file.
    File(OwnedFd),
}

/// What the child becomes.
#[derive(Debug)]
pub struct Spec {
    /// The program.
    pub program: Program,
    /// Arguments, the first being the name.
    pub argv: Vec<CString>,
    /// The whole environment, `NAME=value`.
    pub env: Vec<CString>,
    /// Working directory.
    pub cwd: CString,
    /// User and group to become; none keeps the caller's.
    pub user: Option<u32>,
    /// Open `cgroup.procs` files to join.
    pub cgroups: Vec<OwnedFd>,
    /// Resource limits, as (resource, value), soft and hard alike.
    pub rlimits: Vec<(i32, u64)>,
    /// Descriptors for standard input, output and error, and from 3 on what follows.
    pub fds: Vec<OwnedFd>,
    /// Whether it starts a session of its own.
    pub new_session: bool,
    /// Whether standard input is a terminal, which becomes that of the session.
    pub terminal: bool,
    /// Whether it dies with the thread that spawned it.
    pub dies_with_parent: bool,
    /// Whether programs of its may give it more rights: only inside a machine of its own.
    pub new_privileges: bool,
}

/// Steps of a launch, for messages.
const STAGES: [&str; 9] = [
    "join a control group",
    "start a session",
    "set a resource limit",
    "enter the working directory",
    "become its user",
    "forbid new privileges",
    "arrange descriptors",
    "tie its life to the shim",
    EXECUTE,
];

/// The stage at which the program itself could not be executed.
pub const EXECUTE: &str = "execute the program";

/// A launch that failed.
#[derive(Debug)]
pub struct Error {
    /// What could not be done.
    pub stage: &'static str,
    /// What the system says.
    pub source: io::Error,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "could not {}", self.stage)
    }
}
impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Pointers prepared before the fork; they borrow from the [`Spec`] beside them.
struct Prepared<'a> {
    spec: &'a Spec,
    argv: Vec<*const libc::c_char>,
    env: Vec<*const libc::c_char>,
    fds: Vec<RawFd>,
}

impl<'a> Prepared<'a> {
    fn new(spec: &'a Spec) -> Self {
        let pointers = |texts: &[CString]| {
            texts
                .iter()
                .map(|t| t.as_ptr())
                .chain([std::ptr::null()])
                .collect::<Vec<_>>()
        };
        Prepared {
            spec,
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
            if join(&self.spec.cgroups).is_err() {
                return failed(0);
            }
            if self.spec.new_session && libc::setsid() < 0 {
                return failed(1);
            }
            if limit(&self.spec.rlimits).is_err() {
                return failed(2);
            }
            // The directory is entered before the user changes: its parents need not be open.
            if libc::chdir(self.spec.cwd.as_ptr()) != 0 {
                return failed(3);
            }
            libc::umask(0o077);
            if let Some(id) = self.spec.user
                && (libc::setgroups(0, std::ptr::null()) != 0
                    || libc::setresgid(id, id, id) != 0
                    || libc::setresuid(id, id, id) != 0)
            {
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
                Program::Path(path, file) => {
                    libc::execve(path.as_ptr(), self.argv.as_ptr(), self.env.as_ptr());
                    if *libc::__errno_location() == libc::EACCES
                        && let Some(file) = file
                    {
                        by_file(file.as_raw_fd());
                    }
                }
                Program::File(file) => by_file(file.as_raw_fd()),
            }
            failed(8)
        }
    }
}

/// A running child.
#[derive(Debug)]
pub struct Child {
    /// Its number.
    pub pid: i32,
    /// A handle that cannot come to mean another process.
    pub pidfd: OwnedFd,
}

/// Writes itself into each open `cgroup.procs`.
fn join(groups: &[OwnedFd]) -> io::Result<()> {
    for group in groups {
        rustix::io::write(group, b"0")?;
    }
    Ok(())
}

/// Sets resource limits, soft and hard alike.
fn limit(limits: &[(i32, u64)]) -> io::Result<()> {
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

/// Forks the program and waits until it runs or could not be executed.
fn fork_program(spec: &Spec) -> Result<i32, Error> {
    spawn(spec).map(|child| child.pid)
}

/// A copy of the caller in new namespaces: in the caller its number and handle, in the copy no
/// handle.
fn clone_with(flags: libc::c_int) -> io::Result<(i32, Option<OwnedFd>)> {
    let mut pidfd: libc::c_int = -1;
    let arguments = libc::clone_args {
        flags: u64::from((flags | libc::CLONE_PIDFD).cast_unsigned()),
        pidfd: (&raw mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
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

/// A descriptor that this process was started with, under a number that both sides know.
///
/// # Errors
/// When there is none.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the copy is made by the kernel from a number that it checks; only the copy is owned here.
    unsafe {
        let copy = libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 10);
        if copy < 0 {
            return Err(io::Error::last_os_error());
        }
        libc::close(number);
        Ok(OwnedFd::from_raw_fd(copy))
    }
}

/// Keeps processes of the same user from looking into the caller.
///
/// # Errors
/// What the system says.
pub fn hide() -> io::Result<()> {
    // SAFETY: sets a flag of the calling process.
    match unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Feeds the kernel's generator of random numbers, and has it use that at once. Both `ioctl`s are in
/// random(4).
///
/// # Errors
/// What the system says; only root of a machine may.
pub fn seed_randomness(bytes: &[u8]) -> io::Result<()> {
    const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
    const RNDRESEEDCRNG: libc::c_ulong = 0x5207;
    #[repr(C)]
    struct Pool {
        bits: libc::c_int,
        size: libc::c_int,
        bytes: [u8; 64],
    }
    let device = std::fs::File::options().write(true).open("/dev/urandom")?;
    for part in bytes.chunks(64) {
        let mut pool = Pool {
            bits: i32::try_from(part.len() * 8).unwrap_or(0),
            size: i32::try_from(part.len()).unwrap_or(0),
            bytes: [0; 64],
        };
        pool.bytes[..part.len()].copy_from_slice(part);
        // SAFETY: the structure is laid out as random(4) wants, says how much of it counts, and outlives
        // the call.
        if unsafe { libc::ioctl(device.as_raw_fd(), RNDADDENTROPY as _, &raw const pool) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: takes no argument.
    match unsafe { libc::ioctl(device.as_raw_fd(), RNDRESEEDCRNG as _) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets the loopback interface of the caller's network up.
///
/// # Errors
/// What the system says.
pub fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )?;
    // SAFETY: the request is a local structure with a name that ends in NUL, as netdevice(7) wants.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as _;
        request.ifr_name[1] = b'o' as _;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
        match libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as _,
            &raw const request,
        ) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// CPU time of every child that was waited for, with theirs, in microseconds.
pub fn children_cpu_us() -> u64 {
    // SAFETY: an all-zero rusage is a valid value, and the call fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage);
        usage
    };
    let us = |t: libc::timeval| t.tv_sec.unsigned_abs() * 1_000_000 + t.tv_usec.unsigned_abs();
    us(usage.ru_utime) + us(usage.ru_stime)
}

/// Mounts of the calling thread's own: what it mounts is seen by nobody else, and gone with the last process
/// that has them.
///
/// # Errors
/// What the system says; only root may.
pub fn own_mounts() -> io::Result<()> {
    // SAFETY: plain calls; the path is a constant text with its end.
    unsafe {
        if libc::unshare(libc::CLONE_NEWNS) != 0 {
            return Err(io::Error::last_os_error());
        }
        let (none, flags) = (std::ptr::null(), libc::MS_REC | libc::MS_PRIVATE);
        match libc::mount(none, c"/".as_ptr(), none, flags, none.cast()) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Gives the calling thread, and what it starts from now on, a network of its own with nothing but
/// loopback.
///
/// # Errors
/// What the system says; an ordinary user may not.
pub fn own_network() -> io::Result<()> {
    // SAFETY: changes the network namespace of the calling thread only; no descriptor or memory is
    // concerned.
    match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
        0 => loopback_up(),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Empties every set of capabilities of the caller, for good.
///
/// # Errors
/// What the system says.
pub fn drop_all_capabilities() -> io::Result<()> {
    // SAFETY: plain calls on the calling thread; header and data are local and of the size that
    // version 3 of the interface reads.
    unsafe {
        let held = |n: i32| libc::prctl(libc::PR_CAPBSET_READ, n, 0, 0, 0);
        for number in 0..64 {
            if held(number) == 1 && libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL,
            0,
            0,
            0,
        );
        // _LINUX_CAPABILITY_VERSION_3, for the calling thread.
        let header: [u32; 2] = [0x2008_0522, 0];
        let none = [0u32; 6];
        match libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Installs a filter of system calls on the caller.
fn filter(program: &[Instruction]) -> io::Result<()> {
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

/// Starts a child.
///
/// # Errors
/// [`Error`] with the stage; no process is left then.
pub fn spawn(spec: &Spec) -> Result<Child, Error> {
    let prepared = Prepared::new(spec);
    let (report_in, report_out) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| Error {
            stage: "make a pipe",
            source: e.into(),
        })?;
    // SAFETY: the caller has one thread, so the child's copy is consistent; the child only runs
    // `become_it`, writes its report and leaves without running destructors.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(Error {
            stage: "fork",
            source: io::Error::last_os_error(),
        });
    }
    if pid == 0 {
        // SAFETY: we are the forked child; see `become_it`. The report's descriptor is moved
        // above those that are arranged, so that it survives until exec closes it.
        unsafe {
            let report = libc::fcntl(report_out.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 200);
            let (stage, errno) = prepared.become_it();
            let message = [stage as i32, errno];
            libc::write(report, message.as_ptr().cast(), 8);
            libc::_exit(127);
        }
    }
    drop(report_out);
    let pidfd = pidfd_open(pid);
    let mut message = [0u8; 8];
    let mut got = 0;
    while got < 8 {
        match rustix::io::read(&report_in, &mut message[got..]) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => {
                return Err(Error {
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
        return Err(Error {
            stage: STAGES[stage],
            source,
        });
    }
    Ok(Child {
        pid,
        pidfd: pidfd.map_err(|source| Error {
            stage: "open a handle of the child",
            source,
        })?,
    })
}

/// Becomes the program in place of the caller; returns only on failure.
pub fn replace(spec: &Spec) -> Error {
    let prepared = Prepared::new(spec);
    // SAFETY: the caller asks for its own replacement.
    let (stage, errno) = unsafe { prepared.become_it() };
    Error {
        stage: STAGES[stage],
        source: io::Error::from_raw_os_error(errno),
    }
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

/// A connection to a port of another address of the machine's own bus. Source: vsock(7).
///
/// # Errors
/// What the system says.
pub fn vsock(cid: u32, port: u32) -> io::Result<OwnedFd> {
    // SAFETY: the structure of zeros is a valid one; it outlives the call, and its size is told. The new
    // descriptor is owned at once.
    unsafe {
        let fd = libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = OwnedFd::from_raw_fd(fd);
        let mut to: libc::sockaddr_vm = std::mem::zeroed();
        to.svm_family = libc::AF_VSOCK as libc::sa_family_t;
        to.svm_cid = cid;
        to.svm_port = port;
        let size = size_of::<libc::sockaddr_vm>() as libc::socklen_t;
        match libc::connect(fd.as_raw_fd(), (&raw const to).cast(), size) {
            0 => Ok(fd),
            _ => Err(io::Error::last_os_error()),
        }
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

/// Ends the caller at once, without what a copied process must not run twice.
pub fn leave(status: i32) -> ! {
    // SAFETY: ends this process.
    unsafe { libc::_exit(status) }
}

/// A descriptor that becomes readable when a child ends. From then on the signal is blocked;
/// [`unblock_signals`] undoes that in a copy.
///
/// # Errors
/// What the system says.
pub fn child_events() -> io::Result<OwnedFd> {
    // SAFETY: the set is local and initialised; the new descriptor is ours.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Lets every signal through again.
pub fn unblock_signals() {
    // SAFETY: the set is local and initialised.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Gives the caller another name in listings of processes, as far as the old one leaves room.
pub fn set_title(title: &str) {
    let _name_is_for_people =
        rustix::thread::set_name(&CString::new(title.replace(' ', "-")).unwrap_or_default());
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().collect())
        .unwrap_or_default();
    // Fields 48 and 49 of the line; the state was field 3.
    let address = |n: usize| fields.get(n).and_then(|f| f.parse::<usize>().ok());
    let (Some(start), Some(end)) = (address(45), address(46)) else {
        return;
    };
    if start == 0 || end <= start {
        return;
    }
    // SAFETY: the kernel says that our arguments lie there, in memory of this process that may be
    // written; nothing of this program keeps references into it, as the standard library copies
    // arguments when asked, which callers have done before.
    unsafe {
        let area = std::slice::from_raw_parts_mut(start as *mut u8, end - start);
        area.fill(0);
        let n = title.len().min(area.len() - 1);
        area[..n].copy_from_slice(&title.as_bytes()[..n]);
    }
}

/// Becomes an ordinary user for good: no groups, no capability in any set, no way back.
///
/// # Errors
/// What the system says; the caller must end then.
pub fn become_ordinary(uid: u32) -> io::Result<()> {
    // SAFETY: plain calls on a process with one thread; each result is checked.
    unsafe {
        for number in 0..64 {
            if libc::prctl(libc::PR_CAPBSET_READ, number, 0, 0, 0) == 1
                && libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) != 0
            {
                return Err(io::Error::last_os_error());
            }
        }
        if libc::setgroups(0, std::ptr::null()) != 0
            || libc::setresgid(uid, uid, uid) != 0
            || libc::setresuid(uid, uid, uid) != 0
            || libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
        {
            return Err(io::Error::last_os_error());
        }
    }
    drop_all_capabilities()
}

/// Makes the caller the parent of every orphan below it, so that none escapes being reaped.
///
/// # Errors
/// What the system says.
pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: sets a flag of the calling process.
    match unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Number of the resource limit on open files.
pub const NOFILE: i32 = libc::RLIMIT_NOFILE as i32;
/// Number of the resource limit on core dumps.
pub const CORE: i32 = libc::RLIMIT_CORE as i32;

/// Leaves the parent: forks, ends the old process with status 0, and goes on in the child, which
/// the nearest reaper adopts. So the process that started us need not wait for our end.
///
/// # Errors
/// What the system says; the caller goes on undetached then.
pub fn detach() -> io::Result<()> {
    // SAFETY: the caller has one thread (see the room's rule), so its child is consistent; the
    // parent leaves without running destructors or flushing buffers twice.
    unsafe {
        match libc::fork() {
            0 => Ok(()),
            pid if pid > 0 => libc::_exit(0),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
