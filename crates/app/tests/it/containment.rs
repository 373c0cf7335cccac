//! The containment suite: what a program in a cell tries, and must not reach. The same probes run in a sandbox of root,
//! in one of an unprivileged user, in a microVM, in a container, and in a plain process, where many succeed: so the probes can fail.

use abbey_testkit::args;
use abbey_testkit::container::{Image, pack_python_root};
use abbey_testkit::house::{House, until};
use abbey_testkit::outside::Outside;
use serde_json::{Value, json};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

const PROBES: &str = include_str!("containment.py");
const PROCESSES: u64 = 64;

/// Outcome of one probe.
struct Outcome {
    number: u64,
    name: String,
    contained: bool,
    what: String,
}

/// Runs every probe in the cell of `alpha`, beside a neighbour `beta`.
fn probe(house: &House, cell: &str) -> Vec<Outcome> {
    let walled = cell != "process";
    let machine = cell == "microvm";
    if machine {
        house.install_default_image();
    }
    let image = (cell == "container").then(|| Image::import(&pack_python_root(&house.path(""))));
    let cell_and_image = match &image {
        Some(image) => format!("{cell}, image: {}", image.name()),
        None => cell.to_owned(),
    };
    let canary = format!("sk-canary-{}", "Z9y8".repeat(6));
    std::fs::write(house.path("canary"), &canary).unwrap();
    // Root's sandboxes and machines have file systems of their own.
    let sized = machine || (cell == "sandbox" && house.runs_as_root());
    let drives = match sized {
        true => ", drives: { state: 16MiB, workspace: 32MiB, scratch: 64MiB }",
        false => "",
    };
    let waive = match house.runs_as_root() {
        true => "",
        false => "waive: [limits], ",
    };
    house.manifest(&format!(
        "house: walls\nproviders:\n  far: {{ kind: openai, base_url: \"http://127.0.0.1:9\", key: \"file:canary\" }}\n\
         defaults: {{ cell: {cell_and_image}, {waive}limits: {{ memory: 256MiB, processes: {PROCESSES} }}{drives} }}\n\
         agents:\n  alpha: {{ template: sysadmin }}\n  beta: {{ template: sysadmin }}\n"
    ));
    house.expect(0, "up");
    let home = house.home().display().to_string();
    let announced: Value =
        serde_json::from_slice(&std::fs::read(house.home().join("run/serve.json")).unwrap())
            .unwrap();
    let address = announced["address"].as_str().unwrap();
    let abstract_name = format!("abbey-probe-{}", std::process::id());
    let _held =
        UnixListener::bind_addr(&SocketAddr::from_abstract_name(&abstract_name).unwrap()).unwrap();
    // Positive controls: what is looked for is there, seen from here.
    let neighbour = house.home().join("agents/beta/workspace");
    let mine = match walled {
        true => "/agent/workspace".to_owned(),
        false => neighbour.display().to_string(),
    };
    assert!(
        !house
            .expect(0, args!("exec beta -- ls {}", mine))
            .is_empty()
    );
    let house_files = [
        "abbey.db",
        "signing.key",
        "operator.token",
        "hostd/claims.json",
    ]
    .map(|f| house.home().join(f));
    assert!(house_files.iter().all(|f| f.exists()));
    let charter = match walled {
        true => "/agent/workspace/SOUL.md".to_owned(),
        false => format!("{home}/agents/alpha/workspace/SOUL.md"),
    };
    let facts = json!({
        "home": home, "neighbour": neighbour, "house_files": house_files, "charter": charter,
        "pids": [house.control_plane_pid()], "abstract": abstract_name, "yranac": canary.chars().rev().collect::<String>(),
        "outside_port": address.rsplit_once(':').unwrap().1.parse::<u16>().unwrap(),
        "machine": machine, "container": image.is_some(), "kernel": std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap().trim(),
        "fill": walled, "disks": if sized { vec!["/agent/home", "/agent/workspace"] } else { Vec::new() }, "limits": if waive.is_empty() { PROCESSES } else { 0 },
    });
    let said = house.expect(
        0,
        args!("exec alpha -- python3 -c {} {}", PROBES, facts.to_string()),
    );
    // After all of it the house and the neighbour still answer.
    until("the neighbour answers", || {
        house.run("exec beta -- true").status.success()
    });
    let read = |line: &str| {
        let probe: Value = serde_json::from_str(line).unwrap();
        Outcome {
            number: probe["n"].as_u64().unwrap(),
            name: probe["name"].as_str().unwrap().to_owned(),
            contained: probe["contained"] == true,
            what: probe["what"].as_str().unwrap_or_default().to_owned(),
        }
    };
    said.lines().map(read).collect()
}

fn all_contained(outcomes: &[Outcome]) {
    let out: Vec<String> = outcomes
        .iter()
        .filter(|o| !o.contained)
        .map(|o| format!("{} {}: {}", o.number, o.name, o.what))
        .collect();
    assert!(out.is_empty(), "not contained:\n{}", out.join("\n"));
    assert!(outcomes.len() >= 90, "{} probes", outcomes.len());
    assert_eq!(outcomes.last().map(|o| o.number), Some(58), "all were run");
}

/// Every target that a cell must not reach exists and answers.
fn outside() -> Outside {
    Outside::connect(&[
        "9.9.9.9",
        "169.254.169.254",
        "100.100.100.200",
        "168.63.129.16",
        "10.0.0.1",
        "192.168.0.1",
    ])
}

#[test]
fn sandbox_contains_every_escape_probe() {
    let _outside = outside();
    all_contained(&probe(&crate::house(), "sandbox"));
}

#[test]
fn unprivileged_sandbox_contains_every_escape_probe() {
    let _outside = outside();
    let house = House::run_by_user(env!("CARGO_BIN_EXE_abbey"), 65_534);
    all_contained(&probe(&house, "sandbox"));
}

#[test]
fn microvm_contains_every_escape_probe() {
    let _outside = outside();
    all_contained(&probe(&crate::house(), "microvm"));
}

/// A container has no Landlock, so its read-only root is what refuses where a sandbox has both; every other probe gets
/// the same answer.
#[test]
fn container_contains_every_escape_probe() {
    let _outside = outside();
    all_contained(&probe(&crate::house(), "container"));
}

/// The same probes in a cell that is shown as "not isolated" succeed, so they are able to detect a hole.
#[test]
fn escape_probes_succeed_in_a_plain_process() {
    let _outside = outside();
    let outcomes = probe(&crate::house(), "process");
    let out: Vec<u64> = outcomes
        .iter()
        .filter(|o| !o.contained)
        .map(|o| o.number)
        .collect();
    for number in [1, 2, 4, 11, 12, 17, 19, 21, 25, 33, 36, 38, 40, 44, 54] {
        assert!(out.contains(&number), "probe {number} cannot fail: {out:?}");
    }
}
