//! The directory of an OpenClaw instance. Source: its configuration reference, `agents.entries`, and, of versions
//! before, `agents.list` and `cron/jobs.json`; who has heartbeats and owns jobs: its guides `gateway/heartbeat` and `cli/cron`,
//! version 2026.9 (read 2026-11).

use crate::accounting::report_files;
use crate::bundle::{self, WORKSPACE_FILE};
use crate::document::{Document, Key};
use crate::imported_agent::ImportedAgent;
use crate::names::{NameAssigner, one_line, shown_path};
use crate::parsing::Notation;
use crate::source::{SourceDir, redact_secrets};
use crate::{Error, Import, ReportKind, Result, TargetHouse, openclaw_config, timing};
use std::collections::BTreeMap;

const CONFIG: &str = "openclaw.json";
/// Shortest distance between two wakes, in seconds.
const WAKE_MIN: u64 = 30;
const MESSAGES: &str = "routing and handling of messages is configured with each channel";
const TOOL_SERVERS: &str = "tool servers are declared under `services`";
const ISOLATION: &str =
    "permissions and isolation are declared in the manifest, and none are imported";
/// Where newer versions keep their jobs, and how they are imported.
const JOBS_IN_DATABASE: &str = "the jobs of the scheduler are in a database: `openclaw cron list --all --json` prints them; save that as `cron/jobs.json` in this directory, and import again";
/// Parts of the configuration that are not imported, and why.
const PARTS: [(&str, &str); 13] = [
    ("gateway", "the house has its own APIs"),
    ("channels", "channels are not imported"),
    ("bindings", MESSAGES),
    ("multiAgent", MESSAGES),
    ("messages", MESSAGES),
    ("session", MESSAGES),
    ("tools", ISOLATION),
    ("plugins", TOOL_SERVERS),
    ("mcp", TOOL_SERVERS),
    ("hooks", "incoming webhooks are declared under `hooks`"),
    (
        "models",
        "models are declared under `providers`, with their prices",
    ),
    ("skills", bundle::SKILL),
    ("meta", "bookkeeping of OpenClaw"),
];
/// Keys of an agent or of the defaults that are not imported, and why.
const KEYS: [(&str, &str); 10] = [
    ("fallbacks", "fallback models"),
    ("sandbox", ISOLATION),
    ("runtime", ISOLATION),
    ("subagents", ISOLATION),
    ("tools", ISOLATION),
    ("skills", bundle::SKILL),
    ("groupChat", MESSAGES),
    (
        "userTimezone",
        "the time zone of the house is `budget.timezone`",
    ),
    ("agentDir", "conversations and state are not imported"),
    ("heartbeat", "a wake has an interval and no other setting"),
];
/// Why files of the instance are not imported.
const FILES: [(&str, &str); 7] = [
    (
        "agents",
        "conversations are not imported; copy what the agent should remember to `MEMORY.md`",
    ),
    (
        "sessions",
        "conversations are not imported; copy what the agent should remember to `MEMORY.md`",
    ),
    ("skills", bundle::SKILL),
    (
        "plugin-skills",
        "skills of plugins, which are OpenClaw's own",
    ),
    ("cache", "made again by the gateway when it is missing"),
    ("tmp", "locks and temporary files of the gateway"),
    ("logs", "logs of the gateway"),
];
/// Beginning of the names of earlier versions of the configuration.
const BACKUPS: &str = "openclaw.json.bak";

/// Agent of the instance: its id, and its entry, if it has one.
struct Row<'d> {
    id: String,
    entry: Option<Key<'d>>,
}

/// Agents of the instance.
struct Rows<'d> {
    all: Vec<Row<'d>>,
    /// Id of the agent that jobs without one belong to; empty if there is none.
    default: String,
}

