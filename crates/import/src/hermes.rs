//! A `HERMES_HOME`. Source: Hermes Agent 0.19, its directory layout, `config.yaml`, and `cron/jobs.json` (read 2026-11).

use crate::names::{Names, shown};
use crate::newcomer::{Newcomer, When};
use crate::source::Source;
use crate::{Error, Here, Import, Kind, Result};
use serde_json::Value;

pub(crate) fn read(
    source: &Source,
    here: &Here,
    names: &mut Names,
    import: &mut Import,
) -> Result<()> {
    let not_one = |why: String| Error::NotOne {
        path: source.path.clone(),
        what: "Hermes home",
        why,
    };
    let config = source.text("config.yaml");
    if config.is_none() && source.text("SOUL.md").is_none() {
        return Err(not_one(
            "it holds neither `config.yaml` nor `SOUL.md`".to_owned(),
        ));
    }
    let config: Value = match &config {
        // The message of the library may quote the text, and so a secret.
        Some(text) => serde_saphyr::from_str(text)
            .map_err(|_| not_one("`config.yaml` is no YAML".to_owned()))?,
        None => Value::Null,
    };
    let dir = source
        .path
        .file_name()
        .map(|n| n.to_string_lossy().into_owned());
    let was = dir.unwrap_or_default();
    let was = was.trim_start_matches('.').to_owned();
    let slug = names.give(import, &was, here.named.as_ref());
    let mut agent = Newcomer::new(slug, &was);
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
        agent.model = here.model(import, "config.yaml: model", &wanted);
    }
    agent.charter = source.clean(import, "SOUL.md");
    for (from, to) in [
        ("memories/MEMORY.md", "MEMORY.md"),
        ("memories/USER.md", "USER.md"),
        ("AGENTS.md", "AGENTS.md"),
    ] {
        if let Some(text) = source.clean(import, from) {
            agent.files.push((to.to_owned(), text));
        }
    }
    jobs(source, import, &mut agent);
    for name in source.names("skills") {
        if source.is_dir(&format!("skills/{name}")) {
            import.found(Kind::Left, format!("skills/{}", shown(&name)), "a skill becomes the house's when its directory is copied into `skills/` of its home; `abbey skill check` looks at it");
        }
    }
    for (path, why) in [
        (
            "state.db",
            "conversations stay where they are; what is to be remembered belongs in `MEMORY.md`",
        ),
        (
            "sessions",
            "conversations stay where they are; what is to be remembered belongs in `MEMORY.md`",
        ),
        ("gateway.pid", "the house supervises its agents by itself"),
        ("gateway.lock", "the house supervises its agents by itself"),
    ] {
        if source.text(path).is_some()
            || source.is_dir(path)
            || source.names("").iter().any(|n| n == path)
        {
            import.found(Kind::Left, path, why);
        }
    }
    if let Value::Object(all) = &config {
        for key in all.keys().filter(|k| *k != "model") {
            import.found(
                Kind::Left,
                format!("config.yaml: {}", shown(key)),
                "a setting of that tool's own",
            );
        }
    }
    source.secrets(import);
    import.agents.push(agent);
    Ok(())
}

fn jobs(source: &Source, import: &mut Import, agent: &mut Newcomer) {
    let file = "cron/jobs.json";
    let Some(text) = source.text(file) else {
        return;
    };
    let Ok(value) = serde_json::from_str::<Value>(&text) else {
        import.found(Kind::Left, file, "it is no JSON");
        return;
    };
    for job in value["jobs"]
        .as_array()
        .or(value.as_array())
        .into_iter()
        .flatten()
    {
        let name = job["name"].as_str().or(job["id"].as_str()).unwrap_or("job");
        let place = format!("{file}: {}", shown(name));
        if job["enabled"] == false || !job["paused_at"].is_null() {
            import.found(Kind::Left, place, "it is switched off");
            continue;
        }
        let at = &job["schedule"];
        let when = match at["kind"].as_str() {
            Some("cron") => at["expr"].as_str().map(|e| When::Cron(shown(e), None)),
            Some("interval") => at["minutes"].as_u64().map(|m| When::Every(m.max(1) * 60)),
            Some("once") => at["run_at"].as_str().map(|t| When::At(shown(t))),
            _ => None,
        };
        let task = job["prompt"].as_str().filter(|p| !p.trim().is_empty());
        if job["no_agent"] == true || !job["script"].is_null() {
            import.found(
                Kind::Left,
                place,
                "it runs a script of its own; make that a skill",
            );
            continue;
        }
        if job["deliver"].as_str().is_some_and(|d| d != "local") {
            import.found(
                Kind::Left,
                &place,
                "where its result is told: channels are set up anew",
            );
        }
        match (when, task) {
            (Some(when), Some(task)) => agent.plan(name, when, task.to_owned()),
            _ => import.found(Kind::Left, place, "its time or its work is not known"),
        }
    }
}
