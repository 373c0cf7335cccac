//! Whole hosts, emulated: control groups of version 2 alone, a power cut, kernels without a feature, a clock that is
//! set. Each boots Debian's kernel and takes about a minute, so only `./check --stories` runs them, on the release build.

use abbey_testkit::emulated::EmulatedHost;

/// A sandbox with a network, a process cell, and a service with a port.
const HOUSE: &str = r#"mkdir -p /srv/manifest && cd /srv/manifest && cat >abbey.yaml <<'END'
version: 1
house: emulated
listen: { address: 127.0.0.1:0 }
network: { ports: 21000-21040 }
defaults: { cell: sandbox, limits: { memory: 200MiB, cpus: 0.5, processes: 64 } }
services:
  web: { cell: sandbox, command: [python3, -m, http.server, "{port}"], probe: none }
agents:
  a: { template: sysadmin }
  b: { template: sysadmin, cell: process }
END
"#;
/// Starts a house on a host that is slow.
const UP: &str = "abbey up --timeout 5m";
/// An ordinary user with a house in its home; `as_user` runs a command as this user.
const USER: &str = r#"
grep -q ^u: /etc/passwd || echo u:x:1001:1001::/srv/u:/bin/bash >>/etc/passwd
mkdir -p /srv/u && cd /srv/u && cat >abbey.yaml <<'END'
version: 1
house: mine
listen: { address: 127.0.0.1:0 }
network: { ports: 22000-22040 }
defaults: { cell: sandbox, limits: { memory: 200MiB, cpus: 0.5, processes: 64 } }
agents:
  a: { template: sysadmin }
  b: { template: sysadmin, cell: process }
END
chown -R 1001:1001 /srv/u
as_user() { setpriv --reuid=1001 --regid=1001 --clear-groups env HOME=/srv/u ABBEY_HOME=/srv/u/house "$@"; }
"#;

/// Boots a host with the programs below `ABBEY_PROGRAMS`, or else with those that are tested everywhere.
fn boot(parameters: &str) -> EmulatedHost {
    let programs = std::env::var("ABBEY_PROGRAMS");
    let abbey = programs.map_or_else(
        |_| env!("CARGO_BIN_EXE_abbey").to_owned(),
        |dir| format!("{dir}/abbey"),
    );
    EmulatedHost::boot(&abbey, parameters)
}

/// Prints what a host showed, for whoever reads the test's output, and returns it.
fn shown(text: String) -> String {
    println!("{text}");
    text
}

fn assert_contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
}

#[test]
fn cells_are_limited_by_control_groups_of_version_2() {
    let mut host = boot("");
    host.expect(0, &format!("{HOUSE}{UP}"));
    let limits = "for g in /sys/fs/cgroup/abbey-*/*/; do echo $(basename $g) $(cat $g/memory.max $g/cpu.max $g/pids.max); done";
    let limits = shown(host.expect(0, limits));
    for line in [
        "agent-a 209715200 50000 100000 64",
        "agent-b 209715200 50000 100000 64",
        "service-web 536870912 100000 100000 256",
    ] {
        assert!(limits.lines().any(|l| l == line), "{limits}");
    }
    // A program that takes too much ends alone; the cell goes on with the process that it had.
    let pid = "abbey ps --json | grep -o '\"pid\":[ 0-9]*' | sort";
    let before = host.expect(0, pid);
    let hog = "abbey exec a -- python3 -c 'x = b\"x\" * (400 << 20); print(\"survived\")'; echo $?";
    assert_contains(&shown(host.expect(0, hog)), &["137"]);
    assert_eq!(host.expect(0, pid), before);
    let doctor = shown(host.run("abbey doctor").text);
    assert_contains(&doctor, &["ok        limits:", "ok        landlock:"]);
    host.expect(0, "abbey down");
    let left = "find /sys/fs/cgroup -name '*abbey*'; ip -br link | grep -v ^lo; nft list ruleset; pgrep abbey; true";
    assert_eq!(host.expect(0, left), "", "left of a house that is down");
}

#[test]
fn a_user_limits_cells_in_a_delegated_group() {
    let mut host = boot("");
    // Without one the plan says so, and `init` writes a manifest that works.
    let plan = shown(host.expect(4, &format!("{USER} as_user abbey plan")));
    assert_contains(
        &plan,
        &["agent:a: its limits cannot be enforced", "delegate"],
    );
    // As systemd does with `Delegate=yes`, with the user's programs in the group itself.
    let delegate = r#"
group=/sys/fs/cgroup/user.slice/delegated.service
mkdir -p $group
for d in /sys/fs/cgroup /sys/fs/cgroup/user.slice; do echo "+memory +cpu +pids" >$d/cgroup.subtree_control; done
chown 1001:1001 $group $group/cgroup.{procs,threads,subtree_control}
echo $$ >$group/cgroup.procs
"#;
    let up = format!("{USER}{delegate} as_user abbey plan && as_user {UP}");
    shown(host.expect(0, &up));
    let limits = "for g in /sys/fs/cgroup/user.slice/delegated.service/abbey-*/agent-*/; do echo $(basename $g) $(cat $g/memory.max $g/cpu.max $g/pids.max); done";
    let limits = shown(host.expect(0, limits));
    assert_eq!(
        limits,
        "agent-a 209715200 50000 100000 64\nagent-b 209715200 50000 100000 64\n"
    );
    host.expect(
        0,
        &format!("{USER} as_user abbey task add 'show system stats' --to a --wait"),
    );
    host.expect(0, &format!("{USER} as_user abbey down"));
    let left = "find /sys/fs/cgroup -path '*abbey-*' -name 'agent-*'; pgrep abbey; true";
    assert_eq!(host.expect(0, left), "", "left of a house that is down");
}

