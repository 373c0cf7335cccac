//! Invalid input and failing hosts: each has a clear error, and nothing is lost.

use crate::{TWO, house, up};
use abbey_testkit::args;
use abbey_testkit::house::{House, kill, until};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

#[test]
fn port_and_secret_conflicts_name_the_resource_and_the_remedy() {
    let house = house();
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = busy.local_addr().unwrap().port();
    house.manifest(&format!(
        "{TWO}services:\n  s: {{ cell: process, command: [sleep, '60'], port: {port} }}\n"
    ));
    let told = house.expect_refusal(4, "up");
    assert!(
        told.contains(&format!(
            "port {port} is in use by pid {}",
            std::process::id()
        )),
        "{told}"
    );
    house.manifest(&format!(
        "{TWO}services:\n  s: {{ cell: process, command: [no-such-program] }}\n"
    ));
    assert!(
        house
            .expect_refusal(4, "up")
            .contains("`no-such-program` was found neither")
    );
    house.manifest(&TWO.replace("defaults: {", "providers: { p: { kind: openai, base_url: http://127.0.0.1:1/v1, key: env:ABBEY_NO_SUCH_KEY } }\ndefaults: { model: p/m,"));
    let told = house.expect_refusal(4, "up");
    assert!(
        told.contains("ABBEY_NO_SUCH_KEY") && told.contains("set"),
        "{told}"
    );
    house.manifest(&TWO.replace(
        "template: sysadmin,",
        "template: sysadmin, skills: [no-such-skill],",
    ));
    assert!(
        house
            .expect_refusal(4, "up")
            .contains("no skill `no-such-skill`")
    );
    house.manifest(TWO);
    house.expect(0, "up");
}

#[test]
fn a_second_control_plane_on_a_home_is_refused_with_the_holders_pid() {
    let house = up(TWO);
    let output = house.run("role serve");
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&output.stdout).contains(&format!(
        "already running (pid {})",
        house.control_plane_pid()
    )));
}

