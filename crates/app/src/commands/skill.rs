//! `abbey skill`: lists, searches, shows, checks and runs skills.

use crate::connect::{is_control_plane_up, operator_client};
use crate::exit::{self, Failure, Outcome};
use crate::output::{self, print_table, text_or_dash};
use crate::task_output;
use abbey_api::{
    AddTask, ExplainBody, ExplainDoc, Routing, SkillView, SkillsDoc, SkillsQuery, VERSION,
};
use abbey_daemon::{Home, explain_in_stopped_house, find_skills_of_stopped_house};
use clap::Subcommand;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub(crate) enum SkillCommand {
    /// List the skills.
    #[command(after_help = "Example:\n  abbey skill list")]
    List,
    /// Find skills that match a text, best first.
    #[command(after_help = "Example:\n  abbey skill search \"disk usage\"")]
    Search {
        /// Text to match, like the text of a task.
        query: String,
    },
    /// Explain which skill or agent a text would go to as a task, and why. Nothing is done.
    #[command(after_help = "Example:\n  abbey skill explain \"Restart the web service\"")]
    Explain {
        /// Text, like the text of a task.
        text: String,
        /// Agent that the task would be for.
        #[arg(long, value_name = "AGENT")]
        to: Option<String>,
    },
    /// Show a skill.
    #[command(after_help = "Example:\n  abbey skill show system-stats")]
    Show {
        /// Name of the skill.
        name: String,
    },
    /// Check the directory of a skill.
    #[command(after_help = "Example:\n  abbey skill check skills/tides")]
    Check {
        /// Directory that holds `SKILL.md`.
        dir: PathBuf,
    },
    /// Run a skill as a task and wait for its result.
    #[command(after_help = "Example:\n  abbey skill run service-status name=ssh --to merlin")]
    Run {
        /// Name of the skill.
        name: String,
        /// Arguments of the skill, as `KEY=VALUE`.
        args: Vec<String>,
        /// Agent that runs it [default: the agent with the skill that has the least work].
        #[arg(long, value_name = "AGENT")]
        to: Option<String>,
    },
}

