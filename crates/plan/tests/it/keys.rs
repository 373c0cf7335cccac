//! Every key of the manifest: a changed value is seen, named with old and new value, and has its declared effect.

use crate::{after, inventory};
use abbey_model::CellKind;
use abbey_plan::{Action, Definition, Effect, House, KeyChange, Plan, definitions, parse, plan};
use serde_json::{Value, json};

/// A manifest in which every kind of thing is declared.
fn sample() -> Value {
    json!({
        "version": 1, "house": "demo",
        "listen": { "tls_certificate": "cert.pem", "tls_key": "key.pem" },
        "network": { "slots": { "git": 2, "cms": 3, "models": 4 } },
        "escalation": { "to": "b", "within": "1h" },
        "budget": { "tokens_per_day": 1000, "usd_per_day": 5, "runs_per_day": 10, "minutes_per_day": 100 },
        "providers": { "local": { "kind": "openai", "base_url": "http://127.0.0.1:1/v1" } },
        "services": {
            "web": { "command": ["cat"] },
            "calc": { "kind": "tools", "command": ["cat"] },
            "db": { "kind": "postgres" },
            "site": { "kind": "site" },
            "ext": { "at": "192.0.2.7:80" },
        },
        "agents": {
            "a": {
                "uses": ["db", "site"], "skills": ["report", "checkpoint"],
                "budget": { "tokens_per_day": 100 },
                "grants": { "b": { "tokens": 7 } },
                "wake": { "every": "1h", "jitter": "1m" },
                "schedules": {
                    "s": { "cron": "0 3 * * *", "task": "look" },
                    "t": { "every": "1h", "workflow": "v", "with": { "x": "1" } },
                },
            },
            "b": { "model": "local/small" },
        },
        "workflows": { "w": {
            "input": { "payload": { "type": "object" }, "x": { "type": "text", "default": "1" }, "list": { "type": "list", "default": [] } },
            "steps": {
                "task": { "task": "one", "expects": { "count": "number" }, "undo": { "task": "back" } },
                "skill": { "skill": "report", "with": { "x": "$input.x" } },
                "approval": { "approval": "go on?" },
                "event": { "event": "done" },
                "pause": { "pause": "1m" },
                "when": { "task": "two", "when": [{ "value": "$steps.task.count", "above": 3 }] },
            },
            "output": { "x": "$input.x" },
            "on": ["pushed"],
        },
        "v": {
            "input": { "x": { "type": "text" } },
            "steps": { "task": { "task": "one" } },
        } },
        "hooks": {
            "gh": { "kind": "github", "secret": "env:S", "agent": "a" },
            "claw": { "kind": "openclaw", "secret": "env:S", "agent": "a" },
        },
        "checkpoint_sinks": {
            "disk": { "file": "/mnt/heads.jsonl" },
            "log": { "syslog": "unix:/dev/log" },
            "web": { "url": "https://audit.example.org/", "token": "env:S" },
        },
        "documents": { "text": { "writer": "a" }, "log": { "kind": "log" } },
    })
}

/// Where a key is tried in the sample, where the usual names do not do.
fn place(path: &str) -> Option<&'static str> {
    Some(match path {
        "services.NAME.at" => "services.ext.at",
        "services.NAME.names.NAME" => "services.db.names.a",
        "services.NAME.grace" => "services.db.grace",
        "services.NAME.connections" => "services.db.connections",
        "services.NAME.rate" => "services.site.rate",
        "services.NAME.quota" => "services.site.quota",
        "agents.NAME.schedules.NAME.with.NAME" => "agents.a.schedules.t.with.x",
        "workflows.NAME.steps.NAME.skill" => "workflows.w.steps.skill.skill",
        "workflows.NAME.steps.NAME.each" => "workflows.w.steps.skill.each",
        "workflows.NAME.steps.NAME.expects.NAME" => "workflows.w.steps.skill.expects.more",
        "workflows.NAME.steps.NAME.with.NAME" => "workflows.w.steps.skill.with.x",
        "workflows.NAME.steps.NAME.approval" => "workflows.w.steps.approval.approval",
        "workflows.NAME.steps.NAME.silence" => "workflows.w.steps.approval.silence",
        "workflows.NAME.steps.NAME.event" => "workflows.w.steps.event.event",
        "workflows.NAME.steps.NAME.pause" => "workflows.w.steps.pause.pause",
        "hooks.NAME.agents" => "hooks.claw.agents",
        "hooks.NAME.trusted" => "hooks.claw.trusted",
        "checkpoint_sinks.NAME.file" => "checkpoint_sinks.disk.file",
        "checkpoint_sinks.NAME.syslog" => "checkpoint_sinks.log.syslog",
        "documents.NAME.kind" => "documents.log.kind",
        "documents.NAME.writers" => "documents.log.writers",
        "documents.NAME.report" => "documents.log.report",
        _ => return None,
    })
}

