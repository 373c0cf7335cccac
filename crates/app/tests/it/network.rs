//! Networks of cells: what an agent reaches and what it does not, with a simulated outside network (S1-03, S1-07 to
//! S1-13).

use crate::house;
use abbey_testkit::args;
use abbey_testkit::house::{House, own_network, until};
use abbey_testkit::outside::Outside;
use serde_json::Value;
use std::net::{TcpListener, TcpStream};
use std::process::Command;

pub(crate) const OUTSIDE: &str = "198.51.100.7";
const OTHER: &str = "198.51.100.8";
const PRIVATE: &str = "192.168.77.7";
const METADATA: &str = "169.254.169.254";

fn beside() -> Outside {
    Outside::connect(&[OUTSIDE, OTHER, PRIVATE, METADATA])
}

/// Runs a probe in the cell of an agent and gives its output.
fn inside(house: &House, agent: &str, what: &[&str]) -> String {
    let mut args = vec![
        "exec",
        agent,
        "--",
        "python3",
        "-c",
        include_str!("network.py"),
    ];
    args.extend(what);
    let output = house.run(&args);
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success(),
        "{what:?}: {out}\n{err}\n{}",
        house.control_plane_log()
    );
    out.trim().to_owned()
}

/// Connects from the cell of an agent: `ok`, or the name of the error.
pub(crate) fn reach(house: &House, agent: &str, to: &str) -> String {
    let (host, port) = to.rsplit_once(':').unwrap();
    inside(house, agent, &["reach", host, port])
}

/// Opens a tunnel through the proxy and sends data; gives the status, and the reason of a refusal or the data received.
fn tunnel(house: &House, agent: &str, to: &str, say: (&str, &str)) -> (u16, String) {
    let said = inside(house, agent, &["tunnel", to, say.0, say.1]);
    let status = said.split(' ').nth(1).and_then(|s| s.parse().ok());
    let code = said
        .split_once("urn:abbey:egress:")
        .and_then(|(_, rest)| rest.split('"').next())
        .map(str::to_owned);
    (status.unwrap_or(0), code.unwrap_or(said))
}

const TWO: &str = "house: nets
services:
  web: { command: [python3, -m, http.server, '{port}', --bind, '{address}'], probe: /, slot: cms }
  plain: { cell: process, command: [python3, -m, http.server, '{port}', --bind, '{address}'], probe: /, slot: models }
  hidden: { command: [python3, -m, http.server, '{port}', --bind, '{address}'], probe: /, slot: db, shared: false }
defaults: { cell: sandbox }
agents:
  a: { template: orchestrator, egress: ['api.example.org:443', 'ssh.example.org:22', 'http.example.org:80', 'inner.example.org:80', '198.51.100.7:80'] }
  b: { template: sysadmin, reports_to: a, egress: full }
";

const BRIDGE: &str = "network: { layout: bridge }\n";

pub(crate) const HOSTS: &str = "127.0.0.1 localhost
198.51.100.7 api.example.org http.example.org ssh.example.org
198.51.100.8 other.example.org
192.168.77.7 inner.example.org
169.254.169.254 metadata.example.org
";

pub(crate) fn stand(manifest: &str) -> (Outside, House, Value) {
    let outside = beside();
    let mut house = house();
    house.hosts = Some(HOSTS.to_owned());
    house.manifest(manifest);
    house.expect(0, "up");
    let fleet = house.json(0, "ps");
    (outside, house, fleet)
}

/// Address of the cell of an agent, and of its gateway.
fn addresses(fleet: &Value, agent: &str) -> (String, String) {
    let agents = fleet["agents"].as_array().unwrap();
    let row = agents.iter().find(|a| a["name"] == agent).unwrap();
    let cell = row["address"].as_str().unwrap().to_owned();
    let gateway = format!("{}.1", cell.rsplit_once('.').unwrap().0);
    (cell, gateway)
}

pub(crate) fn nft(args: &[&str]) -> String {
    let output = Command::new("/usr/sbin/nft").args(args).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A firewall table of another program.
fn add_foreign() {
    nft(&["add", "table", "inet", "foreign"]);
    nft(&[
        "add",
        "chain",
        "inet",
        "foreign",
        "c",
        "{ type filter hook input priority 10; }",
    ]);
}

fn interfaces() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let names = text.lines().filter_map(|l| l.split_once(':'));
    names.map(|(n, _)| n.trim().to_owned()).collect()
}

