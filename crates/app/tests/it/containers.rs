//! Agents in containers of the real Podman. Images are imported; there is no registry.

use abbey_testkit::args;
use abbey_testkit::container::{Image, pack_busybox_root};
use abbey_testkit::house::{House, kill, until};
use serde_json::Value;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

fn podman(args: &[&str]) -> String {
    let output = Command::new("podman").args(args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "podman {args:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn shell(house: &House, script: &str) -> String {
    house.expect(0, args!("exec alpha -- sh -c {}", script))
}

fn show(house: &House) -> Value {
    house.json(0, "agent show alpha")
}

/// Containers of this house that Podman lists, and control groups that are left of them.
fn left(house: &House) -> (String, Vec<String>) {
    let group = abbey_daemon::Home::new(house.home()).cgroup_name();
    let containers = podman(&[
        "ps",
        "-a",
        "--format",
        "{{.Names}}",
        "--filter",
        &format!("name={group}"),
    ]);
    let roots = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten();
    let groups = roots.map(|r| r.path().join(&group)).filter(|p| p.exists());
    (
        containers,
        groups.map(|g| g.display().to_string()).collect(),
    )
}

#[test]
fn an_agent_works_in_a_container_that_leaves_nothing() {
    let house = crate::house();
    let image = Image::import(&pack_busybox_root(&house.path("")));
    let manifest = format!(
        "house: containers\nagents:\n  alpha: {{ template: sysadmin, charter: alpha.md, cell: container, image: {}, limits: {{ memory: 128MiB, cpus: 0.5, processes: 32 }} }}\n",
        image.name()
    );
    std::fs::write(house.path("alpha.md"), "# Alpha\n\nfirst\n").unwrap();
    house.manifest(&manifest);
    house.expect(0, "up");
    let first = show(&house);
    // The house's kernel, and nothing else of it: no right, no interface, no root that can be written.
    let status = shell(&house, "grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status");
    assert_eq!(status.matches("0000000000000000").count(), 5, "{status}");
    assert!(status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"));
    assert_eq!(
        shell(
            &house,
            "hostname; ls /sys/class/net; id -u | grep -c '^0$' || true"
        ),
        "alpha\nlo\n0\n"
    );
    let refused = house.run("exec alpha -- sh -c 'echo x > /x'");
    assert!(!refused.status.success());
    let home = house.home().display().to_string();
    assert!(
        !house
            .run(args!("exec alpha -- ls {}", home))
            .status
            .success()
    );
    // The first process holds the channel: the agent, who has the same user, cannot look into it.
    let looked = house.run("exec alpha -- ls /proc/1/fd");
    assert!(!looked.status.success());
    // The filter is ours: it is where only root can change it, and a runtime that does not install it starts nothing.
    let seccomp = house.home().join("run/cells/agent-alpha/seccomp.json");
    let meta = std::fs::metadata(&seccomp).unwrap();
    assert_eq!((meta.uid(), meta.mode() & 0o777), (0, 0o600));
    // Work goes over the channel; so do programs.
    house.expect(0, "task add 'show system stats' --wait");
    let status = |args: &[&str]| house.run(args).status.code();
    assert_eq!(
        status(&["exec", "alpha", "--", "sh", "-c", "exit 42"]),
        Some(42)
    );
    assert_eq!(
        status(&["exec", "alpha", "--", "no-such-program"]),
        Some(127)
    );
    assert_eq!(
        house.expect(0, "exec -t alpha -- sh -c 'test -t 0 && echo terminal'"),
        "terminal\r\n"
    );
    house.expect(0, "cp abbey.yaml alpha:copied.yaml");
    house.expect(0, "cp alpha:copied.yaml back.yaml");
    assert_eq!(
        std::fs::read(house.path("back.yaml")).unwrap(),
        std::fs::read(house.path("abbey.yaml")).unwrap()
    );
    // Limits are the runtime's and ours.
    let bomb = "for i in $(seq 100); do sleep 3 & done; wait";
    assert_ne!(status(&["exec", "alpha", "--", "sh", "-c", bomb]), Some(0));
    until("it goes on", || {
        status(&["exec", "alpha", "--", "sh", "-c", "true"]) == Some(0)
    });
    // Held and let go; changed while it runs; adopted.
    house.expect(0, "pause alpha");
    house.expect(0, "resume alpha");
    std::fs::write(house.path("alpha.md"), "# Alpha\n\nsecond\n").unwrap();
    house.expect(0, "reload alpha");
    assert_eq!(
        shell(&house, "tail -n 1 /agent/workspace/SOUL.md"),
        "second\n"
    );
    house.kill_control_plane();
    house.expect(0, "up");
    assert_eq!(show(&house)["pid"], first["pid"], "adopted");
    // A shim that is killed leaves a container behind: it is taken away before the next boot.
    shell(&house, "echo kept > /agent/workspace/k");
    let record: Value = serde_json::from_slice(
        &std::fs::read(house.home().join("run/cells/agent-alpha/shim.json")).unwrap(),
    )
    .unwrap();
    kill(i32::try_from(record["shim"]["pid"].as_i64().unwrap()).unwrap());
    until("a new boot", || {
        let now = show(&house);
        now["presence"] == "ready" && now["pid"].as_i64() != first["pid"].as_i64()
    });
    assert_eq!(shell(&house, "cat /agent/workspace/k"), "kept\n");
    assert_eq!(left(&house).0.lines().count(), 1, "one container");
    house.expect(0, "down");
    assert_eq!(left(&house), (String::new(), Vec::new()));
    // An image that is not there is said before anything starts.
    house.manifest(&manifest.replace(image.name(), "no-such-image"));
    let refused = house.expect_refusal(4, "up");
    assert!(refused.contains("localhost/no-such-image"), "{refused}");
    assert_eq!(left(&house), (String::new(), Vec::new()));
}

/// Podman whose runtime puts its own filter in place of ours, as an option or a file of the host's could.
#[test]
fn a_container_without_the_houses_filter_does_not_start() {
    let mut house = crate::house();
    let image = Image::import(&pack_busybox_root(&house.path("")));
    let (podman, real) = ("/usr/bin/podman", house.path("podman"));
    std::fs::copy(podman, &real).unwrap();
    let script = format!(
        "#!/bin/sh\nfor a; do shift; case $a in seccomp=*) a=seccomp=unconfined;; esac; set -- \"$@\" \"$a\"; done\nexec {} \"$@\"\n",
        real.display()
    );
    house.hosts = Some("127.0.0.1 localhost\n".to_owned());
    house.replaced = vec![(podman.into(), script)];
    house.manifest(&format!(
        "house: open\nagents:\n  alpha: {{ template: sysadmin, cell: container, image: {}, limits: {{ memory: 128MiB }} }}\n",
        image.name()
    ));
    house.expect(0, "up --no-wait");
    until("it says why", || {
        let why = house.expect(0, "why alpha");
        why.contains("seccomp") && why.contains("could not be read back")
    });
    assert_ne!(show(&house)["presence"], "ready");
    house.expect(0, "down");
}

#[test]
fn plan_reports_containers_that_this_host_cannot_run() {
    let manifest = "house: containers\ndefaults: { waive: [limits] }\nagents:\n  alpha: { template: sysadmin, cell: container, egress: [\"192.0.2.7:5432\"] }\n";
    let house = crate::house();
    house.manifest(manifest);
    let said = house.run("plan");
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(
        said.contains("cannot be reached from a container"),
        "{said}"
    );
    house.manifest(&manifest.replace(
        "cell: container, egress: [\"192.0.2.7:5432\"]",
        "cell: jail",
    ));
    let said = house.run("plan");
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("jails need FreeBSD"), "{said}");
    // The image is one of this host: a plan that is fine has it.
    house.manifest(&manifest.replace("egress: [\"192.0.2.7:5432\"]", "image: nowhere"));
    let said = house.expect(4, "plan");
    assert!(
        said.contains("Podman has no image `localhost/nowhere`"),
        "{said}"
    );
    let user = House::run_by_user(env!("CARGO_BIN_EXE_abbey"), 65_534);
    user.manifest(&manifest.replace(", egress: [\"192.0.2.7:5432\"]", ""));
    let said = user.run("up");
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&said.stdout),
        String::from_utf8_lossy(&said.stderr)
    );
    assert!(said.contains("has no subordinate users"), "{said}");
}

