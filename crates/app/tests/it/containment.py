"""Tries to get out of the cell that it runs in. Prints one JSON line for each probe:
number (as in the list of checks), name, whether it was contained, and what happened.
What counts is the exact error, not just any."""
import ctypes, errno, fcntl, json, os, platform, pty, resource, signal, socket, struct, sys, termios

facts = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"
NR = dict(
    mount=165, umount2=166, pivot_root=155, fsopen=430, open_tree=428, move_mount=429,
    unshare=272, setns=308, clone3=435, io_uring_setup=425, keyctl=250, add_key=248,
    request_key=249, bpf=321, perf_event_open=298, userfaultfd=323, kexec_load=246,
    init_module=175, finit_module=313, iopl=172, ioperm=173, modify_ldt=154, reboot=169,
    swapon=167, settimeofday=164, clock_settime=227, acct=163, quotactl=179,
    open_by_handle_at=304, name_to_handle_at=303, ptrace=101, process_vm_readv=310,
    process_vm_writev=311, kcmp=312, pidfd_getfd=438, sethostname=170, vmsplice=278,
    mknod=133, chroot=161, personality=135, lookup_dcookie=212, syslog=103,
) if X86 else {}


def call(name, *args):
    """A raw system call: 0 or the error number."""
    ctypes.set_errno(0)
    got = libc.syscall(NR[name], *[ctypes.c_long(a) if isinstance(a, int) else a for a in args])
    return ctypes.get_errno() if got == -1 else 0


def apart(action):
    """The same in a process of its own, as success would change the one that does it."""
    pid = os.fork()
    if pid == 0:
        os._exit(action())
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def name_of(number):
    return errno.errorcode.get(number, "ok" if number == 0 else str(number))


def attempt(action):
    """Error number of an action in Python."""
    try:
        action()
        return 0
    except OSError as e:
        return e.errno


def report(number, name, contained, what=""):
    print(json.dumps({"n": number, "name": name, "contained": bool(contained), "what": str(what)[:160]}), flush=True)


def expect(number, name, got, *wanted):
    report(number, name, name_of(got) in wanted, name_of(got))


MACHINE = facts["machine"]


def own(number, name, got, *wanted):
    """What a cell that shares the host's kernel must be refused, and what in a machine of its own reaches
    only the kernel of that."""
    if MACHINE:
        release = os.uname().release
        report(number, name, release != facts["kernel"], f"{name_of(got)} of kernel {release}")
    else:
        expect(number, name, got, *wanted)


GONE = ("ENOENT",)
NO = ("EPERM",)
REFUSED = ("EPERM", "ENOSYS")

# Files.
expect(1, "neighbour's workspace", attempt(lambda: os.listdir(facts["neighbour"])), *GONE)
for path in facts["house_files"]:
    expect(2, "house file " + os.path.basename(path), attempt(lambda: open(path)), *GONE)
expect(3, "host below /proc/1/root", attempt(lambda: os.listdir("/proc/1/root" + facts["home"])), "ENOENT", "EACCES")
seen = []
for pid in filter(str.isdigit, os.listdir("/proc")):
    # Our own arguments tell what to look for.
    if pid == str(os.getpid()):
        continue
    try:
        seen.append(open(f"/proc/{pid}/cmdline").read())
    except OSError:
        pass
report(4, "foreign processes in /proc", not any("role serve" in c or "role hostd" in c for c in seen), len(seen))
os.chdir("/")
for _ in range(64):
    os.chdir("..")
report(5, "dot-dot above the root", not os.path.exists("." + facts["home"]))
fds = sorted(int(f) for f in os.listdir("/proc/self/fd"))
report(6, "descriptors", fds[:3] == [0, 1, 2] and len(fds) <= 4, fds)
flags = os.statvfs(os.environ["HOME"]).f_flag
report(11, "set-user-id programs", flags & os.ST_NOSUID, flags)
if X86:
    expect(12, "mknod", call("mknod", b"/tmp/dev", 0o60600, 0x0801), *NO)
for node in ["mem", "kmem", "port", "kvm", "fuse", "vsock", "net/tun", "vda", "sda", "loop0"]:
    got = attempt(lambda: open("/dev/" + node, "rb"))
    if node in ("fuse", "net/tun"):
        own(12, "/dev/" + node, got, *GONE)
    else:
        expect(12, "/dev/" + node, got, *(("ENOENT", "EACCES") if MACHINE else GONE))
for path in ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/sys/vm/drop_caches", "/sys/kernel/uevent_helper"]:
    expect(13, "write " + path, attempt(lambda: os.open(path, os.O_WRONLY)), "EROFS", "EACCES", "ENOENT")
