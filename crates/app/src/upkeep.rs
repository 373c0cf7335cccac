//! Looking after a house: budgets, doctor, services, backups.

use crate::connect::{client, segment};
use crate::exit::{self, Failure};
use crate::house::Outcome;
use crate::output::{self, dash, table};
use abbey_api::*;
use abbey_daemon::Home;
use std::path::Path;
use std::time::Duration;

pub(crate) async fn budget(home: &Home, json: bool, all: bool) -> Outcome {
    let mut doc: BudgetDoc = client(home)?.get("/api/v1/budgets").await?;
    if !all {
        doc.scopes
            .retain(|s| s.scope == "house" || s.scope.starts_with("agent:"));
    }
    if json {
        output::json(&doc);
        return Ok(exit::OK);
    }
    let row = |s: &BudgetScope| {
        let limit = s
            .limit
            .map_or_else(|| "unlimited".to_owned(), |l| l.to_string());
        vec![
            s.scope.clone(),
            s.metric.clone(),
            s.window.clone(),
            limit,
            s.spent.to_string(),
            s.reserved.to_string(),
            s.state.clone(),
            dash(s.resets_at),
        ]
    };
    table(
        &[
            "SCOPE",
            "METRIC",
            "WINDOW",
            "LIMIT",
            "SPENT",
            "RESERVED",
            "STATE",
            "RESETS AT",
        ],
        doc.scopes.iter().map(row).collect(),
    );
    Ok(exit::OK)
}

pub(crate) async fn doctor(home: &Home, json: bool, fix: bool) -> Outcome {
    let client = client(home)?;
    let doc: DoctorDoc = match fix {
        true => {
            client
                .post("/api/v1/doctor", &serde_json::json!({}), &[])
                .await?
        }
        false => client.get("/api/v1/doctor").await?,
    };
    let failed = doc.checks.iter().any(|c| c.state == "failed");
    if json {
        output::json(&doc);
    } else {
        for id in &doc.fixed {
            output::line(&format!("{:9} {id}", "mended"));
        }
        for check in &doc.checks {
            output::line(&format!("{:9} {}: {}", check.state, check.id, check.text));
            if let Some(remedy) = &check.remedy {
                output::line(&format!("{:9} remedy: {remedy}", ""));
            }
        }
    }
    Ok(if failed { exit::DEGRADED } else { exit::OK })
}

/// Boots a service anew.
pub(crate) async fn restart_service(home: &Home, json: bool, service: &str) -> Outcome {
    let path = format!("/api/v1/services/{}/restart", segment(service));
    let client = client(home)?.timeout(Duration::from_secs(60));
    let doc: serde_json::Value = client.post(&path, &serde_json::json!({}), &[]).await?;
    match json {
        true => output::json(&doc),
        false => output::line(&format!("{service} boots anew")),
    }
    Ok(exit::OK)
}

pub(crate) async fn services(home: &Home, json: bool) -> Outcome {
    let doc: ServicesDoc = client(home)?.get("/api/v1/services").await?;
    if json {
        output::json(&doc);
        return Ok(exit::OK);
    }
    let row = |s: &ServiceView| {
        let health = s
            .healthy
            .map(|h| if h { "answers" } else { "does not answer" });
        vec![
            s.name.clone(),
            s.presence.clone(),
            dash(health),
            s.cell.clone(),
            dash(s.port),
            dash(s.pid),
            s.restarts.to_string(),
            s.consumers.join(", "),
        ]
    };
    table(
        &[
            "SERVICE",
            "PRESENCE",
            "PROBE",
            "CELL",
            "PORT",
            "PID",
            "RESTARTS",
            "CONSUMERS",
        ],
        doc.services.iter().map(row).collect(),
    );
    Ok(exit::OK)
}

pub(crate) async fn backup(home: &Home, json: bool, file: &Path) -> Outcome {
    let path = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let exists = || {
        Failure::plain(format!(
            "`{}` exists already; choose another name",
            path.display()
        ))
        .with_code(exit::CONFLICT)
    };
    if path.exists() {
        return Err(exists());
    }
    // The control plane may write in its own directory only; what it made there is brought to its
    // place by whoever asked.
    let made = home
        .backups()
        .join(format!("asked-{}.tar", std::process::id()));
    let mut doc: BackupDoc = client(home)?
        .timeout(Duration::from_secs(600))
        .post(
            "/api/v1/backups",
            &BackupBody {
                path: made.display().to_string(),
            },
            &[],
        )
        .await?;
    let place = || -> std::io::Result<()> {
        use std::os::unix::fs::OpenOptionsExt;
        let mut to = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        std::io::copy(&mut std::fs::File::open(&made)?, &mut to)?;
        to.sync_all()
    };
    let placed = place();
    let _gone_already = std::fs::remove_file(&made);
    placed
        .map_err(|e| Failure::plain(format!("`{}` could not be written: {e}", path.display())))?;
    doc.path = path.display().to_string();
    if json {
        output::json(&doc);
    } else {
        output::line(&format!(
            "{} ({} bytes), state hash {}",
            doc.path, doc.bytes, doc.state_hash
        ));
    }
    Ok(exit::OK)
}

pub(crate) async fn restore(home: &Home, json: bool, file: &Path) -> Outcome {
    let (root, from) = (home.root().to_owned(), file.to_owned());
    let restored = tokio::task::spawn_blocking(move || abbey_daemon::restore(root, &from)).await;
    let hash = restored.map_err(|e| Failure::plain(e.to_string()))??;
    if json {
        output::json(&serde_json::json!({ "version": VERSION, "state_hash": hash }));
    } else {
        output::line(&format!(
            "restored into {}, state hash {hash}",
            home.root().display()
        ));
    }
    Ok(exit::OK)
}
