//! Agents and templates: start and stop, why, new, move, show, rotate.

use crate::cli::{AgentMoveArgs, AgentNewArgs, AgentsArgs, ReloadArgs};
use crate::connect::{client, segment};
use crate::exit::{self, Failure};
use crate::house::{DOWN_WITHIN, Outcome, body_of, print_fleet, print_plan};
use crate::output::{self, Progress, dash, say, table};
use abbey_api::*;
use abbey_daemon::{Home, manifest};
use abbey_support::file::{Sync, publish};
use futures_util::StreamExt;
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Agents that are spoken to at the same time.
const AT_ONCE: usize = 8;

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
    // Several at a time, each for itself: one that fails is told at the end (S5-14).
    let wishes = futures_util::stream::iter(&names).map(async |name| {
        let path = format!("/api/v1/agents/{}/{verb}", segment(name));
        let wished: Result<Value, _> = client.post(&path, &serde_json::json!({}), &[]).await;
        (name, wished)
    });
    let failures: Vec<(String, _)> = wishes
        .buffered(AT_ONCE)
        .filter_map(async |(name, wished)| Some((name.clone(), wished.err()?)))
        .collect()
        .await;
    let reached = |a: &AgentView| match verb {
        "stop" => a.pid.is_none(),
        "pause" => a.presence == "paused",
        "restart" => {
            a.presence == "ready" && boots.get(&a.name).is_none_or(|old| a.generation > *old)
        }
        _ => matches!(a.presence.as_str(), "ready" | "degraded"),
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

/// Brings the manifest to running agents and waits until each says that it works under it (S5-12).
pub(crate) async fn reload(home: &Home, json: bool, args: &ReloadArgs) -> Outcome {
    let client = client(home)?;
    let fleet: FleetDoc = client.get("/api/v1/agents").await?;
    let names: Vec<String> = match args.all {
        true => fleet.agents.iter().map(|a| a.name.clone()).collect(),
        false => args.agents.clone(),
    };
    let mut edited = edit(&args.file, |text| Ok(text.to_owned()))?;
    for name in &names {
        let known = fleet.agents.iter().find(|a| a.name == *name);
        let known = known.ok_or_else(|| {
            Failure::plain(format!("there is no agent `{name}`")).with_code(exit::NOT_FOUND)
        })?;
        let model = match (&args.model, args.rollback) {
            (Some(model), _) => model.clone(),
            (None, true) => known.previous_model.clone().ok_or_else(|| {
                Failure::plain(format!("agent `{name}` never had another model"))
                    .with_code(exit::CONFLICT)
            })?,
            (None, false) => continue,
        };
        edited =
            manifest::set_key(&edited, &slug(name)?, "model", &model).map_err(|m| mistakes(&m))?;
    }
    let code = apply_edit(home, &args.file, edited, args.reason.clone(), |plan| {
        if !json && !plan.steps.is_empty() {
            print_plan(plan);
        }
    })
    .await?;
    if code != exit::OK {
        return Ok(code);
    }
    let until = Instant::now() + DOWN_WITHIN;
    let mut progress = Progress::new();
    loop {
        let fleet: FleetDoc = client.get("/api/v1/agents").await?;
        let late: Vec<&AgentView> = fleet
            .agents
            .iter()
            .filter(|a| names.contains(&a.name) && a.config_taken != Some(a.config))
            .collect();
        let waiting: Vec<&str> = late.iter().map(|a| a.name.as_str()).collect();
        if late.is_empty() || Instant::now() >= until {
            progress.end();
            for agent in &late {
                let why = match &agent.task {
                    Some(task) => format!("it works on {task}"),
                    None => format!("it is {}", agent.presence),
                };
                say(&format!("{} has not taken it over yet: {why}", agent.name));
            }
            match json {
                true => output::json(&fleet),
                false => print_fleet(&fleet),
            }
            return Ok(if late.is_empty() {
                exit::OK
            } else {
                exit::DEGRADED
            });
        }
        progress.show(&format!("reload: waiting for {}", waiting.join(", ")));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Applies an edited manifest: first as a plan, then to the file, then to the house.
pub(crate) async fn apply_edit(
    home: &Home,
    file: &Path,
    edited: String,
    reason: Option<String>,
    show: impl FnOnce(&PlanDoc),
) -> Outcome {
    abbey_daemon::check_manifest(&edited)?;
    let client = client(home)?;
    let current: ManifestDoc = client.get("/api/v1/generations/current").await?;
    let mut body = body_of(file, edited)?;
    body.reason = reason;
    let planned: PlanDoc = client.post("/api/v1/plans", &body, &[]).await?;
    if planned.notes.iter().any(|n| n.severity == "fatal") {
        print_plan(&planned);
        return Ok(exit::CONFLICT);
    }
    let mode = std::fs::metadata(file).map_or(0o644, |m| m.permissions().mode() & 0o7777);
    let written = publish(file, &body.manifest, mode, Sync::Content);
    written.map_err(|e| Failure::plain(format!("`{}` cannot be written: {e}", file.display())))?;
    let seen = [("if-match", format!("\"{}\"", current.generation))];
    let doc: PlanDoc = client.post("/api/v1/generations", &body, &seen).await?;
    show(&doc);
    Ok(exit::OK)
}

pub(crate) fn show(json: bool) -> impl FnOnce(&PlanDoc) {
    move |plan| match json {
        true => output::json(plan),
        false => print_plan(plan),
    }
}

pub(crate) fn edit(
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

pub(crate) fn slug(text: &str) -> Result<abbey_model::Slug, Failure> {
    text.parse()
        .map_err(|e: abbey_model::SlugError| Failure::plain(e.to_string()).with_code(exit::USAGE))
}

pub(crate) fn mistakes(list: &[impl std::fmt::Display]) -> Failure {
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
    apply_edit(home, &args.file, edited, None, show(json)).await
}

/// Puts an agent below another one.
pub(crate) async fn agent_move(home: &Home, json: bool, args: &AgentMoveArgs) -> Outcome {
    let name = slug(&args.agent)?;
    let edited = edit(&args.file, |text| {
        let edited = match args.to.as_str() {
            "operator" => manifest::remove_key(text, &name, "reports_to"),
            above => manifest::set_key(text, &name, "reports_to", slug(above)?.as_str()),
        };
        edited.map_err(|m| mistakes(&m).with_code(exit::NOT_FOUND))
    })?;
    apply_edit(home, &args.file, edited, None, show(json)).await
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
