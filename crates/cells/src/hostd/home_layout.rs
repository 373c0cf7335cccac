//! What belongs to the house itself in its home, with owners and modes: one table, after which the home is created, checked
//! and repaired.

use super::agent_command::COMMANDS_OF_HOUSE;
use super::checkpoints::HOSTD_LOG_MODE;
use super::config::{HOSTD_DIR_MODE, HostdConfig};
use super::operation::HostdReply;
use abbey_support::beneath::{DirHandle, Owner, set_owner_and_mode};
use rustix::fs::{FileType, Stat, fstat};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Users of a house.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HomeOwners {
    /// Owner of what the control plane must not replace.
    house: Owner,
    /// Owner of what the control plane writes.
    control_plane: Owner,
    /// Whether these are two users.
    privileged: bool,
}

impl HomeOwners {
    /// Users of a house that root runs, with this user of the control plane.
    pub fn of_root(serve_uid: u32) -> HomeOwners {
        HomeOwners {
            house: (0, serve_uid),
            control_plane: (serve_uid, serve_uid),
            privileged: true,
        }
    }

    /// The user of this process, who runs the house.
    pub fn of_this_user() -> HomeOwners {
        let own = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        HomeOwners {
            house: own,
            control_plane: own,
            privileged: false,
        }
    }

    /// Users of the house that a hostd serves.
    pub fn of(config: &HostdConfig) -> HomeOwners {
        match config.privileged {
            true => HomeOwners::of_root(config.serve_uid),
            false => HomeOwners::of_this_user(),
        }
    }
}

/// What a line of the table is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HomeEntryKind {
    /// A directory, with exactly this mode.
    Directory,
    /// A file, with at most this mode; it may be missing.
    File,
    /// Every file in a directory that has no line of its own, with at most this mode.
    FilesIn,
}

/// Line of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HomeEntry {
    /// Path below the home; empty for the home itself.
    pub path: &'static str,
    /// What it is.
    pub kind: HomeEntryKind,
    /// User and group.
    pub owner: Owner,
    /// Mode.
    pub mode: u32,
}

/// The table: parents come before what is in them, and files before [`HomeEntryKind::FilesIn`]. Files of cells are not in
/// it: they are written anew for each of them.
pub fn home_entries(owners: &HomeOwners) -> Vec<HomeEntry> {
    use HomeEntryKind::{Directory, File, FilesIn};
    let (house, serve) = (owners.house, owners.control_plane);
    // Agents' users enter it; with a user of its own, the control plane creates files in it and replaces none of root's.
    let shared = if owners.privileged { 0o1771 } else { 0o711 };
    let entry = |path, kind, owner, mode| HomeEntry {
        path,
        kind,
        owner,
        mode,
    };
    vec![
        entry("", Directory, house, shared),
        entry("run", Directory, house, shared),
        entry("run/cells", Directory, house, 0o2750),
        entry("logs", Directory, house, 0o2751),
        entry("agents", Directory, house, 0o751),
        entry("services", Directory, house, 0o751),
        entry("runs", Directory, house, 0o751),
        entry("credentials", Directory, house, 0o2750),
        entry("skills", Directory, house, 0o755),
        entry(COMMANDS_OF_HOUSE, Directory, house, 0o755),
        entry("backups", Directory, serve, 0o700),
        entry("egress", Directory, serve, 0o700),
        entry("templates", Directory, serve, 0o700),
        entry("hostd", Directory, house, HOSTD_DIR_MODE),
        entry("operator.token", File, serve, 0o600),
        entry("abbey.db", File, serve, 0o600),
        entry("abbey.db-wal", File, serve, 0o600),
        entry("abbey.db-shm", File, serve, 0o600),
        entry("abbey.db.reserve", File, serve, 0o600),
        entry("signing.key", File, serve, 0o600),
        entry("signing.key.next", File, serve, 0o600),
        entry("run/serve.lock", File, serve, 0o600),
        entry("run/serve.json", File, serve, 0o600),
        entry("hostd/checkpoints.jsonl", File, house, HOSTD_LOG_MODE),
        entry("hostd/journal.jsonl", File, house, HOSTD_LOG_MODE),
        entry("hostd", FilesIn, house, 0o644),
        entry("credentials", FilesIn, serve, 0o600),
    ]
}

/// Entry of the home that is not as the table says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrongEntry {
    /// Path below the home; empty for the home itself.
    pub path: PathBuf,
    /// What is wrong with it, for people.
    pub why: String,
}

/// Entries of the home that are not as the table says. What is missing is no finding.
///
/// # Errors
/// The system's error.
pub fn find_wrong_entries(home: &DirHandle, owners: &HomeOwners) -> io::Result<Vec<WrongEntry>> {
    let mut wrong = Vec::new();
    for (path, entry) in entries_at(home, owners)? {
        if let Some(found) = stat_below(home, &path)?
            && let Some(why) = why_wrong(&found, &entry)
        {
            wrong.push(WrongEntry { path, why });
        }
    }
    Ok(wrong)
}