#[test]
fn an_agent_reaches_only_the_agent_api_and_its_allowed_destinations() {
    reaches_what_it_may("");
}

/// The bridged layout allows no more than the routed one (S1-03, S1-09).
#[test]
fn bridged_layout_allows_no_more_than_routed() {
    reaches_what_it_may(BRIDGE);
}

fn reaches_what_it_may(layout: &str) {
    let (outside, house, fleet) = stand(&format!("{layout}{TWO}"));
    let ((a, a_gateway), (b, b_gateway)) = (addresses(&fleet, "a"), addresses(&fleet, "b"));
    let door = |agent: &str| {
        let agents = fleet["agents"].as_array().unwrap();
        let row = agents.iter().find(|r| r["name"] == agent).unwrap();
        row["ports"][0].as_u64().unwrap()
    };
    // Its door, on loopback and at its gateway; a service at its slot; the raw address of its list.
    for to in [
        format!("127.0.0.1:{}", door("a")),
        format!("{a_gateway}:{}", door("a")),
        format!("{OUTSIDE}:80"),
    ] {
        assert_eq!(reach(&house, "a", &to), "ok", "{to}");
    }
    assert!(
        outside
            .visits_to("198.51.100.7:80")
            .iter()
            .all(|v| v.from == "203.0.113.1")
    );
    // The neighbour, its gateway and door; the host's own ports; other ports and hosts outside;
    // private networks and metadata, though a route leads there.
    let listening = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listening.local_addr().unwrap().port();
    assert!(
        TcpStream::connect(("203.0.113.1", port)).is_ok(),
        "a control: the host listens"
    );
    assert!(
        TcpStream::connect((METADATA, 80)).is_ok(),
        "a control: the host gets there"
    );
    let subnet = b.rsplit_once('.').unwrap().0;
    for to in [
        format!("{b}:{}", door("b")),
        format!("{b_gateway}:{}", door("b")),
        format!("{subnet}.200:80"),
        format!("{a_gateway}:{port}"),
        format!("203.0.113.1:{port}"),
        format!("{OUTSIDE}:5432"),
        format!("{OTHER}:80"),
        format!("{PRIVATE}:80"),
        format!("{METADATA}:80"),
    ] {
        assert_eq!(reach(&house, "a", &to), "ECONNREFUSED", "{to}");
    }
    // With everything open, what is private stays closed.
    assert_eq!(reach(&house, "b", &format!("{OTHER}:5432")), "ok");
    for to in [
        format!("{METADATA}:80"),
        format!("{PRIVATE}:80"),
        format!("{a}:{}", door("a")),
    ] {
        assert_eq!(reach(&house, "b", &to), "ECONNREFUSED", "{to}");
    }
    // UDP and ICMP find no way either: what was refused is counted, and nothing is answered.
    assert_eq!(inside(&house, "a", &["datagram", &b, "53"]), "nothing");
    // Another destination is taken away while it runs, without a restart.
    let text = std::fs::read_to_string(house.path("abbey.yaml")).unwrap();
    std::fs::write(
        house.path("abbey.yaml"),
        text.replace("'198.51.100.7:80'", "'198.51.100.8:80'"),
    )
    .unwrap();
    house.expect(0, "up");
    assert_eq!(reach(&house, "a", &format!("{OUTSIDE}:80")), "ECONNREFUSED");
    assert_eq!(reach(&house, "a", &format!("{OTHER}:80")), "ok");
    let after = house.json(0, "ps");
    assert_eq!(
        after["agents"][0]["generation"],
        fleet["agents"][0]["generation"]
    );
    // Gone with the agent, and with the house.
    let name = |address: &str| {
        let octets = address.split('.').map(|o| o.parse::<u8>().unwrap());
        let mut octets: Vec<u8> = octets.collect();
        octets[3] = 0;
        octets
            .iter()
            .map(|o| format!("{o:02x}"))
            .collect::<String>()
    };
    assert!(interfaces().iter().any(|i| i.ends_with(&name(&b))));
    assert!(nft(&["list", "ruleset"]).contains(&b));
    house.expect(0, "agent rm b");
    until("the agent's network is gone", || {
        !interfaces().iter().any(|i| i.ends_with(&name(&b)))
            && !nft(&["list", "ruleset"]).contains(&b)
    });
    assert_eq!(reach(&house, "a", &format!("{OTHER}:80")), "ok");
    house.expect(0, "down");
    assert_eq!(
        interfaces().iter().filter(|i| i.starts_with("ab")).count(),
        0
    );
    assert_eq!(nft(&["list", "ruleset"]), "");
    let forward = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
    assert_eq!(forward.trim(), "0", "as the house found it");
}

