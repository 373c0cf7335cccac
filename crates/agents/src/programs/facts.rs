//! Programs that read a host fact by the agent API and print it as text.

use super::outcome::Outcome;
use crate::agent_api::{client_from_environment, retry_through_restart};
use abbey_api::DocumentBody;
use abbey_api::headers::IdempotencyKey;
use abbey_model::Bytes;
use serde_json::{Value, json};
use std::fmt::Write;

/// Reads a host fact from the agent API.
async fn read_fact(name: &str, body: Value) -> Result<Value, String> {
    let client = client_from_environment().map_err(|e| e.to_string())?;
    retry_through_restart(|| client.me().fact(name, &body))
        .await
        .map_err(|e| format!("cannot read the fact `{name}` from the control plane: {e}"))
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or(0)
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

/// Program `report`: makes the report with this name, or the one that answers the question; appends
/// it to a shared log if one is named.
pub(super) async fn make_report(name: &str, question: &str, document: &str) -> Outcome {
    let asked = json!({ "name": name, "question": question });
    let data = read_fact("report", asked).await?;
    let text = data["text"].as_str().unwrap_or_default().trim_end();
    if !document.is_empty() {
        let client = client_from_environment().map_err(|e| e.to_string())?;
        let body = DocumentBody {
            text: text.to_owned(),
            seen: None,
        };
        // A run that is done again after a loss adds what it made once more only if it is another report.
        let key = IdempotencyKey(format!(
            "report {}",
            abbey_support::digest::sha256_hex(text.as_bytes())
        ));
        let add = || {
            let key = Some(key.clone());
            client.me().write_document(document, &body, key)
        };
        retry_through_restart(add)
            .await
            .map_err(|e| format!("the report was not added to `{document}`: {e}"))?;
    }
    Ok((text.to_owned(), data))
}

/// Program `disk-usage`: free and total space of the host's file systems.
pub(super) async fn report_disk_usage() -> Outcome {
    let data = read_fact("disks", json!({})).await?;
    let disks = list(&data, "disks");
    if disks.is_empty() {
        return Err("the house sees no disk".to_owned());
    }
    let mut text = String::new();
    for disk in disks {
        let (total, free) = (number(disk, "total_bytes"), number(disk, "available_bytes"));
        // As df does: of what ordinary users can have, rounded up.
        let in_use = number(disk, "used_bytes");
        let used = in_use
            .saturating_mul(100)
            .div_ceil(in_use.saturating_add(free).max(1));
        let mount = disk["mount"].as_str().unwrap_or("?");
        let _infallible = writeln!(
            text,
            "{mount}: {} free of {} ({used}% used)",
            Bytes(free).human(),
            Bytes(total).human()
        );
    }
    Ok((text.trim_end().to_owned(), data))
}

/// Program `system-stats`: processors, load, memory and uptime of the host.
pub(super) async fn report_system_stats() -> Outcome {
    let data = read_fact("system", json!({})).await?;
    let load = list(&data, "load")
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ");
    let text = format!(
        "{} processors, load {load}; {} of {} memory available; up {} s",
        number(&data, "processors"),
        Bytes(number(&data, "memory_available_bytes")).human(),
        Bytes(number(&data, "memory_total_bytes")).human(),
        number(&data, "uptime_s"),
    );
    Ok((text, data))
}

/// Program `cell-status`: presence and restarts of each agent.
pub(super) async fn report_cell_status() -> Outcome {
    let data = read_fact("cells", json!({})).await?;
    let line = |agent: &Value| {
        format!(
            "{}: {}, boot {}, {} restarts",
            agent["name"].as_str().unwrap_or("?"),
            agent["presence"].as_str().unwrap_or("?"),
            number(agent, "generation"),
            number(agent, "restarts")
        )
    };
    Ok((
        list(&data, "agents")
            .iter()
            .map(line)
            .collect::<Vec<_>>()
            .join("\n"),
        data,
    ))
}

/// Program `service-status`: presence and health of every service, or of `only`.
pub(super) async fn report_service_status(only: &str) -> Outcome {
    let data = read_fact("services", json!({})).await?;
    let wanted = |s: &&Value| only.is_empty() || s["name"] == only;
    let line = |service: &Value| {
        let health = match service["healthy"].as_bool() {
            Some(true) => "probe answers",
            Some(false) => "probe does not answer",
            None => "no probe",
        };
        format!(
            "{}: {}, {health}",
            service["name"].as_str().unwrap_or("?"),
            service["presence"].as_str().unwrap_or("?")
        )
    };
    let lines: Vec<String> = list(&data, "services")
        .iter()
        .filter(wanted)
        .map(line)
        .collect();
    match (lines.is_empty(), only.is_empty()) {
        (true, true) => Ok(("this house has no service".to_owned(), data)),
        (true, false) => Err(format!("this house has no service `{only}`")),
        _ => Ok((lines.join("\n"), data)),
    }
}

/// Program `log-search`: newest log lines of any cell that contain the query.
pub(super) async fn search_logs(query: &str) -> Outcome {
    let data = read_fact("logs", json!({ "query": query })).await?;
    let line = |hit: &Value| {
        format!(
            "{} {}: {}",
            hit["at"].as_str().unwrap_or("?"),
            hit["cell"].as_str().unwrap_or("?"),
            hit["text"].as_str().unwrap_or("")
        )
    };
    let lines: Vec<String> = list(&data, "hits").iter().map(line).collect();
    let text = if lines.is_empty() {
        format!("no line of the logs contains `{query}`")
    } else {
        lines.join("\n")
    };
    Ok((text, data))
}

/// Program `backup-state`: has the control plane write a backup of the house.
pub(super) async fn back_up_state() -> Outcome {
    let data = read_fact("backup", json!({})).await?;
    let text = format!(
        "backup {} ({} bytes), state hash {}",
        data["path"].as_str().unwrap_or("?"),
        number(&data, "bytes"),
        data["state_hash"].as_str().unwrap_or("?")
    );
    Ok((text, data))
}

/// Program of an operation such as `service-restart`: has the control plane perform it, or requests
/// the approval that it needs first.
pub(super) async fn run_operation(name: &str) -> Outcome {
    let client = client_from_environment().map_err(|e| e.to_string())?;
    let done = retry_through_restart(|| client.me().operate(name)).await;
    let done = done.map_err(|e| format!("the control plane did not perform the operation: {e}"))?;
    let text = done["text"].as_str().unwrap_or_default().to_owned();
    Ok((text, done))
}

/// Program `firewall-status`: whether the firewall is as planned, and the cells behind it.
pub(super) async fn report_firewall_status() -> Outcome {
    let data = read_fact("firewall", json!({})).await?;
    let cells = list(&data, "cells");
    let mut text = match data["stood"].as_bool() {
        Some(true) => "the firewall rules match the plan".to_owned(),
        _ => "the firewall rules differed from the plan and were restored".to_owned(),
    };
    let _to_a_string = write!(text, "; {} cells are behind it", cells.len());
    for cell in cells {
        let word = |key: &str| cell[key].as_str().unwrap_or_default().to_owned();
        let _to_a_string = write!(
            text,
            "\n{}: {}, egress {}",
            word("cell"),
            word("subnet"),
            word("egress")
        );
    }
    Ok((text, data))
}

/// Program `zfs-status`: ZFS pools and data sets of the host.
pub(super) async fn report_zfs_status() -> Outcome {
    let data = read_fact("zfs", json!({})).await?;
    if data["present"].as_bool() != Some(true) {
        return Ok(("this host has no ZFS".to_owned(), data));
    }
    let mut text = String::new();
    for pool in list(&data, "pools") {
        let word = |key: &str| pool[key].as_str().unwrap_or_default().to_owned();
        let _to_a_string = writeln!(
            text,
            "pool {}: {}, {} of {} bytes free",
            word("name"),
            word("health"),
            word("free"),
            word("size")
        );
    }
    let sets = list(&data, "sets").len();
    let _to_a_string = write!(text, "{sets} data sets");
    Ok((text, data))
}