#[test]
fn a_house_recovers_from_a_power_cut() {
    let mut host = boot("");
    // The shell does not flush the manifest that it writes, as an editor does.
    host.expect(0, &format!("{HOUSE}sync abbey.yaml\n{UP}"));
    host.expect(
        0,
        "cd /srv/manifest; for n in 1 2 3 4; do abbey task add \"show system stats\" --to a; done; abbey task add 'show system stats' --to b",
    );
    let pids = "grep -rhoE '\"pid\": *[0-9]+' /srv/house --include='*.json' | grep -o '[0-9]*$' | sort -un";
    let known = host.expect(0, pids);
    let boot_id = "cat /proc/sys/kernel/random/boot_id";
    let before = host.expect(0, boot_id);
    host.cut_power("");
    assert_ne!(host.expect(0, boot_id), before);
    // The numbers of the house's processes now belong to others.
    let decoys = format!(
        "for pid in {}; do [ -e /proc/$pid ] && continue; echo $((pid - 1)) >/proc/sys/kernel/ns_last_pid; sleep 3600 & done; jobs -p >/run/decoys; cat /run/decoys",
        known.split_whitespace().collect::<Vec<_>>().join(" ")
    );
    let decoys = shown(host.expect(0, &decoys));
    assert!(
        decoys.lines().any(|pid| known.lines().any(|k| k == pid)),
        "known {known}, decoys {decoys}"
    );
    shown(host.expect(0, &format!("cd /srv/manifest && {UP} && abbey ps")));
    let tasks = "for n in $(seq 150); do [ $(abbey task list | grep -c ' done ') = 5 ] && break; sleep 1; done; abbey task list";
    let tasks = shown(host.expect(0, tasks));
    assert_eq!(tasks.matches(" done ").count(), 5, "{tasks}");
    host.expect(
        0,
        "for pid in $(cat /run/decoys); do kill -0 $pid || exit 1; done",
    );
    host.expect(0, "abbey activity verify");
    let log = shown(host.expect(0, "abbey activity"));
    assert_contains(
        &log,
        &[
            "house.start",
            "observed_until",
            "cell.exit agent-a",
            "the host was restarted",
        ],
    );
    // It is no failure of a cell.
    let exits = host.expect(
        0,
        "abbey activity --json | grep -c '\"failures\": *[1-9]'; true",
    );
    assert_eq!(exits.trim(), "0", "{log}");
    host.expect(0, "abbey down");
    let left = "find /sys/fs/cgroup -name '*abbey*'; nft list ruleset; pgrep abbey; true";
    assert_eq!(host.expect(0, left), "", "left of a house that is down");
}

