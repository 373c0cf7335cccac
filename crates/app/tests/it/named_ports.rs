//! Every port has one owner: the plan knows all of them, and what a manifest frees it may use.

use crate::{house, up};
use abbey_api::ServicesDoc;
use abbey_model::Presence;
use abbey_testkit::args;
use abbey_testkit::house::House;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

/// A service's program that listens at its port.
const WEB: &str = "command: [python3, -m, http.server, '{port}', --bind, 0.0.0.0]";

/// Writes a manifest whose operator API listens at a port.
fn listen(house: &House, port: u16, manifest: &str) {
    let path = house.manifest(manifest);
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replace("127.0.0.1:0", &format!("127.0.0.1:{port}"));
    std::fs::write(&path, text).unwrap();
}

/// What a plan refuses, and `up` as well.
fn refused(house: &House) -> String {
    let planned = house.expect(4, "plan");
    house.expect_refusal(4, "up");
    planned
}

/// Applies the manifest, and fails unless every service is ready and nothing is left to do.
fn ready(house: &House) {
    house.expect(0, "up --yes");
    let doc: ServicesDoc = house.document(0, "service list");
    for service in &doc.services {
        assert_eq!(service.presence, Presence::Ready, "{}", service.name);
    }
    let steps = house.json(0, "plan")["steps"].clone();
    assert_eq!(steps, serde_json::json!([]));
}

#[test]
fn an_agent_cannot_reach_two_services_at_one_address() {
    let house = house();
    for other in [
        format!("{WEB}, port: 8002"),
        "at: '127.0.0.1:8002'".to_owned(),
    ] {
        house.manifest(&format!("house: h\nservices:\n  s1: {{ {WEB}, port: 8002 }}\n  s2: {{ {other} }}\nagents: {{ a: {{ uses: [s1, s2] }} }}\n"));
        let told = refused(&house);
        assert!(
            told.contains("`s1` and `s2` both at 127.0.0.1:8002"),
            "{told}"
        );
    }
}

#[test]
fn automatic_ports_go_around_those_that_the_manifest_names() {
    let house = house();
    let (first, second) = (house.ports.first, house.ports.first + 1);
    // The agent's own port, in its cell.
    house.manifest(&format!(
        "house: h\nservices:\n  s1: {{ {WEB}, port: {first} }}\nagents: {{ a: {{ uses: [s1] }} }}\n"
    ));
    ready(&house);
    assert_ne!(house.agent("a").ports, [first]);
    // The operator API's, and one of the host; what has them already gives them up.
    listen(
        &house,
        first,
        &format!(
            "house: h\nservices:\n  s1: {{ {WEB}, expose: {second} }}\n  s2: {{ {WEB}, cell: process }}\nagents: {{ a: {{ cell: process }} }}\n"
        ),
    );
    ready(&house);
    let ports = house.agent("a").ports;
    assert!(!ports.contains(&first) && !ports.contains(&second));
}

#[test]
fn two_uses_of_one_port_of_the_host_are_refused() {
    let house = house();
    let port = house.ports.last;
    let manifest =
        format!("house: h\nservices:\n  web: {{ {WEB}, expose: {port} }}\nagents: {{ a: {{}} }}\n");
    listen(&house, port, &manifest);
    let told = refused(&house);
    assert!(told.contains("in use by the operator API"), "{told}");
    listen(
        &house,
        0,
        &manifest.replace(
            "agents:",
            &format!("  two: {{ {WEB}, cell: process, port: {port} }}\nagents:"),
        ),
    );
    let told = refused(&house);
    assert!(told.contains("in use by service:"), "{told}");
}

#[test]
fn a_port_at_which_no_program_of_a_cell_can_listen_is_refused() {
    let house = house();
    house.manifest(&format!(
        "house: h\nservices:\n  web: {{ {WEB}, port: 80 }}\nagents: {{ a: {{}} }}\n"
    ));
    let told = house.expect(4, "plan");
    assert!(told.contains("`expose: 80`"), "{told}");
}