fn located(path: &str) -> String {
    if let Some(place) = place(path) {
        return place.to_owned();
    }
    let names = [
        ("agents.NAME", "agents.a"),
        ("services.NAME", "services.web"),
        ("providers.NAME", "providers.local"),
        ("schedules.NAME", "schedules.s"),
        ("grants.NAME", "grants.b"),
        ("workflows.NAME", "workflows.w"),
        ("steps.NAME", "steps.task"),
        ("input.NAME", "input.x"),
        ("output.NAME", "output.x"),
        ("with.NAME", "with.x"),
        ("expects.NAME", "expects.count"),
        ("hooks.NAME", "hooks.gh"),
        ("checkpoint_sinks.NAME", "checkpoint_sinks.web"),
        ("documents.NAME", "documents.text"),
        ("slots.NAME", "slots.models"),
    ];
    let mut path = path.to_owned();
    for (from, to) in names {
        path = path.replace(from, to);
    }
    path.replace("steps.task.when", "steps.when.when")
}

/// Values where the shape alone does not say what fits; and what else has to change for it.
fn value(path: &str) -> Option<(Value, Vec<(&'static str, Value)>)> {
    let alone = |value: Value| Some((value, Vec::new()));
    match path {
        "house" => alone(json!("other")),
        "listen.address" => alone(json!("127.0.0.1:3200")),
        "listen.tls_certificate" | "listen.tls_key" => alone(json!("other.pem")),
        "network.pool" => alone(json!("10.99.0.0/16")),
        "network.ports" => alone(json!("19000-19100")),
        "escalation.to" => alone(json!("operator")),
        "escalation.then" => alone(json!("cancel")),
        "providers.NAME.base_url" => alone(json!("http://127.0.0.1:2/v1")),
        "providers.NAME.service" => Some((
            json!("web"),
            vec![("providers.local.base_url", Value::Null)],
        )),
        "providers.NAME.key" => alone(json!("env:OTHER")),
        "budget.timezone" | "agents.NAME.schedules.NAME.timezone" => {
            alone(json!("Europe/Ljubljana"))
        }
        "services.NAME.kind" => alone(json!("tools")),
        "services.NAME.at" => alone(json!("192.0.2.8:80")),
        "services.NAME.command" | "agents.NAME.files.command" => alone(json!(["tac"])),
        "services.NAME.probe" => alone(json!("/healthz")),
        "services.NAME.needs" => alone(json!(["site"])),
        "services.NAME.names.NAME" => alone(json!("other")),
        "services.NAME.slot" => alone(json!("cms")),
        "agents.NAME.name" => alone(json!("Ada")),
        "agents.NAME.role" => alone(json!("gardener")),
        "agents.NAME.template" => alone(json!("coder")),
        "agents.NAME.charter" => alone(json!("souls/a.md")),
        "agents.NAME.reports_to" => alone(json!("b")),
        "agents.NAME.delegates_to" | "agents.NAME.asks" => alone(json!("all")),
        "agents.NAME.grants.NAME.skills" | "agents.NAME.skills" => alone(json!(["report", "more"])),
        "agents.NAME.uses" => alone(json!(["calc", "db", "site"])),
        "agents.NAME.schedules.NAME.cron" => alone(json!("0 4 * * *")),
        "agents.NAME.schedules.NAME.every" => Some((
            json!("77s"),
            vec![("agents.a.schedules.s.cron", Value::Null)],
        )),
        "agents.NAME.schedules.NAME.at" => Some((
            json!("2030-01-01T00:00:00Z"),
            vec![("agents.a.schedules.s.cron", Value::Null)],
        )),
        "agents.NAME.schedules.NAME.skill" => Some((
            json!("checkpoint"),
            vec![("agents.a.schedules.s.task", Value::Null)],
        )),
        "agents.NAME.schedules.NAME.workflow" => Some((
            json!("v"),
            vec![
                ("agents.a.schedules.s.task", Value::Null),
                ("agents.a.schedules.s.with", json!({ "x": "1" })),
            ],
        )),
        "agents.NAME.schedules.NAME.with.NAME" => alone(json!("2")),
        "agents.NAME.schedules.NAME.catch_up" => alone(json!("skip")),
        "agents.NAME.schedules.NAME.task" | "workflows.NAME.steps.NAME.task" => {
            alone(json!("something else"))
        }
        "workflows.NAME.input.NAME.type" => Some((
            json!("number"),
            vec![("workflows.w.input.x.default", json!(1))],
        )),
        "workflows.NAME.input.NAME.default" => alone(json!("2")),
        "workflows.NAME.output.NAME" | "workflows.NAME.steps.NAME.with.NAME" => alone(json!("y")),
        "workflows.NAME.on" => alone(json!(["merged"])),
        "workflows.NAME.steps.NAME.skill" => alone(json!("checkpoint")),
        "workflows.NAME.steps.NAME.agent" => alone(json!("b")),
        "workflows.NAME.steps.NAME.needs" => alone(json!(["pause"])),
        "workflows.NAME.steps.NAME.approval" => alone(json!("really?")),
        "workflows.NAME.steps.NAME.event" => alone(json!("pulled")),
        "workflows.NAME.steps.NAME.each" => alone(json!("$input.list")),
        "workflows.NAME.steps.NAME.expects.NAME" => alone(json!("text")),
        "workflows.NAME.steps.NAME.undo.task" => alone(json!("further back")),
        "workflows.NAME.steps.NAME.undo.skill" => Some((
            json!("report"),
            vec![("workflows.w.steps.task.undo.task", Value::Null)],
        )),
        "workflows.NAME.steps.NAME.undo.agent" => alone(json!("b")),
        "workflows.NAME.steps.NAME.undo.with.NAME" => alone(json!("1")),
        "hooks.NAME.kind" => alone(json!("gitea")),
        "hooks.NAME.secret"
        | "hooks.NAME.token"
        | "checkpoint_sinks.NAME.token"
        | "compatibility.controlplane_secret" => alone(json!("env:OTHER")),
        "checkpoint_sinks.NAME.file" => alone(json!("/mnt/other.jsonl")),
        "checkpoint_sinks.NAME.syslog" => alone(json!("tcp:logs.example.org:601")),
        "checkpoint_sinks.NAME.url" => alone(json!("https://other.example.org/")),
        "hooks.NAME.agent" => alone(json!("b")),
        "hooks.NAME.agents" => alone(json!(["b"])),
        "hooks.NAME.on" => alone(json!(["push"])),
        "hooks.NAME.workflow" => Some((json!("w"), vec![("hooks.gh.agent", Value::Null)])),
        "hooks.NAME.event" => Some((json!("pushed"), vec![("hooks.gh.agent", Value::Null)])),
        "hooks.NAME.api" => alone(json!("https://git.example.org/api/v1")),
        "documents.NAME.kind" => alone(json!("text")),
        "documents.NAME.writer" => alone(json!("b")),
        "documents.NAME.writers" | "documents.NAME.readers" => alone(json!(["b"])),
        "documents.NAME.report" => Some((json!("disk"), vec![("documents.log.kind", Value::Null)])),
        _ => by_name(path.rsplit('.').next().unwrap_or_default()),
    }
}

/// Values of keys that stand in several places.
fn by_name(name: &str) -> Option<(Value, Vec<(&'static str, Value)>)> {
    let value = match name {
        "model" => json!("local/large"),
        "subnet" => json!("10.77.200.0/24"),
        "image" => json!("other"),
        "waive" => json!(["limits"]),
        "egress" => json!("full"),
        "allow" => json!(["finish"]),
        "paths" => json!(["notes"]),
        "display" | "assistant" => json!("sl-SI"),
        "system" => json!("sl_SI.UTF-8"),
        "lineage" | "mentor" | "works_with" | "may_ask" => json!(["b"]),
        _ => return None,
    };
    Some((value, Vec::new()))
}

/// Another value than the present one, by what may stand there.
fn another(definition: &Definition, present: Option<&Value>) -> Option<Value> {
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let present = present.map(text).or(definition.default.map(str::to_owned));
    let differs = |candidate: &Value| Some(text(candidate)) != present;
    let mut candidates: Vec<Value> = match definition.value.as_str() {
        "`true` or `false`" => vec![json!(true), json!(false)],
        amount if amount.starts_with("an amount") => vec![json!("96MiB")],
        duration if duration.starts_with("a duration") => vec![json!("77s")],
        percentage if percentage.starts_with("a percentage") => vec![json!("13%")],
        number if number.starts_with("a number") => vec![json!(0.25)],
        number if number.starts_with("a whole number") => {
            let bounds: Vec<i64> = number.split(' ').filter_map(|w| w.parse().ok()).collect();
            let most = bounds.get(1).copied().unwrap_or(i64::MAX);
            let fits = (bounds[0]..=most).take(30);
            fits.skip(2).map(Value::from).collect()
        }
        words if words.starts_with('`') => {
            let words = words.split(", ").map(|w| w.trim_matches('`'));
            words.map(Value::from).collect()
        }
        _ => return None,
    };
    // What `defaults` do not set is built in, and that is the first word.
    if definition.path.starts_with("defaults.") {
        candidates.reverse();
    }
    candidates.into_iter().find(differs)
}

fn set(manifest: &mut Value, path: &str, value: Value) {
    let (above, last) = path.rsplit_once('.').unwrap_or(("", path));
    let mut at = manifest;
    for part in above.split('.').filter(|p| !p.is_empty()) {
        at = at.as_object_mut().unwrap().entry(part).or_insert(json!({}));
    }
    let map = at.as_object_mut().unwrap();
    match value {
        Value::Null => drop(map.remove(last)),
        value => drop(map.insert(last.to_owned(), value)),
    }
}

fn get<'a>(manifest: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(manifest, |at, part| at.get(part))
}

fn read(manifest: &Value) -> Result<House, String> {
    parse(&manifest.to_string()).map_err(|mistakes| {
        let texts: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        texts.join("; ")
    })
}

/// The plan from one manifest to another.
fn between(old: &Value, new: &Value) -> Result<Plan, String> {
    let (old, new) = (read(old)?, read(new)?);
    let first = plan(&old, &inventory());
    Ok(plan(&new, &after(&old, &first)))
}

fn scalars(value: &Value) -> Vec<String> {
    match value {
        Value::Array(items) => items.iter().flat_map(scalars).collect(),
        Value::Object(map) => map.values().flat_map(scalars).collect(),
        Value::String(text) => vec![text.clone()],
        other => vec![other.to_string()],
    }
}

/// Changes a key and looks for it in the plan; the fault, if there is one.
fn try_key(definition: &Definition, cell: CellKind) -> Result<(), String> {
    let place = located(&definition.path);
    let mut old = sample();
    if place != "agents.a.cell" && !definition.path.starts_with("defaults.") {
        set(&mut old, "agents.a.cell", json!(cell.name()));
    }
    let (owner, key) = match place.split('.').collect::<Vec<_>>().as_slice() {
        ["agents" | "services", name, rest @ ..] => ((*name).to_owned(), rest.join(".")),
        _ => (String::new(), place.clone()),
    };
    // The items of a list are compared as one value.
    let key = key.split("[]").next().unwrap_or_default().to_owned();
    let mut new = old.clone();
    let wanted = if let Some((list, field)) = place.split_once("[].") {
        let value = match field {
            "value" => json!("$input.x"),
            _ => json!(9),
        };
        let mut item = json!({ "value": "$steps.task.count" });
        item[field] = value.clone();
        if field == "value" {
            item["is"] = json!("1");
        }
        set(
            &mut old,
            list,
            json!([{ "value": "$steps.task.count", "is": 1 }]),
        );
        set(&mut new, list, json!([item]));
        value
    } else {
        let present = get(&old, &place).cloned();
        let (value, rest) = value(&definition.path)
            .or_else(|| value(&definition.path.replace("defaults.", "agents.NAME.")))
            .or_else(|| Some((another(definition, present.as_ref())?, Vec::new())))
            .ok_or("the test knows no value for it")?;
        for (path, value) in rest {
            set(&mut new, path, value);
        }
        set(&mut new, &place, value.clone());
        value
    };
    let plan = between(&old, &new)?;
    let steps = plan.steps.iter().filter(|s| s.agent == owner);
    let found: Vec<(Action, &KeyChange)> = steps
        .flat_map(|s| s.changes.iter().map(|c| (s.action, c)))
        .filter(|(_, c)| c.key == key)
        .collect();
    let [(action, change)] = found.as_slice() else {
        return Err(format!(
            "the plan shows {} changes of it: {:?}",
            found.len(),
            plan.steps
        ));
    };
    let effect = match definition.path.starts_with("defaults.") {
        true => Effect::None,
        false => definition.effect_in(cell),
    };
    if change.effect != effect {
        return Err(format!("declared {effect:?}, planned {:?}", change.effect));
    }
    if effect == Effect::Restart
        && !matches!(action, Action::Restart | Action::Remove | Action::Create)
    {
        return Err(format!("the cell restarts, and the step is {action:?}"));
    }
    let after = change.new.clone().unwrap_or_default();
    for text in scalars(&wanted) {
        if !after.contains(&text) {
            return Err(format!(
                "the new value is {text}, and the plan says {after}"
            ));
        }
    }
    match (get(&old, &place), definition.default) {
        (Some(before), _) if !place.contains("[]") => {
            for text in scalars(before) {
                if !change.old.as_ref().is_some_and(|o| o.contains(&text)) {
                    return Err(format!(
                        "the old value is {text}, the plan says {:?}",
                        change.old
                    ));
                }
            }
        }
        (None, Some(default)) if change.old.as_deref() != Some(default) => {
            return Err(format!(
                "the default is {default}, the plan says {:?}",
                change.old
            ));
        }
        _ => {}
    }
    // An inherited value is shown on the agent as well, with its effect there.
    if let Some(key) = definition.path.strip_prefix("defaults.") {
        let steps = plan.steps.iter().filter(|s| s.agent == "a");
        let mut changes = steps.flat_map(|s| &s.changes);
        let seen = changes
            .find(|c| c.key == key)
            .ok_or("the agent that inherits it is silent")?;
        let effect = definition.effect_in(CellKind::Sandbox);
        if seen.effect != effect {
            return Err(format!(
                "declared {effect:?}, planned for the agent {:?}",
                seen.effect
            ));
        }
    }
    Ok(())
}

#[test]
fn a_change_of_every_key_is_planned_with_old_and_new_value_and_its_declared_effect() {
    // Keys with a single possible value cannot change.
    let single = [
        "version",
        "providers.NAME.kind",
        "agents.NAME.runtime",
        "defaults.runtime",
    ];
    let (mut tried, mut faults) = (0, Vec::new());
    for definition in definitions() {
        if single.contains(&definition.path.as_str()) {
            assert!(!definition.value.contains(", "), "{}", definition.path);
            continue;
        }
        let cells: &[CellKind] = match definition.path.starts_with("agents.") {
            true => CellKind::ALL,
            false => &[CellKind::Sandbox],
        };
        for cell in cells {
            tried += 1;
            if let Err(fault) = try_key(&definition, *cell) {
                faults.push(format!("{} in {cell}: {fault}", definition.path));
            }
        }
    }
    let keys = definitions().len();
    println!(
        "{keys} keys, {} of them with a single value, {tried} changes tried",
        single.len()
    );
    assert!(
        faults.is_empty(),
        "{} faults:\n{}",
        faults.len(),
        faults.join("\n")
    );
}