#[test]
fn an_unusable_home_is_refused_by_path() {
    let house = house();
    house.manifest(TWO);
    let file = house.path("file");
    std::fs::write(&file, "x").unwrap();
    let told = house.expect_refusal(
        1,
        args!("--home {} up", file.join("below").display().to_string()),
    );
    assert!(told.contains("cannot write to the home"), "{told}");
    // Agents could not walk to their files below a closed directory.
    let closed = house.path("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
    let told = house.expect_refusal(
        1,
        args!("--home {} up", closed.join("h").display().to_string()),
    );
    assert!(told.contains("chmod o+x"), "{told}");
    let deep = house.path(&"d".repeat(90));
    assert!(
        house
            .expect_refusal(1, args!("--home {} up", deep.display().to_string()))
            .contains("too long")
    );
}

#[test]
fn a_damaged_state_file_is_refused_and_a_backup_restores_it() {
    let house = up(TWO);
    house.expect(0, "task add 'show system stats' --wait");
    let archive = house.path("backup.tar").display().to_string();
    let backup = house.json(0, args!("backup {}", archive));
    house.expect_refusal(4, args!("backup {}", archive));
    house.expect(0, "down");
    let database = house.home().join("abbey.db");
    let mut bytes = std::fs::read(&database).unwrap();
    let middle = bytes.len() / 2;
    for byte in &mut bytes[100..middle] {
        *byte ^= 0x5a;
    }
    std::fs::write(&database, &bytes).unwrap();
    let told = house.expect_refusal(1, "up");
    assert!(
        told.contains("is damaged") && told.contains("abbey restore"),
        "{told}"
    );
    // A truncated or foreign file is no empty house either (hazard 1).
    std::fs::write(&database, &bytes[..50]).unwrap();
    assert!(house.expect_refusal(1, "up").contains("is damaged"));
    assert!(
        house
            .expect_refusal(4, args!("restore {}", archive))
            .contains("already has state")
    );
    std::fs::rename(&database, house.path("damaged.db")).unwrap();
    for rest in ["abbey.db-wal", "abbey.db-shm"] {
        let _gone = std::fs::remove_file(house.home().join(rest));
    }
    let restored = house.json(0, args!("restore {}", archive));
    assert_eq!(restored["state_hash"], backup["state_hash"]);
    house.expect(0, "up");
    assert_eq!(house.json(0, "task show 1")["task"]["state"], "done");
    assert!(house.json(0, "activity verify")["ok"].as_bool().unwrap());
    house.expect(0, "task add 'show system stats' --wait");
}

#[test]
fn a_full_disk_loses_nothing_and_recovers_without_restart() {
    let house = house();
    let mount = house.path("disk");
    std::fs::create_dir(&mount).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=16m,mode=711", "tmpfs"])
        .arg(&mount)
        .status()
        .unwrap();
    assert!(mounted.success(), "a tmpfs of 16 MB");
    struct Unmount(std::path::PathBuf);
    impl Drop for Unmount {
        fn drop(&mut self) {
            let _busy = Command::new("umount").arg("-l").arg(&self.0).status();
        }
    }
    let _unmount = Unmount(mount.clone());
    let home = mount.join("h").display().to_string();
    house.manifest(TWO);
    house.expect(0, args!("--home {} up", home));
    house.expect(
        0,
        args!("--home {} task add 'show system stats' --wait", home),
    );
    let filler = mount.join("filler");
    let _full = Command::new("dd")
        .args([
            "if=/dev/zero",
            "bs=64k",
            &format!("of={}", filler.display()),
        ])
        .stderr(Stdio::null())
        .status()
        .unwrap();
    // Intake is refused with the reason once nothing more fits; what was acknowledged stays.
    let mut acknowledged = 1;
    let mut refusal = String::new();
    let long = "x".repeat(20_000);
    for _ in 0..400 {
        let output = house.run(args!("--home {} task add {}", home, long));
        if !output.status.success() {
            refusal = String::from_utf8_lossy(&output.stderr).into_owned();
            break;
        }
        acknowledged += 1;
    }
    assert!(refusal.contains("no disk space is left"), "{refusal}");
    std::fs::remove_file(&filler).unwrap();
    house.expect(
        0,
        args!("--home {} task add 'show system stats' --wait", home),
    );
    let listed = house.json(0, args!("--home {} task list --limit 1000", home));
    assert_eq!(listed["tasks"].as_array().unwrap().len(), acknowledged + 1);
    assert!(
        house.json(0, args!("--home {} activity verify", home))["ok"]
            .as_bool()
            .unwrap()
    );
    house.expect(0, args!("--home {} down", home));
}

#[test]
fn killing_shim_and_agent_together_leaves_no_orphan() {
    let house = up(TWO);
    let agent = || house.json(0, "agent show sysadmin");
    let record = house.home().join("run/cells/agent-sysadmin/shim.json");
    let shim = || -> i32 {
        let value: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
        i32::try_from(value["shim"]["pid"].as_i64().unwrap()).unwrap()
    };
    let first = i32::try_from(agent()["pid"].as_i64().unwrap()).unwrap();
    kill(shim());
    until("the agent dies with its shim", || {
        abbey_cells::identify(first).is_none()
    });
    // One document tells presence and process: until the loss is noticed, the old ones stand there.
    let mut second = first;
    until("it is booted anew", || {
        let now = agent();
        second = now["pid"]
            .as_i64()
            .map_or(first, |pid| i32::try_from(pid).unwrap());
        second != first && now["presence"] == "ready"
    });
    assert_eq!(
        house.json(0, "why sysadmin")["last_exit"],
        "its shim disappeared"
    );
    let (serve, shim) = (house.control_plane_pid(), shim());
    for pid in [serve, shim, second] {
        kill(pid);
    }
    house.expect(0, "up");
    until("it is up again", || {
        let now = agent();
        now["presence"] == "ready" && now["pid"].as_i64() != Some(second.into())
    });
    house.expect(0, "task add 'show system stats' --wait");
    assert!(house.json(0, "activity verify")["ok"].as_bool().unwrap());
}

#[test]
fn audit_log_verification_finds_tampering() {
    let house = up(TWO);
    house.expect(0, "task add 'show system stats' --wait");
    house.expect(0, "down");
    let database = house.home().join("abbey.db");
    let changed = Command::new("python3")
        .args(["-c", "import sqlite3,sys; c=sqlite3.connect(sys.argv[1]); c.execute(\"update activity set actor='operator' where seq=5\"); c.commit()"])
        .arg(&database)
        .status()
        .unwrap();
    assert!(changed.success());
    house.expect(0, "up");
    let verdict = house.json(1, "activity verify");
    assert_eq!(
        (verdict["ok"].as_bool(), verdict["first_bad"].as_u64()),
        (Some(false), Some(5))
    );
}

#[test]
fn an_unprivileged_user_without_cgroups_is_refused_unless_waived() {
    let house = house();
    let mine = house.path("user");
    std::fs::create_dir(&mine).unwrap();
    std::os::unix::fs::chown(&mine, Some(65_534), Some(65_534)).unwrap();
    let binary = mine.join("abbey");
    std::fs::copy(env!("CARGO_BIN_EXE_abbey"), &binary).unwrap();
    std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755)).unwrap();
    let manifest = mine.join("abbey.yaml");
    let (first, last) = (house.ports.first, house.ports.last);
    let write = |text: &str| {
        let head = format!(
            "version: 1\nlisten: {{ address: 127.0.0.1:0 }}\nnetwork: {{ ports: {first}-{last} }}\n"
        );
        std::fs::write(&manifest, format!("{head}{text}")).unwrap();
    };
    let run = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&binary)
            .args(args);
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("ABBEY_HOME", mine.join("h"))
            .current_dir(&mine);
        let output = command.output().unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr),
        )
    };
    write(TWO);
    let (code, told) = run(&["up"]);
    assert_eq!(code, Some(4), "{told}");
    assert!(
        told.contains("limits cannot be enforced") && told.contains("waive: [limits]"),
        "{told}"
    );
    write(&TWO.replace("defaults: {", "defaults: { waive: [limits],"));
    let (code, told) = run(&["up"]);
    assert_eq!(code, Some(0), "{told}");
    let (code, told) = run(&["task", "add", "show system stats", "--wait"]);
    assert_eq!(code, Some(0), "{told}");
    assert!(
        run(&["doctor"])
            .1
            .contains("agents share the user of the house")
    );
    assert_eq!(run(&["down"]).0, Some(0));
}