/// `abbey skill`: lists, searches, shows or checks skills, or runs one as a task and waits for its result.
pub(crate) async fn cmd_skill(home: &Home, json: bool, command: SkillCommand) -> Outcome {
    match command {
        SkillCommand::List => {
            let doc = find_skills(home, None).await?;
            print_skills(json, &doc);
            print_changed(json, &doc, |_| true);
            print_invalid(json, &doc);
            Ok(exit::OK)
        }
        SkillCommand::Search { query } => {
            let doc = find_skills(home, Some(query)).await?;
            print_skills(json, &doc);
            print_changed(json, &doc, |_| true);
            Ok(if doc.skills.is_empty() {
                exit::NOT_FOUND
            } else {
                exit::OK
            })
        }
        SkillCommand::Explain { text, to } => {
            let doc = match is_control_plane_up(home).await {
                true => {
                    let body = ExplainBody { text, to };
                    operator_client(home)?.skills().explain(&body).await?
                }
                false => {
                    output::print_message(NOT_RUNNING);
                    explain_in_stopped_house(home, &text)
                }
            };
            match json {
                true => output::print_json(&doc),
                false => print_explanation(&doc),
            }
            Ok(exit::OK)
        }
        SkillCommand::Show { name } => {
            let doc = find_skills(home, None).await?;
            let missing = || {
                let dir = home.skills_dir().join(&name);
                // A name with a slash would lead elsewhere.
                if !name.contains('/')
                    && !name.starts_with('.')
                    && dir.is_dir()
                    && let Err(invalid) = abbey_agents::skill::load_skill(&dir)
                {
                    return Failure::plain(invalid.to_string());
                }
                let failure = Failure::plain(format!("there is no skill `{name}`"));
                let failure = match doc.changed.contains(&name) {
                    true => failure
                        .hint("it is in the directory of skills, but not in force: run `abbey up`"),
                    false => failure.hint("`abbey skill list` lists all skills"),
                };
                failure.with_code(exit::NOT_FOUND)
            };
            let skill = doc
                .skills
                .iter()
                .find(|s| s.name == name)
                .ok_or_else(missing)?;
            match json {
                true => output::print_json(skill),
                false => print_skill(skill),
            }
            print_changed(json, &doc, |changed| changed == name);
            Ok(exit::OK)
        }
        SkillCommand::Check { dir } => {
            let what = "cannot read the directory";
            let path = dir.canonicalize();
            let path = path.map_err(|e| Failure::unusable_path(what, &dir, e))?;
            if !path.is_dir() {
                let why = std::io::Error::from(std::io::ErrorKind::NotADirectory);
                return Err(Failure::unusable_path(what, &dir, why));
            }
            let skill = abbey_agents::skill::load_skill(&path)
                .map_err(|e| Failure::plain(e.to_string()))?;
            if json {
                output::print_json(
                    &serde_json::json!({ "version": VERSION, "name": skill.name, "hash": skill.hash, "ok": true, "warnings": skill.warnings }),
                );
            } else {
                for warning in &skill.warnings {
                    output::print_line(&format!("warning: {warning}"));
                }
                output::print_line(&format!(
                    "{} is valid: {}, hash {}",
                    skill.name,
                    match (&skill.program, skill.patterns.len()) {
                        (None, _) => "instructions for a model".to_owned(),
                        (Some(_), 0) => "a program that runs by its name only".to_owned(),
                        (Some(_), 1) => "a program with 1 pattern".to_owned(),
                        (Some(_), count) => format!("a program with {count} patterns"),
                    },
                    skill.hash
                ));
            }
            Ok(exit::OK)
        }
        SkillCommand::Run { name, args, to } => {
            let mut pairs = BTreeMap::new();
            for arg in &args {
                let (key, value) = arg.split_once('=').ok_or_else(|| {
                    Failure::plain(format!("argument `{arg}` must be KEY=VALUE"))
                        .with_code(exit::USAGE)
                })?;
                pairs.insert(key.to_owned(), Value::from(value));
            }
            let client = operator_client(home)?;
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
            let doc = client.tasks().add(&body, None).await?;
            task_output::wait_for_end(&client, json, &doc.task.id, Duration::from_secs(900)).await
        }
    }
}

/// Said where files are read instead of the state of the house.
const NOT_RUNNING: &str = "the control plane does not answer; this is what the files of the house say, without the agents that have a skill";

/// Prints who would do a task with a text, and every reason.
fn print_explanation(doc: &ExplainDoc) {
    let agents = match doc.agents.is_empty() {
        true => "nobody".to_owned(),
        false => doc.agents.join(" or "),
    };
    let outcome = match (&doc.skill, doc.routing) {
        (Some(skill), Routing::Skill) => format!("the skill {skill} does it, without a model"),
        (_, Routing::Nobody) => "nobody can do it now".to_owned(),
        _ => "a model does it".to_owned(),
    };
    output::print_line(&outcome);
    let none = |text: &str| match text.is_empty() {
        true => "-".to_owned(),
        false => text.to_owned(),
    };
    let args = doc.args.iter();
    let args: Vec<String> = args
        .map(|(name, value)| match value {
            Value::String(text) => format!("{name}={text}"),
            other => format!("{name}={other}"),
        })
        .collect();
    let properties = [
        ("request", none(&doc.request)),
        ("reason", doc.reason.clone()),
        ("arguments", none(&args.join(" "))),
        ("goes to", format!("{agents}: {}", none(&doc.agents_reason))),
        ("suggested skills", none(&doc.suggested.join(", "))),
    ];
    for (name, value) in properties {
        output::print_hanging(format!("  {name}: "), value);
    }
    for guard in &doc.guards {
        let scope = if guard.also_reading {
            "every skill"
        } else {
            "skills that change something"
        };
        output::print_hanging(
            "  guard: ",
            format!("{}, holds back {scope}: {}", guard.guard, guard.found),
        );
    }
    for skill in &doc.skills {
        output::print_hanging(
            "  skill: ",
            format!(
                "{} ({}, score {}): {}",
                skill.name, skill.effect, skill.score, skill.reason
            ),
        );
        for slot in &skill.slots {
            let refused = slot
                .refused
                .as_ref()
                .map_or_else(String::new, |why| format!(": {why}"));
            output::print_hanging(
                "    slot: ",
                format!("{} ({}) = {}{refused}", slot.name, slot.kind, slot.value),
            );
        }
    }
    for fit in &doc.ranking {
        output::print_hanging(
            "  agent: ",
            format!(
                "{} (score {}): {}",
                fit.agent,
                fit.score,
                none(&fit.words.join(", "))
            ),
        );
    }
}

