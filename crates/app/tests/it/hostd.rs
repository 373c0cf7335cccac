//! hostd at its socket: what it refuses to every caller, and what the control plane may still do.

use abbey_cells::hostd::{
    Allocation, FileName, HostdApi, HostdOperation, HostdReply, allow_low_ports,
};
use abbey_cells::{
    Bind, CellNetwork, CellProgram, CellSpec, ForwardTarget, ListenAddress, PortForward, Sandbox,
};
use abbey_model::{Bytes, CellKind, CellName, Generation, Limits, Millis, Profile};
use abbey_testkit::hostd::Hostd;
use abbey_testkit::house::{House, until};
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

fn agent(name: &str) -> CellName {
    CellName::Agent(name.parse().unwrap())
}

fn spec(hostd: &Hostd, cell: CellName, uid: Option<u32>) -> CellSpec {
    CellSpec {
        kind: CellKind::Sandbox,
        digest: "d".into(),
        program: CellProgram::Path("/bin/true".into()),
        argv: vec!["true".into()],
        env: Vec::new(),
        cwd: PathBuf::from("/"),
        uid,
        limits: Limits::default(),
        waived: Default::default(),
        sandbox: Some(Sandbox {
            binds: Vec::new(),
            profile: Profile::Strict,
            tmp: Bytes(1 << 20),
        }),
        microvm: None,
        container: None,
        network: None,
        forwards: Vec::new(),
        terminal: false,
        ready_within: None,
        // Paths that the caller chose are replaced by those of the house.
        run_dir: PathBuf::from("/etc"),
        log_dir: PathBuf::from("/etc"),
        group: "other-house".into(),
        secrets: Vec::new(),
        asks_root: false,
        cell: {
            assert!(hostd.config.privileged, "these tests are run by root");
            cell
        },
    }
}

fn start(spec: CellSpec) -> HostdOperation {
    HostdOperation::Start {
        generation: Generation(1),
        spec: Box::new(spec),
    }
}

#[test]
fn hostd_refuses_access_to_other_owners_resources() {
    let hostd = Hostd::start(env!("CARGO_BIN_EXE_abbey"));
    let uid = hostd.claim(&agent("a"), 1).unwrap();
    let refused = |operation: HostdOperation, rule: &str| {
        let said = hostd.client.call(operation, &[]).unwrap_err().to_string();
        assert!(said.contains("refused") && said.contains(rule), "{said}");
    };
    let claim = |name: &str, uid| HostdOperation::Allocate {
        owner: agent(name),
        allocation: Allocation {
            uid: Some(uid),
            ..Allocation::default()
        },
    };
    refused(claim("b", uid), "is allocated to agent-a");
    refused(claim("b", 0), "is outside this house's range");
    refused(claim("b", 1000), "is outside this house's range");
    refused(claim("a", uid + 1), "release it first");
    // Nobody starts, prepares or enters what was not claimed, or as somebody else.
    refused(
        start(spec(&hostd, agent("b"), Some(uid))),
        "has no allocated user",
    );
    refused(start(spec(&hostd, agent("a"), Some(0))), "would run as");
    refused(start(spec(&hostd, agent("a"), None)), "would run as");
    let files = Vec::new();
    let owner = agent("b");
    refused(
        HostdOperation::Prepare { owner, files },
        "has no allocation",
    );
    // A cell sees its own files, and no others.
    let home = hostd.config.home.clone();
    for (source, writable, rule) in [
        (home.join("agents/b/home"), true, "may not write"),
        (home.join("abbey.db"), false, "belongs to the house"),
        (home.join("hostd"), false, "belongs to the house"),
        ("/".into(), false, "belongs to the house"),
        (
            "/etc/shadow".into(),
            false,
            "not a program that everybody may run",
        ),
        ("/etc".into(), false, "not a program that everybody may run"),
        ("/usr".into(), true, "may not write"),
        (
            home.join("agents/a/../../abbey.db"),
            false,
            "not a plain absolute path",
        ),
        ("relative".into(), false, "not a plain absolute path"),
    ] {
        let mut spec = spec(&hostd, agent("a"), Some(uid));
        let path = PathBuf::from("/x");
        let bind = Bind {
            source,
            path,
            writable,
        };
        spec.sandbox.as_mut().unwrap().binds.push(bind);
        refused(start(spec), rule);
    }
    // Every agent may read the house's skills, at one place, and nothing else is put there.
    for (source, writable, path, rule) in [
        ("skills", true, "/agent/skills", "may have only"),
        ("credentials", false, "/agent/skills", "may have only"),
        ("agents/b/home", false, "/agent/skills", "may have only"),
        ("skills", false, "/x", "belongs to the house"),
        ("skills/tides", false, "/agent/skills", "may have only"),
    ] {
        let mut spec = spec(&hostd, agent("a"), Some(uid));
        let bind = Bind {
            source: home.join(source),
            path: path.into(),
            writable,
        };
        spec.sandbox.as_mut().unwrap().binds.push(bind);
        refused(start(spec), rule);
    }
    let skills = Bind {
        source: home.join("skills"),
        path: "/agent/skills".into(),
        writable: false,
    };
    let mut open = spec(&hostd, agent("a"), Some(uid));
    open.sandbox.as_mut().unwrap().binds.push(skills);
    let mode = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(home.join("skills"), mode(0o777)).unwrap();
    refused(start(open), "can be changed by other users");
    std::fs::set_permissions(home.join("skills"), mode(0o755)).unwrap();
    // A kind without its walls is not that kind.
    let mut bare = spec(&hostd, agent("a"), Some(uid));
    bare.sandbox = None;
    refused(start(bare), "is incomplete for the kind sandbox");
    let owner = agent("a");
    refused(HostdOperation::Release { owner }, "still has files");
    for stamp in ["", "../../etc", "a/b", &"x".repeat(41)] {
        let archive = HostdOperation::Archive {
            owner: agent("a"),
            stamp: stamp.to_owned(),
        };
        refused(archive, "a time stamp consists of letters");
    }
    let journal = std::fs::read_to_string(home.join("hostd/journal.jsonl")).unwrap();
    assert!(journal.lines().count() >= 20 && journal.contains("refused: "));
}

