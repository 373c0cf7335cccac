//! Restore of a backup archive, and its verification. The archive may be anybody's: nothing of it is believed that
//! Abbey has a rule of its own for.

use crate::core::archive::{
    self, ALLOCATIONS, BackupContents, CHECKPOINTS, CONTENTS, DATABASE, Place, place_of,
};
use crate::core::created_paths::CreatedPaths;
use crate::core::error::{Error, Result};
use crate::core::home::{Home, create_dir_with_mode, publish_file};
use crate::core::{audit_checkpoints, restored_house, runtime};
use abbey_api::{BackupCheckDoc, Problem, RestoredHouseDoc, VERSION};
use abbey_cells::hostd::{
    Allocations, HostdApi, HostdConfig, HostdOperation, InProcessHostd, append_checkpoint_lines,
    is_link_within, parse_checkpoint_lines, read_checkpoint_lines,
};
use abbey_model::{CellName, CheckpointLine, FaultKind, Secret, Slug};
use abbey_store::{
    AuditVerification, GenerationRow, KnownCheckpoints, Sqlite, SqliteOptions, Storage,
    SystemClock, import_state_file, public_key,
};
use abbey_support::input::open_input;
use abbey_support::shell::shell_path;
use abbey_support::{digest, file};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Longest name of a file, bytes (Linux and FreeBSD).
const NAME_MAX: usize = 255;
/// Longest path of an entry, bytes: that of the directory into which it is restored comes before it.
const PATH_MAX: usize = abbey_cells::hostd::PACKED_PATH_MAX + 300;
/// Longest file of the archive itself that is read into memory, bytes.
const NAMED_MAX: u64 = 64 << 20;

/// Digest of the state in a database file that no process has open.
pub(crate) fn hash_database_file(database: &Path) -> Result<String> {
    Ok(open_store(database, [0; 32])?.state_hash().wait()?)
}

/// Opens a database file that no process has open.
pub(crate) fn open_store(database: &Path, signing_key: [u8; 32]) -> Result<Sqlite> {
    Ok(Sqlite::open(SqliteOptions {
        path: database.to_owned(),
        clock: Arc::new(SystemClock::new()),
        redactor: Arc::default(),
        signing_key,
        entropy: Arc::new(abbey_store::SystemEntropy),
        on_fatal: Box::new(|_| {}),
    })?)
}

/// What an archive holds, once its entries were read.
struct Staged {
    /// Description; none in an archive of an earlier release.
    contents: Option<BackupContents>,
    allocations: Allocations,
    checkpoints: Vec<CheckpointLine>,
    state_hash: String,
    /// Verification of the audit log in the archive.
    log: AuditVerification,
    agents: BTreeSet<Slug>,
    services: BTreeSet<Slug>,
    templates: BTreeSet<Slug>,
    entries: u64,
}

impl Staged {
    /// What is to be said of files that are missing, and if the audit log does not verify.
    fn notes(&self) -> Vec<String> {
        let contents = self.contents.iter();
        let missing = contents.flat_map(BackupContents::incomplete_notes);
        missing.chain(self.log_note()).collect()
    }

    /// What is to be said if the audit log in the archive, or that of its house, does not verify.
    fn log_note(&self) -> Option<String> {
        let stated = self.contents.as_ref();
        let stated = stated.and_then(|c| c.audit_log_damage.clone());
        let damage = audit_checkpoints::describe_damage(&self.log).or(stated);
        damage.map(|damage| archive::damaged_log_note(&damage))
    }
}