#[test]
fn services_are_reachable_at_their_service_addresses() {
    let (_outside, house, fleet) = stand(TWO);
    let prefix = addresses(&fleet, "a")
        .0
        .rsplit_once('.')
        .unwrap()
        .0
        .to_owned();
    let services = || house.json(0, "service list");
    // An interpreter takes its time to listen; the probe goes where the service is.
    until("every service answers its probe", || {
        let all = services();
        let mut all = all["services"].as_array().unwrap().iter();
        all.all(|s| s["healthy"] == true)
    });
    let services = services();
    let port = |name: &str| {
        let all = services["services"].as_array().unwrap();
        all.iter().find(|s| s["name"] == name).unwrap()["port"]
            .as_u64()
            .unwrap()
    };
    assert_eq!(
        reach(&house, "a", &format!("{prefix}.3:{}", port("web"))),
        "ok"
    );
    assert_eq!(
        reach(&house, "a", &format!("{prefix}.4:{}", port("plain"))),
        "ok"
    );
    assert_eq!(
        reach(&house, "a", &format!("{prefix}.5:{}", port("hidden"))),
        "ECONNREFUSED"
    );
    let env = house.expect(0, "exec a -- env");
    let web = format!("{prefix}.3:{}", port("web"));
    assert!(
        env.contains(&format!("ABBEY_SERVICE_WEB={web}")) && !env.contains("ABBEY_SERVICE_HIDDEN"),
        "{env}"
    );
    let listing = inside(&house, "a", &["fetch", &format!("http://{web}/"), ""]);
    assert!(listing.contains("Directory listing"), "{listing}");
}

/// Packets with another source address or hardware address are dropped. Tried as root inside the network of the cell,
/// which no agent is.
#[test]
fn spoofed_source_addresses_are_dropped() {
    drops_false_addresses("", "!= @sources");
}

#[test]
fn spoofed_source_addresses_are_dropped_at_bridge_ports() {
    drops_false_addresses(BRIDGE, "!= @ports");
}

fn drops_false_addresses(layout: &str, rule: &str) {
    let (outside, house, fleet) = stand(&format!("{layout}{TWO}"));
    let (a, gateway) = addresses(&fleet, "a");
    let (b, _) = addresses(&fleet, "b");
    let pid = fleet["agents"][0]["pid"].as_u64().unwrap();
    let enter = |command: &str| {
        let done = Command::new("nsenter")
            .args(["-t", &pid.to_string(), "-n", "sh", "-c", command])
            .output()
            .unwrap();
        (
            done.status.success(),
            String::from_utf8_lossy(&done.stderr).into_owned(),
        )
    };
    let from = |source: &str| {
        format!(
            "python3 -c \"import socket;s=socket.socket();s.settimeout(2);s.bind(('{source}',0));s.connect(('{OUTSIDE}',80));s.send(b'x');s.recv(9)\""
        )
    };
    assert!(enter(&from(&a)).0, "a control: its own address gets there");
    let before = outside.visits_to("198.51.100.7:80").len();
    for source in [b.as_str(), "203.0.113.9", "8.8.8.8"] {
        assert!(enter(&format!("ip addr add {source}/32 dev eth0")).0);
        assert!(!enter(&from(source)).0, "{source}");
    }
    // The gateway's own address, and the hardware address of the neighbour.
    assert!(enter(&format!("ip addr add {gateway}/32 dev eth0")).0);
    assert!(!enter(&from(&gateway)).0);
    assert!(enter("ip link set eth0 address 02:ab:0a:4d:09:0a").0);
    assert!(!enter(&from(&a)).0, "another hardware address");
    assert_eq!(outside.visits_to("198.51.100.7:80").len(), before);
    // The neighbour is where it was.
    assert_eq!(reach(&house, "b", &format!("{OUTSIDE}:80")), "ok");
    let rules = nft(&["list", "ruleset"]);
    let counted = rules.lines().find(|l| l.contains(rule)).unwrap();
    assert!(!counted.contains("packets 0 "), "{counted}");
}

