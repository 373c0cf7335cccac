//! The first process of a cell: builds the isolation around itself, then starts the program.
//!
//! It is a copy of the shim, which has one thread, so it may allocate and use ordinary code. It
//! never returns: every way out is an exit.

use crate::isolation::{
    INNER_UID, Isolation, IsolationError, LandlockRules, Mount, MountAttributes, Result,
};
use crate::landlock;
use crate::spawn::LaunchSpec;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount,
    mount_change, move_mount, open_tree, unmount,
};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::process::Signal;
use rustix::thread::{
    CapabilitiesSecureBits, LinkNameSpaceType, Uid, move_into_link_name_space,
    set_capabilities_secure_bits, set_thread_res_uid,
};
use std::ffi::{CStr, CString};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Runs as the first process of a cell: builds its root, applies and verifies the restrictions, starts the program
/// and reaps. `channel` leads to the shim. Never returns.
pub(crate) fn run_cell_init(
    spec: &LaunchSpec,
    isolation: &Isolation,
    network: Option<OwnedFd>,
    outside: &Namespaces,
    channel: OwnedFd,
) -> ! {
    let status = match build(spec, isolation, network, outside, &channel) {
        Ok(program) => crate::init::reap_until_exit(program, &channel),
        Err(error) => {
            let number = error.source.raw_os_error().unwrap_or(0);
            tell(
                &channel,
                b'E',
                format!("{}\0{}\0{number}", error.what, error.on).as_bytes(),
            );
            127
        }
    };
    // SAFETY: ends this process at once; nothing of the copied parent may run.
    unsafe { libc::_exit(status) }
}

fn build(
    spec: &LaunchSpec,
    isolation: &Isolation,
    network: Option<OwnedFd>,
    outside: &Namespaces,
    channel: &OwnedFd,
) -> Result<i32> {
    let _not_a_leader = rustix::process::setsid();
    tie_to_parent()?;
    crate::spawn::join_v1_cgroups(&spec.groups.joined)
        .map_err(|e| IsolationError::new("join a control group", "", e))?;
    unshare(libc::CLONE_NEWCGROUP, "a control group namespace")?;
    if isolation.rootless {
        ask(channel, b'U')?;
    } else {
        drop_supplementary_groups()?;
    }
    match network {
        Some(network) => {
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(network.as_fd(), kind)
                .map_err(|e| IsolationError::new("enter", "its network", e))?;
        }
        None => {
            crate::loopback_up().map_err(|e| IsolationError::new("bring up", "lo", e))?;
        }
    }
    // The shim connects the network while the root is built.
    tell(channel, b'N', &[]);
    build_root(isolation)?;
    rustix::system::sethostname(isolation.hostname.as_bytes())
        .map_err(|e| IsolationError::new("set", "the host name", e))?;
    // Who listens at no address of the network need not wait for it yet.
    let listens = !isolation.listen.is_empty();
    if listens {
        answered(channel)?;
        hand_over(channel, &listen(isolation)?)?;
    }
    if !isolation.rootless {
        become_owner(isolation.outer_uid)?;
        unshare(libc::CLONE_NEWUSER, "a user namespace")?;
        tell(channel, b'U', &[]);
    }
    if !listens {
        answered(channel)?;
    }
    if !isolation.rootless {
        answered(channel)?;
    }
    crate::spawn::set_resource_limits(&spec.rlimits)
        .map_err(|e| IsolationError::new("set", "a resource limit", e))?;
    become_inner_user()?;
    drop_capabilities()?;
    rustix::thread::set_no_new_privs(true)
        .map_err(|e| IsolationError::new("set", "no_new_privs", e))?;
    // The change of user cleared it. A parent that died in between is noticed at the next question.
    tie_to_parent()?;
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(|e| IsolationError::new("forbid", "core dumps", e))?;
    if let Some(rules) = &isolation.landlock {
        landlock::restrict_by_landlock(&rules.write)
            .map_err(|e| IsolationError::new("apply", "Landlock", e))?;
    }
    for filter in &isolation.filters {
        crate::spawn::install_seccomp_filter(filter)
            .map_err(|e| IsolationError::new("install", "a filter of system calls", e))?;
    }
    let bits = read_back(outside, isolation.landlock.as_ref());
    tell(channel, b'R', &bits.to_ne_bytes());
    answered(channel)?;
    let program = crate::spawn::spawn_sharing_memory(spec)
        .map_err(|e| IsolationError::new(e.stage, argv0(spec), e.source))?;
    tell(channel, b'P', &[]);
    Ok(program.pid)
}

fn argv0(spec: &LaunchSpec) -> String {
    spec.argv
        .first()
        .map(|a| a.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn tie_to_parent() -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|e| IsolationError::new("tie its life to", "the shim", e))
}

