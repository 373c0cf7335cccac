//! The house as a whole: up, plan, down, agents, budgets, doctor, backups.

use crate::cli::{AgentNewArgs, AgentRmArgs, AgentsArgs, InitArgs, PlanArgs, UpArgs};
use crate::connect::{client, is_up, segment};
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

type Outcome = Result<u8, Failure>;

/// Longest wait for agents to come up.
const UP_WITHIN: Duration = Duration::from_secs(90);
/// Longest wait for another control plane to answer or to let go.
const START_WITHIN: Duration = Duration::from_secs(20);
/// Longest wait for everything to be gone.
const DOWN_WITHIN: Duration = Duration::from_secs(60);
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
fn read_manifest(file: &Path) -> Result<ManifestBody, Failure> {
    let path = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let text = std::fs::read_to_string(&path).map_err(|e| {
        Failure::plain(format!(
            "the manifest `{}` cannot be read: {e}",
            file.display()
        ))
        .hint("`abbey init` writes one to start from; `-f` names another")
        .with_code(exit::USAGE)
    })?;
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
    })
}

pub(crate) async fn plan(home: &Home, json: bool, args: &PlanArgs) -> Outcome {
    if args.schema {
        output::json(&manifest::json_schema());
        return Ok(exit::OK);
    }
    let body = read_manifest(&args.file)?;
    let doc: PlanDoc = if is_up(home) {
        client(home)?.post("/api/v1/plans", &body, &[]).await?
    } else {
        let binary = std::env::current_exe().unwrap_or_default();
        abbey_daemon::plan_offline(home.root().to_owned(), binary, body).await?
    };
    let fatal = doc.notes.iter().any(|n| n.severity == "fatal");
    if json {
        output::json(&doc);
    } else {
        print_plan(&doc);
    }
    Ok(if fatal { exit::CONFLICT } else { exit::OK })
}

