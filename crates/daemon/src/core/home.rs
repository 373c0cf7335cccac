//! The state directory (`ABBEY_HOME`): paths of its files, creation with modes and owners, lock,
//! and keys.

use crate::core::error::Error;
use crate::core::runtime::{self, Random, Timers};
use abbey_api::Problem;
use abbey_cells::hostd::{
    COMMANDS_OF_HOUSE, HomeEntryKind, HomeOwners, HostdConfig, SECRET_REMOVE, SECRET_SET,
    WrongEntry, find_wrong_entries, home_entries, record_operator_change, repair_home,
};
use abbey_model::{FaultKind, Secret, SecretRef};
use abbey_support::beneath::{DirHandle, set_owner_and_mode};
use abbey_support::file;
use rustix::fs::{FlockOperation, flock};
use rustix::process::geteuid;
use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Time to wait for the lock of a process that was killed to be released.
const LOCK_WITHIN: Duration = Duration::from_secs(5);

/// Name of the key that a rotation puts in force next.
const STAGED_KEY: &str = "signing.key.next";

/// Longest file of the house's state that is read whole, bytes.
const STATE_FILE_MAX: u64 = 1 << 20;

/// Paths below one `ABBEY_HOME`.
#[derive(Debug, Clone)]
pub struct Home {
    root: PathBuf,
}

impl Home {
    /// Home at this path; nothing is read or created.
    pub fn new(root: PathBuf) -> Self {
        Home { root }
    }

    /// Path of the home directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }
    /// Path of the SQLite database, `abbey.db`.
    pub fn database_file(&self) -> PathBuf {
        self.root.join("abbey.db")
    }
    /// Directory `run/` of sockets, locks and cell records; its content is only meaningful while
    /// processes of the house run.
    pub fn run_dir(&self) -> PathBuf {
        self.root.join("run")
    }
    /// Directory `run/cells/` with one directory of shim records per cell.
    pub fn cell_records_dir(&self) -> PathBuf {
        self.run_dir().join("cells")
    }
    /// Directory of hostd's own files, `hostd/`, which the control plane reads.
    pub fn hostd_dir(&self) -> PathBuf {
        self.root.join("hostd")
    }
    /// Path of the Unix socket of the agent API, `run/inside.sock`.
    pub fn agent_api_socket(&self) -> PathBuf {
        self.run_dir().join("inside.sock")
    }
    /// Path of the Unix socket on which shims reach the egress proxy.
    pub fn egress_socket(&self) -> PathBuf {
        self.run_dir().join("egress.sock")
    }
    /// Path of the Unix socket on which shims forward DNS queries.
    pub fn dns_socket(&self) -> PathBuf {
        self.run_dir().join("names.sock")
    }
    /// Directory `egress/` of the logs of outgoing connections.
    pub fn egress_log_dir(&self) -> PathBuf {
        self.root.join("egress")
    }
    /// Path of the Unix socket of the operator API, `run/operator.sock`.
    pub fn operator_api_socket(&self) -> PathBuf {
        self.run_dir().join("operator.sock")
    }
    /// Path of `manifest.path`, which names the manifest that the house was last brought up from.
    pub fn last_manifest_file(&self) -> PathBuf {
        self.root.join("manifest.path")
    }
    /// Path of `consent.json`: what a restored house uses of its host, until somebody agrees.
    pub fn consent_file(&self) -> PathBuf {
        self.root.join("consent.json")
    }
    /// Path of the file with the operator's credential, `operator.token`.
    pub fn operator_token_file(&self) -> PathBuf {
        self.root.join("operator.token")
    }
    /// Path of `run/serve.json`, in which a running control plane publishes its process id and
    /// address.
    pub fn announcement_file(&self) -> PathBuf {
        self.run_dir().join("serve.json")
    }
    /// Path of `run/alive`, which says until when a control plane observed the house.
    pub(crate) fn heartbeat_file(&self) -> PathBuf {
        self.run_dir().join("alive")
    }
    /// Path of the control plane's log, `logs/serve.log`.
    pub fn serve_log_file(&self) -> PathBuf {
        self.root.join("logs").join("serve.log")
    }
    /// Log directory of the cell with this name.
    pub fn cell_log_dir(&self, cell: &str) -> PathBuf {
        self.root.join("logs").join(cell)
    }
    /// Directory with the files of the agent with this slug.
    pub fn agent_dir(&self, slug: &str) -> PathBuf {
        self.root.join("agents").join(slug)
    }
    /// Directory with the files of the service with this slug.
    pub fn service_dir(&self, slug: &str) -> PathBuf {
        self.root.join("services").join(slug)
    }
    /// Directory with the files of the single command (`abbey run`) with this slug.
    pub fn command_dir(&self, slug: &str) -> PathBuf {
        self.root.join("runs").join(slug)
    }
    /// Directory into which files of removed agents are archived.
    pub fn removed_agents_dir(&self) -> PathBuf {
        self.root.join("removed")
    }
    /// Directory of the skills of this house.
    pub fn skills_dir(&self) -> PathBuf {
        self.root.join("skills")
    }
    /// Directory of the commands for cells that share the host's file system.
    pub fn commands_dir(&self) -> PathBuf {
        self.root.join(COMMANDS_OF_HOUSE)
    }
    /// Directory of the credentials that a manifest names as `credential:NAME`.
    pub fn credentials_dir(&self) -> PathBuf {
        self.root.join("credentials")
    }

