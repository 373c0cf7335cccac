//! A company that Paperclip exported: Markdown with front matter, and `.paperclip.yaml` beside it. Source: the package
//! format `agentcompanies/v1` and the extension `paperclip/v1`, as its server 2026.8 writes them (read 2026-11).

use crate::imported_agent::{ImportedAgent, ScheduleTime};
use crate::names::{NameAssigner, one_line};
use crate::source::{SourceDir, TEXT_MAX, redact_secrets};
use crate::{Error, Import, ImportedTask, ReportKind, Result, TargetHouse};
use serde_json::Value;

/// States of tasks that are not imported.
const FINAL_STATES: [&str; 3] = ["done", "cancelled", "archived"];

/// Front matter and what follows it.
fn split_front_matter(text: &str) -> (Value, &str) {
    let split = text
        .strip_prefix("---\n")
        .and_then(|rest| rest.split_once("\n---"));
    let Some((front, body)) = split else {
        return (Value::Null, text);
    };
    let front = serde_saphyr::from_str(front).unwrap_or(Value::Null);
    (front, body.trim_start_matches('-').trim())
}

/// Reads the agents and tasks of an exported Paperclip company into `import`.
pub(crate) fn read_paperclip(
    source: &SourceDir,
    here: &TargetHouse,
    names: &mut NameAssigner,
    import: &mut Import,
) -> Result<()> {
    if source.read_text("COMPANY.md").is_none() {
        return Err(Error::WrongFormat {
            path: source.path.clone(),
            what: "company export of Paperclip",
            why: "`COMPANY.md` is missing; unpack an archive first".to_owned(),
        });
    }
    let extension = [".paperclip.yaml", ".paperclip.yml"]
        .into_iter()
        .find_map(|f| source.read_text(f));
    let extension: Value = extension
        .and_then(|t| serde_saphyr::from_str(&t).ok())
        .unwrap_or(Value::Null);
    let mut above: Vec<(usize, String)> = Vec::new();
    for was in source.list_names("agents") {
        let entry = ["AGENTS.md", "AGENT.md"]
            .into_iter()
            .map(|f| format!("agents/{was}/{f}"))
            .find_map(|f| Some((source.read_text(&f)?, f)));
        let Some((text, file)) = entry else {
            continue;
        };
        let (front, body) = split_front_matter(&text);
        let told = &extension["agents"][was.as_str()];
        let slug = names.assign(import, &was, None);
        let mut agent = ImportedAgent::new(slug, &was);
        agent.name = front["name"].as_str().map(one_line);
        agent.role = front["title"]
            .as_str()
            .or(told["role"].as_str())
            .map(one_line);
        let body = redact_secrets(import, &file, body);
        if body.len() > TEXT_MAX {
            import.add_report_entry(
                ReportKind::Left,
                &file,
                format!("its instructions were not imported: more than {TEXT_MAX} bytes"),
            );
        } else if !body.is_empty() {
            agent.charter = Some(body);
        }
        if let Some(to) = front["reportsTo"].as_str().or(told["reportsTo"].as_str()) {
            above.push((import.agents.len(), to.to_owned()));
        }
        let adapter = &told["adapter"];
        if let Some(model) = adapter["config"]["model"].as_str() {
            agent.model =
                here.translate_model(import, &format!(".paperclip.yaml: agent {was}"), model);
        }
        if let Some(kind) = adapter["type"].as_str() {
            let text = format!(
                "adapter `{}`: imported with the native runtime",
                one_line(kind)
            );
            import.add_report_entry(
                ReportKind::Left,
                format!(".paperclip.yaml: agent {was}"),
                text,
            );
        }
        if let Some(cents) = told["budgetMonthlyCents"].as_u64().filter(|c| *c > 0) {
            // A month of thirty days; a thousandth of a dollar is a tenth of a cent.
            let daily = (cents * 10).div_ceil(30);
            agent.milli_usd_per_day = Some(daily);
            let text = format!(
                "monthly budget of {}.{:02} USD imported as {}.{:03} USD a day",
                cents / 100,
                cents % 100,
                daily / 1000,
                daily % 1000
            );
            import.add_report_entry(
                ReportKind::Changed,
                format!(".paperclip.yaml: agent {was}"),
                text,
            );
        }
        if let Value::Object(inputs) = &told["inputs"]["env"] {
            for (name, input) in inputs {
                let kind = match input["kind"].as_str() {
                    Some("secret") => ReportKind::Secret,
                    _ => ReportKind::Left,
                };
                import.add_report_entry(
                    kind,
                    format!(".paperclip.yaml: agent {was}"),
                    format!("needs the environment variable `{}`", one_line(name)),
                );
            }
        }
        let skills = front["skills"].as_array().into_iter().flatten();
        for skill in skills.filter_map(Value::as_str) {
            let text = format!(
                "skill `{}`: copy its directory into `skills/` of the house's home, then list it in `skills`",
                one_line(skill)
            );
            import.add_report_entry(ReportKind::Left, &file, text);
        }
        for key in ["permissions", "permissionGrants", "runtime", "metadata"] {
            if !told[key].is_null() {
                import.add_report_entry(
                    ReportKind::Left,
                    format!(".paperclip.yaml: agent {was}"),
                    format!(
                        "`{key}`: permissions are declared in the manifest, and none are imported"
                    ),
                );
            }
        }
        import.agents.push(agent);
    }
    for (at, to) in above {
        match names.assigned(&to) {
            Some(slug) => import.agents[at].reports_to = Some(slug),
            None => {
                let was = import.agents[at].was.clone();
                import.add_report_entry(
                    ReportKind::Left,
                    format!("agents/{was}"),
                    format!(
                        "reports to `{}`, which is not an agent of the export",
                        one_line(&to)
                    ),
                );
            }
        }
    }
    tasks(source, &extension, names, import);
    for (dir, why) in [
        (
            "projects",
            "Abbey has no projects; describe the project in a shared document",
        ),
        ("images", "images are not imported"),
    ] {
        for name in source.list_names(dir) {
            import.add_report_entry(ReportKind::Left, format!("{dir}/{}", one_line(&name)), why);
        }
    }
    for name in source.list_names("skills") {
        import.add_report_entry(ReportKind::Left, format!("skills/{}", one_line(&name)), "skills are not imported: copy its directory into `skills/` of the house's home, then run `abbey skill check`");
    }
    source.report_secrets(import);
    Ok(())
}

