//! The directory of an OpenClaw instance. Source: its configuration reference, `agents.entries`, and, of versions
//! before, `agents.list` and `cron/jobs.json` (read 2026-11).

use crate::imported_agent::{ImportedAgent, ScheduleTime};
use crate::names::{NameAssigner, one_line};
use crate::source::SourceDir;
use crate::{Error, Import, ReportKind, Result, TargetHouse, bundle};
use serde_json::Value;

/// Parts of the configuration that are not imported, and why.
const LEFT: [(&str, &str); 9] = [
    ("gateway", "the house has its own APIs"),
    (
        "bindings",
        "routing of messages is configured with each channel",
    ),
    (
        "multiAgent",
        "routing of messages is configured with each channel",
    ),
    (
        "messages",
        "handling of messages is configured with each channel",
    ),
    (
        "tools",
        "permissions are declared in `tools`, and none are imported",
    ),
    ("plugins", "tool servers are declared under `services`"),
    ("mcp", "tool servers are declared under `services`"),
    ("hooks", "incoming webhooks are declared under `hooks`"),
    (
        "models",
        "models are declared under `providers`, with their prices",
    ),
];

/// Reads the agents and schedules of an OpenClaw instance (`openclaw.json` and workspaces) into `import`.
pub(crate) fn read_openclaw(
    source: &SourceDir,
    here: &TargetHouse,
    names: &mut NameAssigner,
    import: &mut Import,
) -> Result<()> {
    let wrong_format = |why: String| Error::WrongFormat {
        path: source.path.clone(),
        what: "directory of an OpenClaw instance",
        why,
    };
    let text = source.read_text("openclaw.json");
    let text = text.ok_or_else(|| wrong_format("`openclaw.json` is missing".to_owned()))?;
    let config: Value = json5::from_str(&text).map_err(|e| {
        // Its message may quote the text, and so a secret.
        let place = e.to_string();
        let place = place
            .split("-->")
            .nth(1)
            .map_or("", |p| p.lines().next().unwrap_or("").trim());
        wrong_format(format!("`openclaw.json` is not valid JSON5 {place}"))
    })?;
    let defaults = &config["agents"]["defaults"];
    let mut rows: Vec<(String, Value)> = Vec::new();
    match (&config["agents"]["entries"], &config["agents"]["list"]) {
        (Value::Object(entries), _) => {
            rows.extend(entries.iter().map(|(id, row)| (id.clone(), row.clone())));
        }
        (_, Value::Array(list)) => rows.extend(list.iter().map(|row| {
            let id = row["id"].as_str().unwrap_or("main");
            (id.to_owned(), row.clone())
        })),
        _ => rows.push(("main".to_owned(), Value::Null)),
    }
    let single = rows.len() == 1;
    for (id, row) in &rows {
        let wanted = here.named.as_ref().filter(|_| single);
        let slug = names.assign(import, id, wanted);
        let mut agent = ImportedAgent::new(slug, id);
        let place = format!("openclaw.json: agent {}", one_line(id));
        let named = row["identity"]["name"].as_str().or(row["name"].as_str());
        agent.name = named.map(one_line);
        agent.role = row["identity"]["theme"].as_str().map(one_line);
        let model = |at: &Value| at.as_str().or(at["primary"].as_str()).map(str::to_owned);
        if let Some(wanted) = model(&row["model"]).or_else(|| model(&defaults["model"])) {
            agent.model = here.translate_model(import, &place, &wanted);
        }
        let from = match row["model"].is_null() {
            true => &defaults["model"],
            false => &row["model"],
        };
        let more = from["fallbacks"].as_array();
        if more.is_some_and(|m| !m.is_empty()) {
            import.add_report_entry(ReportKind::Left, &place, "fallback models");
        }
        let every = row["heartbeat"]["every"]
            .as_str()
            .or(defaults["heartbeat"]["every"].as_str());
        agent.wake = every.and_then(seconds).filter(|s| *s >= 30);
        match directory(source, id, row, defaults, single) {
            Some(dir) => {
                agent.charter = source.read_agent_text(import, &format!("{dir}/SOUL.md"));
                bundle::import_workspace(source, import, &dir, &mut agent);
            }
            None => import.add_report_entry(
                ReportKind::Left,
                &place,
                "its workspace is not in this directory; import it as a `bundle`",
            ),
        }
        for key in [
            "sandbox",
            "runtime",
            "subagents",
            "tools",
            "skills",
            "tts",
            "groupChat",
        ] {
            if !row[key].is_null() {
                let text =
                    format!("`{key}`: permissions and isolation are declared in the manifest");
                import.add_report_entry(ReportKind::Left, &place, text);
            }
        }
        import.agents.push(agent);
    }
    jobs(source, names, import);
    if let Value::Object(channels) = &config["channels"] {
        for (name, channel) in channels {
            let place = format!("openclaw.json: channel {}", one_line(name));
            if has_secret(channel) {
                import.add_report_entry(ReportKind::Secret, &place, "its token is in the configuration file: remove it there once the channel has moved, and create a new one");
            }
            import.add_report_entry(ReportKind::Left, place, "channels are not imported");
        }
    }
    if has_secret(&config["gateway"]) {
        import.add_report_entry(
            ReportKind::Secret,
            "openclaw.json: gateway",
            "its token is in the configuration file, and nothing in the house needs it",
        );
    }
    for (key, why) in LEFT {
        if !config[key].is_null() {
            import.add_report_entry(ReportKind::Left, format!("openclaw.json: {key}"), why);
        }
    }
    for dir in ["sessions", "agents"] {
        if source.is_dir(dir) {
            import.add_report_entry(ReportKind::Left, dir, "conversations are not imported; copy what the agent should remember to `MEMORY.md`");
        }
    }
    source.report_secrets(import);
    Ok(())
}

