//! A directory that holds what makes an agent: as `abbey export` writes it, or a workspace of another tool.

use crate::names::Names;
use crate::newcomer::Newcomer;
use crate::source::Source;
use crate::{Error, Here, Import, Kind, Result};

/// Files of a workspace that are carried over as they are, beside `memory/`.
const FILES: [&str; 5] = [
    "USER.md",
    "IDENTITY.md",
    "AGENTS.md",
    "MEMORY.md",
    "HEARTBEAT.md",
];

pub(crate) fn read(
    source: &Source,
    here: &Here,
    names: &mut Names,
    import: &mut Import,
) -> Result<()> {
    let entry = source.text("agent.yaml");
    let lines: Vec<String> = entry
        .iter()
        .flat_map(|t| t.lines())
        .map(str::to_owned)
        .collect();
    let first = lines
        .first()
        .and_then(|l| l.split_once(':'))
        .map(|(name, _)| name.trim().to_owned());
    let dir = source
        .path
        .file_name()
        .map(|n| n.to_string_lossy().into_owned());
    let was = first.or(dir).unwrap_or_default();
    let charter = source.clean(import, "SOUL.md");
    if charter.is_none() && lines.is_empty() {
        return Err(Error::NotOne {
            path: source.path.clone(),
            what: "bundle",
            why: "it holds neither `agent.yaml` nor `SOUL.md`".to_owned(),
        });
    }
    let slug = names.give(import, &was, here.named.as_ref());
    let mut agent = Newcomer::new(slug, &was);
    agent.charter = charter;
    workspace(source, import, "", &mut agent);
    if !lines.is_empty() {
        agent.entry = Some(own(&lines, &agent));
    }
    source.secrets(import);
    import.agents.push(agent);
    Ok(())
}

/// The entry as it was, with its charter where it lies here.
fn own(lines: &[String], agent: &Newcomer) -> Vec<String> {
    let Some(path) = agent.charter_path() else {
        return lines.to_vec();
    };
    let told = |line: &String| match line.strip_prefix("  charter:") {
        Some(_) => format!("  charter: {path}"),
        None => line.clone(),
    };
    lines.iter().map(told).collect()
}

/// Carries the files of a workspace over.
pub(crate) fn workspace(source: &Source, import: &mut Import, dir: &str, agent: &mut Newcomer) {
    let at = |name: &str| match dir.is_empty() {
        true => name.to_owned(),
        false => format!("{dir}/{name}"),
    };
    for name in FILES {
        if let Some(text) = source.clean(import, &at(name)) {
            agent.files.push((name.to_owned(), text));
        }
    }
    for name in source.names(&at("memory")) {
        let path = at(&format!("memory/{name}"));
        if !abbey_model::is_note_name(&name) {
            import.found(Kind::Left, path, "it is no note: those are called by letters, digits, `.`, `_` and `-`, and end in `.md`");
            continue;
        }
        if let Some(text) = source.clean(import, &path) {
            agent.files.push((format!("memory/{name}"), text));
        }
    }
    for name in source.names(&at("skills")) {
        if source
            .text(&at(&format!("skills/{name}/SKILL.md")))
            .is_some()
        {
            let place = at(&format!("skills/{name}"));
            import.found(Kind::Left, place, "a skill becomes the house's when its directory is copied into `skills/` of its home; `abbey skill check` looks at it");
        }
    }
}