fn unshare(flag: libc::c_int, what: &str) -> Result<()> {
    // SAFETY: changes namespaces of this process only, which has one thread.
    match unsafe { libc::unshare(flag) } {
        0 => Ok(()),
        _ => Err(IsolationError::new(
            "make",
            what,
            io::Error::last_os_error(),
        )),
    }
}

/// Makes the user of the cell, as the host knows it, the owner of the user namespace that is made next. What the kernel counts
/// by user inside of it (inotify instances, queued signals, locked memory) it counts for the owner too: with root as the owner
/// of all of them, one cell would use up what root and every other cell have. Source: `inc_ucount` and
/// `inc_rlimit_get_ucounts` of the kernel.
fn become_owner(outer_uid: u32) -> Result<()> {
    // Hosts that refuse user namespaces to ordinary users (`kernel.unprivileged_userns_clone`, AppArmor) want a capability
    // for one, which the change of user would take. A new user namespace begins without this setting.
    let _others_need_none = set_capabilities_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP);
    set_thread_res_uid(None, Uid::from_raw(outer_uid), None)
        .map_err(|e| IsolationError::new("become", "the owner of its user namespace", e))
}

/// Removes all supplementary groups of this process.
pub(crate) fn drop_supplementary_groups() -> Result<()> {
    // SAFETY: an empty list; the pointer is not read.
    match unsafe { libc::setgroups(0, std::ptr::null()) } {
        0 => Ok(()),
        _ => Err(IsolationError::new(
            "drop",
            "groups",
            io::Error::last_os_error(),
        )),
    }
}

/// Says something that is not waited for.
fn tell(channel: &OwnedFd, kind: u8, body: &[u8]) {
    let mut message = vec![kind];
    message.extend_from_slice(body);
    let _parent_gone = rustix::net::send(channel, &message, SendFlags::NOSIGNAL);
}

fn ask(channel: &OwnedFd, kind: u8) -> Result<()> {
    tell(channel, kind, &[]);
    answered(channel)
}

/// Waits for the parent's word; its silence is the end.
fn answered(channel: &OwnedFd) -> Result<()> {
    let mut word = [0u8; 1];
    loop {
        match rustix::net::recv(channel, &mut word[..], rustix::net::RecvFlags::empty()) {
            Ok((1, _)) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Ok(_) => {
                let gone = io::Error::from(io::ErrorKind::UnexpectedEof);
                return Err(IsolationError::new("hear from", "the shim", gone));
            }
            Err(e) => return Err(IsolationError::new("hear from", "the shim", e)),
        }
    }
}

/// Listens where the shim wants to.
fn listen(isolation: &Isolation) -> Result<Vec<std::net::TcpListener>> {
    let listen = |address| {
        std::net::TcpListener::bind(address)
            .map_err(|e| IsolationError::new("listen on", format!("{address}"), e))
    };
    isolation.listen.iter().map(listen).collect()
}

/// Gives listeners to the shim, which does not answer.
fn hand_over(channel: &OwnedFd, listeners: &[std::net::TcpListener]) -> Result<()> {
    let fds: Vec<_> = listeners.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fits = ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    let sent = rustix::net::sendmsg(
        channel,
        &[IoSlice::new(b"L")],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    );
    match (fits, sent) {
        (true, Ok(_)) => Ok(()),
        (_, Err(e)) => Err(IsolationError::new("hand over", "listeners", e)),
        (false, _) => {
            let many = io::Error::from(io::ErrorKind::InvalidInput);
            Err(IsolationError::new("hand over", "listeners", many))
        }
    }
}

/// Where the root of a cell is mounted while it is built, in its own mount namespace: a directory that every host has, and
/// below which nothing is that a cell gets.
const STAGING: &CStr = c"/proc";