/// Reads a whole archive into the empty directory `dir`, and checks everything about it, whether `keep` is set or not.
/// Files of agents, services and the manifest are written only if `keep`, owned as the allocations say.
fn stage(from: &Path, dir: &Path, keep: bool) -> Result<Staged> {
    let damaged = |why: String| Error::Damaged {
        path: from.to_owned(),
        why,
    };
    let refused = |path: &Path, why: &str| {
        let name = shorten(&path.display().to_string());
        damaged(format!("its entry `{name}` is refused: {why}"))
    };
    let not_added = |path: &Path, e: io::Error| match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Error::file("write", dir.join(path))(e)
        }
        _ => refused(path, &e.to_string()),
    };
    let mut found = Named::default();
    let mut tree = Tree::new(dir, keep);
    let mut entries = 0;
    let foreign = dir.join("foreign.db");
    let mut archive =
        tar::Archive::new(open_input(from).map_err(|e| Error::file("open", from)(e.into()))?);
    for entry in archive.entries().map_err(|e| damaged(e.to_string()))? {
        // What the parser says of a header contains the header, which in a file that is no archive may be a secret.
        let mut entry = entry.map_err(|e| match (entries, e.raw_os_error()) {
            (_, Some(_)) => Error::file("read", from)(e),
            (0, None) => Error::NoArchive(from.to_owned()),
            (n, None) => damaged(format!(
                "it ends early, or the header after its entry {n} is invalid"
            )),
        })?;
        entries += 1;
        let start = entry.raw_header_position();
        let path = entry
            .path()
            .map_err(|e| damaged(e.to_string()))?
            .into_owned();
        let place = place_of(&path).map_err(|why| refused(&path, why))?;
        let kind = entry.header().entry_type();
        let mode = entry.header().mode().map_err(|e| damaged(e.to_string()))?;
        match (place, kind) {
            (Place::Named(name), tar::EntryType::Regular) => {
                if !found.names.insert(name) {
                    return Err(refused(&path, "the archive has it twice"));
                }
                if name == DATABASE {
                    let written =
                        File::create(&foreign).and_then(|mut file| io::copy(&mut entry, &mut file));
                    written.map_err(Error::file("write", &foreign))?;
                    continue;
                }
                if entry.size() > NAMED_MAX {
                    return Err(refused(&path, "it is larger than 64 MiB"));
                }
                let mut bytes = Vec::new();
                entry
                    .read_to_end(&mut bytes)
                    .map_err(|e| damaged(e.to_string()))?;
                found.files.insert(name, (start, bytes));
            }
            (Place::Parent, tar::EntryType::Directory) => {}
            (Place::Template(name), tar::EntryType::Regular) => {
                if !found.templates.insert(name) {
                    return Err(refused(&path, "the archive has it twice"));
                }
                tree.add(&path, &mut entry, 0o600)
                    .map_err(|e| not_added(&path, e))?;
            }
            (Place::Named(_) | Place::Parent | Place::Template(_), _) => {
                return Err(refused(&path, "it must be a plain file"));
            }
            (place, kind) => {
                let why = match kind {
                    tar::EntryType::Regular if mode & 0o6000 != 0 => {
                        Some("it has a set-user-id or set-group-id bit")
                    }
                    tar::EntryType::Regular | tar::EntryType::Directory => None,
                    tar::EntryType::Symlink => {
                        let target = entry.link_name().ok().flatten().unwrap_or_default();
                        match place
                            .below()
                            .is_some_and(|below| is_link_within(below, &target))
                        {
                            true => None,
                            false => Some("it is a link that leads out, or up behind a name"),
                        }
                    }
                    _ => Some("it is neither a file, nor a directory, nor a symbolic link"),
                };
                if let Some(why) = why {
                    return Err(refused(&path, why));
                }
                let written_by_house = is_written_by_house(&place, mode);
                match place {
                    Place::Agent(slug, _) => drop(found.owners.insert(CellName::Agent(slug))),
                    Place::Service(slug, _) => drop(found.owners.insert(CellName::Service(slug))),
                    _ => {}
                }
                if !written_by_house {
                    tree.add(&path, &mut entry, mode)
                        .map_err(|e| not_added(&path, e))?;
                }
            }
        }
    }
    if !found.names.contains(DATABASE) {
        return Err(damaged(
            "it contains no `abbey.db`; use an archive that `abbey backup` wrote".to_owned(),
        ));
    }
    let contents = match found.files.get(CONTENTS) {
        None => None,
        Some((start, text)) => {
            let contents: BackupContents =
                serde_json::from_slice(text).map_err(|e| damaged(format!("`{CONTENTS}`: {e}")))?;
            let before = open_input(from)
                .map_err(|e| Error::file("open", from)(e.into()))?
                .take(contents.bytes);
            let sha256 = digest::sha256_hex_of_reader(before).map_err(Error::file("read", from))?;
            if contents.bytes != *start || sha256 != contents.sha256 {
                return Err(damaged(
                    "its content is not what its description states".to_owned(),
                ));
            }
            Some(contents)
        }
    };
    let stated = found
        .files
        .get(ALLOCATIONS)
        .ok_or_else(|| damaged(format!("it contains no `{ALLOCATIONS}`")))?;
    let allocations = Allocations::parse_foreign(&stated.1)
        .map_err(|why| damaged(format!("its entry `{ALLOCATIONS}` is refused: {why}")))?;
    let lines = found
        .files
        .get(CHECKPOINTS)
        .map_or(&[][..], |(_, bytes)| bytes);
    let checkpoints = parse_checkpoint_lines(lines, Path::new(CHECKPOINTS))?;
    for owner in &found.owners {
        let (kind, dir) = match owner {
            CellName::Agent(_) => ("agent", "agents"),
            _ => ("service", "services"),
        };
        let path = Path::new(dir).join(owner.slug().as_str());
        if !allocations.owners.contains_key(owner) {
            return Err(refused(&path, &format!("its house has no such {kind}")));
        }
        let no_services = contents.as_ref().is_some_and(|c| c.services.is_empty());
        if kind == "service" && no_services {
            let why = "its description states that it holds no data of services";
            return Err(refused(&path, why));
        }
    }
    // The database may have been made by anybody, so only its rows come over.
    let database = dir.join(DATABASE);
    import_state_file(&foreign, &database).map_err(|error| match error {
        abbey_store::Error::Corrupt { why, .. } => {
            damaged(format!("its entry `{DATABASE}` is refused: {why}"))
        }
        error => error.into(),
    })?;
    fs::remove_file(&foreign).map_err(Error::file("remove", &foreign))?;
    let store = open_store(&database, [0; 32])?;
    let state_hash = store.state_hash().wait()?;
    if contents
        .as_ref()
        .is_some_and(|c| c.state_hash != state_hash)
    {
        return Err(damaged(
            "its database is not what its description states".to_owned(),
        ));
    }
    let known = KnownCheckpoints {
        lines: checkpoints.clone(),
        ..KnownCheckpoints::default()
    };
    let log = store.verify_audit_log(known).wait()?;
    drop(store);
    tree.finish(&allocations)
        .map_err(Error::file("write the files below", dir))?;
    let owned = |kind: fn(&CellName) -> bool| {
        let owners = found.owners.iter().filter(|o| kind(o));
        owners.map(|o| o.slug().clone()).collect()
    };
    Ok(Staged {
        contents,
        allocations,
        checkpoints,
        state_hash,
        log,
        agents: owned(|owner| matches!(owner, CellName::Agent(_))),
        services: owned(|owner| matches!(owner, CellName::Service(_))),
        templates: found.templates,
        entries,
    })
}