#[test]
fn hostd_lets_cells_listen_on_privileged_ports_only_if_root_named_them() {
    let hostd = Hostd::start(env!("CARGO_BIN_EXE_abbey"));
    let uid = hostd.claim(&agent("a"), 1);
    let checked = |kind: CellKind, at: ListenAddress| {
        let mut spec = spec(&hostd, agent("a"), uid);
        if kind == CellKind::Process {
            spec.kind = kind;
            spec.sandbox = None;
        }
        let to = ForwardTarget::House(PathBuf::new());
        spec.forwards.push(PortForward { at, to });
        let answer = hostd.client.dry_run(start(spec));
        answer.map_err(|e| e.to_string())
    };
    let loopback = |port| SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    let (host, cell) = (ListenAddress::Host, ListenAddress::Cell);
    let on_host = [
        (CellKind::Sandbox, host(loopback(443))),
        (CellKind::Process, host(loopback(443))),
        (CellKind::Process, cell(loopback(443))),
    ];
    for (kind, at) in on_host {
        let said = checked(kind, at).unwrap_err();
        for part in ["agent-a may not listen on port 443", "`abbey up` as root"] {
            assert!(said.contains(part), "{said}");
        }
    }
    checked(CellKind::Sandbox, host(loopback(1024))).unwrap();
    checked(CellKind::Sandbox, cell(loopback(53))).unwrap();

    allow_low_ports(&hostd.config.home, [443, 8080].into(), false).unwrap();
    for (kind, at) in on_host {
        checked(kind, at).unwrap();
    }
    checked(CellKind::Sandbox, host(loopback(444))).unwrap_err();
    // What root names no more is not allowed any more.
    allow_low_ports(&hostd.config.home, [25].into(), true).unwrap();
    checked(CellKind::Sandbox, host(loopback(443))).unwrap_err();
}

#[test]
fn hostd_refuses_limits_that_no_manifest_can_declare() {
    let hostd = Hostd::start(env!("CARGO_BIN_EXE_abbey"));
    let uid = hostd.claim(&agent("a"), 1);
    let usual = Limits::default();
    for (processes, cpu_milli, rule) in [
        (1_000_001, 1000, "choose 8 to 1000000"),
        (0, 1000, "choose 8 to 1000000"),
        (256, u32::MAX, "choose at most 1024"),
        (256, 0, "choose at most 1024"),
    ] {
        let mut spec = spec(&hostd, agent("a"), uid);
        spec.limits = Limits {
            processes,
            cpu_milli,
            ..usual
        };
        let said = hostd.client.dry_run(start(spec)).unwrap_err().to_string();
        assert!(said.contains(rule), "{said}");
    }
}

