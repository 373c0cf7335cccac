//! An owner's files: made, written, read and moved by names that are known here. Nothing an agent
//! can write to is ever reached by a path: directories are opened without following links, and
//! files are made with `O_EXCL` and published by rename within them (hazards 8, 9, 19 and 21).

use super::server::Config;
use crate::{Error, Result};
use abbey_model::{CellName, Slug};
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Where shared documents are, below an agent's directory.
const SHARED: &str = "workspace/shared";
/// Where credentials at services are, below an agent's directory.
const SERVICES: &str = "home/services";
/// Where an agent's notes are, below its directory.
const NOTES: &str = "workspace/memory";
/// How the control plane's copy of one is called, before the service's name.
pub(super) const CREDENTIAL: &str = "service-";
/// An instant in a name, as it is written: a digit stands for any.
const STAMP: &str = "0000-00-00T00-00-00-000Z";
/// Most of a file that is read for the house, bytes.
const READ_MAX: u64 = 64 << 10;

/// A file that the house knows in an owner's directories.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileName {
    /// `workspace/SOUL.md`, which its agent may not write.
    Charter,
    /// The same, where it may.
    OwnCharter,
    /// `workspace/AGENTS.md`.
    Rules,
    /// `workspace/MEMORY.md`.
    Memory,
    /// `workspace/HEARTBEAT.md`.
    Heartbeat,
    /// `workspace/shared/NAME.md`, which its agent may not write; empty, it is taken away.
    Shared(Slug),
    /// The agent's credential at a service: `home/services/NAME`, and a copy for the control plane; empty, it is taken away.
    Credential(Slug),
    /// What proves that service: `home/services/NAME.pem`; empty, it is taken away.
    Trust(Slug),
    /// `workspace/USER.md`, as it was somewhere else.
    User,
    /// `workspace/IDENTITY.md`, as it was somewhere else.
    Identity,
    /// `workspace/AGENTS.md`, as it was somewhere else.
    BroughtRules,
    /// `workspace/MEMORY.md`, as it was somewhere else.
    BroughtMemory,
    /// `workspace/HEARTBEAT.md`, as it was somewhere else.
    BroughtHeartbeat,
    /// A file of `workspace/memory/`.
    Note(NoteName),
    /// The credential of the inside door: one for the agent, one for the control plane.
    Token,
    /// The virtual key, for the control plane.
    Key,
}

/// Name of a note: plain letters, and the end of Markdown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NoteName(String);

impl TryFrom<String> for NoteName {
    type Error = &'static str;
    fn try_from(name: String) -> std::result::Result<NoteName, &'static str> {
        match abbey_model::is_note_name(&name) {
            true => Ok(NoteName(name)),
            false => {
                Err("a note is called by letters, digits, `.`, `_` and `-`, and ends in `.md`")
            }
        }
    }
}

impl From<NoteName> for String {
    fn from(name: NoteName) -> String {
        name.0
    }
}

/// A file to write.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Which.
    pub name: FileName,
    /// Its content.
    pub content: String,
}

/// Whose file it becomes, and how it may be used.
enum Owner {
    /// Root's, read by everybody who can reach it.
    House,
    /// Root's, read by the control plane.
    ControlPlane,
    /// The agent's.
    Agent,
}

impl FileName {
    /// Whether it came with an agent from somewhere else, and is the agent's from then on.
    pub(crate) const fn is_brought(&self) -> bool {
        matches!(
            self,
            FileName::User
                | FileName::Identity
                | FileName::BroughtRules
                | FileName::BroughtMemory
                | FileName::BroughtHeartbeat
                | FileName::Note(_)
        )
    }

    /// Whether it is taken away when it is empty.
    pub(crate) const fn may_go(&self) -> bool {
        matches!(
            self,
            FileName::Shared(_) | FileName::Credential(_) | FileName::Trust(_)
        )
    }

    /// What an agent starts with.
    pub(crate) const FOR_AGENTS: [FileName; 6] = [
        FileName::Charter,
        FileName::OwnCharter,
        FileName::Rules,
        FileName::Memory,
        FileName::Heartbeat,
        FileName::Token,
    ];

