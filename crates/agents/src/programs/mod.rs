//! Programs of the built-in skills. Each runs as a process of its own in the cell, with JSON
//! arguments on standard input and a JSON result on standard output.

mod checkpoint;
mod facts;
mod git;
mod network;
mod outcome;
mod postgres;

pub(crate) use outcome::{APPROVED, ASK, ASKS};

use serde_json::{Map, Value, json};
use std::io::Read;

/// Names of all programs.
pub const NAMES: [&str; 22] = [
    "checkpoint",
    "checkpoint-restore",
    "report",
    "disk-usage",
    "system-stats",
    "cell-status",
    "service-status",
    "git-merge",
    "git-release-tag",
    "log-search",
    "backup-state",
    "backup-db",
    "db-vacuum",
    "db-migrate",
    "db-restore",
    "service-restart",
    "cell-restart",
    "network-check",
    "firewall-status",
    "zfs-status",
    "zfs-snapshot",
    "git-mirror",
];

/// Runs the program with this name: reads JSON arguments from standard input, prints the JSON
/// result, and returns the exit status (0 done, 1 failed, 75 approval needed).
pub async fn run_program(name: &str) -> i32 {
    let mut input = String::new();
    let args: Map<String, Value> = match std::io::stdin()
        .lock()
        .take(1 << 20)
        .read_to_string(&mut input)
    {
        Ok(_) => serde_json::from_str(&input).unwrap_or_default(),
        Err(_) => Map::new(),
    };
    let text = |key: &str| {
        args.get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let outcome = match name {
        "checkpoint" => checkpoint::create_checkpoint(&text("keep")),
        "checkpoint-restore" => checkpoint::restore_checkpoint(&text("checkpoint"), &text("into")),
        "report" => facts::make_report(&text("name"), &text("question"), &text("document")).await,
        "disk-usage" => facts::report_disk_usage().await,
        "system-stats" => facts::report_system_stats().await,
        "cell-status" => facts::report_cell_status().await,
        "service-status" => facts::report_service_status(&text("service")).await,
        "log-search" => facts::search_logs(&text("query")).await,
        "backup-state" => facts::back_up_state().await,
        "firewall-status" => facts::report_firewall_status().await,
        "zfs-status" => facts::report_zfs_status().await,
        "service-restart" | "cell-restart" | "zfs-snapshot" => facts::run_operation(name).await,
        "network-check" => network::check_network().await,
        "backup-db" => postgres::back_up_database(&text("keep")),
        "db-vacuum" => postgres::vacuum_database(),
        "db-migrate" => postgres::apply_migrations(&text("directory")),
        "db-restore" => {
            let approved = std::env::var_os(APPROVED).is_some();
            postgres::restore_database(&text("backup"), approved)
        }
        "git-mirror" => git::update_mirror(&text("url"), &text("name")),
        "git-merge" => {
            let (source, pull_request) = (text("source"), text("pull_request"));
            git::merge_branch(&text("repository"), &source, &pull_request, &text("target"))
        }
        "git-release-tag" => {
            git::create_release_tag(&text("repository"), &text("target"), &text("tag"))
        }
        other => Err(format!("there is no program `{other}`")),
    };
    let (code, answer) = match outcome {
        Ok((text, data)) if !data[ASK].is_null() => (ASKS, json!({ "text": text, ASK: data[ASK] })),
        Ok((text, data)) => (0, json!({ "text": text, "data": data })),
        Err(text) => (1, json!({ "text": text })),
    };
    use std::io::Write;
    let _reader_gone = writeln!(std::io::stdout().lock(), "{answer}");
    code
}