#[test]
fn a_clock_that_is_set_loses_no_lease_and_stops_nothing() {
    let mut host = boot("");
    // An hour of the day that is far from midnight, and a task that runs until it is told to end.
    host.expect(0, "date -s '2026-06-10 10:20:00'");
    let slow = r#"mkdir -p house/skills/slow && cd house/skills/slow
printf -- '---\nname: slow\ndescription: Waits for a file.\nmetadata:\n  abbey-match: wait for it\n  abbey-program: wait.sh\n---\n' >SKILL.md
printf '#!/bin/sh\nwhile [ ! -e go ]; do sleep 0.5; done\necho went\n' >wait.sh
chmod -R go+rX /srv/house; chmod 755 wait.sh
"#;
    let house = HOUSE
        .replace("a: { template: sysadmin }", "a: { template: sysadmin, cell: process, skills: [slow] }")
        .replace(
            "cell: process }",
            "cell: process, schedules: { hourly: { cron: '30 * * * *', task: show system stats }, nightly: { cron: '30 2 * * *', timezone: Europe/Ljubljana, task: show system stats } } }",
        );
    host.expect(0, &format!("{slow}{house}{UP}"));
    let settled = |host: &mut EmulatedHost, what: &str, script: &str| {
        let script = format!(
            "for n in $(seq 100); do ({script}) && exit 0; sleep 1; done; abbey task list; abbey schedule list; exit 1"
        );
        println!("{what}");
        host.expect(0, &script);
    };
    host.expect(0, "abbey task add 'wait for it'");
    settled(
        &mut host,
        "the task runs",
        "abbey task show 1 --json | grep -q '\"running\"'",
    );
    let fired = |host: &mut EmulatedHost| {
        let list = "abbey schedule list --json | grep -o '\"fired\": *[0-9]*' | grep -o '[0-9]*$' | paste -sd' '";
        shown(host.expect(0, list))
    };
    assert_eq!(fired(&mut host), "0 0\n");
    // Three days forward, over six nights and days: the lease holds, each schedule makes up for all of it once.
    host.expect(0, "date -s '+3 days'");
    settled(
        &mut host,
        "each schedule fired",
        "abbey schedule list --json | grep -o '\"fired\": *[0-9]*' | grep -vq ' *0$' && [ $(abbey schedule list --json | grep -c '\"fired\": *1,*$') = 2 ]",
    );
    settled(
        &mut host,
        "the jump is logged",
        "abbey activity | grep -q clock.jump",
    );
    let task = shown(host.expect(0, "abbey task show 1; abbey activity"));
    assert_contains(&task, &["TASK-1 is running", "leases: 1"]);
    // Back again: nothing fires a second time, and what has to happen happens.
    host.expect(0, "date -s '-3 days'");
    let doctor = shown(host.run("abbey doctor").text);
    assert_contains(&doctor, &["attention clock: the host's clock was set back"]);
    host.expect(
        0,
        "abbey task add 'show system stats' --to b --wait --timeout 200",
    );
    // Once more while the clock is ahead already.
    host.expect(0, "date -s '-1 hour'");
    host.expect(
        0,
        "abbey task add 'show system stats' --to b --wait --timeout 200",
    );
    // And over a restart of the control plane, whose clock starts ahead of the host's.
    host.expect(0, &format!("kill -9 $(grep -o '[0-9]*' $ABBEY_HOME/run/serve.json | head -1); cd /srv/manifest && {UP}"));
    host.expect(
        0,
        "abbey task add 'show system stats' --to b --wait --timeout 200",
    );
    host.expect(0, "abbey exec a -- touch go; true");
    settled(
        &mut host,
        "the task of the lease is done",
        "abbey task show 1 --json | grep -q '\"done\"'",
    );
    shown(host.expect(0, "abbey task show 1"));
    assert_eq!(fired(&mut host), "1 1\n", "nothing fired twice");
    host.expect(0, "abbey activity verify");
    // Nothing loops: the house uses little of the processors while nothing is to be done.
    let busy = "pid=$(grep -o '[0-9]*' $ABBEY_HOME/run/serve.json | head -1); a=$(awk '{print $14+$15}' /proc/$pid/stat); sleep 20; b=$(awk '{print $14+$15}' /proc/$pid/stat); echo $((b - a))";
    let ticks: u64 = shown(host.expect(0, busy)).trim().parse().unwrap();
    assert!(ticks < 1000, "{ticks} hundredths of a second in 20 s");
    host.expect(0, "abbey down");
}

#[test]
fn a_plan_says_which_feature_the_kernel_is_without() {
    let mut host = boot("lsm=capability");
    // No Landlock: refused, or accepted by name, and then doctor reports it.
    let plan = shown(host.expect(4, &format!("{HOUSE}abbey plan")));
    assert_contains(
        &plan,
        &[
            "agent:a",
            "service:web",
            "`landlock`",
            "waive: [landlock]",
            "lsm=",
        ],
    );
    let waived = format!(
        "cd /srv/manifest && sed -i 's/defaults: {{/defaults: {{ waive: [landlock],/' abbey.yaml && {UP}"
    );
    shown(host.expect(0, &waived));
    let doctor = shown(host.run("abbey doctor").text);
    assert_contains(&doctor, &["attention landlock: sandboxes are without"]);
    host.expect(0, "abbey down");
    // No user namespaces, for everybody and for ordinary users.
    let none = "sysctl -qw user.max_user_namespaces=0; cd /srv/manifest && abbey plan";
    let plan = shown(host.expect(4, none));
    assert_contains(
        &plan,
        &["agent:a", "`sysctl user.max_user_namespaces` is 0"],
    );
    let refused = host.expect(4, "cd /srv/manifest && abbey up");
    assert_contains(&refused, &["nothing was changed"]);
    let none = "sysctl -qw user.max_user_namespaces=10000 kernel.unprivileged_userns_clone=0";
    let plan = format!(
        "{USER}{none}; sed -i 's/defaults: {{/defaults: {{ waive: [limits, landlock],/' abbey.yaml; as_user abbey plan"
    );
    let plan = shown(host.expect(4, &plan));
    assert_contains(&plan, &["`sysctl kernel.unprivileged_userns_clone` is 0"]);
    // Root needs no such right.
    host.expect(0, "cd /srv/manifest && abbey plan");
}