    /// Directory, name, owner, mode, and whether what is there stays.
    fn place(&self) -> (&'static str, Cow<'static, str>, Owner, u32, bool) {
        let (place, name, owner, mode, keep) = match self {
            FileName::Shared(name) => {
                let name = Cow::Owned(format!("{name}.md"));
                return (SHARED, name, Owner::House, 0o444, false);
            }
            FileName::Credential(name) => {
                let name = Cow::Owned(format!("{CREDENTIAL}{name}"));
                return ("", name, Owner::ControlPlane, 0o640, false);
            }
            FileName::Trust(name) => {
                let name = Cow::Owned(format!("{name}.pem"));
                return (SERVICES, name, Owner::Agent, 0o400, false);
            }
            FileName::Note(note) => {
                let name = Cow::Owned(note.0.clone());
                return (NOTES, name, Owner::Agent, 0o600, false);
            }
            FileName::User => ("workspace", "USER.md", Owner::Agent, 0o600, false),
            FileName::Identity => ("workspace", "IDENTITY.md", Owner::Agent, 0o600, false),
            FileName::BroughtRules => ("workspace", "AGENTS.md", Owner::Agent, 0o600, false),
            FileName::BroughtMemory => ("workspace", "MEMORY.md", Owner::Agent, 0o600, false),
            FileName::BroughtHeartbeat => ("workspace", "HEARTBEAT.md", Owner::Agent, 0o600, false),
            FileName::Charter => ("workspace", "SOUL.md", Owner::House, 0o444, false),
            FileName::OwnCharter => ("workspace", "SOUL.md", Owner::Agent, 0o600, true),
            FileName::Rules => ("workspace", "AGENTS.md", Owner::Agent, 0o600, true),
            FileName::Memory => ("workspace", "MEMORY.md", Owner::Agent, 0o600, true),
            FileName::Heartbeat => ("workspace", "HEARTBEAT.md", Owner::Agent, 0o600, true),
            FileName::Token => ("", "token", Owner::ControlPlane, 0o640, false),
            FileName::Key => ("", "key", Owner::ControlPlane, 0o640, false),
        };
        (place, Cow::Borrowed(name), owner, mode, keep)
    }
}

fn broken(what: &'static str, path: &Path) -> impl FnOnce(rustix::io::Errno) -> Error {
    let path = path.to_owned();
    move |e| Error::file(what, path)(e.into())
}

/// Directory of an owner's files.
pub(super) fn dir_of(config: &Config, owner: &CellName) -> PathBuf {
    let kind = match owner {
        CellName::Agent(_) => "agents",
        CellName::Service(_) => "services",
        CellName::Run(_) => "runs",
    };
    config.home.join(kind).join(owner.slug().as_str())
}

fn open_dir(at: impl AsFd, name: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty()).map_err(broken("open", name))
}

/// Makes a directory if it is not there, and gives it owner and mode either way.
fn make(at: impl AsFd, name: &Path, mode: u32, owner: (u32, u32)) -> Result<OwnedFd> {
    match rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(e) => return Err(broken("make", name)(e)),
    }
    let dir = open_dir(at, name)?;
    hand_over(&dir, name, owner)?;
    rustix::fs::fchmod(&dir, Mode::from_raw_mode(mode)).map_err(broken("protect", name))?;
    Ok(dir)
}

fn hand_over(fd: &OwnedFd, name: &Path, (uid, gid): (u32, u32)) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::fs::fchown(fd, Some(uid), Some(gid)).map_err(broken("hand over", name))
}

/// Makes an owner's directories and writes files; doing it twice is doing it once.
pub(super) fn prepare(
    config: &Config,
    owner: &CellName,
    uid: Option<u32>,
    files: &[FileEntry],
) -> Result<()> {
    prepare_in(&dir_of(config, owner), owner, config.serve_uid, uid, files)
}

