//! `agents.json` of a host of microVMs, and the templates beside it (S5-01, S5-08).

use crate::imported_agent::ImportedAgent;
use crate::names::{NameAssigner, one_line};
use crate::source::{SourceDir, is_file};
use crate::{Error, Import, ReportKind, Result, TargetHouse};
use serde_json::Value;
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

/// Reads the agents of a Fireclaw host (`agents.json` and `templates/`) into `import`.
pub(crate) fn read_fireclaw(
    path: &Path,
    here: &TargetHouse,
    names: &mut NameAssigner,
    import: &mut Import,
) -> Result<()> {
    // The file itself, or the directory that holds it.
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
    let source = SourceDir::open(dir)?;
    let file = file.unwrap_or_else(|| "agents.json".to_owned());
    let wrong_format = |why: String| Error::WrongFormat {
        path: path.to_owned(),
        what: "state of a host of microVMs",
        why,
    };
    let text = source.read_text(&file);
    let text = text.ok_or_else(|| wrong_format(format!("`{file}` is missing")))?;
    let value: Value = serde_json::from_str(&text).map_err(|e| wrong_format(e.to_string()))?;
    // A list, a list below `agents`, or by name.
    let rows: Vec<Value> = match value.get("agents").unwrap_or(&value) {
        Value::Array(rows) => rows.clone(),
        Value::Object(by_name) => by_name
            .iter()
            .map(|(name, row)| {
                let mut row = row.clone();
                if row.is_object() && row["name"].is_null() {
                    row["name"] = name.as_str().into();
                }
                row
            })
            .collect(),
        _ => return Err(wrong_format("it lists no agents".to_owned())),
    };
    let mut used = Vec::new();
    for row in &rows {
        let text = |key: &str| row[key].as_str().filter(|t| !t.is_empty());
        let Some(was) = text("name").or(text("nick")) else {
            import.add_report_entry(ReportKind::Left, &file, "an agent without a name");
            continue;
        };
        let slug = names.assign(import, was, None);
        let mut agent = ImportedAgent::new(slug, was);
        let place = format!("{file}: {}", one_line(was));
        agent.name = text("nick").or(text("name")).map(one_line);
        agent.cell = Some("microvm");
        let template = text("template").map(str::to_owned);
        let template = template.filter(|t| t.parse::<abbey_model::Slug>().is_ok());
        let kind = template.as_ref().and_then(|t| {
            used.push(t.clone());
            let text = source.read_text(&format!("templates/{t}.json"))?;
            serde_json::from_str::<Value>(&text).ok()
        });
        let from = |key: &str| {
            kind.as_ref()
                .and_then(|k| k[key].as_str())
                .map(str::to_owned)
        };
        agent.role = template.clone();
        agent.charter = from("persona").map(|p| {
            let at = format!("templates/{}.json", template.as_deref().unwrap_or_default());
            crate::source::redact_secrets(import, &at, &p)
        });
        if agent.charter.is_none() {
            import.add_report_entry(
                ReportKind::Left,
                &place,
                "no template with a `persona` was found; imported with a stock charter",
            );
        }
        if let Some(model) = text("model").map(str::to_owned).or(from("model")) {
            agent.model = here.translate_model(import, &place, &model);
        }
        let size = row["workspaceSizeMib"].as_u64();
        let size = size.or_else(|| kind.as_ref().and_then(|k| k["workspaceSizeMib"].as_u64()));
        agent.workspace_mib = size.map(|mib| mib.clamp(16, 1 << 20));
        if text("trigger").is_some() || from("trigger").is_some() {
            import.add_report_entry(
                ReportKind::Left,
                &place,
                "its trigger belongs to a channel; channels are not imported",
            );
        }
        let given: Vec<&str> = GIVEN.into_iter().filter(|k| !row[*k].is_null()).collect();
        if !given.is_empty() {
            let text = format!("{}: allocated by the house", given.join(", "));
            import.add_report_entry(ReportKind::Left, &place, text);
        }
        import.agents.push(agent);
    }
    for name in source.list_names("templates") {
        let Some(stem) = name.strip_suffix(".json") else {
            continue;
        };
        if !used.iter().any(|u| u == stem) {
            let place = format!("templates/{}", one_line(&name));
            import.add_report_entry(
                ReportKind::Left,
                place,
                "no agent uses it; its persona can be a charter",
            );
        }
    }
    source.report_secrets(import);
    Ok(())
}