#[test]
fn a_service_is_exposed_at_a_privileged_port_that_root_applied() {
    let house = house();
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let services = |port| {
        format!("house: h\nservices:\n  web: {{ {WEB}, expose: {port} }}\nagents: {{ a: {{}} }}\n")
    };
    house.manifest(&services(80));
    ready(&house);
    TcpStream::connect(("127.0.0.1", 80)).unwrap();
    house.manifest(&services(81));
    ready(&house);
    TcpStream::connect(("127.0.0.1", 81)).unwrap();
    let list = house.home().join("hostd/low-ports.json");
    assert_eq!(std::fs::read_to_string(list).unwrap(), "[81]");
}

#[test]
fn what_a_manifest_frees_it_may_use() {
    let house = house();
    let last = house.ports.last;
    let (one, two, three) = (last - 2, last - 1, last);
    let services = |text: &str| {
        let text = text.replace('@', WEB);
        format!("house: h\nservices:\n{text}agents: {{ a: {{}} }}\n")
    };
    for text in [
        format!("  web: {{ @, expose: {one} }}\n"),
        format!("  web: {{ @ }}\n  api: {{ @, expose: {one} }}\n"),
        // Two services exchange what they have.
        format!("  web: {{ @, expose: {two} }}\n  api: {{ @, expose: {one} }}\n"),
        format!("  web: {{ @, expose: {one} }}\n  api: {{ @, expose: {two} }}\n"),
        format!(
            "  web: {{ @, cell: process, port: {one} }}\n  api: {{ @, cell: process, port: {two} }}\n"
        ),
        format!(
            "  web: {{ @, cell: process, port: {two} }}\n  api: {{ @, cell: process, port: {one} }}\n"
        ),
    ] {
        house.manifest(&services(&text));
        ready(&house);
    }
    // The operator API and a service exchange theirs, too.
    for (listens, expose) in [(three, one), (two, three), (three, two)] {
        listen(
            &house,
            listens,
            &services(&format!("  web: {{ @, expose: {expose} }}\n")),
        );
        ready(&house);
    }
}

#[test]
fn a_kept_port_that_another_house_has_by_now_moves() {
    let one = up("house: one\nagents: { p: { cell: process } }\n");
    let port = one.agent("p").ports[0];
    one.expect(0, "down");
    let _taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let planned = one.expect(0, "plan");
    assert!(planned.contains("allocated.agent_api_port"), "{planned}");
    one.expect(0, "up");
    assert_ne!(one.agent("p").ports[0], port);
    one.expect(0, "down");
}

#[test]
fn a_named_port_that_another_program_has_by_now_is_refused_with_its_holder() {
    let house = house();
    let port = house.ports.last;
    house.manifest(&format!(
        "house: h\nservices:\n  web: {{ {WEB}, expose: {port} }}\nagents: {{ a: {{}} }}\n"
    ));
    ready(&house);
    house.expect(0, "down");
    let _taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let told = refused(&house);
    let holder = format!("port {port} is in use by pid {}", std::process::id());
    assert!(told.contains(&holder), "{told}");
}

#[test]
fn another_house_that_has_the_port_is_named() {
    let (first, second) = (house(), house());
    let manifest =
        "house: taken\ndefaults: { cell: process, waive: [limits] }\nagents: { a: {} }\n";
    let port = first.ports.last;
    listen(&first, port, manifest);
    first.expect(0, "up");
    listen(&second, port, manifest);
    let out = second.run("up");
    let told = String::from_utf8_lossy(&out.stderr).into_owned();
    let holder = format!("control plane of the house in {}", first.home().display());
    assert!(
        told.contains("is in use by pid") && told.contains(&holder),
        "{told}"
    );
}

#[test]
fn a_service_is_not_ready_by_the_answer_of_another_program() {
    let house = house();
    let port = house.ports.last;
    // Its program never listens, and another one answers at its port.
    house.manifest(&format!("house: h\nservices:\n  web: {{ command: [sleep, '600'], cell: process, port: {port} }}\nagents: {{ a: {{ cell: process }} }}\n"));
    house.run(args!("up --no-wait"));
    let squatter = TcpListener::bind(("127.0.0.1", port)).unwrap();
    std::thread::spawn(move || {
        for stream in squatter.incoming() {
            let mut stream: TcpStream = stream.unwrap();
            let _request = stream.read(&mut [0; 512]);
            let _gone = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        }
    });
    TcpStream::connect(("127.0.0.1", port)).unwrap();
    let doc: ServicesDoc = house.document(0, "service list");
    assert_ne!(doc.services[0].presence, Presence::Ready);
}
