//! Imports agents of other tools into a manifest, and reports what was changed or not imported. Nothing of the other
//! installation is executed or written, and no file outside the named directory is read.

mod accounting;
mod bundle;
mod document;
mod env_file;
mod error;
mod fireclaw;
mod hermes;
mod imported_agent;
mod names;
mod openclaw;
mod openclaw_config;
mod paperclip;
mod parsing;
mod report;
mod skips;
mod source;
mod target_house;
mod timing;

pub use error::{Error, Result};
pub use imported_agent::{ImportedAgent, ImportedSchedule, ScheduleTime};
pub use report::{Import, ImportedTask, ReportEntry, ReportKind};
pub use target_house::TargetHouse;

use names::NameAssigner;
use source::SourceDir;
use std::path::Path;

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

/// Reads the installation at `path` and returns its agents, tasks and the import report, which covers every file and key
/// that is not carried over as it is. `here` says which names and providers the house has, and what is left out.
///
/// # Errors
/// When it does not have the stated format, when one of its files has a mistake, and when something that is to be left out is
/// not there. Problems with single agents are report entries.
pub fn read_installation(format: Format, path: &Path, here: &TargetHouse) -> Result<Import> {
    let mut import = Import::default();
    let mut names = NameAssigner::new(here.taken.clone());
    if format == Format::Env {
        env_file::read_env_file(path, here, &mut names, &mut import)?;
    } else {
        let (source, file) = match format {
            Format::Fireclaw => fireclaw::open(path, &here.skip)?,
            _ => (SourceDir::open(path, &here.skip)?, String::new()),
        };
        let (names, import) = (&mut names, &mut import);
        match format {
            Format::Bundle => bundle::read_bundle(&source, here, names, import)?,
            Format::Fireclaw => fireclaw::read_fireclaw(&source, &file, here, names, import)?,
            Format::Openclaw => openclaw::read_openclaw(&source, here, names, import)?,
            Format::Hermes => hermes::read_hermes(&source, here, names, import)?,
            Format::Paperclip => paperclip::read_paperclip(&source, here, names, import)?,
            Format::Env => {}
        }
        if let Some(place) = source.skips.report(import) {
            return Err(Error::NothingToSkip { place });
        }
    }
    names::remove_reporting_cycles(&mut import);
    import.findings.sort();
    import.findings.dedup();
    Ok(import)
}
