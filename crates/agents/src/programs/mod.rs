//! Programs of the stock skills. Each runs as a process of its own in the cell, takes JSON on
//! standard input and answers with JSON on standard output.

mod checkpoint;
mod facts;
mod git;
mod network;
mod outcome;
mod postgres;

pub(crate) use outcome::{APPROVED, ASK, ASKS};

use serde_json::{Map, Value, json};
use std::io::Read;

/// Names of the programs.
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

/// Runs a program; the exit status of the process.
pub async fn run(name: &str) -> i32 {
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
        "checkpoint" => checkpoint::make(&text("keep")),
        "checkpoint-restore" => checkpoint::restore(&text("checkpoint"), &text("into")),
        "report" => facts::report(&text("name"), &text("question"), &text("document")).await,
        "disk-usage" => facts::disk_usage().await,
        "system-stats" => facts::system_stats().await,
        "cell-status" => facts::cell_status().await,
        "service-status" => facts::service_status(&text("service")).await,
        "log-search" => facts::log_search(&text("query")).await,
        "backup-state" => facts::backup_state().await,
        "firewall-status" => facts::firewall_status().await,
        "zfs-status" => facts::zfs_status().await,
        "service-restart" | "cell-restart" | "zfs-snapshot" => facts::operate(name).await,
        "network-check" => network::check().await,
        "backup-db" => postgres::backup(&text("keep")),
        "db-vacuum" => postgres::vacuum(),
        "db-migrate" => postgres::migrate(&text("directory")),
        "db-restore" => {
            let approved = std::env::var_os(APPROVED).is_some();
            postgres::restore(&text("backup"), approved)
        }
        "git-mirror" => git::mirror(&text("url"), &text("name")),
        "git-merge" => git::merge(&text("repository"), &text("source"), &text("target")),
        "git-release-tag" => git::release_tag(&text("repository"), &text("target"), &text("tag")),
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
