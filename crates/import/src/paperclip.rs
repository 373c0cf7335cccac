//! A company that Paperclip exported: Markdown with front matter, and `.paperclip.yaml` beside it. Source: the package
//! format `agentcompanies/v1` and the extension `paperclip/v1`, as its server 2026.8 writes them (read 2026-11).

use crate::names::{Names, shown};
use crate::newcomer::{Newcomer, When};
use crate::source::{Source, TEXT_MAX, cleaned};
use crate::{Error, Here, Import, Kind, Result, Work};
use serde_json::Value;

/// Skills that the house has by the same name.
const STATES_OVER: [&str; 3] = ["done", "cancelled", "archived"];

/// Front matter and what follows it.
fn parts(text: &str) -> (Value, &str) {
    let split = text
        .strip_prefix("---\n")
        .and_then(|rest| rest.split_once("\n---"));
    let Some((front, body)) = split else {
        return (Value::Null, text);
    };
    let front = serde_saphyr::from_str(front).unwrap_or(Value::Null);
    (front, body.trim_start_matches('-').trim())
}

pub(crate) fn read(
    source: &Source,
    here: &Here,
    names: &mut Names,
    import: &mut Import,
) -> Result<()> {
    if source.text("COMPANY.md").is_none() {
        return Err(Error::NotOne {
            path: source.path.clone(),
            what: "company export of Paperclip",
            why: "`COMPANY.md` is not there; unpack an archive first".to_owned(),
        });
    }
    let extension = [".paperclip.yaml", ".paperclip.yml"]
        .into_iter()
        .find_map(|f| source.text(f));
    let extension: Value = extension
        .and_then(|t| serde_saphyr::from_str(&t).ok())
        .unwrap_or(Value::Null);
    let mut above: Vec<(usize, String)> = Vec::new();
    for was in source.names("agents") {
        let entry = ["AGENTS.md", "AGENT.md"]
            .into_iter()
            .map(|f| format!("agents/{was}/{f}"))
            .find_map(|f| Some((source.text(&f)?, f)));
        let Some((text, file)) = entry else {
            continue;
        };
        let (front, body) = parts(&text);
        let told = &extension["agents"][was.as_str()];
        let slug = names.give(import, &was, None);
        let mut agent = Newcomer::new(slug, &was);
        agent.name = front["name"].as_str().map(shown);
        agent.role = front["title"].as_str().or(told["role"].as_str()).map(shown);
        let body = cleaned(import, &file, body);
        if body.len() > TEXT_MAX {
            import.found(
                Kind::Left,
                &file,
                format!("its instructions: more than {TEXT_MAX} bytes"),
            );
        } else if !body.is_empty() {
            agent.charter = Some(body);
        }
        if let Some(to) = front["reportsTo"].as_str().or(told["reportsTo"].as_str()) {
            above.push((import.agents.len(), to.to_owned()));
        }
        let adapter = &told["adapter"];
        if let Some(model) = adapter["config"]["model"].as_str() {
            agent.model = here.model(import, &format!(".paperclip.yaml: agent {was}"), model);
        }
        if let Some(kind) = adapter["type"].as_str() {
            let text = format!(
                "its adapter `{}`: the agent is a native one; `runtime` says otherwise where the house has that",
                shown(kind)
            );
            import.found(Kind::Left, format!(".paperclip.yaml: agent {was}"), text);
        }
        if let Some(cents) = told["budgetMonthlyCents"].as_u64().filter(|c| *c > 0) {
            // A month of thirty days; a thousandth of a dollar is a tenth of a cent.
            let daily = (cents * 10).div_ceil(30);
            agent.milli_usd_per_day = Some(daily);
            let text = format!(
                "its budget of {}.{:02} USD a month is {}.{:03} USD a day",
                cents / 100,
                cents % 100,
                daily / 1000,
                daily % 1000
            );
            import.found(Kind::Changed, format!(".paperclip.yaml: agent {was}"), text);
        }
        if let Value::Object(inputs) = &told["inputs"]["env"] {
            for (name, input) in inputs {
                let kind = match input["kind"].as_str() {
                    Some("secret") => Kind::Secret,
                    _ => Kind::Left,
                };
                import.found(
                    kind,
                    format!(".paperclip.yaml: agent {was}"),
                    format!("it wants the variable `{}`", shown(name)),
                );
            }
        }
        let skills = front["skills"].as_array().into_iter().flatten();
        for skill in skills.filter_map(Value::as_str) {
            let text = format!(
                "the skill `{}`: copy its directory into `skills/` of the house's home, then name it in `skills`",
                shown(skill)
            );
            import.found(Kind::Left, &file, text);
        }
        for key in ["permissions", "permissionGrants", "runtime", "metadata"] {
            if !told[key].is_null() {
                import.found(
                    Kind::Left,
                    format!(".paperclip.yaml: agent {was}"),
                    format!("`{key}`: rights are said in the manifest, and none come along"),
                );
            }
        }
        import.agents.push(agent);
    }
    for (at, to) in above {
        match names.of(&to) {
            Some(slug) => import.agents[at].reports_to = Some(slug),
            None => {
                let was = import.agents[at].was.clone();
                import.found(
                    Kind::Left,
                    format!("agents/{was}"),
                    format!("that it reports to `{}`, who is not there", shown(&to)),
                );
            }
        }
    }
    tasks(source, &extension, names, import);
    for (dir, why) in [
        (
            "projects",
            "work has no projects here; what a project is about can be a shared document",
        ),
        ("images", "pictures"),
    ] {
        for name in source.names(dir) {
            import.found(Kind::Left, format!("{dir}/{}", shown(&name)), why);
        }
    }
    for name in source.names("skills") {
        import.found(Kind::Left, format!("skills/{}", shown(&name)), "a skill becomes the house's when its directory is copied into `skills/` of its home; `abbey skill check` looks at it");
    }
    source.secrets(import);
    Ok(())
}

