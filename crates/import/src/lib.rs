//! Other installations become agents of a manifest: what can be carried over is, and what cannot is told. Nothing of
//! theirs is run, nothing is written there, and no file outside the directory that was named is read.

mod bundle;
mod fireclaw;
mod hermes;
mod names;
mod newcomer;
mod openclaw;
mod paperclip;
mod source;
mod variables;

pub use newcomer::{Newcomer, Planned, When};

use abbey_model::Slug;
use names::Names;
use source::Source;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What is brought in.
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
    /// Every one, by name.
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
            format!("`{text}` is nothing that can be imported; there are {all}")
        })
    }
}

/// Why nothing could be brought in.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not what it was said to be.
    #[error("`{}` is no {what}: {why}", path.display())]
    NotOne {
        /// Where.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
        /// What is missing or wrong.
        why: String,
    },
    /// A file of it cannot be read.
    #[error("`{}` cannot be read: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// Outcome of reading.
pub type Result<T> = std::result::Result<T, Error>;

/// Something that a person should know.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// What kind of thing.
    pub kind: Kind,
    /// Where it was seen.
    pub place: String,
    /// In words.
    pub text: String,
}

/// Kinds of findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// It was carried over as something else.
    Changed,
    /// It was not carried over.
    Left,
    /// A secret lies there.
    Secret,
}

impl Kind {
    /// Word for people and documents.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Changed => "changed",
            Kind::Left => "not carried over",
            Kind::Secret => "secret",
        }
    }
}

/// Work that comes along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work {
    /// Name at its origin, which makes it the same when it comes again.
    pub was: String,
    /// What is to be done.
    pub text: String,
    /// Who is to do it.
    pub to: Option<Slug>,
    /// `P0` to `P3`.
    pub priority: &'static str,
}

/// What was read.
#[derive(Debug, Default)]
pub struct Import {
    /// Agents, in the order in which they are added.
    pub agents: Vec<Newcomer>,
    /// Work that is open.
    pub tasks: Vec<Work>,
    /// What a person should know, sorted.
    pub findings: Vec<Finding>,
}

impl Import {
    fn found(&mut self, kind: Kind, place: impl Into<String>, text: impl Into<String>) {
        self.findings.push(Finding {
            kind,
            place: place.into(),
            text: text.into(),
        });
    }
}

/// What of the house decides how things are carried over.
#[derive(Debug, Clone, Default)]
pub struct Here {
    /// Names of agents and services that are taken.
    pub taken: BTreeSet<Slug>,
    /// Providers of models that are declared.
    pub providers: BTreeSet<Slug>,
    /// What the one agent is to be called.
    pub named: Option<Slug>,
}

impl Here {
    /// The model as the house names it; none, and a finding, when no provider of that name is declared.
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
            "the model `{shown}`: no provider of that name is declared; declare one under `providers` and set `model`"
        );
        import.found(Kind::Left, place, text);
        None
    }
}

/// Reads another installation.
///
/// # Errors
/// When it is not what it was said to be; what is wrong with single agents is a finding.
pub fn read(format: Format, path: &Path, here: &Here) -> Result<Import> {
    let mut import = Import::default();
    let mut names = Names::new(here.taken.clone());
    let open = |path: &Path| Source::open(path);
    match format {
        Format::Bundle => bundle::read(&open(path)?, here, &mut names, &mut import)?,
        Format::Fireclaw => fireclaw::read(path, here, &mut names, &mut import)?,
        Format::Env => variables::read(path, here, &mut names, &mut import)?,
        Format::Openclaw => openclaw::read(&open(path)?, here, &mut names, &mut import)?,
        Format::Hermes => hermes::read(&open(path)?, here, &mut names, &mut import)?,
        Format::Paperclip => paperclip::read(&open(path)?, here, &mut names, &mut import)?,
    }
    names::chart(&mut import);
    import.findings.sort();
    import.findings.dedup();
    Ok(import)
}