/// Skills of the house: those in force if it runs, otherwise what its files say.
async fn find_skills(home: &Home, words: Option<String>) -> Result<SkillsDoc, Failure> {
    if !is_control_plane_up(home).await {
        output::print_message(NOT_RUNNING);
        return Ok(find_skills_of_stopped_house(home, words.as_deref()));
    }
    let query = SkillsQuery {
        q: words,
        ..SkillsQuery::default()
    };
    Ok(operator_client(home)?.skills().list(&query).await?)
}

/// Names the skills whose files differ from those in force.
fn print_changed(json: bool, doc: &SkillsDoc, shown: impl Fn(&str) -> bool) {
    let changed: Vec<&str> = doc.changed.iter().map(String::as_str).collect();
    let changed: Vec<&str> = changed.into_iter().filter(|name| shown(name)).collect();
    if !json && !changed.is_empty() {
        output::print_message(&format!(
            "changed in the directory of skills since the last `abbey up`: {}; run `abbey up` to put it in force",
            changed.join(", ")
        ));
    }
}

/// Prints what a skill is, one property a line.
fn print_skill(skill: &SkillView) {
    let version = skill.skill_version.as_ref();
    let head = version.map_or_else(String::new, |version| format!(" {version}"));
    output::print_line(&format!("{}{head}", skill.name));
    let list = |items: &[String]| (!items.is_empty()).then(|| items.join(", "));
    let schema = |key: &str| skill.args.get(key).and_then(Value::as_object);
    let required = skill.args.get("required").and_then(Value::as_array);
    let is_required = |name: &str| required.is_some_and(|all| all.iter().any(|r| r == name));
    let args = schema("properties").into_iter().flatten();
    let args = args.map(|(name, about)| {
        let about = about["description"].as_str();
        let about = about.map_or_else(String::new, |text| format!(" ({text})"));
        let or_not = if is_required(name) { "" } else { ", optional" };
        format!("{name}{or_not}{about}")
    });
    let args: Vec<String> = args.collect();
    let properties = [
        ("description", Some(skill.description.clone())),
        ("owner", skill.owner.clone()),
        ("risk", Some(skill.risk.to_string())),
        ("effect", Some(skill.effect.to_string())),
        ("agents", list(&skill.agents)),
        ("tags", list(&skill.tags)),
        ("program", skill.program.clone()),
        ("arguments", list(&args)),
        ("grants", list(&skill.grants)),
        ("hash", Some(skill.hash.clone())),
    ];
    for (name, value) in properties {
        output::print_hanging(format!("  {name}: "), text_or_dash(value));
    }
    for pattern in &skill.patterns {
        output::print_hanging("  pattern: ", pattern.as_str());
    }
}

/// Says which directories are no valid skill, with the first mistake of each.
fn print_invalid(json: bool, doc: &SkillsDoc) {
    if json {
        return;
    }
    for invalid in &doc.invalid {
        let mistake = invalid.mistakes.first().map_or("", String::as_str);
        output::print_message(&format!(
            "note: `{}` is no valid skill: {mistake}; `abbey skill check DIR` lists every mistake",
            invalid.name
        ));
    }
}

fn print_skills(json: bool, doc: &SkillsDoc) {
    if json {
        output::print_json(doc);
        return;
    }
    let row = |s: &SkillView| {
        vec![
            s.name.clone(),
            text_or_dash(s.skill_version.as_ref()),
            text_or_dash(s.owner.as_ref()),
            text_or_dash(s.score),
            s.risk.to_string(),
            s.agents.join(", "),
            s.description.clone(),
        ]
    };
    print_table(
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
        "no skills match; `abbey skill list` lists all, the key `skills` of an agent grants them",
    );
}
