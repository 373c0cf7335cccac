//! Verbs of `abbey-agent` for what the agent knows: itself, its memory, its skills.

use super::arguments::{MemoryVerb, SkillsVerb};
use super::call::{Call, checked_name, text_or_input};
use crate::exit::{self, Failure, Outcome};
use crate::{output, stdout};
use abbey_agents::agent_command::{open_skill_program, use_memory};
use abbey_api::{ColleagueView, SkillFileQuery, SkillView, SkillsQuery, VERSION};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use std::os::unix::process::ExitStatusExt;

pub(super) async fn describe_agent(call: &Call) -> Outcome {
    let me = call.me().show().await.map_err(|e| call.failure(e))?;
    if call.json {
        output::print_json(&me);
        return Ok(exit::OK);
    }
    output::print_hanging(format!("{} ", me.agent), format!("of house {}", me.house));
    let line = |label: &str, text: Option<&str>| {
        if let Some(text) = text.filter(|t| !t.trim().is_empty()) {
            output::print_hanging(format!("  {label}: "), text);
        }
    };
    line("role", Some(&me.role));
    line("reports to", me.reports_to.as_deref());
    line("model", me.model.as_deref());
    let row = |c: &ColleagueView| {
        let may = |may: bool, word: &str| may.then(|| word.to_owned());
        let rights = [may(c.may_delegate, "delegate"), may(c.may_ask, "ask")];
        let rights: Vec<String> = rights.into_iter().flatten().collect();
        vec![c.name.clone(), rights.join(", "), c.role.clone()]
    };
    let rows: Vec<Vec<String>> = me.colleagues.iter().map(row).collect();
    output::print_table(&["COLLEAGUE", "MAY", "ROLE"], rows, "no other agents");
    Ok(exit::OK)
}

pub(super) fn memory(call: &Call, verb: MemoryVerb) -> Outcome {
    let (action, query, name, content) = match verb {
        MemoryVerb::List => ("list", None, None, None),
        MemoryVerb::Search { words } => ("search", Some(words.join(" ")), None, None),
        MemoryVerb::Read { name } => ("read", None, Some(name), None),
        MemoryVerb::Save { name, text } => ("save", None, Some(name), Some(text_or_input(text)?)),
    };
    let workspace = call.own.workspace();
    std::env::set_current_dir(workspace).map_err(|e| {
        Failure::plain(format!(
            "cannot enter the workspace `{}`: {e}",
            workspace.display()
        ))
    })?;
    let get = |key: &str| {
        let value = match key {
            "query" => query.as_deref(),
            "name" => name.as_deref(),
            _ => content.as_deref(),
        };
        value.ok_or_else(|| format!("the argument `{key}` is missing"))
    };
    let text = use_memory(action, &get).map_err(Failure::plain)?;
    match call.json {
        true => output::print_json(&json!({ "version": VERSION, "action": action, "text": text })),
        false => print_verbatim(&text),
    }
    Ok(exit::OK)
}

/// Prints a text of several lines, with what controls a terminal made visible.
fn print_verbatim(text: &str) {
    text.lines().for_each(output::print_line);
}

pub(super) async fn skills(call: &Call, verb: SkillsVerb) -> Outcome {
    match verb {
        SkillsVerb::List { search } => {
            let query = SkillsQuery {
                q: search,
                ..SkillsQuery::default()
            };
            let doc = call.me().skills(&query).await;
            let doc = doc.map_err(|e| call.failure(e))?;
            if call.json {
                output::print_json(&doc);
                return Ok(exit::OK);
            }
            let row = |s: &SkillView| vec![s.name.clone(), s.description.clone()];
            let rows: Vec<Vec<String>> = doc.skills.iter().map(row).collect();
            output::print_table(&["SKILL", "DESCRIPTION"], rows, "no skill");
            Ok(exit::OK)
        }
        SkillsVerb::Read { name, file: None } => {
            let name = checked_name("a skill", &name)?;
            let doc = call.me().skill(name).await.map_err(|e| call.failure(e))?;
            if call.json {
                output::print_json(&doc);
                return Ok(exit::OK);
            }
            for file in &doc.files {
                let program = if file.executable { ", program" } else { "" };
                output::print_hanging(
                    "file: ",
                    format!("{} ({} bytes{program})", file.path, file.bytes),
                );
            }
            print_verbatim(&doc.text);
            Ok(exit::OK)
        }
        SkillsVerb::Read {
            name,
            file: Some(path),
        } => {
            let name = checked_name("a skill", &name)?;
            let doc = call.me().skill_file(name, &SkillFileQuery { path }).await;
            let doc = doc.map_err(|e| call.failure(e))?;
            if call.json {
                output::print_json(&doc);
                return Ok(exit::OK);
            }
            let bytes = STANDARD.decode(&doc.base64).map_err(|e| {
                Failure::plain(format!("the answer of the house cannot be read: {e}"))
            })?;
            match output::is_terminal() {
                true => print_verbatim(&String::from_utf8_lossy(&bytes)),
                // As it is, for programs.
                false => stdout::write(&bytes),
            }
            Ok(exit::OK)
        }
        SkillsVerb::Run { name, file, args } => {
            let name = checked_name("a skill", &name)?;
            let opened = open_skill_program(&call.own.client, name, &file).await;
            let opened = opened.map_err(|e| Failure::plain(e).with_code(exit::NOT_FOUND))?;
            let mut command = match opened.interpreter {
                Some(interpreter) => {
                    let mut command = std::process::Command::new(interpreter);
                    command.arg(&opened.path);
                    command
                }
                None => std::process::Command::new(&opened.path),
            };
            let ended = command.args(args).status().map_err(|e| {
                Failure::plain(format!("cannot run `{file}` of skill `{name}`: {e}"))
                    .with_code(exit::INTERNAL)
            })?;
            let code = ended.code().or(ended.signal().map(|s| 128 + s));
            Ok(code
                .and_then(|c| u8::try_from(c).ok())
                .unwrap_or(exit::INTERNAL))
        }
    }
}
