//! The real Firecracker on a host without KVM: it is configured, confined, started, paused and snapshotted; the guest
//! itself cannot run here (S5-07).

use abbey_cells::microvm::firecracker::{
    FirecrackerCall, FirecrackerClient, SnapshotCreate, SnapshotType, Vm, VmState,
};
use abbey_testkit::house::{House, tool, until};
use std::time::Duration;

const ONE: &str = "house: machines\ndefaults: { cell: microvm, vmm: firecracker, limits: { memory: 128MiB, io: 20MiB }, drives: { state: 16MiB, workspace: 32MiB, scratch: 64MiB } }\nagents:\n  alpha: { template: sysadmin }\n";

#[test]
fn plan_reports_a_missing_firecracker() {
    let house = crate::house();
    house.install_default_image();
    house.manifest(ONE);
    let told = house.expect_refusal(4, "up");
    assert!(
        (told.contains("`firecracker` is not installed") || told.contains("needs KVM"))
            && told.contains("use `vmm: qemu`"),
        "{told}"
    );
}

/// Process ID of the first process of the cell, from the record of its shim.
fn monitor(house: &House) -> Option<i32> {
    let record = house.home().join("run/cells/agent-alpha/shim.json");
    let record: serde_json::Value = serde_json::from_slice(&std::fs::read(record).ok()?).ok()?;
    i32::try_from(record["child"]["pid"].as_i64()?).ok()
}

/// Fields of `/proc/PID/status`: user, capabilities, seccomp mode.
fn facts(pid: i32) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let lines = text.lines().filter_map(|l| l.split_once(':'));
    lines
        .map(|(k, v)| (k.to_owned(), v.trim().to_owned()))
        .collect()
}

/// The child of the first process of the cell.
fn program(first: i32) -> Option<i32> {
    let children = std::fs::read_to_string(format!("/proc/{first}/task/{first}/children")).ok()?;
    children
        .split_whitespace()
        .find_map(|p| {
            let comm = std::fs::read_to_string(format!("/proc/{p}/comm")).ok()?;
            comm.starts_with("firecracker").then(|| p.parse().ok())
        })
        .flatten()
}

#[test]
fn firecracker_is_configured_confined_started_paused_and_snapshotted() {
    let Some(binary) = tool("firecracker", "the_real_firecracker") else {
        return;
    };
    let mut house = crate::house();
    house.variables = vec![(
        abbey_cells::crash::FIRECRACKER.to_owned(),
        binary.display().to_string(),
    )];
    house.install_default_image();
    house.manifest(ONE);
    house.expect(0, "up --no-wait");
    let dir = house.home().join("run/cells/agent-alpha/vmm");
    let client = FirecrackerClient::new(&dir.join("api"), "agent-alpha");
    // What serve told hostd, hostd the shim, and the shim Firecracker.
    until("its machine runs", || {
        client.instance_info().is_ok_and(|i| i.state == "Running")
    });
    let info = client.wait_until_ready(Duration::from_secs(1)).unwrap();
    println!("{} {}", info.app_name, info.vmm_version);
    let pid = program(monitor(&house).unwrap()).expect("it is below the first process");
    let facts = facts(pid);
    let fact = |name: &str| {
        let found = facts.iter().find(|(k, _)| k == name);
        found.map_or("", |(_, v)| v.as_str())
    };
    assert!(!fact("Uid").starts_with("0\t"), "{}", fact("Uid"));
    assert_eq!(fact("CapEff").trim_matches('0'), "");
    assert_eq!((fact("NoNewPrivs"), fact("Seccomp")), ("1", "2"));
    let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    assert!(!mounts.contains(&format!(" {} ", house.home().display())));
    // Paused, snapshotted, resumed.
    client
        .call(&FirecrackerCall::State(Vm {
            state: VmState::Paused,
        }))
        .unwrap();
    assert_eq!(client.instance_info().unwrap().state, "Paused");
    client
        .call(&FirecrackerCall::Create(SnapshotCreate {
            snapshot_type: SnapshotType::Full,
            snapshot_path: "/vm/run/devices".to_owned(),
            mem_file_path: "/vm/run/memory".to_owned(),
        }))
        .unwrap();
    assert_eq!(dir.join("memory").metadata().unwrap().len(), 128 << 20);
    client
        .call(&FirecrackerCall::State(Vm {
            state: VmState::Resumed,
        }))
        .unwrap();
    house.expect(0, "down");
    assert!(!house.home().join("run/cells").exists(), "nothing is left");
    assert!(abbey_cells::identify(pid).is_none());
}