/// hostd makes networks before they are needed, and more cells start at once than it has.
#[test]
fn no_two_sandboxes_share_a_network() {
    let hostd = Hostd::start(env!("CARGO_BIN_EXE_abbey"));
    let cells: Vec<(CellName, Option<u32>)> = (1..=6)
        .map(|n| (agent(&format!("a{n}")), n))
        .map(|(cell, n)| (cell.clone(), hostd.claim(&cell, n)))
        .collect();
    let network = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    for _ in 0..2 {
        let mut networks = vec![network("self")];
        for (cell, uid) in &cells {
            let mut spec = spec(&hostd, cell.clone(), *uid);
            spec.program = CellProgram::Path("/bin/sleep".into());
            spec.argv = vec!["sleep".into(), "600".into()];
            hostd.client.call(start(spec), &[]).unwrap();
            let record = hostd.config.cell_records_dir().join(cell.to_string());
            let record = std::fs::read(record.join("shim.json")).unwrap();
            let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
            let pid = record["child"]["pid"].to_string();
            let devices = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap();
            let names: Vec<&str> = devices
                .lines()
                .filter_map(|line| Some(line.split_once(':')?.0.trim()))
                .collect();
            assert_eq!(names, ["lo"]);
            networks.push(network(&pid));
        }
        let all = networks.len();
        networks.sort();
        networks.dedup();
        assert_eq!(networks.len(), all, "{networks:?}");
        for (cell, _) in &cells {
            let cell = cell.clone();
            hostd
                .client
                .call(HostdOperation::Sweep { cell }, &[])
                .unwrap();
        }
    }
}

/// New rules stay only when the caller confirms in time that it is still connected; otherwise the old ones are restored
/// (S1-13).
#[test]
fn unconfirmed_firewall_rules_are_rolled_back() {
    let hostd = Hostd::start(env!("CARGO_BIN_EXE_abbey"));
    let uid = hostd.claim(&agent("a"), 1);
    let give = |subnet: &str| HostdOperation::Allocate {
        owner: agent("a"),
        allocation: Allocation {
            uid,
            subnet: Some(subnet.parse().unwrap()),
            ..Allocation::default()
        },
    };
    let rules = || {
        let listed = std::process::Command::new("/usr/sbin/nft")
            .args(["list", "ruleset"])
            .output()
            .unwrap();
        String::from_utf8(listed.stdout).unwrap()
    };
    // While rules are on trial, others are served.
    let contact_with = |contact: bool| {
        let (client, owners) = (hostd.client.clone(), std::sync::mpsc::channel());
        std::thread::spawn(move || owners.0.send(client.owners().is_ok()));
        let served = owners.1.recv_timeout(std::time::Duration::from_secs(10));
        assert_eq!(served, Ok(true), "served during the trial");
        contact
    };
    let raise = |contact: bool| {
        hostd
            .client
            .apply_firewall(Millis(20_000), &|| contact_with(contact))
    };
    hostd.client.call(give("10.77.1.0/24"), &[]).unwrap();
    let said = raise(false).unwrap_err().to_string();
    assert!(said.contains("the new rules were not confirmed"), "{said}");
    assert_eq!(rules(), "", "there were none before");
    raise(true).unwrap();
    assert!(rules().contains("10.77.1.10"));
    hostd.client.call(give("10.77.2.0/24"), &[]).unwrap();
    assert!(raise(false).is_err());
    assert!(rules().contains("10.77.1.10") && !rules().contains("10.77.2.10"));
    // What is not private, is held, or lies where the host goes already is not given.
    std::process::Command::new("ip")
        .args(["route", "add", "10.99.0.0/16", "dev", "lo"])
        .status()
        .unwrap();
    for (owner, subnet, rule) in [
        ("a", "8.8.8.0/24", "not in a private range"),
        ("a", "10.99.7.0/24", "which this host routes by lo"),
        ("b", "10.77.2.0/28", "is allocated to agent-a"),
    ] {
        let claim = Allocation {
            subnet: Some(subnet.parse().unwrap()),
            ..Allocation::default()
        };
        let owner = agent(owner);
        let claimed = HostdOperation::Allocate {
            owner,
            allocation: claim,
        };
        let said = hostd.client.call(claimed, &[]).unwrap_err().to_string();
        assert!(said.contains(rule), "{said}");
    }
    // A cell gets the network that its owner holds, listens where it is, and leads to the house.
    let refused = |change: &dyn Fn(&mut CellSpec), rule: &str| {
        let mut asked = spec(&hostd, agent("a"), uid);
        change(&mut asked);
        let said = hostd
            .client
            .call(start(asked), &[])
            .unwrap_err()
            .to_string();
        assert!(said.contains(rule), "{said}");
    };
    let network = |subnet: &str| CellNetwork {
        subnet: subnet.parse().unwrap(),
        tag: None,
        bridged: false,
    };
    refused(
        &|s| s.network = Some(network("10.77.9.0/24")),
        "is not the one of its allocation",
    );
    let forward = |at: ListenAddress, to: ForwardTarget| vec![PortForward { at, to }];
    let cell = |at: &str| ListenAddress::Cell(at.parse().unwrap());
    let host = |at: &str| ListenAddress::Host(at.parse().unwrap());
    let house = || ForwardTarget::House("/etc/shadow".into());
    for at in [
        cell("10.77.2.1:80"),
        cell("10.77.3.4:80"),
        host("203.0.113.1:80"),
        host("10.77.2.9:80"),
    ] {
        refused(
            &|s| {
                s.network = Some(network("10.77.2.0/24"));
                s.forwards = forward(at, house());
            },
            "this cell may not listen on",
        );
    }
    let elsewhere = ForwardTarget::Service("127.0.0.1:22".parse().unwrap());
    refused(
        &|s| s.forwards = forward(cell("127.0.0.1:80"), elsewhere.clone()),
        "no service of this house has the address 127.0.0.1:22",
    );
}

