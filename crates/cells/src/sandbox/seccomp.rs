//! Which system calls a sandboxed program may make: a list of those that ordinary programs need.
//! Everything else is refused with EPERM.
//!
//! Names are those of `syscalls(2)`; the architecture's own old ones are added where it has them.

use crate::{Error, Result};
use abbey_launch::BpfInstruction;
use abbey_model::Profile;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};
use std::collections::BTreeMap;

/// Calls without a condition on their arguments.
const PLAIN: &[i64] = &[
    // Files by descriptor and path.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_lseek,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_chdir,
    libc::SYS_fchdir,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchmodat2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_truncate,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fadvise64,
    libc::SYS_readahead,
    libc::SYS_sync,
    libc::SYS_syncfs,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_sync_file_range,
    libc::SYS_flock,
    libc::SYS_fcntl,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_pipe2,
    libc::SYS_umask,
    libc::SYS_copy_file_range,
    libc::SYS_sendfile,
    libc::SYS_splice,
    libc::SYS_tee,
    libc::SYS_getxattr,
    libc::SYS_lgetxattr,
    libc::SYS_fgetxattr,
    libc::SYS_listxattr,
    libc::SYS_llistxattr,
    libc::SYS_flistxattr,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_rm_watch,
    libc::SYS_memfd_create,
    // Memory.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_mincore,
    libc::SYS_msync,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_mlockall,
    libc::SYS_munlock,
    libc::SYS_munlockall,
    libc::SYS_membarrier,
    libc::SYS_rseq,
    libc::SYS_get_mempolicy,
    // Processes and threads.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_clone3,
    libc::SYS_set_tid_address,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getpgid,
    libc::SYS_setpgid,
    libc::SYS_getsid,
    libc::SYS_setsid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getresuid,
    libc::SYS_getresgid,
    libc::SYS_getgroups,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_capget,
    libc::SYS_capset,
    libc::SYS_prlimit64,
    libc::SYS_getrlimit,
    libc::SYS_setrlimit,
    libc::SYS_getrusage,
    libc::SYS_getpriority,
    libc::SYS_setpriority,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_getattr,
    libc::SYS_sched_get_priority_max,
    libc::SYS_sched_get_priority_min,
    libc::SYS_sched_rr_get_interval,
    libc::SYS_prctl,
    libc::SYS_getcpu,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_times,
    libc::SYS_getrandom,
    libc::SYS_futex,
    libc::SYS_futex_waitv,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_restart_syscall,
    libc::SYS_landlock_create_ruleset,
    libc::SYS_landlock_add_rule,
    libc::SYS_landlock_restrict_self,
    libc::SYS_seccomp,
    // Signals and time.
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_tgkill,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_sigaltstack,
    libc::SYS_signalfd4,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_getitimer,
    libc::SYS_setitimer,
    libc::SYS_timer_create,
    libc::SYS_timer_settime,
    libc::SYS_timer_gettime,
    libc::SYS_timer_getoverrun,
    libc::SYS_timer_delete,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
    // Waiting.
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    // Sockets; which families, a condition below says.
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvmmsg,
    // System V and POSIX objects, which are of the cell's own namespace.
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmdt,
    libc::SYS_shmctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semctl,
    libc::SYS_semtimedop,
    libc::SYS_msgget,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_msgctl,
    libc::SYS_mq_open,
    libc::SYS_mq_unlink,
    libc::SYS_mq_timedsend,
    libc::SYS_mq_timedreceive,
    libc::SYS_mq_notify,
    libc::SYS_mq_getsetattr,
];

