//! What an agent can exhaust in its own cell without affecting others: memory, CPU, processes, output (checks 27, 28 and
//! 51 to 54). The neighbour and the house still answer afterwards.

use abbey_testkit::args;
use abbey_testkit::house::{House, until};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const HOUSE: &str = "house: bombs\ndefaults: { cell: sandbox, limits: { memory: 64MiB, cpus: 0.5, processes: 48 } }\nagents:\n  a: { template: sysadmin }\n  b: { template: sysadmin }\n";

fn stand() -> House {
    let house = crate::house();
    house.manifest(HOUSE);
    house.expect(0, "up");
    house
}

/// Runs a script in the cell of `a`, and gives status and output.
fn script(house: &House, code: &str) -> (Option<i32>, String) {
    let output = house.run(args!("exec a -- python3 -c {}", code));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), said)
}

fn in_background(house: &House, code: &str) -> Child {
    let args = ["exec", "a", "--", "python3", "-c", code];
    let mut command = house.command(&args);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

fn neighbour_is_well(house: &House) {
    let before = Instant::now();
    assert_eq!(house.expect(0, "exec b -- echo well"), "well\n");
    assert!(before.elapsed() < Duration::from_secs(20), "within bounds");
}

/// Processes of the cell of `a`, by its control group.
fn members(house: &House) -> Vec<i32> {
    let group = abbey_daemon::Home::new(house.home()).cgroup_name();
    let bases = ["pids", "unified", ""].map(|b| std::path::Path::new("/sys/fs/cgroup").join(b));
    let mut pids = Vec::new();
    for base in bases {
        let file = base.join(&group).join("agent-a/cgroup.procs");
        let text = std::fs::read_to_string(file).unwrap_or_default();
        pids.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()));
    }
    pids
}

#[test]
fn a_memory_bomb_is_killed_inside_its_cell() {
    let house = stand();
    let (status, _) = script(&house, "x = [bytearray(1 << 20) for _ in range(4096)]");
    // The kernel ends the largest of the cell; what it is told by is a signal.
    assert_eq!(status, Some(137));
    for place in ["/dev/shm", "/tmp"] {
        let code = format!(
            "import os\nf = open('{place}/fill', 'wb')\ntry:\n  for _ in range(4096): f.write(b'x' * (1 << 20)); f.flush()\n  print('all of it')\nexcept OSError as e: print(e.errno)\nfinally: os.unlink('{place}/fill')"
        );
        let (status, said) = script(&house, &code);
        assert!(
            status == Some(137) || said.trim() == "28",
            "{place}: {status:?} {said}"
        );
    }
    let (status, said) = script(
        &house,
        "import os\nf = os.memfd_create('x')\nfor _ in range(4096): os.write(f, b'x' * (1 << 20))\nprint('all of it')",
    );
    assert!(!said.contains("all of it"), "{status:?}");
    neighbour_is_well(&house);
    until("the agent is up", || {
        house.json(0, "agent show a")["presence"] == "ready"
    });
}

