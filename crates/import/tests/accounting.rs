//! Nothing of an installation is lost without a word: each file and each key is carried over or in the report (S5-08).
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test tells by failing, and by what it prints"
)]

use abbey_import::{Format, Import, ReportKind, TargetHouse, read_installation};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Keys whose values decide something and are not themselves part of an agent.
const DECIDE: [&str; 20] = [
    "kind",
    "provider",
    "schema",
    "schemaVersion",
    "version",
    "slug",
    "id",
    "workspace",
    "status",
    "catchUpPolicy",
    "every",
    "assignee",
    "agentId",
    "template",
    "display",
    "schedule_display",
    "deliver",
    "at",
    "priority",
    "name",
];

fn here(skip: &[&str]) -> TargetHouse {
    TargetHouse {
        taken: ["scribe".parse().unwrap()].into(),
        providers: ["cloud", "local"].map(|p| p.parse().unwrap()).into(),
        named: None,
        skip: skip.iter().map(|s| (*s).to_owned()).collect(),
    }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

/// Directory with these files; documents are written as JSON.
fn installation(files: &[(&str, Value)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match content {
            Value::String(text) => fs::write(path, text).unwrap(),
            other => fs::write(path, other.to_string()).unwrap(),
        }
    }
    dir
}

/// Every place of the report and of what is carried over; `a.{b,c}` are two places.
fn places(import: &Import) -> BTreeSet<String> {
    let all = import
        .findings
        .iter()
        .map(|f| &f.place)
        .chain(&import.carried);
    all.flat_map(|place| match place.split_once(".{") {
        Some((above, keys)) => {
            let keys = keys.trim_end_matches('}').split(',');
            keys.map(|key| format!("{above}.{key}")).collect()
        }
        None => vec![place.clone()],
    })
    .collect()
}

/// Paths of the values of a document, with the values.
fn leaves(value: &Value, path: &str, found: &mut Vec<(String, Value)>) {
    let plain = |key: &str| {
        key.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_-$".contains(&b))
    };
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                let key = if plain(key) {
                    key.clone()
                } else {
                    format!("\"{key}\"")
                };
                let path = if path.is_empty() {
                    key
                } else {
                    format!("{path}.{key}")
                };
                leaves(value, &path, found);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (n, item) in items.iter().enumerate() {
                let name = ["name", "id", "key", "slug"]
                    .iter()
                    .find_map(|l| item.get(*l)?.as_str());
                leaves(
                    item,
                    &format!("{path}[{}]", name.map_or(n.to_string(), str::to_owned)),
                    found,
                );
            }
        }
        Value::Null | Value::Array(_) | Value::Object(_) => {}
        other => found.push((path.to_owned(), other.clone())),
    }
}

/// Document of a file, if it is one that has keys.
fn document(path: &str, text: &str) -> Option<Value> {
    let text = text.trim_start_matches('\u{feff}');
    if path.ends_with(".json") || path.ends_with(".json5") {
        return json5::from_str(text).ok();
    }
    if path.ends_with(".yaml") || path.ends_with(".yml") {
        return serde_saphyr::from_str(text).ok();
    }
    let text = text.replace("\r\n", "\n");
    let (front, _) = text.strip_prefix("---\n")?.split_once("\n---")?;
    serde_saphyr::from_str(front).ok()
}

fn files(root: &Path, below: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(below).unwrap() {
        let path = entry.unwrap().path();
        match fs::symlink_metadata(&path).unwrap().is_dir() {
            true => files(root, &path, found),
            false => found.push(path.strip_prefix(root).unwrap().display().to_string()),
        }
    }
}

