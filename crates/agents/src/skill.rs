//! Skills: a directory with `SKILL.md` in the Agent Skills format; Abbey's own keys are strings in
//! `metadata`.

use crate::front_matter::{read_front_matter, split_front_matter};
use abbey_engine::matcher::{Pattern, Rule};
use abbey_model::Effect;
use abbey_support::input::read_input_text;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Largest `SKILL.md`, bytes.
const TEXT_MAX: u64 = 256 << 10;

/// Host facts that a skill may be granted to read.
pub const FACTS: [&str; 9] = [
    "disks", "system", "cells", "services", "logs", "backup", "report", "firewall", "zfs",
];

/// Operations of the control plane that a skill may be granted.
pub const OPERATIONS: [&str; 3] = ["service-restart", "cell-restart", "zfs-snapshot"];

/// Stock skills: name and text.
macro_rules! stock {
    ($($name:literal),+ $(,)?) => {
        [$(($name, include_str!(concat!("../skills/", $name, "/SKILL.md")))),+]
    };
}
/// Built-in skills: name and text of `SKILL.md`.
pub(crate) const STOCK: [(&str, &str); 22] = stock![
    "backup-db",
    "backup-state",
    "cell-restart",
    "cell-status",
    "checkpoint",
    "checkpoint-restore",
    "db-migrate",
    "db-restore",
    "db-vacuum",
    "disk-usage",
    "firewall-status",
    "git-merge",
    "git-mirror",
    "git-release-tag",
    "log-search",
    "network-check",
    "report",
    "service-restart",
    "service-status",
    "system-stats",
    "zfs-snapshot",
    "zfs-status",
];

/// Program of a skill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// A program of this binary, by name.
    Builtin(String),
    /// An executable file, relative to the skill's directory.
    File(PathBuf),
}

/// A valid skill.
#[derive(Debug, Clone)]
pub struct Skill {
    /// Name, equal to that of its directory.
    pub name: String,
    /// What the skill does and when to use it.
    pub description: String,
    /// Version from its metadata.
    pub version: Option<String>,
    /// Program that performs the skill; `None` for instructions to a model only.
    pub program: Option<Program>,
    /// Patterns of the requests that the skill does: regular expressions with slots, each over a whole request.
    pub patterns: Vec<Pattern>,
    /// What running it does; a program that does not declare it changes something.
    pub effect: Effect,
    /// JSON Schema of its arguments.
    pub args: Value,
    /// Granted rights: `fact:NAME`, `op:NAME`, `workspace`.
    pub grants: Vec<String>,
    /// Risk: `low`, `medium` or `high`.
    pub risk: String,
    /// Digest over its files.
    pub hash: String,
    /// Person or team responsible for the skill.
    pub owner: Option<String>,
    /// Search words of the skill.
    pub tags: Vec<String>,
    /// Instructions: what stands below the front matter.
    pub body: String,
    /// Directory of its files; `None` for a built-in skill.
    pub directory: Option<PathBuf>,
    /// What in its front matter is ignored.
    pub warnings: Vec<String>,
}

/// Every error of an invalid skill.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("skill `{name}` is not valid: {}", mistakes.join("; "))]
pub struct InvalidSkill {
    /// Its directory's name.
    pub name: String,
    /// What is wrong.
    pub mistakes: Vec<String>,
}

