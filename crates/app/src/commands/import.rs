//! `abbey import`: agents of another installation become agents of the manifest, through a plan like every other agent.

use crate::agent_files::{create_file, send_bundle_files};
use crate::connect::{is_control_plane_up, operator_client};
use crate::consent::Consent;
use crate::durations::now;
use crate::exit::{self, Failure, Outcome};
use crate::imported_agents::{Installation, list, place_below_top, top_of};
use crate::manifest_arg::ManifestArg;
use crate::manifest_file::{
    ManifestEdit, apply_edit, edit_manifest, manifest_failure, manifest_request_with,
};
use crate::names::parse_new_agent;
use crate::output::{self, print_message, print_table};
use crate::plan_output::{print_plan, refusal};
use abbey_api::headers::IdempotencyKey;
use abbey_api::{AddTask, BundleFile, PlanDoc, PlanSeverity, VERSION};
use abbey_daemon::{Home, manifest};
use abbey_import::{Format, Import, ImportedAgent, ReportKind, TargetHouse, read_installation};
use abbey_model::Slug;
use clap::Args;
use clap::builder::PossibleValuesParser;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// Format: `bundle`, `fireclaw`, `env`, `openclaw`, `hermes` or `paperclip`.
    pub(crate) format: String,
    /// Path of the installation; nothing is written there.
    pub(crate) from: PathBuf,
    /// Name of the agent, for formats that hold one agent.
    #[arg(long = "as", value_name = "NAME")]
    pub(crate) named: Option<String>,
    /// Key of the bundle's entry that may give the agent authority, such as `egress`; without it, keys that do are left
    /// out and reported. Can be repeated.
    #[arg(long, value_name = "KEY", value_delimiter = ',', value_parser = PossibleValuesParser::new(manifest::authority_keys()))]
    pub(crate) allow: Vec<String>,
    /// Place to leave out, as the import report writes it: a file, a directory, or `FILE: KEY`. Can be repeated.
    #[arg(long, value_name = "PLACE")]
    pub(crate) skip: Vec<String>,
    /// Import agents once more that the house has from this installation; with --as this is not needed.
    #[arg(long)]
    pub(crate) again: bool,
    /// Print the import report and the plan, and change nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) manifest: ManifestArg,
}

/// `abbey import`: reads the agents of another installation, prints the import report, and unless `--dry-run` adds
/// them to the manifest and applies it. Exit code 4 if a name is in use, if the house has agents of this installation, or if
/// the manifest would be invalid, all of that also with `--dry-run`, or if the plan has fatal notes, which a dry run reports
/// as what the house must have first.
pub(crate) async fn cmd_import(home: &Home, json: bool, args: &ImportArgs) -> Outcome {
    let usage = |text: String| Failure::plain(text).with_code(exit::USAGE);
    let format: Format = args.format.parse().map_err(usage)?;
    let file = args.manifest.path(home);
    let edit = edit_manifest(home, &file, |text| Ok(text.to_owned())).await?;
    let house =
        manifest::parse(&edit.text).map_err(|m| manifest_failure(&m).with_code(exit::USAGE))?;
    let house = &house;
    let here = target_house(house, args)?;
    let mut import =
        read_installation(format, &args.from, &here).map_err(|e| import_failure(&e))?;
    let installation = Installation::new(&args.format, &args.from);
    let before = installation.imported_before(&edit.text, house, &import);
    let on_purpose = args.again || (here.named.is_some() && import.agents.len() == 1);
    if !before.is_empty() && !on_purpose {
        return Err(imported_before(&before, args));
    }
    let top = top_of(house);
    let mut edited = edit.text.clone();
    // Other entries are placed once they are trusted.
    let failed = |m: Vec<manifest::Mistake>| manifest_failure(&m).hint(NOTHING_CHANGED);
    if import.agents.iter().all(|agent| agent.entry.is_none()) {
        place_below_top(&mut import, &mut edited, &top).map_err(failed)?;
    }
    for agent in &import.agents {
        edited = installation.add_entry(&edited, agent).map_err(failed)?;
    }
    let origins = origins(&import);
    distrust_entries(&mut import, &mut edited, &args.allow)?;
    if import.agents.iter().any(|agent| agent.entry.is_some()) {
        place_below_top(&mut import, &mut edited, &top).map_err(failed)?;
    }
    // In JSON there is one document, which says what became of it.
    if !json {
        print_report(&import);
    }
    let added = match import.agents.is_empty() {
        true => Ok(Added::Nothing(exit::OK)),
        false => {
            let manifest = (&*file, edit, edited, origins);
            add_agents(home, json, manifest, args, &mut import).await
        }
    };
    let applied = matches!(added, Ok(Added::Agents));
    let outcome = match added {
        Ok(Added::Agents) => fill_agents(home, args, &import)
            .await
            .map_err(|e| e.about("the agents were added, but not all of their files and tasks")),
        Ok(Added::Nothing(code)) => Ok(code),
        Err(failure) => Err(failure),
    };
    if json {
        print_document(&import, applied);
    }
    outcome
}

