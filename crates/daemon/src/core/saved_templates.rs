//! Templates that operators saved from their agents: files in the home, each a tar archive whose first entry says what the
//! rest is.
//!
//! A template holds what is to be the same in other agents: the manifest entry, the charter, home and workspace. It holds
//! no credential, no memory and no identity of its agent.

use crate::core::error::{Error, Result};
use crate::core::home::Home;
use abbey_api::{Problem, Time};
use abbey_model::{FaultKind, IDENTITY_FILES, Slug};
use abbey_support::beneath::DirHandle;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

/// First entry of the archive.
const DESCRIPTION: &str = "template.json";
/// Longest description, bytes.
const DESCRIPTION_MAX: u64 = 2 << 20;
/// Longest file that is searched for credentials, bytes.
const SEARCHED_MAX: u64 = 1 << 20;
/// Prefix of a file that is being written.
const UNFINISHED: &str = ".";

/// Entries of an agent's home and workspace that stay behind beside [`IDENTITY_FILES`], because the house makes them for
/// each agent, or they are what the agent remembers.
const OWN: [&str; 5] = [
    "home/token",
    "home/session.lock",
    "home/services",
    "workspace/memory",
    "workspace/shared",
];

/// Where programs keep logins and what they were used for, below a home.
const LOGINS: [&str; 21] = [
    ".ssh",
    ".gnupg",
    ".netrc",
    ".pgpass",
    ".git-credentials",
    ".aws",
    ".azure",
    ".kube",
    ".npmrc",
    ".pypirc",
    ".docker/config.json",
    ".config/gcloud",
    ".config/gh",
    ".claude",
    ".claude.json",
    ".codex",
    ".hermes",
    ".openclaw",
    ".pi",
    ".bash_history",
    ".python_history",
];

/// Description of a saved template.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SavedTemplate {
    /// Always 1.
    pub version: u32,
    /// Name of the template.
    pub name: Slug,
    /// Agent that it was saved from.
    pub agent: Slug,
    /// Role of that agent.
    pub role: String,
    /// Kind of its cell.
    pub cell: String,
    /// Its skills.
    pub skills: Vec<String>,
    /// When it was saved.
    pub at: Time,
    /// Lines of the manifest entry, without indentation.
    pub entry: Vec<String>,
    /// Text of the charter.
    pub charter: String,
}

/// Templates that were saved in a house, sorted by name. Empty where there are none, or the caller may not see them.
///
/// # Errors
/// If a template is damaged.
pub fn list_saved_templates(home: &Home) -> Result<Vec<SavedTemplate>> {
    let names = saved_template_names(home)?;
    let read = |name: &Slug| open_saved_template(home, name).map(|(about, _)| about);
    names.iter().map(read).collect()
}

/// Names of the templates that were saved in a house, sorted. Empty where there are none, or the caller may not see them.
pub(crate) fn saved_template_names(home: &Home) -> Result<Vec<Slug>> {
    let dir = match DirHandle::open(&home.templates_dir()) {
        Ok(dir) => dir,
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
            ) =>
        {
            return Ok(Vec::new());
        }
        Err(e) => return Err(Error::file("open", home.templates_dir())(e)),
    };
    let mut names: Vec<Slug> = dir
        .names()
        .map_err(Error::file("list", home.templates_dir()))?
        .iter()
        .filter_map(|n| n.to_str()?.strip_suffix(".tar")?.parse().ok())
        .collect();
    names.sort_unstable();
    Ok(names)
}

