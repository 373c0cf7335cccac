//! Homes that were deleted or moved away while something of their house was there: what is left of a deleted one is cleaned up
//! and holds up nobody, and nothing starts where a moved one still runs.

use crate::network::nft;
use crate::{TWO, house, up};
use abbey_cells::hostd::{control_group_of, listening_process};
use abbey_testkit::args;
use abbey_testkit::house::{House, kill, until};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// A cell with a network of its own.
const ONE: &str =
    "house: old\ndefaults: { cell: sandbox }\nagents:\n  ann: { template: sysadmin }\n";

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Control groups of the house in every hierarchy.
fn groups(house: &House) -> Vec<PathBuf> {
    let name = control_group_of(&house.home());
    let roots = fs::read_dir("/sys/fs/cgroup").unwrap().flatten();
    let roots = roots.map(|e| e.path()).chain(["/sys/fs/cgroup".into()]);
    let dirs = roots.map(|root| root.join(&name));
    dirs.filter(|dir| dir.is_dir()).collect()
}

fn processes(number: &Value) -> Option<i32> {
    i32::try_from(number.as_i64()?).ok()
}

/// Kills every process of the house.
fn kill_all(house: &House) {
    kill(listening_process(&house.home()).unwrap());
    house.kill_control_plane();
    for cell in fs::read_dir(house.home().join("run/cells")).unwrap() {
        let record = read_json(&cell.unwrap().path().join("shim.json"));
        kill(processes(&record["shim"]["pid"]).unwrap());
        if let Some(child) = processes(&record["child"]["pid"]) {
            until("the program has ended with its shim", || {
                abbey_cells::identify(child).is_none()
            });
        }
    }
}

/// A process in the network of the test. Houses of other tests, which run meanwhile, leave what is in a network that somebody
/// is in; a thread alone is nobody.
struct Somebody(Child);

impl Drop for Somebody {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _ended_already = self.0.wait();
    }
}

/// A house whose processes are killed and whose home is deleted. Returns the file of its users too.
fn deleted() -> (House, PathBuf, Somebody) {
    let house = up(ONE);
    let somebody = Command::new("sleep").arg("600").spawn();
    let somebody = Somebody(somebody.unwrap());
    let claims = read_json(&house.home().join("hostd/claims.json"));
    let users = PathBuf::from(format!("/run/abbey/users-{}", claims["uid_first"]));
    assert!(!groups(&house).is_empty());
    kill_all(&house);
    fs::remove_dir_all(house.home()).unwrap();
    assert!(!groups(&house).is_empty() && users.exists());
    assert!(nft(&["list", "tables"]).contains(" abbey_"));
    (house, users, somebody)
}

fn assert_nothing_left(house: &House, users: &Path) {
    assert_eq!(groups(house), Vec::<PathBuf>::new());
    assert!(!users.exists());
    let tables = nft(&["list", "tables"]);
    assert!(!tables.contains(" abbey_"), "{tables}");
}

#[test]
fn a_failed_start_where_a_house_was_deleted_gives_its_reason_and_waits_for_no_cell_of_that_one() {
    if !house().runs_as_root() {
        return;
    }
    let (house, users, _somebody) = deleted();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let manifest = house.manifest(ONE);
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("127.0.0.1:0", &address)).unwrap();
    let began = Instant::now();
    let refusal = house.expect_refusal(4, "up");
    assert!(refusal.contains("in use"), "{refusal}");
    for part in ["still stopping", "agent-ann"] {
        assert!(!refusal.contains(part), "{refusal}");
    }
    assert!(began.elapsed() < Duration::from_secs(30), "{refusal}");
    assert_nothing_left(&house, &users);
    house.expect(0, "down");
    house.manifest(ONE);
    house.expect(0, "up");
    house.expect(0, "down");
    assert_eq!(groups(&house), Vec::<PathBuf>::new());
}

#[test]
fn down_and_other_houses_clean_up_after_a_house_that_was_deleted() {
    if !house().runs_as_root() {
        return;
    }
    let (house, users, _somebody) = deleted();
    let said = house.expect_refusal(0, "down");
    assert!(said.contains("no house is running"), "{said}");
    assert_nothing_left(&house, &users);

    let (deleted, users, _somebody) = deleted();
    // Of a house that was killed before it wrote its home into it.
    let empty = PathBuf::from(format!("/run/abbey/users-{}", std::process::id()));
    fs::write(&empty, "").unwrap();
    let other = up(TWO);
    assert_nothing_left(&deleted, &users);
    assert!(!empty.exists());
    other.expect(0, "down");
}

#[test]
fn processes_of_a_deleted_house_keep_what_they_use() {
    if !house().runs_as_root() {
        return;
    }
    let house = up(ONE);
    let claims = read_json(&house.home().join("hostd/claims.json"));
    let users = PathBuf::from(format!("/run/abbey/users-{}", claims["uid_first"]));
    let away = house.path("away");
    kill(listening_process(&house.home()).unwrap());
    house.kill_control_plane();
    fs::rename(house.home(), &away).unwrap();
    let other = up(TWO);
    other.expect(0, "down");
    assert!(users.exists() && !groups(&house).is_empty());
    fs::rename(&away, house.home()).unwrap();
    house.expect(0, "up");
}

#[test]
fn nothing_starts_or_stops_where_a_running_house_was_moved_away() {
    let house = up(TWO);
    let agent = house.agent("abbot").pid;
    let (home, away) = (house.home(), house.path("away"));
    let hostd = listening_process(&home).unwrap();
    fs::rename(&home, &away).unwrap();
    // It ends at the next event, since its socket is not where it was.
    kill(hostd);
    let refused = |hint: &str| {
        for command in ["up", "down"] {
            let refusal = house.expect_refusal(4, command);
            let to = format!("moved away meanwhile to `{}`", away.display());
            for part in [home.to_str().unwrap(), &to, hint] {
                assert!(refusal.contains(part), "{part} in {refusal}");
            }
        }
    };
    let back = format!(
        "mv {} {}` puts the home back",
        away.display(),
        home.display()
    );
    refused(&format!("`{back}"));
    assert!(!home.exists());
    for command in ["plan", "init new"] {
        let said = house.run(command);
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.contains("moved away meanwhile"), "{command}: {said}");
    }
    fs::create_dir(&home).unwrap();
    refused(&format!("`rmdir {} && {back}", home.display()));
    fs::write(home.join("notes"), "").unwrap();
    let aside = format!("`mv {0} {0}.other && {back}", home.display());
    refused(&aside);
    // At its new place, it says the same.
    let moved = args!("--home {} down", away.display().to_string());
    let refusal = house.expect_refusal(4, moved);
    assert!(refusal.contains(&aside), "{refusal}");
    assert_eq!(fs::read_dir(&home).unwrap().count(), 1);

    // Its cells alone go on.
    let pid = read_json(&away.join("run/serve.json"));
    kill(processes(&pid["pid"]).unwrap());
    if house.runs_as_root() {
        refused(&aside);
    }
    fs::remove_dir_all(&home).unwrap();
    fs::rename(&away, &home).unwrap();
    house.expect(0, "up");
    assert_eq!(house.agent("abbot").pid, agent);
}