    /// Directory of the templates that operators saved.
    pub fn templates_dir(&self) -> PathBuf {
        self.root.join("templates")
    }

    /// Directory of the backups that skills write.
    pub fn backups_dir(&self) -> PathBuf {
        self.root.join("backups")
    }

    /// Name of the control group of this house, see [`abbey_cells::hostd::control_group_of`].
    pub fn cgroup_name(&self) -> String {
        abbey_cells::hostd::control_group_of(&self.root)
    }

    /// Configuration that hostd of this house runs with.
    ///
    /// # Errors
    /// If its directory cannot be created.
    pub fn hostd_config(&self) -> Result<HostdConfig, Error> {
        Ok(HostdConfig::for_house(&self.root, self.cgroup_name())?)
    }

    /// A helper that performs hostd's operations in this process, without privileges, for tests.
    #[cfg(test)]
    pub(crate) fn inline_helper(&self) -> std::sync::Arc<dyn abbey_cells::hostd::HostdApi> {
        let mut config = self.hostd_config().expect("a home");
        config.privileged = false;
        std::sync::Arc::new(abbey_cells::hostd::InProcessHostd(config))
    }

    /// Refuses a home that belongs to another user: root would take the files of an ordinary user's house away from it.
    ///
    /// # Errors
    /// `Forbidden`, with whom it belongs to.
    pub fn require_own(&self) -> Result<(), Error> {
        use std::os::unix::fs::MetadataExt;
        let user = geteuid().as_raw();
        let owner = fs::metadata(&self.root).map_or(user, |m| m.uid());
        if owner == user {
            return Ok(());
        }
        let text = format!(
            "the home `{}` belongs to user {owner}, and this is user {user}; nothing was changed",
            self.root.display()
        );
        let become_owner = match (user, owner) {
            (0, _) => format!(", such as with `setpriv --reuid {owner} --clear-groups`"),
            (_, 0) => ", such as with `sudo`".to_owned(),
            _ => String::new(),
        };
        let remedy = format!(
            "run it as that user{become_owner}, or select another home with `--home` or ABBEY_HOME"
        );
        Err(Problem::new(FaultKind::Forbidden, text)
            .remedy(remedy)
            .into())
    }

    /// Stores a credential, readable for the control plane alone. That it changes, not to what, is recorded for the audit
    /// log first.
    ///
    /// # Errors
    /// If the home belongs to another user, or the file or the record cannot be written.
    pub fn store_credential(&self, name: &str, value: &[u8]) -> Result<(), Error> {
        let config = self.create_directories()?;
        let owner = (config.serve_uid, config.serve_uid);
        let path = self.credentials_dir().join(name);
        recorded(&config, SECRET_SET, name, || {
            self.open_own()?
                .open_dir("credentials")
                .and_then(|dir| dir.publish(name, value, 0o600, owner, true))
                .map_err(Error::file("write", path))
        })
    }