/// What an operator reads after every failure before the house has the agents.
const NOTHING_CHANGED: &str = "nothing was changed; correct the source, or leave a part of it out with `--skip`, and import again";

/// Failure with exit code 4 of an import whose agents the house has.
fn imported_before(before: &[Slug], args: &ImportArgs) -> Failure {
    let text = format!(
        "`{}` was imported before, as {}; once more, its agents and schedules would be there twice",
        args.from.display(),
        list(before)
    );
    Failure::plain(text)
        .hint("nothing was changed: `--again` imports them once more, `--skip` leaves them out, and `abbey agent rm` removes an agent")
        .with_code(exit::CONFLICT)
}

fn import_failure(error: &abbey_import::Error) -> Failure {
    let failure = Failure::plain(error.to_string()).with_code(exit::USAGE);
    match error {
        abbey_import::Error::Mistake { .. } => failure.hint(NOTHING_CHANGED),
        _ => failure,
    }
}

/// What the importers have to know of the house.
fn target_house(house: &manifest::House, args: &ImportArgs) -> Result<TargetHouse, Failure> {
    let taken = house.agents.keys().chain(house.services.keys());
    let here = TargetHouse {
        taken: taken.cloned().collect(),
        providers: house.providers.keys().cloned().collect(),
        named: args.named.as_deref().map(parse_new_agent).transpose()?,
        skip: args.skip.clone(),
    };
    match here.named.as_ref().filter(|n| here.taken.contains(*n)) {
        Some(named) => {
            let text = format!(
                "an agent or service `{named}` exists in the manifest; choose another name with `--as`"
            );
            Err(Failure::plain(text).with_code(exit::CONFLICT))
        }
        None => Ok(here),
    }
}

/// Line of an entry as the importer gave it, and where that comes from.
type Origin = (String, String);

/// Lines of the imported entries, without indentation, with the file and line of a bundle or else the place in the
/// installation.
fn origins(import: &Import) -> Vec<Origin> {
    let of_agent = |agent: &ImportedAgent| -> Vec<Origin> {
        let lines = agent.manifest_lines().into_iter().enumerate();
        let place = |number: usize| match agent.entry {
            Some(_) => format!("agent.yaml:{}", number + 1),
            None => agent.place.clone(),
        };
        lines
            .map(|(n, line)| (line.trim().to_owned(), place(n)))
            .collect()
    };
    import.agents.iter().flat_map(of_agent).collect()
}

/// A mistake of the edited manifest, with the place in the installation that it comes from, if that is known.
fn place_mistake(mistake: &manifest::Mistake, edited: &str, origins: &[Origin]) -> String {
    let number = mistake.line.checked_sub(1);
    let written = number.and_then(|n| edited.lines().nth(n));
    let origin = origins
        .iter()
        .find(|(line, _)| written.is_some_and(|w| w.trim() == line));
    match origin {
        Some((_, place)) => format!("{place}: {}", mistake.text),
        None => mistake.text.clone(),
    }
}

/// What became of the manifest.
enum Added {
    /// Its new agents are in force.
    Agents,
    /// It is as it was; exit code.
    Nothing(u8),
}