/// A deleted bridge is recreated with its gateways and ports, without restarting a cell.
#[test]
fn a_deleted_bridge_is_recreated() {
    let (_outside, house, fleet) = stand(&format!("{BRIDGE}{TWO}"));
    let to = format!("{OUTSIDE}:80");
    assert_eq!(reach(&house, "a", &to), "ok");
    let bridge = || interfaces().into_iter().find(|i| i.ends_with("br"));
    let name = bridge().unwrap();
    let gone = Command::new("ip").args(["link", "del", &name]).status();
    assert!(gone.unwrap().success());
    // The house looks by itself; the cells were cut off until then.
    until("it stands again", || {
        bridge().is_some() && reach(&house, "a", &to) == "ok"
    });
    let after = house.json(0, "ps");
    for n in 0..2 {
        assert_eq!(after["agents"][n]["pid"], fleet["agents"][n]["pid"]);
    }
    // The other layout: cells start anew, and the bridge is gone with its table.
    house.manifest(TWO);
    house.expect(0, "up");
    until("the bridge is gone", || bridge().is_none());
    assert_eq!(reach(&house, "a", &to), "ok");
    assert!(!nft(&["list", "ruleset"]).contains("table bridge"));
}

/// Names go through the proxy, which connects to the address that it checked (S1-12).
#[test]
fn egress_proxy_allows_only_listed_destinations() {
    let (outside, house, _) = stand(TWO);
    proxied(&outside, &house);
    // Bytes and outcomes are on record, and a refusal is an entry of the agent's.
    let log = std::fs::read_dir(house.home().join("egress/agent-a")).unwrap();
    let lines: String = log
        .map(|f| std::fs::read_to_string(f.unwrap().path()).unwrap())
        .collect();
    let lines: Vec<Value> = lines
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let done = lines
        .iter()
        .find(|l| l["outcome"] == "done" && l["port"] == 22)
        .unwrap();
    assert!(done["down"].as_u64().unwrap() >= 17, "{done}");
    assert!(lines.iter().any(|l| l["outcome"] == "reserved_address"));
    let entries = house.expect(0, "activity --json");
    let denied: Vec<Value> = entries
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .filter(|e: &Value| e["action"] == "egress.denied" && e["entity"] == "agent-a")
        .collect();
    assert!(
        denied.iter().any(|e| e["detail"]["code"] == "not_allowed"),
        "{denied:?}"
    );
    let why = house.expect(0, "why a");
    assert!(why.contains("refused in the last ten minutes"), "{why}");
    // With everything open, names of private places are closed all the same.
    assert_eq!(
        tunnel(&house, "b", "other.example.org:22", ("text", "x")).0,
        200
    );
    for to in ["metadata.example.org:80", "inner.example.org:80"] {
        assert_eq!(
            tunnel(&house, "b", to, ("text", "")),
            (403, "reserved_address".to_owned()),
            "{to}"
        );
    }
    // The host has a public address, and something listens there; that is not outside.
    let listening = TcpListener::bind("0.0.0.0:0").unwrap();
    let own = format!("203.0.113.1:{}", listening.local_addr().unwrap().port());
    assert!(TcpStream::connect(&own).is_ok(), "a control");
    let answer = tunnel(&house, "b", &own, ("text", ""));
    assert_eq!(answer, (403, "own_address".to_owned()));
    let answer = tunnel(&house, "b", "localhost:80", ("text", ""));
    assert_eq!(answer, (403, "reserved_address".to_owned()));
}

#[test]
fn egress_proxy_serves_cells_without_a_network() {
    let outside = beside();
    let mut house = House::run_by_user(env!("CARGO_BIN_EXE_abbey"), 5123);
    house.hosts = Some(HOSTS.to_owned());
    let agents = TWO.split_once("defaults:").unwrap().1;
    house.manifest(&format!(
        "house: nets\ndefaults:{}",
        agents.replace("cell: sandbox", "cell: sandbox, waive: [limits]")
    ));
    house.expect(0, "up");
    proxied(&outside, &house);
    // Nothing but the proxy leads out.
    assert_eq!(reach(&house, "b", &format!("{OUTSIDE}:80")), "ENETUNREACH");
}