/// Files and keys that are neither carried over nor in the report, and values that are said to be carried over and are not.
fn silent(root: &Path, import: &Import) -> Vec<String> {
    let places = places(import);
    let carried: String = import
        .agents
        .iter()
        .flat_map(|a| {
            let files = a.files.iter().map(|(_, text)| text.clone());
            a.manifest_lines()
                .into_iter()
                .chain(files)
                .chain(a.charter.clone())
        })
        .chain(import.tasks.iter().map(|t| t.text.clone()))
        .collect::<Vec<_>>()
        .join("\n");
    let mut all = Vec::new();
    files(root, root, &mut all);
    let mut silent = Vec::new();
    for file in all {
        let above = file.match_indices('/').map(|(n, _)| file[..n].to_owned());
        let covered = above.chain([file.clone()]).any(|p| places.contains(&p));
        let text = fs::read_to_string(root.join(&file)).unwrap_or_default();
        let inside = format!("{file}: ");
        let has_keys = places.iter().any(|p| p.starts_with(&inside));
        match document(&file, &text).filter(|_| has_keys) {
            Some(value) => {
                let mut keys = Vec::new();
                leaves(&value, "", &mut keys);
                for (path, value) in keys {
                    let place = format!("{inside}{path}");
                    let above = place
                        .match_indices(['.', '['])
                        .map(|(n, _)| place[..n].to_owned());
                    let own = places.contains(&place);
                    if !own && !above.clone().any(|p| places.contains(&p)) {
                        silent.push(place.clone());
                    }
                    let key = path.rsplit(['.', ']']).next().unwrap();
                    let shown = value.as_str().map_or(value.to_string(), |t| {
                        t.lines().next().unwrap_or("").to_owned()
                    });
                    let reported = import.findings.iter().any(|f| f.text.contains(&shown));
                    if import.carried.contains(&place)
                        && value.is_string()
                        && !DECIDE.contains(&key)
                        && !carried.contains(&shown)
                        && !reported
                    {
                        silent.push(format!("{place} is not carried over"));
                    }
                }
            }
            None if !covered => silent.push(file),
            None => {}
        }
    }
    silent
}

fn check(format: Format, root: &Path) -> Import {
    let import = read_installation(format, root, &here(&[])).unwrap();
    let silent = silent(root, &import);
    assert!(silent.is_empty(), "{silent:#?}\n{:#?}", import.findings);
    import
}

#[test]
fn every_key_and_file_of_the_fixtures_is_accounted_for() {
    for (format, name) in [
        (Format::Openclaw, "openclaw"),
        (Format::Hermes, "hermes"),
        (Format::Paperclip, "paperclip"),
        (Format::Fireclaw, "fireclaw"),
        (Format::Bundle, "openclaw/workspace"),
    ] {
        check(format, &fixture(name));
    }
}

fn job(name: &str, schedule: Value, more: Value) -> Value {
    let mut job = json!({
        "id": format!("id of {name}"), "name": name, "enabled": true, "schedule": schedule,
        "payload": { "kind": "agentTurn", "message": format!("Work of {name}.") },
    });
    for (key, value) in more.as_object().unwrap() {
        job[key] = value.clone();
    }
    job
}

fn found<'i>(import: &'i Import, place: &str) -> Vec<&'i str> {
    let entries = import.findings.iter().filter(|f| f.place.contains(place));
    entries.map(|f| f.text.as_str()).collect()
}

/// Lines of the entry of an agent.
fn entry(import: &Import, slug: &str) -> String {
    let agent = import.agents.iter().find(|a| a.slug.as_str() == slug);
    agent
        .unwrap_or_else(|| panic!("no agent {slug}"))
        .manifest_lines()
        .join("\n")
}

