//! A company that Paperclip exported: Markdown with front matter, and `.paperclip.yaml` beside it. Source: the package
//! format `agentcompanies/v1` and the extension `paperclip/v1`, as its server 2026.8 writes them (read 2026-11).

use crate::accounting::report_files;
use crate::bundle::leave_skills;
use crate::document::{Document, Key};
use crate::imported_agent::ImportedAgent;
use crate::names::{NameAssigner, one_line};
use crate::parsing::{Notation, parse};
use crate::source::{SourceDir, TEXT_MAX, redact_secrets};
use crate::{Error, Import, ImportedTask, ReportKind, Result, TargetHouse, timing};
use abbey_model::Slug;
use serde_json::Value;

/// States of tasks that are not imported.
const FINAL_STATES: [&str; 3] = ["done", "cancelled", "archived"];
const COMPANY: &str = "COMPANY.md";
const COMPANY_TEXT: &str = "texts and goals of the company are not imported: put what the agents should know into a shared document or their charters";
/// Why files of the export are not imported.
const FILES: [(&str, &str); 6] = [
    (
        "projects",
        "Abbey has no projects; describe the project in a shared document",
    ),
    (
        "teams",
        "teams are not imported: `reports_to` says who works for whom",
    ),
    ("goals", COMPANY_TEXT),
    ("images", "images are not imported"),
    ("README.md", "describes the export"),
    ("LICENSE", "describes the export"),
];

/// Markdown file with its front matter.
struct Page<'s> {
    front: Document<'s>,
    /// What follows the front matter, with secrets redacted.
    body: String,
}

/// Reads a Markdown file; none if it does not exist. Its secrets are reported.
fn read_page<'s>(
    source: &'s SourceDir,
    import: &mut Import,
    file: &str,
) -> Result<Option<Page<'s>>> {
    let Some(text) = source.read_text(file)? else {
        return Ok(None);
    };
    source.account(file);
    let text = redact_secrets(import, file, &text).replace("\r\n", "\n");
    let (front, body) = split_front_matter(&text);
    let front = match front {
        Some(front) => parse(
            Notation::Yaml { lines_before: 1 },
            &source.path.join(file),
            front,
        )?,
        None => Value::Null,
    };
    Ok(Some(Page {
        front: Document::new(file, front, &source.skips),
        body: body.trim().to_owned(),
    }))
}

/// Front matter, if there is some, and what follows it.
fn split_front_matter(text: &str) -> (Option<&str>, &str) {
    let is_fence = |line: &str| line.trim_end() == "---";
    let mut lines = text.split_inclusive('\n');
    let Some(first) = lines.next().filter(|line| is_fence(line)) else {
        return (None, text);
    };
    let mut at = first.len();
    for line in lines {
        if is_fence(line) {
            return (text.get(first.len()..at), &text[at + line.len()..]);
        }
        at += line.len();
    }
    (None, text)
}