/// The same at a known place.
pub(crate) fn prepare_in(
    path: &Path,
    owner: &CellName,
    serve_uid: u32,
    uid: Option<u32>,
    files: &[FileEntry],
) -> Result<()> {
    let theirs = uid.map_or((0, 0), |u| (u, u));
    if matches!(owner, CellName::Service(_) | CellName::Run(_)) {
        make(CWD, path, 0o700, theirs)?;
        return Ok(());
    }
    let dir = make(CWD, path, 0o711, (0, 0))?;
    let before =
        rustix::fs::statat(&dir, "home", AtFlags::SYMLINK_NOFOLLOW).map_or(0, |s| s.st_uid);
    // Files that were brought back are of the user that their agent had then. Whose the directory itself is tells that
    // this is still to do, so it changes last.
    if before != 0 && before != theirs.0 && uid.is_some() {
        for place in ["home", "workspace"] {
            if let Ok(place) = open_dir(&dir, Path::new(place)) {
                adopt(&place, before, theirs)?;
                crate::crash::point("hostd.adopted");
            }
        }
    }
    let home = make(&dir, Path::new("home"), 0o700, theirs)?;
    // Sticky and ours: the agent works in it, and cannot replace what we put there (S2-23).
    let mode = if uid.is_some() { 0o1770 } else { 0o700 };
    let workspace = make(&dir, Path::new("workspace"), mode, (0, theirs.1))?;
    let notes = make(&workspace, Path::new("memory"), 0o700, theirs)?;
    let shared = make(&workspace, Path::new("shared"), 0o755, (0, 0))?;
    let of_services =
        |f: &FileEntry| matches!(f.name, FileName::Credential(_) | FileName::Trust(_));
    let services = match files.iter().any(of_services) {
        true => Some(make(&home, Path::new("services"), 0o700, theirs)?),
        false => None,
    };
    for entry in files {
        let (place, name, whose, mode, keep) = entry.name.place();
        let name = name.as_ref();
        let at = match place {
            "" => &dir,
            SHARED => &shared,
            SERVICES => services.as_ref().unwrap_or(&home),
            NOTES => &notes,
            _ => &workspace,
        };
        if entry.name.may_go() && entry.content.is_empty() {
            remove(at, name)?;
            if let (FileName::Credential(service), Some(services)) = (&entry.name, &services) {
                remove(services, service.as_str())?;
            }
            continue;
        }
        let ids = match whose {
            Owner::House => (0, 0),
            Owner::ControlPlane => (0, serve_uid),
            Owner::Agent => theirs,
        };
        let there = rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        if keep && there {
            continue;
        }
        let same = there && read_at(at, name).is_some_and(|t| t == entry.content);
        if !same {
            publish(at, name, entry.content.as_bytes(), mode, ids)?;
        }
        if entry.name == FileName::Token {
            publish(&home, name, entry.content.as_bytes(), 0o400, theirs)?;
        }
        if let (FileName::Credential(service), Some(services)) = (&entry.name, &services)
            && read_at(services, service.as_str()).is_none_or(|t| t != entry.content)
        {
            let text = entry.content.as_bytes();
            publish(services, service.as_str(), text, 0o400, theirs)?;
        }
    }
    Ok(())
}

fn remove(at: &OwnedFd, name: &str) -> Result<()> {
    match rustix::fs::unlinkat(at, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(e) => Err(broken("remove", Path::new(name))(e)),
    }
}

/// What was brought to a known place and may be taken away again, by name.
pub(crate) fn brought_to(path: &Path) -> Result<Vec<FileName>> {
    let dir = open_dir(CWD, path)?;
    let named = |place: OwnedFd, name: &dyn Fn(&str) -> Option<FileName>| {
        let entries = rustix::fs::Dir::read_from(&place).map_err(broken("list", path))?;
        let names = entries
            .flatten()
            .filter_map(|e| name(e.file_name().to_str().ok()?));
        Ok::<Vec<FileName>, Error>(names.collect())
    };
    let document = |name: &str| Some(FileName::Shared(name.strip_suffix(".md")?.parse().ok()?));
    let credential = |name: &str| {
        Some(FileName::Credential(
            name.strip_prefix(CREDENTIAL)?.parse().ok()?,
        ))
    };
    let trust = |name: &str| Some(FileName::Trust(name.strip_suffix(".pem")?.parse().ok()?));
    let mut names = named(open_dir(&dir, Path::new("."))?, &credential)?;
    for (place, name) in [
        (SHARED, &document as &dyn Fn(&str) -> Option<FileName>),
        (SERVICES, &trust),
    ] {
        if let Ok(place) = below(&dir, place) {
            names.extend(named(place, name)?);
        }
    }
    Ok(names)
}

/// Writes a file whole or not at all, within an open directory.
fn publish(at: &OwnedFd, name: &str, bytes: &[u8], mode: u32, ids: (u32, u32)) -> Result<()> {
    let path = Path::new(name);
    let temporary = format!("{name}.new");
    let _left_by_a_crash = rustix::fs::unlinkat(at, &temporary, AtFlags::empty());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(at, &temporary, flags, Mode::from_raw_mode(0o600))
        .map_err(broken("make", path))?;
    let mut file = std::fs::File::from(fd.try_clone().map_err(Error::file("write", path))?);
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(Error::file("write", path))?;
    hand_over(&fd, path, ids)?;
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode)).map_err(broken("protect", path))?;
    rustix::fs::renameat(at, &temporary, at, name).map_err(broken("publish", path))
}