#[test]
fn an_openclaw_instance_with_everything_is_accounted_for() {
    let nine = json!({ "kind": "cron", "expr": "0 9 * * 1-5", "tz": "Europe/Ljubljana" });
    let jobs = vec![
        job("Morning brief (weekdays)", nine.clone(), json!({})),
        job(
            "Über/prüfung — jetzt!",
            nine.clone(),
            json!({ "agentId": " LAB " }),
        ),
        job(
            "朝の見回り",
            nine.clone(),
            json!({ "deleteAfterRun": true }),
        ),
        job("unknown", nine.clone(), json!({ "agentId": "nobody" })),
        job(
            "seconds",
            json!({ "kind": "cron", "expr": "0 30 7 * * *", "tz": "Asia/Tokyo" }),
            json!({}),
        ),
        job(
            "daily",
            json!({ "kind": "cron", "expr": "@daily", "tz": "Asia/Tokyo" }),
            json!({}),
        ),
        job(
            "hour",
            json!({ "kind": "cron", "expr": "0 31 * * *" }),
            json!({}),
        ),
        job(
            "mars",
            json!({ "kind": "cron", "expr": "0 9 * * *", "tz": "Mars/Base" }),
            json!({}),
        ),
        job(
            "gift",
            json!({ "kind": "at", "at": "2031-12-24T18:00:00", "tz": "Asia/Shanghai" }),
            json!({}),
        ),
        job(
            "water",
            json!({ "kind": "cron", "expr": "0 9 * * *" }),
            json!({}),
        ),
        job(
            "pole",
            json!({ "kind": "every", "everyMs": 900_000, "anchorMs": 1_767_225_600_000_u64 }),
            json!({}),
        ),
        job(
            "long",
            nine,
            json!({ "payload": { "kind": "agentTurn", "message": "Think.", "model": "cloud/x", "timeoutSeconds": 90, "thinking": "high" } }),
        ),
        job(
            "review",
            json!({ "kind": "every", "everyMs": 60_000 }),
            json!({ "declarationKey": "review:ops" }),
        ),
        json!({ "name": "beat", "declarationKey": "heartbeat:ops", "agentId": "ops", "schedule": { "kind": "every", "everyMs": 600_000 }, "payload": { "kind": "heartbeat" } }),
        job(
            "sentinel",
            json!({ "kind": "every", "everyMs": 60_000 }),
            json!({ "trigger": { "script": "x" } }),
        ),
        json!({ "id": "resting", "enabled": false, "schedule": { "kind": "every", "everyMs": 1 } }),
    ];
    let dir = installation(&[
        ("openclaw.json", json!({
            "meta": { "lastTouchedVersion": "1" },
            "agents": { "$include": "./parts/agents.json5" },
            "channels": { "telegram": { "enabled": true, "botToken": "t" } },
            "env": { "vars": { "A.b c": "x" } }, "logging": { "level": "debug" },
        })),
        ("parts/agents.json5", json!("{ // two\n defaults: { $include: 'defaults.json5', maxConcurrent: 3 }, list: [
            { id: 'lab', heartbeat: { every: '1h30m', prompt: 'Look.' }, workspace: '~/.openclaw/workspace-lab' },
            { id: 'ops', name: 'Opera', default: true, identity: { name: 'Ops', emoji: 'x' }, tools: { deny: ['exec'] } },
        ] }")),
        ("parts/defaults.json5", json!("{ model: { primary: 'cloud/m', fallbacks: ['cloud/n'] }, heartbeat: { every: '30m' } }")),
        ("cron/jobs.json", json!({ "version": 1, "jobs": jobs })),
        ("workspace-lab/SOUL.md", json!("You try things.")),
        ("workspace-lab/TOOLS.md", json!("- a hammer")),
        ("workspace/SOUL.md", json!("You keep things.")),
        ("workspace/notes/a.txt", json!("a")),
        ("workspace/memory/what is this.md", json!("a")),
        ("workspace/skills/x/SKILL.md", json!("---\nname: x\n---\n")),
        ("credentials/telegram.json", json!({ "t": 1 })),
        ("agents/lab/sessions/1.jsonl", json!("{}")),
        ("exec-approvals.json", json!({ "a": 1 })),
    ]);
    std::os::unix::fs::symlink("/etc/hosts", dir.path().join("workspace/hosts")).unwrap();
    fs::write(dir.path().join("workspace/USER.md"), b"caf\xe9").unwrap();
    let import = read_installation(Format::Openclaw, dir.path(), &here(&[])).unwrap();
    let mut lost = silent(dir.path(), &import);
    // The included files are read as parts of the first; what they say is there under its keys.
    lost.retain(|place| !place.starts_with("openclaw.json: agents"));
    assert!(lost.is_empty(), "{lost:#?}");
    let (lab, ops) = (entry(&import, "lab"), entry(&import, "ops"));
    for part in [
        "morning-brief-weekdays:",
        "job: {",
        "30 7 * * *",
        "0 0 * * *",
        "2031-12-24T10:00:00Z",
        "timeout: 90s",
        "name: \"Ops\"",
    ] {
        assert!(ops.contains(part), "{part}: {ops}");
    }
    assert!(
        ops.contains("wake: { every: 600s }") && !ops.contains("31 *") && !ops.contains("Mars"),
        "{ops}"
    );
    assert!(
        lab.contains("wake: { every: 5400s }") && lab.contains("Work of Über"),
        "{lab}"
    );
    assert!(lab.contains("model: \"cloud/m\""), "{lab}");
    for (place, text) in [
        ("jobs[hour]", "0 31 * * *"),
        ("jobs[mars]", "`Mars/Base` is not a time zone"),
        ("jobs[unknown]", "`nobody`"),
        ("jobs[pole].schedule.anchorMs", "counted from"),
        ("jobs[water].schedule.expr", "no time zone"),
        ("jobs[long].payload.model", "cloud/x"),
        ("heartbeat.prompt", "a wake has an interval"),
        ("jobs[review]", "for itself"),
        ("jobs[sentinel]", "when a script says so"),
        ("defaults.heartbeat.every", "of its own"),
        ("workspace/hosts", "a link"),
        ("workspace/USER.md", "not UTF-8"),
        ("workspace-lab/TOOLS.md", "abbey cp"),
        ("channels.telegram.botToken", "a secret"),
    ] {
        let told = found(&import, place);
        assert!(
            told.iter().any(|t| t.contains(text)),
            "{place}: {told:?}\n{:#?}",
            import.findings
        );
    }
}

