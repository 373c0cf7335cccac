//! hostd under a stream of malformed requests: some thousand in every check, or as long as `ABBEY_FUZZ_SECONDS`;
//! `ABBEY_FUZZ_SEED` repeats a run.

use abbey_cells::hostd::{
    Allocation, FileEntry, FileName, HostdApi, HostdOperation, HostdReply, HostdRequest,
};
use abbey_cells::program_stream::TerminalSize;
use abbey_cells::{
    Bind, CellNetwork, CellProgram, CellSpec, ForwardTarget, ListenAddress, PortForward, Sandbox,
};
use abbey_model::{Bytes, CellKind, CellName, Egress, Generation, Limits, Millis, Profile};
use abbey_testkit::hostd::Hostd;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Requests in every check.
const REQUESTS: u64 = 4_000;

/// Reproducible random numbers (xorshift64*).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % (n.max(1) as u64)).unwrap()
    }
    fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// Replacements for a text.
const HOSTILE: [&str; 13] = [
    "",
    "..",
    "../../../etc",
    "/etc/shadow",
    "agent-../b",
    "__proto__",
    "a\u{0}b",
    "-rf",
    "$(id)",
    "a\nb",
    "\u{202e}live",
    "service-a",
    "run-a",
];

fn agent(name: &str) -> CellName {
    CellName::Agent(name.parse().unwrap())
}

/// One valid request of every operation except the one that ends hostd.
fn seeds(uid: Option<u32>) -> Vec<HostdOperation> {
    let owner = || agent("a");
    let claim = Allocation {
        elsewhere: None,
        bridged: false,
        disks: None,
        uid,
        subnet: Some("10.99.1.0/24".parse().unwrap()),
        door: Some(1),
        port: None,
        egress: Egress::Full,
    };
    let bind = Bind {
        source: PathBuf::from("/usr/bin/true"),
        path: PathBuf::from("/x/true"),
        writable: false,
    };
    let forward = PortForward {
        at: ListenAddress::Cell("127.0.0.1:7".parse().unwrap()),
        to: ForwardTarget::House(PathBuf::from("/x")),
    };
    let spec = CellSpec {
        cell: owner(),
        kind: CellKind::Sandbox,
        digest: "d".into(),
        program: CellProgram::Path("/bin/true".into()),
        argv: vec!["true".into()],
        env: vec![("A".into(), "b".into())],
        cwd: PathBuf::from("/"),
        uid,
        limits: Limits::default(),
        waived: Default::default(),
        sandbox: Some(Sandbox {
            binds: vec![bind],
            profile: Profile::Strict,
            tmp: Bytes(1 << 20),
        }),
        microvm: None,
        container: None,
        network: Some(CellNetwork {
            subnet: "10.99.1.0/24".parse().unwrap(),
            tag: None,
            bridged: false,
        }),
        forwards: vec![forward],
        terminal: false,
        ready_within: None,
        run_dir: PathBuf::from("/x"),
        log_dir: PathBuf::from("/x"),
        group: "g".into(),
        secrets: vec!["s".into()],
        asks_root: false,
    };
    let file = FileEntry {
        name: FileName::Memory,
        content: "text".into(),
    };
    let run = || CellName::Run("r".parse().unwrap());
    vec![
        HostdOperation::Hello {},
        HostdOperation::Observe {
            container_images: Default::default(),
            sizes_of: Default::default(),
        },
        HostdOperation::Allocate {
            owner: owner(),
            allocation: claim,
        },
        HostdOperation::Release { owner: agent("c") },
        HostdOperation::Prepare {
            owner: owner(),
            files: vec![file],
        },
        HostdOperation::Read {
            owner: owner(),
            file: FileName::Heartbeat,
        },
        HostdOperation::Archive {
            owner: agent("c"),
            stamp: "s".into(),
        },
        HostdOperation::Pack {
            owner: None,
            services: true,
        },
        HostdOperation::Pack {
            owner: Some("a".parse().unwrap()),
            services: false,
        },
        HostdOperation::KeepCheckpoints {
            checkpoints: Vec::new(),
        },
        HostdOperation::CopyCheckpoints {
            path: "/nowhere/sink".into(),
        },
        HostdOperation::Archives {},
        HostdOperation::ProtectHome {},
        HostdOperation::Restore {
            owner: CellName::Agent("a".parse().unwrap()),
            stamp: "2026-11-26T00-00-00-000Z".to_owned(),
        },
        HostdOperation::Snapshot {
            label: "now".to_owned(),
        },
        HostdOperation::Stage { owner: run() },
        HostdOperation::Collect {
            owner: run(),
            paths: vec!["x".into()],
        },
        HostdOperation::Discard { owner: run() },
        HostdOperation::Firewall {
            confirm_within: Millis(1),
        },
        HostdOperation::Start {
            generation: Generation(1),
            spec: Box::new(spec),
        },
        HostdOperation::ReadSecret {
            path: "/etc/shadow".into(),
        },
        HostdOperation::Sweep { cell: owner() },
        HostdOperation::Enter {
            cell: owner(),
            argv: vec!["true".into()],
            env: Vec::new(),
            cwd: PathBuf::from("/"),
            terminal: Some(TerminalSize {
                rows: 24,
                columns: 80,
            }),
        },
    ]
}