#[derive(Default)]
struct Named {
    /// Files of the archive itself.
    names: BTreeSet<&'static str>,
    /// Position in the archive and content of those but the database.
    files: BTreeMap<&'static str, (u64, Vec<u8>)>,
    /// Agents and services with files.
    owners: BTreeSet<CellName>,
    templates: BTreeSet<Slug>,
}

impl Place {
    /// Path below the directory that a link must not leave.
    fn below(&self) -> Option<&Path> {
        match self {
            Place::Agent(_, below) | Place::Service(_, below) => Some(below),
            Place::Shared(path) => path.strip_prefix(path.iter().next()?).ok(),
            Place::Named(_) | Place::Parent | Place::Template(_) => None,
        }
    }
}

/// Whether a file is one that the house writes itself, so that it is written anew by `up`: the charter, which is
/// read-only, and shared documents. So no agent becomes the owner of what it must not change.
fn is_written_by_house(place: &Place, mode: u32) -> bool {
    let Place::Agent(_, below) = place else {
        return false;
    };
    (below == Path::new("workspace/SOUL.md") && mode & 0o222 == 0)
        || below.starts_with("workspace/shared")
}

/// Files that are being written into a directory that nobody else can enter. Links come last, so none is followed.
struct Tree<'a> {
    dir: &'a Path,
    /// Whether anything is written; if not, entries are only checked.
    keep: bool,
    links: BTreeMap<PathBuf, PathBuf>,
    /// Modes of directories, which are set last: one may not be writable.
    dirs: BTreeMap<PathBuf, u32>,
    files: BTreeSet<PathBuf>,
}

impl<'a> Tree<'a> {
    fn new(dir: &'a Path, keep: bool) -> Self {
        Tree {
            dir,
            keep,
            links: BTreeMap::new(),
            dirs: BTreeMap::new(),
            files: BTreeSet::new(),
        }
    }