#[test]
fn a_job_without_an_agent_belongs_to_whom_the_configuration_names() {
    let jobs = json!({ "jobs": [
        job("free", json!({ "kind": "every", "everyMs": 60_000 }), json!({})),
        job("listed", json!({ "kind": "every", "everyMs": 60_000 }), json!({ "effectiveAgentId": "a" })),
    ] });
    let agents = json!({ "ownership": "explicit", "entries": { "a": {}, "b": {} } });
    let named = json!({ "ownership": "explicit", "defaults": { "systemAgent": { "agentId": "b" } }, "entries": { "a": {}, "b": {} } });
    for (agents, owner) in [(agents, None), (named, Some("b"))] {
        let dir = installation(&[
            ("openclaw.json", json!({ "agents": agents })),
            ("cron/jobs.json", jobs.clone()),
        ]);
        let import = read_installation(Format::Openclaw, dir.path(), &here(&[])).unwrap();
        assert!(entry(&import, "a").contains("listed") && !entry(&import, "a").contains("free"));
        match owner {
            Some(owner) => assert!(entry(&import, owner).contains("free")),
            None => assert!(found(&import, "jobs[free]")[0].contains("names no agent")),
        }
    }
}

#[test]
fn a_part_that_cannot_be_included_is_an_error() {
    for (include, why) in [
        ("../agents.json5", "outside"),
        ("agents.json5", "missing"),
        ("openclaw.json", "by itself"),
    ] {
        let dir = installation(&[(
            "openclaw.json",
            json!({ "agents": { "$include": include } }),
        )]);
        let told = read_installation(Format::Openclaw, dir.path(), &here(&[]))
            .unwrap_err()
            .to_string();
        assert!(told.contains(why) && told.contains(include), "{told}");
    }
}

