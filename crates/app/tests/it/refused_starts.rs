//! `up`, `down` and others beside what is refused, killed or stopped meanwhile: nothing is started for a plan that is
//! refused, `down` leaves nothing, and commands name a control plane that a signal stopped.

use crate::{TWO, up};
use abbey_cells::hostd::{HostdApi, HostdClient, listening_process};
use abbey_testkit::args;
use abbey_testkit::house::{House, kill, until};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::process::{Child, Stdio};

fn hostd_of(house: &House) -> i32 {
    HostdClient::new(&house.home()).hello().unwrap().pid
}

fn stop(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::STOP).unwrap();
    until("it stands still", || {
        abbey_cells::is_stopped(pid) == Some(true)
    });
}

/// A command that runs beside the test.
fn spawn(house: &House, args: &str) -> Child {
    let mut command = house.command(args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Exit code and what a command printed.
fn ended(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

/// Starts a house with an agent that ends at once and a service that is killed at the end of its grace period, and `down`.
/// Returns once the agent has ended.
fn going_down() -> (House, Child) {
    let house = up(
        "house: slow\ndefaults: { cell: process }\nagents:\n  a: { template: sysadmin }\nservices:\n  stubborn: { cell: process, command: [sh, -c, \"trap '' TERM; while :; do sleep 1; done\"], probe: none }\n",
    );
    let agent = house.agent("a").pid.unwrap();
    let agent = abbey_cells::identify(agent).unwrap();
    let down = spawn(&house, "down");
    until("the agent has ended", || !abbey_cells::is_alive(&agent));
    (house, down)
}

fn assert_nothing_runs(house: &House) {
    assert_eq!(listening_process(&house.home()), None);
    let left = fs::read_dir(house.home().join("run")).unwrap();
    let left = left.flatten().map(|e| e.file_name());
    // What a control plane that was killed says of its last moment is for the next one.
    let left: Vec<_> = left.filter(|name| name != "alive").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn down_ends_what_a_control_plane_that_is_killed_meanwhile_leaves() {
    let (house, down) = going_down();
    let service = house.home().join("run/cells/service-stubborn");
    assert!(service.exists());
    house.kill_control_plane();
    let (code, text) = ended(down);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("were stopped without it"), "{text}");
    assert_nothing_runs(&house);
    let again = house.run("down");
    assert!(again.status.success());
    house.expect(0, "up");
    house.expect(0, "activity verify");
}

#[test]
fn down_starts_a_hostd_again_that_is_killed_meanwhile() {
    let (house, down) = going_down();
    if let Some(hostd) = listening_process(&house.home()) {
        kill(hostd);
    }
    let (code, text) = ended(down);
    assert_eq!(code, Some(0), "{text}");
    assert_nothing_runs(&house);
}

#[test]
fn a_refused_plan_starts_nothing_of_a_house_that_is_down() {
    let manifest = |agents: &str| {
        format!(
            "house: two\nproviders:\n  cloud: {{ kind: openai, base_url: 'http://127.0.0.1:9/v1', key: 'credential:openai' }}\ndefaults: {{ cell: process, model: cloud/some-1 }}\nagents:\n{agents}"
        )
    };
    let (one, two) = (
        "  a: { template: sysadmin }\n",
        "  b: { template: sysadmin }\n",
    );
    let house = up(TWO);
    let key = house.path("key");
    fs::write(&key, "sk-1").unwrap();
    let set = args!(
        "secret set openai --from-file {}",
        key.display().to_string()
    );
    house.expect(0, &set);
    house.manifest(&manifest(&format!("{one}{two}")));
    house.expect(0, "up --yes");
    house.expect(0, "down");
    let log = || fs::read(house.home().join("logs/serve.log")).unwrap();
    let before = log();
    let is_refused = |reason: &str| {
        let text = house.expect_refusal(4, "up");
        assert!(text.contains(reason), "{text}");
        assert!(text.contains("nothing was changed"), "{text}");
        assert_eq!(log(), before, "no control plane was started");
        assert_eq!(listening_process(&house.home()), None);
    };
    house.manifest(&manifest(one));
    is_refused("requires consent");
    house.manifest(&manifest(&format!("{one}{two}")));
    fs::remove_file(house.home().join("credentials/openai")).unwrap();
    is_refused("openai");
    house.expect(4, "plan");
    house.expect(0, &set);
    house.manifest(&manifest(one));
    house.expect(0, "up --yes");
    assert!(!house.expect(0, "ps").contains("\nb "));
}

#[test]
fn up_reports_that_another_manifest_superseded_its_own() {
    let house = up(TWO);
    let first = house.path("first.yaml");
    let text = fs::read_to_string(house.path("abbey.yaml")).unwrap();
    // It never answers at its port.
    let late = "services:\n  late: { cell: process, command: [sh, -c, 'sleep 3600', '{port}'] }\n";
    fs::write(&first, format!("{text}{late}")).unwrap();
    let up = spawn(&house, "up --yes --timeout 10m -f first.yaml");
    until("the first manifest is in force", || {
        house.expect(0, "ps").contains("late")
    });
    house.expect(0, "up --yes");
    let (code, text) = ended(up);
    assert_eq!(code, Some(4), "{text}");
    for part in [
        "generation 2",
        "superseded by generation 3",
        "abbey up -f first.yaml",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("house two is up"), "{text}");
}

#[test]
fn commands_name_a_control_plane_that_a_signal_stopped_and_up_and_down_replace_it() {
    let house = up(TWO);
    let agent = house.agent("abbot").pid;
    let hostd = hostd_of(&house);
    let pid = house.control_plane_pid();
    stop(pid);
    for (code, command) in [(6, "ps"), (6, "task list"), (125, "exec abbot -- true")] {
        let text = house.expect_refusal(code, command);
        for part in [
            format!("(process {pid})"),
            format!("kill -CONT {pid}"),
            "`abbey up` replaces it".to_owned(),
        ] {
            assert!(text.contains(&part), "{command}: {part} in {text}");
        }
    }
    let up = house.run("up");
    let text = String::from_utf8_lossy(&up.stderr).into_owned();
    assert!(up.status.success(), "{text}");
    assert!(text.contains(&format!("(process {pid})")), "{text}");
    let now = house.control_plane_pid();
    assert_ne!(now, pid);
    assert_eq!(house.agent("abbot").pid, agent, "agents went on");
    assert_eq!(hostd_of(&house), hostd);
    stop(now);
    house.expect(0, "down");
    assert_nothing_runs(&house);
}

/// No connection says whose process it is, so the lock does.
#[test]
fn a_stopped_control_plane_whose_queue_is_full_is_named_and_replaced() {
    let house = up(TWO);
    let agent = house.agent("abbot").pid;
    let pid = house.control_plane_pid();
    stop(pid);
    crate::hostd_outages::fill_queue(&house.home().join("run/operator.sock"));
    let text = house.expect_refusal(6, "ps");
    assert!(text.contains(&format!("(process {pid})")), "{text}");
    house.expect(0, "up");
    assert_ne!(house.control_plane_pid(), pid);
    assert_eq!(house.agent("abbot").pid, agent, "agents went on");
}