fn proxied(outside: &Outside, house: &House) {
    assert_eq!(
        tunnel(house, "a", "ssh.example.org:22", ("text", "SSH-2.0-me")).0,
        200
    );
    let (status, said) = tunnel(
        house,
        "a",
        "api.example.org:443",
        ("tls", "api.example.org"),
    );
    assert!(
        status == 200 && said.contains("outside 198.51.100.7:443"),
        "{said}"
    );
    let said = &outside.visits_to("198.51.100.7:443")[0].said;
    assert_eq!(said[0], 22, "the first byte of TLS, passed on as it was");
    let before = outside.visits_to("198.51.100.7:443").len();
    // Another name inside than was asked for; no TLS at all.
    for say in [
        ("tls", "other.example.org"),
        ("text", "GET / HTTP/1.1\r\n\r\n"),
    ] {
        let (status, said) = tunnel(house, "a", "api.example.org:443", say);
        assert!(status == 200 && !said.contains("outside"), "{said}");
    }
    let after = outside.visits_to("198.51.100.7:443");
    assert!(after[before..].iter().all(|v| v.said.is_empty()));
    for (to, code) in [
        ("other.example.org:443", "not_allowed"),
        ("api.example.org:80", "not_allowed"),
        ("198.51.100.8:80", "not_allowed"),
        ("inner.example.org:80", "reserved_address"),
        ("169.254.169.254:80", "reserved_address"),
        ("127.0.0.1:80", "reserved_address"),
        ("2130706433:80", "no_name"),
        ("0x7f.1:80", "no_name"),
    ] {
        let answer = tunnel(house, "a", to, ("text", ""));
        assert_eq!(answer, (403, code.to_owned()), "{to}");
    }
    // Plain HTTP with a whole URL: the name in the URL counts, and what `Host` says does not.
    let url = "http://http.example.org/x";
    let body = inside(house, "a", &["fetch", url, "other.example.org"]);
    assert!(body.contains("outside 198.51.100.7:80"), "{body}");
    let visits = outside.visits_to("198.51.100.7:80");
    let said = String::from_utf8_lossy(&visits.last().unwrap().said).to_lowercase();
    assert!(
        said.starts_with("get /x http/1.1") && said.contains("host: http.example.org"),
        "{said}"
    );
    assert!(!said.contains("proxy-"), "{said}");
}

#[test]
fn daily_egress_bytes_are_limited() {
    let manifest = TWO.replace(
        "egress: full",
        "egress: full, budget: { egress_per_day: 200B }",
    );
    let (_outside, house, _) = stand(&manifest);
    let fetch = || inside(&house, "b", &["fetch", "http://http.example.org/", ""]);
    assert!(fetch().contains("outside"));
    until("the budget is used up", || fetch().starts_with("403"));
    assert!(fetch().contains("urn:abbey:egress:budget"));
    // Counted from the log after a restart of the control plane.
    house.kill_control_plane();
    house.expect(0, "up");
    assert!(fetch().starts_with("403"));
    // So they are under another name, also after another restart.
    house.expect(0, "agent rename b c --now");
    let fetch = || inside(&house, "c", &["fetch", "http://http.example.org/", ""]);
    assert!(fetch().contains("urn:abbey:egress:budget"));
    house.kill_control_plane();
    house.expect(0, "up");
    assert!(fetch().contains("urn:abbey:egress:budget"));
    assert!(!house.home().join("egress/agent-b").exists());
}

/// The firewall of hostd: on trial until confirmed, one table of its own, repaired when another program changes it (S1-13).
#[test]
fn firewall_leaves_foreign_tables_alone_and_is_repaired() {
    own_network();
    add_foreign();
    let foreign = nft(&["list", "table", "inet", "foreign"]);
    assert!(foreign.contains("hook input"));
    let (_outside, house, fleet) = stand(TWO);
    assert_eq!(nft(&["list", "table", "inet", "foreign"]), foreign);
    let tables = nft(&["list", "tables"]);
    let table = tables
        .lines()
        .find(|t| t.contains("abbey_"))
        .unwrap()
        .replace("table inet ", "");
    // Somebody removes it: the next boot of a cell puts it up again before anything runs.
    nft(&["delete", "table", "inet", &table]);
    house.expect(0, "restart a");
    assert!(nft(&["list", "tables"]).contains(&table));
    // Nobody needs to notice: the house looks by itself, and says so.
    nft(&["flush", "ruleset"]);
    until("the house put it up again", || {
        nft(&["list", "tables"]).contains(&table)
    });
    until("and said so", || {
        house
            .expect(0, "activity --json")
            .contains("the firewall table")
    });
    add_foreign();
    // Somebody opens a hole: the next boot closes it.
    nft(&["flush", "set", "inet", &table, "sources"]);
    nft(&["insert", "rule", "inet", &table, "host", "accept"]);
    house.expect(0, "restart a");
    let rules = nft(&["list", "table", "inet", &table]);
    let chain = rules.split_once("chain host").unwrap().1;
    assert!(
        !chain.lines().nth(2).unwrap().trim().eq("accept"),
        "{rules}"
    );
    let (a, _) = addresses(&fleet, "a");
    assert!(rules.contains(&a));
    house.expect(0, "down");
    assert_eq!(nft(&["list", "ruleset"]).trim(), foreign.trim());
}