#[test]
fn a_hermes_home_keeps_its_clock_its_counts_and_its_profiles() {
    let cron = json!({ "kind": "cron", "expr": "0 9 * * *", "display": "0 9 * * *" });
    let dir = installation(&[
        (
            "config.yaml",
            json!(
                "model:\n  default: m\n  provider: cloud\n  api_key: abc\ntimezone: Asia/Tokyo\nterminal:\n  backend: local\n"
            ),
        ),
        ("SOUL.md", json!("You are calm.")),
        (
            "cron/jobs.json",
            json!({ "jobs": [
            { "id": "1", "name": "brief", "prompt": "Write.", "schedule": cron, "enabled": true, "repeat": { "times": null, "completed": 4 } },
            { "id": "2", "name": "pollen", "prompt": "Count.", "schedule": { "kind": "interval", "minutes": 30 }, "repeat": { "times": 3, "completed": 1 } },
            { "id": "3", "name": "once", "prompt": "Ring.", "schedule": { "kind": "once", "run_at": "2031-01-01T09:00:00" }, "repeat": { "times": 1, "completed": 0 }, "skills": ["x"] },
        ], "updated_at": "2026" }),
        ),
        ("profiles/coder/SOUL.md", json!("You write programs.")),
        ("profiles/coder/config.yaml", json!("model: cloud/large\n")),
        ("profiles/coder/memories/MEMORY.md", json!("tabs")),
        ("profiles/empty/cache/x", json!("x")),
        ("memories/OTHER.md", json!("more")),
        ("logs/agent.log", json!("more")),
    ]);
    let import = check(Format::Hermes, dir.path());
    let own = entry(&import, import.agents[0].slug.as_str());
    assert!(
        own.contains("timezone: \"Asia/Tokyo\"") && own.contains("2031-01-01T00:00:00Z"),
        "{own}"
    );
    assert!(
        !own.contains("pollen") && found(&import, "jobs[pollen]")[0].contains("2 more times"),
        "{own}"
    );
    let coder = entry(&import, "coder");
    assert!(
        coder.contains("cloud/large") && import.agents[1].files[0].1 == "tabs",
        "{coder}"
    );
    assert!(
        !found(&import, "profiles/empty").is_empty()
            && found(&import, "memories")[0].contains("OTHER.md")
    );
}

#[test]
fn a_company_of_another_system_is_read_or_refused_with_file_and_line() {
    let page = "\u{feff}---\r\nname: Miller of Sora\r\ntitle: grinds\r\nreportsTo: chief\r\nteam: mill\r\n---\r\n\r\nYou grind.\r\n";
    let files = [
        (
            "COMPANY.md",
            json!(
                "---\nname: Bakery\nschema: agentcompanies/v1\ngoals: [bread]\n---\n\nWe bake.\n"
            ),
        ),
        (
            "agents/chief/AGENTS.md",
            json!("---\nname: Chief\n---\nYou lead.\n"),
        ),
        ("agents/miller/AGENTS.md", json!(page)),
        (
            "tasks/oven/TASK.md",
            json!(
                "---\nname: Oven\nassignee: miller\npriority: high\nlabels: [hot]\n---\nClean it.\n"
            ),
        ),
        ("teams/mill/TEAM.md", json!("---\nname: Mill\n---\n")),
        (
            ".paperclip.yaml",
            json!(
                "company:\n  brandColor: red\nagents:\n  miller:\n    budgetMonthlyCents: 3000\n  ghost:\n    role: x\ntasks:\n  oven: { status: in_progress, labels: [a] }\nroutines:\n  bread: { status: active }\n"
            ),
        ),
    ];
    let dir = installation(&files);
    let import = check(Format::Paperclip, dir.path());
    let miller = entry(&import, "miller");
    for part in [
        "Miller of Sora",
        "grinds",
        "reports_to: chief",
        "usd_per_day: 1.000",
    ] {
        assert!(miller.contains(part), "{part}: {miller}");
    }
    assert_eq!(import.agents[1].charter.as_deref(), Some("You grind."));
    assert_eq!(import.tasks[0].priority, "P1");
    for place in [
        "COMPANY.md: goals",
        "COMPANY.md: name",
        "teams/mill",
        "agents.ghost",
        "routines.bread",
        "AGENTS.md: team",
        "TASK.md: labels",
    ] {
        assert!(
            !found(&import, place).is_empty(),
            "{place}: {:#?}",
            import.findings
        );
    }
    for (file, text, place) in [
        (
            ".paperclip.yaml",
            "agents:\n  miller: {\n",
            ".paperclip.yaml:",
        ),
        (
            "tasks/oven/TASK.md",
            "---\nname: a\nname: b\n---\n",
            "tasks/oven/TASK.md:3: the key `name` occurs twice",
        ),
    ] {
        let before = fs::read(dir.path().join(file)).unwrap();
        fs::write(dir.path().join(file), text).unwrap();
        let told = read_installation(Format::Paperclip, dir.path(), &here(&[]))
            .unwrap_err()
            .to_string();
        assert!(told.contains(place), "{told}");
        // The rest comes without it.
        let import = read_installation(Format::Paperclip, dir.path(), &here(&[file])).unwrap();
        assert!(found(&import, file).contains(&"left out by `--skip`"));
        fs::write(dir.path().join(file), before).unwrap();
    }
}

