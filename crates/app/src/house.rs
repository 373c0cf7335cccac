//! The house as a whole: init, plan, up, ps, down.

use crate::cli::{InitArgs, PlanArgs, UpArgs};
use crate::connect::{client, is_up};
use crate::examples;
use crate::exit::{self, Failure};
use crate::output::{self, Progress, dash, say, table};
use abbey_api::client::Client;
use abbey_api::*;
use abbey_daemon::{Home, manifest};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) type Outcome = Result<u8, Failure>;

/// Longest wait for agents to come up.
const UP_WITHIN: Duration = Duration::from_secs(90);
/// Longest wait for another control plane to answer or to let go.
const START_WITHIN: Duration = Duration::from_secs(20);
/// Longest wait for everything to be gone.
pub(crate) const DOWN_WITHIN: Duration = Duration::from_secs(60);
const STARTER: &str = include_str!("starter.yaml");

pub(crate) fn init(args: &InitArgs) -> Outcome {
    let text = match &args.example {
        None => STARTER,
        Some(name) => {
            let known = || examples::ALL.map(|(n, _)| n).join(", ");
            let found = examples::ALL.iter().find(|(n, _)| n == name);
            found
                .ok_or_else(|| {
                    Failure::plain(format!("there is no example `{name}`"))
                        .hint(format!("there are: {}", known()))
                        .with_code(exit::NOT_FOUND)
                })?
                .1
        }
    };
    let path = args.dir.join("abbey.yaml");
    let write = || -> std::io::Result<()> {
        use std::io::Write;
        std::fs::create_dir_all(&args.dir)?;
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)?;
        file.write_all(text.as_bytes())
    };
    write().map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => Failure::plain(format!(
            "`{}` is already there and is left as it is",
            path.display()
        ))
        .with_code(exit::CONFLICT),
        _ => Failure::plain(format!("`{}` cannot be written: {e}", path.display())),
    })?;
    say(&format!(
        "wrote {}; next: abbey up -f {}",
        path.display(),
        path.display()
    ));
    Ok(exit::OK)
}

/// The manifest with everything that it names by path.
pub(crate) fn read_manifest(file: &Path) -> Result<ManifestBody, Failure> {
    let text = std::fs::read_to_string(file).map_err(|e| {
        Failure::plain(format!(
            "the manifest `{}` cannot be read: {e}",
            file.display()
        ))
        .hint("`abbey init` writes one to start from; `-f` names another")
        .with_code(exit::USAGE)
    })?;
    body_of(file, text)
}

/// The text of a manifest with the charters that it names, which are looked for beside the file.
pub(crate) fn body_of(file: &Path, text: String) -> Result<ManifestBody, Failure> {
    let path = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let base = path
        .parent()
        .map_or_else(|| PathBuf::from("/"), Path::to_owned);
    let mut charters = BTreeMap::new();
    if let Ok(house) = manifest::parse(&text) {
        for agent in house.agents.values() {
            if let manifest::Charter::File(name) = &agent.charter {
                let text = std::fs::read_to_string(base.join(name)).map_err(|e| {
                    Failure::plain(format!(
                        "{}:{}: the charter `{name}` of agent `{}` cannot be read: {e}",
                        file.display(),
                        agent.line,
                        agent.slug
                    ))
                    .with_code(exit::USAGE)
                })?;
                charters.insert(name.clone(), text);
            }
        }
    }
    Ok(ManifestBody {
        manifest: text,
        base_dir: base.display().to_string(),
        charters,
        reason: None,
    })
}

pub(crate) async fn plan(home: &Home, json: bool, args: &PlanArgs) -> Outcome {
    if args.schema {
        output::json(&manifest::json_schema());
        return Ok(exit::OK);
    }
    let body = read_manifest(&args.file)?;
    let doc: PlanDoc = if is_up(home).await {
        client(home)?.post("/api/v1/plans", &body, &[]).await?
    } else {
        abbey_daemon::plan_offline(home.root().to_owned(), body).await?
    };
    let fatal = doc.notes.iter().any(|n| n.severity == "fatal");
    if json {
        output::json(&doc);
    } else {
        print_plan(&doc);
    }
    Ok(if fatal { exit::CONFLICT } else { exit::OK })
}