/// Mutates a document: another value, a key removed or added, an element doubled.
fn twist(value: &mut serde_json::Value, chance: &mut Chance) {
    use serde_json::Value;
    let deeper = chance.below(4) != 0;
    match value {
        Value::Object(map) if deeper && !map.is_empty() => {
            let n = chance.below(map.len());
            if let Some((_, inner)) = map.iter_mut().nth(n) {
                return twist(inner, chance);
            }
        }
        Value::Array(list) if deeper && !list.is_empty() => {
            let n = chance.below(list.len());
            return twist(&mut list[n], chance);
        }
        _ => {}
    }
    match (value, chance.below(6)) {
        (Value::Object(map), 0) => {
            map.insert((*chance.one_of(&HOSTILE)).to_owned(), Value::from(1));
        }
        (Value::Object(map), 1) => {
            let key = map.keys().next().cloned().unwrap_or_default();
            map.remove(&key);
        }
        (Value::Array(list), 0) => {
            let again: Vec<Value> = list.iter().cycle().take(200).cloned().collect();
            *list = again;
        }
        (value, 2) => *value = Value::Null,
        (value, 3) => {
            *value = Value::from(*chance.one_of(&[-1i64, 0, 1, i64::MAX, i64::MIN, 65_536]))
        }
        (value, 4) => *value = Value::from("x".repeat(chance.below(70_000))),
        (value, _) => *value = Value::from(*chance.one_of(&HOSTILE)),
    }
}

/// Bytes that may or may not form a request.
fn request(seeds: &[HostdOperation], chance: &mut Chance) -> Vec<u8> {
    let request = HostdRequest {
        operation: chance.one_of(seeds).clone(),
        dry_run: chance.below(8) == 0,
    };
    let mut value = serde_json::to_value(request).unwrap();
    for _ in 0..chance.below(4) {
        twist(&mut value, chance);
    }
    let mut bytes = value.to_string().into_bytes();
    if chance.below(3) == 0 {
        for _ in 0..=chance.below(8) {
            let at = chance.below(bytes.len());
            match chance.below(3) {
                0 => bytes[at] ^= 1 << chance.below(8),
                1 => bytes.truncate(at + 1),
                _ => bytes.insert(at, u8::try_from(chance.below(256)).unwrap()),
            }
        }
    }
    bytes.retain(|b| *b != b'\n');
    bytes.push(b'\n');
    bytes
}