#[test]
fn disks_templates_and_models_of_a_fireclaw_host_are_accounted_for() {
    let dir = installation(&[
        (
            "agents.json",
            json!([{ "name": "quill", "nick": "Quill", "model": "elsewhere/m", "template": "coder", "octet": 9, "mood": "good" }]),
        ),
        (
            "templates/coder.json",
            json!({ "name": "coder", "model": "local/m", "trigger": "!code", "persona": "You write programs.", "tools": ["sh"] }),
        ),
        ("workspaces/quill.ext4", json!("disk")),
        ("workspaces/lost.ext4", json!("disk")),
        ("bridge.conf", json!("x")),
    ]);
    let import = check(Format::Fireclaw, dir.path());
    for (place, text) in [
        ("workspaces/quill.ext4", "abbey cp PATH quill:"),
        ("workspaces/lost.ext4", "no agent"),
        ("agents.json: [quill].model", "elsewhere/m"),
        ("agents.json: [quill].mood", "no equivalent"),
        ("templates/coder.json: {model,tools}", ""),
    ] {
        let place = if text.is_empty() {
            "templates/coder.json"
        } else {
            place
        };
        let told = found(&import, place);
        assert!(
            told.iter().any(|t| t.contains(text)),
            "{place}: {told:?} {:#?}",
            import.findings
        );
    }
}

#[test]
fn what_the_operator_skips_is_left_out_and_must_be_there() {
    let root = fixture("openclaw");
    let skip = [
        "openclaw.json: agents.entries.scout",
        "cron/jobs.json: jobs[Morning round]",
        "workspace/MEMORY.md",
    ];
    let import = read_installation(Format::Openclaw, &root, &here(&skip)).unwrap();
    let slugs: Vec<&str> = import.agents.iter().map(|a| a.slug.as_str()).collect();
    assert_eq!(slugs, ["main"]);
    assert!(
        !entry(&import, "main").contains("schedules"),
        "{}",
        entry(&import, "main")
    );
    assert!(
        import.agents[0]
            .files
            .iter()
            .all(|(path, _)| path != "MEMORY.md")
    );
    for place in skip {
        assert_eq!(found(&import, place), ["left out by `--skip`"], "{place}");
    }
    assert!(found(&import, "jobs[Weather]")[0].contains("`scout` is not imported"));
    let told = read_installation(Format::Openclaw, &root, &here(&["nowhere.json"]))
        .unwrap_err()
        .to_string();
    assert!(told.contains("--skip nowhere.json"), "{told}");
}

#[test]
fn keys_of_a_bundle_are_left_out_as_reports_write_them() {
    let dir = installation(&[
        (
            "agent.yaml",
            json!("guest:\n  name: Guest\n  egress: full\n  colour: red\n"),
        ),
        ("SOUL.md", json!("Be kind.")),
    ]);
    let skip = ["agent.yaml: egress", "agent.yaml: colour"];
    let import = read_installation(Format::Bundle, dir.path(), &here(&skip)).unwrap();
    assert_eq!(import.agents[0].skipped_keys, ["egress", "colour"]);
    for place in skip {
        assert_eq!(found(&import, place), ["left out by `--skip`"], "{place}");
    }
    let told = read_installation(Format::Bundle, dir.path(), &here(&["agent.yaml: asks"]));
    assert!(
        told.unwrap_err()
            .to_string()
            .contains("no such file or key")
    );
}

