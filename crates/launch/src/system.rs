//! Single requests to the kernel about the calling process.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Makes this process not dumpable, so that other processes of its user cannot trace it or read its memory and
/// descriptors.
///
/// # Errors
/// What the system says.
pub fn set_not_dumpable() -> io::Result<()> {
    // SAFETY: sets a flag of the calling process.
    match unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Adds entropy to the kernel's random number generator and reseeds it at once (random(4)).
///
/// # Errors
/// The system's error; root is required.
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

/// Rate of the processor's time stamp counter in kHz, measured once in a process and its children. None where the
/// processor has no such counter.
pub fn tsc_khz() -> Option<u32> {
    static RATE: std::sync::OnceLock<Option<u32>> = std::sync::OnceLock::new();
    *RATE.get_or_init(measure_tsc_khz)
}

#[cfg(target_arch = "x86_64")]
fn measure_tsc_khz() -> Option<u32> {
    use std::time::{Duration, Instant};
    // SAFETY: reads a counter of the processor, which every x86-64 has; nothing else depends on it.
    let counter = || unsafe { core::arch::x86_64::_rdtsc() };
    // Between two readings of the clock that are close together: another process may run in between.
    let reading = || {
        let readings = std::iter::repeat_with(|| {
            let before = Instant::now();
            (counter(), before.elapsed(), before)
        });
        let (ticks, _, at) = readings.take(8).min_by_key(|(_, took, _)| *took)?;
        Some((ticks, at))
    };
    let (first_ticks, first) = reading()?;
    std::thread::sleep(Duration::from_millis(20));
    let (last_ticks, last) = reading()?;
    let ns = u64::try_from((last - first).as_nanos()).ok()?;
    let ticks = last_ticks.checked_sub(first_ticks)?;
    let khz = u128::from(ticks) * 1_000_000 / u128::from(ns.max(1));
    u32::try_from(khz).ok().filter(|khz| *khz > 0)
}

#[cfg(not(target_arch = "x86_64"))]
fn measure_tsc_khz() -> Option<u32> {
    None
}

/// Brings the loopback interface of the current network namespace up.
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

/// CPU time in microseconds of all children that were waited for, including their descendants.
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

/// Gives the calling thread a private mount namespace: what it mounts is invisible elsewhere and vanishes with its
/// last process.
///
/// # Errors
/// The system's error; root is required.
pub fn unshare_mounts() -> io::Result<()> {
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

/// Gives the calling thread, and processes that it starts later, a network namespace with nothing but loopback.
///
/// # Errors
/// The system's error; root is required.
pub fn unshare_network() -> io::Result<()> {
    // SAFETY: changes the network namespace of the calling thread only; no descriptor or memory is
    // concerned.
    match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
        0 => loopback_up(),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Removes all capabilities of the calling thread from every set, for good.
///
/// # Errors
/// What the system says.
pub fn drop_all_capabilities() -> io::Result<()> {
    drop_bounding_set()?;
    // SAFETY: plain calls on the calling thread; header and data are local and of the size that
    // version 3 of the interface reads.
    unsafe {
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

/// Removes every capability that the kernel knows from the bounding set of the calling thread.
fn drop_bounding_set() -> io::Result<()> {
    for number in 0..64 {
        // SAFETY: plain calls on the calling thread.
        unsafe {
            if libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) == 0 {
                continue;
            }
            let refused = io::Error::last_os_error();
            match libc::prctl(libc::PR_CAPBSET_READ, number, 0, 0, 0) {
                // Not in the set, and this process may not change it.
                0 => {}
                1 => return Err(refused),
                // The kernel knows no further ones.
                _ => break,
            }
        }
    }
    Ok(())
}

/// Text of a file of the kernel, as in `/proc` and among control groups. Such a file has no size that could be asked for and
/// is small, so it is read with few system calls.
///
/// # Errors
/// What the system says; `InvalidData` for bytes that are not UTF-8.
pub fn read_kernel_file(path: impl AsRef<std::path::Path>) -> io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let mut bytes = vec![0; 4096];
    let mut length = 0;
    loop {
        match io::Read::read(&mut file, &mut bytes[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
        if length == bytes.len() {
            bytes.resize(2 * length, 0);
        }
    }
    bytes.truncate(length);
    String::from_utf8(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// Connects to a vsock port of the context id `cid` (vsock(7)).
///
/// # Errors
/// What the system says.
pub fn connect_vsock(cid: u32, port: u32) -> io::Result<OwnedFd> {
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

/// Whether the peer of a connected Unix socket has still to receive something that was sent to it (`SIOCOUTQ`, unix(7)).
///
/// # Errors
/// What the system says.
pub fn has_unreceived_bytes(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the request writes one integer, which outlives the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) } {
        0 => Ok(bytes > 0),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Non-blocking descriptor that becomes readable when a child ends (a signalfd for `SIGCHLD`). The signal is
/// blocked from then on; a forked child calls [`unblock_signals`].
///
/// # Errors
/// What the system says.
pub fn child_exit_fd() -> io::Result<OwnedFd> {
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

/// Unblocks all signals of the calling thread.
pub fn unblock_signals() {
    // SAFETY: the set is local and initialised.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Addresses at which the arguments of this process begin and end.
fn argument_area() -> Option<(usize, usize)> {
    let stat = read_kernel_file("/proc/self/stat").ok()?;
    // Fields 48 and 49 of the line; the first after the name is field 3.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(45);
    let (start, end) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    (start != 0 && end > start).then_some((start, end))
}

/// Sets the command line and name that process listings such as `ps` show for this process, cut to the length of
/// the original.
pub fn set_process_title(title: &str) {
    let _name_is_for_people =
        rustix::thread::set_name(&CString::new(title.replace(' ', "-")).unwrap_or_default());
    let Some((start, end)) = argument_area() else {
        return;
    };
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

/// Changes this process to user and group `uid` for good: no supplementary groups, no capabilities, no new
/// privileges.
///
/// # Errors
/// What the system says; the caller must end then.
pub fn become_ordinary_user(uid: u32) -> io::Result<()> {
    drop_bounding_set()?;
    // SAFETY: plain calls on a process with one thread; each result is checked.
    unsafe {
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

/// Makes this process the parent of orphaned descendants, so that it can reap all of them.
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

/// Forks, ends the original process with status 0, and continues in the child, so that the starter need not wait.
///
/// # Errors
/// The system's error; the caller continues undetached.
pub fn detach_from_parent() -> io::Result<()> {
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

/// Takes ownership of a descriptor that this process inherited under a fixed number.
///
/// # Errors
/// If there is none.
pub fn take_inherited_fd(number: RawFd) -> io::Result<OwnedFd> {
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

/// Gives pages of the heap that hold no object any more back to the system. The C library keeps them otherwise, where they
/// lie between objects that are still used. Does nothing on a C library without `malloc_trim` (malloc_trim(3)).
pub fn release_free_memory() {
    // SAFETY: takes no pointer and only returns memory that the allocator has marked free, under the allocator's own locks.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Unmaps the code of this program, which the kernel maps again, from its cache of the file, where it is executed next. What only
/// a start or a plan executes is not counted as memory of this process any more then; without this it is, for good. Does nothing
/// where the kernel does not show the mappings of a process.
pub fn release_program_code() {
    let Ok(program) = std::fs::read_link("/proc/self/exe") else {
        return;
    };
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for (start, end) in maps.lines().filter_map(|line| code_of(line, &program)) {
        // SAFETY: the range is one mapping of the program's file that is private, executable and not writable (madvise(2)): its
        // pages are those of the file, and reading them again gives the same. Nothing unmaps it while the program runs.
        let _optional = unsafe {
            rustix::mm::madvise(
                std::ptr::with_exposed_provenance_mut(start),
                end.saturating_sub(start),
                rustix::mm::Advice::LinuxDontNeed,
            )
        };
    }
}

/// First address and end of the mapping that a line of `/proc/PID/maps` (proc_pid_maps(5)) describes, if it is code of the file
/// `program`.
fn code_of(line: &str, program: &std::path::Path) -> Option<(usize, usize)> {
    let mut fields = line.splitn(6, ' ');
    let (range, mode) = (fields.next()?, fields.next()?);
    let file = fields.nth(3)?.trim_start();
    if mode != "r-xp" || std::path::Path::new(file) != program {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some((address(start)?, address(end)?))
}

/// Lets the threads of this process share `count` heaps. The C library makes more of them while threads allocate at once, up to
/// eight for each processor, and each keeps what its threads once used (mallopt(3), `M_ARENA_MAX`). To be called before there are
/// threads. Does nothing on another C library than glibc.
pub fn limit_heaps(count: std::ffi::c_int) {
    // SAFETY: takes no pointer; it sets a number of the allocator, which reads it under its own locks.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, count);
    }
    #[cfg(not(target_env = "gnu"))]
    let _one_heap = count;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn code_is_told_from_other_mappings() {
        let line = |mode: &str, file: &str| {
            format!(
                "55e06f003000-55e0709c3000 {mode} 008c1000 fe:00 10199109                   {file}"
            )
        };
        let program = Path::new("/opt/two words/abbey");
        let code = (0x55e0_6f00_3000, 0x55e0_709c_3000);
        let of = |mode, file| code_of(&line(mode, file), program);
        assert_eq!(of("r-xp", "/opt/two words/abbey"), Some(code));
        assert_eq!(of("r--p", "/opt/two words/abbey"), None);
        assert_eq!(of("rwxp", "/opt/two words/abbey"), None);
        assert_eq!(of("r-xp", "/lib/libc.so.6"), None);
        for other in ["", "x", "7ffd-7fff r-xp 00000000 00:00 0 [vdso]"] {
            assert_eq!(code_of(other, program), None);
        }
    }

    #[test]
    fn a_program_goes_on_without_its_code_in_memory() {
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
            let line = status.lines().find(|l| l.starts_with("RssFile:"));
            let field = line.and_then(|l| l.split_whitespace().nth(1));
            field.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0)
        };
        // What was executed so far, the reading of files included, is mapped.
        let before = (resident(), resident());
        release_program_code();
        let after = resident();
        assert!(after < before.1, "{before:?} {after}");
    }
}
