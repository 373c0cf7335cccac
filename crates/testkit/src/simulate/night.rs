//! Written simulations: a night with more work than the budget of a day allows, a provider that is down, and a control
//! plane that is killed twice; an evening with a full disk.

use super::household::Household;
use super::options::{Fault, Options, Report};
use super::provider::Behaviour;
use super::world::World;
use abbey_model::Timestamp;
use serde_json::json;
use std::collections::BTreeMap;

const MINUTE: i64 = 60_000;
/// 2026-03-02 at 23:00 in Ljubljana.
const START: Timestamp = Timestamp(1_772_488_800_000);
/// Tasks in the queue.
const TASKS: u64 = 40;

/// Simulates an evening on which the disk is full twice: once a model call has filled it, and while tasks are added.
///
/// # Errors
/// When the simulation itself cannot go on.
pub fn simulate_full_disk(seed: u64) -> Result<Report, String> {
    let mut world = World::with_household(of_night(seed, None), START, household(100))?;
    world.draining = true;
    for number in 1..=4 {
        let to = ["abbot", "ada"][usize::from(number % 2 == 0)];
        let body = json!({ "text": format!("zqa zqb zqc {number}"), "to": to });
        world.add_known_task(&format!("evening {number}"), &body);
    }
    world.fill_disk_for(10 * MINUTE, true);
    world.run_until(30 * MINUTE);
    world.fill_disk_for(10 * MINUTE, false);
    let body = json!({ "text": "zqa zqb zqc 5", "to": "ada" });
    world.add_known_task("evening 5", &body);
    world.log("kill on a full disk");
    world.kill(MINUTE);
    world.run_until(3 * 60 * MINUTE);
    world.verify_whole_log();
    require_no_open_tasks(&mut world);
    if world.full_disks() != 2 || world.disk.is_full() {
        world.violated("the disk was not full twice".to_owned());
    }
    Ok(world.report())
}

fn household(runs: u64) -> Household {
    Household {
        agents: BTreeMap::from([("ada".to_owned(), Default::default())]),
        runs: Some(runs),
        tokens: None,
        zone: "Europe/Ljubljana",
        port: 0,
        secret: String::new(),
    }
}

fn of_night(seed: u64, fault: Option<Fault>) -> Options {
    Options {
        seed,
        days: 1,
        fault,
    }
}

fn require_no_open_tasks(world: &mut World) {
    let left = world.open_tasks().len();
    if left > 0 {
        world.violated(format!("{left} tasks never ended"));
    }
}

/// Simulates a night: 40 queued tasks an hour before midnight in the time zone of a budget that allows 25 runs in a day,
/// a provider that is down for the first 20 minutes, and two kills of the control plane.
///
/// # Errors
/// When the simulation itself cannot go on.
pub fn simulate_night(seed: u64, fault: Option<Fault>) -> Result<Report, String> {
    let options = of_night(seed, fault);
    let mut world = World::with_household(options, START, household(25))?;
    world.draining = true;
    world.provider.behave(Behaviour::Failing);
    for number in 1..=TASKS {
        let to = ["abbot", "ada"][usize::from(number % 2 == 0)];
        let body = json!({ "text": format!("zqa zqb zqc {number}"), "to": to });
        world.add_known_task(&format!("night {number}"), &body);
    }
    world.run_until(10 * MINUTE);
    world.log("kill while the provider is down");
    world.kill(MINUTE);
    world.run_until(20 * MINUTE);
    world.provider.behave(Behaviour::Good);
    world.run_until(40 * MINUTE);
    // Work that waits for midnight must not begin before it.
    world.run_until(59 * MINUTE + 10_000);
    world.run_until(59 * MINUTE + 50_000);
    world.kill_next_call = true;
    world.run_until(61 * MINUTE);
    if world.kill_next_call {
        world.kill_next_call = false;
        world.log("kill after midnight");
        world.kill(MINUTE);
    }
    world.run_until(24 * 60 * MINUTE);
    world.verify_whole_log();
    require_no_open_tasks(&mut world);
    Ok(world.report())
}
