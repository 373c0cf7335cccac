//! Skills: list, search, show, check, run.

use crate::cli::SkillCommand;
use crate::connect::{client, segment};
use crate::exit::{self, Failure};
use crate::output::{self, dash, table};
use crate::tasks;
use abbey_api::*;
use abbey_daemon::Home;
use std::collections::BTreeMap;
use std::time::Duration;

pub(crate) async fn run(home: &Home, json: bool, command: SkillCommand) -> Result<u8, Failure> {
    match command {
        SkillCommand::List => {
            let doc: SkillsDoc = client(home)?.get("/api/v1/skills").await?;
            print(json, &doc);
            Ok(exit::OK)
        }
        SkillCommand::Search { query } => {
            let doc: SkillsDoc = client(home)?
                .get(&format!("/api/v1/skills?q={}", segment(&query)))
                .await?;
            print(json, &doc);
            Ok(if doc.skills.is_empty() {
                exit::NOT_FOUND
            } else {
                exit::OK
            })
        }
        SkillCommand::Show { name } => {
            let doc: SkillsDoc = client(home)?.get("/api/v1/skills").await?;
            let missing = || {
                Failure::plain(format!("there is no skill `{name}`"))
                    .hint("`abbey skill list` shows all")
                    .with_code(exit::NOT_FOUND)
            };
            let skill = doc
                .skills
                .iter()
                .find(|s| s.name == name)
                .ok_or_else(missing)?;
            output::json(skill);
            Ok(exit::OK)
        }
        SkillCommand::Check { dir } => {
            let path = dir.canonicalize().map_err(|e| {
                Failure::plain(format!("`{}`: {e}", dir.display())).with_code(exit::NOT_FOUND)
            })?;
            let skill =
                abbey_agents::skill::load(&path).map_err(|e| Failure::plain(e.to_string()))?;
            if json {
                output::json(
                    &serde_json::json!({ "version": VERSION, "name": skill.name, "hash": skill.hash, "ok": true }),
                );
            } else {
                output::line(&format!(
                    "{} is valid: {} patterns, hash {}",
                    skill.name,
                    skill.patterns.len(),
                    skill.hash
                ));
            }
            Ok(exit::OK)
        }
        SkillCommand::Run { name, args, to } => {
            let mut pairs = BTreeMap::new();
            for arg in &args {
                let (key, value) = arg.split_once('=').ok_or_else(|| {
                    Failure::plain(format!("`{arg}` is not KEY=VALUE")).with_code(exit::USAGE)
                })?;
                pairs.insert(key.to_owned(), value.to_owned());
            }
            let client = client(home)?;
            let text = format!("run skill {name} {}", args.join(" "));
            let body = AddTask {
                evidence: Vec::new(),
                text: text.trim().to_owned(),
                to,
                priority: None,
                skill: Some(name),
                args: pairs,
                tokens: None,
            };
            let doc: TaskDoc = client.post("/api/v1/tasks", &body, &[]).await?;
            tasks::wait(&client, json, &doc.task.id, Duration::from_secs(900)).await
        }
    }
}

fn print(json: bool, doc: &SkillsDoc) {
    if json {
        output::json(doc);
        return;
    }
    let row = |s: &SkillView| {
        vec![
            s.name.clone(),
            dash(s.skill_version.as_ref()),
            dash(s.owner.as_ref()),
            dash(s.score),
            s.risk.clone(),
            s.agents.join(", "),
            s.description.clone(),
        ]
    };
    table(
        &[
            "SKILL",
            "VERSION",
            "OWNER",
            "SCORE",
            "RISK",
            "AGENTS",
            "DESCRIPTION",
        ],
        doc.skills.iter().map(row).collect(),
    );
}
