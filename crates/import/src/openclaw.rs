//! The directory of an OpenClaw instance. Source: its configuration reference, `agents.entries`, and, of versions
//! before, `agents.list` and `cron/jobs.json` (read 2026-11).

use crate::names::{Names, shown};
use crate::newcomer::{Newcomer, When};
use crate::source::Source;
use crate::{Error, Here, Import, Kind, Result, bundle};
use serde_json::Value;

/// Parts of the configuration that have no place here.
const LEFT: [(&str, &str); 9] = [
    ("gateway", "the house has its own doors"),
    (
        "bindings",
        "who answers on a channel is said where the channel is set up",
    ),
    (
        "multiAgent",
        "who answers on a channel is said where the channel is set up",
    ),
    (
        "messages",
        "how messages are handled is said where channels are set up",
    ),
    (
        "tools",
        "what agents may do is said in `tools`, and nothing is allowed by coming along",
    ),
    ("plugins", "tool servers are services"),
    ("mcp", "tool servers are services"),
    (
        "hooks",
        "who may tell the house something is said in `hooks`",
    ),
    (
        "models",
        "models are said in `providers`, with their prices",
    ),
];

pub(crate) fn read(
    source: &Source,
    here: &Here,
    names: &mut Names,
    import: &mut Import,
) -> Result<()> {
    let not_one = |why: String| Error::NotOne {
        path: source.path.clone(),
        what: "directory of an OpenClaw instance",
        why,
    };
    let text = source.text("openclaw.json");
    let text = text.ok_or_else(|| not_one("`openclaw.json` is not there".to_owned()))?;
    let config: Value = json5::from_str(&text).map_err(|e| {
        // Its message may quote the text, and so a secret.
        let place = e.to_string();
        let place = place
            .split("-->")
            .nth(1)
            .map_or("", |p| p.lines().next().unwrap_or("").trim());
        not_one(format!("`openclaw.json` is no JSON5 {place}"))
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
        let slug = names.give(import, id, wanted);
        let mut agent = Newcomer::new(slug, id);
        let place = format!("openclaw.json: agent {}", shown(id));
        let named = row["identity"]["name"].as_str().or(row["name"].as_str());
        agent.name = named.map(shown);
        agent.role = row["identity"]["theme"].as_str().map(shown);
        let model = |at: &Value| at.as_str().or(at["primary"].as_str()).map(str::to_owned);
        if let Some(wanted) = model(&row["model"]).or_else(|| model(&defaults["model"])) {
            agent.model = here.model(import, &place, &wanted);
        }
        let from = match row["model"].is_null() {
            true => &defaults["model"],
            false => &row["model"],
        };
        let more = from["fallbacks"].as_array();
        if more.is_some_and(|m| !m.is_empty()) {
            import.found(Kind::Left, &place, "the models that stand in for another");
        }
        let every = row["heartbeat"]["every"]
            .as_str()
            .or(defaults["heartbeat"]["every"].as_str());
        agent.wake = every.and_then(seconds).filter(|s| *s >= 30);
        match directory(source, id, row, defaults, single) {
            Some(dir) => {
                agent.charter = source.clean(import, &format!("{dir}/SOUL.md"));
                bundle::workspace(source, import, &dir, &mut agent);
            }
            None => import.found(
                Kind::Left,
                &place,
                "its workspace: it is not below this directory; import it as a `bundle`",
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
                let text = format!(
                    "`{key}`: what an agent may do, and where it runs, is said in the manifest"
                );
                import.found(Kind::Left, &place, text);
            }
        }
        import.agents.push(agent);
    }
    jobs(source, names, import);
    if let Value::Object(channels) = &config["channels"] {
        for (name, channel) in channels {
            let place = format!("openclaw.json: channel {}", shown(name));
            if has_secret(channel) {
                import.found(Kind::Secret, &place, "its token stands in the configuration; take it out when the channel has moved, and make a new one");
            }
            import.found(Kind::Left, place, "channels are set up anew");
        }
    }
    if has_secret(&config["gateway"]) {
        import.found(
            Kind::Secret,
            "openclaw.json: gateway",
            "its token stands in the configuration; nothing here needs it",
        );
    }
    for (key, why) in LEFT {
        if !config[key].is_null() {
            import.found(Kind::Left, format!("openclaw.json: {key}"), why);
        }
    }
    for dir in ["sessions", "agents"] {
        if source.is_dir(dir) {
            import.found(Kind::Left, dir, "conversations stay where they are; what is to be remembered belongs in `MEMORY.md`");
        }
    }
    source.secrets(import);
    Ok(())
}

/// Whether a part of the configuration holds what nobody should read.
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

/// Where the workspace of an agent is, below the instance.
fn directory(
    source: &Source,
    id: &str,
    row: &Value,
    defaults: &Value,
    single: bool,
) -> Option<String> {
    let said = row["workspace"].as_str().or(defaults["workspace"].as_str());
    // Wherever it lay, its last part is where it is looked for here.
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

/// Jobs of versions that kept them in a file; newer ones keep them in a database of their own.
fn jobs(source: &Source, names: &Names, import: &mut Import) {
    let file = ["cron/jobs.json", "cron/jobs.json.migrated"]
        .into_iter()
        .find_map(|f| Some((f, source.text(f)?)));
    let Some((file, text)) = file else {
        if source.is_dir("cron") {
            import.found(Kind::Left, "cron", "its jobs are in a database of its own; `openclaw automations list` shows them, `abbey schedule add` takes them");
        }
        return;
    };
    let Ok(value) = serde_json::from_str::<Value>(&text) else {
        import.found(Kind::Left, file, "it is no JSON");
        return;
    };
    for job in value["jobs"].as_array().into_iter().flatten() {
        let name = job["name"].as_str().or(job["id"].as_str()).unwrap_or("job");
        let place = format!("{file}: {}", shown(name));
        if job["enabled"] == false {
            import.found(Kind::Left, place, "it is switched off");
            continue;
        }
        let when = &job["schedule"];
        let when = match when["kind"].as_str() {
            Some("cron") => when["expr"]
                .as_str()
                .map(|e| When::Cron(shown(e), when["tz"].as_str().map(shown))),
            Some("every") => when["everyMs"]
                .as_u64()
                .map(|ms| When::Every((ms / 1000).max(1))),
            Some("at") => when["at"].as_str().map(|at| When::At(shown(at))),
            _ => None,
        };
        let task = job["payload"]["message"]
            .as_str()
            .or(job["payload"]["text"].as_str());
        let agent = job["agentId"].as_str().unwrap_or("main");
        let slug = names.of(agent);
        let found = import
            .agents
            .iter_mut()
            .find(|a| Some(&a.slug) == slug.as_ref());
        match (when, task, found) {
            (Some(when), Some(task), Some(agent)) => agent.plan(name, when, task.to_owned()),
            _ => import.found(
                Kind::Left,
                place,
                "its time, its work or its agent is not known",
            ),
        }
    }
}