for path in ["/usr/x", "/etc/x", "/x", "/abbey/x"]:
    expect(13, "write " + path, attempt(lambda: os.open(path, os.O_WRONLY | os.O_CREAT)), "EROFS", *(("EACCES",) if MACHINE else ()))
# A container has no Landlock: there the mounts do not allow it either.
expect(13, "a place the mounts allow and Landlock does not", attempt(lambda: os.open("/run/x", os.O_WRONLY | os.O_CREAT)), "EROFS" if facts["container"] else "EACCES")
expect(13, "own charter", attempt(lambda: os.open(facts["charter"], os.O_WRONLY)), "EACCES", "EROFS")
if X86:
    expect(14, "mount", call("mount", b"none", b"/tmp", b"tmpfs", 0, 0), *NO)
    expect(14, "remount", call("mount", b"none", b"/usr", b"", 32 | 4096, 0), *NO)
    expect(14, "umount", call("umount2", b"/proc", 2), *NO)
    expect(14, "pivot_root", call("pivot_root", b"/tmp", b"/tmp"), *NO)
    expect(14, "fsopen", call("fsopen", b"tmpfs", 0), *NO)
    expect(14, "open_tree", call("open_tree", -100, b"/", 1), *NO)
    expect(14, "chroot", call("chroot", b"/tmp"), *NO)

# Processes.
for pid in facts["pids"]:
    expect(17, "signal to the house", attempt(lambda: os.kill(pid, 0)), "ESRCH")
if X86:
    expect(18, "ptrace", apart(lambda: call("ptrace", 16, facts["pids"][0], 0, 0)), "EPERM", "ESRCH")
    own(18, "process_vm_readv", call("process_vm_readv", facts["pids"][0], 0, 0, 0, 0, 0), "EPERM", "ESRCH")
    expect(18, "kcmp", call("kcmp", os.getpid(), facts["pids"][0], 0, 0, 0), "EPERM", "ESRCH")
    own(18, "pidfd_getfd", call("pidfd_getfd", 0, 0, 0), *NO)
    for flag, what in [(0x10000000, "user"), (0x20000, "mnt"), (0x20000000, "pid"), (0x40000000, "net"),
                       (0x8000000, "ipc"), (0x4000000, "uts"), (0x2000000, "cgroup"), (0x80, "time")]:
        own(19, "unshare " + what, apart(lambda: call("unshare", flag)), *NO)
    own(19, "setns", call("setns", 0, 0), *NO)
    own(19, "clone3", call("clone3", 0, 0), "ENOSYS")
expect(20, "setuid 0", attempt(lambda: os.setuid(0)), "EPERM", "EINVAL")
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
for capset in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]:
    # In a machine of its own the bound is what its kernel has; nobody there has any of it.
    if not (MACHINE and capset == "CapBnd"):
        report(20, capset, int(status[capset], 16) == 0, status[capset].strip())
report(21, "no_new_privs", status["NoNewPrivs"].strip() == "1", status["NoNewPrivs"].strip())
own(21, "seccomp", status["Seccomp"].strip() != "2", "ok")
if X86:
    for name in ["io_uring_setup", "keyctl", "add_key", "request_key", "bpf", "perf_event_open", "userfaultfd",
                 "kexec_load", "init_module", "finit_module", "iopl", "ioperm", "modify_ldt", "reboot", "swapon",
                 "settimeofday", "clock_settime", "acct", "quotactl", "open_by_handle_at", "name_to_handle_at",
                 "sethostname", "vmsplice", "lookup_dcookie", "syslog"]:
        own(25, name, call(name, 0, 0, 0, 0, 0), *REFUSED)
    # What a program of another architecture would call the kernel by: the filter ends whoever tries.
    import mmap as memory
    code = memory.mmap(-1, 4096, prot=memory.PROT_READ | memory.PROT_WRITE | memory.PROT_EXEC)
    code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # mov eax, 20 (getpid); int 0x80; ret
    getpid_i386 = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    ended = apart(lambda: getpid_i386() and 0)
    own(28, "system calls of i386", 0 if ended == 0 else errno.EPERM, *NO)
    for nr, what in [(0x40000000 + 41, "socket of x32"), (0x40000000 + 272, "unshare of x32")]:
        got = apart(lambda: ctypes.set_errno(0) or (ctypes.get_errno() if libc.syscall(ctypes.c_long(nr), 1, 1, 0) == -1 else 0))
        report(28, what, got != 0, name_of(got))
    own(30, "personality", call("personality", 0x40000), *NO)
report(30, "core dumps", resource.getrlimit(resource.RLIMIT_CORE)[1] == 0)
master, slave = pty.openpty()
own(26, "TIOCSTI", attempt(lambda: fcntl.ioctl(slave, termios.TIOCSTI, b"x")), *NO)

