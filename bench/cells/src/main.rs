//! Time and memory of cells: one program to its end in every kind of cell and in peers, runs
//! interleaved; a network by us and by `ip` and `nft`; a thousand idle cells.
//!
//! `bench/cells/run [-- CELLS]` prints the tables, `bench/cells/run -- machines` that of microVMs alone, and
//! `bench/cells/run -- compare ABBEY [ROUNDS]` that of one start by this binary and by another. Everything happens in a
//! network of its own.

use abbey_cells::hostd::{Allocation, HostdApi, HostdClient, HostdOperation, ensure_hostd_running};
use abbey_cells::{CellNetwork, CellProgram, CellSpec, Sandbox};
use abbey_model::{Bytes, CellKind, CellName, Generation, Limits, Millis, Profile, Subnet};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

mod machines;

const ROUNDS: usize = 30;

/// Bubblewrap with every namespace, before the program.
const BUBBLEWRAP: [&str; 9] = [
    "bwrap",
    "--unshare-all",
    "--ro-bind",
    "/",
    "/",
    "--proc",
    "/proc",
    "--dev",
    "/dev",
];

struct House {
    _dir: tempfile::TempDir,
    client: HostdClient,
    config: abbey_cells::hostd::HostdConfig,
    first: u32,
    generation: std::cell::Cell<u64>,
}

impl House {
    fn start(abbey: &Path) -> House {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::set_permissions(
            dir.path(),
            std::os::unix::fs::PermissionsExt::from_mode(0o711),
        )
        .expect("its mode");
        let home = abbey_daemon::Home::new(dir.path().join("home"));
        let config = home.create_directories().expect("a home");
        ensure_hostd_running(&config, abbey).expect("hostd");
        let client = HostdClient::new(home.root());
        let first = client.hello().expect("hello").uid_first;
        House {
            _dir: dir,
            client,
            config,
            first,
            generation: std::cell::Cell::new(0),
        }
    }

    fn call(&self, operation: HostdOperation) {
        self.client.call(operation, &[]).expect("hostd does it");
    }

    fn claim(&self, cell: &CellName, number: u32, subnet: Option<Subnet>) -> u32 {
        let uid = self.first + number;
        let claim = Allocation {
            uid: Some(uid),
            subnet,
            ..Allocation::default()
        };
        self.call(HostdOperation::Allocate {
            owner: cell.clone(),
            allocation: claim,
        });
        self.call(HostdOperation::Prepare {
            owner: cell.clone(),
            files: Vec::new(),
        });
        uid
    }

    fn spec(
        &self,
        cell: &CellName,
        uid: u32,
        subnet: Option<Subnet>,
        walls: bool,
        argv: &[&str],
    ) -> CellSpec {
        let sandbox = Sandbox {
            binds: Vec::new(),
            profile: Profile::Strict,
            tmp: Bytes(16 << 20),
        };
        CellSpec {
            cell: cell.clone(),
            kind: if walls {
                CellKind::Sandbox
            } else {
                CellKind::Process
            },
            digest: "d".into(),
            program: CellProgram::Path(argv[0].into()),
            argv: argv.iter().map(|a| (*a).to_owned()).collect(),
            env: vec![("PATH".into(), "/usr/bin:/bin".into())],
            cwd: PathBuf::from("/"),
            uid: Some(uid),
            limits: Limits {
                memory: Bytes(256 << 20),
                cpu_milli: 2000,
                processes: 64,
                io: None,
            },
            waived: Default::default(),
            sandbox: walls.then_some(sandbox),
            microvm: None,
            container: None,
            network: subnet.map(|subnet| CellNetwork {
                subnet,
                tag: None,
                bridged: false,
            }),
            forwards: Vec::new(),
            terminal: false,
            ready_within: None,
            run_dir: PathBuf::new(),
            log_dir: PathBuf::new(),
            group: String::new(),
            secrets: Vec::new(),
            asks_root: false,
        }
    }