/// Sends the bytes in one or two writes, with unexpected file descriptors.
fn send(socket: &Path, bytes: &[u8], chance: &mut Chance) -> String {
    let null = std::fs::File::open("/dev/null").unwrap();
    let mut stream = UnixStream::connect(socket).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let fds = [null.as_fd(), null.as_fd(), null.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let count = chance.below(4);
    if count > 0 {
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds[..count])));
    }
    let half = 1 + chance.below(bytes.len());
    let sent = rustix::net::sendmsg(
        &stream,
        &[IoSlice::new(&bytes[..half])],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    );
    if let Ok(sent) = sent {
        let _closed_early = stream.write_all(&bytes[sent..]);
    }
    if chance.below(16) == 0 {
        // A caller who leaves at once.
        return String::new();
    }
    let _closed_early = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    assert!(
        read.is_ok(),
        "{read:?} after {} bytes: {:.500}",
        bytes.len(),
        String::from_utf8_lossy(bytes)
    );
    answer
}

/// Name, size and content of every file below a directory.
fn tree(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).unwrap().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => dirs.push(entry.path()),
                false => all.push((
                    entry.path(),
                    std::fs::read(entry.path()).unwrap_or_default(),
                )),
            }
        }
    }
    all.sort();
    all
}

#[test]
fn hostd_survives_malformed_requests() {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let seed = number("ABBEY_FUZZ_SEED").unwrap_or(u64::from(std::process::id()) | 1);
    let end =
        number("ABBEY_FUZZ_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let hostd = Hostd::start(env!("CARGO_BIN_EXE_abbey"));
    let home = hostd.config.home.clone();
    let socket = home.join("run/hostd.sock");
    let uid = hostd.claim(&agent("a"), 1);
    hostd.claim(&agent("b"), 2);
    std::fs::write(home.join("agents/b/workspace/canary"), "untouched").unwrap();
    let beside = hostd.path("beside");
    std::fs::create_dir(&beside).unwrap();
    std::fs::write(beside.join("canary"), "untouched").unwrap();
    let before = (tree(&home.join("agents/b")), tree(&beside));
    let passwd = std::fs::read("/etc/passwd").unwrap();
    let pid = hostd.client.hello().unwrap().pid;
    let seeds = seeds(uid);
    let mut chance = Chance(seed);
    let (mut asked, mut done, mut refused, mut failed) = (0u64, 0u64, 0u64, 0u64);
    while end.map_or(asked < REQUESTS, |end| Instant::now() < end) {
        let bytes = request(&seeds, &mut chance);
        // Ending is an operation too, and no finding.
        if String::from_utf8_lossy(&bytes).contains("\"end\"") {
            continue;
        }
        let answer = send(&socket, &bytes, &mut chance);
        asked += 1;
        for line in answer.lines() {
            let reply: Result<HostdReply, _> = serde_json::from_str(line);
            match reply {
                Ok(HostdReply::Refused { .. }) => refused += 1,
                Ok(HostdReply::Failed { .. }) => failed += 1,
                Ok(_) => done += 1,
                Err(e) => panic!("seed {seed}: no reply: {e}: {line}"),
            }
        }
        if asked % 256 == 0 {
            assert_eq!(hostd.client.hello().unwrap().pid, pid, "seed {seed}");
        }
    }
    println!("{asked} requests from seed {seed}: {done} done, {refused} refused, {failed} failed");
    assert_eq!(hostd.client.hello().unwrap().pid, pid, "seed {seed}");
    // Half of them are broken, and some are sound: both ways were walked.
    assert!(refused > 0 && done > 0);
    let after = (tree(&home.join("agents/b")), tree(&beside));
    assert_eq!(
        after, before,
        "seed {seed}: what belongs to others was touched"
    );
    assert_eq!(std::fs::read("/etc/passwd").unwrap(), passwd);
    for name in std::fs::read_dir(hostd.config.cell_records_dir())
        .unwrap()
        .flatten()
    {
        let cell = name.file_name().to_str().and_then(|n| n.parse().ok());
        let cell = cell.unwrap_or_else(|| panic!("seed {seed}: {name:?} is no cell"));
        hostd
            .client
            .call(HostdOperation::Sweep { cell }, &[])
            .unwrap();
    }
}