#[test]
fn hostd_dry_run_checks_without_changes() {
    let hostd = Hostd::start(env!("CARGO_BIN_EXE_abbey"));
    let uid = hostd.claim(&agent("a"), 1);
    let sound = start(spec(&hostd, agent("a"), uid));
    assert_eq!(hostd.client.dry_run(sound).unwrap(), HostdReply::Done);
    assert_eq!(
        std::fs::read_dir(hostd.config.cell_records_dir())
            .unwrap()
            .count(),
        0
    );
    let archive = HostdOperation::Archive {
        owner: agent("a"),
        stamp: "now".into(),
    };
    assert_eq!(hostd.client.dry_run(archive).unwrap(), HostdReply::Done);
    assert!(hostd.config.home.join("agents/a").exists());
}

/// Bytes that are not a request end in a refusal or a closed connection, and hostd keeps serving.
#[test]
fn hostd_refuses_garbage_and_keeps_serving() {
    let hostd = Hostd::start(env!("CARGO_BIN_EXE_abbey"));
    let socket = hostd.config.home.join("run/hostd.sock");
    let deep = "[".repeat(100_000);
    // Longer than hostd keeps: read to its end all the same, or the refusal would be lost.
    let long = "x".repeat(6 << 20);
    for bytes in [
        "\n",
        "{}\n",
        "{\"operation\":{\"op\":\"shell\",\"command\":\"id\"}}\n",
        "{\"operation\":{\"op\":\"sweep\",\"cell\":\"agent-a\",\"extra\":1}}\n",
        "{\"operation\":{\"op\":\"sweep\",\"cell\":\"agent-../../etc\"}}\n",
        "{\"operation\":{\"op\":\"sweep\",\"cell\":\"agent-a\\u0000b\"}}\n",
        "\u{feff}\u{0}\u{0}\n",
        &deep,
        &long,
    ] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        let _closed_early = stream.write_all(bytes.as_bytes());
        let _closed_early = stream.shutdown(std::net::Shutdown::Write);
        let mut line = String::new();
        let read = BufReader::new(stream).read_line(&mut line);
        assert!(line.contains("refused"), "{bytes:.60}: {read:?}: {line}");
        hostd.client.hello().unwrap();
    }
}