    fn start_cell(&self, spec: CellSpec) {
        self.generation.set(self.generation.get() + 1);
        let generation = Generation(self.generation.get());
        self.call(HostdOperation::Start {
            generation,
            spec: Box::new(spec),
        });
    }

    fn record(&self, cell: &CellName) -> serde_json::Value {
        let path = self
            .config
            .cell_records_dir()
            .join(cell.to_string())
            .join("shim.json");
        serde_json::from_slice(&std::fs::read(path).expect("a record")).expect("json")
    }

    /// From the call to the end of the program and of everything around it.
    fn run_to_end(&self, spec: CellSpec) -> Duration {
        let cell = spec.cell.clone();
        let begin = Instant::now();
        self.start_cell(spec);
        let pid = self.record(&cell)["shim"]["pid"]
            .as_i64()
            .and_then(|p| i32::try_from(p).ok());
        if let Some(Ok(fd)) = pid
            .and_then(Pid::from_raw)
            .map(|p| pidfd_open(p, PidfdFlags::empty()))
        {
            let mut fds = [rustix::event::PollFd::new(
                &fd,
                rustix::event::PollFlags::IN,
            )];
            rustix::event::poll(&mut fds, None).expect("poll");
        }
        let took = begin.elapsed();
        self.call(HostdOperation::Sweep { cell });
        took
    }
}

impl Drop for House {
    fn drop(&mut self) {
        let _gone = self.client.call(HostdOperation::End {}, &[]);
    }
}

fn agent(n: usize) -> CellName {
    CellName::Agent(format!("a{n}").parse().expect("a slug"))
}

fn subnet(n: usize) -> Subnet {
    format!("10.{}.{}.0/24", 100 + n / 256, n % 256)
        .parse()
        .expect("a subnet")
}

fn command(argv: &[&str]) -> Duration {
    let begin = Instant::now();
    let status = Command::new(argv[0])
        .args(&argv[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(status.expect("it runs").success(), "{argv:?}");
    begin.elapsed()
}

fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1000.0
}

fn percentiles(times: &mut [Duration]) -> (f64, f64, f64) {
    times.sort_unstable();
    let at = |p: usize| ms(times[(times.len() - 1) * p / 100]);
    (at(50), at(10), at(90))
}

/// An OCI bundle with one program and its libraries, for the runtimes that want one.
fn bundle(dir: &Path) {
    let root = dir.join("rootfs");
    let script = "set -e; mkdir -p \"$0/bin\" \"$0/proc\" \"$0/sys\" \"$0/dev\"; cp -L /bin/true \"$0/bin/true\"; for f in $(ldd /bin/true | grep -oE '/[^ ]+'); do cp --parents -L \"$f\" \"$0/\"; done";
    let _made = Command::new("sh").args(["-c", script]).arg(&root).status();
    let _made = Command::new("runc").args(["spec", "-b"]).arg(dir).status();
    let path = dir.join("config.json");
    let mut spec: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap_or_default()).unwrap_or_default();
    spec["process"]["terminal"] = false.into();
    spec["process"]["args"] = serde_json::json!(["/bin/true"]);
    spec["process"]["rlimits"] = serde_json::json!([]);
    spec["root"] = serde_json::json!({ "path": "rootfs", "readonly": true });
    let _written = std::fs::write(path, spec.to_string());
}

