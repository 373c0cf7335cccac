//! Agents in microVMs that really boot, without KVM (S5-01 to S5-12).

use abbey_testkit::args;
use abbey_testkit::house::{House, image, kill, until};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

const ONE: &str = "house: machines\ndefaults: { cell: microvm, limits: { memory: 256MiB }, drives: { state: 16MiB, workspace: 32MiB, scratch: 64MiB } }\nagents:\n  alpha: { template: sysadmin, charter: alpha.md }\n";

fn machines(manifest: &str) -> House {
    let house = crate::house();
    house.install_default_image();
    std::fs::write(house.path("alpha.md"), "# Alpha\n\nfirst\n").unwrap();
    house.manifest(manifest);
    house
}

fn shell(house: &House, script: &str) -> String {
    house.expect(0, args!("exec alpha -- sh -c {}", script))
}

fn show(house: &House) -> Value {
    house.json(0, "agent show alpha")
}

fn drive(house: &House, name: &str) -> PathBuf {
    house.home().join("agents/alpha/drives").join(name)
}

/// Inspects a drive without mounting it.
fn whole(drive: &Path) {
    let output = Command::new("e2fsck")
        .args(["-f", "-n"])
        .arg(drive)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}: {said}", drive.display());
}

/// Content of a file on a drive, read without mounting it.
fn on(drive: &Path, file: &str) -> String {
    let output = Command::new("debugfs")
        .args(["-R", &format!("cat {file}")])
        .arg(drive)
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A drive that is gone is not made anew from what the agent had before it had drives.
#[test]
fn a_lost_drive_of_a_microvm_is_refused_until_it_is_back() {
    let house = machines(ONE);
    house.expect(0, "up");
    shell(&house, "echo kept > /agent/home/kept");
    house.expect(0, "down");
    // From now on it is known that there are drives.
    house.expect(0, "up");
    for (lost, code) in [("", 7), ("state.ext4", 4)] {
        house.expect(0, "down");
        let (drives, away) = (drive(&house, lost), house.path("away"));
        std::fs::rename(&drives, &away).unwrap();
        let text = house.expect_refusal(code, "up");
        assert!(
            text.contains("its files are gone") && text.contains("state.ext4` does not exist"),
            "{lost}: {text}"
        );
        assert!(!drive(&house, "state.ext4").exists(), "{lost}");
        house.expect(0, "down");
        if drives.is_dir() {
            std::fs::remove_dir_all(&drives).unwrap();
        }
        std::fs::rename(&away, &drives).unwrap();
        house.expect(0, "up");
        assert_eq!(shell(&house, "cat /agent/home/kept"), "kept\n", "{lost}");
    }
}

/// Files of the house that contain a text, except drives and images.
fn holders(house: &House, text: &str) -> String {
    let output = Command::new("grep")
        .args(["-rlF", "--exclude=*.ext4", "--exclude=initrd", text])
        .arg(house.home())
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_microvm_agent_works_and_keeps_its_drives() {
    let house = machines(ONE);
    house.expect(0, "up");
    // A kernel of its own, an ordinary user, and nothing but loopback.
    let host = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_ne!(shell(&house, "uname -r").trim(), host.trim());
    assert_eq!(
        shell(&house, "id -u; hostname; ls /sys/class/net"),
        "1000\nalpha\nlo\n"
    );
    // Work goes through the door of the guest.
    house.expect(0, "task add 'show system stats' --wait");
    // Programs: status, input, both outputs, one that is not there.
    let status = |args: &[&str]| house.run(args).status.code();
    assert_eq!(
        status(&["exec", "alpha", "--", "sh", "-c", "exit 42"]),
        Some(42)
    );
    assert_eq!(
        status(&["exec", "alpha", "--", "no-such-program"]),
        Some(127)
    );
    let mut cat = house.command("exec alpha -- sh -c 'cat; echo errors >&2'");
    cat.stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let mut cat = cat.spawn().unwrap();
    let input = "line\n".repeat(200_000);
    let text = input.clone();
    let mut stdin = cat.stdin.take().unwrap();
    let feeder = std::thread::spawn(move || {
        use std::io::Write;
        stdin.write_all(text.as_bytes())
    });
    let output = cat.wait_with_output().unwrap();
    feeder.join().unwrap().unwrap();
    assert!(output.status.success());
    assert_eq!(output.stdout.len(), input.len());
    assert_eq!(output.stderr, b"errors\n");
    assert!(
        house
            .expect(0, "exec -t alpha -- tty")
            .starts_with("/dev/pts/")
    );
    house.expect(0, "cp abbey.yaml alpha:copied.yaml");
    house.expect(0, "cp alpha:copied.yaml back.yaml");
    assert_eq!(
        std::fs::read(house.path("back.yaml")).unwrap(),
        std::fs::read(house.path("abbey.yaml")).unwrap()
    );
    // Classes of files: two last, one goes with the boot, identity is the house's (S3-16).
    shell(
        &house,
        "echo state > /agent/home/s; echo work > /agent/workspace/w; echo gone > /var/tmp/g",
    );
    let refused = house.run("exec alpha -- sh -c 'echo x > /agent/workspace/SOUL.md'");
    assert!(!refused.status.success(), "the charter is not the agent's");
    let full = shell(
        &house,
        "head -c 100M /dev/zero > /agent/home/big 2>&1 || echo full; rm /agent/home/big; df -k / | tail -1",
    );
    assert!(full.contains("full"), "{full}");
    let before = shell(
        &house,
        "cat /etc/machine-id /proc/sys/kernel/random/boot_id",
    );
    // The agent first, then its guest: drives are whole and hold what was written.
    house.expect(0, "stop alpha");
    assert_eq!(
        house.json(0, "why alpha")["last_exit"],
        "stopped on request"
    );
    for name in ["state.ext4", "workspace.ext4"] {
        whole(&drive(&house, name));
    }
    assert_eq!(on(&drive(&house, "workspace.ext4"), "/w"), "work\n");
    house.expect(0, "start alpha");
    assert_eq!(
        shell(
            &house,
            "cat /agent/home/s /agent/workspace/w; test -e /var/tmp/g || echo fresh"
        ),
        "state\nwork\nfresh\n"
    );
    let after = shell(
        &house,
        "cat /etc/machine-id /proc/sys/kernel/random/boot_id",
    );
    assert_ne!(before, after, "each boot has an identity of its own");
    house.expect(0, "down");
    assert!(!house.home().join("run/cells").exists());
}

/// Charter and model reach a running microVM, and the agent acknowledges their number; the next boot starts with them
/// (S5-12).
#[test]
fn a_microvm_is_reloaded_without_restart_and_adopted_by_the_next_control_plane() {
    // On a terminal, as nothing else of this depends on it.
    let house = machines(&ONE.replace("charter: alpha.md", "charter: alpha.md, terminal: true"));
    house.expect(0, "up");
    until("what is on it is written down", || {
        house.expect(0, "logs alpha").contains("alpha is ready")
    });
    let mut attach = house.command("attach alpha");
    attach
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped());
    let mut attach = attach.spawn().unwrap();
    let mut seen = std::io::BufReader::new(attach.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut seen, &mut line).unwrap();
    assert!(
        line.contains("alpha is ready"),
        "what was on it before: {line}"
    );
    attach.kill().unwrap();
    attach.wait().unwrap();
    let first = show(&house);
    std::fs::write(house.path("alpha.md"), "# Alpha\n\nsecond\n").unwrap();
    house.expect(0, "reload alpha");
    let charter = "tail -1 /agent/workspace/SOUL.md; echo more >> /agent/workspace/MEMORY.md";
    assert_eq!(shell(&house, charter), "second\n");
    let reloaded = show(&house);
    assert_eq!(reloaded["config"], reloaded["config_taken"], "acknowledged");
    assert_eq!(reloaded["pid"], first["pid"], "no boot");
    // Held, the machine stands still; released, it goes on with the right time.
    house.expect(0, "pause alpha");
    assert_eq!(show(&house)["presence"], "paused");
    house.expect(0, "resume alpha");
    let seconds: i64 = shell(&house, "date +%s").trim().parse().unwrap();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    assert!((now.as_secs().cast_signed() - seconds).abs() <= 5);
    until("doctor says how its clock is", || {
        let checks = house.run("doctor").stdout;
        String::from_utf8_lossy(&checks).contains("the clock in the microVM of alpha was 0.")
    });
    // The control plane dies, and hostd with it; the machine does not notice.
    house.kill_control_plane();
    house.expect(0, "up");
    assert_eq!(show(&house)["pid"], first["pid"], "adopted");
    assert_eq!(shell(&house, "cat /agent/workspace/MEMORY.md"), "more\n");
    house.expect(0, "task add 'show system stats' --wait");
    // The program around the machine is killed: said, and started anew with what was synced.
    shell(&house, "echo kept > /agent/workspace/k; sync");
    kill(i32::try_from(first["pid"].as_i64().unwrap()).unwrap());
    until("a new boot", || {
        let now = show(&house);
        now["presence"] == "ready" && now["pid"].as_i64() != first["pid"].as_i64()
    });
    assert_eq!(
        house.json(0, "why alpha")["last_exit"],
        "the program that runs it (QEMU or Podman) was killed"
    );
    assert_eq!(
        shell(
            &house,
            "cat /agent/workspace/k; tail -1 /agent/workspace/SOUL.md"
        ),
        "kept\nsecond\n"
    );
}

/// The VMM is confined like any cell, and has no network.
#[test]
fn a_microvm_runs_in_a_sandbox_and_leaves_no_secrets() {
    let house = machines(ONE);
    house.expect(0, "up");
    let record: Value = serde_json::from_slice(
        &std::fs::read(house.home().join("run/cells/agent-alpha/shim.json")).unwrap(),
    )
    .unwrap();
    assert_eq!(record["layers"].as_array().unwrap().len(), 13, "{record}");
    let init = record["child"]["pid"].as_i64().unwrap();
    let below = std::fs::read_to_string(format!("/proc/{init}/task/{init}/children")).unwrap();
    let monitor: i32 = below.split_whitespace().next().unwrap().parse().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{monitor}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name));
        line.unwrap_or_default().trim().to_owned()
    };
    assert_eq!(field("Name:"), "qemu-system-x86");
    assert!(field("Uid:").split_whitespace().all(|u| u != "0"));
    assert_eq!(field("CapEff:").trim_matches('0'), "");
    assert_eq!(
        (field("NoNewPrivs:").as_str(), field("Seccomp:").as_str()),
        ("1", "2")
    );
    let devices = std::fs::read_to_string(format!("/proc/{monitor}/net/dev")).unwrap();
    assert_eq!(devices.lines().count(), 3, "loopback alone: {devices}");
    let maps = std::fs::read_to_string(format!("/proc/{monitor}/cmdline")).unwrap();
    let token = std::fs::read_to_string(house.home().join("agents/alpha/token")).unwrap();
    assert!(!maps.contains(token.trim()), "no secret in arguments");
    // The instructions held the credential; they are gone since the guest has read them.
    assert!(!house.home().join("run/cells/agent-alpha/config").exists());
    let known = holders(&house, token.trim());
    let allowed = |l: &str| l.contains("agents/alpha/");
    assert!(known.lines().all(allowed), "{known}");
    // In the guest neither the channel nor a drive can be opened past their files.
    let tried = shell(
        &house,
        "for d in /dev/vd? /dev/vport* /dev/hvc* /dev/mem /dev/kmsg; do head -c1 $d >/dev/null 2>&1 && echo opened $d; done; true",
    );
    assert_eq!(tried, "");
    // A bomb of processes and one of memory end in the guest; the house does not notice.
    let bomb = house.run("exec alpha -- sh -c 'for i in $(seq 400); do sleep 9 & done; wait'");
    assert_ne!(bomb.status.code(), Some(0));
    let greedy = house.run("exec alpha -- python3 -c 'x=bytearray(400<<20)'");
    assert_ne!(greedy.status.code(), Some(0));
    until("it goes on", || {
        house.run("exec alpha -- true").status.success()
    });
}