/// Reads the agents and tasks of an exported Paperclip company into `import`.
pub(crate) fn read_paperclip(
    source: &SourceDir,
    here: &TargetHouse,
    names: &mut NameAssigner,
    import: &mut Import,
) -> Result<()> {
    let Some(company) = read_page(source, import, COMPANY)? else {
        return Err(Error::WrongFormat {
            path: source.path.clone(),
            what: "company export of Paperclip",
            why: "`COMPANY.md` is missing; unpack an archive first".to_owned(),
        });
    };
    let mut extension = Document::new(".paperclip.yaml", Value::Null, &source.skips);
    for file in [".paperclip.yml", ".paperclip.yaml"] {
        let yaml = Notation::Yaml { lines_before: 0 };
        if let Some(document) = source.read_document(file, yaml)? {
            extension = document;
        }
    }
    let extension_root = extension.root();
    for version in ["schema", "schemaVersion"] {
        extension_root.get(version).mark();
        company.front.root().get(version).mark();
    }
    let mut above: Vec<(usize, Key<'_>)> = Vec::new();
    let mut pages = Vec::new();
    for was in source.list_names("agents") {
        for name in ["AGENTS.md", "AGENT.md"] {
            let file = format!("agents/{was}/{name}");
            if let Some(page) = read_page(source, import, &file)? {
                pages.push((was.clone(), file, page));
                break;
            }
        }
    }
    for (was, file, page) in &pages {
        let front = page.front.root();
        let more = extension_root.get("agents").get(was);
        let slug = names.assign(import, was, None);
        let mut agent = ImportedAgent::new(slug, was, format!("agents/{was}"));
        agent.name = front.get("name").text().map(one_line);
        let title = front.get("title").text();
        agent.role = title.or_else(|| more.get("role").text()).map(one_line);
        front.get("slug").mark();
        if page.body.len() > TEXT_MAX {
            let text = format!("its instructions were not imported: more than {TEXT_MAX} bytes");
            import.add_report_entry(ReportKind::Left, file, text);
        } else if !page.body.is_empty() {
            agent.charter = Some(page.body.clone());
            import.carried.insert(file.clone());
        }
        let superior = [front.get("reportsTo"), more.get("reportsTo")];
        if let Some(key) = superior.into_iter().find(|k| k.text().is_some()) {
            above.push((import.agents.len(), key));
        }
        import_settings(import, here, &more, &mut agent);
        for skill in front.get("skills").elements() {
            let Some(name) = skill.text() else {
                continue;
            };
            let text = format!(
                "skill `{}`: copy its directory into `skills/` of the house's home, then list it in `skills`",
                one_line(name)
            );
            skill.report(import, ReportKind::Left, text);
        }
        import.agents.push(agent);
    }
    for (at, key) in above {
        let to = key.text().unwrap_or_default();
        match names.assigned(to) {
            Some(slug) => import.agents[at].reports_to = Some(slug),
            None => {
                let text = format!("`{}` is not an agent of the export", one_line(to));
                key.report(import, ReportKind::Left, text);
            }
        }
    }
    for (_, _, page) in &pages {
        page.front.report_rest(import, |_| "no equivalent");
    }
    import_tasks(source, &extension_root, names, import)?;
    company.front.report_rest(import, |_| COMPANY_TEXT);
    if !company.body.is_empty() {
        import.add_report_entry(ReportKind::Left, COMPANY, COMPANY_TEXT);
    }
    extension.report_rest(import, why_left);
    leave_skills(source, import, "skills");
    for (dir, why) in FILES {
        for name in source.list_names(dir) {
            source.leave(import, &format!("{dir}/{name}"), why);
        }
    }
    report_files(source, import, &FILES);
    Ok(())
}

/// Why a key of the extension is not imported.
fn why_left(path: &str) -> &'static str {
    let has = |name: &str| path.split(['.', '[']).any(|p| p == name);
    let permissions = ["permissions", "permissionGrants", "runtime", "metadata"];
    match path {
        _ if has("company") => COMPANY_TEXT,
        _ if permissions.into_iter().any(has) => {
            "permissions are declared in the manifest, and none are imported"
        }
        _ if has("adapter") => "a setting of the adapter",
        _ => "no equivalent",
    }
}

/// What the extension says about an agent.
fn import_settings(
    import: &mut Import,
    here: &TargetHouse,
    more: &Key<'_>,
    agent: &mut ImportedAgent,
) {
    let adapter = more.get("adapter");
    let model = adapter.get("config").get("model");
    if let Some(wanted) = model.text() {
        agent.model = here.translate_model(import, &model, wanted);
    }
    let kind = adapter.get("type");
    if let Some(name) = kind.text() {
        let text = format!(
            "adapter `{}`: imported with the native runtime",
            one_line(name)
        );
        kind.report(import, ReportKind::Left, text);
    }
    let budget = more.get("budgetMonthlyCents");
    if let Some(cents) = budget.number().filter(|c| *c > 0) {
        // A month of thirty days; a thousandth of a dollar is a tenth of a cent.
        let daily = cents.saturating_mul(10).div_ceil(30);
        agent.milli_usd_per_day = Some(daily);
        let text = format!(
            "monthly budget of {}.{:02} USD imported as {}.{:03} USD a day",
            cents / 100,
            cents % 100,
            daily / 1000,
            daily % 1000
        );
        budget.report(import, ReportKind::Changed, text);
    }
    for (name, input) in more.get("inputs").get("env").entries() {
        let kind = match input.get("kind").text() {
            Some("secret") => ReportKind::Secret,
            _ => ReportKind::Left,
        };
        let text = format!("needs the environment variable `{}`", one_line(name));
        input.report(import, kind, text);
    }
}

fn import_tasks(
    source: &SourceDir,
    extension: &Key<'_>,
    names: &NameAssigner,
    import: &mut Import,
) -> Result<()> {
    for was in source.list_names("tasks") {
        let file = format!("tasks/{was}/TASK.md");
        let Some(page) = read_page(source, import, &file)? else {
            continue;
        };
        let front = page.front.root();
        import_task(import, extension, names, (&was, &file), &front, &page.body);
        page.front.report_rest(import, |_| "no equivalent");
    }
    Ok(())
}