fn print_plan(doc: &PlanDoc) {
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
fn ensure_up(home: &Home) -> Result<bool, Failure> {
    let until = Instant::now() + START_WITHIN;
    loop {
        if is_up(home) {
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
    let started = ensure_up(home)?;
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
            .filter(|a| !matches!(a.presence.as_str(), "robed" | "degraded") && wanted(a))
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
            .any(|a| a.presence != "robed" && wanted(a));
    Ok(if late { exit::DEGRADED } else { exit::OK })
}

/// An agent that was stopped on purpose is not waited for.
fn wanted(agent: &AgentView) -> bool {
    agent.presence != "dead" || agent.generation == 0
}

fn print_fleet(fleet: &FleetDoc) {
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
            "DOOR",
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
    while (is_up(home) || running()) && Instant::now() < until {
        progress.show("stopping agents and services");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    progress.end();
    if is_up(home) {
        return Err(Failure::plain("the house is still stopping")
            .hint("`abbey ps` shows what is left")
            .with_code(exit::TIMEOUT));
    }
    Ok(())
}

pub(crate) async fn down(home: &Home, json: bool) -> Outcome {
    if !is_up(home) {
        if !home.database().exists() {
            say(&format!("no house is up in `{}`", home.root().display()));
            return Ok(exit::OK);
        }
        // A control plane that was killed may have left cells: recover first, then go down.
        ensure_up(home)?;
    }
    take_down(home, &client(home)?).await?;
    if json {
        output::json(&serde_json::json!({ "version": VERSION, "down": true }));
    } else {
        say("the house is down; its state is kept");
    }
    Ok(exit::OK)
}

pub(crate) async fn wish(home: &Home, json: bool, verb: &str, args: &AgentsArgs) -> Outcome {
    let client = client(home)?;
    let fleet: FleetDoc = client.get("/api/v1/agents").await?;
    let names: Vec<String> = if args.all {
        fleet.agents.iter().map(|a| a.name.clone()).collect()
    } else {
        args.agents.clone()
    };
    let boots: BTreeMap<String, u64> = fleet
        .agents
        .iter()
        .map(|a| (a.name.clone(), a.generation))
        .collect();
    let mut failures = Vec::new();
    for name in &names {
        let path = format!("/api/v1/agents/{}/{verb}", segment(name));
        let outcome: Result<Value, _> = client.post(&path, &serde_json::json!({}), &[]).await;
        if let Err(error) = outcome {
            failures.push((name.clone(), error));
        }
    }
    let reached = |a: &AgentView| match verb {
        "stop" => a.pid.is_none(),
        "restart" => {
            a.presence == "robed" && boots.get(&a.name).is_none_or(|old| a.generation > *old)
        }
        _ => matches!(a.presence.as_str(), "robed" | "degraded"),
    };
    let until = Instant::now() + DOWN_WITHIN;
    let mut progress = Progress::new();
    loop {
        let fleet: FleetDoc = client.get("/api/v1/agents").await?;
        let mine =
            |a: &&AgentView| names.contains(&a.name) && !failures.iter().any(|(n, _)| *n == a.name);
        let waiting: Vec<&str> = fleet
            .agents
            .iter()
            .filter(mine)
            .filter(|a| !reached(a))
            .map(|a| a.name.as_str())
            .collect();
        if waiting.is_empty() || Instant::now() >= until {
            progress.end();
            if json {
                output::json(&fleet)
            } else {
                print_fleet(&fleet)
            }
            break;
        }
        progress.show(&format!("{verb}: waiting for {}", waiting.join(", ")));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut code = exit::OK;
    for (name, error) in failures {
        let failure = Failure::from(error);
        say(&format!("{verb} {name}:"));
        failure.print();
        code = failure.code();
    }
    Ok(code)
}

pub(crate) async fn why(home: &Home, json: bool, agent: &str) -> Outcome {
    let doc: AgentWhyDoc = client(home)?
        .get(&format!("/api/v1/agents/{}/why", segment(agent)))
        .await?;
    if json {
        output::json(&doc);
        return Ok(exit::OK);
    }
    output::line(&format!("{} is {}", doc.agent, doc.presence));
    for reason in &doc.reasons {
        output::line(&format!("  {}: {}", reason.code, reason.text));
    }
    output::line(&format!(
        "  last exit: {}{}",
        dash(doc.last_exit),
        doc.last_exit_at
            .map_or_else(String::new, |t| format!(" at {t}"))
    ));
    output::line(&format!("  next retry: {}", dash(doc.next_retry)));
    Ok(exit::OK)
}

/// Applies an edited manifest: first as a plan, then to the file, then to the house.
async fn apply_edit(home: &Home, json: bool, file: &Path, edited: String) -> Outcome {
    abbey_daemon::check_manifest(&edited)?;
    let client = client(home)?;
    let current: ManifestDoc = client.get("/api/v1/generations/current").await?;
    let mut body = read_manifest(file)?;
    body.manifest = edited;
    let planned: PlanDoc = client.post("/api/v1/plans", &body, &[]).await?;
    if planned.notes.iter().any(|n| n.severity == "fatal") {
        print_plan(&planned);
        return Ok(exit::CONFLICT);
    }
    let temporary = file.with_extension("yaml.new");
    let write =
        std::fs::write(&temporary, &body.manifest).and_then(|()| std::fs::rename(&temporary, file));
    write.map_err(|e| Failure::plain(format!("`{}` cannot be written: {e}", file.display())))?;
    let seen = [("if-match", format!("\"{}\"", current.generation))];
    let doc: PlanDoc = client.post("/api/v1/generations", &body, &seen).await?;
    if json {
        output::json(&doc)
    } else {
        print_plan(&doc)
    }
    Ok(exit::OK)
}

fn edit(
    file: &Path,
    change: impl FnOnce(&str) -> Result<String, Failure>,
) -> Result<String, Failure> {
    let text = std::fs::read_to_string(file).map_err(|e| {
        Failure::plain(format!(
            "the manifest `{}` cannot be read: {e}",
            file.display()
        ))
        .with_code(exit::USAGE)
    })?;
    change(&text)
}

fn slug(text: &str) -> Result<abbey_model::Slug, Failure> {
    text.parse()
        .map_err(|e: abbey_model::SlugError| Failure::plain(e.to_string()).with_code(exit::USAGE))
}

fn mistakes(list: &[impl std::fmt::Display]) -> Failure {
    Failure::plain(
        list.iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("; "),
    )
    .with_code(exit::CONFLICT)
}

pub(crate) async fn agent_new(home: &Home, json: bool, args: &AgentNewArgs) -> Outcome {
    let name = slug(&args.agent)?;
    let edited = edit(&args.file, |text| {
        manifest::add_agent(
            text,
            &name,
            args.template.as_deref(),
            args.reports_to.as_deref(),
        )
        .map_err(|m| mistakes(&m))
    })?;
    apply_edit(home, json, &args.file, edited).await
}

pub(crate) async fn agent_rm(home: &Home, json: bool, args: &AgentRmArgs) -> Outcome {
    let name = slug(&args.agent)?;
    let edited = edit(&args.file, |text| {
        manifest::remove_agent(text, &name).map_err(|m| mistakes(&m).with_code(exit::NOT_FOUND))
    })?;
    apply_edit(home, json, &args.file, edited).await
}

pub(crate) async fn agent_show(home: &Home, json: bool, agent: &str, effective: bool) -> Outcome {
    let client = client(home)?;
    if effective {
        let doc: EffectiveDoc = client
            .get(&format!("/api/v1/agents/{}/effective", segment(agent)))
            .await?;
        if json {
            output::json(&doc);
        } else {
            table(
                &["KEY", "VALUE", "ORIGIN"],
                doc.values
                    .into_iter()
                    .map(|v| vec![v.key, v.value, v.origin])
                    .collect(),
            );
        }
        return Ok(exit::OK);
    }
    let view: AgentView = client
        .get(&format!("/api/v1/agents/{}", segment(agent)))
        .await?;
    if json {
        output::json(&view);
    } else {
        print_fleet(&FleetDoc {
            version: VERSION,
            house: String::new(),
            generation: 0,
            agents: vec![view],
        });
    }
    Ok(exit::OK)
}

pub(crate) async fn rotate(home: &Home, json: bool, agent: &str) -> Outcome {
    let doc: Value = client(home)?
        .post(
            &format!("/api/v1/agents/{}/rotate", segment(agent)),
            &serde_json::json!({}),
            &[],
        )
        .await?;
    if json {
        output::json(&doc);
    } else {
        say(&format!(
            "{agent} has a new credential; restart it to use it, the old one ends in {} s",
            doc["overlap_ms"].as_i64().unwrap_or(0) / 1000
        ));
    }
    Ok(exit::OK)
}

pub(crate) fn template_list(json: bool) -> Outcome {
    if json {
        let rows: Vec<Value> = manifest::templates::ALL.iter().map(|t| serde_json::json!({ "name": t.name, "role": t.role, "summary": t.summary, "skills": t.skills })).collect();
        output::json(&serde_json::json!({ "version": VERSION, "templates": rows }));
    } else {
        let row = |t: &manifest::templates::Template| {
            vec![
                t.name.to_owned(),
                t.role.to_owned(),
                t.summary.to_owned(),
                t.skills.join(", "),
            ]
        };
        table(
            &["TEMPLATE", "ROLE", "FOR", "SKILLS"],
            manifest::templates::ALL.iter().map(row).collect(),
        );
    }
    Ok(exit::OK)
}

pub(crate) fn template_show(json: bool, name: &str) -> Outcome {
    let missing = || {
        Failure::plain(format!("there is no template `{name}`"))
            .hint("`abbey template list` shows all")
            .with_code(exit::NOT_FOUND)
    };
    let t = manifest::templates::find(name).ok_or_else(missing)?;
    if json {
        output::json(
            &serde_json::json!({ "version": VERSION, "name": t.name, "role": t.role, "skills": t.skills, "charter": t.charter }),
        );
    } else {
        output::line(t.charter.trim_end());
    }
    Ok(exit::OK)
}

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

pub(crate) async fn doctor(home: &Home, json: bool) -> Outcome {
    let doc: DoctorDoc = client(home)?.get("/api/v1/doctor").await?;
    let failed = doc.checks.iter().any(|c| c.state == "failed");
    if json {
        output::json(&doc);
    } else {
        for check in &doc.checks {
            output::line(&format!("{:9} {}: {}", check.state, check.id, check.text));
            if let Some(remedy) = &check.remedy {
                output::line(&format!("{:9} remedy: {remedy}", ""));
            }
        }
    }
    Ok(if failed { exit::DEGRADED } else { exit::OK })
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
    let doc: BackupDoc = client(home)?
        .timeout(Duration::from_secs(600))
        .post(
            "/api/v1/backups",
            &BackupBody {
                path: path.display().to_string(),
            },
            &[],
        )
        .await?;
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
