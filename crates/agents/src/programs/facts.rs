//! Programs that read a host fact through the agent API and print it as a sentence.

use super::outcome::Outcome;
use crate::agent_api::{client_from_environment, retry_through_restart};
use abbey_api::DocumentBody;
use abbey_api::headers::IdempotencyKey;
use serde_json::{Value, json};
use std::fmt::Write;

async fn fact(name: &str, body: Value) -> Result<Value, String> {
    let client = client_from_environment().map_err(|e| e.to_string())?;
    retry_through_restart(|| client.me().fact(name, &body))
        .await
        .map_err(|e| format!("the house did not give the fact `{name}`: {e}"))
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or(0)
}

fn gib(bytes: u64) -> String {
    let tenths = u128::from(bytes) * 10 / (1 << 30);
    format!("{}.{} GiB", tenths / 10, tenths % 10)
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

/// A report in words; added to a shared log, if one is named.
pub(super) async fn report(name: &str, question: &str, document: &str) -> Outcome {
    let asked = json!({ "name": name, "question": question });
    let data = fact("report", asked).await?;
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

pub(super) async fn disk_usage() -> Outcome {
    let data = fact("disks", json!({})).await?;
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
            gib(free),
            gib(total)
        );
    }
    Ok((text.trim_end().to_owned(), data))
}

pub(super) async fn system_stats() -> Outcome {
    let data = fact("system", json!({})).await?;
    let load = list(&data, "load")
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ");
    let text = format!(
        "{} processors, load {load}; {} of {} memory available; up {} s",
        number(&data, "processors"),
        gib(number(&data, "memory_available_bytes")),
        gib(number(&data, "memory_total_bytes")),
        number(&data, "uptime_s"),
    );
    Ok((text, data))
}

pub(super) async fn cell_status() -> Outcome {
    let data = fact("cells", json!({})).await?;
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

pub(super) async fn service_status(only: &str) -> Outcome {
    let data = fact("services", json!({})).await?;
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

pub(super) async fn log_search(query: &str) -> Outcome {
    let data = fact("logs", json!({ "query": query })).await?;
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
        format!("nothing in the logs holds `{query}`")
    } else {
        lines.join("\n")
    };
    Ok((text, data))
}

pub(super) async fn backup_state() -> Outcome {
    let data = fact("backup", json!({})).await?;
    let text = format!(
        "backup {} ({} bytes), state hash {}",
        data["path"].as_str().unwrap_or("?"),
        number(&data, "bytes"),
        data["state_hash"].as_str().unwrap_or("?")
    );
    Ok((text, data))
}

/// Has the house do something; what it answers may be a question to a person first.
pub(super) async fn operate(name: &str) -> Outcome {
    let client = client_from_environment().map_err(|e| e.to_string())?;
    let done = retry_through_restart(|| client.me().operate(name)).await;
    let done = done.map_err(|e| format!("the house did not do it: {e}"))?;
    let text = done["text"].as_str().unwrap_or_default().to_owned();
    Ok((text, done))
}

pub(super) async fn firewall_status() -> Outcome {
    let data = fact("firewall", json!({})).await?;
    let cells = list(&data, "cells");
    let mut text = match data["stood"].as_bool() {
        Some(true) => "the firewall stands as the plan says".to_owned(),
        _ => "the firewall was not as the plan says, and stands again".to_owned(),
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

pub(super) async fn zfs_status() -> Outcome {
    let data = fact("zfs", json!({})).await?;
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