/// Whether a part of the configuration holds a secret.
fn has_secret(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.iter().any(|(key, value)| {
            let key = key.to_lowercase();
            let named = ["token", "secret", "password", "apikey"]
                .iter()
                .any(|s| key.contains(s));
            (named
                && value
                    .as_str()
                    .is_some_and(|t| !t.is_empty() && !t.starts_with("${")))
                || has_secret(value)
        }),
        Value::Array(items) => items.iter().any(has_secret),
        _ => false,
    }
}

/// Directory of an agent's workspace, below the instance.
fn directory(
    source: &SourceDir,
    id: &str,
    row: &Value,
    defaults: &Value,
    single: bool,
) -> Option<String> {
    let said = row["workspace"].as_str().or(defaults["workspace"].as_str());
    // Only the last part of its path counts, as the instance may have been moved.
    let last = said.and_then(|s| s.trim_end_matches('/').rsplit('/').next());
    let usual = [format!("workspace-{id}"), "workspace".to_owned()];
    let own = usual
        .iter()
        .map(String::as_str)
        .take(if single || id == "main" { 2 } else { 1 });
    let mut all = last.into_iter().chain(own);
    all.find(|dir| !dir.starts_with('.') && source.is_dir(dir))
        .map(str::to_owned)
}

/// `30m`, `2h`, `1d` as seconds.
fn seconds(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text.get(..end)?.parse().ok()?;
    let unit = match text.get(end..)? {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// Imports the jobs of versions that kept them in a file; newer versions keep them in a database.
fn jobs(source: &SourceDir, names: &NameAssigner, import: &mut Import) {
    let file = ["cron/jobs.json", "cron/jobs.json.migrated"]
        .into_iter()
        .find_map(|f| Some((f, source.read_text(f)?)));
    let Some((file, text)) = file else {
        if source.is_dir("cron") {
            import.add_report_entry(ReportKind::Left, "cron", "its jobs are in a database: `openclaw automations list` shows them; add them with `abbey schedule add`");
        }
        return;
    };
    let Ok(value) = serde_json::from_str::<Value>(&text) else {
        import.add_report_entry(ReportKind::Left, file, "not valid JSON");
        return;
    };
    for job in value["jobs"].as_array().into_iter().flatten() {
        let name = job["name"].as_str().or(job["id"].as_str()).unwrap_or("job");
        let place = format!("{file}: {}", one_line(name));
        if job["enabled"] == false {
            import.add_report_entry(ReportKind::Left, place, "disabled");
            continue;
        }
        let when = &job["schedule"];
        let when = match when["kind"].as_str() {
            Some("cron") => when["expr"]
                .as_str()
                .map(|e| ScheduleTime::Cron(one_line(e), when["tz"].as_str().map(one_line))),
            Some("every") => when["everyMs"]
                .as_u64()
                .map(|ms| ScheduleTime::Every((ms / 1000).max(1))),
            Some("at") => when["at"].as_str().map(|at| ScheduleTime::At(one_line(at))),
            _ => None,
        };
        let task = job["payload"]["message"]
            .as_str()
            .or(job["payload"]["text"].as_str());
        let agent = job["agentId"].as_str().unwrap_or("main");
        let slug = names.assigned(agent);
        let found = import
            .agents
            .iter_mut()
            .find(|a| Some(&a.slug) == slug.as_ref());
        match (when, task, found) {
            (Some(when), Some(task), Some(agent)) => {
                agent.add_schedule(name, when, task.to_owned())
            }
            _ => import.add_report_entry(
                ReportKind::Left,
                place,
                "its schedule, task or agent is missing",
            ),
        }
    }
}
