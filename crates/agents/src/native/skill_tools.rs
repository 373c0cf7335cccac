//! Tools of a model for skills, by progressive disclosure as the Agent Skills specification says: names and descriptions
//! first, then the instructions of one skill, then its files.

use super::captured::run_captured;
use super::skill_files::{self, SkillDir};
use crate::lease_files::TASK_VARIABLE;
use abbey_api::client::AgentClient;
use abbey_api::{SkillFileView, SkillView, SkillsQuery};
use abbey_model::{Tool, ToolPolicy};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

/// Longest time of a script.
const SCRIPT_MAX: Duration = Duration::from_secs(300);
/// Most bytes that are kept of each output of a script.
const OUTPUT_MAX: usize = 24 << 10;
/// Most bytes of a text that are shown at once; longer ones are read on by their lines. Room is left for the list of files.
const PAGE_MAX: usize = 28 << 10;
/// Most bytes of the list of files that are shown.
const LISTED_MAX: usize = 3 << 10;
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
    let others = |f: &SkillFileView| !f.path.eq_ignore_ascii_case("SKILL.md");
    let files = skill.files.iter().filter(|f| others(f));
    let files: Vec<String> = files
        .map(|f| match f.executable {
            true => format!("{} ({} bytes, program)", f.path, f.bytes),
            false => format!("{} ({} bytes)", f.path, f.bytes),
        })
        .collect();
    if !files.is_empty() {
        let mut list = files.join(", ");
        if list.len() > LISTED_MAX {
            list.truncate(list.floor_char_boundary(LISTED_MAX));
            list.push_str(" … and more");
        }
        text.push_str(&format!("Files: {list}\n"));
    }
    let body = skill.text.trim();
    text.push('\n');
    if body.len() <= PAGE_MAX {
        text.push_str(body);
        return Ok(text);
    }
    // The rest is read as a file, whose lines are counted from its front matter on.
    let path = skill.files.iter().find(|f| !others(f));
    let path = path.map_or("SKILL.md", |f| f.path.as_str());
    let whole = text_of_file(client, name, path).await?;
    let begin = whole.find(body).unwrap_or_default();
    let before = whole.get(..begin).unwrap_or_default();
    text.push_str(&page(&whole, path, 1 + before.matches('\n').count()));
    Ok(text)
}

/// Lines of a text file from a line on, counted from 1: as many as can be shown at once, and where the rest begins.
fn page(text: &str, path: &str, from_line: usize) -> String {
    let mut shown = String::new();
    let lines = text.split_inclusive('\n').enumerate();
    for (index, line) in lines.skip(from_line.saturating_sub(1)) {
        if !shown.is_empty() && shown.len() + line.len() > PAGE_MAX {
            let next = index + 1;
            shown.push_str(&format!(
                "[more follows: `read_skill_file` with the path `{path}` and `from_line` {next}]"
            ));
            break;
        }
        shown.push_str(line);
    }
    shown
}

async fn read_file(
    client: &AgentClient,
    name: &str,
    path: &str,
    from_line: u64,
) -> Result<String, String> {
    skill_files::plain_path(path)?;
    let text = text_of_file(client, name, path).await?;
    let from_line = usize::try_from(from_line).unwrap_or(usize::MAX);
    Ok(page(&text, path, from_line))
}

async fn text_of_file(client: &AgentClient, name: &str, path: &str) -> Result<String, String> {
    let content = skill_files::read_file(client, name, path).await?;
    String::from_utf8(content).map_err(|_| format!("`{path}` is not a text"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_read_on_where_its_page_ends() {
        let line = |n: usize| format!("line {n:04} {}\n", "é".repeat(40));
        let text: String = (1..=1000).map(line).collect();
        let (mut from, mut read) = (1, String::new());
        while from <= 1000 {
            let shown = page(&text, "a b.md", from);
            assert!(shown.len() < 32 << 10);
            let Some((lines, rest)) = shown.split_once("[more follows") else {
                read.push_str(&shown);
                break;
            };
            read.push_str(lines);
            assert!(rest.contains("`a b.md`"), "{rest}");
            let next = rest.rsplit_once(' ').unwrap().1.trim_end_matches(']');
            assert!(next.parse::<usize>().unwrap() > from);
            from = next.parse().unwrap();
        }
        assert_eq!(read, text);
        assert_eq!(page("short", "x", 1), "short");
        assert_eq!(page("short", "x", 0), "short");
        assert_eq!(page("short", "x", usize::MAX), "");
    }
}
