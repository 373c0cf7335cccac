//! A `HERMES_HOME`, with the homes of its profiles. Source: Hermes Agent 0.19, its directory layout, `config.yaml`, and
//! `cron/jobs.json` (read 2026-11).

use crate::accounting::report_files;
use crate::bundle::leave_skills;
use crate::document::Key;
use crate::imported_agent::{ImportedAgent, ScheduleTime};
use crate::names::NameAssigner;
use crate::parsing::Notation;
use crate::source::{SourceDir, redact_secrets};
use crate::{Error, Import, ReportKind, Result, TargetHouse, timing};
use abbey_model::Slug;

const CONVERSATIONS: &str =
    "conversations are not imported; copy what the agent should remember to `MEMORY.md`";
const SUPERVISED: &str = "agents are supervised by the house";
const PACKAGE: &str = "not imported: caches, logs and state of the package";
/// Why files of a home are not imported.
const FILES: [(&str, &str); 14] = [
    ("state.db", CONVERSATIONS),
    ("sessions", CONVERSATIONS),
    ("response_store.db", CONVERSATIONS),
    ("gateway.pid", SUPERVISED),
    ("gateway.lock", SUPERVISED),
    ("gateway_state.json", SUPERVISED),
    ("channel_directory.json", "channels are not imported"),
    ("pairing", "channels are not imported"),
    (
        "skills",
        "skills are not imported: copy what is needed into `skills/` of the house's home",
    ),
    ("logs", PACKAGE),
    ("cache", PACKAGE),
    ("image_cache", PACKAGE),
    ("audio_cache", PACKAGE),
    ("cron", "state of the other scheduler"),
];

/// Reads the agent of a Hermes home directory, and one for each of its profiles, into `import`.
pub(crate) fn read_hermes(
    source: &SourceDir,
    here: &TargetHouse,
    names: &mut NameAssigner,
    import: &mut Import,
) -> Result<()> {
    let dir = source
        .path
        .file_name()
        .map(|n| n.to_string_lossy().into_owned());
    let was = dir.unwrap_or_default();
    let was = was.trim_start_matches('.').to_owned();
    let found = read_home(
        source,
        import,
        ("", &was),
        (here, names, here.named.as_ref()),
    )?;
    if !found {
        return Err(Error::WrongFormat {
            path: source.path.clone(),
            what: "Hermes home",
            why: "there is neither `config.yaml` nor `SOUL.md`".to_owned(),
        });
    }
    let profiles = source.list_names("profiles");
    for name in &profiles {
        // A name of an agent is a name, not a path.
        if source.is_dir(&format!("profiles/{name}")) {
            let at = format!("profiles/{name}/");
            let _reported_as_a_directory =
                read_home(source, import, (&at, name), (here, names, None))?;
        }
    }
    let mut reasons: Vec<(String, &str)> = Vec::new();
    for (file, why) in FILES {
        reasons.push((file.to_owned(), why));
        let profiles = profiles.iter();
        reasons.extend(profiles.map(|name| (format!("profiles/{name}/{file}"), why)));
    }
    report_files(source, import, &reasons);
    Ok(())
}

/// Reads the agent `was` of the home in the directory `at`, which is empty or ends in `/`. Returns false if there is none.
fn read_home(
    source: &SourceDir,
    import: &mut Import,
    (at, was): (&str, &str),
    (here, names, named): (&TargetHouse, &mut NameAssigner, Option<&Slug>),
) -> Result<bool> {
    let yaml = Notation::Yaml { lines_before: 0 };
    let config = source.read_document(&format!("{at}config.yaml"), yaml)?;
    let soul = format!("{at}SOUL.md");
    if config.is_none() && !source.is_file(&soul) {
        return Ok(false);
    }
    let slug = names.assign(import, was, named);
    let place = if at.is_empty() {
        "."
    } else {
        at.trim_end_matches('/')
    };
    let mut agent = ImportedAgent::new(slug, was, place);
    let mut zone = None;
    if let Some(config) = &config {
        let root = config.root();
        import_model(import, here, &root.get("model"), &mut agent);
        let key = root.get("timezone");
        zone = key.text().map(|z| z.trim().to_owned());
        if let Some(Err(why)) = zone.as_deref().map(timing::check_zone) {
            key.report(import, ReportKind::Left, why);
            zone = None;
        }
    }
    agent.charter = source.read_agent_text(import, &soul);
    for (from, to) in [
        ("memories/MEMORY.md", "MEMORY.md"),
        ("memories/USER.md", "USER.md"),
        ("AGENTS.md", "AGENTS.md"),
    ] {
        if let Some(text) = source.read_agent_text(import, &format!("{at}{from}")) {
            agent.files.push((to.to_owned(), text));
        }
    }
    let file = format!("{at}cron/jobs.json");
    if let Some(document) = source.read_document(&file, Notation::Json)? {
        let root = document.root();
        let jobs = if root.is_list() {
            root
        } else {
            root.get("jobs")
        };
        for job in jobs.elements() {
            import_job(import, &job, zone.as_deref(), &mut agent);
        }
        document.report_rest(import, why_of_job);
    }
    leave_skills(source, import, &format!("{at}skills"));
    if let Some(config) = &config {
        config.report_rest(import, |_| "a setting without an equivalent");
    }
    import.agents.push(agent);
    Ok(true)
}