fn tasks(source: &SourceDir, extension: &Value, names: &NameAssigner, import: &mut Import) {
    for was in source.list_names("tasks") {
        let file = format!("tasks/{was}/TASK.md");
        let Some(text) = source.read_text(&file) else {
            continue;
        };
        let (front, body) = split_front_matter(&text);
        let title = front["name"]
            .as_str()
            .or(front["title"].as_str())
            .unwrap_or(&was);
        let assignee = front["assignee"].as_str();
        let to = assignee.and_then(|a| names.assigned(a));
        let body = redact_secrets(import, &file, body);
        let text = match body.is_empty() {
            true => one_line(title),
            false => format!("{}\n\n{body}", one_line(title)),
        };
        let routine = &extension["routines"][was.as_str()];
        let told = &extension["tasks"][was.as_str()];
        if front["recurring"] == true || !routine.is_null() {
            import_routine(import, routine, (&was, title, &file), to.as_ref(), &text);
            continue;
        }
        let state = told["status"].as_str().unwrap_or("todo");
        if FINAL_STATES.contains(&state) {
            import.add_report_entry(
                ReportKind::Left,
                file,
                format!("its state is {}", one_line(state)),
            );
            continue;
        }
        if assignee.is_some() && to.is_none() {
            import.add_report_entry(
                ReportKind::Changed,
                &file,
                "its assignee is not an agent of the export; imported without an assignee",
            );
        }
        let priority = match told["priority"].as_str() {
            Some("critical" | "urgent") => "P0",
            Some("high") => "P1",
            Some("low") => "P3",
            _ => "P2",
        };
        import.tasks.push(ImportedTask {
            was: was.clone(),
            text,
            to,
            priority,
        });
        for key in ["comments", "labels", "documents", "workProducts"] {
            if !told[key].is_null() {
                import.add_report_entry(ReportKind::Left, &file, format!("its {key}"));
            }
        }
    }
}

/// Imports a recurring task as schedules of its assignee.
fn import_routine(
    import: &mut Import,
    routine: &Value,
    (was, title, file): (&str, &str, &str),
    to: Option<&abbey_model::Slug>,
    text: &str,
) {
    let status = routine["status"].as_str().unwrap_or("active");
    if status != "active" {
        return import.add_report_entry(
            ReportKind::Left,
            file,
            format!("its state is {}", one_line(status)),
        );
    }
    let mut planned = 0;
    for trigger in routine["triggers"].as_array().into_iter().flatten() {
        let cron = trigger["cronExpression"].as_str();
        let place = format!(".paperclip.yaml: routine {was}");
        if trigger["enabled"] == false {
            import.add_report_entry(ReportKind::Left, place, "a disabled trigger");
            continue;
        }
        let Some(cron) = cron.filter(|_| trigger["kind"] == "schedule") else {
            import.add_report_entry(
                ReportKind::Left,
                place,
                "a trigger that is not a schedule; use `hooks` or workflows",
            );
            continue;
        };
        let agent = import.agents.iter_mut().find(|a| Some(&a.slug) == to);
        let Some(agent) = agent else {
            import.add_report_entry(ReportKind::Left, place, "no agent is assigned");
            continue;
        };
        let when = ScheduleTime::Cron(one_line(cron), trigger["timezone"].as_str().map(one_line));
        agent.add_schedule(was, when, text.to_owned());
        // Default of Paperclip.
        let skips = routine["catchUpPolicy"]
            .as_str()
            .is_none_or(|p| p == "skip_missed");
        if let Some(planned) = agent.schedules.last_mut().filter(|_| skips) {
            planned.catch_up = Some("skip");
        }
        planned += 1;
    }
    if planned == 0 {
        import.add_report_entry(
            ReportKind::Left,
            file,
            format!("`{}` is recurring, and has no schedule", one_line(title)),
        );
    }
}