/// Memory of buffers of sockets that nobody reads is bounded like other memory of the cell.
#[test]
fn buffers_of_sockets_that_nobody_reads_are_within_the_memory_limit() {
    let house = stand();
    // Memory of a protocol's sockets on this host, MiB; the kernel counts pages.
    let held = |protocol: &str| -> u64 {
        let text = std::fs::read_to_string("/proc/net/sockstat").unwrap();
        let prefix = format!("{}: ", protocol.to_uppercase());
        let line = text.lines().find_map(|l| l.strip_prefix(&prefix));
        let mut words = line.unwrap().split_whitespace();
        words.find(|word| *word == "mem");
        words.next().unwrap().parse::<u64>().unwrap() / 256
    };
    for protocol in ["udp", "tcp"] {
        let code = format!(
            "import resource, socket\nresource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))\nudp = '{protocol}' == 'udp'\nheld, sent = [], 0\ndef pair():\n  r = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)\n  r.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)\n  r.bind(('127.0.0.1', 0))\n  if not udp: r.listen(1)\n  w = socket.socket(socket.AF_INET, r.type)\n  w.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)\n  w.settimeout(0.2)\n  w.connect(r.getsockname())\n  w.setblocking(False)\n  if udp: return r, w\n  return r.accept()[0], w\nfor _ in range(450):\n  try: held.append(pair())\n  except OSError: break\n  try:\n    for _ in range(64): sent += held[-1][1].send(b'x' * 32000)\n  except OSError: pass\nprint(len(held), sent >> 20, flush=True)\ninput()"
        );
        let before = held(protocol);
        let args = ["exec", "a", "--", "python3", "-c", &code];
        let mut command = house.command(&args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let taken = held(protocol).saturating_sub(before);
        println!(
            "{protocol}: {} (sockets, MiB), {taken} MiB held",
            line.trim()
        );
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(taken < 64, "{protocol}: {taken} MiB");
    }
    neighbour_is_well(&house);
}

/// Terminals of all cells come from one number of the host.
#[test]
fn a_cell_cannot_take_the_terminals_of_others() {
    let house = stand();
    let code = "import os\nheld = []\ntry:\n  while True: held.append(os.open('/dev/ptmx', os.O_RDWR | os.O_NOCTTY))\nexcept OSError as e: print(len(held), e.errno)";
    let (status, said) = script(&house, code);
    assert_eq!((status, said.trim()), (Some(0), "64 28"));
}

#[test]
fn cpu_is_shared_by_weight_and_limit() {
    let house = stand();
    // Four that spin for three seconds, where half a processor was agreed.
    let code = "import os, time\nkids = []\nfor _ in range(4):\n  pid = os.fork()\n  if pid == 0:\n    end = time.time() + 3\n    while time.time() < end: pass\n    os._exit(0)\n  kids.append(pid)\nused = 0\nfor pid in kids:\n  _, _, u = os.wait4(pid, 0)\n  used += u.ru_utime + u.ru_stime\nprint(used)";
    let (status, said) = script(&house, code);
    assert_eq!(status, Some(0));
    let used: f64 = said.trim().parse().unwrap();
    assert!(used < 3.0 * 0.5 * 1.5, "{used} s of a processor in 3 s");
    neighbour_is_well(&house);
}

/// A flood of output is logged in whole lines, the log is rotated, and the house keeps reading.
#[test]
fn output_flood_is_bounded_in_the_log() {
    let house = crate::house();
    house.manifest(&format!(
        "{HOUSE}services:\n  flood: {{ command: [yes, {}], probe: none }}\n",
        "x".repeat(2_000)
    ));
    house.expect(0, "up");
    let logs = house.home().join("logs/service-flood");
    let size = || -> u64 {
        let files = std::fs::read_dir(&logs).into_iter().flatten().flatten();
        files.filter_map(|f| Some(f.metadata().ok()?.len())).sum()
    };
    until("the log has turned over", || {
        std::fs::read_dir(&logs).is_ok_and(|d| d.count() > 1)
    });
    assert!(size() < 64 << 20, "{} bytes", size());
    neighbour_is_well(&house);
    house.expect(0, "down");
}

/// Work for the log of a cell is outside its limits, so its programs wait for the log.
#[test]
fn a_program_that_writes_faster_than_its_log_waits() {
    let house = crate::house();
    let code = "import os, time\nbegun = time.monotonic()\nfor _ in range(19 * 1024): print('x' * 1000)\nfile = open('written', 'w')\nfile.write(str(time.monotonic() - begun))\nfile.close()\nprint('the end', flush=True)\ntime.sleep(1000)";
    house.manifest(&format!(
        "{HOUSE}services:\n  flood: {{ command: [python3, -u, -c, {}], probe: none }}\n",
        serde_json::to_string(code).unwrap()
    ));
    house.expect(0, "up");
    until("all is written", || {
        house
            .expect(0, "logs service/flood --tail 1")
            .contains("the end")
    });
    let seconds = house.expect(0, "exec service/flood -- cat written");
    let seconds: f64 = seconds.trim().parse().unwrap();
    println!("19 MiB of output took {seconds} s");
    // 16 MiB at once, and 1 MiB in a second of what is left, with what the log adds to each line.
    assert!((3.0..20.0).contains(&seconds), "{seconds}");
    // The output of a command is not the log's.
    let begun = Instant::now();
    let output = house.run(args!("exec a -- head -c 60000000 /dev/zero"));
    assert_eq!(output.stdout.len(), 60_000_000);
    assert!(begun.elapsed() < Duration::from_secs(20));
    house.expect(0, "down");
}

#[test]
fn stop_kills_every_process_of_a_fork_bomb() {
    let house = stand();
    // Each ignores requests, leaves its session, and makes more.
    let bomb = "import os, signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True:\n  try:\n    if os.fork() == 0: os.setsid()\n  except OSError: pass";
    let mut caller = in_background(&house, bomb);
    until("it is full", || members(&house).len() > 40);
    neighbour_is_well(&house);
    house.expect(0, "stop a");
    until("nobody is left", || members(&house).is_empty());
    let _status = caller.wait();
    house.expect(0, "start a");
    neighbour_is_well(&house);
}

#[test]
fn stop_kills_every_process_of_a_frozen_cell() {
    let house = stand();
    let sleepers = "import os, signal, time\nfor _ in range(10):\n  if os.fork() == 0:\n    os.setsid(); os.kill(os.getpid(), signal.SIGSTOP)\ntime.sleep(600)";
    let mut caller = in_background(&house, sleepers);
    until("they stand", || members(&house).len() > 10);
    let pids = members(&house);
    for pid in &pids {
        // The agent itself as well.
        let _gone = Command::new("kill")
            .args(["-STOP", &pid.to_string()])
            .status();
    }
    house.expect(0, "stop a");
    until("nobody is left", || members(&house).is_empty());
    assert!(pids.iter().all(|p| abbey_cells::identify(*p).is_none()));
    let _status = caller.wait();
}

/// A program of `exec` has the limits of its cell's own, where the kernel keeps one for each process.
#[test]
fn a_program_of_exec_may_open_as_many_files_as_its_cell() {
    let house = crate::house();
    house.manifest("house: files\nagents:\n  a: {}\n  p: { cell: process, waive: [limits] }\n");
    house.expect(0, "up");
    for agent in ["a", "p"] {
        let files = house.expect(
            0,
            args!("exec {} -- sh -c {}", agent, "ulimit -Hn; ulimit -n"),
        );
        let each = (table() / 8 / 256).clamp(256, 4096);
        assert_eq!(files, format!("{each}\n{each}\n"), "{agent}");
    }
}

/// What the kernel counts by user, one cell uses up for nobody else: neither for its neighbour nor for root.
#[test]
fn what_the_kernel_counts_by_user_is_each_cells_own() {
    // As many inotify instances and queued signals as it gets, at most so many; then it says how many, and waits.
    const TAKE: &str = "import ctypes, signal, os, sys
l = ctypes.CDLL(None)
l.sigqueue.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN])
most, n, s = int(sys.argv[1]), 0, 0
while n < most and l.inotify_init1(0) >= 0: n += 1
while s < most and l.sigqueue(os.getpid(), int(signal.SIGRTMIN), None) == 0: s += 1
print(n, s, flush=True)
sys.stdin.read()";
    let house = stand();
    let mut all = house.command(args!("exec a -- python3 -c {} 1000000", TAKE));
    let mut taken = all
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0; 1];
    taken
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut said)
        .unwrap();
    assert_eq!(
        house.expect(0, args!("exec b -- python3 -c {} 3", TAKE)),
        "3 3\n"
    );
    if house.runs_as_root() {
        let root = Command::new("python3").args(["-c", TAKE, "3"]).output();
        assert_eq!(String::from_utf8_lossy(&root.unwrap().stdout), "3 3\n");
    }
    drop(taken.stdin.take());
    let _status = taken.wait();
    house.expect(0, "down");
}