fn tasks(source: &Source, extension: &Value, names: &Names, import: &mut Import) {
    for was in source.names("tasks") {
        let file = format!("tasks/{was}/TASK.md");
        let Some(text) = source.text(&file) else {
            continue;
        };
        let (front, body) = parts(&text);
        let title = front["name"]
            .as_str()
            .or(front["title"].as_str())
            .unwrap_or(&was);
        let assignee = front["assignee"].as_str();
        let to = assignee.and_then(|a| names.of(a));
        let body = cleaned(import, &file, body);
        let text = match body.is_empty() {
            true => shown(title),
            false => format!("{}\n\n{body}", shown(title)),
        };
        let routine = &extension["routines"][was.as_str()];
        let told = &extension["tasks"][was.as_str()];
        if front["recurring"] == true || !routine.is_null() {
            routine_of(import, routine, (&was, title, &file), to.as_ref(), &text);
            continue;
        }
        let state = told["status"].as_str().unwrap_or("todo");
        if STATES_OVER.contains(&state) {
            import.found(Kind::Left, file, format!("it is {}", shown(state)));
            continue;
        }
        if assignee.is_some() && to.is_none() {
            import.found(
                Kind::Changed,
                &file,
                "whoever was to do it is not there; the house finds somebody",
            );
        }
        let priority = match told["priority"].as_str() {
            Some("critical" | "urgent") => "P0",
            Some("high") => "P1",
            Some("low") => "P3",
            _ => "P2",
        };
        import.tasks.push(Work {
            was: was.clone(),
            text,
            to,
            priority,
        });
        for key in ["comments", "labels", "documents", "workProducts"] {
            if !told[key].is_null() {
                import.found(Kind::Left, &file, format!("its {key}"));
            }
        }
    }
}

/// Work that comes again becomes schedules of whoever does it.
fn routine_of(
    import: &mut Import,
    routine: &Value,
    (was, title, file): (&str, &str, &str),
    to: Option<&abbey_model::Slug>,
    text: &str,
) {
    let status = routine["status"].as_str().unwrap_or("active");
    if status != "active" {
        return import.found(Kind::Left, file, format!("it is {}", shown(status)));
    }
    let mut planned = 0;
    for trigger in routine["triggers"].as_array().into_iter().flatten() {
        let cron = trigger["cronExpression"].as_str();
        let place = format!(".paperclip.yaml: routine {was}");
        if trigger["enabled"] == false {
            import.found(Kind::Left, place, "a trigger of it is switched off");
            continue;
        }
        let Some(cron) = cron.filter(|_| trigger["kind"] == "schedule") else {
            import.found(
                Kind::Left,
                place,
                "a trigger of another kind; `hooks` and workflows take those",
            );
            continue;
        };
        let agent = import.agents.iter_mut().find(|a| Some(&a.slug) == to);
        let Some(agent) = agent else {
            import.found(Kind::Left, place, "nobody is named who does it");
            continue;
        };
        let when = When::Cron(shown(cron), trigger["timezone"].as_str().map(shown));
        agent.plan(was, when, text.to_owned());
        // What that tool does where nothing is said.
        let skips = routine["catchUpPolicy"]
            .as_str()
            .is_none_or(|p| p == "skip_missed");
        if let Some(planned) = agent.schedules.last_mut().filter(|_| skips) {
            planned.catch_up = Some("skip");
        }
        planned += 1;
    }
    if planned == 0 {
        import.found(
            Kind::Left,
            file,
            format!("`{}` comes again, and no time is said for it", shown(title)),
        );
    }
}
