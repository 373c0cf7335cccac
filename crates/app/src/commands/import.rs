//! `abbey import`: agents of another installation become agents of the manifest, through a plan like every other agent.

use crate::agent_files::{create_file, send_bundle_files};
use crate::connect::operator_client;
use crate::consent::Consent;
use crate::exit::{self, Failure, Outcome};
use crate::manifest_arg::ManifestArg;
use crate::manifest_file::{
    apply_edit, edit_manifest, manifest_failure, manifest_request, parse_slug,
};
use crate::output::{self, print_message, print_table};
use crate::plan_output::print_plan;
use abbey_api::HouseQuery;
use abbey_api::headers::IdempotencyKey;
use abbey_api::{AddTask, BundleFile, PlanNote, PlanSeverity, VERSION};
use abbey_daemon::{Home, manifest};
use abbey_import::{Format, Import, ImportedAgent, ReportKind, TargetHouse, read_installation};
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
    /// Print the import report and change nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) manifest: ManifestArg,
}

/// `abbey import`: reads the agents of another installation, prints the import report, and unless `--dry-run` adds
/// them to the manifest and applies it. Exit code 4 if a name is in use or the manifest would be invalid.
pub(crate) async fn cmd_import(home: &Home, json: bool, args: &ImportArgs) -> Outcome {
    let usage = |text: String| Failure::plain(text).with_code(exit::USAGE);
    let format: Format = args.format.parse().map_err(usage)?;
    let file = args.manifest.path(home);
    let mut edit = edit_manifest(&file, |text| Ok(text.to_owned())).await?;
    let house =
        manifest::parse(&edit.text).map_err(|m| manifest_failure(&m).with_code(exit::USAGE))?;
    let taken = house.agents.keys().chain(house.services.keys());
    let here = TargetHouse {
        taken: taken.cloned().collect(),
        providers: house.providers.keys().cloned().collect(),
        named: args.named.as_deref().map(parse_slug).transpose()?,
    };
    if let Some(named) = here.named.as_ref().filter(|n| here.taken.contains(*n)) {
        let text = format!(
            "an agent or service `{named}` exists in the manifest; choose another name with `--as`"
        );
        return Err(Failure::plain(text).with_code(exit::CONFLICT));
    }
    let mut import =
        read_installation(format, &args.from, &here).map_err(|e| usage(e.to_string()))?;
    let mut edited = edit.text.clone();
    for agent in &import.agents {
        edited = manifest::add_entry(&edited, &agent.slug, &agent.manifest_lines())
            .map_err(|m| manifest_failure(&m))?;
    }
    distrust_entries(&mut import, &mut edited, &args.allow)?;
    // Checked before anything is written or sent.
    if let Err(wrong) = manifest::parse(&edited) {
        print_report(&import, json, false);
        let text: Vec<String> = wrong.iter().map(ToString::to_string).collect();
        let text = format!(
            "the imported entries would make the manifest invalid: {}",
            text.join("; ")
        );
        return Err(Failure::plain(text)
            .hint("nothing was changed; correct the source and import again")
            .with_code(exit::CONFLICT));
    }
    print_report(&import, json, !args.dry_run);
    if args.dry_run || import.agents.is_empty() {
        return Ok(exit::OK);
    }
    let client = operator_client(home)?;
    // Fails here, before anything is written, when no house answers.
    client.house().show(&HouseQuery::default()).await?;
    let charters = Charters::write(&file, &import.agents)?;
    // What a stranger's entries do to the house is shown before it is done.
    let planned = client
        .house()
        .plan(&manifest_request(&file, edited.clone())?)
        .await?;
    let is_fatal = |n: &PlanNote| n.severity == PlanSeverity::Fatal;
    if !json && !planned.notes.iter().any(is_fatal) {
        print_plan(&planned);
    }
    edit.text = edited;
    let code = apply_edit(home, &file, edit, None, Consent::Ask, |_| {}).await?;
    if code != exit::OK {
        return Ok(code);
    }
    charters.keep();
    for agent in import.agents {
        let files = agent.files.into_iter();
        let files = files.map(|(path, text)| BundleFile { path, text });
        send_bundle_files(&client, agent.slug.as_str(), files.collect()).await?;
    }
    for task in import.tasks {
        let key = format!("import {} {}", args.format, task.was);
        let body = AddTask {
            text: task.text,
            to: task.to.map(|t| t.to_string()),
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

/// Takes out of foreign entries, in the edited manifest and in `import`, what gives authority and is not in `allowed`,
/// and sets their charter to the imported one: the path in the entry may be that of any file here.
fn distrust_entries(
    import: &mut Import,
    edited: &mut String,
    allowed: &[String],
) -> Result<(), Failure> {
    let failed = |m: Vec<manifest::Mistake>| manifest_failure(&m).with_code(exit::CONFLICT);
    let mut report = Vec::new();
    for agent in import.agents.iter_mut().filter(|a| a.entry.is_some()) {
        let slug = &agent.slug;
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

/// Prints the import report: what is imported, and each finding with its place and reason.
fn print_report(import: &Import, json: bool, applied: bool) {
    if json {
        let agents: Vec<Value> = import
            .agents
            .iter()
            .map(|a| {
                let files: Vec<&str> = a.files.iter().map(|(path, _)| path.as_str()).collect();
                json!({
                    "name": a.slug, "was": a.was, "entry": a.manifest_lines(), "charter": a.charter_path(), "files": files,
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
            "version": VERSION, "applied": applied && !import.agents.is_empty(),
            "agents": agents, "tasks": tasks, "findings": findings,
        }));
        return;
    }
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
    if import.agents.is_empty() {
        print_message("no agents were found to import");
    }
}