/// Size of the host's table of open files.
fn table() -> u64 {
    let text = std::fs::read_to_string("/proc/sys/fs/file-max").unwrap();
    text.trim().parse().unwrap()
}

/// Open files of everything on this host.
fn open_on_host() -> u64 {
    let text = std::fs::read_to_string("/proc/sys/fs/file-nr").unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn a_cell_that_opens_all_files_it_may_leaves_the_table_to_others() {
    let house = crate::house();
    house.manifest("house: files\ndefaults: { limits: { memory: 1GiB, processes: 256 } }\nagents:\n  a: {}\n  b: {}\n");
    house.expect(0, "up");
    let code = "import os, sys, time
opened = 0
ready, done = os.pipe()
for n in range(230):
  try: child = os.fork()
  except OSError: break
  if child == 0:
    held = 0
    while True:
      try: os.open('/dev/null', os.O_RDONLY)
      except OSError: break
      held += 1
    os.write(done, b'%8d' % held)
    time.sleep(1000)
  opened += int(os.read(ready, 8))
print(opened, flush=True)
sys.stdin.read()";
    let before = open_on_host();
    let mut command = house.command(&["exec", "a", "--", "python3", "-c", code]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut caller = command.spawn().unwrap();
    let mut line = String::new();
    let mut output = BufReader::new(caller.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    let opened: u64 = line.trim().parse().unwrap();
    let more = open_on_host().saturating_sub(before);
    assert!(opened > 50_000, "{opened}");
    assert!(
        opened <= table() / 8 && more <= table() / 6,
        "{opened}, {more}"
    );
    neighbour_is_well(&house);
    let files = "held = [open('/dev/null') for _ in range(500)]";
    house.expect(0, args!("exec b -- python3 -c {}", files));
    drop(caller.stdin.take());
    let _status = caller.wait();
}

/// The process of hostd that follows a program is in the cell and ends with it, which says nothing about hostd.
#[test]
fn exec_says_that_the_cell_was_over_its_memory_limit() {
    let house = stand();
    let hog = "import os, time\nfor _ in range(40):\n  if os.fork() == 0:\n    x = b'x' * (8 << 20); time.sleep(30); os._exit(0)\ntime.sleep(30)";
    let output = house.run(args!("exec a -- python3 -c {}", hog));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    println!("{:?}: {said}", output.status.code());
    assert!(!said.contains("hostd"), "{said}");
    match output.status.code() {
        Some(125) => assert!(said.contains("over its memory limit (64.0 MiB)"), "{said}"),
        code => assert_eq!(code, Some(137), "{said}"),
    }
    until("the agent is up", || {
        house.json(0, "agent show a")["presence"] == "ready"
    });
}

/// With memory for all of them, so that what the processes meet is their number.
#[test]
fn exec_says_that_the_cell_has_no_process_left() {
    let house = crate::house();
    house.manifest(&HOUSE.replace("memory: 64MiB", "memory: 512MiB"));
    house.expect(0, "up");
    let bomb = "import os, time\nwhile True:\n  try:\n    if os.fork() == 0: time.sleep(600)\n  except OSError: time.sleep(0.01)";
    let mut bomb = in_background(&house, bomb);
    until("no process is left", || {
        let output = house.run("exec a -- true");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        !output.status.success() && said.contains("`abbey restart a` ends them")
    });
    house.expect(0, "restart a");
    house.expect(0, "exec a -- true");
    bomb.wait().unwrap();
}