fn build_root(isolation: &Isolation) -> Result<()> {
    let quiet = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change(c"/", quiet)
        .map_err(|e| IsolationError::new("part from", "the host's mounts", e))?;
    let owner = if isolation.rootless {
        INNER_UID
    } else {
        isolation.outer_uid
    };
    let named = |e: rustix::io::Errno| IsolationError::new("mount", "its root", e);
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount(c"abbey", STAGING, c"tmpfs", flags, c"mode=755,size=1m").map_err(named)?;
    let root = rustix::fs::open(
        STAGING,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(named)?;
    rustix::process::fchdir(&root).map_err(named)?;
    // What is made has exactly the mode of its step.
    let umask = rustix::process::umask(Mode::empty());
    for step in &isolation.mounts {
        apply(step, owner)?;
    }
    rustix::process::umask(umask);
    rustix::process::pivot_root(c".", c".")
        .map_err(|e| IsolationError::new("enter", "its root", e))?;
    unmount(c".", UnmountFlags::DETACH)
        .map_err(|e| IsolationError::new("leave", "the host's root", e))?;
    rustix::process::chdir(c"/").map_err(|e| IsolationError::new("enter", "its root", e))?;
    let sealed = MountAttributes {
        read_only: true,
        ..MountAttributes::default()
    };
    set_attributes(CWD.as_raw_fd(), c"/", sealed, false)
        .map_err(|e| IsolationError::new("seal", "its root", e))
}

/// One step, in the directory that becomes the root.
fn apply(step: &Mount, owner: u32) -> Result<()> {
    let (what, path, done) = match step {
        Mount::Dir(path, mode) => ("make", path, make_dir(path, *mode)),
        Mount::Link(path, to) => (
            "link",
            path,
            rustix::fs::symlink(to, path).map_err(Into::into),
        ),
        Mount::File(path, content, mode) => ("write", path, make_file(path, content, *mode)),
        Mount::Bind {
            source,
            path,
            attributes,
            optional,
        } => match bind(source, path, *attributes) {
            Err(e) if *optional && e.kind() == io::ErrorKind::NotFound => ("bind", path, Ok(())),
            Err(e) => return Err(IsolationError::new("bind", source.to_string_lossy(), e)),
            Ok(()) => ("bind", path, Ok(())),
        },
        Mount::Tmpfs(path, options, attributes) => {
            ("mount", path, tmpfs(path, options, owner, *attributes))
        }
        Mount::Proc(path) => ("mount", path, {
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            make_dir(path, 0o555).and_then(|()| {
                mount(c"proc", path.as_c_str(), c"proc", flags, c"").map_err(Into::into)
            })
        }),
        Mount::Pts(path) => ("mount", path, {
            let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
            // All instances of a host share one number of terminals; without `max` one cell could take them all.
            let options = c"newinstance,ptmxmode=0666,mode=0620,max=64";
            make_dir(path, 0o755).and_then(|()| {
                mount(c"devpts", path.as_c_str(), c"devpts", flags, options).map_err(Into::into)
            })
        }),
        Mount::Mask(path, empty) => ("mask", path, mask(path, empty)),
        Mount::ReadOnly(path) => ("seal", path, read_only(path)),
    };
    done.map_err(|e| IsolationError::new(what, path.to_string_lossy(), e))
}

fn make_dir(path: &CStr, mode: u32) -> io::Result<()> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn make_file(path: &CStr, content: &[u8], mode: u32) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::from_raw_mode(mode))?;
    io::Write::write_all(&mut std::fs::File::from(file), content)
}

/// Makes what is mounted over, unless it is there.
fn make_target(path: &CStr, is_dir: bool) -> io::Result<()> {
    match is_dir {
        true => make_dir(path, 0o755),
        false => match make_file(path, &[], 0o644) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        },
    }
}

/// Detached copy of a mount with everything below it.
fn clone_mount(source: &CStr) -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    open_tree(CWD, source, flags)
}

fn bind(source: &CStr, path: &CStr, attributes: MountAttributes) -> io::Result<()> {
    let tree = clone_mount(source)?;
    let is_dir = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&tree)?.st_mode)
        == rustix::fs::FileType::Directory;
    make_target(path, is_dir)?;
    attach(&tree, path, attributes)
}

/// Mounts a detached mount over what is at `path`.
fn attach(tree: &OwnedFd, path: &CStr, attributes: MountAttributes) -> io::Result<()> {
    set_attributes(tree.as_raw_fd(), c"", attributes, true)?;
    move_mount(
        tree,
        c"",
        CWD,
        path,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .map_err(Into::into)
}

fn tmpfs(path: &CStr, options: &str, owner: u32, attributes: MountAttributes) -> io::Result<()> {
    make_dir(path, 0o755)?;
    let mut flags = MountFlags::NOSUID;
    if !attributes.devices {
        flags |= MountFlags::NODEV;
    }
    if attributes.no_exec {
        flags |= MountFlags::NOEXEC;
    }
    let data = CString::new(format!("{options},uid={owner},gid={owner}"))?;
    mount(c"abbey", path, c"tmpfs", flags, data.as_c_str()).map_err(Into::into)
}

fn mask(path: &CStr, empty: &CStr) -> io::Result<()> {
    let Ok(stat) = rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) else {
        return Ok(());
    };
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory {
        let sealed = MountAttributes {
            read_only: true,
            devices: false,
            no_exec: true,
        };
        return attach(&clone_mount(empty)?, path, sealed);
    }
    let nothing = MountAttributes {
        devices: true,
        ..MountAttributes::default()
    };
    attach(&clone_mount(c"/dev/null")?, path, nothing)
}

fn read_only(path: &CStr) -> io::Result<()> {
    let tree = match clone_mount(path) {
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        tree => tree?,
    };
    let sealed = MountAttributes {
        read_only: true,
        devices: true,
        no_exec: false,
    };
    attach(&tree, path, sealed)
}