    /// Adds an entry. Whether it is refused depends on the entries before it alone, not on what is written. A file may
    /// come twice: what is on the drives of an agent comes after what lies beside them.
    fn add(&mut self, path: &Path, entry: &mut tar::Entry<'_, File>, mode: u32) -> io::Result<()> {
        if path.as_os_str().len() > PATH_MAX || path.iter().any(|name| name.len() > NAME_MAX) {
            return Err(io::Error::other("the name is too long for a file system"));
        }
        let above = path.ancestors().skip(1);
        for at in above.clone() {
            if self.links.contains_key(at) {
                return Err(io::Error::other("it is below a link"));
            }
            if self.files.contains(at) {
                return Err(io::Error::other("it is below a file"));
            }
        }
        for dir in above.filter(|d| !d.as_os_str().is_empty()) {
            // The control plane reads what the operator puts beside the manifest.
            let mode = if dir == Path::new("manifest") {
                0o755
            } else {
                0o700
            };
            self.dirs.entry(dir.to_owned()).or_insert(mode);
        }
        let to = self.dir.join(path);
        let kind = entry.header().entry_type();
        let (is_file, is_dir) = (self.files.contains(path), self.dirs.contains_key(path));
        let is_link = self.links.contains_key(path);
        let replaces = match kind {
            tar::EntryType::Directory => is_file || is_link,
            tar::EntryType::Symlink => is_file || is_dir,
            _ => is_dir || is_link,
        };
        if replaces {
            return Err(io::Error::other("it replaces an entry of another kind"));
        }
        match kind {
            tar::EntryType::Directory => {
                self.dirs
                    .insert(path.to_owned(), directory_mode(path, mode));
                if self.keep {
                    fs::create_dir_all(&to)?;
                }
            }
            tar::EntryType::Symlink => {
                let target = entry.link_name()?.unwrap_or_default().into_owned();
                self.links.insert(path.to_owned(), target);
            }
            _ => {
                self.files.insert(path.to_owned());
                let modified = entry.header().mtime()?.try_into().unwrap_or(0);
                if self.keep {
                    write_file(&to, entry, mode & 0o777, modified)?;
                }
            }
        }
        Ok(())
    }

    /// Makes the links, and gives everything its owner and mode.
    fn finish(self, allocations: &Allocations) -> io::Result<()> {
        if !self.keep {
            return Ok(());
        }
        for (path, target) in &self.links {
            symlink(target, self.dir.join(path))?;
        }
        let root = rustix::process::geteuid().is_root();
        let owner_of = |path: &Path| {
            let cell = match place_of(path).ok()? {
                Place::Agent(slug, below) if !below.as_os_str().is_empty() => CellName::Agent(slug),
                Place::Service(slug, _) => CellName::Service(slug),
                _ => return None,
            };
            allocations.owners.get(&cell)?.uid
        };
        let ids = |path: &Path| {
            let uid = owner_of(path).unwrap_or(0);
            root.then_some(uid)
        };
        for path in self.files.iter().chain(self.links.keys()) {
            if let Some(id) = ids(path) {
                lchown(self.dir.join(path), Some(id), Some(id))?;
            }
        }
        // The deepest first.
        for (path, mode) in self.dirs.iter().rev() {
            let at = self.dir.join(path);
            if let Some(id) = ids(path) {
                chown(&at, Some(id), Some(id))?;
            }
            fs::set_permissions(&at, Permissions::from_mode(*mode))?;
        }
        Ok(())
    }
}

/// Mode of a restored directory. Those that the house itself gives to agents and services are closed until it opens them;
/// below them the mode is that of the archive.
fn directory_mode(path: &Path, mode: u32) -> u32 {
    match place_of(path) {
        Ok(Place::Agent(_, below)) if below.components().count() <= 1 => 0o700,
        Ok(Place::Service(_, below)) if below.as_os_str().is_empty() => 0o700,
        Ok(Place::Agent(..) | Place::Service(..)) => mode & 0o777,
        _ => mode & 0o755,
    }
}

