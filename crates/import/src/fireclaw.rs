//! `agents.json` of a host of microVMs, and the templates beside it (S5-01, S5-08).

use crate::accounting::report_files;
use crate::document::Key;
use crate::imported_agent::ImportedAgent;
use crate::names::{NameAssigner, one_line};
use crate::parsing::Notation;
use crate::source::{SourceDir, is_file, redact_secrets};
use crate::{Error, Import, ReportKind, Result, TargetHouse};
use std::collections::BTreeMap;
use std::path::Path;

/// Fields that the house allocates.
const GIVEN: [&str; 7] = [
    "ip",
    "octet",
    "tapDevice",
    "socketPath",
    "rootfsPath",
    "pid",
    "startedAt",
];

/// Opens the host's directory, from the path of it or of its file; returns the name of the file as well.
pub(crate) fn open(path: &Path, skip: &[String]) -> Result<(SourceDir, String)> {
    let (dir, file) = match is_file(path) {
        true => (
            path.parent().unwrap_or(Path::new(".")),
            path.file_name().map(|n| n.to_string_lossy().into_owned()),
        ),
        false => (path, None),
    };
    let dir = if dir.as_os_str().is_empty() {
        Path::new(".")
    } else {
        dir
    };
    let file = file.unwrap_or_else(|| "agents.json".to_owned());
    Ok((SourceDir::open(dir, skip)?, file))
}

/// Reads the agents of a Fireclaw host (`agents.json`, `templates/` and the names of `workspaces/`) into `import`.
pub(crate) fn read_fireclaw(
    source: &SourceDir,
    file: &str,
    here: &TargetHouse,
    names: &mut NameAssigner,
    import: &mut Import,
) -> Result<()> {
    let wrong_format = |why: String| Error::WrongFormat {
        path: source.path.clone(),
        what: "state of a host of microVMs",
        why,
    };
    let state = source.read_document(file, Notation::Json)?;
    let state = state.ok_or_else(|| wrong_format(format!("`{file}` is missing")))?;
    let mut templates = BTreeMap::new();
    for name in source.list_names("templates") {
        let path = format!("templates/{name}");
        let Some(stem) = name.strip_suffix(".json").filter(|_| source.is_file(&path)) else {
            continue;
        };
        if let Some(template) = source.read_document(&path, Notation::Json)? {
            templates.insert(stem.to_owned(), (template, false));
        }
    }
    // A list, a list below `agents`, or by name.
    let root = state.root();
    let below = root.get("agents");
    let rows = if below.is_set() { below } else { root };
    let rows: Vec<(Option<&str>, Key<'_>)> = match (rows.is_list(), rows.is_map()) {
        (true, _) => rows.elements().into_iter().map(|row| (None, row)).collect(),
        (_, true) => {
            let rows = rows.entries().into_iter();
            rows.map(|(name, row)| (Some(name), row)).collect()
        }
        _ => return Err(wrong_format("it lists no agents".to_owned())),
    };
    for (key, row) in &rows {
        let Some(was) = row.get("name").text().or(*key).or(row.get("nick").text()) else {
            row.leave(import, "an agent without a name");
            continue;
        };
        let slug = names.assign(import, was, None);
        let mut agent = ImportedAgent::new(slug, was, row.place());
        agent.name = Some(one_line(row.get("nick").text().unwrap_or(was)));
        agent.cell = Some("microvm");
        let template = row.get("template");
        let kind = template.text().and_then(|t| templates.get_mut(t));
        agent.role = template.text().map(one_line);
        let kind = kind.map(|(document, used)| {
            *used = true;
            document.root()
        });
        fill_from_template(import, here, (row, kind.as_ref()), &mut agent);
        if agent.charter.is_none() {
            let text = "no template with a `persona` was found; imported with a stock charter";
            import.add_report_entry(ReportKind::Left, row.place(), text);
        }
        row.get("trigger")
            .leave(import, "a trigger of a channel; channels are not imported");
        for key in GIVEN {
            row.get(key).leave(import, "allocated by the house");
        }
        import.agents.push(agent);
    }
    for (document, used) in templates.values() {
        let root = document.root();
        match used {
            true => {
                root.get("trigger")
                    .leave(import, "a trigger of a channel; channels are not imported");
                // Its own names say what it is for, and its agents have theirs.
                root.get("name").mark();
                root.get("nick")
                    .leave(import, "each agent of the template has a name of its own");
            }
            false => root.leave(import, "no agent uses it; its persona can be a charter"),
        }
        document.report_rest(
            import,
            |_| "no equivalent, or an agent has a value of its own",
        );
    }
    report_disks(source, import);
    state.report_rest(import, |_| "no equivalent");
    report_files::<&str>(source, import, &[]);
    Ok(())
}

/// What an agent has from its row, or else from its template.
fn fill_from_template(
    import: &mut Import,
    here: &TargetHouse,
    (row, kind): (&Key<'_>, Option<&Key<'_>>),
    agent: &mut ImportedAgent,
) {
    if let Some(persona) = kind.map(|k| k.get("persona"))
        && let Some(text) = persona.text()
    {
        agent.charter = Some(redact_secrets(import, &persona.place(), text));
    }
    let own_or_shared = |key: &str| {
        let own = row.get(key);
        match (own.is_set(), kind) {
            (false, Some(kind)) => kind.get(key),
            _ => own,
        }
    };
    let model = own_or_shared("model");
    if let Some(wanted) = model.text() {
        agent.model = here.translate_model(import, &model, wanted);
    }
    let size = own_or_shared("workspaceSizeMib");
    agent.workspace_mib = size.number().map(|mib| mib.clamp(16, 1 << 20));
    if size.number() != agent.workspace_mib
        && let Some(mib) = agent.workspace_mib
    {
        size.report(
            import,
            ReportKind::Changed,
            format!("imported as {mib} MiB"),
        );
    }
}

/// Reports the disks of the microVMs, each by its name.
fn report_disks(source: &SourceDir, import: &mut Import) {
    for name in source.list_names("workspaces") {
        let path = format!("workspaces/{name}");
        let stem = name
            .rsplit_once('.')
            .map_or(name.as_str(), |(stem, _)| stem);
        let owner = import.agents.iter().find(|a| a.was == stem);
        let text = match owner {
            Some(agent) => format!(
                "the disk of `{}` is not imported: mount it read-only, and copy its files with `abbey cp PATH {}:`",
                one_line(stem),
                agent.slug
            ),
            None => "a disk of no agent; not imported".to_owned(),
        };
        if source.is_file(&path) {
            source.leave(import, &path, text);
        }
    }
}
