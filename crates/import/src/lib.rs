//! Imports agents of other tools into a manifest, and reports what was changed or not imported. Nothing of the other
//! installation is executed or written, and no file outside the named directory is read.

mod bundle;
mod env_file;
mod fireclaw;
mod hermes;
mod imported_agent;
mod names;
mod openclaw;
mod paperclip;
mod source;

pub use imported_agent::{ImportedAgent, ImportedSchedule, ScheduleTime};

use abbey_model::Slug;
use names::Names;
use source::Source;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Format of an installation to import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A directory that `abbey export` wrote, or any that holds an agent's workspace files.
    Bundle,
    /// State and templates of a host of microVMs: `agents.json` beside `templates/`.
    Fireclaw,
    /// The `.env` of one agent, with keys such as `AGENT_NAME` and `SYSTEM_LOCALE`.
    Env,
    /// The directory of an OpenClaw instance: `openclaw.json` and workspaces.
    Openclaw,
    /// A `HERMES_HOME`: `config.yaml`, memories and `cron/jobs.json`.
    Hermes,
    /// A company that Paperclip exported: `COMPANY.md`, `agents/`, `tasks/`.
    Paperclip,
}

impl Format {
    /// Every format, with its name.
    pub const ALL: [(&str, Format); 6] = [
        ("bundle", Format::Bundle),
        ("fireclaw", Format::Fireclaw),
        ("env", Format::Env),
        ("openclaw", Format::Openclaw),
        ("hermes", Format::Hermes),
        ("paperclip", Format::Paperclip),
    ];
}

impl std::str::FromStr for Format {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Format, String> {
        let found = Format::ALL.iter().find(|(name, _)| *name == text);
        found.map(|(_, format)| *format).ok_or_else(|| {
            let all = Format::ALL.map(|(name, _)| name).join(", ");
            format!("unknown import format `{text}`; one of: {all}")
        })
    }
}

/// Why an import failed as a whole.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path does not have the stated format.
    #[error("`{}` is not a {what}: {why}", path.display())]
    WrongFormat {
        /// Path that was read.
        path: PathBuf,
        /// Expected format.
        what: &'static str,
        /// What is missing or invalid.
        why: String,
    },
    /// A file cannot be read.
    #[error("could not read `{}`: {source}", path.display())]
    File {
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },
}

/// Result of an importer.
pub type Result<T> = std::result::Result<T, Error>;

/// Entry of an import report.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReportEntry {
    /// ReportKind of entry.
    pub kind: ReportKind,
    /// File or key that it is about.
    pub place: String,
    /// Explanation for people.
    pub text: String,
}

/// ReportKind of a report entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReportKind {
    /// Imported with a change.
    Changed,
    /// Not imported.
    Left,
    /// A secret was found.
    Secret,
}

impl ReportKind {
    /// Name in reports and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            ReportKind::Changed => "changed",
            ReportKind::Left => "not imported",
            ReportKind::Secret => "secret",
        }
    }
}

/// Open task of the imported installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedTask {
    /// Name in the imported installation; a repeated import recognizes the task by it.
    pub was: String,
    /// Text of the task.
    pub text: String,
    /// Assignee.
    pub to: Option<Slug>,
    /// `P0` to `P3`.
    pub priority: &'static str,
}

/// Result of an import.
#[derive(Debug, Default)]
pub struct Import {
    /// Agents, in the order in which they are added.
    pub agents: Vec<ImportedAgent>,
    /// Open tasks.
    pub tasks: Vec<ImportedTask>,
    /// Report, sorted.
    pub findings: Vec<ReportEntry>,
}

impl Import {
    fn report(&mut self, kind: ReportKind, place: impl Into<String>, text: impl Into<String>) {
        self.findings.push(ReportEntry {
            kind,
            place: place.into(),
            text: text.into(),
        });
    }
}

/// Facts about the house that receives the import.
#[derive(Debug, Clone, Default)]
pub struct TargetHouse {
    /// Names of agents and services that are in use.
    pub taken: BTreeSet<Slug>,
    /// Declared model providers.
    pub providers: BTreeSet<Slug>,
    /// Name for the imported agent, when there is only one.
    pub named: Option<Slug>,
}

impl TargetHouse {
    /// The model in the house's notation; none, with an entry in the report, when its provider is not declared.
    fn model(&self, import: &mut Import, place: &str, wanted: &str) -> Option<String> {
        let plain = !wanted.is_empty() && wanted.chars().all(|c| c.is_ascii_graphic() && c != '"');
        let provider = wanted
            .split_once('/')
            .and_then(|(p, _)| p.parse::<Slug>().ok());
        if plain && provider.is_some_and(|p| self.providers.contains(&p)) {
            return Some(wanted.to_owned());
        }
        let shown: String = wanted
            .chars()
            .filter(|c| !c.is_control())
            .take(80)
            .collect();
        let text = format!(
            "model `{shown}`: its provider is not declared; declare it under `providers` and set `model`"
        );
        import.report(ReportKind::Left, place, text);
        None
    }
}

/// Reads an installation.
///
/// # Errors
/// When it does not have the stated format. Problems with single agents are report entries.
pub fn read(format: Format, path: &Path, here: &TargetHouse) -> Result<Import> {
    let mut import = Import::default();
    let mut names = Names::new(here.taken.clone());
    let open = |path: &Path| Source::open(path);
    match format {
        Format::Bundle => bundle::read(&open(path)?, here, &mut names, &mut import)?,
        Format::Fireclaw => fireclaw::read(path, here, &mut names, &mut import)?,
        Format::Env => env_file::read(path, here, &mut names, &mut import)?,
        Format::Openclaw => openclaw::read(&open(path)?, here, &mut names, &mut import)?,
        Format::Hermes => hermes::read(&open(path)?, here, &mut names, &mut import)?,
        Format::Paperclip => paperclip::read(&open(path)?, here, &mut names, &mut import)?,
    }
    names::remove_reporting_cycles(&mut import);
    import.findings.sort();
    import.findings.dedup();
    Ok(import)
}
