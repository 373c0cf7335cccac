//! End-to-end tests: the real binary, driven as a user drives it, each test with its own home and ports.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test tells by failing, and by what it prints"
)]

mod agent_commands;
mod agent_lifecycle;
mod agents;
mod api_access;
mod approvals;
mod attach;
mod audit_log;
mod backend_conformance;
mod backup_completeness;
mod backups;
mod budgets_and_outages;
mod checkpoint_sinks;
mod command_line;
mod compatibility_api;
mod completions;
mod concurrency;
mod confinement;
mod containers;
mod containment;
mod convergence;
mod crash_points;
mod data_owners;
mod databases;
mod delegation;
mod deleted_and_moved_homes;
mod doctor;
mod documentation;
mod emulated_hosts;
mod error_messages;
mod escalations;
mod exec;
mod failure_modes;
mod firecracker;
mod foreign_firewalls;
mod full_disk;
mod git_and_file_services;
mod hooks;
mod host_restart;
mod hostd;
mod hostd_fuzz;
mod hostd_outages;
mod house_lifecycle;
mod idle_house;
mod imports;
mod interrupted_commands;
mod json_documents;
mod kill_recovery;
mod locales;
mod long_run_under_kills;
mod lost_data;
mod microvms;
mod monitoring;
mod named_paths;
mod named_ports;
mod native_agent;
mod neighbours;
mod network;
mod night;
mod orchestration;
mod plan_changes;
mod presence;
mod provider_answers;
mod refused_starts;
mod renaming;
mod reports;
mod resource_exhaustion;
mod restored_houses;
mod routing;
mod run_command;
mod saved_templates;
mod schedules;
mod secrets;
mod service_manager_units;
mod shared_documents;
mod skills;
mod terminal_output;
mod tokens;
mod tool_servers;
mod upgrade;
mod waiting;
mod work_queue;
mod work_queue_documents;
mod workflows;

use abbey_testkit::house::House;

/// Manifest with two agents that need no model.
pub(crate) const TWO: &str = "house: two\ndefaults: { cell: process }\nbudget: { tokens_per_day: 1000 }\nagents:\n  abbot: { template: orchestrator, budget: { share: 50% } }\n  sysadmin: { template: sysadmin, reports_to: abbot, budget: { share: 50% } }\n";

pub(crate) fn house() -> House {
    House::new(env!("CARGO_BIN_EXE_abbey"))
}

/// A running house.
pub(crate) fn up(manifest: &str) -> House {
    let house = house();
    house.manifest(manifest);
    house.expect(0, "up");
    house
}

/// Manifest with the scripted model, whose binary is built beside `abbey`.
pub(crate) fn with_model(agents: &str) -> String {
    format!(
        "house: thinking\nproviders:\n  scripted: {{ kind: openai, service: model, output_tokens_max: 200, input_usd_per_mtok: 1, output_usd_per_mtok: 2 }}\nservices:\n  model: {{ cell: process, command: [abbey-scripted-model, --port, \"{{port}}\"], probe: /v1/models }}\ndefaults: {{ cell: process, model: scripted/scripted-1 }}\nbudget: {{ tokens_per_day: 100000 }}\nagents:\n{agents}"
    )
}