/// Plans the edited manifest and, unless `--dry-run`, applies it.
async fn add_agents(
    home: &Home,
    json: bool,
    (file, mut edit, edited, origins): (&Path, ManifestEdit, String, Vec<Origin>),
    args: &ImportArgs,
    import: &mut Import,
) -> Result<Added, Failure> {
    // Checked before anything is written or sent.
    if let Err(wrong) = manifest::parse(&edited) {
        let placed = wrong.iter().map(|m| place_mistake(m, &edited, &origins));
        let text: Vec<String> = placed.collect();
        let text = format!(
            "the imported entries would make the manifest invalid: {}",
            text.join("; ")
        );
        return Err(Failure::plain(text)
            .hint(NOTHING_CHANGED)
            .with_code(exit::CONFLICT));
    }
    let texts = import.agents.iter();
    let texts = texts.filter_map(|a| Some((a.charter_path()?, a.charter.clone()?)));
    let body = manifest_request_with(file, edited.clone(), &texts.collect())?;
    let up = is_control_plane_up(home).await;
    if !up && !args.dry_run {
        return Err(Failure::plain("no control plane answers, and an import gives running agents their files")
            .hint("nothing was changed: start the house with `abbey up`, then import again; `--dry-run` works without it")
            .with_code(exit::UNREACHABLE));
    }
    // What a stranger's entries do to the house is shown before it is done.
    let planned = match up {
        true => operator_client(home)?.house().plan(&body).await?,
        false => abbey_daemon::plan_offline(home.root().to_owned(), body).await?,
    };
    match refusal(&planned) {
        Some(refusal) if !args.dry_run => return Err(refusal.hint(NOTHING_CHANGED)),
        Some(_) => report_obstacles(json, &planned, import),
        None if !json => print_plan(&planned),
        None => {}
    }
    if args.dry_run {
        return Ok(Added::Nothing(exit::OK));
    }
    let charters = Charters::write(file, &import.agents)?;
    edit.text = edited;
    let code = apply_edit(home, file, edit, None, Consent::Ask, |_| {}).await?;
    if code != exit::OK {
        return Ok(Added::Nothing(code));
    }
    charters.keep();
    Ok(Added::Agents)
}

/// Reports what a house must have before the import can be applied. The source is as it should be, so a dry run succeeds.
fn report_obstacles(json: bool, planned: &PlanDoc, import: &mut Import) {
    let notes = planned.notes.iter();
    for note in notes.filter(|n| n.severity == PlanSeverity::Fatal) {
        import.add_report_entry(
            ReportKind::Obstacle,
            note.subject.clone(),
            note.text.clone(),
        );
        if !json {
            let text = format!(
                "{}: {}: {}",
                ReportKind::Obstacle.name(),
                note.subject,
                note.text
            );
            print_message(&text);
        }
    }
}

/// Gives the agents of an import their files and tasks.
async fn fill_agents(home: &Home, args: &ImportArgs, import: &Import) -> Outcome {
    let client = operator_client(home)?;
    for agent in &import.agents {
        let files = agent.files.iter().cloned();
        let files = files.map(|(path, text)| BundleFile { path, text });
        send_bundle_files(&client, agent.slug.as_str(), files.collect()).await?;
    }
    // Another import of the same installation, on purpose, makes tasks of its own.
    let run = now().0;
    for task in &import.tasks {
        let key = format!("import {} {} {run}", args.format, task.was);
        let body = AddTask {
            text: task.text.clone(),
            to: task.to.as_ref().map(ToString::to_string),
            priority: Some(task.priority.to_owned()),
            skill: None,
            args: std::collections::BTreeMap::new(),
            tokens: None,
            evidence: Vec::new(),
        };
        client.tasks().add(&body, Some(IdempotencyKey(key))).await?;
    }
    Ok(exit::OK)
}