/// Names that are tried one after the other, or reports that look at all others, would make this take hours.
#[test]
fn ten_thousand_jobs_of_one_name_are_imported_and_reported() {
    let every = json!({ "kind": "every", "everyMs": 60_000 });
    let jobs = (0..10_000).map(|n| match n % 2 {
        0 => job("round", every.clone(), json!({})),
        _ => job("round", json!({ "kind": "moon" }), json!({})),
    });
    let jobs: Vec<Value> = jobs.collect();
    let dir = installation(&[
        ("openclaw.json", json!({})),
        ("cron/jobs.json", json!({ "jobs": jobs })),
    ]);
    let import = read_installation(Format::Openclaw, dir.path(), &here(&[])).unwrap();
    let schedules = &import.agents[0].schedules;
    assert_eq!(schedules.len(), 5_000);
    assert_eq!(
        (schedules[0].name.as_str(), schedules[4_999].name.as_str()),
        ("round", "round-5000")
    );
    let left = import.findings.iter();
    let left = left.filter(|f| f.text.contains("of an unknown kind"));
    assert_eq!(left.count(), 5_000);
}

/// Number of files of an installation, and of keys in its documents.
fn size(root: &Path) -> (usize, usize) {
    let (mut all, mut keys) = (Vec::new(), Vec::new());
    files(root, root, &mut all);
    for file in &all {
        let text = fs::read_to_string(root.join(file)).unwrap_or_default();
        if let Some(value) = document(file, &text) {
            leaves(&value, "", &mut keys);
        }
    }
    (all.len(), keys.len())
}

/// Prints what became of homes that the packages of OpenClaw and Hermes made; `cargo xtask live-imports` makes them.
#[test]
fn live_homes_are_accounted_for() {
    let Some(homes) = std::env::var_os("ABBEY_LIVE_HOMES").map(PathBuf::from) else {
        println!("skipped: `cargo xtask live-imports` makes the homes that this imports");
        return;
    };
    println!(
        "{:<9} {:>6} {:>6} {:>7} {:>10} {:>8} {:>8} {:>13} {:>7} {:>7}",
        "home",
        "files",
        "keys",
        "agents",
        "schedules",
        "carried",
        "changed",
        "not imported",
        "secret",
        "silent"
    );
    for (format, name, agents, schedules) in [
        (Format::Openclaw, "openclaw", vec!["main", "scout"], 3),
        (Format::Hermes, "hermes", vec!["hermes", "courier"], 2),
    ] {
        let root = homes.join(name);
        let import = check(format, &root);
        let slugs: Vec<&str> = import.agents.iter().map(|a| a.slug.as_str()).collect();
        assert_eq!(slugs, agents);
        let planned: usize = import.agents.iter().map(|a| a.schedules.len()).sum();
        assert_eq!(planned, schedules, "{:#?}", import.findings);
        let count = |kind| import.findings.iter().filter(|f| f.kind == kind).count();
        let (files, keys) = size(&root);
        println!(
            "{name:<9} {files:>6} {keys:>6} {:>7} {planned:>10} {:>8} {:>8} {:>13} {:>7} {:>7}",
            slugs.len(),
            import.carried.len(),
            count(ReportKind::Changed),
            count(ReportKind::Left),
            count(ReportKind::Secret),
            0
        );
    }
}

/// The check above finds what is lost.
#[test]
fn a_key_that_is_not_accounted_for_is_found() {
    let dir = installation(&[
        ("config.yaml", json!("model: cloud/m\nterminal: { a: 1 }\n")),
        ("SOUL.md", json!("x")),
        ("b/c.txt", json!("x")),
    ]);
    let mut import = check(Format::Hermes, dir.path());
    import.findings.clear();
    assert_eq!(
        silent(dir.path(), &import),
        ["b/c.txt", "config.yaml: terminal.a"]
    );
}