/// Gives every entry of the home that exists the owner and mode of the table. Whoever was able to write there may have put
/// anything in its place, so each is judged as it was opened, and a link or a file with several names is refused, unless
/// nothing is to be changed.
///
/// # Errors
/// The first entry that could not be repaired, after all others were.
pub fn repair_home(home: &DirHandle, owners: &HomeOwners) -> crate::Result<()> {
    let listed = entries_at(home, owners).map_err(crate::Error::file("list", "the home"))?;
    let mut outcome = Ok(());
    for (path, entry) in listed {
        let repaired = match path.as_os_str().is_empty() {
            true => protect(home, &entry),
            false => open(home, &path, &entry).and_then(|opened| match opened {
                Some(fd) => protect(&fd, &entry),
                None => Ok(()),
            }),
        };
        let repaired = repaired.or_else(|error| match is_right(home, &path, &entry) {
            true => Ok(()),
            false => Err(error),
        });
        outcome = outcome.and(repaired.map_err(crate::Error::file("protect", path)));
    }
    outcome
}

/// Whether an entry that cannot be opened needs no repair.
fn is_right(home: &DirHandle, path: &Path, entry: &HomeEntry) -> bool {
    let root = rustix::process::geteuid().is_root();
    let found = stat_below(home, path).ok().flatten();
    found.is_some_and(|found| {
        let owned = !root || (found.st_uid, found.st_gid) == entry.owner;
        owned && why_wrong(&found, entry).is_none()
    })
}

/// The entry, opened, if there is one of its kind; `InvalidInput` for a link, a file with several names and anything else.
fn open(home: &DirHandle, path: &Path, entry: &HomeEntry) -> io::Result<Option<OwnedFd>> {
    let opened = match entry.kind {
        HomeEntryKind::Directory => home
            .open_dir(path)
            .and_then(|dir| dir.as_fd().try_clone_to_owned()),
        HomeEntryKind::File | HomeEntryKind::FilesIn => home.open_file(path).map(OwnedFd::from),
    };
    match opened {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    }
}

/// Gives an open entry its owner and mode; touches nothing if it has them.
fn protect(fd: impl AsFd, entry: &HomeEntry) -> io::Result<()> {
    let found = fstat(&fd)?;
    let before = found.st_mode & 0o7777;
    let after = match entry.kind {
        HomeEntryKind::Directory => entry.mode,
        HomeEntryKind::File | HomeEntryKind::FilesIn => before & entry.mode,
    };
    let root = rustix::process::geteuid().is_root();
    let owned = !root || (found.st_uid, found.st_gid) == entry.owner;
    match owned && before == after {
        true => Ok(()),
        false => set_owner_and_mode(fd, entry.owner, after),
    }
}

/// Carries out [`HostdOperation::ProtectHome`](super::HostdOperation::ProtectHome).
pub(super) fn protect_home(config: &HostdConfig, dry: bool) -> crate::Result<HostdReply> {
    if !dry {
        repair_home(&config.open_home()?, &HomeOwners::of(config))?;
    }
    Ok(HostdReply::Done)
}

/// The entries that the home has by now, each with the first line of the table about it.
fn entries_at(home: &DirHandle, owners: &HomeOwners) -> io::Result<BTreeMap<PathBuf, HomeEntry>> {
    let mut all = BTreeMap::new();
    for entry in home_entries(owners) {
        let path = Path::new(entry.path);
        if entry.kind != HomeEntryKind::FilesIn {
            all.entry(path.to_owned()).or_insert(entry);
            continue;
        }
        let dir = match home.open_dir(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            opened => opened?,
        };
        for name in dir.names()? {
            // What is being published at this moment has such a name.
            let hidden = name.as_encoded_bytes().starts_with(b".");
            let file = dir.stat_entry(&name)?.is_some_and(|stat| is_file(&stat));
            if file && !hidden {
                all.entry(path.join(name)).or_insert(entry);
            }
        }
    }
    Ok(all)
}

/// Metadata of an entry; none if it is missing.
fn stat_below(home: &DirHandle, path: &Path) -> io::Result<Option<Stat>> {
    let Some(name) = path.file_name() else {
        return home.stat().map(Some);
    };
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    match parent.map(|parent| home.open_dir(parent)) {
        None => home.stat_entry(name),
        Some(Err(e)) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Some(parent) => parent?.stat_entry(name),
    }
}

fn is_file(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

fn why_wrong(found: &Stat, entry: &HomeEntry) -> Option<String> {
    let directory = entry.kind == HomeEntryKind::Directory;
    let kind = FileType::from_raw_mode(found.st_mode);
    if directory != (kind == FileType::Directory) || (!directory && kind != FileType::RegularFile) {
        let what = if directory {
            "directory"
        } else {
            "regular file"
        };
        return Some(format!("is no {what}"));
    }
    let mode = found.st_mode & 0o7777;
    let mode_fits = match directory {
        true => mode == entry.mode,
        false => mode & !entry.mode == 0,
    };
    let (uid, gid) = entry.owner;
    // The control plane enters root's directories by their group. An ordinary user may start under any of their groups.
    let by_group = directory && uid != gid;
    let owner_fits = found.st_uid == uid && (!by_group || uid != 0 || found.st_gid == gid);
    let mode = format!("has mode {mode:04o} in place of {:04o}", entry.mode);
    let owner = format!(
        "belongs to user {} and group {} in place of {uid} and {gid}",
        found.st_uid, found.st_gid
    );
    match (owner_fits, mode_fits) {
        (true, true) => None,
        (true, false) => Some(mode),
        (false, true) => Some(owner),
        (false, false) => Some(format!("{mode}, and {owner}")),
    }
}
