//! A `HERMES_HOME`. Source: Hermes Agent 0.19, its directory layout, `config.yaml`, and `cron/jobs.json` (read 2026-11).

use crate::imported_agent::{ImportedAgent, ScheduleTime};
use crate::names::{NameAssigner, one_line};
use crate::source::SourceDir;
use crate::{Error, Import, ReportKind, Result, TargetHouse};
use serde_json::Value;

/// Reads the agent of a Hermes home directory into `import`.
pub(crate) fn read_hermes(
    source: &SourceDir,
    here: &TargetHouse,
    names: &mut NameAssigner,
    import: &mut Import,
) -> Result<()> {
    let wrong_format = |why: String| Error::WrongFormat {
        path: source.path.clone(),
        what: "Hermes home",
        why,
    };
    let config = source.read_text("config.yaml");
    if config.is_none() && source.read_text("SOUL.md").is_none() {
        return Err(wrong_format(
            "there is neither `config.yaml` nor `SOUL.md`".to_owned(),
        ));
    }
    let config: Value = match &config {
        // The message of the library may quote the text, and so a secret.
        Some(text) => serde_saphyr::from_str(text)
            .map_err(|_| wrong_format("`config.yaml` is not valid YAML".to_owned()))?,
        None => Value::Null,
    };
    let dir = source
        .path
        .file_name()
        .map(|n| n.to_string_lossy().into_owned());
    let was = dir.unwrap_or_default();
    let was = was.trim_start_matches('.').to_owned();
    let slug = names.assign(import, &was, here.named.as_ref());
    let mut agent = ImportedAgent::new(slug, &was);
    let model = &config["model"];
    let wanted = model
        .as_str()
        .or(model["default"].as_str())
        .or(model["model"].as_str());
    if let Some(wanted) = wanted.filter(|w| !w.is_empty()) {
        let wanted = match (wanted.contains('/'), model["provider"].as_str()) {
            (false, Some(provider)) => format!("{provider}/{wanted}"),
            _ => wanted.to_owned(),
        };
        agent.model = here.translate_model(import, "config.yaml: model", &wanted);
    }
    agent.charter = source.read_agent_text(import, "SOUL.md");
    for (from, to) in [
        ("memories/MEMORY.md", "MEMORY.md"),
        ("memories/USER.md", "USER.md"),
        ("AGENTS.md", "AGENTS.md"),
    ] {
        if let Some(text) = source.read_agent_text(import, from) {
            agent.files.push((to.to_owned(), text));
        }
    }
    jobs(source, import, &mut agent);
    for name in source.list_names("skills") {
        if source.is_dir(&format!("skills/{name}")) {
            import.add_report_entry(ReportKind::Left, format!("skills/{}", one_line(&name)), "skills are not imported: copy its directory into `skills/` of the house's home, then run `abbey skill check`");
        }
    }
    for (path, why) in [
        (
            "state.db",
            "conversations are not imported; copy what the agent should remember to `MEMORY.md`",
        ),
        (
            "sessions",
            "conversations are not imported; copy what the agent should remember to `MEMORY.md`",
        ),
        ("gateway.pid", "agents are supervised by the house"),
        ("gateway.lock", "agents are supervised by the house"),
    ] {
        if source.read_text(path).is_some()
            || source.is_dir(path)
            || source.list_names("").iter().any(|n| n == path)
        {
            import.add_report_entry(ReportKind::Left, path, why);
        }
    }
    if let Value::Object(all) = &config {
        for key in all.keys().filter(|k| *k != "model") {
            import.add_report_entry(
                ReportKind::Left,
                format!("config.yaml: {}", one_line(key)),
                "a setting without an equivalent",
            );
        }
    }
    source.report_secrets(import);
    import.agents.push(agent);
    Ok(())
}

fn jobs(source: &SourceDir, import: &mut Import, agent: &mut ImportedAgent) {
    let file = "cron/jobs.json";
    let Some(text) = source.read_text(file) else {
        return;
    };
    let Ok(value) = serde_json::from_str::<Value>(&text) else {
        import.add_report_entry(ReportKind::Left, file, "not valid JSON");
        return;
    };
    for job in value["jobs"]
        .as_array()
        .or(value.as_array())
        .into_iter()
        .flatten()
    {
        let name = job["name"].as_str().or(job["id"].as_str()).unwrap_or("job");
        let place = format!("{file}: {}", one_line(name));
        if job["enabled"] == false || !job["paused_at"].is_null() {
            import.add_report_entry(ReportKind::Left, place, "disabled");
            continue;
        }
        let at = &job["schedule"];
        let when = match at["kind"].as_str() {
            Some("cron") => at["expr"]
                .as_str()
                .map(|e| ScheduleTime::Cron(one_line(e), None)),
            Some("interval") => at["minutes"]
                .as_u64()
                .map(|m| ScheduleTime::Every(m.max(1) * 60)),
            Some("once") => at["run_at"].as_str().map(|t| ScheduleTime::At(one_line(t))),
            _ => None,
        };
        let task = job["prompt"].as_str().filter(|p| !p.trim().is_empty());
        if job["no_agent"] == true || !job["script"].is_null() {
            import.add_report_entry(
                ReportKind::Left,
                place,
                "runs a script; turn it into a skill",
            );
            continue;
        }
        if job["deliver"].as_str().is_some_and(|d| d != "local") {
            import.add_report_entry(
                ReportKind::Left,
                &place,
                "its delivery target: channels are not imported",
            );
        }
        match (when, task) {
            (Some(when), Some(task)) => agent.add_schedule(name, when, task.to_owned()),
            _ => {
                import.add_report_entry(ReportKind::Left, place, "its schedule or task is missing")
            }
        }
    }
}