/// A link is not followed and a pipe is not waited for, where an agent put it instead of a file (hazard 21).
#[test]
fn hostd_does_not_follow_links_or_open_pipes_in_agent_files() {
    let hostd = Hostd::start(env!("CARGO_BIN_EXE_abbey"));
    let owner = agent("a");
    hostd.claim(&owner, 1);
    let workspace = hostd.config.home.join("agents/a/workspace");
    let heartbeat = workspace.join("HEARTBEAT.md");
    let read = || {
        hostd
            .client
            .read_file(owner.clone(), FileName::Heartbeat)
            .unwrap()
    };
    std::os::unix::fs::symlink("/etc/passwd", &heartbeat).unwrap();
    assert_eq!(read(), "");
    std::fs::remove_file(&heartbeat).unwrap();
    let made = std::process::Command::new("mkfifo")
        .arg(&heartbeat)
        .status();
    assert!(made.unwrap().success());
    assert_eq!(read(), "");
    std::fs::remove_file(&heartbeat).unwrap();
    std::fs::write(&heartbeat, "look around").unwrap();
    assert_eq!(read(), "look around");
    // The whole workspace replaced by a link.
    std::fs::rename(&workspace, hostd.path("aside")).unwrap();
    std::os::unix::fs::symlink("/etc", &workspace).unwrap();
    assert!(hostd.client.read_file(owner, FileName::Heartbeat).is_err());
}

/// The control plane runs without privileges, as its process status shows (S1-25).
#[test]
fn serve_drops_privileges_and_restarts_a_lost_hostd() {
    let house = crate::up(crate::TWO);
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", house.control_plane_pid())).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name));
        line.unwrap().trim().to_owned()
    };
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert!(field("Uid:").split_whitespace().all(|id| id != "0"));
    assert!(field("Gid:").split_whitespace().all(|id| id != "0"));
    assert_eq!(field("NoNewPrivs:"), "1");
    // kill -9 of hostd: agents go on, what needs it says so, and `up` starts it again.
    let hostd = abbey_cells::hostd::HostdClient::new(&house.home());
    abbey_testkit::house::kill(hostd.hello().unwrap().pid);
    let said = house.expect_refusal(125, "exec abbot -- true");
    let phrase =
        "does not run, so that it could not run a program in a cell; `abbey up` starts it again";
    assert!(said.contains(phrase), "{said}");
    let doctor = house.run("doctor");
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("does not run"));
    assert!(house.expect(0, "ps").contains("ready"));
    house.expect(0, "up");
    house.expect(0, "exec abbot -- true");
    // Going down without it is no different.
    abbey_testkit::house::kill(hostd.hello().unwrap().pid);
    house.expect(0, "down");
    assert!(!house.home().join("run/hostd.sock").exists());
}

/// What hostd did is logged to the audit log once, also what it did while no control plane was running.
#[test]
fn hostd_journal_is_logged_to_the_audit_log() {
    let house = crate::up(crate::TWO);
    let hostd = |house: &House| {
        let entries = house.expect(0, "activity export");
        let all = entries.lines().map(|l| serde_json::from_str(l).unwrap());
        let is_hostd = |e: &serde_json::Value| {
            let action = e["action"].as_str();
            action.is_some_and(|action| action.starts_with("hostd."))
        };
        all.filter(is_hostd).collect::<Vec<_>>()
    };
    let lines = |house: &House| {
        let journal = std::fs::read_to_string(house.home().join("hostd/journal.jsonl"));
        journal.unwrap().lines().count()
    };
    until("every line is an entry", || {
        hostd(&house).len() == lines(&house)
    });
    let start = hostd(&house)
        .into_iter()
        .find(|e| e["action"] == "hostd.start")
        .unwrap();
    assert!(
        start["entity"].as_str().unwrap().starts_with("agent-"),
        "{start}"
    );
    assert_eq!(
        (&start["detail"]["outcome"], &start["actor"]),
        (&"done".into(), &"house".into())
    );
    // A refusal while nobody serves.
    house.kill_control_plane();
    let refused = HostdOperation::Discard {
        owner: agent("abbot"),
    };
    let client = abbey_cells::hostd::HostdClient::new(&house.home());
    client.call(refused, &[]).unwrap_err();
    house.expect(0, "up");
    until("it is in the chain as well", || {
        hostd(&house).iter().any(|e| {
            e["detail"]["outcome"]
                .as_str()
                .unwrap()
                .starts_with("refused")
        })
    });
    until("every line is one entry", || {
        hostd(&house).len() == lines(&house)
    });
    house.expect(0, "activity verify");
}