/// Every reason why a microVM cannot start is reported with its remedy, and nothing is left over.
#[test]
fn missing_microvm_requirements_are_reported_at_plan_or_start() {
    let house = crate::house();
    std::fs::write(house.path("alpha.md"), "# Alpha\n").unwrap();
    house.manifest(ONE);
    // Without an image the plan is refused.
    let said = house.run("up");
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&said.stdout),
        String::from_utf8_lossy(&said.stderr)
    );
    assert!(said.contains("abbey image build base"), "{said}");
    house.manifest(&ONE.replace("charter: alpha.md", "egress: [\"192.0.2.7:5432\"]"));
    house.install_default_image();
    let said = house.run("plan");
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("reaches other hosts only by name"), "{said}");
    let said = house.expect_refusal(2, args!("up -f {}", small(&house)));
    assert!(
        said.contains("`drives.state` must be at least 16MiB"),
        "{said}"
    );
    // A part that was touched is found before anything boots from it.
    let images = house.home().join("images");
    let initrd = images.join("base/initrd");
    let good = std::fs::read(&initrd).unwrap();
    std::fs::remove_file(&initrd).unwrap();
    std::fs::write(&initrd, &good[..good.len() - 1]).unwrap();
    house.manifest(ONE);
    house.expect(0, "up --no-wait");
    let why = |text: &str| {
        until(text, || {
            let why = house.expect(0, "why alpha");
            why.contains(text)
        });
    };
    // Somebody waits for it in vain and gives up.
    let start_in_vain = |text: &str| {
        let mut waiting = house.command("start alpha").spawn().unwrap();
        why(text);
        waiting.kill().unwrap();
        waiting.wait().unwrap();
        house.expect(0, "stop alpha");
    };
    why("`initrd` of `base` is not what was built");
    house.expect(0, "stop alpha");
    house.expect(1, "image verify");
    // A kernel that finds nothing to run gives up, and that is told as what it is.
    std::fs::write(&initrd, b"").unwrap();
    let record = images.join("base/image.json");
    let mut known: Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    known["digests"]["initrd"] = empty.into();
    std::fs::write(&record, known.to_string()).unwrap();
    house.expect(0, "image verify");
    start_in_vain("its kernel panicked");
    // Drives that another machine holds are not attached a second time.
    let refused = house.expect_refusal(4, "image remove base");
    assert!(refused.contains("in use by agent `"), "{refused}");
    house.expect(0, "image remove base --force");
    house.install_default_image();
    let lock = std::fs::File::open(drive(&house, "lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    start_in_vain("are attached to another microVM");
    drop(lock);
    house.expect(0, "start alpha");
    assert_eq!(show(&house)["presence"], "ready");
    house.expect(0, "down");
    assert!(!house.home().join("run/cells").exists());
}

fn small(house: &House) -> String {
    let path = house.path("small.yaml");
    let text = std::fs::read_to_string(house.path("abbey.yaml")).unwrap();
    std::fs::write(&path, text.replace("state: 16MiB", "state: 1MiB")).unwrap();
    path.display().to_string()
}

/// One agent uses all resources of its microVM and the other still answers; `abbey agent rm` leaves nothing of either.
#[test]
fn drives_grow_with_the_manifest_and_are_removed_with_the_agent() {
    let house = machines(ONE);
    house.expect(0, "up");
    shell(&house, "echo old > /agent/workspace/o");
    house.manifest(&ONE.replace("workspace: 32MiB", "workspace: 96MiB"));
    house.expect(0, "up");
    let size = shell(
        &house,
        "cat /agent/workspace/o; df -k --output=size /agent/workspace | tail -1",
    );
    let (old, kib) = size.split_once('\n').unwrap();
    assert_eq!(old, "old");
    assert!(kib.trim().parse::<u64>().unwrap() > 80 << 10, "{size}");
    assert_eq!(
        std::fs::metadata(drive(&house, "workspace.ext4"))
            .unwrap()
            .len(),
        96 << 20
    );
    let image = image("base");
    assert!(image.join("base.ext4").exists(), "shared and never written");
    // In another cell it would begin with files of long ago, and a drive cannot shrink: the plan says so.
    for (change, why) in [
        (
            ("cell: microvm", "cell: sandbox"),
            "are on the drives of its microVM",
        ),
        (
            ("workspace: 32MiB", "workspace: 64MiB"),
            "cannot shrink from 96MiB to 64MiB",
        ),
    ] {
        house.manifest(&ONE.replace(change.0, change.1));
        assert!(house.expect(4, "plan").contains(why), "{why}");
        assert!(house.expect_refusal(4, "up").contains(why), "{why}");
    }
    house.expect(0, "agent rm alpha");
    assert!(!house.home().join("agents/alpha").exists());
    let removed: Vec<_> = std::fs::read_dir(house.home().join("removed"))
        .unwrap()
        .flatten()
        .collect();
    assert_eq!(removed.len(), 1, "its files are kept aside");
    whole(&removed[0].path().join("drives/workspace.ext4"));
}

/// A backup contains the content of drives whether the microVM runs or not, and a restored house creates drives from it.
#[test]
fn a_backup_contains_microvm_drives() {
    let house = machines(ONE);
    house.expect(0, "up");
    shell(
        &house,
        "mkdir /agent/workspace/d; echo kept > /agent/workspace/d/f; echo mine > /agent/home/h",
    );
    let names = |archive: &str| {
        let listed = Command::new("tar").args(["-tf", archive]).output().unwrap();
        String::from_utf8_lossy(&listed.stdout).into_owned()
    };
    let (running, stopped) = (house.path("running.tar"), house.path("stopped.tar"));
    for (archive, verb) in [(&running, "stop"), (&stopped, "start")] {
        let archive = archive.display().to_string();
        house.expect(0, args!("backup {}", archive));
        let names = names(&archive);
        for wanted in ["agents/alpha/workspace/d/f", "agents/alpha/home/h"] {
            assert!(names.contains(wanted), "{verb}: {names}");
        }
        assert!(
            !names.contains("ext4") && !names.contains("token"),
            "{names}"
        );
        if verb == "stop" {
            house.expect(0, "stop alpha");
        }
    }
    house.expect(0, "down");
    let other = machines(ONE);
    for archive in [&running, &stopped] {
        let _first_time = std::fs::remove_dir_all(other.home());
        other.install_default_image();
        other.expect(0, args!("restore {}", archive.display().to_string()));
        other.expect(0, "up");
        // In the second one it was stopped, and so it stays.
        other.expect(0, "start alpha");
        assert_eq!(
            shell(
                &other,
                "cat /agent/workspace/d/f /agent/home/h; stat -c %U /agent/home/h"
            ),
            "kept\nmine\nagent\n"
        );
        other.expect(0, "down");
    }
}

/// Rootless Podman works inside a microVM (S5-15).
#[test]
fn an_unprivileged_user_runs_containers_in_a_microvm() {
    let house = crate::house();
    house.install_image("podman");
    house.manifest("house: nested\nagents: {}\n");
    house.expect(0, "up");
    let archive = abbey_testkit::container::pack_busybox_root(&house.path(""));
    let script = "export HOME=$PWD XDG_RUNTIME_DIR=$PWD/run; mkdir -p $XDG_RUNTIME_DIR; \
                  podman='podman --storage-driver vfs --cgroup-manager cgroupfs'; \
                  $podman import -q image.tar localhost/test >/dev/null 2>&1; id -u; \
                  $podman run --rm --network none --cgroups=disabled localhost/test /bin/sh -c 'id -u; uname -r; ls /work || echo apart' 2>&1";
    let run = args!(
        "run --cell microvm --image podman --memory 512MiB --in {} -- sh -c {}",
        archive,
        script
    );
    let said = house.expect(0, run);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!((lines[0], lines[1]), ("1000", "0"), "{said}");
    let host = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_ne!(lines[2], host.trim());
    assert_eq!(lines.last(), Some(&"apart"), "{said}");
    house.expect(0, "down");
}

fn run(house: &House, more: &[&str], script: &str) -> Value {
    let mut args = vec!["run", "--cell", "microvm", "--memory", "192MiB"];
    args.extend(more);
    args.extend(["--json", "--", "sh", "-c", script]);
    let text = house.expect(0, &args);
    serde_json::from_str(&text).unwrap()
}

/// The first command boots a microVM; later ones start from a template, each with its own identity, from memory that
/// holds no secret and is sealed (S5-15).
#[test]
fn run_starts_from_a_warm_microvm() {
    let house = crate::house();
    house.install_default_image();
    let canary = format!("sk-canary-{}", "V4w3".repeat(6));
    std::fs::write(house.path("canary"), &canary).unwrap();
    house.manifest(
        "house: commands\nproviders:\n  far: { kind: openai, base_url: \"http://127.0.0.1:9\", key: \"file:canary\" }\nagents:\n  alpha: { template: sysadmin, cell: process }\n",
    );
    house.expect(0, "up");
    std::fs::write(house.path("in.txt"), "brought\n").unwrap();
    let bring = house.path("in.txt").display().to_string();
    let files = ["--in", bring.as_str(), "--out", "out.txt"];
    let convert = "tr a-z A-Z < in.txt > out.txt; echo done";
    let first = run(&house, &files, convert);
    assert_eq!(
        (first["boot"].as_str(), first["stdout"].as_str()),
        (Some("cold"), Some("done\n"))
    );
    assert_eq!(
        std::fs::read_to_string(house.path("out.txt")).unwrap(),
        "BROUGHT\n"
    );
    // Everything that was said arrives, however slowly it is read.
    let mut slow = house.command("run --cell microvm --memory 192MiB -- head -c 3000000 /dev/zero");
    let mut slow = slow.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut out = slow.stdout.take().unwrap();
    let (mut got, mut buffer) = (0, vec![0u8; 100_000]);
    loop {
        match std::io::Read::read(&mut out, &mut buffer).unwrap() {
            0 => break,
            n => got += n,
        }
        // Not a wait for anything: this is what slow means.
        std::thread::sleep(std::time::Duration::from_millis(40));
    }
    assert!(slow.wait().unwrap().success());
    assert_eq!(got, 3_000_000);
    // A template and machines that wait come by themselves.
    let who = "head -c 16 /dev/urandom | od -An -tx1; cat /etc/machine-id /proc/sys/kernel/random/uuid; hostname; date +%s";
    let mut said = Vec::new();
    until("a command begins in a machine that waited", || {
        let document = run(&house, &[], who);
        said.push(document["stdout"].as_str().unwrap().to_owned());
        document["boot"] == "warm"
    });
    std::fs::remove_file(house.path("out.txt")).unwrap();
    let taken = run(&house, &files, convert);
    assert_ne!(taken["boot"], "cold");
    assert_eq!(
        std::fs::read_to_string(house.path("out.txt")).unwrap(),
        "BROUGHT\n"
    );
    // Several at once, from the same memory: nothing of one is another's.
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| run(&house, &[], who)["stdout"].as_str().unwrap().to_owned()))
            .collect();
        said.extend(runs.into_iter().map(|r| r.join().unwrap()));
    });
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for text in &said {
        let lines: Vec<&str> = text.lines().collect();
        for line in &lines[..4] {
            assert!(seen.insert((*line).to_owned()), "twice: {line}\n{said:#?}");
        }
        let seconds: u64 = lines[4].parse().unwrap();
        assert!(now.as_secs().abs_diff(seconds) < 60, "its clock: {seconds}");
    }
    // Whoever holds the template has it sealed, and no secret of the house is in it.
    let mut templates = 0;
    let record = |entry: &std::fs::DirEntry| -> Option<Value> {
        let bytes = std::fs::read(entry.path().join("shim.json")).ok()?;
        serde_json::from_slice(&bytes).ok()
    };
    let cells = house.home().join("run/cells");
    let mut waiting = Vec::new();
    for entry in std::fs::read_dir(&cells).unwrap().flatten() {
        let Some(record) = record(&entry).filter(|r| r["machine"] == true) else {
            continue;
        };
        let shim = record["shim"]["pid"].as_i64().unwrap();
        let fds = std::fs::read_dir(format!("/proc/{shim}/fd"))
            .unwrap()
            .flatten();
        let memory = fds.map(|f| f.path()).find(|f| {
            std::fs::read_link(f)
                .is_ok_and(|t| t.to_string_lossy().contains("abbey-template-memory"))
        });
        match memory {
            Some(memory) => {
                templates += 1;
                let bytes = std::fs::read(&memory).unwrap();
                let found = |text: &str| bytes.windows(text.len()).any(|w| w == text.as_bytes());
                assert!(found("abbey"), "it is a memory");
                assert!(!found(&canary));
                for name in ["key", "token"] {
                    let path = house.home().join("agents/alpha").join(name);
                    let secret = std::fs::read_to_string(path).unwrap();
                    assert!(secret.trim().len() > 20 && !found(secret.trim()), "{name}");
                }
                assert!(
                    std::fs::File::options()
                        .write(true)
                        .open(&memory)
                        .is_ok_and(|f| {
                            use std::os::unix::fs::FileExt;
                            f.write_at(b"x", 0).is_err()
                        })
                );
            }
            None => waiting.push(i32::try_from(record["child"]["pid"].as_i64().unwrap()).unwrap()),
        }
    }
    assert_eq!(templates, 1);
    // Machines that wait may die; a command gets one all the same.
    for pid in waiting {
        kill(pid);
    }
    assert_eq!(run(&house, &[], "echo still")["stdout"], "still\n");
    // The control plane dies: what it kept is not kept for ever.
    house.kill_control_plane();
    house.expect(0, "up");
    until("what nobody waits for is gone", || {
        let left = std::fs::read_dir(&cells).unwrap().flatten();
        left.filter(|e| e.file_name().to_string_lossy().starts_with("run-"))
            .count()
            == 0
    });
    house.expect(0, "down");
    assert!(!cells.exists());
}