/// Writes a file with what an entry of the archive holds, mode and time of change in seconds.
fn write_file(to: &Path, from: &mut impl Read, mode: u32, modified: i64) -> io::Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    let options = &mut fs::OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(to)?;
    io::copy(from, &mut file)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    let time = rustix::fs::Timespec {
        tv_sec: modified,
        tv_nsec: 0,
    };
    let times = rustix::fs::Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(rustix::fs::futimens(&file, &times)?)
}

/// Most characters of a path in a message.
const SHOWN_MAX: usize = 120;

/// Beginning and end of a long text.
fn shorten(text: &str) -> String {
    let count = text.chars().count();
    if count <= SHOWN_MAX {
        return text.to_owned();
    }
    let half = SHOWN_MAX / 2;
    let first: String = text.chars().take(half).collect();
    let last: String = text.chars().skip(count - half).collect();
    format!("{first}…{last}")
}

/// Checks a backup archive as a restore would, and changes nothing but a scratch directory beside it.
///
/// # Errors
/// If the archive is damaged or refused.
pub fn verify_backup(from: &Path) -> std::result::Result<BackupCheckDoc, Error> {
    let scratch = tempfile::Builder::new()
        .prefix("abbey-verify-")
        .tempdir()
        .map_err(Error::file("make", "a scratch directory"))?;
    let staged = stage(from, scratch.path(), false).map_err(|error| {
        restored_house::name_full_disk(error, &std::env::temp_dir(), "abbey backup verify")
    })?;
    let notes = staged.notes();
    let contents = staged.contents.as_ref();
    let complete = contents.is_none_or(|c| c.incomplete.is_empty());
    let log = match audit_checkpoints::describe_damage(&staged.log) {
        None => format!(
            "{} entries, {} signed checkpoints",
            staged.log.entries, staged.log.checkpoints
        ),
        Some(damage) => format!("does not verify: {damage}"),
    };
    Ok(BackupCheckDoc {
        version: VERSION,
        state_hash: staged.state_hash,
        entries: staged.entries,
        agents: staged.agents.iter().map(Slug::to_string).collect(),
        services: staged.services.iter().map(Slug::to_string).collect(),
        audit_log: log,
        left_out: staged.contents.map_or_else(earlier_release, |c| c.left_out),
        notes,
        complete,
    })
}

fn earlier_release() -> Vec<String> {
    vec!["an earlier release wrote this archive: it has no manifest, no charters, no service's data, no links, and does not say what else it lacks".to_owned()]
}

