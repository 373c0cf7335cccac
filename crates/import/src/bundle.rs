//! A bundle: a directory with an agent's files, as `abbey export` writes it, or a workspace of another tool.

use crate::accounting::report_files;
use crate::imported_agent::ImportedAgent;
use crate::names::NameAssigner;
use crate::parsing::Notation;
use crate::source::SourceDir;
use crate::{Error, Import, Result, TargetHouse};
use abbey_model::IDENTITY_FILES;

/// Why a skill is not imported, and what to do.
pub(crate) const SKILL: &str = "skills are not imported: copy its directory into `skills/` of the house's home, then run `abbey skill check`";
/// Why other files of a workspace are not imported, and what to do.
pub(crate) const WORKSPACE_FILE: &str =
    "not one of the files that every agent has; copy it into the workspace with `abbey cp`";

/// Reads the agent of a bundle directory (`agent.yaml`, `SOUL.md` and workspace files) into `import`.
pub(crate) fn read_bundle(
    source: &SourceDir,
    here: &TargetHouse,
    names: &mut NameAssigner,
    import: &mut Import,
) -> Result<()> {
    let entry = source.read_text("agent.yaml")?;
    // Read for its mistakes only: its lines go into the manifest as they are.
    let yaml = Notation::Yaml { lines_before: 0 };
    let mut skipped_keys = Vec::new();
    if let Some(document) = source.read_document("agent.yaml", yaml)? {
        document.root().mark();
        for (_, agent) in document.root().entries() {
            let keys = agent.peek().as_object().into_iter().flatten();
            // As reports write them: without the name of the agent.
            let skipped = |key: &&String| source.skips.hides(&format!("agent.yaml: {key}"));
            skipped_keys.extend(keys.map(|(key, _)| key).filter(skipped).cloned());
        }
        import.carried.insert("agent.yaml".to_owned());
    }
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
    let charter = source.read_agent_text(import, "SOUL.md");
    if charter.is_none() && lines.is_empty() {
        return Err(Error::WrongFormat {
            path: source.path.clone(),
            what: "bundle",
            why: "there is neither `agent.yaml` nor `SOUL.md`".to_owned(),
        });
    }
    let slug = names.assign(import, &was, here.named.as_ref());
    let mut agent = ImportedAgent::new(slug, &was, ".");
    agent.charter = charter;
    import_workspace(source, import, "", &mut agent);
    if !lines.is_empty() {
        agent.entry = Some(lines);
        agent.skipped_keys = skipped_keys;
    }
    import.agents.push(agent);
    report_files(source, import, &[("", WORKSPACE_FILE)]);
    Ok(())
}

/// Imports the known files and notes of an agent's workspace directory `dir`, and reports all else in it.
pub(crate) fn import_workspace(
    source: &SourceDir,
    import: &mut Import,
    dir: &str,
    agent: &mut ImportedAgent,
) {
    let at = |name: &str| match dir.is_empty() {
        true => name.to_owned(),
        false => format!("{dir}/{name}"),
    };
    // Unchanged, beside `memory/`; the charter is the first.
    for name in IDENTITY_FILES.into_iter().skip(1) {
        if let Some(text) = source.read_agent_text(import, &at(name)) {
            agent.files.push((name.to_owned(), text));
        }
    }
    for name in source.list_names(&at("memory")) {
        let path = at(&format!("memory/{name}"));
        if !source.is_file(&path) {
            continue;
        }
        if !abbey_model::is_note_name(&name) {
            source.leave(import, &path, "not a valid name of a note: use letters, digits, `.`, `_` and `-`, ending in `.md`");
            continue;
        }
        if let Some(text) = source.read_agent_text(import, &path) {
            agent.files.push((format!("memory/{name}"), text));
        }
    }
    leave_skills(source, import, &at("skills"));
    // The rest of a workspace, each entry by its own name.
    for name in source.list_names(dir) {
        let path = at(&name);
        let known = ["memory", "skills", "SOUL.md", "agent.yaml"].contains(&name.as_str());
        if !dir.is_empty() && !known && source.is_file(&path) && !source.is_accounted(&path) {
            source.leave(import, &path, WORKSPACE_FILE);
        }
    }
}

/// Reports the skills in the directory `dir`.
pub(crate) fn leave_skills(source: &SourceDir, import: &mut Import, dir: &str) {
    for name in source.list_names(dir) {
        let path = format!("{dir}/{name}");
        if source.is_file(&format!("{path}/SKILL.md")) {
            source.leave(import, &path, SKILL);
        }
    }
}
