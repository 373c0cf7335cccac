//! What one cell can take of what all share outside of the cells: the kernel's table of connections, logs, the audit
//! log, places for connections. Each time its neighbour and the operator API go on answering, and the worst time is printed.

use abbey_testkit::args;
use abbey_testkit::house::{House, until};
use abbey_testkit::outside::Outside;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const SCRIPT: &str = include_str!("neighbours.py");

const HOUSE: &str = "house: neighbours
defaults: { cell: sandbox }
agents:
  a: { template: sysadmin }
  b: { template: sysadmin }
";

/// Longest time that the operator API may take in all; it is not what is tested, and the machine may be loaded.
const WITHIN: Duration = Duration::from_secs(30);

fn stand(manifest: &str) -> House {
    let house = crate::house();
    house.manifest(manifest);
    house.expect(0, "up");
    house
}

/// Starts a function of the script in the cell of an agent.
fn start(house: &House, agent: &str, what: &[&str]) -> Child {
    let mut args = vec!["exec", agent, "--", "python3", "-c", SCRIPT];
    args.extend(what);
    let mut command = house.command(&args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command.stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Ends the input of a function of the script, and gives what it printed last.
fn finish(mut child: Child) -> Value {
    drop(child.stdin.take());
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|_| panic!("{}: {text}", output.status))
}

/// Runs a function of the script in the cell of `a` to its end.
fn attack(house: &House, what: &[&str]) -> Value {
    let mut args = vec!["exec", "a", "--", "python3", "-c", SCRIPT];
    args.extend(what);
    let text = house.expect(0, &args);
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

fn operator_address(house: &House) -> String {
    let text = std::fs::read(house.home().join("run/serve.json")).unwrap();
    let announced: Value = serde_json::from_slice(&text).unwrap();
    announced["address"].as_str().unwrap().to_owned()
}

/// One request to the operator API's port, on a connection of its own.
fn healthz(address: &str) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(WITHIN))?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.starts_with("HTTP/1.1 200 "))
}

/// A neighbour who calls the agent API from its cell, and an operator who asks the operator API, all the time.
struct Watch {
    neighbour: Child,
    operator: JoinHandle<(u32, Duration)>,
    over: Arc<AtomicBool>,
}

impl Watch {
    /// Returns once both are calling.
    fn start(house: &House) -> Watch {
        let mut neighbour = start(house, "b", &["measure"]);
        let mut first = [0; "measuring\n".len()];
        let said = neighbour.stdout.as_mut().unwrap();
        said.read_exact(&mut first).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let (address, stop) = (operator_address(house), Arc::clone(&over));
        let operator = std::thread::spawn(move || {
            let (mut calls, mut worst) = (0, Duration::ZERO);
            while calls < 2 || !stop.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let well = healthz(&address);
                assert!(well.as_ref().is_ok_and(|well| *well), "{well:?}");
                worst = worst.max(begun.elapsed());
                calls += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            (calls, worst)
        });
        Watch {
            neighbour,
            operator,
            over,
        }
    }

    /// Every call was answered; prints the worst times.
    fn finish(self, what: &str) {
        self.over.store(true, Ordering::Relaxed);
        let (calls, worst) = self.operator.join().unwrap();
        let measured = finish(self.neighbour);
        println!(
            "{what}: neighbour {measured}, operator API {calls} calls, worst {} ms",
            worst.as_millis()
        );
        assert_eq!(measured["failed"], json!([]), "{measured}");
        assert!(measured["calls"].as_u64() > Some(1) && calls > 1);
    }
}

/// Connections in the kernel's table of the network of this test.
fn tracked() -> u64 {
    let text = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count");
    text.unwrap().trim().parse().unwrap()
}

#[test]
fn connections_of_a_cell_to_its_own_port_do_not_fill_the_table_of_the_host() {
    let house = stand(HOUSE);
    let watch = Watch::start(&house);
    let mut caller = start(&house, "a", &["connections", "20000"]);
    let mut most = 0;
    while caller.try_wait().unwrap().is_none() {
        most = most.max(tracked());
        std::thread::sleep(Duration::from_millis(20));
    }
    let made = finish(caller);
    println!("{made}, at most {most} tracked at once");
    watch.finish("connections");
    // What is open and what was closed within ten seconds, at 200 a second after the first 1,000.
    assert!(most < 8000, "{most} connections are tracked");
    // It is served again as soon as it is slow.
    until("the attacker itself is served", || {
        attack(&house, &["connections", "1"])["made"] == 1
    });
}

#[test]
fn datagrams_of_a_cell_do_not_fill_the_table_of_connections() {
    let _outside = Outside::connect(&["198.51.100.7"]);
    let house = stand(&HOUSE.replace("  a: { ", "  a: { egress: full, "));
    let watch = Watch::start(&house);
    let sent = attack(&house, &["datagrams", "40000"]);
    let most = tracked();
    println!("{sent}, {most} tracked");
    watch.finish("datagrams");
    assert!(most < 8000, "{most} connections are tracked");
}