pub(crate) fn print_plan(doc: &PlanDoc) {
    if doc.steps.is_empty() {
        output::line(&format!("generation {}: nothing to change", doc.generation));
    } else {
        output::line(&format!("generation {}", doc.generation));
        let row = |s: &PlanStep| {
            vec![
                s.id.to_string(),
                s.action.clone(),
                s.resource.clone(),
                s.agent.clone(),
                s.detail.clone(),
            ]
        };
        table(
            &["STEP", "ACTION", "RESOURCE", "WHOSE", "DETAIL"],
            doc.steps.iter().map(row).collect(),
        );
    }
    for note in &doc.notes {
        output::line(&format!(
            "{}: {}: {}",
            note.severity, note.subject, note.text
        ));
    }
}

/// Starts a control plane in the background unless one runs. Of two that start at once, one gets
/// the lock; the other waits until it answers, or takes its place if it goes away.
async fn ensure_up(home: &Home) -> Result<bool, Failure> {
    let until = Instant::now() + START_WITHIN;
    loop {
        if is_up(home).await {
            mend(home)?;
            return Ok(false);
        }
        match start_serve(home)? {
            Started::Up => return Ok(true),
            Started::Locked(_) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Started::Locked(failure) => return Err(failure),
        }
    }
}

/// Mends what only the owner of the home can: its permissions, and a lost hostd. For others there
/// is nothing to do.
fn mend(home: &Home) -> Result<(), Failure> {
    use std::os::unix::fs::MetadataExt;
    let owner = std::fs::metadata(home.root()).map_or(u32::MAX, |m| m.uid());
    if owner == rustix::process::geteuid().as_raw() {
        let binary = std::env::current_exe().unwrap_or_default();
        abbey_daemon::mend(home.root().to_owned(), &binary)?;
    }
    Ok(())
}

enum Started {
    Up,
    /// Another one holds the home.
    Locked(Failure),
}

fn start_serve(home: &Home) -> Result<Started, Failure> {
    let log = home.serve_log();
    let prepared = || -> std::io::Result<std::fs::File> {
        use std::os::unix::fs::OpenOptionsExt;
        std::fs::create_dir_all(log.parent().unwrap_or(Path::new("/")))?;
        std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&log)
    };
    let log_file = prepared().map_err(|e| {
        Failure::plain(format!(
            "the home `{}` is not writable: {e}",
            home.root().display()
        ))
        .hint("choose another with `--home` or ABBEY_HOME, or mend its permissions")
    })?;
    let mut child = Command::new("/proc/self/exe")
        .args(["role", "serve", "--home"])
        .arg(home.root())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log_file)
        .spawn()
        .map_err(|e| Failure::plain(format!("the control plane could not be started: {e}")))?;
    let mut line = String::new();
    if let Some(pipe) = child.stdout.take() {
        let _ended_early = BufReader::new(pipe).read_line(&mut line);
    }
    let told: Value = serde_json::from_str(&line).unwrap_or_default();
    if told["pid"].is_u64() {
        return Ok(Started::Up);
    }
    let text = told["error"].as_str().map_or_else(
        || {
            format!(
                "the control plane ended before it was up; its log is `{}`",
                log.display()
            )
        },
        str::to_owned,
    );
    let code = told["code"]
        .as_u64()
        .and_then(|c| u8::try_from(c).ok())
        .unwrap_or(exit::FAILURE);
    let failure = Failure::plain(text).with_code(code);
    if told["locked"] == true {
        Ok(Started::Locked(failure))
    } else {
        Err(failure)
    }
}