    /// Names of the stored credentials, in order.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub fn credential_names(&self) -> Result<Vec<String>, Error> {
        let dir = self.credentials_dir();
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::file("list", &dir)(e)),
        };
        let files = entries
            .flatten()
            .filter(|e| e.file_type().is_ok_and(|t| t.is_file()));
        let names = files.filter_map(|e| e.file_name().into_string().ok());
        // Those that a manifest can name; what is written at this moment has another name.
        let mut names: Vec<String> = names
            .filter(|name| format!("credential:{name}").parse::<SecretRef>().is_ok())
            .collect();
        names.sort();
        Ok(names)
    }

    /// Removes a stored credential; returns whether it existed. The removal is recorded for the audit log first.
    ///
    /// # Errors
    /// If the home belongs to another user, the record cannot be written, or the file cannot be removed.
    pub fn remove_credential(&self, name: &str) -> Result<bool, Error> {
        self.require_own()?;
        let path = self.credentials_dir().join(name);
        let opened = DirHandle::open_own(&self.root).and_then(|root| {
            let dir = root.open_dir("credentials")?;
            Ok(dir.stat_entry(name)?.map(|_| dir))
        });
        let dir = match opened {
            Ok(Some(dir)) => dir,
            Ok(None) => return Ok(false),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(Error::file("open", &path)(e)),
        };
        recorded(&self.hostd_config()?, SECRET_REMOVE, name, || {
            dir.remove_file(name).map_err(Error::file("remove", path))
        })?;
        Ok(true)
    }

    /// What of the house's own files has another owner or mode than it must have.
    ///
    /// # Errors
    /// If the home cannot be read.
    pub(crate) fn wrong_entries(&self) -> Result<Vec<WrongEntry>, Error> {
        let root = DirHandle::open_trusted(&self.root).map_err(Error::file("open", &self.root))?;
        let owner = root
            .stat()
            .map_err(Error::file("read the metadata of", &self.root))?
            .st_uid;
        let user = geteuid();
        // The control plane of a house that root runs has a user of its own.
        let owners = match owner {
            0 if !user.is_root() => HomeOwners::of_root(user.as_raw()),
            0 => HomeOwners::of(&self.hostd_config()?),
            _ => HomeOwners::of_this_user(),
        };
        let found = find_wrong_entries(&root, &owners);
        let mut wrong = found.map_err(Error::file("read the metadata in", &self.root))?;
        // Root's tools hold this lock while the house is down, and may have made its file.
        wrong.retain(|entry| !user.is_root() || entry.path != Path::new("run/serve.lock"));
        Ok(wrong)
    }

    /// Creates every directory of the home with its mode and owner, repairs those of its files, and returns hostd's
    /// configuration. As root, the control plane's user may create files in the home and in `run`,
    /// but cannot replace root's files there (both are sticky), and files and records of cells
    /// belong to root. Otherwise everything belongs to the calling user.
    ///
    /// # Errors
    /// If the home is not writable, its path is too long for sockets, or agents' users cannot enter
    /// it.
    pub fn create_directories(&self) -> Result<HostdConfig, Error> {
        if !abbey_plan::socket_paths_fit(&self.root.to_string_lossy()) {
            return Err(Error::HomeTooDeep(self.root.clone()));
        }
        self.require_own()?;
        fs::create_dir_all(&self.root).map_err(Error::file("create", &self.root))?;
        let root = self.open_own()?;
        let config = self.hostd_config()?;
        let owners = HomeOwners::of(&config);
        let failed = |what, name: &str| Error::file(what, self.root.join(name));
        for entry in home_entries(&owners) {
            // A control plane may already run here, so an existing directory never gets a narrower mode, even briefly.
            if entry.kind != HomeEntryKind::Directory {
                continue;
            }
            let made = match entry.path.rsplit_once('/') {
                None if entry.path.is_empty() => {
                    set_owner_and_mode_unless_same(&root, entry.owner, entry.mode)
                }
                None => root
                    .ensure_dir(entry.path, entry.mode, entry.owner)
                    .map(drop),
                Some((parent, name)) => root
                    .open_dir(parent)
                    .and_then(|dir| dir.ensure_dir(name, entry.mode, entry.owner))
                    .map(drop),
            };
            made.map_err(failed("create", entry.path))?;
        }
        repair_home(&root, &owners)?;
        self.check_agents_can_enter()?;
        Ok(config)
    }

    /// The home, opened, if it belongs to the user of this process.
    fn open_own(&self) -> Result<DirHandle, Error> {
        self.require_own()?;
        DirHandle::open_own(&self.root).map_err(Error::file("open", &self.root))
    }

    /// Gives the directories in which only the control plane writes to its user, after that has changed.
    pub(crate) fn give_own_directories(&self, uid: u32) -> Result<(), Error> {
        let root = self.open_own()?;
        let templates = root.open_dir("templates").and_then(|dir| {
            let mut names = dir.names()?.into_iter();
            names.try_for_each(|name| dir.give_entry(name, (uid, uid)))
        });
        templates.map_err(Error::file("change the owner in", self.templates_dir()))?;
        for name in ["backups", "egress", "templates"] {
            root.give_entry(name, (uid, uid))
                .map_err(Error::file("change the owner of", self.root.join(name)))?;
        }
        Ok(())
    }

    /// As root, checks that users of agents can enter every directory above the home.
    fn check_agents_can_enter(&self) -> Result<(), Error> {
        if !geteuid().is_root() {
            return Ok(());
        }
        let root = self
            .root
            .canonicalize()
            .map_err(Error::file("read the metadata of", &self.root))?;
        for dir in root.ancestors() {
            let mode = fs::metadata(dir)
                .map_err(Error::file("read the metadata of", dir))?
                .permissions()
                .mode();
            if mode & 0o001 == 0 {
                return Err(Error::HomeClosed {
                    home: root.clone(),
                    dir: dir.to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Checks that a home without a database is a new one: a missing or empty file beside agents, services, allocations
    /// or signed heads of an audit log means that state was lost, not that there never was any.
    ///
    /// # Errors
    /// [`Error::LostDatabase`] names what was found.
    pub fn check_database_not_lost(&self) -> Result<(), Error> {
        let path = self.database_file();
        let state = match fs::metadata(&path) {
            Ok(found) if found.len() > 0 => return Ok(()),
            Ok(_) => "empty",
            Err(e) if e.kind() == io::ErrorKind::NotFound => "missing",
            Err(e) => return Err(Error::file("read the metadata of", path)(e)),
        };
        let mut found = Vec::new();
        for kind in ["agents", "services"] {
            let names = list_slug_dirs(&self.root.join(kind)).unwrap_or_default();
            let names: Vec<&str> = names.iter().map(abbey_model::Slug::as_str).collect();
            if !names.is_empty() {
                found.push(format!("files of {kind}: {}", names.join(", ")));
            }
        }
        let claims = self
            .read_file(&self.hostd_dir().join("claims.json"))
            .unwrap_or_default();
        let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap_or_default();
        if claims["owners"]
            .as_object()
            .is_some_and(|owners| !owners.is_empty())
        {
            found.push("allocations of users and networks".to_owned());
        }
        let checkpoints = abbey_cells::hostd::checkpoint_file(&self.hostd_dir());
        if fs::metadata(checkpoints).is_ok_and(|m| m.len() > 0) {
            found.push("signed heads of an audit log".to_owned());
        }
        match found.is_empty() {
            true => Ok(()),
            false => Err(Error::LostDatabase {
                path,
                state,
                found: found.join("; "),
                home: self.root.clone(),
            }),
        }
    }

    /// File whose lock the control plane holds while it runs.
    pub fn lock_file(&self) -> PathBuf {
        self.run_dir().join("serve.lock")
    }

    /// Acquires the exclusive lock of the home, which is held until the returned file is dropped.
    ///
    /// # Errors
    /// [`Error::Locked`] with the holder's process id if another control plane runs.
    pub fn acquire_lock(&self) -> Result<File, Error> {
        let path = self.lock_file();
        let failed = || Error::file("open", &path);
        let root = DirHandle::open_trusted(&self.root).map_err(failed())?;
        let until = runtime::System.now() + LOCK_WITHIN;
        let mut file = loop {
            // Opened beneath the home: root locks it too, and the control plane's user can put a link in its place.
            let file = root.open_or_create("run/serve.lock", 0o600);
            let file = file.map_err(failed())?;
            let taken = flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
            // Whoever had the lock may have removed the file as it ended, and another one may have a new file locked by now.
            if taken && is_in_place(&root, &file).map_err(failed())? {
                break file;
            }
            // Not whose number is in the file: the control plane's user can write there what it likes.
            let holder = match taken {
                true => None,
                false => abbey_cells::lock_holder(&file),
            };
            // The kernel releases the lock when the last thread of a killed holder has ended.
            if holder.is_some() || runtime::System.now() >= until {
                return Err(Error::Locked {
                    home: self.root.clone(),
                    holder,
                });
            }
            runtime::sleep_thread(Duration::from_millis(10));
        };
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| write!(file, "{}", std::process::id()))
            .map_err(Error::file("write", &path))?;
        Ok(file)
    }

    /// Copies the database and the key that signs its audit log to a directory. No control plane may run.
    ///
    /// # Errors
    /// If one of them is no regular file, or cannot be copied.
    pub(crate) fn copy_state_to(&self, to: &Path) -> Result<(), Error> {
        let root = DirHandle::open_trusted(&self.root).map_err(Error::file("open", &self.root))?;
        for name in ["abbey.db", "abbey.db-wal", "signing.key", STAGED_KEY] {
            let copied = match root.open_file(name) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
                opened => opened.and_then(|mut from| {
                    let mut to = File::create_new(to.join(name))?;
                    io::copy(&mut from, &mut to)
                }),
            };
            copied.map_err(Error::file("copy", self.root.join(name)))?;
        }
        Ok(())
    }

    /// Reads the key that signs checkpoints of the audit log; creates it on the first start.
    ///
    /// # Errors
    /// If it can be neither read nor created.
    pub fn load_or_create_signing_key(&self) -> Result<[u8; 32], Error> {
        match self.read_key("signing.key")? {
            Some(key) => Ok(key),
            None => self.create_key("signing.key"),
        }
    }

    /// Creates the key that a rotation puts in force next, beside the one in force.
    pub(crate) fn stage_signing_key(&self) -> Result<[u8; 32], Error> {
        self.create_key(STAGED_KEY)
    }

    /// The key of a rotation that is under way, or was interrupted.
    pub(crate) fn staged_signing_key(&self) -> Result<Option<[u8; 32]>, Error> {
        self.read_key(STAGED_KEY)
    }

    /// Puts the staged key in the place of the signing key.
    pub(crate) fn adopt_staged_signing_key(&self) -> Result<(), Error> {
        let (from, to) = (self.root.join(STAGED_KEY), self.root.join("signing.key"));
        file::publish_finished(&from, &to, file::Sync::Entry).map_err(Error::file("publish", to))
    }

    /// Removes the staged key.
    pub(crate) fn remove_staged_signing_key(&self) -> Result<(), Error> {
        let path = self.root.join(STAGED_KEY);
        fs::remove_file(&path).map_err(Error::file("remove", path))
    }

    /// Reads a small file of the house's own state, at most 1 MiB. Whoever runs this may have more rights than those who can
    /// change the file: a link, a FIFO or a device in its place is refused.
    ///
    /// # Errors
    /// The system's error; `InvalidInput` for a path outside of this home or anything but a regular file.
    pub fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        let below = path
            .strip_prefix(&self.root)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        DirHandle::open_trusted(&self.root)?.read(below, STATE_FILE_MAX)
    }

    /// As [`Home::read_file`], of a text.
    ///
    /// # Errors
    /// As [`Home::read_file`]; `InvalidData` if it is not UTF-8.
    pub fn read_text(&self, path: &Path) -> io::Result<String> {
        String::from_utf8(self.read_file(path)?)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }

    fn read_key(&self, name: &str) -> Result<Option<[u8; 32]>, Error> {
        let path = self.root.join(name);
        match self.read_file(&path) {
            Ok(bytes) => bytes.try_into().map(Some).map_err(|_| Error::Damaged {
                path,
                why: "it must have 32 bytes".to_owned(),
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::file("read", &path)(e)),
        }
    }

    fn create_key(&self, name: &str) -> Result<[u8; 32], Error> {
        let mut key = [0u8; 32];
        fill_random(&mut key)?;
        publish_file(&self.root.join(name), &key, 0o600)?;
        Ok(key)
    }

    /// Reads the operator's credential; creates it on the first start.
    ///
    /// # Errors
    /// If it can be neither read nor created.
    pub fn load_or_create_operator_token(&self) -> Result<Secret, Error> {
        let path = self.operator_token_file();
        match self.read_text(&path) {
            Ok(text) => Ok(Secret::new(text.trim())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let token = generate_token("abbey_op_")?;
                publish_file(&path, token.expose().as_bytes(), 0o600)?;
                Ok(token)
            }
            Err(e) => Err(Error::file("read", &path)(e)),
        }
    }
}

/// Whether an open lock file is still the one that others find.
fn is_in_place(root: &DirHandle, lock: &File) -> io::Result<bool> {
    let found = root.open_dir("run")?.stat_entry("serve.lock")?;
    let own = rustix::fs::fstat(lock)?;
    Ok(found.is_some_and(|found| (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino)))
}

/// Makes a change of a secret, which is recorded for the audit log before, and again if it fails: what is made without a
/// record would be a change that nobody finds.
fn recorded(
    config: &HostdConfig,
    op: &str,
    name: &str,
    change: impl FnOnce() -> Result<(), Error>,
) -> Result<(), Error> {
    let subject = format!("secret-{name}");
    record_operator_change(config, op, &subject, "done").map_err(|e| {
        let text = format!(
            "the change of the secret `{name}` could not be recorded for the audit log, so it was not made: {}",
            Error::from(e).chain()
        );
        Problem::new(FaultKind::Host, text)
            .remedy("free space in the file system of the home, then repeat the command")
    })?;
    change().inspect_err(|error| {
        let outcome = format!("failed: {}", error.chain());
        let _unlikely = record_operator_change(config, op, &subject, &outcome);
    })
}

/// Gives an open directory its mode and owner; touches nothing if it has them.
fn set_owner_and_mode_unless_same(dir: &DirHandle, owner: (u32, u32), mode: u32) -> io::Result<()> {
    let stat = dir.stat()?;
    match stat.st_mode & 0o7777 == mode && (stat.st_uid, stat.st_gid) == owner {
        true => Ok(()),
        false => set_owner_and_mode(dir, owner, mode),
    }
}

/// Creates a directory with its parents and sets exactly this mode on it.
pub(crate) fn create_dir_with_mode(dir: &Path, mode: u32) -> Result<(), Error> {
    fs::create_dir_all(dir).map_err(Error::file("create", dir))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(mode))
        .map_err(Error::file("set the mode of", dir))
}

/// Writes a file atomically (write, flush, rename) with exactly this mode.
pub(crate) fn publish_file(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    file::publish(path, bytes, mode, file::Sync::Content).map_err(Error::file("publish", path))
}

/// Generates a credential: this prefix, which log redaction recognizes, and 256 random bits in
/// base64url.
pub(crate) fn generate_token(prefix: &str) -> Result<Secret, Error> {
    use base64::Engine;
    let mut bytes = [0u8; 32];
    fill_random(&mut bytes)?;
    let text = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    Ok(Secret::new(format!("{prefix}{text}")))
}

pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<(), Error> {
    runtime::System.fill(bytes).map_err(|why| Error::Damaged {
        path: "/dev/urandom".into(),
        why,
    })
}

/// Names of the entries of a directory that are valid slugs.
pub(crate) fn list_slug_dirs(
    dir: &Path,
) -> Result<std::collections::BTreeSet<abbey_model::Slug>, Error> {
    let entries = fs::read_dir(dir).map_err(Error::file("list", dir))?;
    Ok(entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_on_a_file_that_was_removed_is_none() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("run")).unwrap();
        let home = Home::new(dir.path().to_owned());
        let root = DirHandle::open_trusted(dir.path()).unwrap();
        let old = home.acquire_lock().unwrap();
        assert!(is_in_place(&root, &old).unwrap());
        // As a control plane does that ends.
        fs::remove_file(dir.path().join("run/serve.lock")).unwrap();
        assert!(!is_in_place(&root, &old).unwrap());
        let new = home.acquire_lock().unwrap();
        assert!(is_in_place(&root, &new).unwrap() && !is_in_place(&root, &old).unwrap());
    }
}