/// A plain file's text, as far as it is one.
fn read_at(at: impl AsFd, name: &str) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(at, name, flags, Mode::empty()).ok()?;
    let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&fd).ok()?.st_mode);
    if kind != rustix::fs::FileType::RegularFile {
        return None;
    }
    let mut text = String::new();
    let file = std::fs::File::from(fd);
    file.take(READ_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Reads a file that an agent writes for the house; empty when it is none.
pub(super) fn read(config: &Config, owner: &CellName, name: FileName) -> Result<String> {
    read_in(&dir_of(config, owner), &name)
}

/// The same at a known place.
pub(crate) fn read_in(path: &Path, name: &FileName) -> Result<String> {
    let dir = open_dir(CWD, path)?;
    let (place, name, ..) = name.place();
    let text = match place {
        "" => read_at(&dir, &name),
        place => read_at(below(&dir, place)?, &name),
    };
    Ok(text.unwrap_or_default())
}

/// A directory below an open one; no step follows a link.
fn below(dir: &OwnedFd, place: &str) -> Result<OwnedFd> {
    let mut at = open_dir(dir, Path::new("."))?;
    for part in place.split('/') {
        at = open_dir(&at, Path::new(part))?;
    }
    Ok(at)
}

/// What the house wrote for an agent under a name, if it wrote that: a charter is one of two kinds.
pub(crate) fn kept(path: &Path, name: &FileName) -> Result<Option<String>> {
    let dir = open_dir(CWD, path)?;
    let (place, file, _, mode, _) = name.place();
    let at = match place {
        "" => dir,
        place => below(&dir, place)?,
    };
    match rustix::fs::statat(&at, file.as_ref(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if stat.st_mode & 0o777 == mode => Ok(read_at(&at, &file)),
        _ => Ok(None),
    }
}

/// Moves an owner's files aside; nothing of an agent is deleted by the house.
pub(super) fn archive(config: &Config, owner: &CellName, stamp: &str) -> Result<()> {
    let from = dir_of(config, owner);
    if std::fs::symlink_metadata(&from).is_err() {
        return Ok(());
    }
    let removed = config.home.join("removed");
    make(CWD, &removed, 0o700, (0, 0))?;
    let to = removed.join(format!("{}-{stamp}", owner.slug()));
    std::fs::rename(&from, &to).map_err(Error::file("move aside", from))
}

/// What lies aside of agents' files: whose and when, oldest first.
pub(super) fn archives(config: &Config) -> Result<Vec<(Slug, String)>> {
    let removed = config.home.join("removed");
    let entries = match std::fs::read_dir(&removed) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::file("list", removed)(e)),
    };
    let archive = |name: String| {
        let (slug, stamp) = name.split_at_checked(name.len().checked_sub(STAMP.len() + 1)?)?;
        let stamp = stamp.strip_prefix('-')?;
        let instant = stamp
            .bytes()
            .zip(STAMP.bytes())
            .all(|(b, like)| match like {
                b'0' => b.is_ascii_digit(),
                like => b == like,
            });
        instant.then_some((slug.parse().ok()?, stamp.to_owned()))
    };
    let names = entries
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok());
    let mut all: Vec<(Slug, String)> = names.filter_map(archive).collect();
    all.sort_by(|a, b| a.1.cmp(&b.1));
    Ok(all)
}

/// Brings files back that were moved aside. Credentials stay away: they were taken back when their agent went.
pub(super) fn restore(config: &Config, owner: &CellName, stamp: &str) -> Result<()> {
    let to = dir_of(config, owner);
    if std::fs::symlink_metadata(&to).is_ok() {
        return Err(Error::file("bring files back to", to)(
            std::io::ErrorKind::AlreadyExists.into(),
        ));
    }
    let from = config
        .home
        .join("removed")
        .join(format!("{}-{stamp}", owner.slug()));
    let dir = open_dir(CWD, &from)?;
    let mut gone = vec!["token".to_owned(), "key".to_owned()];
    let names = rustix::fs::Dir::read_from(&dir).map_err(broken("list", &from))?;
    let of_services = names
        .flatten()
        .filter_map(|e| Some(e.file_name().to_str().ok()?.to_owned()));
    gone.extend(of_services.filter(|n| n.starts_with(CREDENTIAL)));
    for name in gone {
        remove(&dir, &name)?;
    }
    if let Ok(home) = open_dir(&dir, Path::new("home")) {
        remove(&home, "token")?;
        if let Ok(services) = open_dir(&home, Path::new("services")) {
            let names = rustix::fs::Dir::read_from(&services).map_err(broken("list", &from))?;
            let plain =
                |e: &rustix::fs::DirEntry| e.file_type() == rustix::fs::FileType::RegularFile;
            for entry in names.flatten().filter(plain) {
                remove(&services, &entry.file_name().to_string_lossy())?;
            }
        }
    }
    std::fs::rename(&from, &to).map_err(Error::file("bring back", from))
}

/// Gives a new owner what another left, below an open directory; links are not followed.
fn adopt(dir: &OwnedFd, from: u32, (uid, gid): (u32, u32)) -> Result<()> {
    let entries = rustix::fs::Dir::read_from(dir).map_err(broken("list", Path::new(".")))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let at = Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()));
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
        let stat = stat.map_err(broken("look at", at))?;
        if stat.st_uid == from {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(broken("hand over", at))?;
        }
        let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
        if kind == rustix::fs::FileType::Directory {
            adopt(&open_dir(dir, at)?, from, (uid, gid))?;
        }
    }
    Ok(())
}