/// `mount_setattr(2)`; no set-user-id programs anywhere.
fn set_attributes(
    fd: i32,
    path: &CStr,
    attributes: MountAttributes,
    below: bool,
) -> io::Result<()> {
    let mut set = libc::MOUNT_ATTR_NOSUID;
    if attributes.read_only {
        set |= libc::MOUNT_ATTR_RDONLY;
    }
    if !attributes.devices {
        set |= libc::MOUNT_ATTR_NODEV;
    }
    if attributes.no_exec {
        set |= libc::MOUNT_ATTR_NOEXEC;
    }
    let change = libc::mount_attr {
        attr_set: set,
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    let mut flags = libc::AT_EMPTY_PATH;
    if below {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: the structure and the path outlive the call, and the size is the structure's.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd,
            path.as_ptr(),
            flags,
            &raw const change,
            size_of::<libc::mount_attr>(),
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Changes this process to the only user and group of the cell's user namespace.
pub(crate) fn become_inner_user() -> Result<()> {
    // SAFETY: plain calls; the ids are the only ones of this namespace.
    let done = unsafe {
        libc::setresgid(INNER_UID, INNER_UID, INNER_UID) == 0
            && libc::setresuid(INNER_UID, INNER_UID, INNER_UID) == 0
    };
    match done {
        true => Ok(()),
        false => Err(IsolationError::new(
            "become",
            "its user",
            io::Error::last_os_error(),
        )),
    }
}

/// Removes all capabilities of this process, as [`crate::drop_all_capabilities`], with an error that names the
/// step.
pub(crate) fn drop_capabilities() -> Result<()> {
    let failed = |e: io::Error| IsolationError::new("drop", "capabilities", e);
    crate::drop_all_capabilities().map_err(failed)
}

/// Namespaces of a process, as links in `/proc`.
pub(crate) struct Namespaces(Vec<Option<std::path::PathBuf>>);

/// Kinds, in the order of the bits.
const KINDS: [&str; 7] = ["user", "mnt", "pid", "ipc", "uts", "cgroup", "net"];

impl Namespaces {
    /// Namespaces of the calling process, to compare them with those of a child.
    pub(crate) fn of_self() -> Self {
        let link = |kind| std::fs::read_link(format!("/proc/self/ns/{kind}")).ok();
        Namespaces(KINDS.into_iter().map(link).collect())
    }
}

/// Looks at itself with the eyes of the program, one bit a layer.
fn read_back(before: &Namespaces, rules: Option<&LandlockRules>) -> u32 {
    let mut bits = 0;
    let pairs = before.0.iter().zip(Namespaces::of_self().0);
    for (n, (theirs, ours)) in pairs.enumerate() {
        let other = matches!((theirs, ours), (Some(a), Some(b)) if *a != b);
        bits |= u32::from(other) << n;
    }
    let no_host = rustix::fs::stat(c"/abbey").is_ok();
    bits |= u32::from(has_read_only_root() && no_host) << 7;
    let status = ProcessStatus::read();
    bits |= u32::from(status.has_no_capabilities()) << 8;
    bits |= u32::from(status.has_no_new_privileges()) << 9;
    bits |= u32::from(status.is_filtered()) << 10;
    if let Some(rules) = rules {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let made = rustix::fs::open(rules.probe.as_c_str(), flags, Mode::from_raw_mode(0o600));
        bits |= u32::from(matches!(made, Err(rustix::io::Errno::ACCESS))) << 11;
    }
    bits
}

/// Whether the root file system of this process is read-only.
pub(crate) fn has_read_only_root() -> bool {
    let root = rustix::fs::statvfs(c"/").ok();
    root.is_some_and(|s| s.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}

/// What the kernel says of the rights of this process.
pub(crate) struct ProcessStatus(String);

impl ProcessStatus {
    /// Reads the status; one that cannot be read has none of the properties.
    pub(crate) fn read() -> Self {
        ProcessStatus(crate::read_kernel_file("/proc/self/status").unwrap_or_default())
    }

    fn field(&self, name: &str) -> Option<&str> {
        let mut lines = self.0.lines();
        lines.find_map(|l| l.strip_prefix(name)).map(str::trim)
    }

    /// Whether no capability is left in any set.
    pub(crate) fn has_no_capabilities(&self) -> bool {
        ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"]
            .iter()
            .all(|set| {
                self.field(set)
                    .is_some_and(|v| v.bytes().all(|b| b == b'0'))
            })
    }

    /// Whether `no_new_privs` is set.
    pub(crate) fn has_no_new_privileges(&self) -> bool {
        self.field("NoNewPrivs:") == Some("1")
    }

    /// Whether a seccomp filter is installed.
    pub(crate) fn is_filtered(&self) -> bool {
        self.field("Seccomp:") == Some("2")
    }
}