pub(crate) async fn up(home: &Home, json: bool, args: &UpArgs) -> Outcome {
    let body = read_manifest(&args.file)?;
    // A wrong manifest must not leave a control plane behind.
    abbey_daemon::check_manifest(&body.manifest)?;
    let mut progress = Progress::new();
    progress.show("starting the control plane");
    let started = ensure_up(home).await?;
    let client = client(home)?;
    progress.show("applying the manifest");
    let applied: Result<PlanDoc, _> = client.post("/api/v1/generations", &body, &[]).await;
    let doc = match applied {
        Ok(doc) => doc,
        Err(error) => {
            progress.end();
            let empty: HouseDoc = client.get("/api/v1/house").await?;
            if started && empty.house.is_none() {
                // We started it for nothing; leave the host as it was.
                take_down(home, &client).await?;
            }
            return Err(error.into());
        }
    };
    let until = Instant::now()
        + if args.no_wait {
            Duration::ZERO
        } else {
            UP_WITHIN
        };
    let fleet = loop {
        let fleet: FleetDoc = client.get("/api/v1/agents").await?;
        let moving: Vec<&str> = fleet
            .agents
            .iter()
            .filter(|a| !matches!(a.presence.as_str(), "ready" | "degraded") && wanted(a))
            .map(|a| a.name.as_str())
            .collect();
        if moving.is_empty() || Instant::now() >= until {
            break fleet;
        }
        progress.show(&format!("waiting for {}", moving.join(", ")));
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    progress.end();
    let house: HouseDoc = client.get("/api/v1/house").await?;
    if json {
        output::json(&fleet);
    } else {
        let steps = doc
            .steps
            .iter()
            .filter(|s| s.action != "not_applicable")
            .count();
        let change = if doc.applied {
            format!("{steps} steps")
        } else {
            "nothing to change".to_owned()
        };
        say(&format!(
            "house {} is up, generation {} ({change}), outside door {}",
            fleet.house, doc.generation, house.address
        ));
        print_fleet(&fleet);
    }
    let late = !args.no_wait
        && fleet
            .agents
            .iter()
            .any(|a| a.presence != "ready" && wanted(a));
    Ok(if late { exit::DEGRADED } else { exit::OK })
}

/// An agent that was stopped or is held on purpose is not waited for.
fn wanted(agent: &AgentView) -> bool {
    !matches!(agent.presence.as_str(), "paused" | "stopped")
        && (agent.presence != "down" || agent.generation == 0)
}

pub(crate) fn print_fleet(fleet: &FleetDoc) {
    let row = |a: &AgentView| {
        let budget = a.budget.limit.map_or_else(
            || format!("{} of unlimited", a.budget.spent),
            |limit| format!("{} of {limit}", a.budget.spent),
        );
        vec![
            a.name.clone(),
            a.role.clone(),
            a.presence.clone(),
            if a.isolated {
                a.cell.clone()
            } else {
                format!("{} (not isolated)", a.cell)
            },
            a.generation.to_string(),
            dash(a.pid),
            dash(a.address.clone()),
            dash(a.memory_bytes.map(|m| format!("{} KiB", m >> 10))),
            budget,
            dash(a.task.clone()),
        ]
    };
    table(
        &[
            "AGENT",
            "ROLE",
            "PRESENCE",
            "CELL",
            "BOOT",
            "PID",
            "ADDRESS",
            "MEMORY",
            "TOKENS TODAY",
            "TASK",
        ],
        fleet.agents.iter().map(row).collect(),
    );
}

pub(crate) async fn ps(home: &Home, json: bool) -> Outcome {
    let fleet: FleetDoc = client(home)?.get("/api/v1/agents").await?;
    if json {
        output::json(&fleet)
    } else {
        print_fleet(&fleet)
    }
    Ok(exit::OK)
}

/// Asks the house to go down and waits until nothing of it is left.
async fn take_down(home: &Home, client: &Client) -> Result<(), Failure> {
    let house: HouseDoc = client.get("/api/v1/house").await?;
    let _going: Value = client
        .post("/api/v1/down", &serde_json::json!({}), &[])
        .await?;
    let mut progress = Progress::new();
    let until = Instant::now() + DOWN_WITHIN;
    let pid = i32::try_from(house.pid).unwrap_or(0);
    // An ended process that nobody has collected yet is gone for our purposes.
    let running = || abbey_cells::identify(pid).is_some();
    while (is_up(home).await || running()) && Instant::now() < until {
        progress.show("stopping agents and services");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    progress.end();
    if is_up(home).await {
        return Err(Failure::plain("the house is still stopping")
            .hint("`abbey ps` shows what is left")
            .with_code(exit::TIMEOUT));
    }
    Ok(())
}

pub(crate) async fn down(home: &Home, json: bool) -> Outcome {
    if !is_up(home).await && !home.database().exists() {
        say(&format!("no house is up in `{}`", home.root().display()));
        return Ok(exit::OK);
    }
    // A control plane or hostd that was killed may have left cells: recover first, then go down.
    ensure_up(home).await?;
    take_down(home, &client(home)?).await?;
    if json {
        output::json(&serde_json::json!({ "version": VERSION, "down": true }));
    } else {
        say("the house is down; its state is kept");
    }
    Ok(exit::OK)
}
