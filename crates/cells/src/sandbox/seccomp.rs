//! Which system calls a program in a sandbox or container may make: a list of those that ordinary programs need.
//! Everything else is refused with EPERM. One table says so for both: here it becomes filters of the kernel's, and
//! [`super::oci_profile`] the profile that a container runtime reads.
//!
//! Names are those of `syscalls(2)`; the architecture's own old ones are added where it has them.

use crate::{Error, Result};
use abbey_launch::BpfInstruction;
use abbey_model::Profile;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

/// A system call of this architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SystemCall {
    number: i64,
    /// Name with the prefix that `libc` gives it.
    prefixed: &'static str,
}

impl SystemCall {
    /// Name as in `syscalls(2)`.
    pub(super) fn name(self) -> &'static str {
        self.prefixed.trim_start_matches("SYS_")
    }
}

macro_rules! call {
    ($name:ident) => {
        SystemCall {
            number: libc::$name,
            prefixed: stringify!($name),
        }
    };
}
macro_rules! calls {
    ($($name:ident),* $(,)?) => { &[$(call!($name)),*] };
}

/// Condition on the lower 32 bits of one argument. What the kernel reads of all these arguments is no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    /// Those bits of the argument that are in the mask have this value.
    Masked {
        /// Index of the argument.
        argument: u8,
        /// Bits that count.
        mask: u32,
        /// Their value.
        value: u32,
    },
    /// The argument is none of these.
    NoneOf {
        /// Index of the argument.
        argument: u8,
        /// Values that are refused.
        values: &'static [u32],
    },
}

impl Condition {
    const fn is(argument: u8, value: u32) -> Condition {
        let mask = u32::MAX;
        Condition::Masked {
            argument,
            mask,
            value,
        }
    }

    const fn masked(argument: u8, mask: i32, value: i32) -> Condition {
        let (mask, value) = (mask.cast_unsigned(), value.cast_unsigned());
        Condition::Masked {
            argument,
            mask,
            value,
        }
    }
}

/// A system call that a program may make.
#[derive(Debug, Clone)]
pub(super) struct Permission {
    /// The call.
    pub(super) call: SystemCall,
    /// It is allowed if every condition of one alternative holds; without alternatives always.
    pub(super) alternatives: Vec<Vec<Condition>>,
}