/// Reads the agents and schedules of an OpenClaw instance (`openclaw.json` and workspaces) into `import`.
pub(crate) fn read_openclaw(
    source: &SourceDir,
    here: &TargetHouse,
    names: &mut NameAssigner,
    import: &mut Import,
) -> Result<()> {
    let config = openclaw_config::read(source, import, CONFIG)?;
    let config = config.ok_or_else(|| Error::WrongFormat {
        path: source.path.clone(),
        what: "directory of an OpenClaw instance",
        why: format!("`{CONFIG}` is missing"),
    })?;
    let document = Document::new(CONFIG, config, &source.skips);
    let root = document.root();
    let agents = root.get("agents");
    let defaults = agents.get("defaults");
    let rows = list_agents(&agents);
    let beats = rows.all.iter().any(|r| row_key(r, "heartbeat").is_some());
    let beating = defaults.get("heartbeat").get("agentId");
    let beating = beating.text().unwrap_or(&rows.default);
    let single = rows.all.len() == 1;
    let mut ids = BTreeMap::new();
    for row in &rows.all {
        let wanted = here.named.as_ref().filter(|_| single);
        let slug = names.assign(import, &row.id, wanted);
        let place = row
            .entry
            .as_ref()
            .map_or_else(|| agents.place(), Key::place);
        let mut agent = ImportedAgent::new(slug, &row.id, place);
        let own = row.entry.clone().unwrap_or_else(|| agents.get("-"));
        own.get("id").mark();
        own.get("default").mark();
        import_names(import, &own, &mut agent);
        import_model(import, here, (&own, &defaults), &mut agent);
        import_wake(
            import,
            (&own, &defaults),
            (beats, row.id == beating),
            &mut agent,
        );
        let is_default = row.id == rows.default;
        match directory(source, row, &defaults, is_default) {
            Some(dir) => {
                own.get("workspace").mark();
                if is_default {
                    defaults.get("workspace").mark();
                }
                agent.charter = source.read_agent_text(import, &format!("{dir}/SOUL.md"));
                bundle::import_workspace(source, import, &dir, &mut agent);
            }
            None => {
                let text = format!(
                    "the workspace of `{}` is not in this directory; import it as a `bundle`",
                    one_line(&row.id)
                );
                match own.get("workspace") {
                    said if said.is_set() => said.leave(import, text),
                    _ => import.add_report_entry(ReportKind::Left, agent.place.clone(), text),
                }
            }
        }
        ids.insert(row.id.clone(), import.agents.len());
        import.agents.push(agent);
    }
    if beats {
        defaults.get("heartbeat").get("every").leave(import, "not applied where no agent has it: once an agent has a `heartbeat` of its own, the others have none");
    }
    let with_jobs = import_jobs(source, import, &ids, &rows.default)?;
    for (_, channel) in root.get("channels").entries() {
        channel.leave(import, "channels are not imported");
    }
    document.report_rest(import, why_left);
    for name in source.list_names("") {
        if name.starts_with(BACKUPS) && source.is_file(&name) {
            source.account(&name);
            let text = "an earlier version of the configuration, with its secrets; not imported";
            import.add_report_entry(ReportKind::Secret, shown_path(&name), text);
        }
    }
    let mut reasons: Vec<(&str, &str)> = FILES.to_vec();
    reasons.push(("workspace", WORKSPACE_FILE));
    let (state, cron) = match with_jobs {
        true => (
            "databases of the gateway; the jobs were read from `cron`",
            "state of the other scheduler",
        ),
        false => (JOBS_IN_DATABASE, JOBS_IN_DATABASE),
    };
    reasons.extend([("state", state), ("cron", cron)]);
    report_files(source, import, &reasons);
    Ok(())
}

/// Why a key of the configuration is not imported.
fn why_left(path: &str) -> &'static str {
    let part = path.split(['.', '[']).next().unwrap_or_default();
    if let Some((_, why)) = PARTS.iter().find(|(name, _)| *name == part) {
        return why;
    }
    let known = KEYS
        .iter()
        .find(|(key, _)| path.split('.').any(|p| p == *key));
    known.map_or("a setting without an equivalent", |(_, why)| why)
}

/// Id as OpenClaw compares it.
fn plain_id(id: &str) -> String {
    id.trim().to_lowercase()
}

fn row_key<'d>(row: &Row<'d>, key: &str) -> Option<Key<'d>> {
    Some(row.entry.as_ref()?.get(key)).filter(Key::is_set)
}

