//! Tools of a model for skills, by progressive disclosure as the Agent Skills specification says: names and descriptions
//! first, then the instructions of one skill, then its files.

use super::captured::run_captured;
use super::skill_files::{self, SkillDir};
use crate::lease_files::TASK_VARIABLE;
use abbey_api::client::AgentClient;
use abbey_api::{SkillView, SkillsQuery};
use abbey_model::{Tool, ToolPolicy};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

/// Longest time of a script.
const SCRIPT_MAX: Duration = Duration::from_secs(300);
/// Most bytes that are kept of each output of a script.
const OUTPUT_MAX: usize = 24 << 10;
/// Tools that `search_skills` grants.
const READING: [&str; 4] = [
    "list_skills",
    "search_skills",
    "read_skill",
    "read_skill_file",
];

/// Whether a policy grants running files of skills.
fn grants_scripts(policy: &ToolPolicy) -> bool {
    let has = |tool| policy.tools.contains(&tool);
    has(Tool::SearchSkills) && (has(Tool::RunSkillScript) || has(Tool::Shell))
}

/// Names of the tools for skills that a policy grants.
pub(super) fn tool_names(policy: &ToolPolicy) -> Vec<&'static str> {
    let mut names = Vec::new();
    if policy.tools.contains(&Tool::SearchSkills) {
        names.extend(READING);
    }
    if grants_scripts(policy) {
        names.push(Tool::RunSkillScript.name());
    }
    names
}

/// Definitions of the tools for skills that a policy grants, as [`super::tools::tool_definitions`].
pub(super) fn definitions(policy: &ToolPolicy) -> Vec<Value> {
    let names = tool_names(policy).into_iter();
    names
        .map(|name| {
            let (doc, properties, required) = definition(name);
            super::tools::function(name, doc, properties, required)
        })
        .collect()
}

/// Description, properties and required properties of a tool for skills.
fn definition(name: &str) -> (&'static str, Value, &'static [&'static str]) {
    let text = |doc: &str| json!({ "type": "string", "description": doc });
    match name {
        "list_skills" => (
            "Lists the skills that you may use, with what each is for.",
            json!({}),
            &[],
        ),
        "search_skills" => (
            "Finds skills by words: your own, and those of agents that you may delegate to.",
            json!({ "query": text("Words.") }),
            &["query"],
        ),
        "read_skill" => (
            "Reads the instructions of a skill, and lists its files. Read them before you do what the skill describes.",
            json!({ "name": text("Name of the skill.") }),
            &["name"],
        ),
        "read_skill_file" => (
            "Reads a text file of a skill, such as one that its instructions name.",
            json!({
                "name": text("Name of the skill."),
                "path": text("Path of the file, relative to the skill."),
                "from_line": { "type": "integer", "minimum": 1, "description": "First line to show; 1 by default." },
            }),
            &["name", "path"],
        ),
        _ => (
            "Runs a program that is a file of a skill, in the workspace. No shell interprets the arguments.",
            json!({
                "name": text("Name of the skill."),
                "path": text("Path of the program, relative to the skill, such as `scripts/convert.py`."),
                "args": { "type": "array", "items": { "type": "string" }, "description": "Its arguments." },
                "input": text("Text on its standard input."),
            }),
            &["name", "path"],
        ),
    }
}

/// Performs a call of a tool for skills in a run of `task`; the caller has checked that the policy grants it.
pub(super) async fn call(
    client: &AgentClient,
    policy: &ToolPolicy,
    task: &str,
    (name, args): (&str, &Value),
) -> Result<String, String> {
    let get = |key: &str| {
        let text = args[key].as_str();
        text.ok_or_else(|| format!("the argument `{key}` is missing"))
    };
    match name {
        "list_skills" => list(client, None).await,
        "search_skills" => {
            let words = get("query")?;
            let own = list(client, Some(words.to_owned())).await?;
            match policy.tools.contains(&Tool::Delegate) {
                true => Ok(with_skills_of_colleagues(client, own, words).await),
                false => Ok(own),
            }
        }
        "read_skill" => read_skill(client, get("name")?).await,
        "read_skill_file" => {
            let from = args["from_line"].as_u64().unwrap_or(1);
            read_file(client, get("name")?, get("path")?, from).await
        }
        _ => run_script(client, task, get("name")?, get("path")?, args).await,
    }
}

/// Reads a file by its path in the cell, if that is below the mounted directory of skills.
pub(super) async fn read_mounted(
    client: &AgentClient,
    path: &str,
) -> Option<Result<String, String>> {
    let root = std::env::var("ABBEY_SKILLS").ok()?;
    let below = Path::new(path).strip_prefix(root).ok()?.to_str()?;
    let (name, file) = below.split_once('/')?;
    Some(read_file(client, name, file, 1).await)
}

async fn list(client: &AgentClient, words: Option<String>) -> Result<String, String> {
    let query = SkillsQuery {
        q: words,
        ..SkillsQuery::default()
    };
    let found = client.me().skills(&query).await;
    let found = found.map_err(|e| e.to_string())?;
    let line = |s: &SkillView| format!("{}: {}", s.name, s.description);
    let lines: Vec<String> = found.skills.iter().map(line).collect();
    Ok(match lines.is_empty() {
        true => "no skill".to_owned(),
        false => lines.join("\n"),
    })
}

/// Adds the skills of agents to which the caller may delegate. A control plane that does not know them adds none.
async fn with_skills_of_colleagues(client: &AgentClient, own: String, words: &str) -> String {
    let query = SkillsQuery {
        q: Some(words.to_owned()),
        ..SkillsQuery::default()
    };
    let found = client.me().skills_of_colleagues(&query).await;
    let skills = found.map_or_else(|_| Vec::new(), |doc| doc.skills);
    if skills.is_empty() {
        return own;
    }
    let line = |s: &SkillView| {
        format!(
            "{}: {} (delegate to: {})",
            s.name,
            s.description,
            s.agents.join(", ")
        )
    };
    let lines: Vec<String> = skills.iter().map(line).collect();
    format!(
        "Your own skills:\n{own}\n\nSkills of other agents:\n{}",
        lines.join("\n")
    )
}

async fn read_skill(client: &AgentClient, name: &str) -> Result<String, String> {
    let skill = skill_files::read_text(client, name).await?;
    let mut text = String::new();
    if let Some(dir) = &skill.directory {
        text.push_str(&format!("Directory, read-only: {dir}\n"));
    }
    let others = skill
        .files
        .iter()
        .filter(|f| !f.path.eq_ignore_ascii_case("SKILL.md"));
    let files: Vec<String> = others
        .map(|f| match f.executable {
            true => format!("{} ({} bytes, program)", f.path, f.bytes),
            false => format!("{} ({} bytes)", f.path, f.bytes),
        })
        .collect();
    if !files.is_empty() {
        text.push_str(&format!("Files: {}\n", files.join(", ")));
    }
    text.push_str(&format!("\n{}", skill.text.trim()));
    Ok(text)
}

async fn read_file(
    client: &AgentClient,
    name: &str,
    path: &str,
    from_line: u64,
) -> Result<String, String> {
    skill_files::plain_path(path)?;
    let content = skill_files::read_file(client, name, path).await?;
    let text = String::from_utf8(content).map_err(|_| format!("`{path}` is not a text"))?;
    let skipped = usize::try_from(from_line.saturating_sub(1)).unwrap_or(usize::MAX);
    Ok(text.split_inclusive('\n').skip(skipped).collect())
}

/// Interpreter of a script that is not executable, by the extension of its name: many skills are published that way.
fn interpreter_of(program: &Path) -> Option<&'static str> {
    use std::os::unix::fs::PermissionsExt;
    let meta = program.metadata().ok()?;
    if meta.permissions().mode() & 0o111 != 0 {
        return None;
    }
    Some(match program.extension()?.to_str()? {
        "py" => "python3",
        "sh" => "sh",
        "bash" => "bash",
        "js" | "mjs" => "node",
        "rb" => "ruby",
        "pl" => "perl",
        _ => return None,
    })
}