/// Parses the text of a `SKILL.md`. `dir` is the directory in which its program must exist; `None`
/// allows only built-in programs.
///
/// # Errors
/// [`InvalidSkill`] with every mistake.
pub fn parse_skill(name: &str, text: &str, dir: Option<&Path>) -> Result<Skill, InvalidSkill> {
    let invalid = |mistakes: Vec<String>| InvalidSkill {
        name: name.to_owned(),
        mistakes,
    };
    let (front, body) = split_front_matter(text).map_err(|why| invalid(vec![why]))?;
    let (mut mistakes, mut warnings) = (Vec::new(), Vec::new());
    let front = read_front_matter(&front, &mut mistakes, &mut warnings);
    if front.name != name && !front.name.is_empty() {
        mistakes.push(format!(
            "its name `{}` differs from its directory `{name}`",
            front.name
        ));
    }
    let get = |key: &str| front.metadata.get(key).map(String::as_str);
    let lines = |key: &str| -> Vec<String> {
        get(key)
            .unwrap_or("")
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let mut patterns = Vec::new();
    for (i, text) in lines("abbey-match").iter().enumerate() {
        match Pattern::compile(text) {
            Ok(pattern) => patterns.push(pattern),
            Err(why) => mistakes.push(format!("pattern {} of `abbey-match` {why}", i + 1)),
        }
    }
    let args: Value =
        match serde_json::from_str(get("abbey-args").unwrap_or("{\"type\":\"object\"}")) {
            Ok(schema) => {
                if let Err(e) = jsonschema::validator_for(&schema) {
                    mistakes.push(format!("`abbey-args` is not a JSON Schema: {e}"));
                }
                schema
            }
            Err(e) => {
                mistakes.push(format!("`abbey-args` is not JSON: {e}"));
                Value::Null
            }
        };
    let program = get("abbey-program").and_then(|text| match text.strip_prefix("builtin:") {
        Some(builtin) if crate::programs::NAMES.contains(&builtin) => {
            Some(Program::Builtin(builtin.to_owned()))
        }
        Some(builtin) => {
            mistakes.push(format!("there is no builtin program `{builtin}`"));
            None
        }
        None => {
            let inside = !text.starts_with('/') && !text.split('/').any(|part| part == "..");
            let path = dir.map(|d| d.join(text)).filter(|p| inside && p.is_file());
            match &path {
                None => mistakes.push(format!(
                    "`abbey-program`: `{text}` is not a file of the skill's directory"
                )),
                Some(path) if !is_executable(path) => mistakes.push(format!(
                    "`abbey-program`: `{text}` is not executable; run `chmod a+rx` on it"
                )),
                Some(_) => {}
            }
            path.map(|_| Program::File(PathBuf::from(text)))
        }
    });
    let grants: Vec<String> = get("abbey-grants")
        .unwrap_or("")
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    for grant in &grants {
        let known = grant == "workspace"
            || grant
                .strip_prefix("fact:")
                .is_some_and(|f| FACTS.contains(&f))
            || grant
                .strip_prefix("op:")
                .is_some_and(|o| OPERATIONS.contains(&o));
        if !known {
            mistakes.push(format!(
                "`abbey-grants`: `{grant}` is not known; use `workspace`, fact:{} or op:{}",
                FACTS.join(", fact:"),
                OPERATIONS.join(", op:")
            ));
        }
    }
    let risk = get("abbey-risk").unwrap_or("medium").to_owned();
    if !["low", "medium", "high"].contains(&risk.as_str()) {
        mistakes.push(format!(
            "`abbey-risk`: `{risk}` is none of low, medium, high"
        ));
    }
    let effect = match get("abbey-effect") {
        None if program.is_none() => Effect::Reads,
        None => Effect::Changes,
        Some(text) => text.parse().unwrap_or_else(|_| {
            mistakes.push(format!(
                "`abbey-effect`: `{text}` is none of reads, changes"
            ));
            Effect::Changes
        }),
    };
    if !mistakes.is_empty() {
        return Err(invalid(mistakes));
    }
    if effect == Effect::Changes {
        let free = patterns.iter().filter(|p| p.takes_any_words());
        warnings.extend(free.map(|pattern| {
            format!(
                "`abbey-match`: `{}` takes any words, so it never runs by itself, as the skill changes something; use `quoted` or another kind in place of `text`, or state `abbey-effect: reads` if it only reads",
                pattern.text()
            )
        }));
    }
    Ok(Skill {
        effect,
        owner: None,
        version: front.metadata.get("version").cloned(),
        tags: front.tags,
        name: front.name,
        description: front.description,
        body,
        directory: dir.map(Path::to_owned),
        warnings,
        program,
        patterns,
        args,
        grants,
        risk,
        hash: abbey_support::digest::sha256_hex(text.as_bytes()),
    })
}

impl Skill {
    /// What matching needs to know of the skill.
    pub fn matching_rule(&self) -> Rule {
        let required = self.args["required"].as_array();
        let words = format!("{} {} {}", self.name, self.description, self.tags.join(" "));
        let mut rule = Rule::new(&self.name, self.patterns.clone()).found_by(&words);
        rule.effect = self.effect;
        rule.runs = self.program.is_some();
        rule.needs_arguments = required.is_some_and(|r| !r.is_empty());
        rule
    }
}

/// Whether a file has a permission bit for execution.
fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|meta| meta.permissions().mode() & 0o111 != 0)
}