fn list_agents<'d>(agents: &Key<'d>) -> Rows<'d> {
    let (entries, list) = (agents.get("entries"), agents.get("list"));
    let mut all: Vec<Row<'d>> = Vec::new();
    if entries.is_map() {
        let entries = entries.entries().into_iter();
        all.extend(entries.map(|(id, entry)| Row {
            id: id.to_owned(),
            entry: Some(entry),
        }));
    } else {
        all.extend(list.elements().into_iter().map(|entry| Row {
            id: entry.get("id").text().unwrap_or("main").trim().to_owned(),
            entry: Some(entry),
        }));
    }
    // From the whole list: what is left out may be the default one.
    let whole = match (entries.peek().as_object(), list.peek().as_array()) {
        (Some(entries), _) => {
            let is = |v: &serde_json::Value| v["default"] == true;
            let named = entries
                .iter()
                .find(|(_, v)| is(v))
                .or(entries.iter().next());
            named.map(|(id, _)| id.clone())
        }
        (None, Some(list)) => {
            let named = list.iter().find(|v| v["default"] == true).or(list.first());
            named.map(|v| v["id"].as_str().unwrap_or("main").trim().to_owned())
        }
        (None, None) => None,
    };
    // What the configuration names comes first; with explicit ownership the order of several agents means nothing.
    let system = agents.get("defaults").get("systemAgent").get("agentId");
    let marked = all
        .iter()
        .any(|row| row_key(row, "default").is_some_and(|d| d.is(true)));
    let explicit = agents.get("ownership").text() == Some("explicit");
    let whole = match system.text() {
        Some(id) => Some(id.trim().to_owned()),
        None if explicit && all.len() > 1 && !marked => Some(String::new()),
        None => whole,
    };
    if all.is_empty() && whole.is_none() {
        all.push(Row {
            id: "main".to_owned(),
            entry: None,
        });
    }
    Rows {
        all,
        default: whole.unwrap_or_else(|| "main".to_owned()),
    }
}

fn import_names(import: &mut Import, own: &Key<'_>, agent: &mut ImportedAgent) {
    let identity = own.get("identity");
    let (known_as, name) = (identity.get("name"), own.get("name"));
    agent.name = known_as.text().or(name.text()).map(one_line);
    if let (Some(shown), Some(other)) = (known_as.text(), name.text())
        && shown != other
    {
        let text = format!(
            "`{}`: the agent is named as in its identity",
            one_line(other)
        );
        name.report(import, ReportKind::Left, text);
    }
    agent.role = identity.get("theme").text().map(one_line);
}

fn import_model<'d>(
    import: &mut Import,
    here: &TargetHouse,
    (own, defaults): (&Key<'d>, &Key<'d>),
    agent: &mut ImportedAgent,
) {
    let primary = |at: Key<'d>| if at.is_map() { at.get("primary") } else { at };
    let (own, shared) = (primary(own.get("model")), primary(defaults.get("model")));
    let model = if own.is_set() { own } else { shared };
    if let Some(wanted) = model.text() {
        agent.model = here.translate_model(import, &model, wanted);
    }
}

/// The heartbeat of an agent is its wake. Agents without one of their own have that of the defaults only if no agent has one,
/// and then only the agent that they name, or the default one.
fn import_wake(
    import: &mut Import,
    (own, defaults): (&Key<'_>, &Key<'_>),
    (beats, is_beating): (bool, bool),
    agent: &mut ImportedAgent,
) {
    let shared = defaults.get("heartbeat").get("every");
    let every = match own.get("heartbeat") {
        heart if heart.is_set() => {
            let every = heart.get("every");
            if every.is_set() { every } else { shared }
        }
        _ if beats || !is_beating => return,
        _ => shared,
    };
    let Some(text) = every.text() else {
        return;
    };
    match timing::duration(text, 60) {
        Some(0) => {}
        Some(seconds) => {
            agent.wake = Some(seconds.max(WAKE_MIN));
            if seconds < WAKE_MIN {
                let text = format!(
                    "`{}`: an agent wakes at most every {WAKE_MIN} s",
                    one_line(text)
                );
                every.report(import, ReportKind::Changed, text);
            }
        }
        None => every.leave(import, format!("`{}` is not a duration", one_line(text))),
    }
}

/// Directory of an agent's workspace, below the instance.
fn directory(
    source: &SourceDir,
    row: &Row<'_>,
    defaults: &Key<'_>,
    is_default: bool,
) -> Option<String> {
    // Only the last part of a path counts, as the instance may have been moved.
    fn last(path: &Key<'_>) -> Option<String> {
        let path = path.peek().as_str()?;
        path.trim_end_matches('/')
            .rsplit('/')
            .next()
            .map(str::to_owned)
    }
    let own = row_key(row, "workspace").and_then(|w| last(&w));
    let shared = last(&defaults.get("workspace"));
    let mut all: Vec<String> = own.into_iter().collect();
    match is_default {
        true => all.extend(shared),
        false => all.extend(shared.map(|dir| format!("{dir}/{}", row.id))),
    }
    all.push(format!("workspace-{}", row.id));
    if is_default {
        all.push("workspace".to_owned());
    }
    all.into_iter().find(|dir| {
        let hidden = dir
            .split('/')
            .any(|part| part.starts_with('.') || part.is_empty());
        !hidden && source.is_dir(dir)
    })
}