/// Restores a backup archive into a home that has no database yet. `passphrase` unwraps the signing key in the
/// archive, so that it can confirm the key with which the house goes on. Files that the restore would replace are
/// moved aside.
///
/// # Errors
/// If the home already has a database, the archive is not a backup or is refused, or a file cannot be written. The
/// database comes last: until then the restore can be repeated.
pub fn restore_backup(
    root: PathBuf,
    from: &Path,
    passphrase: Option<&Secret>,
) -> std::result::Result<RestoredHouseDoc, Error> {
    let home = Home::new(root);
    if fs::symlink_metadata(home.database_file()).is_ok_and(|m| m.len() > 0) {
        let text = format!(
            "`{}` already has state; restore into an empty home, or move that file to another directory first",
            home.root().display()
        );
        return Err(Problem::new(FaultKind::Conflict, text).into());
    }
    let created = CreatedPaths::since_now(home.root()).map_err(Error::file("list", home.root()))?;
    let mut lock = None;
    let Prepared {
        config,
        scratch,
        staged,
        notes,
        kept,
        in_force,
    } = match prepare(&home, from, passphrase, &mut lock) {
        Ok(prepared) => prepared,
        Err(error) => {
            let error = restored_house::name_full_disk(error, home.root(), "abbey restore");
            // Without the lock, what is new may be a house that is started there; secrets may have been set meanwhile.
            let is_empty = |dir| fs::read_dir(dir).map_or(true, |mut d| d.next().is_none());
            if lock.is_some() && is_empty(home.credentials_dir()) {
                created.remove();
            }
            return Err(error);
        }
    };
    let (dir, mut notes) = (scratch.path(), notes);
    end_cells(&config)?;
    let stamp = runtime::host_wall_clock().0;
    let aside = home.root().join(format!("replaced-{stamp}"));
    let mut moves = vec!["manifest".to_owned()];
    // Of a database that was lost; beside another one they would damage it.
    let leftovers = ["abbey.db-wal", "abbey.db-shm"].map(|name| home.root().join(name));
    moves.extend(staged.agents.iter().map(|a| format!("agents/{a}")));
    moves.extend(staged.services.iter().map(|s| format!("services/{s}")));
    moves.extend(
        staged
            .templates
            .iter()
            .map(|t| format!("templates/{t}.tar")),
    );
    let skills = fs::read_dir(dir.join("skills"))
        .into_iter()
        .flatten()
        .flatten();
    moves.extend(skills.map(|e| format!("skills/{}", e.file_name().to_string_lossy())));
    for name in moves {
        let (made, to) = (dir.join(&name), home.root().join(&name));
        if fs::symlink_metadata(&made).is_err() {
            continue;
        }
        if fs::symlink_metadata(&to).is_ok() {
            let old = aside.join(&name);
            let parent = old.parent().unwrap_or(&aside);
            fs::create_dir_all(parent).map_err(Error::file("make", parent))?;
            fs::set_permissions(&aside, Permissions::from_mode(0o700))
                .map_err(Error::file("protect", &aside))?;
            fs::rename(&to, &old).map_err(Error::file("move aside", &to))?;
        }
        fs::rename(&made, &to).map_err(Error::file("put in place", &to))?;
    }
    for old in leftovers.iter().filter(|p| p.exists()) {
        create_dir_with_mode(&aside, 0o700)?;
        let to = aside.join(old.file_name().unwrap_or_default());
        fs::rename(old, &to).map_err(Error::file("move aside", old))?;
    }
    if aside.exists() {
        notes.push(format!(
            "files that were there already are in {}",
            aside.display()
        ));
    }
    let allocations = serde_json::to_vec(&staged.allocations)
        .map_err(|e| Problem::new(FaultKind::Internal, e.to_string()))?;
    // The control plane's user is that of the archive from here on; what is empty is made anew for it.
    for dir in [home.backups_dir(), home.egress_log_dir()] {
        let _kept_with_its_files = fs::remove_dir(dir);
    }
    publish_file(&home.hostd_dir().join("claims.json"), &allocations, 0o640)?;
    home.give_own_directories(home.hostd_config()?.serve_uid)?;
    append_checkpoint_lines(&home.hostd_dir(), &kept)?;
    let manifest = home.root().join(archive::MANIFEST);
    // They are one text, unless somebody wrote the archive by hand.
    let mut uses = restored_house::uses_in_manifest(
        &fs::read_to_string(&manifest).unwrap_or_default(),
        manifest.parent().unwrap_or(home.root()),
    );
    if let Some(row) = in_force {
        uses.extend(restored_house::uses_in_manifest(
            &row.manifest,
            Path::new(&row.base_dir),
        ));
    }
    restored_house::ask_for_consent(&home, &uses)?;
    file::publish_finished(
        &dir.join(DATABASE),
        &home.database_file(),
        file::Sync::Entry,
    )
    .map_err(Error::file("publish", home.database_file()))?;
    // What was put in place is this process's.
    home.create_directories()?;
    Ok(RestoredHouseDoc {
        version: VERSION,
        state_hash: staged.state_hash,
        manifest: manifest.exists().then(|| manifest.display().to_string()),
        left_out: staged.contents.map_or_else(earlier_release, |c| c.left_out),
        notes,
        uses_of_host: uses.into_iter().collect(),
    })
}

/// A restore of which nothing is in place yet.
struct Prepared {
    config: HostdConfig,
    /// What is to be put in place.
    scratch: tempfile::TempDir,
    staged: Staged,
    notes: Vec<String>,
    /// Lines to append to the checkpoint file of the home.
    kept: Vec<CheckpointLine>,
    /// Plan in force of the restored house.
    in_force: Option<GenerationRow>,
}

