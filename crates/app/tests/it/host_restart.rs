//! A host that restarts, as far as it can be simulated beside others: every process of the house ends at once, and the
//! next commands see another boot. `emulated_hosts.rs` cuts the power of a real one.

use crate::{TWO, house};
use abbey_testkit::house::{House, until};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Lets the house's commands see this boot of the host.
fn set_boot(house: &mut House, boot: &str) {
    house.hosts = Some("127.0.0.1 localhost\n".to_owned());
    house.replaced = vec![(PathBuf::from(BOOT_ID), format!("{boot}\n"))];
}

/// Processes that have the house's home on their command line, and those of its cells: each shim with all below it.
fn processes_of(house: &House) -> Vec<i32> {
    let home = house.home().display().to_string();
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|e| e.file_name().to_string_lossy().parse::<i32>().ok());
    let mut found: Vec<i32> = pids
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&home)
        })
        .collect();
    let cells = std::fs::read_dir(house.home().join("run/cells")).unwrap();
    for cell in cells.flatten() {
        let record = std::fs::read(cell.path().join("shim.json")).unwrap_or_default();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap_or_default();
        let shim = record["shim"]["pid"].as_i64();
        add_tree(i32::try_from(shim.unwrap()).unwrap(), &mut found);
    }
    found
}

/// Adds a process and all below it, unless it has ended.
fn add_tree(pid: i32, found: &mut Vec<i32>) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(") ").next().and_then(|s| s.chars().next());
    if state.is_none_or(|state| "ZX".contains(state)) {
        return;
    }
    found.push(pid);
    let below = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    for child in below.unwrap_or_default().split_whitespace() {
        add_tree(child.parse().unwrap(), found);
    }
}

/// Kills every process of the house, as the end of the host does: none of them sees another one end.
fn kill_everything(house: &House) {
    let signal_all = |signal| {
        let all = processes_of(house);
        for pid in &all {
            let pid = rustix::process::Pid::from_raw(*pid).unwrap();
            let _gone_already = rustix::process::kill_process(pid, signal);
        }
        all
    };
    until("every process of the house is suspended", || {
        signal_all(rustix::process::Signal::STOP) == processes_of(house)
    });
    until("no process of the house is left", || {
        signal_all(rustix::process::Signal::KILL).is_empty()
    });
}

/// Every file of the house that names a process, below a directory.
fn records(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_json = path.extension().is_some_and(|e| e == "json");
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            records(&path, found);
        } else if is_json
            && std::fs::read_to_string(&path).is_ok_and(|t| t.contains("\"start_ticks\""))
        {
            found.push(path);
        }
    }
}

/// Writes another process's number and start into a record of a process; its boot stays the old one.
fn rename_process(value: &mut serde_json::Value, pid: i32, ticks: u64) {
    match value {
        serde_json::Value::Object(map) => {
            if map.contains_key("start_ticks") {
                map.insert("pid".to_owned(), pid.into());
                map.insert("start_ticks".to_owned(), ticks.into());
            }
            map.values_mut().for_each(|v| rename_process(v, pid, ticks));
        }
        serde_json::Value::Array(all) => all.iter_mut().for_each(|v| rename_process(v, pid, ticks)),
        _ => {}
    }
}

struct Decoy(Child);
impl Drop for Decoy {
    fn drop(&mut self) {
        let _ended_itself = self.0.kill();
        let _status = self.0.wait();
    }
}

#[test]
fn a_house_comes_back_after_its_host_restarted_and_spares_other_processes() {
    let mut house = house();
    set_boot(&mut house, "6d0aa4a1-0000-4000-8000-000000000001");
    house.manifest(TWO);
    house.expect(0, "up");
    for _ in 1..=4 {
        house.expect(0, "task add 'show system stats' --to sysadmin");
    }
    kill_everything(&house);
    // What the house knows as its processes has the number and the start of another one, of another boot.
    let mut decoy = Decoy(Command::new("sleep").arg("3600").spawn().unwrap());
    let pid = i32::try_from(decoy.0.id()).unwrap();
    let ticks = abbey_cells::identify(pid).unwrap().start_ticks;
    let mut found = Vec::new();
    records(&house.home(), &mut found);
    assert!(!found.is_empty(), "no record names a process");
    for path in &found {
        let mut value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        rename_process(&mut value, pid, ticks);
        std::fs::write(path, value.to_string()).unwrap();
    }
    set_boot(&mut house, "6d0aa4a1-0000-4000-8000-000000000002");
    house.expect(0, "up");
    for n in 1..=4 {
        until("no task is lost", || {
            house.json(0, &["task", "show", &n.to_string()])["task"]["state"] == "done"
        });
    }
    let status = decoy.0.try_wait().unwrap();
    assert_eq!(status, None, "a foreign process was ended");
    let starts: Vec<String> = house
        .expect(0, "activity --json --last 1000")
        .lines()
        .filter(|l| l.contains("\"house.start\""))
        .map(str::to_owned)
        .collect();
    assert_eq!(starts.len(), 2, "{starts:?}");
    assert!(starts[0].contains("000000000001") && starts[1].contains("000000000002"));
    // The host ended the cells; none of them failed.
    let exits = house.audit_entries("cell.exit");
    assert_eq!(exits.len(), 2, "{exits:?}");
    for exit in &exits {
        assert_eq!(exit["detail"]["exit"], "the host was restarted", "{exit}");
        assert_eq!(exit["detail"]["failures"], 0, "{exit}");
    }
}