/// Imports the jobs of versions that kept them in a file, and returns whether there is one; newer versions keep them in a
/// database.
fn import_jobs(
    source: &SourceDir,
    import: &mut Import,
    ids: &BTreeMap<String, usize>,
    default: &str,
) -> Result<bool> {
    for file in ["cron/jobs.json", "cron/jobs.json.migrated"] {
        let Some(document) = source.read_document(file, Notation::Json5)? else {
            continue;
        };
        let root = document.root();
        root.get("version").mark();
        let mut agents = BTreeMap::new();
        for (name, at) in ids {
            agents.entry(plain_id(name)).or_insert(*at);
        }
        for job in root.get("jobs").elements() {
            // The second is what its own list of jobs says.
            let (own, effective) = (job.get("agentId"), job.get("effectiveAgentId"));
            let id = own.text().or_else(|| effective.text());
            let id = plain_id(id.unwrap_or(default));
            match agents.get(&id) {
                Some(at) => import_job(import, &job, *at),
                None if id.is_empty() => job.leave(
                    import,
                    "it names no agent, and the configuration no default one",
                ),
                None => job.leave(
                    import,
                    format!("its agent `{}` is not imported", one_line(&id)),
                ),
            }
        }
        document.report_rest(import, |_| "state or setting of the other scheduler");
        return Ok(true);
    }
    Ok(false)
}

fn import_job(import: &mut Import, job: &Key<'_>, at: usize) {
    let name = job.get("name").text().or_else(|| job.get("id").text());
    let name = name.unwrap_or("job");
    if job.get("enabled").is(false) {
        return job.leave(import, "disabled");
    }
    job.get("enabled").mark();
    let payload = job.get("payload");
    if payload.get("kind").text() == Some("heartbeat") {
        let every = job.get("schedule").get("everyMs");
        match every.number().map(|ms| ms / 1000) {
            Some(seconds) => import.agents[at].wake = Some(seconds.max(WAKE_MIN)),
            None => job.leave(import, "a heartbeat without an interval"),
        }
        return;
    }
    if job.get("declarationKey").is_set() {
        let text = "a job that OpenClaw has for itself; a house needs none of these";
        return job.leave(import, text);
    }
    if job.get("trigger").is_set() {
        return job.leave(
            import,
            "it runs only when a script says so; turn it into a skill, or add it by hand",
        );
    }
    let (message, text) = (payload.get("message"), payload.get("text"));
    let prompt = if message.is_set() { message } else { text };
    let Some(task) = prompt.text() else {
        return job.leave(import, "its task is missing");
    };
    payload.get("kind").mark();
    let schedule = job.get("schedule");
    let zone = schedule.get("tz");
    let when = match schedule.get("kind").text() {
        Some("cron") => timing::cron(import, &schedule.get("expr"), zone.text()),
        Some("every") => match schedule.get("everyMs").number() {
            Some(ms) => {
                if ms % 1000 != 0 && ms >= 1000 {
                    let text = format!("imported as {} s", ms / 1000);
                    schedule
                        .get("everyMs")
                        .report(import, ReportKind::Changed, text);
                }
                timing::every(ms / 1000)
            }
            None => Err("its interval is missing".to_owned()),
        },
        Some("at") => timing::instant(import, &schedule.get("at"), zone.text()),
        _ => Err("its schedule is missing, or of an unknown kind".to_owned()),
    };
    let when = match when {
        Ok(when) => when,
        Err(why) => return job.leave(import, why),
    };
    schedule.get("anchorMs").leave(
        import,
        "intervals are counted from the instant at which the schedule is added",
    );
    let model = payload.get("model");
    if let Some(wanted) = model.text() {
        let text = format!(
            "model `{}`: a schedule uses its agent's model",
            one_line(wanted)
        );
        model.report(import, ReportKind::Left, text);
    }
    let timeout = payload.get("timeoutSeconds");
    let task = redact_secrets(import, &prompt.place(), task);
    let agent = &mut import.agents[at];
    let planned = agent.add_schedule(&mut import.findings, &job.place(), (name, when, task));
    planned.timeout = timeout.number().filter(|s| (1..=86_400).contains(s));
    if timeout.is_set() && planned.timeout.is_none() {
        timeout.leave(import, "not a time of 1 s to 24 h");
    }
}