/// Calls without a condition on their arguments.
const PLAIN: &[SystemCall] = calls![
    // Files by descriptor and path.
    SYS_read,
    SYS_write,
    SYS_openat,
    SYS_openat2,
    SYS_close,
    SYS_close_range,
    SYS_fstat,
    SYS_newfstatat,
    SYS_statx,
    SYS_statfs,
    SYS_fstatfs,
    SYS_lseek,
    SYS_pread64,
    SYS_pwrite64,
    SYS_readv,
    SYS_writev,
    SYS_preadv,
    SYS_pwritev,
    SYS_preadv2,
    SYS_pwritev2,
    SYS_faccessat,
    SYS_faccessat2,
    SYS_readlinkat,
    SYS_getdents64,
    SYS_getcwd,
    SYS_chdir,
    SYS_fchdir,
    SYS_mkdirat,
    SYS_unlinkat,
    SYS_renameat,
    SYS_renameat2,
    SYS_linkat,
    SYS_symlinkat,
    SYS_fchmod,
    SYS_fchmodat,
    SYS_fchmodat2,
    SYS_fchown,
    SYS_fchownat,
    SYS_utimensat,
    SYS_truncate,
    SYS_ftruncate,
    SYS_fallocate,
    SYS_fadvise64,
    SYS_readahead,
    SYS_sync,
    SYS_syncfs,
    SYS_fsync,
    SYS_fdatasync,
    SYS_sync_file_range,
    SYS_flock,
    SYS_fcntl,
    SYS_dup,
    SYS_dup3,
    SYS_pipe2,
    SYS_umask,
    SYS_copy_file_range,
    SYS_sendfile,
    SYS_splice,
    SYS_tee,
    SYS_getxattr,
    SYS_lgetxattr,
    SYS_fgetxattr,
    SYS_listxattr,
    SYS_llistxattr,
    SYS_flistxattr,
    SYS_setxattr,
    SYS_lsetxattr,
    SYS_fsetxattr,
    SYS_removexattr,
    SYS_lremovexattr,
    SYS_fremovexattr,
    SYS_inotify_init1,
    SYS_inotify_add_watch,
    SYS_inotify_rm_watch,
    SYS_memfd_create,
    // Memory.
    SYS_brk,
    SYS_munmap,
    SYS_mremap,
    SYS_madvise,
    SYS_mincore,
    SYS_msync,
    SYS_mlock,
    SYS_mlock2,
    SYS_mlockall,
    SYS_munlock,
    SYS_munlockall,
    SYS_membarrier,
    SYS_rseq,
    SYS_get_mempolicy,
    // Processes and threads.
    SYS_execve,
    SYS_execveat,
    SYS_exit,
    SYS_exit_group,
    SYS_wait4,
    SYS_waitid,
    SYS_clone3,
    SYS_set_tid_address,
    SYS_set_robust_list,
    SYS_get_robust_list,
    SYS_gettid,
    SYS_getpid,
    SYS_getppid,
    SYS_getpgid,
    SYS_setpgid,
    SYS_getsid,
    SYS_setsid,
    SYS_getuid,
    SYS_geteuid,
    SYS_getgid,
    SYS_getegid,
    SYS_getresuid,
    SYS_getresgid,
    SYS_getgroups,
    SYS_setuid,
    SYS_setgid,
    SYS_setreuid,
    SYS_setregid,
    SYS_setresuid,
    SYS_setresgid,
    SYS_setgroups,
    SYS_setfsuid,
    SYS_setfsgid,
    SYS_capget,
    SYS_capset,
    SYS_prlimit64,
    SYS_getrlimit,
    SYS_setrlimit,
    SYS_getrusage,
    SYS_getpriority,
    SYS_setpriority,
    SYS_sched_yield,
    SYS_sched_getaffinity,
    SYS_sched_setaffinity,
    SYS_sched_getparam,
    SYS_sched_getscheduler,
    SYS_sched_setscheduler,
    SYS_sched_getattr,
    SYS_sched_get_priority_max,
    SYS_sched_get_priority_min,
    SYS_sched_rr_get_interval,
    SYS_prctl,
    SYS_getcpu,
    SYS_uname,
    SYS_sysinfo,
    SYS_times,
    SYS_getrandom,
    SYS_futex,
    SYS_futex_waitv,
    SYS_pidfd_open,
    SYS_pidfd_send_signal,
    SYS_restart_syscall,
    SYS_landlock_create_ruleset,
    SYS_landlock_add_rule,
    SYS_landlock_restrict_self,
    SYS_seccomp,
    // Signals and time.
    SYS_kill,
    SYS_tkill,
    SYS_tgkill,
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_rt_sigsuspend,
    SYS_rt_sigpending,
    SYS_rt_sigtimedwait,
    SYS_rt_sigqueueinfo,
    SYS_rt_tgsigqueueinfo,
    SYS_sigaltstack,
    SYS_signalfd4,
    SYS_nanosleep,
    SYS_clock_nanosleep,
    SYS_clock_gettime,
    SYS_clock_getres,
    SYS_gettimeofday,
    SYS_getitimer,
    SYS_setitimer,
    SYS_timer_create,
    SYS_timer_settime,
    SYS_timer_gettime,
    SYS_timer_getoverrun,
    SYS_timer_delete,
    SYS_timerfd_create,
    SYS_timerfd_settime,
    SYS_timerfd_gettime,
    // Waiting.
    SYS_ppoll,
    SYS_pselect6,
    SYS_epoll_create1,
    SYS_epoll_ctl,
    SYS_epoll_pwait,
    SYS_epoll_pwait2,
    SYS_eventfd2,
    // Sockets; which families, a condition below says.
    SYS_bind,
    SYS_listen,
    SYS_accept,
    SYS_accept4,
    SYS_connect,
    SYS_getsockname,
    SYS_getpeername,
    SYS_getsockopt,
    SYS_setsockopt,
    SYS_shutdown,
    SYS_sendto,
    SYS_recvfrom,
    SYS_sendmsg,
    SYS_recvmsg,
    SYS_sendmmsg,
    SYS_recvmmsg,
    // System V and POSIX objects, which are of the cell's own namespace.
    SYS_shmget,
    SYS_shmat,
    SYS_shmdt,
    SYS_shmctl,
    SYS_semget,
    SYS_semop,
    SYS_semctl,
    SYS_semtimedop,
    SYS_msgget,
    SYS_msgsnd,
    SYS_msgrcv,
    SYS_msgctl,
    SYS_mq_open,
    SYS_mq_unlink,
    SYS_mq_timedsend,
    SYS_mq_timedreceive,
    SYS_mq_notify,
    SYS_mq_getsetattr,
];