/// A removed service frees its subnet, and the house keeps running.
#[test]
fn removing_a_service_removes_its_network() {
    let (_outside, house, _) = stand(TWO);
    assert!(nft(&["list", "ruleset"]).contains("10.77.0.10"));
    let fewer: String = TWO
        .lines()
        .filter(|l| !l.contains("  web:") && !l.contains("  hidden:"))
        .map(|l| format!("{l}\n"))
        .collect();
    house.manifest(&fewer);
    house.expect(0, "up");
    let rules = nft(&["list", "ruleset"]);
    assert_eq!(rules.matches(" . 02:ab:").count(), 2, "{rules}");
    until("its interface is gone", || {
        interfaces().iter().filter(|i| i.starts_with("ab")).count() == 2
    });
}

/// Cells with full egress resolve names through the name server of the house; other cells get no answer (S1-12).
#[test]
fn dns_is_answered_only_for_cells_with_full_egress() {
    let (_outside, house, _) = stand(TWO);
    let name = "anything.example.net";
    assert_eq!(inside(&house, "b", &["resolve", name]), "['198.51.100.7']");
    assert!(inside(&house, "a", &["resolve", name]).starts_with("no "));
    // And it goes there without any proxy.
    let script = "import socket;s=socket.create_connection(('anything.example.net',80),5);s.send(b'x');print(s.recv(99))";
    let said = house.expect(0, args!("exec b -- python3 -c {}", script));
    assert!(said.contains("200 OK"), "{said}");
    let args = ["run", "--egress", "full", "--", "python3", "-c", script];
    assert!(house.expect(0, &args).contains("200 OK"));
}

/// Another program takes an address or an interface away: hostd is told by the kernel and puts it back (S1-13).
#[test]
fn gateways_and_interfaces_are_restored_when_another_program_takes_them() {
    let (_outside, house, fleet) = stand(TWO);
    let out = format!("{OUTSIDE}:80");
    assert_eq!(reach(&house, "b", &out), "ok");
    let (_, gateway) = addresses(&fleet, "b");
    let link = |gateway: &str| {
        let output = Command::new("ip")
            .args(["-o", "-4", "addr"])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find(|l| l.contains(&format!(" {gateway}/")));
        line.map(|l| l.split_whitespace().nth(1).unwrap().to_owned())
    };
    let name = link(&gateway).unwrap();
    outside_ip(&format!("addr del {gateway}/32 dev {name}"));
    until("the gateway has its address", || link(&gateway).is_some());
    until("it reaches the outside", || {
        reach(&house, "b", &out) == "ok"
    });
    outside_ip(&format!("link del {name}"));
    until("the interface is back", || link(&gateway).is_some());
    until("it reaches the outside", || {
        reach(&house, "b", &out) == "ok"
    });
    until("it is logged", || {
        let entries = house.audit_entries("hostd.network");
        let text = serde_json::to_string(&entries).unwrap();
        text.contains("the interface of agent-b")
    });
}

fn outside_ip(args: &str) {
    abbey_testkit::outside::ip(args);
}