/// S3-07: a cell without enough memory waits, reports why, and starts when there is enough.
#[test]
fn a_cell_waits_until_memory_is_available() {
    let house = house();
    let all = abbey_cells::read_meminfo("MemTotal:").unwrap();
    let reserve = format!("admission: {{ memory_reserve: {}KiB }}\n", all.0 / 1024);
    house.manifest(&format!("{reserve}{TWO}"));
    house.expect(0, "up --no-wait");
    until("it says what it waits for", || {
        let why = house.json(0, "why sysadmin");
        let reasons = why["reasons"].as_array().unwrap();
        reasons
            .iter()
            .any(|r| r["code"] == "no_room" && r["text"].as_str().unwrap().contains("are reserved"))
    });
    let entries = house.expect(0, "activity --json");
    let waits = entries.lines().filter(|l| l.contains("\"cell.waits\""));
    assert_eq!(waits.count(), 2, "once for each agent\n{entries}");
    house.manifest(TWO);
    house.expect(0, "up");
    house.expect(0, "task add 'show system stats' --wait");
}

/// Runs a command as `user` where no user namespace can be made, as on a hardened host: in a namespace in which their number
/// is zero. It knows the users of the host.
fn run_without_user_namespaces(command: &Command, user: u32) -> Output {
    let script = format!(
        "echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --reuid={user} --regid={user} --clear-groups \"$@\""
    );
    // The first shell is nobody there until its users are mapped; the second has the rights of root.
    let mut child = Command::new("unshare")
        .args(["--user", "sh", "-c", "read go; exec sh -c \"$@\"", "sh"])
        .args([&script, "sh"])
        .arg(command.get_program())
        .args(command.get_args())
        .env_clear()
        .envs(command.get_envs().filter_map(|(k, v)| Some((k, v?))))
        .current_dir(command.get_current_dir().unwrap())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
    let pid = child.id().to_string();
    until("it is in its namespace", || {
        namespace(&pid) != namespace("self")
    });
    for map in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/{pid}/{map}"), "0 0 65536").unwrap();
    }
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn a_plan_is_refused_where_no_sandbox_can_be_built() {
    const USER: u32 = 65_534;
    let house = House::run_by_user(env!("CARGO_BIN_EXE_abbey"), USER);
    let run = |args: &str| run_without_user_namespaces(&house.command(args), USER);
    house.manifest("house: hardened\ndefaults: { waive: [limits] }\nservices:\n  s: { command: [sleep, inf], probe: none }\nagents: { a: {} }\n");
    for verb in ["plan", "up"] {
        let output = run(verb);
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(output.status.code(), Some(4), "{verb}: {text}");
        assert!(
            text.contains("`sysctl user.max_user_namespaces` is 0")
                && text.contains("agent:a")
                && text.contains("service:s"),
            "{verb}: {text}"
        );
    }
    // What needs none runs.
    house.manifest(
        "house: hardened\ndefaults: { waive: [limits], cell: process }\nagents: { a: {} }\n",
    );
    let output = run("up");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    house.expect(0, "down");
}