# Network.
interfaces = [name for _, name in socket.if_nameindex()]
report(33, "interfaces", interfaces in (["lo"], ["lo", "eth0"]), interfaces)


def connect(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as s:
        s.settimeout(2)
        s.connect(address)


expect(36, "the operator's door", attempt(lambda: connect(socket.AF_INET, ("127.0.0.1", facts["outside_port"]))), "ECONNREFUSED")
for address in ["169.254.169.254", "100.100.100.200", "168.63.129.16", "10.0.0.1", "192.168.0.1"]:
    expect(38, address, attempt(lambda: connect(socket.AF_INET, (address, 80))), "ENETUNREACH", "ECONNREFUSED")
expect(38, "fd00:ec2::254", attempt(lambda: connect(socket.AF_INET6, ("fd00:ec2::254", 80))), "ENETUNREACH", "EADDRNOTAVAIL", "EACCES")


def ask_outside():
    """Whether a resolver outside answers; sending alone tells nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(1)
        s.connect(("9.9.9.9", 53))
        s.send(b"x")
        return s.recv(9)


expect(40, "outside resolver", attempt(ask_outside), "ENETUNREACH", "ECONNREFUSED", "EHOSTUNREACH", "EACCES", "EPERM")
expect(43, "raw socket", attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)), *NO)
expect(43, "packet socket", attempt(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)), *NO)
for family, kind, protocol, name in [
    (socket.AF_INET, socket.SOCK_STREAM, 262, "MPTCP"), (socket.AF_INET6, socket.SOCK_STREAM, 262, "MPTCP"),
    (socket.AF_INET, socket.SOCK_DGRAM, 136, "UDP-Lite"), (socket.AF_INET, socket.SOCK_SEQPACKET, 132, "SCTP"),
    (socket.AF_INET, socket.SOCK_STREAM, 132, "SCTP"), (socket.AF_INET, 6, 33, "DCCP"),
]:
    own(43, f"{name} socket of family {family}", attempt(lambda: socket.socket(family, kind, protocol)), *NO)
expect(43, "SO_MARK", attempt(lambda: socket.socket().setsockopt(socket.SOL_SOCKET, 36, 1)), *NO)


def netlink():
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as s:
        # RTM_DELLINK of interface 1, with an acknowledgement.
        s.send(struct.pack("=IHHII", 32, 17, 5, 1, 0) + struct.pack("=BxHiII", 0, 0, 1, 0, 0))
        answer = struct.unpack("=i", s.recv(4096)[16:20])[0]
        if answer:
            raise OSError(-answer, "netlink")


expect(43, "netlink write", attempt(netlink), *NO)
own(43, "netlink netfilter", attempt(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)), *NO)
own(43, "netlink audit", attempt(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9)), *NO)
expect(44, "abstract socket of the host", attempt(lambda: connect(socket.AF_UNIX, "\0" + facts["abstract"])), "ECONNREFUSED", "EPERM")
expect(44, "the house's socket", attempt(lambda: connect(socket.AF_UNIX, facts["home"] + "/run/inside.sock")), *GONE)
expect(45, "AF_VSOCK", attempt(lambda: socket.socket(40, socket.SOCK_STREAM)), "EPERM", "EAFNOSUPPORT")

# Resources.
expect(53, "real-time scheduling", attempt(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))), *NO)
expect(53, "nice -20", attempt(lambda: os.setpriority(os.PRIO_PROCESS, 0, -20)), "EPERM", "EACCES")


def fill(path):
    try:
        with open(path, "wb") as f:
            for _ in range(4096):
                f.write(b"\0" * (1 << 20))
    finally:
        os.unlink(path)


# A plain process would fill the host's own disk; there the probe is only named.
if facts["fill"]:
    expect(54, "fill /tmp", attempt(lambda: fill("/tmp/fill")), "ENOSPC")
    expect(54, "fill /dev/shm", attempt(lambda: fill("/dev/shm/fill")), "ENOSPC")
else:
    report(54, "fill /tmp", False, "not tried: nothing would stop it")
for place in facts["disks"]:
    expect(54, "fill " + place, attempt(lambda: fill(place + "/fill")), "ENOSPC")
if facts["limits"]:
    children, bounded = [], False
    for _ in range(facts["limits"] + 50):
        try:
            pid = os.fork()
        except OSError as e:
            bounded = e.errno == errno.EAGAIN
            break
        if pid == 0:
            signal.pause()
        children.append(pid)
    for pid in children:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    report(51, "fork without end", bounded, len(children))

# Secrets.
haystack = json.dumps(dict(os.environ)) + "".join(seen)
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        haystack += open(f"/proc/{pid}/environ", errors="replace").read()
    except OSError:
        pass
haystack += open("/proc/self/mountinfo").read()
report(58, "the provider's key", facts["yranac"][::-1] not in haystack)