#[cfg(target_arch = "x86_64")]
const OLD: &[i64] = &[
    libc::SYS_open,
    libc::SYS_creat,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_getdents,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_link,
    libc::SYS_symlink,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_futimesat,
    libc::SYS_dup2,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd,
    libc::SYS_signalfd,
    libc::SYS_inotify_init,
    libc::SYS_alarm,
    libc::SYS_pause,
    libc::SYS_time,
    libc::SYS_getpgrp,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_arch_prctl,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[i64] = &[];

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
const SOCKET_KIND: u64 = 0xf;

const NAMESPACES: i32 = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP
    | 0x80; // CLONE_NEWTIME
const WRITE_EXEC: u64 = (libc::PROT_WRITE | libc::PROT_EXEC) as u64;

/// Seccomp filters of a profile, in the order of their installation.
///
/// # Errors
/// When a filter does not compile, which a test excludes for each profile.
pub(crate) fn seccomp_filters(profile: Profile) -> Result<Vec<Vec<BpfInstruction>>> {
    let compile = || -> std::result::Result<Vec<Vec<BpfInstruction>>, seccompiler::Error> {
        let programs = [allow_list(profile)?, absent()?];
        Ok(programs.into_iter().map(instructions).collect())
    };
    compile().map_err(|e| Error::Limits(format!("a filter of system calls does not compile: {e}")))
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

/// `clone3` hides its flags behind a pointer, so it is made to look like an older kernel's: the C
/// library then uses `clone`, whose flags can be seen.
fn absent() -> Compiled {
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    compile(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS.cast_unsigned()),
    )
}

fn allow_list(profile: Profile) -> Compiled {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        PLAIN.iter().chain(OLD).map(|n| (*n, Vec::new())).collect();
    let when = |arg, op, value| {
        SeccompCondition::new(arg, SeccompCmpArgLen::Dword, op, value)
            .and_then(|c| SeccompRule::new(vec![c]))
            .map_err(seccompiler::Error::Backend)
    };
    let both = |first: (u8, SeccompCmpOp, u64), second: (u8, SeccompCmpOp, u64)| {
        let condition =
            |(arg, op, value)| SeccompCondition::new(arg, SeccompCmpArgLen::Dword, op, value);
        condition(first)
            .and_then(|a| Ok(vec![a, condition(second)?]))
            .and_then(SeccompRule::new)
            .map_err(seccompiler::Error::Backend)
    };
    // Terminals cannot be made to type: neither TIOCSTI nor TIOCLINUX.
    let not = |value: u64| (1u8, SeccompCmpOp::Ne, value);
    rules.insert(
        libc::SYS_ioctl,
        vec![both(not(libc::TIOCSTI), not(libc::TIOCLINUX))?],
    );
    let family = |n: i32| when(0, SeccompCmpOp::Eq, u64::from(n.cast_unsigned()));
    let mut families = vec![
        family(libc::AF_UNIX)?,
        // Routes only, which name resolution asks for.
        both(
            (0, SeccompCmpOp::Eq, libc::AF_NETLINK as u64),
            (2, SeccompCmpOp::Eq, libc::NETLINK_ROUTE as u64),
        )?,
    ];
    for (family, kind, protocol) in INTERNET_SOCKETS {
        let conditions = [
            (0, SeccompCmpOp::Eq, family),
            (1, SeccompCmpOp::MaskedEq(SOCKET_KIND), kind),
            (2, SeccompCmpOp::Eq, protocol),
        ];
        let conditions = conditions.into_iter().map(|(arg, op, value)| {
            SeccompCondition::new(
                arg,
                SeccompCmpArgLen::Dword,
                op,
                u64::from(value.cast_unsigned()),
            )
        });
        let rule = conditions
            .collect::<std::result::Result<_, _>>()
            .and_then(SeccompRule::new);
        families.push(rule.map_err(seccompiler::Error::Backend)?);
    }
    rules.insert(libc::SYS_socket, families);
    rules.insert(libc::SYS_socketpair, vec![family(libc::AF_UNIX)?]);
    // personality(2): asking, and the ordinary one.
    rules.insert(
        libc::SYS_personality,
        vec![
            when(0, SeccompCmpOp::Eq, 0)?,
            when(0, SeccompCmpOp::Eq, 0xffff_ffff)?,
        ],
    );
    let none_of = SeccompCmpOp::MaskedEq(u64::from(NAMESPACES.cast_unsigned()));
    rules.insert(libc::SYS_clone, vec![when(0, none_of, 0)?]);
    for call in [libc::SYS_mmap, libc::SYS_mprotect, libc::SYS_pkey_mprotect] {
        let conditions = match profile {
            // Nothing is writable and executable at once: code is not made at run time.
            Profile::Strict => {
                let bits = |value: i32| {
                    when(
                        2,
                        SeccompCmpOp::MaskedEq(WRITE_EXEC),
                        u64::from(value.cast_unsigned()),
                    )
                };
                vec![bits(0)?, bits(libc::PROT_WRITE)?, bits(libc::PROT_EXEC)?]
            }
            Profile::Jit => Vec::new(),
        };
        rules.insert(call, conditions);
    }
    for call in [libc::SYS_pkey_alloc, libc::SYS_pkey_free] {
        rules.insert(call, Vec::new());
    }
    compile(
        rules,
        SeccompAction::Errno(libc::EPERM.cast_unsigned()),
        SeccompAction::Allow,
    )
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

    /// What must never be on a list, whatever the profile.
    #[test]
    fn calls_that_reach_the_host_are_on_no_list() {
        let never = [
            libc::SYS_bpf,
            libc::SYS_perf_event_open,
            libc::SYS_userfaultfd,
            libc::SYS_io_uring_setup,
            libc::SYS_keyctl,
            libc::SYS_add_key,
            libc::SYS_request_key,
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_kexec_load,
            libc::SYS_reboot,
            libc::SYS_swapon,
            libc::SYS_settimeofday,
            libc::SYS_acct,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_kcmp,
            libc::SYS_open_by_handle_at,
            libc::SYS_quotactl,
            libc::SYS_clock_settime,
            libc::SYS_vmsplice,
            libc::SYS_pidfd_getfd,
            libc::SYS_name_to_handle_at,
        ];
        for call in never {
            assert!(![PLAIN, OLD].iter().any(|l| l.contains(&call)), "{call}");
        }
    }
}