/// Reads and validates the skill in a directory.
///
/// # Errors
/// [`InvalidSkill`] with every mistake, also if the directory cannot be read.
pub fn load_skill(dir: &Path) -> Result<Skill, InvalidSkill> {
    let name = dir
        .file_name()
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_default();
    // Some collections write it in lower case.
    let lower = dir.join("skill.md");
    let path = match dir.join("SKILL.md") {
        path if path.exists() || !lower.exists() => path,
        _ => lower,
    };
    let unreadable = |why: String| InvalidSkill {
        name: name.clone(),
        mistakes: vec![format!("`{}`: {why}", path.display())],
    };
    let text = read_input_text(&path, TEXT_MAX).map_err(|e| unreadable(e.to_string()))?;
    let mut skill = parse_skill(&name, &text, Some(dir))?;
    skill.hash = crate::library::skill_digest(dir).map_err(unreadable)?;
    Ok(skill)
}

/// Validates arguments against a skill's JSON Schema.
///
/// # Errors
/// A sentence that lists every violation.
pub fn check_arguments(schema: &Value, args: &Value) -> Result<(), String> {
    let validator = jsonschema::validator_for(schema).map_err(|e| e.to_string())?;
    let mut wrong: Vec<String> = validator
        .iter_errors(args)
        .map(|e| match e.instance_path().as_str() {
            "" => e.to_string(),
            path => format!("{path}: {e}"),
        })
        .collect();
    if wrong.is_empty() {
        return Ok(());
    }
    let known = schema["properties"].as_object();
    let known: Vec<&str> = known
        .into_iter()
        .flat_map(|p| p.keys().map(String::as_str))
        .collect();
    wrong.push(match known.is_empty() {
        true => "it has no arguments".to_owned(),
        false => format!("its arguments are {}", known.join(", ")),
    });
    Err(wrong.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::library::load_catalogue;

    #[test]
    fn every_stock_skill_is_valid() {
        let (skills, invalid) = load_catalogue(Path::new("/nonexistent"));
        assert!(invalid.is_empty(), "{invalid:?}");
        assert_eq!(skills.len(), STOCK.len());
        assert!(skills.values().all(|s| s.program.is_some()));
        assert!(
            STOCK
                .iter()
                .all(|(_, text)| text.contains("\n  abbey-effect: "))
        );
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let text = "---\nname: other\ndescription: x\nmetadata:\n  abbey-match: '('\n  abbey-program: ../../bin/sh\n  abbey-grants: root\n  abbey-effect: none\n---\n";
        let error = parse_skill("mine", text, None).unwrap_err();
        assert_eq!(error.mistakes.len(), 5, "{error}");
        assert!(parse_skill("mine", "no front matter", None).is_err());
    }

    #[test]
    fn arguments_are_data() {
        let (skills, _) = load_catalogue(Path::new("/nonexistent"));
        let schema = &skills["git-merge"].args;
        let args = |source: &str| serde_json::json!({ "source": source, "target": "main", "repository": "demo" });
        assert!(check_arguments(schema, &args("topic")).is_ok());
        assert!(check_arguments(schema, &args("--upload-pack=x")).is_err());
        assert!(check_arguments(schema, &args("a;rm -rf /")).is_err());
    }
}