/// Reads an archive into a directory of the home, and checks it.
fn prepare(
    home: &Home,
    from: &Path,
    passphrase: Option<&Secret>,
    lock: &mut Option<File>,
) -> Result<Prepared> {
    let config = home.create_directories()?;
    *lock = Some(home.acquire_lock()?);
    sweep_scratch(home);
    let scratch = tempfile::Builder::new()
        .prefix(SCRATCH)
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in(home.root())
        .map_err(Error::file("make a directory in", home.root()))?;
    let staged = stage(from, scratch.path(), true)?;
    let contents = staged.contents.as_ref();
    let mut notes = Vec::new();
    let wrapped = contents.and_then(|c| c.signing_key.as_ref());
    let previous = match (wrapped, passphrase) {
        (Some(wrapped), Some(passphrase)) => {
            Some(archive::unwrap_signing_key(wrapped, passphrase)?)
        }
        (Some(_), None) => {
            notes.push("the archive holds the signing key of the audit log; without `--passphrase-file` it does not confirm the new key".to_owned());
            None
        }
        (None, Some(_)) => {
            let text = "the archive holds no signing key, so it needs no passphrase";
            return Err(Problem::new(FaultKind::Invalid, text).into());
        }
        (None, None) => None,
    };
    notes.extend(staged.notes());
    let key = home.load_or_create_signing_key()?;
    let kept = checkpoint_lines(&config, &staged, &public_key(&key))?;
    let store = open_store(&scratch.path().join(DATABASE), key)?;
    store
        .record_restore(previous, staged.state_hash.clone())
        .wait()?;
    let in_force = store.current_generation().wait()?;
    drop(store);
    Ok(Prepared {
        config,
        scratch,
        staged,
        notes,
        kept,
        in_force,
    })
}

/// Prefix of the directories in which restores work.
const SCRATCH: &str = ".restore-";

/// Checks that a new house may begin in a home that has no state: that no restore was interrupted there.
///
/// # Errors
/// `Conflict` with what is in the way, and the remedy.
pub fn check_new_house(home: &Home) -> Result<()> {
    if fs::symlink_metadata(home.database_file()).is_ok() {
        return Ok(());
    }
    let mut entries = fs::read_dir(home.root()).into_iter().flatten().flatten();
    let is_scratch = |e: &fs::DirEntry| e.file_name().to_string_lossy().starts_with(SCRATCH);
    let Some(left) = entries.find(is_scratch) else {
        return Ok(());
    };
    let text = format!(
        "a restore into `{}` was interrupted, or is under way",
        home.root().display()
    );
    let remedy = format!(
        "the same `abbey restore` once more restores the house; to begin another one, `rm -r {}`",
        shell_path(&left.path())
    );
    Err(Problem::new(FaultKind::Conflict, text)
        .remedy(remedy)
        .into())
}

/// Removes what interrupted restores left.
fn sweep_scratch(home: &Home) {
    let entries = fs::read_dir(home.root()).into_iter().flatten().flatten();
    for entry in entries.filter(|e| e.file_name().to_string_lossy().starts_with(SCRATCH)) {
        let _stays_until_the_next = fs::remove_dir_all(entry.path());
    }
}

/// Lines to append to the checkpoint file of the home: those of the archive if it has none yet, and that the log goes on
/// behind the newest restored entry, signed with `key`.
fn checkpoint_lines(
    config: &HostdConfig,
    staged: &Staged,
    key: &str,
) -> Result<Vec<CheckpointLine>> {
    let first = |lines: &[CheckpointLine]| {
        lines.iter().find_map(|line| match line {
            CheckpointLine::Checkpoint(c) => Some(c.key.clone()),
            CheckpointLine::Restored { .. } => None,
        })
    };
    let here = read_checkpoint_lines(&config.hostd_dir())?;
    let (ours, theirs) = (first(&here), first(&staged.checkpoints));
    if ours.is_some() && theirs.is_some() && ours != theirs {
        let text = "the backup is of another house than the one whose audit log is in this home; restore into an empty home";
        return Err(Problem::new(FaultKind::Conflict, text).into());
    }
    let mut lines = match here.is_empty() {
        true => staged.checkpoints.clone(),
        false => Vec::new(),
    };
    lines.push(CheckpointLine::Restored {
        seq: staged.log.entries,
        hash: staged.log.head.clone(),
        key: key.to_owned(),
        at: runtime::host_wall_clock(),
    });
    Ok(lines)
}

/// Ends cells that still run without a control plane: their files are about to be replaced.
fn end_cells(config: &HostdConfig) -> Result<()> {
    let hostd = InProcessHostd(config.clone());
    let records = fs::read_dir(config.cell_records_dir())
        .into_iter()
        .flatten()
        .flatten();
    let cells = records.filter_map(|e| e.file_name().to_str()?.parse::<CellName>().ok());
    for cell in cells {
        hostd.call(HostdOperation::Sweep { cell }, &[])?;
    }
    Ok(())
}