/// A saved template with its file, at the start. `NotFound` in the error if there is none of this name.
///
/// # Errors
/// If it cannot be read, or is damaged.
pub fn open_saved_template(home: &Home, name: &Slug) -> Result<(SavedTemplate, File)> {
    let path = home.templates_dir().join(format!("{name}.tar"));
    let failed = |what| Error::file(what, &path);
    let damaged = |why: String| Error::Damaged {
        path: path.clone(),
        why,
    };
    let dir = DirHandle::open(&home.templates_dir()).map_err(failed("open"))?;
    let open = || dir.open_file(format!("{name}.tar")).map_err(failed("open"));
    let mut archive = tar::Archive::new(open()?);
    let first = archive.entries().map_err(failed("read"))?.next();
    let first = first.ok_or_else(|| damaged("it is empty".to_owned()))?;
    let first = first.map_err(failed("read"))?;
    let described = first.path().is_ok_and(|p| p == Path::new(DESCRIPTION));
    if !described || first.size() > DESCRIPTION_MAX {
        return Err(damaged(format!("it does not begin with `{DESCRIPTION}`")));
    }
    let mut about: SavedTemplate =
        serde_json::from_reader(first).map_err(|e| damaged(e.to_string()))?;
    // Whoever copies or renames the file renames the template.
    about.name = name.clone();
    Ok((about, open()?))
}

/// File that becomes a template when it is finished; removed otherwise.
pub(crate) struct NewTemplate {
    path: PathBuf,
    file: tempfile::NamedTempFile,
}

impl NewTemplate {
    /// Creates the file in the home. Removes what a crash left of earlier ones.
    /// Only one of a name may be written at a time.
    pub(crate) fn create(home: &Home, name: &Slug) -> Result<NewTemplate> {
        let dir = home.templates_dir();
        let prefix = format!("{UNFINISHED}{name}.");
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                let _stays_until_the_next = std::fs::remove_file(entry.path());
            }
        }
        let file = tempfile::Builder::new()
            .prefix(&prefix)
            .tempfile_in(&dir)
            .map_err(Error::file("make a file in", &dir))?;
        let path = dir.join(format!("{name}.tar"));
        Ok(NewTemplate { path, file })
    }

    /// Writes the description and what of `archive`, which holds the files of one agent as hostd packs them, belongs into a
    /// template. `is_secret` tells whether a text holds a credential. Returns what is left out, with the reason.
    pub(crate) fn write(
        &self,
        about: &SavedTemplate,
        archive: impl Read,
        is_secret: impl Fn(&str) -> bool,
    ) -> Result<Vec<String>> {
        let failed = || Error::file("write", &self.path);
        let mut left_out = Vec::new();
        let mut to = tar::Builder::new(io::BufWriter::new(self.file.as_file()));
        let mut header = tar::Header::new_gnu();
        let text = serde_json::to_vec(about).map_err(|e| failed()(e.into()))?;
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        to.append_data(&mut header, DESCRIPTION, text.as_slice())
            .map_err(failed())?;
        let root = Path::new("agents").join(about.agent.as_str());
        let mut archive = tar::Archive::new(archive);
        for entry in archive.entries().map_err(failed())? {
            let mut entry = entry.map_err(failed())?;
            let path = entry.path().map_err(failed())?.into_owned();
            let Ok(path) = path.strip_prefix(&root) else {
                continue;
            };
            match fate(path) {
                Fate::Kept => {}
                Fate::Own => continue,
                Fate::Login(named) => {
                    if named {
                        left_out.push(format!("{}: a program's logins", path.display()));
                    }
                    continue;
                }
            }
            let mut header = entry.header().clone();
            let written = match header.entry_type() {
                tar::EntryType::Symlink => {
                    let target = entry.link_name().map_err(failed())?.unwrap_or_default();
                    to.append_link(&mut header, path, target)
                }
                tar::EntryType::Regular if entry.size() <= SEARCHED_MAX => {
                    let mut bytes = Vec::new();
                    entry.read_to_end(&mut bytes).map_err(failed())?;
                    if std::str::from_utf8(&bytes).is_ok_and(&is_secret) {
                        let why = "text that looks like a credential is in it";
                        left_out.push(format!("{}: {why}", path.display()));
                        continue;
                    }
                    to.append_data(&mut header, path, bytes.as_slice())
                }
                _ => to.append_data(&mut header, path, entry),
            };
            written.map_err(failed())?;
        }
        let written = to
            .into_inner()
            .and_then(|mut file| io::Write::flush(&mut file));
        written.map_err(failed())?;
        Ok(left_out)
    }

    /// Puts the template in place, whole and lasting, and returns its size. With `replace` an earlier one of its name goes.
    ///
    /// # Errors
    /// `AlreadyExists` without `replace`, if there is one now.
    pub(crate) fn publish(self, replace: bool) -> io::Result<u64> {
        self.file.as_file().sync_all()?;
        let size = self.file.as_file().metadata()?.len();
        match replace {
            true => self.file.persist(&self.path).map_err(|e| e.error)?,
            false => self
                .file
                .persist_noclobber(&self.path)
                .map_err(|e| e.error)?,
        };
        File::open(self.path.parent().unwrap_or(Path::new("/")))?.sync_all()?;
        Ok(size)
    }
}

