//! The real binary, driven as a user drives it, each test in a home and on ports of its own.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test tells by failing, and by what it prints"
)]

mod agents;
mod approvals;
mod attach;
mod bombs;
mod cells;
mod commands;
mod container;
mod containment;
mod controlplane;
mod crashes;
mod databases;
mod delegation;
mod doctor;
mod documents;
mod doors;
mod escalations;
mod firecracker;
mod fuzz;
mod hard_days;
mod hooks;
mod hostd;
mod idle;
mod imports;
mod journey;
mod kill;
mod lives;
mod locales;
mod microvm;
mod network;
mod queue;
mod races;
mod reports;
mod schedules;
mod shared;
mod shelves;
mod stories;
mod toolservers;
mod units;
mod workflows;

use abbey_testkit::house::House;

/// Two agents that need no model.
pub(crate) const TWO: &str = "house: two\ndefaults: { cell: process }\nbudget: { tokens_per_day: 1000 }\nagents:\n  abbot: { template: orchestrator, budget: { share: 50% } }\n  sysadmin: { template: sysadmin, reports_to: abbot, budget: { share: 50% } }\n";

pub(crate) fn house() -> House {
    House::new(env!("CARGO_BIN_EXE_abbey"))
}

/// A house that is up.
pub(crate) fn up(manifest: &str) -> House {
    let house = house();
    house.manifest(manifest);
    house.expect(0, &["up"]);
    house
}

/// A manifest with the scripted model; its binary is built beside ours.
pub(crate) fn with_model(agents: &str) -> String {
    format!(
        "house: thinking\nproviders:\n  scripted: {{ kind: openai, service: model, output_tokens_max: 200, input_usd_per_mtok: 1, output_usd_per_mtok: 2 }}\nservices:\n  model: {{ cell: process, command: [abbey-scripted-model, --port, \"{{port}}\"], probe: /v1/models }}\ndefaults: {{ cell: process, model: scripted/scripted-1 }}\nbudget: {{ tokens_per_day: 100000 }}\nagents:\n{agents}"
    )
}