#[cfg(target_arch = "x86_64")]
const OLD: &[SystemCall] = calls![
    SYS_open,
    SYS_creat,
    SYS_stat,
    SYS_lstat,
    SYS_access,
    SYS_readlink,
    SYS_getdents,
    SYS_mkdir,
    SYS_rmdir,
    SYS_unlink,
    SYS_rename,
    SYS_link,
    SYS_symlink,
    SYS_chmod,
    SYS_chown,
    SYS_lchown,
    SYS_utime,
    SYS_utimes,
    SYS_futimesat,
    SYS_dup2,
    SYS_pipe,
    SYS_poll,
    SYS_select,
    SYS_epoll_create,
    SYS_epoll_wait,
    SYS_eventfd,
    SYS_signalfd,
    SYS_inotify_init,
    SYS_alarm,
    SYS_pause,
    SYS_time,
    SYS_getpgrp,
    SYS_fork,
    SYS_vfork,
    SYS_arch_prctl,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[SystemCall] = &[];

/// Sockets of the internet families, by family, kind and protocol: TCP, UDP, and echo requests as an ordinary user may
/// send them. The kernel has more protocols, and loads modules for them: MPTCP, SCTP, UDP-Lite, DCCP.
const INTERNET_SOCKETS: [(i32, i32, i32); 10] = [
    (libc::AF_INET, libc::SOCK_STREAM, 0),
    (libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_TCP),
    (libc::AF_INET, libc::SOCK_DGRAM, 0),
    (libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_UDP),
    (libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP),
    (libc::AF_INET6, libc::SOCK_STREAM, 0),
    (libc::AF_INET6, libc::SOCK_STREAM, libc::IPPROTO_TCP),
    (libc::AF_INET6, libc::SOCK_DGRAM, 0),
    (libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_UDP),
    (libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_ICMPV6),
];
/// Bits of the second argument of `socket` that are the kind; others are flags (`SOCK_TYPE_MASK`).
const SOCKET_KIND: i32 = 0xf;

const NAMESPACES: i32 = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP
    | 0x80; // CLONE_NEWTIME
const WRITE_EXEC: i32 = libc::PROT_WRITE | libc::PROT_EXEC;

/// `clone3` hides its flags behind a pointer, so it is made to look like an older kernel's: the C library then uses
/// `clone`, whose flags can be seen. It is reported as absent (ENOSYS).
pub(super) const HIDDEN: SystemCall = call!(SYS_clone3);

/// Every system call that a profile allows, under which conditions.
pub(super) fn permissions(profile: Profile) -> Vec<Permission> {
    let without_condition = |call: &SystemCall| Permission {
        call: *call,
        alternatives: Vec::new(),
    };
    let mut all: Vec<Permission> = PLAIN.iter().chain(OLD).map(without_condition).collect();
    let mut allow = |call, alternatives| all.push(Permission { call, alternatives });
    // Terminals cannot be made to type.
    let typing = Condition::NoneOf {
        argument: 1,
        values: &[libc::TIOCSTI as u32, libc::TIOCLINUX as u32],
    };
    allow(call!(SYS_ioctl), vec![vec![typing]]);
    let family = |family: i32| Condition::is(0, family.cast_unsigned());
    let mut families = vec![
        vec![family(libc::AF_UNIX)],
        // Routes only, which name resolution asks for.
        vec![
            family(libc::AF_NETLINK),
            Condition::is(2, libc::NETLINK_ROUTE.cast_unsigned()),
        ],
    ];
    families.extend(INTERNET_SOCKETS.map(|(of_family, kind, protocol)| {
        vec![
            family(of_family),
            Condition::masked(1, SOCKET_KIND, kind),
            Condition::is(2, protocol.cast_unsigned()),
        ]
    }));
    allow(call!(SYS_socket), families);
    allow(call!(SYS_socketpair), vec![vec![family(libc::AF_UNIX)]]);
    // personality(2): asking, and the ordinary one.
    let personalities = [0, u32::MAX].map(|value| vec![Condition::is(0, value)]);
    allow(call!(SYS_personality), personalities.to_vec());
    // Nothing is writable and executable at once in the strict profile: code is not made at run time.
    let protections = match profile {
        Profile::Strict => [0, libc::PROT_WRITE, libc::PROT_EXEC]
            .map(|bits| vec![Condition::masked(2, WRITE_EXEC, bits)])
            .to_vec(),
        Profile::Jit => Vec::new(),
    };
    for call in [
        call!(SYS_mmap),
        call!(SYS_mprotect),
        call!(SYS_pkey_mprotect),
    ] {
        allow(call, protections.clone());
    }
    for call in [call!(SYS_pkey_alloc), call!(SYS_pkey_free)] {
        allow(call, Vec::new());
    }
    let no_namespace = Condition::masked(0, NAMESPACES, 0);
    allow(call!(SYS_clone), vec![vec![no_namespace]]);
    all
}

/// Seccomp filters of a profile, in the order of their installation. They are compiled once in a process and those that it
/// forks.
///
/// # Errors
/// When a filter does not compile, which a test excludes for each profile.
pub(crate) fn seccomp_filters(profile: Profile) -> Result<Vec<Vec<BpfInstruction>>> {
    static STRICT: OnceLock<Vec<Vec<BpfInstruction>>> = OnceLock::new();
    static JIT: OnceLock<Vec<Vec<BpfInstruction>>> = OnceLock::new();
    let compiled = match profile {
        Profile::Strict => &STRICT,
        Profile::Jit => &JIT,
    };
    if let Some(filters) = compiled.get() {
        return Ok(filters.clone());
    }
    let filters = compile_filters(profile)?;
    Ok(compiled.get_or_init(|| filters).clone())
}

fn compile_filters(profile: Profile) -> Result<Vec<Vec<BpfInstruction>>> {
    let compile = || -> std::result::Result<Vec<Vec<BpfInstruction>>, seccompiler::Error> {
        let (plain, conditional): (Vec<_>, Vec<_>) = permissions(profile)
            .into_iter()
            .partition(|permission| permission.alternatives.is_empty());
        let numbers = plain.iter().map(|p| p.call.number);
        let mut list = instructions(allow_list(conditional)?);
        // Its jumps are relative, and none leads over this place.
        list.splice(AFTER_NUMBER..AFTER_NUMBER, allow_by_search(numbers));
        Ok(vec![list, instructions(absent()?)])
    };
    compile().map_err(|e| Error::Limits(format!("a filter of system calls does not compile: {e}")))
}

/// Instructions of a filter by `seccompiler` before its rules: three that check the architecture, and one that loads the
/// number of the call.
const AFTER_NUMBER: usize = 4;

/// Instructions that allow the calls with these numbers, and go on behind them with all others.
///
/// The kernel walks through a filter for every number when it is installed, and compiles it: a search by halves is a third
/// of the length of a comparison for each call, and each walk through it is a few steps.
fn allow_by_search(numbers: impl Iterator<Item = i64>) -> Vec<BpfInstruction> {
    let numbers: BTreeSet<u32> = numbers.filter_map(|n| n.try_into().ok()).collect();
    // Where numbers that are allowed begin and where they end, alternately.
    let bounds: Vec<u32> = numbers
        .iter()
        .flat_map(|n| [*n, n + 1])
        .filter(|at| {
            numbers.contains(at) != at.checked_sub(1).is_some_and(|n| numbers.contains(&n))
        })
        .collect::<BTreeSet<u32>>()
        .into_iter()
        .collect();
    let mut all = Vec::new();
    search(&bounds, false, &mut all);
    // What is not allowed leaves for the end, which is known only now.
    let end = all.len();
    for (at, (code, _, _, distance)) in all.iter_mut().enumerate() {
        if *code == JUMP {
            *distance = u32::try_from(end - at - 1).unwrap_or(u32::MAX);
        }
    }
    all
}

/// Source: `linux/bpf_common.h`.
const RETURN: u16 = 0x06;
const JUMP: u16 = 0x05;
const JUMP_IF_AT_LEAST: u16 = 0x35;

/// Appends the search among bounds; below the first of them, calls are allowed or not.
fn search(bounds: &[u32], allowed_below: bool, all: &mut Vec<BpfInstruction>) {
    if bounds.is_empty() {
        all.push(match allowed_below {
            true => (RETURN, 0, 0, SeccompAction::Allow.into()),
            false => (JUMP, 0, 0, 0),
        });
        return;
    }
    let middle = bounds.len() / 2;
    let branch = all.len();
    all.push((JUMP_IF_AT_LEAST, 0, 0, bounds[middle]));
    search(&bounds[..middle], allowed_below, all);
    all[branch].1 = u8::try_from(all.len() - branch - 1).unwrap_or(u8::MAX);
    let allowed_from_middle = allowed_below != middle.is_multiple_of(2);
    search(&bounds[middle + 1..], allowed_from_middle, all);
}

fn instructions(program: BpfProgram) -> Vec<BpfInstruction> {
    program
        .into_iter()
        .map(|i| (i.code, i.jt, i.jf, i.k))
        .collect()
}

type Compiled = std::result::Result<BpfProgram, seccompiler::Error>;

fn compile(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Compiled {
    let arch = std::env::consts::ARCH
        .try_into()
        .map_err(seccompiler::Error::Backend)?;
    let filter =
        SeccompFilter::new(rules, otherwise, matched, arch).map_err(seccompiler::Error::Backend)?;
    filter.try_into().map_err(seccompiler::Error::Backend)
}

fn absent() -> Compiled {
    let rules = BTreeMap::from([(HIDDEN.number, Vec::new())]);
    compile(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS.cast_unsigned()),
    )
}

fn allow_list(permissions: Vec<Permission>) -> Compiled {
    let mut rules = BTreeMap::new();
    for Permission { call, alternatives } in permissions {
        let alternatives: std::result::Result<Vec<SeccompRule>, _> = alternatives
            .iter()
            .map(|conditions| SeccompRule::new(comparisons(conditions)?))
            .collect();
        rules.insert(
            call.number,
            alternatives.map_err(seccompiler::Error::Backend)?,
        );
    }
    compile(
        rules,
        SeccompAction::Errno(libc::EPERM.cast_unsigned()),
        SeccompAction::Allow,
    )
}

fn comparisons(
    conditions: &[Condition],
) -> std::result::Result<Vec<SeccompCondition>, seccompiler::BackendError> {
    let compare = |argument, op, value: u32| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, value.into())
    };
    let mut all = Vec::new();
    for condition in conditions {
        match *condition {
            Condition::Masked {
                argument,
                mask,
                value,
            } => {
                all.push(compare(
                    argument,
                    SeccompCmpOp::MaskedEq(mask.into()),
                    value,
                )?);
            }
            Condition::NoneOf { argument, values } => {
                for value in values {
                    all.push(compare(argument, SeccompCmpOp::Ne, *value)?);
                }
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_compiles_within_the_kernels_bound() {
        for &profile in Profile::ALL {
            for program in seccomp_filters(profile).unwrap() {
                assert!(!program.is_empty() && program.len() <= 4096, "{profile:?}");
            }
        }
    }

    /// What a filter answers to a call with this number and no arguments.
    fn answer(program: &[BpfInstruction], number: u32) -> u32 {
        let (mut at, mut loaded) = (0, 0);
        loop {
            let (code, if_true, if_false, k) = program[at];
            at += 1;
            let mut branch =
                |holds: bool| at += usize::from(if holds { if_true } else { if_false });
            match (code, k) {
                (0x20, 0) => loaded = number,
                (0x20, 4) => loaded = seccomp_architecture(program),
                (0x20, _) => loaded = 0,
                (0x54, mask) => loaded &= mask,
                (JUMP, distance) => at += distance as usize,
                (0x15, value) => branch(loaded == value),
                (JUMP_IF_AT_LEAST, value) => branch(loaded >= value),
                (0x25, value) => branch(loaded > value),
                (RETURN, answer) => return answer,
                other => panic!("{other:?}"),
            }
        }
    }

    /// The architecture that a filter accepts, which its second instruction compares with.
    fn seccomp_architecture(program: &[BpfInstruction]) -> u32 {
        program[1].3
    }

    #[test]
    fn the_search_allows_the_calls_without_a_condition_and_no_other() {
        let allow: u32 = SeccompAction::Allow.into();
        let refuse: u32 = SeccompAction::Errno(libc::EPERM.cast_unsigned()).into();
        for &profile in Profile::ALL {
            let filter = &seccomp_filters(profile).unwrap()[0];
            let all = permissions(profile);
            let numbers: BTreeSet<i64> = all.iter().map(|p| p.call.number).collect();
            assert_eq!(numbers.len(), all.len(), "no call has two permissions");
            let permitted = |number: u32| {
                all.iter()
                    .find(|p| u32::try_from(p.call.number) == Ok(number))
            };
            // Also those of the x32 interface, which have a bit more.
            for number in (0..1024).flat_map(|n| [n, n | 0x4000_0000, u32::MAX - n]) {
                let answer = answer(filter, number);
                match permitted(number) {
                    Some(p) if p.alternatives.is_empty() => assert_eq!(answer, allow, "{p:?}"),
                    // With all arguments 0 either may hold.
                    Some(_) => assert!([allow, refuse].contains(&answer), "{number}"),
                    None => assert_eq!(answer, refuse, "{number}"),
                }
            }
            assert!(filter.len() < 600, "{profile:?}: {}", filter.len());
        }
    }

    /// What must never be on a list, whatever the profile.
    #[test]
    fn calls_that_reach_the_host_are_on_no_list() {
        let never: &[SystemCall] = calls![
            SYS_bpf,
            SYS_perf_event_open,
            SYS_userfaultfd,
            SYS_io_uring_setup,
            SYS_keyctl,
            SYS_add_key,
            SYS_request_key,
            SYS_init_module,
            SYS_finit_module,
            SYS_kexec_load,
            SYS_reboot,
            SYS_swapon,
            SYS_settimeofday,
            SYS_acct,
            SYS_ptrace,
            SYS_process_vm_readv,
            SYS_kcmp,
            SYS_open_by_handle_at,
            SYS_quotactl,
            SYS_clock_settime,
            SYS_vmsplice,
            SYS_pidfd_getfd,
            SYS_name_to_handle_at,
        ];
        for call in never {
            assert!(![PLAIN, OLD].iter().any(|l| l.contains(call)), "{call:?}");
        }
    }
}