/// Whether a peer runs here at all; said when not.
fn works(argv: &[&str]) -> bool {
    let done = Command::new(argv[0])
        .args(&argv[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output();
    match done {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            println!(
                "left out: {}: {}",
                argv[0],
                String::from_utf8_lossy(&output.stderr)
                    .lines()
                    .next()
                    .unwrap_or("failed")
            );
            false
        }
        Err(error) => {
            println!("left out: {}: {error}", argv[0]);
            false
        }
    }
}

fn programs(house: &House) {
    let dir = tempfile::tempdir().expect("a directory");
    bundle(dir.path());
    let bundle = dir.path().display().to_string();
    let (walled, plain, netted) = (agent(0), agent(1), agent(2));
    let uids = [
        house.claim(&walled, 1, None),
        house.claim(&plain, 2, None),
        house.claim(&netted, 3, Some(subnet(0))),
    ];
    house
        .client
        .apply_firewall(Millis(5000), &|| true)
        .expect("rules");
    let peers: Vec<&str> = ["crun", "runc"]
        .into_iter()
        .filter(|r| works(&[r, "run", "-b", &bundle, "bench-probe"]))
        .collect();
    let bubblewrap = works(&["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"]);
    println!("\n## one program to its end, {ROUNDS} interleaved runs (ms)\n");
    println!("| cell | program | median | p10 | p90 |\n|---|---|---:|---:|---:|");
    for argv in [&["/bin/true"][..], &["/usr/bin/python3", "-c", "pass"][..]] {
        let mut times: BTreeMap<(usize, &str), Vec<Duration>> = BTreeMap::new();
        let bwrap: Vec<&str> = BUBBLEWRAP.iter().chain(argv).copied().collect();
        for round in 0..ROUNDS {
            let id = format!("bench-{}-{round}", std::process::id());
            let mut time = |n, name, run: &mut dyn FnMut() -> Duration| {
                let_the_kernel_finish();
                times.entry((n, name)).or_default().push(run());
            };
            time(0, "fork and exec", &mut || command(argv));
            time(1, "our process cell", &mut || {
                house.run_to_end(house.spec(&plain, uids[1], None, false, argv))
            });
            time(2, "our sandbox, loopback only", &mut || {
                house.run_to_end(house.spec(&walled, uids[0], None, true, argv))
            });
            time(3, "our sandbox with a network", &mut || {
                house.run_to_end(house.spec(&netted, uids[2], Some(subnet(0)), true, argv))
            });
            if bubblewrap {
                time(4, "bubblewrap --unshare-all", &mut || command(&bwrap));
            }
            if argv[0] == "/bin/true" {
                for (n, runtime) in peers.iter().enumerate() {
                    let run = [runtime, "run", "-b", &bundle, &id];
                    time(5 + n, runtime, &mut || command(&run));
                }
            }
        }
        for ((_, name), mut times) in times {
            let (p50, p10, p90) = percentiles(&mut times);
            println!("| {name} | {} | {p50:.2} | {p10:.2} | {p90:.2} |", argv[0]);
        }
    }
    for cell in [walled, plain, netted] {
        house.call(HostdOperation::Sweep { cell });
    }
}

/// Median of the ratios of pairs, run by run.
fn median_ratio(of: &[Duration], to: &[Duration]) -> f64 {
    let mut ratios: Vec<f64> = of.iter().zip(to).map(|(a, b)| ms(*a) / ms(*b)).collect();
    ratios.sort_unstable_by(f64::total_cmp);
    ratios[ratios.len() / 2]
}

/// One start by each of two binaries and by bubblewrap, interleaved.
fn compare(house: &House, other: &House, rounds: usize) {
    let houses = [(house, subnet(0)), (other, subnet(1))];
    let uids = houses.map(|(house, subnet)| house.claim(&agent(0), 1, Some(subnet)));
    for (house, _) in houses {
        let applied = house.client.apply_firewall(Millis(5000), &|| true);
        applied.expect("rules");
    }
    println!("| program | this one | the other | bubblewrap | this / other | this / bubblewrap |");
    println!("|---|---:|---:|---:|---:|---:|");
    for argv in [&["/bin/true"][..], &["/usr/bin/python3", "-c", "pass"][..]] {
        let bwrap: Vec<&str> = BUBBLEWRAP.iter().chain(argv).copied().collect();
        let mut times = [Vec::new(), Vec::new(), Vec::new()];
        for round in 0..rounds {
            // Nobody is always the first.
            for turn in 0..3 {
                let who = (round + turn) % 3;
                let_the_kernel_finish();
                times[who].push(match houses.get(who) {
                    Some((house, subnet)) => {
                        let spec = house.spec(&agent(0), uids[who], Some(*subnet), true, argv);
                        house.run_to_end(spec)
                    }
                    None => command(&bwrap),
                });
            }
        }
        let median = |n: usize| percentiles(&mut times[n].clone()).0;
        println!(
            "| {} | {:.2} | {:.2} | {:.2} | {:.3} | {:.3} |",
            argv[0],
            median(0),
            median(1),
            median(2),
            median_ratio(&times[0], &times[1]),
            median_ratio(&times[0], &times[2])
        );
    }
}

/// What the network adds, and the same by the tools.
fn networks(house: &House) {
    println!("\n## a network for a cell (ms)\n");
    println!("| how | median | p10 | p90 |\n|---|---:|---:|---:|");
    // Each round has cells of its own: a name that the kernel has not given up yet would be waited for.
    let cells: Vec<(CellName, u32)> = (0..ROUNDS)
        .map(|n| {
            let cell = agent(100 + n);
            let number = u32::try_from(100 + n).expect("small");
            let uid = house.claim(&cell, number, Some(subnet(100 + n)));
            (cell, uid)
        })
        .collect();
    house
        .client
        .apply_firewall(Millis(5000), &|| true)
        .expect("rules");
    let (mut with, mut without, mut tools) = (Vec::new(), Vec::new(), Vec::new());
    for (n, (cell, uid)) in cells.iter().enumerate().take(ROUNDS) {
        for (net, times) in [(Some(subnet(100 + n)), &mut with), (None, &mut without)] {
            let spec = house.spec(cell, *uid, net, true, &["/bin/sleep", "9"]);
            let_the_kernel_finish();
            let begin = Instant::now();
            house.start_cell(spec);
            times.push(begin.elapsed());
            house.call(HostdOperation::Sweep { cell: cell.clone() });
        }
    }
    // Apart from ours: whoever changes any rule on the host makes hostd look at its own again, which costs 10 ms.
    for n in 0..ROUNDS {
        let_the_kernel_finish();
        let begin = Instant::now();
        for line in [
            format!("netns add b{n}"),
            format!("link add v{n} type veth peer name e{n} netns b{n}"),
            format!("addr add 10.9.{n}.1/32 dev v{n}"),
            format!("link set v{n} up"),
            format!("route add 10.9.{n}.2/32 dev v{n}"),
            format!("-n b{n} addr add 10.9.{n}.2/32 dev e{n}"),
            format!("-n b{n} link set e{n} up"),
            format!("-n b{n} route add default dev e{n}"),
        ] {
            command(
                &std::iter::once("ip")
                    .chain(line.split(' '))
                    .collect::<Vec<_>>(),
            );
        }
        command(&["nft", "add", "table", "inet", &format!("bench{n}")]);
        tools.push(begin.elapsed());
        command(&["ip", "netns", "del", &format!("b{n}")]);
        command(&["nft", "delete", "table", "inet", &format!("bench{n}")]);
    }
    let paired: Vec<Duration> = with
        .iter()
        .zip(&without)
        .map(|(a, b)| a.saturating_sub(*b))
        .collect();
    for (name, mut times) in [
        ("start of a sandbox with a network", with),
        ("start of a sandbox without", without),
        ("the difference, pair by pair", paired),
        ("eight `ip` commands and one `nft`", tools),
    ] {
        let (p50, p10, p90) = percentiles(&mut times);
        println!("| {name} | {p50:.2} | {p10:.2} | {p90:.2} |");
    }
}

/// A network that ended is taken apart by the kernel afterwards, for some 10 ms, and whoever makes one meanwhile
/// waits; what is measured here is the making.
fn let_the_kernel_finish() {
    std::thread::sleep(Duration::from_millis(60));
}

fn private_kib(pid: i64) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    text.lines()
        .filter(|l| l.starts_with("Private_"))
        .filter_map(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum()
}

fn fleet(house: &House, count: usize) {
    println!("\n## {count} idle sandboxes, each with a network of its own\n");
    let cells: Vec<CellName> = (10..10 + count).map(agent).collect();
    let begin = Instant::now();
    let uids: Vec<u32> = cells
        .iter()
        .enumerate()
        .map(|(n, c)| {
            house.claim(
                c,
                u32::try_from(10 + n).expect("small"),
                Some(subnet(1 + n)),
            )
        })
        .collect();
    let claimed = begin.elapsed();
    let begin = Instant::now();
    house
        .client
        .apply_firewall(Millis(30_000), &|| true)
        .expect("rules");
    let ruled = begin.elapsed();
    let begin = Instant::now();
    let mut times = Vec::new();
    for (n, cell) in cells.iter().enumerate() {
        let one = Instant::now();
        house.start_cell(house.spec(
            cell,
            uids[n],
            Some(subnet(1 + n)),
            true,
            &["/bin/sleep", "3600"],
        ));
        times.push(one.elapsed());
    }
    let up = begin.elapsed();
    let part = count.min(50);
    let median = |times: &[Duration]| percentiles(&mut times.to_vec()).0;
    let (mut shims, mut inits) = (0, 0);
    for cell in &cells {
        let record = house.record(cell);
        shims += private_kib(record["shim"]["pid"].as_i64().unwrap_or(0));
        inits += private_kib(record["child"]["pid"].as_i64().unwrap_or(0));
    }
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for half in cells.chunks(count.div_ceil(2).max(1)) {
            let client = &house.client;
            scope.spawn(move || {
                for cell in half {
                    client
                        .call(HostdOperation::Sweep { cell: cell.clone() }, &[])
                        .expect("swept");
                }
            });
        }
    });
    let down = begin.elapsed();
    println!("| figure | value |\n|---|---:|");
    println!(
        "| users, directories and subnets claimed | {:.2} s |",
        claimed.as_secs_f64()
    );
    println!(
        "| firewall table for all of them, once | {:.0} ms |",
        ms(ruled)
    );
    println!("| up | {:.2} s |", up.as_secs_f64());
    println!(
        "| one start: first {part} / last {part}, median | {:.2} / {:.2} ms |",
        median(&times[..part]),
        median(&times[count - part..])
    );
    println!(
        "| private memory of the shim, each | {} KiB |",
        shims / count as u64
    );
    println!(
        "| private memory of the cell's first process, each | {} KiB |",
        inits / count as u64
    );
    println!("| down, two at a time | {:.2} s |", down.as_secs_f64());
}

fn main() {
    let mut args = std::env::args().skip(1);
    let abbey = PathBuf::from(args.next().expect("the binary"));
    let what = args.next();
    abbey_launch::unshare_network().expect("root");
    let house = House::start(&abbey);
    if what.as_deref() == Some("machines") {
        return machines::machines(&house, &abbey);
    }
    if what.as_deref() == Some("compare") {
        let other = House::start(&PathBuf::from(args.next().expect("the other binary")));
        let rounds = args.next().and_then(|n| n.parse().ok()).unwrap_or(ROUNDS);
        return compare(&house, &other, rounds);
    }
    let count = what.and_then(|n| n.parse().ok()).unwrap_or(1000);
    programs(&house);
    networks(&house);
    drop(house);
    let house = House::start(&abbey);
    machines::machines(&house, &abbey);
    drop(house);
    let house = House::start(&abbey);
    fleet(&house, count);
    drop(house);
    let left = std::fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    println!(
        "| interfaces left once hostd has ended | {} |",
        left.lines().filter(|l| l.trim().starts_with("ab")).count()
    );
}