/// Takes out of foreign entries, in the edited manifest and in `import`, what the operator leaves out, and what gives
/// authority and is not in `allowed`, and sets their charter to the imported one: the path in the entry may be that of any file here.
fn distrust_entries(
    import: &mut Import,
    edited: &mut String,
    allowed: &[String],
) -> Result<(), Failure> {
    let failed = |m: Vec<manifest::Mistake>| manifest_failure(&m).with_code(exit::CONFLICT);
    let mut report = Vec::new();
    for agent in import.agents.iter_mut().filter(|a| a.entry.is_some()) {
        let slug = &agent.slug;
        for key in &agent.skipped_keys {
            *edited = manifest::remove_key(edited, slug, key).map_err(failed)?;
        }
        let (text, withheld) =
            manifest::withhold_authority(edited, slug, allowed).map_err(failed)?;
        *edited = match agent.charter_path() {
            _ if !manifest::has_value_at(&text, slug, &["charter"]) => Ok(text),
            Some(path) => manifest::set_key(&text, slug, "charter", &path),
            None => manifest::remove_key(&text, slug, "charter"),
        }
        .map_err(failed)?;
        for manifest::WithheldKey { key, value } in withheld {
            let text = format!(
                "`{value}` is left out, since it gives authority; import with `--allow {key}`, or write it into the manifest"
            );
            report.push((format!("agent.yaml: {key}"), text));
        }
        agent.entry = Some(manifest::agent_entry(edited, slug).map_err(failed)?);
    }
    for (place, text) in report {
        import.add_report_entry(ReportKind::Withheld, place, text);
    }
    Ok(())
}

/// Charters that were written beside the manifest; dropped without `keep`, they are deleted again.
struct Charters(Vec<PathBuf>);

impl Charters {
    fn write(manifest: &Path, agents: &[ImportedAgent]) -> Result<Charters, Failure> {
        let base = manifest.parent().unwrap_or(Path::new("."));
        let mut written = Charters(Vec::new());
        for agent in agents {
            if let (Some(path), Some(text)) = (agent.charter_path(), &agent.charter) {
                let path = base.join(path);
                create_file(&path, text)?;
                written.0.push(path);
            }
        }
        Ok(written)
    }

    fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Charters {
    fn drop(&mut self) {
        for path in &self.0 {
            let _gone_already = std::fs::remove_file(path);
        }
    }
}

/// Prints the document of an import: agents, tasks, report, and the places that are carried over as they are.
fn print_document(import: &Import, applied: bool) {
    let agents: Vec<Value> = import
            .agents
            .iter()
            .map(|a| {
                let files: Vec<&str> = a.files.iter().map(|(path, _)| path.as_str()).collect();
                json!({
                    "name": a.slug, "was": a.was, "place": a.place, "entry": a.manifest_lines(), "charter": a.charter_path(), "files": files,
                })
            })
            .collect();
    let tasks: Vec<Value> = import
        .tasks
        .iter()
        .map(|t| json!({ "was": t.was, "text": t.text, "to": t.to, "priority": t.priority }))
        .collect();
    let findings: Vec<Value> = import
        .findings
        .iter()
        .map(|f| json!({ "kind": f.kind.name(), "place": f.place, "text": f.text }))
        .collect();
    output::print_json(&json!({
        "version": VERSION, "applied": applied,
        "agents": agents, "tasks": tasks, "findings": findings, "carried": import.carried,
    }));
}

/// Prints the import report: what is imported, and each finding with its place and reason.
fn print_report(import: &Import) {
    for agent in &import.agents {
        for line in agent.manifest_lines() {
            output::print_line(&format!("  {line}"));
        }
        if !agent.files.is_empty() {
            let files: Vec<&str> = agent.files.iter().map(|(path, _)| path.as_str()).collect();
            output::print_line(&format!("    # with {}", files.join(", ")));
        }
    }
    for task in &import.tasks {
        let first = task.text.lines().next().unwrap_or_default();
        let to = task.to.as_ref().map_or("any agent", |t| t.as_str());
        output::print_line(&format!("  # {} work for {to}: {first}", task.priority));
    }
    let kinds: BTreeSet<&str> = import.findings.iter().map(|f| f.kind.name()).collect();
    if !kinds.is_empty() {
        let row = |f: &abbey_import::ReportEntry| {
            vec![f.kind.name().to_owned(), f.place.clone(), f.text.clone()]
        };
        print_table(
            &["WHAT", "WHERE", "WHY"],
            import.findings.iter().map(row).collect(),
            "nothing to report",
        );
    }
    match import.agents.is_empty() {
        true => print_message("no agents were found to import"),
        false => print_message(&format!(
            "{} files and keys are carried over as they are; the report has what is not",
            import.carried.len()
        )),
    }
}