fn import_model(
    import: &mut Import,
    here: &TargetHouse,
    model: &Key<'_>,
    agent: &mut ImportedAgent,
) {
    let keys = [model.clone(), model.get("default"), model.get("model")];
    let Some((key, wanted)) = keys.iter().find_map(|k| Some((k, k.text()?))) else {
        return;
    };
    let provider = model.get("provider");
    let wanted = match (wanted.contains('/'), provider.text()) {
        (false, Some(provider)) => format!("{provider}/{wanted}"),
        _ => wanted.to_owned(),
    };
    agent.model = here.translate_model(import, key, &wanted);
}

fn import_job(import: &mut Import, job: &Key<'_>, zone: Option<&str>, agent: &mut ImportedAgent) {
    let name = job.get("name").text().or_else(|| job.get("id").text());
    let name = name.unwrap_or("job");
    let resting = job.get("enabled").is(false) || job.get("paused_at").is_set();
    if resting {
        return job.leave(import, "disabled");
    }
    job.get("enabled").mark();
    if job.get("no_agent").is(true) || job.get("script").is_set() {
        return job.leave(import, "runs a script; turn it into a skill");
    }
    let at = job.get("schedule");
    let kind = at.get("kind").text();
    if let Some(times) = times_left(job).filter(|n| kind != Some("once") || *n > 1) {
        let text =
            format!("it runs {times} more times, and a schedule has no end here; add it by hand");
        return job.leave(import, text);
    }
    job.get("repeat").mark();
    let prompt = job.get("prompt");
    let Some(task) = prompt.text() else {
        return job.leave(import, "its prompt is missing");
    };
    let when = match kind {
        Some("cron") => timing::cron(import, &at.get("expr"), zone),
        Some("interval") => match at.get("minutes").number() {
            Some(minutes) => timing::every(minutes.saturating_mul(60)),
            None => Err("its interval is missing".to_owned()),
        },
        Some("once") => timing::instant(import, &at.get("run_at"), zone),
        _ => Err("its schedule is missing, or of an unknown kind".to_owned()),
    };
    let when: ScheduleTime = match when {
        Ok(when) => when,
        Err(why) => return job.leave(import, why),
    };
    // The same time in words.
    at.get("display").mark();
    job.get("schedule_display").mark();
    match job.get("deliver").text() {
        None | Some("local") => {}
        Some(_) => job
            .get("deliver")
            .leave(import, "its delivery target: channels are not imported"),
    }
    let task = redact_secrets(import, &prompt.place(), task);
    agent.add_schedule(&mut import.findings, &job.place(), (name, when, task));
}

/// How often a job runs until it ends by itself; none if it does not end.
fn times_left(job: &Key<'_>) -> Option<u64> {
    let repeat = job.get("repeat");
    let times = repeat.peek().as_u64().or(repeat.peek()["times"].as_u64())?;
    let done = repeat.peek()["completed"].as_u64().unwrap_or(0);
    Some(times.saturating_sub(done)).filter(|_| times > 0)
}

/// Why a key of the file of jobs is not imported.
fn why_of_job(path: &str) -> &'static str {
    let key = path.rsplit(['.', ']']).next().unwrap_or_default();
    match key {
        "skill" | "skills" => "a schedule's task names no skills here: name them in its text",
        "model" | "provider" | "base_url" => "a schedule uses its agent's model",
        _ => "state or setting of the other scheduler",
    }
}