/// A house and a Podman of an unprivileged user: only the two programs that map users run as root.
#[test]
fn an_agent_of_an_unprivileged_user_works_in_a_container() {
    const USER: u32 = 64_242;
    let mut house = House::run_by_user(env!("CARGO_BIN_EXE_abbey"), USER);
    let own = house.path("own");
    std::fs::create_dir(&own).unwrap();
    std::os::unix::fs::chown(&own, Some(USER), Some(USER)).unwrap();
    let entry = format!("abbeytest:x:{USER}:{USER}::{}:/bin/sh\n", own.display());
    let with = |path: &str, more: &str| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        (path.into(), format!("{text}{more}"))
    };
    house.hosts = Some("127.0.0.1 localhost\n".to_owned());
    house.replaced = vec![
        with("/etc/passwd", &entry),
        with("/etc/group", &format!("abbeytest:x:{USER}:\n")),
        ("/etc/subuid".into(), "abbeytest:700000:65536\n".to_owned()),
        ("/etc/subgid".into(), "abbeytest:700000:65536\n".to_owned()),
    ];
    let archive = pack_busybox_root(&house.path(""));
    // Its own store of images, not root's: commands as that user, where its names are known.
    let by_hand = |words: &[&str]| {
        let abbey = house.command(&[]);
        let mut args: Vec<_> = abbey.get_args().collect();
        args.pop();
        let output = Command::new(abbey.get_program())
            .args(args)
            .args(words)
            .env_clear()
            .env("HOME", &own)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .current_dir("/")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{words:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let podman = ["podman", "--cgroup-manager", "cgroupfs"];
    by_hand(
        &[
            &podman[..],
            &["import", "-q", &archive, "localhost/abbey-test:latest"],
        ]
        .concat(),
    );
    house.manifest("house: mine\ndefaults: { waive: [limits] }\nagents:\n  alpha: { template: sysadmin, cell: container, image: abbey-test, limits: { memory: 128MiB } }\n");
    house.expect(0, "up");
    let first = show(&house);
    let status = shell(
        &house,
        "grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status; hostname; id -u",
    );
    assert_eq!(status.matches("0000000000000000").count(), 5, "{status}");
    assert!(status.ends_with(&format!("alpha\n{USER}\n")), "{status}");
    house.expect(0, "task add 'show system stats' --wait");
    house.kill_control_plane();
    house.expect(0, "up");
    assert_eq!(show(&house)["pid"], first["pid"], "adopted");
    house.expect(0, "down");
    // Podman itself keeps one process for each user, which holds the mapping for whatever comes next.
    until("nothing of the house's runs", || {
        let user = USER.to_string();
        let listed = Command::new("ps")
            .args(["-u", &user, "-o", "stat=,comm="])
            .output();
        let listed = String::from_utf8(listed.unwrap().stdout).unwrap();
        let mut others = listed.lines().filter(|l| !l.starts_with('Z'));
        others.all(|l| l.contains("podman") || l.contains("catatonit"))
    });
    assert_eq!(by_hand(&[&podman[..], &["ps", "-aq"]].concat()), "");
    // Its store has files of users that only it can map.
    let store = own.join(".local").display().to_string();
    by_hand(&[&podman[..], &["unshare", "rm", "-rf", &store]].concat());
    let user = USER.to_string();
    until("the user is gone", || {
        let _gone_already = Command::new("pkill").args(["-KILL", "-u", &user]).status();
        let listed = Command::new("ps")
            .args(["-u", &user, "-o", "stat="])
            .output();
        let listed = String::from_utf8(listed.unwrap().stdout).unwrap();
        listed.lines().all(|l| l.starts_with('Z'))
    });
}