/// Removes a template.
///
/// # Errors
/// A problem that says so if there is none of this name.
pub(crate) fn remove_saved_template(home: &Home, name: &Slug) -> Result<()> {
    let path = home.templates_dir().join(format!("{name}.tar"));
    let removed = std::fs::remove_file(&path).map_err(Error::file("remove", path));
    removed.map_err(|e| no_such_template(name, e))
}

/// Opens a template's file, at the start.
///
/// # Errors
/// A problem that says so if there is none of this name, or why it cannot be read.
pub(crate) fn require_saved_template(home: &Home, name: &Slug) -> Result<File> {
    let opened = open_saved_template(home, name).map_err(|e| no_such_template(name, e))?;
    Ok(opened.1)
}

fn no_such_template(name: &Slug, error: Error) -> Error {
    match &error {
        Error::File { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            let text = format!("there is no saved template `{name}`");
            let problem = Problem::new(FaultKind::NotFound, text);
            let remedy = "`abbey template list` lists all templates";
            problem.remedy(remedy).into()
        }
        _ => error,
    }
}

/// Whether an entry of an agent's files becomes part of a template.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Kept,
    /// It is the agent's own.
    Own,
    /// It is, or is below, where a program keeps logins; true for that place itself.
    Login(bool),
}

fn fate(path: &Path) -> Fate {
    let plain = path.components().all(|c| matches!(c, Component::Normal(_)));
    let session = path.strip_prefix("home").ok().and_then(Path::to_str);
    let session = session.is_some_and(|n| n.starts_with("session") && n.ends_with(".jsonl"));
    let below = path.strip_prefix("workspace");
    let identity = below.is_ok_and(|below| IDENTITY_FILES.iter().any(|own| below.starts_with(own)));
    if !plain || session || identity || OWN.iter().any(|own| path.starts_with(own)) {
        return Fate::Own;
    }
    match path.strip_prefix("home") {
        Ok(below) => match LOGINS.iter().find(|place| below.starts_with(place)) {
            Some(place) => Fate::Login(below == Path::new(place)),
            None => Fate::Kept,
        },
        Err(_) if path.starts_with("workspace") => Fate::Kept,
        Err(_) => Fate::Own,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_is_and_knows_stays_behind() {
        let of = |path: &str| fate(Path::new(path));
        for path in [
            "home",
            "home/bin/tool",
            "workspace",
            "workspace/src/MEMORY.md",
            "home/.bashrc",
        ] {
            assert_eq!(of(path), Fate::Kept, "{path}");
        }
        for path in [
            "token",
            "home/token",
            "home/session.jsonl",
            "home/session-3.jsonl",
            "workspace/MEMORY.md",
            "workspace/memory/a.md",
            "../home/x",
        ] {
            assert_eq!(of(path), Fate::Own, "{path}");
        }
        assert_eq!(of("home/.ssh"), Fate::Login(true));
        assert_eq!(of("home/.ssh/id"), Fate::Login(false));
        assert_eq!(of("home/.config/gh/hosts.yml"), Fate::Login(false));
    }
}
