//! A bundle: a directory with an agent's files, as `abbey export` writes it, or a workspace of another tool.

use crate::imported_agent::ImportedAgent;
use crate::names::NameAssigner;
use crate::source::SourceDir;
use crate::{Error, Import, ReportKind, Result, TargetHouse};
use abbey_model::IDENTITY_FILES;

/// Reads the agent of a bundle directory (`agent.yaml`, `SOUL.md` and workspace files) into `import`.
pub(crate) fn read_bundle(
    source: &SourceDir,
    here: &TargetHouse,
    names: &mut NameAssigner,
    import: &mut Import,
) -> Result<()> {
    let entry = source.read_text("agent.yaml");
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
    let mut agent = ImportedAgent::new(slug, &was);
    agent.charter = charter;
    import_workspace(source, import, "", &mut agent);
    if !lines.is_empty() {
        agent.entry = Some(lines);
    }
    source.report_secrets(import);
    import.agents.push(agent);
    Ok(())
}

/// Imports the known files and notes of an agent's workspace directory `dir`, and reports its skills as not
/// imported.
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
    for container_name in source.list_names(&at("memory")) {
        let path = at(&format!("memory/{container_name}"));
        if !abbey_model::is_note_name(&container_name) {
            import.add_report_entry(ReportKind::Left, path, "not a valid name of a note: use letters, digits, `.`, `_` and `-`, ending in `.md`");
            continue;
        }
        if let Some(text) = source.read_agent_text(import, &path) {
            agent.files.push((format!("memory/{container_name}"), text));
        }
    }
    for name in source.list_names(&at("skills")) {
        if source
            .read_text(&at(&format!("skills/{name}/SKILL.md")))
            .is_some()
        {
            let place = at(&format!("skills/{name}"));
            import.add_report_entry(ReportKind::Left, place, "skills are not imported: copy its directory into `skills/` of the house's home, then run `abbey skill check`");
        }
    }
}