/// A host that is slow, or a cell that does not want to stop: the command says what it waits for and ends at its time limit,
/// and what it asked for is carried out without it.
#[test]
fn a_plan_that_takes_long_is_carried_out_without_the_command() {
    let house = house();
    let free = || {
        let bound = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        bound.local_addr().unwrap().port()
    };
    let (port, other) = (free(), free());
    let stubborn = |port: u16| {
        format!(
            "{TWO}services:\n  s: {{ cell: process, command: [sh, -c, \"trap '' TERM; while :; do sleep 0.1; done\"], port: {port}, probe: none }}\n"
        )
    };
    house.manifest(&stubborn(port));
    house.expect(0, "up");
    house.manifest(&stubborn(other));
    let told = house.expect_refusal(124, "up --yes --timeout 1s");
    assert!(
        told.contains("no progress for 1 s since it began checking what service-s still needs"),
        "{told}"
    );
    assert!(told.contains("goes on in the background"), "{told}");
    until("the new plan is carried out", || {
        let services = house.json(0, "service list");
        services["services"][0]["port"] == other && services["services"][0]["presence"] == "ready"
    });
    assert!(house.expect(0, "plan").contains("nothing to change"));
}

#[test]
fn a_home_that_is_moved_under_a_running_house_is_named_and_can_be_moved_back() {
    let house = up(TWO);
    let away = house.path("moved");
    std::fs::rename(house.home(), &away).unwrap();
    let moved = away.display().to_string();
    for command in ["up", "down"] {
        let text = house.expect_refusal(4, args!("--home {} {}", moved, command));
        for part in ["were moved to", "puts the home back"] {
            assert!(text.contains(part), "{command}: {text}");
        }
    }
    let checked = house.run(args!("--home {} doctor", moved));
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(said.contains("they are there no more"), "{said}");
    std::fs::rename(&away, house.home()).unwrap();
    house.expect(0, "up");
    house.wait_until_up("sysadmin");
    house.expect(0, "down");
    // What is down moves, and comes up where it is.
    std::fs::rename(house.home(), &away).unwrap();
    house.expect(0, args!("--home {} up", moved));
    house.expect(
        0,
        args!("--home {} task add 'show system stats' --wait", moved),
    );
    house.expect(0, args!("--home {} down", moved));
}
