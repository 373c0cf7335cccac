//! Host facts that skills are granted to read. Reading changes nothing, except `backup`, which
//! writes a backup into the house's own directory.

use crate::cells::{backup, logs};
use crate::core::error::{Error, Result};
use crate::core::runtime;
use crate::insight::{cell_views, disks, reports};
use crate::work::operations;
use crate::work::state::WorkState;
use abbey_api::{BackupBody, Problem};
use abbey_model::{FaultKind, Slug};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::sync::Arc;

/// Most lines that a log search returns.
const HITS_MAX: usize = 50;
/// Most backups in the house's own directory; older ones are removed.
const BACKUPS_MAX: usize = 5;

/// Reads the host fact with this name (`disks`, `logs`, `report`, …) for an agent, as JSON. `args`
/// are the arguments of the agent's task.
///
/// # Errors
/// `NotFound` for an unknown fact.
pub(crate) async fn read_fact(
    work: &Arc<WorkState>,
    agent: &Slug,
    name: &str,
    args: &Value,
) -> Result<Value> {
    match name {
        "disks" => Ok(json!({ "disks": disks::list_disks(work.core.home.root()) })),
        "system" => Ok(system_fact()),
        "cells" => Ok(json!({ "agents": cell_views::fleet_doc(work).await?.agents })),
        "services" => Ok(json!({ "services": cell_views::services_doc(work).await?.services })),
        "logs" => Ok(search_logs(work, args["query"].as_str().unwrap_or_default()).await),
        "backup" => write_rotated_backup(work).await,
        "firewall" => operations::check_firewall(work).await,
        "zfs" => Ok(operations::list_zfs().await),
        "report" => {
            let asked = args["question"].as_str().filter(|q| !q.is_empty());
            let name = match (
                asked.and_then(reports::report_for_question),
                args["name"].as_str(),
            ) {
                (Some(found), _) => found,
                (None, Some(name)) if !name.is_empty() => name.to_owned(),
                (None, _) => "progress".to_owned(),
            };
            let language = work.core.plan.language_of(Some(agent));
            let report = reports::make_report(work, &name, language).await?;
            Ok(json!({ "text": reports::render_as_text(&report), "report": report }))
        }
        other => Err(Problem::new(
            FaultKind::NotFound,
            format!("there is no source of facts `{other}`; correct the name in the skill"),
        )
        .into()),
    }
}

fn system_fact() -> Value {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = |key: &str| {
        memory
            .lines()
            .find_map(|l| {
                l.strip_prefix(key)?
                    .trim()
                    .split(' ')
                    .next()?
                    .parse::<u64>()
                    .ok()
            })
            .unwrap_or(0)
    };
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<f64> = load
        .split(' ')
        .take(3)
        .filter_map(|n| n.parse().ok())
        .collect();
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    json!({
        "processors": std::thread::available_parallelism().map_or(1, usize::from),
        "load": load,
        "memory_total_bytes": kib("MemTotal:") * 1024,
        "memory_available_bytes": kib("MemAvailable:") * 1024,
        "uptime_s": uptime.split('.').next().and_then(|s| s.parse::<u64>().ok()).unwrap_or(0),
    })
}

async fn search_logs(work: &Arc<WorkState>, query: &str) -> Value {
    let root = work.core.home.root().join("logs");
    let query = query.to_owned();
    let hits = runtime::run_blocking(move || {
        let mut hits = Vec::new();
        for dir in fs::read_dir(root)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|e| e.path().is_dir())
        {
            let cell = dir.file_name().to_string_lossy().into_owned();
            let lines = logs::read_newest_lines(&dir.path(), 5000);
            hits.extend(
                lines
                    .into_iter()
                    .filter(|l| l.text.contains(&query))
                    .map(|l| (l.at, cell.clone(), l.text)),
            );
        }
        hits.sort_by_key(|hit: &(abbey_api::Time, String, String)| std::cmp::Reverse(hit.0));
        hits.truncate(HITS_MAX);
        hits
    });
    let hits = hits.await.unwrap_or_default();
    json!({ "hits": hits.into_iter().map(|(at, cell, text)| json!({ "at": at, "cell": cell, "text": text })).collect::<Vec<_>>() })
}

/// Whether a path is of a backup that [`write_rotated_backup`] wrote, and not of one that the operator asks for now.
fn is_rotated_backup(path: &Path) -> bool {
    let name = path
        .file_name()
        .and_then(|n| n.to_str())
        .unwrap_or_default();
    name.starts_with("state-") && name.ends_with(".tar")
}

async fn write_rotated_backup(work: &Arc<WorkState>) -> Result<Value> {
    let dir = work.core.home.backups_dir();
    let path = dir.join(format!("state-{:012}.tar", work.core.store.audit_head()));
    let mut old: Vec<_> = fs::read_dir(&dir)
        .map_err(Error::file("list", &dir))?
        .flatten()
        .map(|e| e.path())
        .filter(|p| is_rotated_backup(p))
        .collect();
    old.sort();
    let surplus = (old.len() + 1).saturating_sub(BACKUPS_MAX);
    for path in old.into_iter().take(surplus) {
        fs::remove_file(&path).map_err(Error::file("remove", path))?;
    }
    let _same_state = fs::remove_file(&path);
    let body = BackupBody {
        path: path.display().to_string(),
        with_services: false,
        passphrase: None,
    };
    let done = backup::write_backup(&work.cells, body).await?;
    serde_json::to_value(done).map_err(|e| Problem::new(FaultKind::Internal, e.to_string()).into())
}