fn import_task(
    import: &mut Import,
    extension: &Key<'_>,
    names: &NameAssigner,
    (was, file): (&str, &str),
    front: &Key<'_>,
    body: &str,
) {
    let title = front
        .get("name")
        .text()
        .or_else(|| front.get("title").text());
    let title = one_line(title.unwrap_or(was));
    let assignee = front.get("assignee");
    let to = assignee.text().and_then(|a| names.assigned(a));
    let text = match body.is_empty() {
        true => title.clone(),
        false => format!("{title}\n\n{body}"),
    };
    let routine = extension.get("routines").get(was);
    let more = extension.get("tasks").get(was);
    if front.get("recurring").is(true) || routine.is_set() {
        return import_routine(import, &routine, (was, &title, file), to.as_ref(), &text);
    }
    let status = more.get("status");
    let state = status.text().unwrap_or("todo");
    if FINAL_STATES.contains(&state) {
        more.leave(import, "the task has ended");
        front.leave(import, format!("its state is {}", one_line(state)));
        return import.add_report_entry(
            ReportKind::Left,
            file,
            format!("its state is {}", one_line(state)),
        );
    }
    if !["todo", "backlog"].contains(&state) {
        let text = format!("`{}`: imported as open", one_line(state));
        status.report(import, ReportKind::Changed, text);
    }
    if assignee.is_set() && to.is_none() {
        let text = "not an agent of the export; imported without an assignee";
        assignee.report(import, ReportKind::Changed, text);
    }
    let written = [more.get("priority"), front.get("priority")];
    let written = written.into_iter().find(Key::is_set);
    let priority = match written.as_ref().and_then(Key::text) {
        Some("critical" | "urgent") => "P0",
        Some("high") => "P1",
        Some("low") => "P3",
        Some("medium" | "normal") | None => "P2",
        Some(other) => {
            if let Some(key) = &written {
                let text = format!("`{}`: imported as P2", one_line(other));
                key.report(import, ReportKind::Changed, text);
            }
            "P2"
        }
    };
    import.carried.insert(file.to_owned());
    import.tasks.push(ImportedTask {
        was: was.to_owned(),
        text,
        to,
        priority,
    });
    for key in ["comments", "labels", "documents", "workProducts"] {
        more.get(key)
            .leave(import, format!("{key} of tasks are not imported"));
    }
}

/// Imports a recurring task as schedules of its assignee.
fn import_routine(
    import: &mut Import,
    routine: &Key<'_>,
    (was, title, file): (&str, &str, &str),
    to: Option<&Slug>,
    text: &str,
) {
    let status = routine.get("status").text().unwrap_or("active");
    if status != "active" {
        let text = format!("its state is {}", one_line(status));
        routine.leave(import, text.clone());
        return import.add_report_entry(ReportKind::Left, file, text);
    }
    let policy = routine.get("catchUpPolicy");
    // Default of Paperclip.
    let skips = policy.text().is_none_or(|p| p == "skip_missed");
    let mut planned = 0;
    for trigger in routine.get("triggers").elements() {
        if trigger.get("enabled").is(false) {
            trigger.leave(import, "a disabled trigger");
            continue;
        }
        trigger.get("enabled").mark();
        if trigger.get("kind").text() != Some("schedule") {
            trigger.leave(
                import,
                "a trigger that is not a schedule; use `hooks` or workflows",
            );
            continue;
        }
        let at = import.agents.iter().position(|a| Some(&a.slug) == to);
        let Some(at) = at else {
            trigger.leave(import, "no agent is assigned");
            continue;
        };
        let zone = trigger.get("timezone");
        match timing::cron(import, &trigger.get("cronExpression"), zone.text()) {
            Ok(when) => {
                let agent = &mut import.agents[at];
                let place = trigger.place();
                let named = (was, when, text.to_owned());
                let schedule = agent.add_schedule(&mut import.findings, &place, named);
                schedule.catch_up = skips.then_some("skip");
                planned += 1;
            }
            Err(why) => trigger.leave(import, why),
        }
    }
    match planned {
        0 => {
            let text = format!("`{title}` is recurring, and has no schedule");
            import.add_report_entry(ReportKind::Left, file, text);
        }
        _ => {
            import.carried.insert(file.to_owned());
        }
    }
}