/// A program that is a file of a skill.
pub struct SkillProgram {
    /// Interpreter that runs it, where it is not executable itself.
    pub interpreter: Option<&'static str>,
    /// Its path in this cell, for as long as this lives.
    pub path: PathBuf,
    _dir: SkillDir,
}

/// Finds a program of a skill by its path in the skill. A cell without a mount of the skills gets a copy of their files.
///
/// # Errors
/// Why there is none, for the caller.
pub async fn open_skill_program(
    client: &AgentClient,
    name: &str,
    path: &str,
) -> Result<SkillProgram, String> {
    let relative = skill_files::plain_path(path)?;
    let dir = skill_files::open_dir(client, name).await?;
    let program = dir.path().join(relative);
    Ok(SkillProgram {
        interpreter: interpreter_of(&program),
        path: program,
        _dir: dir,
    })
}

async fn run_script(
    client: &AgentClient,
    task: &str,
    name: &str,
    path: &str,
    args: &Value,
) -> Result<String, String> {
    let opened = open_skill_program(client, name, path).await?;
    let mut command = match opened.interpreter {
        Some(interpreter) => {
            let mut command = Command::new(interpreter);
            command.arg(&opened.path);
            command
        }
        None => Command::new(&opened.path),
    };
    command.env(TASK_VARIABLE, task);
    let list = args["args"].as_array().into_iter().flatten();
    command.args(list.filter_map(Value::as_str));
    let input = args["input"].as_str().unwrap_or_default();
    let run = run_captured(&mut command, Some(input.as_bytes().to_vec()), OUTPUT_MAX);
    let ended = tokio::time::timeout(SCRIPT_MAX, run)
        .await
        .map_err(|_| format!("`{path}` ran longer than {SCRIPT_MAX:?}"))?
        .map_err(|e| format!("could not run `{path}` of skill `{name}`: {e}"))?;
    ended.report()
}