/// A program that takes all memory is the only one that ends for it.
#[test]
fn a_memory_hog_ends_alone() {
    let house = machines(ONE);
    house.expect(0, "up");
    let generation = show(&house)["generation"].clone();
    let hog = "awk 'BEGIN { x = \"a\"; while (1) x = x x }'";
    let ended = house.run(args!("exec alpha -- sh -c {}", hog));
    assert!(!ended.status.success());
    assert_eq!(shell(&house, "echo here"), "here\n");
    assert_eq!(show(&house)["generation"], generation, "it did not restart");
    assert_eq!(shell(&house, "cat /proc/self/oom_score_adj"), "0\n");
}

/// The clock of a microVM without KVM goes as fast as the host's.
#[test]
fn a_clock_keeps_the_pace_of_the_host() {
    let house = machines(ONE);
    house.expect(0, "up");
    // A reading of the guest's clock lies between two of ours, however long the way takes.
    let reading = || {
        let before = Instant::now();
        let text = shell(&house, "cut -d ' ' -f 1 /proc/uptime");
        let uptime: f64 = text.trim().parse().unwrap();
        (before, uptime, Instant::now())
    };
    let (first_begun, first, first_read) = reading();
    until("some time has passed", || {
        first_read.elapsed().as_secs() >= 10
    });
    let (last_begun, last, last_read) = reading();
    let least = (last_begun - first_read).as_secs_f64() * 0.95;
    let most = (last_read - first_begun).as_secs_f64() * 1.05;
    let passed = last - first;
    assert!(
        (least..most).contains(&passed),
        "{passed} s there, between {least} and {most} s here"
    );
    // Its kernel doesn't take a pause for a processor that hangs, whose report on the console would hold up what comes next.
    let stalls = "/sys/module/rcupdate/parameters/rcu_cpu_stall_suppress";
    assert_eq!(shell(&house, &format!("cat {stalls}")), "1\n");
}