#[test]
fn refused_requests_of_a_cell_are_counted_in_a_log_of_bounded_size() {
    let house = stand(HOUSE);
    let watch = Watch::start(&house);
    let made = attack(&house, &["refusals", "2500"]);
    watch.finish("refusals");
    assert_eq!(made["refused"], 2500);
    let dir = house.home().join("egress/agent-a");
    let lines = || -> Vec<Value> {
        let days = std::fs::read_dir(&dir).unwrap().flatten();
        let text: String = days
            .map(|d| std::fs::read_to_string(d.path()).unwrap())
            .collect();
        let whole = text.lines().map(serde_json::from_str::<Value>);
        whole.map_while(Result::ok).collect()
    };
    let count = |line: &Value| line["connections"].as_u64().unwrap_or(1);
    until("all are logged or counted", || {
        lines().iter().map(count).sum::<u64>() == 2500
    });
    let lines = lines();
    assert!(lines.len() < 1500, "{} lines", lines.len());
    let more = lines.iter().filter(|l| l["outcome"] == "more").count();
    assert!(more > 0);
    let entries = house.audit_entries("egress.denied");
    assert!(entries.len() <= 64, "{} entries", entries.len());
}

#[test]
fn notes_of_an_agent_are_refused_over_its_quota() {
    let house = stand(HOUSE);
    let watch = Watch::start(&house);
    let made = attack(&house, &["notes", "500"]);
    watch.finish("notes");
    let accepted = made["accepted"].as_u64().unwrap();
    assert!(accepted >= 32, "{made}");
    let entries = house.audit_entries("agent.note");
    assert_eq!(entries.len() as u64, accepted);
    // 256 KiB at once and 1 KiB a second, in the time that a loaded machine takes.
    assert!(accepted < 200, "{made}");
    let wait: u64 = made["retry_after"].as_str().unwrap().parse().unwrap();
    assert!((1..=8).contains(&wait), "{made}");
    // The other kinds of its requests, and its neighbour's notes, have allowances of their own.
    let note = |agent: &str| {
        let request = house.agent_api("POST", "/api/v1/self/activity");
        let token = house.agent_token(agent);
        request.token(&token).json(&json!({ "text": "x" })).send().0
    };
    assert_eq!(note("b"), 200);
    let me = house.agent_api("GET", "/api/v1/self");
    assert_eq!(me.token(&house.agent_token("a")).send().0, 200);
}

/// An agent that keeps its own port busy delays nobody who asks for the state of all, and its own requests are ended.
#[test]
fn bodies_that_never_end_do_not_delay_the_operator() {
    let house = stand(HOUSE);
    let token = std::fs::read_to_string(house.home().join("operator.token")).unwrap();
    let address = operator_address(&house);
    let get = |path: &str| {
        let begun = Instant::now();
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(WITHIN)).unwrap();
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {}\r\n\r\n",
            token.trim()
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
        begun.elapsed()
    };
    get("/api/v1/agents");
    let watch = Watch::start(&house);
    let mut caller = start(&house, "a", &["bodies", "190"]);
    let mut said = BufReader::new(caller.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    for path in [
        "/api/v1/agents",
        "/api/v1/agents/b",
        "/api/v1/readiness",
        "/metrics",
    ] {
        // What a loaded machine adds is not in the best of several.
        let best = (0..5).map(|_| get(path)).min().unwrap();
        println!("{path}: {} ms", best.as_millis());
        assert!(best < Duration::from_secs(1), "{path}: {best:?}");
    }
    watch.finish("bodies that never end");
    line.clear();
    said.read_line(&mut line).unwrap();
    assert!(line.contains("HTTP/1.1 408"), "{line}");
    drop(caller.stdin.take());
    let _status = caller.wait();
}

/// Requests that never end, from a cell and to the operator API's port, in a house with few descriptors.
#[test]
fn unfinished_requests_keep_no_place_that_another_caller_needs() {
    let house = crate::house();
    house.manifest(HOUSE);
    // Places for 128 connections of each listener.
    let abbey = house.command("up");
    let mut up = Command::new("prlimit");
    up.arg("--nofile=1024:1024").arg(abbey.get_program());
    up.args(abbey.get_args()).env_clear();
    up.envs(abbey.get_envs().filter_map(|(k, v)| Some((k, v?))));
    up.current_dir(house.path(""));
    let output = up.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let watch = Watch::start(&house);
    let mut caller = start(&house, "a", &["unfinished", "3000"]);
    let mut line = String::new();
    let mut said = BufReader::new(caller.stdout.take().unwrap());
    said.read_line(&mut line).unwrap();
    let address = operator_address(&house);
    let mut open = Vec::new();
    for _ in 0..600 {
        let mut stream = TcpStream::connect(&address).unwrap();
        let _closed_for_another = stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n");
        open.push(stream);
    }
    for _ in 0..20 {
        assert!(healthz(&address).unwrap());
    }
    house.expect(0, args!("exec b -- true"));
    println!("from the cell: {}", line.trim());
    watch.finish("unfinished requests");
    drop(caller.stdin.take());
    let _status = caller.wait();
    drop(open);
}
