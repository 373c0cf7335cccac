//! Presence of agents and services: two probes, each of which can fail, and what doctor says of a house that is down or
//! half down.

use crate::house;
use abbey_model::Presence;
use abbey_testkit::args;
use abbey_testkit::container::{Image, pack_python_root};
use abbey_testkit::house::{House, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::net::TcpStream;

fn send(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

fn check(house: &House, code: i32, id: &str) -> Value {
    let doc = house.json(code, "doctor");
    let found = doc["checks"].as_array().unwrap();
    let found = found.iter().find(|c| c["id"] == id);
    found.unwrap_or_else(|| panic!("{id} in {doc}")).clone()
}

fn wait_for_presence(house: &House, agent: &str, presence: Presence) {
    until(&format!("{agent} is {presence}"), || {
        house.agent(agent).presence == presence
    });
}

/// The last process below another one: in a sandbox the worker is a child of the first process.
fn worker_below(pid: i32) -> i32 {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let first = children.split_whitespace().next();
    first.map_or(pid, |child| worker_below(child.parse().unwrap()))
}

#[test]
fn each_state_of_presence_is_reached_by_stopping_that_part() {
    let house = house();
    house.manifest(
        "house: parts\nagents:\n  open: { cell: process }\n  walled: { cell: sandbox }\n",
    );
    house.expect(0, "up");
    let (open, walled) = (house.agent("open"), house.agent("walled"));
    assert_eq!(
        (open.presence, walled.presence),
        (Presence::Ready, Presence::Ready)
    );
    let worker = worker_below(walled.pid.unwrap());
    // The worker stands still: what answers is its way in.
    send(open.pid.unwrap(), Signal::STOP);
    send(worker, Signal::STOP);
    wait_for_presence(&house, "open", Presence::IngressOnly);
    wait_for_presence(&house, "walled", Presence::IngressOnly);
    assert_eq!(check(&house, 0, "agent.open")["state"], "attention");
    let why = house.expect(0, "why open");
    assert!(
        why.contains("no heartbeat") && why.contains("abbey restart open"),
        "{why}"
    );
    // Its port is taken up by connections that do nothing: nothing is left.
    let door = open.ports[0];
    let hold = || -> Vec<TcpStream> {
        let connect = |_| TcpStream::connect(("127.0.0.1", door)).unwrap();
        (0..70).map(connect).collect()
    };
    let held = hold();
    wait_for_presence(&house, "open", Presence::Down);
    drop(held);
    wait_for_presence(&house, "open", Presence::IngressOnly);
    send(open.pid.unwrap(), Signal::CONT);
    send(worker, Signal::CONT);
    wait_for_presence(&house, "open", Presence::Ready);
    wait_for_presence(&house, "walled", Presence::Ready);
    let held = hold();
    wait_for_presence(&house, "open", Presence::WorkerOnly);
    drop(held);
    wait_for_presence(&house, "open", Presence::Ready);
    // Nothing was restarted for it.
    assert_eq!(house.agent("open").restarts, 0);
}

/// The process of a cell whose command line has this text.
fn process_in(house: &House, cell: &str, text: &str) -> i32 {
    let group = abbey_daemon::Home::new(house.home()).cgroup_name();
    let group = format!("/{group}/{cell}");
    let read = |pid: i32, file: &str| {
        let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\0', " ")
    };
    let names = std::fs::read_dir("/proc").unwrap().flatten();
    let mut pids = names.filter_map(|e| e.file_name().to_str()?.parse().ok());
    let found = pids
        .find(|pid| read(*pid, "cgroup").contains(&group) && read(*pid, "cmdline").contains(text));
    found.unwrap_or_else(|| panic!("no process `{text}` in {cell}"))
}

fn shim_of(house: &House, cell: &str) -> i32 {
    let record = house.home().join(format!("run/cells/{cell}/shim.json"));
    let record: Value = serde_json::from_slice(&std::fs::read(record).unwrap()).unwrap();
    i32::try_from(record["shim"]["pid"].as_i64().unwrap()).unwrap()
}

/// Sends a signal to the worker from inside its cell, where it is a process of the same user.
fn signal_worker(house: &House, signal: &str) {
    let script = format!(
        "for p in /proc/[0-9]*; do case \"$(cat $p/cmdline 2>/dev/null | tr '\\0' ' ')\" in *'role na'tive*) kill -{signal} ${{p#/proc/}} && echo sent;; esac; done"
    );
    let sent = house.expect(0, args!("exec a -- sh -c {}", script));
    assert_eq!(sent, "sent\n");
}

/// Every state by stopping each part of a cell whose first process serves its port: worker, port, `outside` (the process
/// of the host in which both run), and shim.
fn reach_each_state_in_a_guest(house: &House, outside: &str) {
    let first = house.agent("a");
    assert_eq!(first.presence, Presence::Ready);
    signal_worker(house, "STOP");
    wait_for_presence(house, "a", Presence::IngressOnly);
    signal_worker(house, "CONT");
    wait_for_presence(house, "a", Presence::Ready);
    // Its port is taken up by connections that do nothing, again and again as the house closes them. What the operator
    // asks goes on.
    let hold = "import os, socket, time\nif os.fork(): os._exit(0)\nos.setsid()\nopen('holder', 'w').write(str(os.getpid()))\nport = int(os.environ['HTTP_PROXY'].rsplit(':', 1)[1])\nheld = []\nwhile True:\n    held = [socket.create_connection(('127.0.0.1', port)) for _ in range(250)]\n    time.sleep(5)\n";
    house.expect(0, args!("exec a -- python3 -c {}", hold));
    wait_for_presence(house, "a", Presence::WorkerOnly);
    house.expect(0, args!("exec a -- sh -c {}", "kill $(cat holder)"));
    wait_for_presence(house, "a", Presence::Ready);
    let cell = "agent-a";
    for pid in [process_in(house, cell, outside), shim_of(house, cell)] {
        send(pid, Signal::STOP);
        wait_for_presence(house, "a", Presence::Down);
        send(pid, Signal::CONT);
        wait_for_presence(house, "a", Presence::Ready);
    }
    // Nothing was restarted for it.
    let last = house.agent("a");
    assert_eq!((last.restarts, last.pid), (0, first.pid));
}

#[test]
fn each_state_of_presence_is_reached_in_a_container() {
    let house = house();
    let image = Image::import(&pack_python_root(&house.path("")));
    house.manifest(&format!(
        "house: parts\nagents:\n  a: {{ cell: container, image: {}, limits: {{ memory: 256MiB }} }}\n",
        image.name()
    ));
    house.expect(0, "up");
    // Podman's own command line has these words too, with the image between them.
    reach_each_state_in_a_guest(
        &house,
        "ld.so --library-path /abbey/lib /abbey/abbey role guest",
    );
}

#[test]
fn each_state_of_presence_is_reached_in_a_microvm() {
    let house = house();
    house.install_default_image();
    house.manifest("house: parts\nagents:\n  a: { cell: microvm, limits: { memory: 256MiB } }\n");
    house.expect(0, "up");
    reach_each_state_in_a_guest(&house, "qemu-system");
}

#[test]
fn a_process_that_a_signal_stopped_is_named() {
    let house = house();
    house.manifest("house: still\nservices:\n  s: { command: [sleep, inf], probe: none }\nagents: { a: { cell: process } }\n");
    house.expect(0, "up");
    let service = || house.json(0, "ps")["services"][0].clone();
    assert_eq!(service()["presence"], "ready");
    let main = i32::try_from(service()["pid"].as_i64().unwrap()).unwrap();
    let agent = house.agent("a").pid.unwrap();
    let program = worker_below(main);
    for (pid, commands) in [
        (program, ["ps", "why s", "doctor"]),
        (main, ["ps", "why s", "doctor"]),
        (agent, ["why a", "why a", "doctor"]),
    ] {
        send(pid, Signal::STOP);
        for command in commands {
            let shown = house.expect(0, command);
            let cause = format!("its program (process {pid}) is stopped by a signal");
            assert!(shown.contains(&cause), "{command}: {shown}");
        }
        let down = pid != agent;
        assert!(!down || service()["presence"] == "down");
        send(pid, Signal::CONT);
        until("it goes on", || service()["presence"] == "ready");
    }
    // A pass of the reconciler replaces a cell whose shim does not answer; the new one is stopped as well then.
    let record = house.home().join("run/cells/service-s/shim.json");
    until("its shim is named", || {
        let record = std::fs::read(&record).unwrap_or_default();
        let record: Value = serde_json::from_slice(&record).unwrap_or_default();
        let shim = record["shim"]["pid"].as_i64().unwrap_or_default();
        let Some(pid) = i32::try_from(shim).ok().and_then(Pid::from_raw) else {
            return false;
        };
        let _replaced_already = kill_process(pid, Signal::STOP);
        let cause = format!("the shim of its cell (process {shim}) is stopped by a signal");
        let shown = house.expect(0, "ps");
        let _replaced_already = kill_process(pid, Signal::CONT);
        shown.contains(&cause)
    });
}

#[test]
fn who_reaches_a_service_at_its_slot_is_its_consumer() {
    let house = house();
    let web = "command: [python3, -m, http.server, '{port}', --bind, '{address}'], slot: cms";
    house.manifest(&format!(
        "house: reached\nservices:\n  web: {{ {web} }}\n  own: {{ command: [sleep, inf], probe: none }}\nagents:\n  a: {{}}\n  b: {{ uses: [own] }}\n"
    ));
    house.expect(0, "up");
    let consumers = |name: &str| {
        let doc = house.json(0, "service list");
        let mut all = doc["services"].as_array().unwrap().iter();
        let found = all.find(|s| s["name"] == name).unwrap();
        found["consumers"].clone()
    };
    assert_eq!(consumers("web"), serde_json::json!(["a", "b"]));
    assert_eq!(consumers("own"), serde_json::json!(["b"]));
    let shown = house.expect(0, "service list");
    assert!(shown.contains("a, b"), "{shown}");
}

#[test]
fn services_are_shown_where_agents_are() {
    let house = house();
    house.manifest("house: shown\nservices:\n  bad: { cell: process, command: [sh, -c, exit 3], probe: none }\nagents: { a: { cell: process } }\n");
    house.expect(0, "up --no-wait");
    let restarts = || {
        house.json(0, "ps")["services"][0]["restarts"]
            .as_u64()
            .unwrap()
    };
    until("it was tried again", || restarts() >= 2);
    let report = house.expect(0, "report status --locale en");
    assert!(report.contains("bad is "), "{report}");
    assert!(house.expect(0, "why bad").contains("restarts"));
    assert_eq!(check(&house, 0, "service.bad")["state"], "attention");
}

#[test]
fn doctor_checks_a_house_that_is_down_or_half_down() {
    let house = house();
    house.manifest(crate::TWO);
    house.expect(0, "up");
    let entries = house.audit_entries("house.start");
    assert_eq!(entries.len(), 1, "{entries:?}");
    // The helper stands still.
    let hostd = check(&house, 0, "hostd")["text"]
        .as_str()
        .unwrap()
        .to_owned();
    let hostd: i32 = hostd
        .split("process ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    send(hostd, Signal::STOP);
    let found = check(&house, 7, "hostd");
    assert!(
        found["text"]
            .as_str()
            .unwrap()
            .contains(&format!("process {hostd}")),
        "{found}"
    );
    send(hostd, Signal::CONT);
    until("it answers again", || {
        house.run("doctor").status.code() == Some(0)
    });
    // The control plane stands still, and is gone.
    let serve = house.control_plane_pid();
    send(serve, Signal::STOP);
    let found = check(&house, 7, "control_plane");
    let remedy = found["remedy"].as_str().unwrap();
    assert!(remedy.contains(&format!("kill -CONT {serve}")), "{found}");
    send(serve, Signal::CONT);
    house.kill_control_plane();
    let found = check(&house, 7, "control_plane");
    let text = found["text"].as_str().unwrap();
    assert!(
        text.contains("gone without `abbey down`") && text.contains("cells are left"),
        "{text}"
    );
    house.expect(0, "up");
    house.expect(0, "down");
    let found = check(&house, 0, "control_plane");
    assert_eq!(
        (&found["state"], &found["text"]),
        (&"attention".into(), &"the house is down".into())
    );
    assert_eq!(check(&house, 0, "activity_chain")["state"], "ok");
    check(&house, 0, "disk_space");
    // It is as it was.
    house.expect(0, "up");
}

#[test]
fn a_plan_warns_of_services_that_reach_nobody_or_pass_the_gateway() {
    let house = house();
    let text = |more: &str| {
        format!(
            "house: notes\nservices:\n  wiki: {{ command: [sleep, inf], probe: none, shared: true }}\n  llm: {{ at: '127.0.0.1:9', slot: models{more} }}\nproviders: {{ odd: {{ kind: openai, service: llm, output_tokens_max: 100 }} }}\ndefaults: {{ model: odd/odd-1 }}\nbudget: {{ tokens_per_day: 1000 }}\nagents: {{ a: {{}} }}\n"
        )
    };
    let note = |subject: &str| -> String {
        let doc = house.json(0, "plan");
        let notes = doc["notes"].as_array().unwrap();
        let about = notes.iter().find(|n| n["subject"] == subject);
        about.map_or_else(String::new, |n| n["text"].as_str().unwrap().to_owned())
    };
    house.manifest(&text(""));
    assert!(note("service:wiki").contains("no agent reaches it"));
    assert!(note("service:llm").contains("through the gateway alone"));
    let steps = house.expect(0, "plan");
    assert!(!steps.contains("llm at 10."), "{steps}");
    house.manifest(&text(", unmetered: true"));
    assert!(note("service:llm").contains("count against no budget"));
    assert!(house.expect(0, "plan").contains("llm at 10."));
}

#[test]
fn two_agents_have_a_service_each_on_one_slot_and_the_host_an_exposed_one() {
    let house = house();
    let web = "command: [python3, -m, http.server, '{port}', --bind, '{address}'], probe: /, slot: db, port: 5432, shared: false";
    let port = house.ports.last;
    house.manifest(&format!("house: own\nservices:\n  one: {{ {web}, expose: {port} }}\n  two: {{ {web} }}\nagents:\n  a: {{ uses: [one] }}\n  b: {{ uses: [two] }}\n"));
    house.expect(0, "up");
    for agent in ["a", "b"] {
        let address = house.agent(agent).address.unwrap();
        let subnet = address.rsplit_once('.').unwrap().0.to_owned();
        let code = format!(
            "import urllib.request as u; print(u.build_opener(u.ProxyHandler({{}})).open('http://{subnet}.5:5432/', timeout=5).status)"
        );
        until("its own service answers at the slot", || {
            let output = house.run(args!("exec {} -- python3 -c {}", agent, code));
            output.stdout.starts_with(b"200")
        });
    }
    TcpStream::connect(("127.0.0.1", port)).unwrap();
    // One that both would meet at one address is refused.
    let both = format!(
        "house: own\nservices:\n  one: {{ {web} }}\n  two: {{ {web} }}\nagents: {{ a: {{ uses: [one, two] }} }}\n"
    );
    house.manifest(&both);
    let told = house.expect_refusal(2, "plan");
    assert!(
        told.contains("slot `db` is already used by service `one`"),
        "{told}"
    );
}

#[test]
fn what_a_host_would_be_given_is_printed() {
    let house = house();
    house.manifest("house: shown\nagents: { a: { egress: ['198.51.100.7:443'] } }\n");
    for (kind, part) in [
        ("nft", "chain leaving"),
        ("pf", "pass in quick"),
        ("jail", "host.hostname = \"a\""),
        ("bhyve", "bhyve -H"),
    ] {
        let text = house.expect(0, args!("plan --render {}", kind));
        assert!(text.contains(part), "{kind}: {text}");
        assert!(
            kind.starts_with(['j', 'b']) || text.contains("198.51.100.7"),
            "{text}"
        );
    }
}