/// Without the house's table, without control plane and without hostd, rules inside each cell hold.
#[test]
fn a_second_wall_inside_each_cell_holds_when_the_first_is_flushed() {
    let (_outside, house, fleet) = stand(TWO);
    let host = TcpListener::bind("0.0.0.0:7777").unwrap();
    let ((a, a_gateway), (b, b_gateway)) = (addresses(&fleet, "a"), addresses(&fleet, "b"));
    let probe = |agent: &str, to: &str| {
        let (host, port) = to.rsplit_once(':').unwrap();
        format!("{agent} {host} {port}")
    };
    let tries: Vec<String> = [("a", &b), ("b", &a)]
        .iter()
        .flat_map(|(agent, other)| {
            let gateway = if *agent == "a" {
                &a_gateway
            } else {
                &b_gateway
            };
            [
                probe(agent, &format!("{gateway}:7777")),
                probe(agent, "203.0.113.1:7777"),
                probe(agent, &format!("{other}:22")),
            ]
        })
        .collect();
    // A program in each cell that waits for the walls to fall, and then tries for a while.
    let code = "import socket,sys,time,os\nwhile not os.path.exists('go'): time.sleep(0.05)\nhits=0\nfor n in range(20):\n  for at in sys.argv[1:]:\n    h,p=at.split(':')\n    try: socket.create_connection((h,int(p)),0.2).close(); hits+=1\n    except OSError: pass\nopen('hits','w').write(str(hits))\n";
    for agent in ["a", "b"] {
        let own = tries
            .iter()
            .filter_map(|t| t.strip_prefix(&format!("{agent} ")));
        let own: Vec<String> = own.map(|t| t.replace(' ', ":")).collect();
        let mut args = vec![
            "exec",
            agent,
            "--",
            "sh",
            "-c",
            "setsid python3 -c \"$0\" \"$@\" >/dev/null 2>&1 &",
            code,
        ];
        args.extend(own.iter().map(String::as_str));
        house.expect(0, &args);
    }
    let hostd = std::fs::read_to_string("/proc/self/stat")
        .map(|_| hostd_pid(&house))
        .unwrap();
    house.kill_control_plane();
    abbey_testkit::house::kill(hostd);
    nft(&["flush", "ruleset"]);
    assert!(!nft(&["list", "tables"]).contains("abbey_"));
    let workspace = |agent: &str| house.home().join(format!("agents/{agent}/workspace"));
    for agent in ["a", "b"] {
        std::fs::write(workspace(agent).join("go"), "").unwrap();
    }
    for agent in ["a", "b"] {
        until("it tried", || workspace(agent).join("hits").exists());
        let hits = || std::fs::read_to_string(workspace(agent).join("hits")).unwrap();
        until("it said how often it got through", || !hits().is_empty());
        assert_eq!(hits(), "0", "{agent}");
    }
    assert!(
        !nft(&["list", "tables"]).contains("abbey_"),
        "nobody repaired it meanwhile"
    );
    drop(host);
    // With hostd the first wall is back.
    house.expect(0, "up");
    until("the table is back", || {
        nft(&["list", "tables"]).contains("abbey_")
    });
}

fn hostd_pid(house: &House) -> i32 {
    let doc = house.json(0, "doctor");
    let checks = doc["checks"].as_array().unwrap();
    let text = checks.iter().find(|c| c["id"] == "hostd").unwrap()["text"]
        .as_str()
        .unwrap();
    let pid = text.split("process ").nth(1).unwrap().split(' ').next();
    pid.unwrap().parse().unwrap()
}

/// The host routes a subnet only once a cell has started there, so houses tell one another which ones they have taken.
#[test]
fn two_houses_that_start_at_once_share_no_subnet() {
    own_network();
    let houses = [house(), house()];
    let manifest = |name: &str| {
        format!(
            "house: {name}\ndefaults: {{ cell: sandbox }}\nagents: {{ a: {{}}, b: {{}}, c: {{}} }}\n"
        )
    };
    houses[0].manifest(&manifest("first"));
    houses[1].manifest(&manifest("second"));
    let mut started = houses.each_ref().map(|house| {
        let mut command = house.command("up");
        let command = command.stdout(std::process::Stdio::null());
        command
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    });
    for (house, up) in houses.iter().zip(&mut started) {
        let mut told = String::new();
        std::io::Read::read_to_string(up.stderr.as_mut().unwrap(), &mut told).unwrap();
        if !up.wait().unwrap().success() {
            // Both planned the same: who came second was told so, and gets others.
            assert!(told.contains("is one of the house in"), "{told}");
            house.expect(0, "up");
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    for house in &houses {
        let fleet = house.json(0, "ps");
        for agent in ["a", "b", "c"] {
            assert!(seen.insert(addresses(&fleet, agent).0), "{fleet}");
        }
        let planned = house.expect(0, "plan");
        assert!(planned.contains("nothing to change"), "{planned}");
    }
}
