//! The state directory (`ABBEY_HOME`): paths of its files, creation with modes and owners, lock,
//! and keys.

use crate::core::error::Error;
use crate::core::runtime::{self, Random, Timers};
use abbey_cells::hostd::HostdConfig;
use abbey_model::Secret;
use abbey_support::file;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Time to wait for the lock of a process that was killed to be released.
const LOCK_WITHIN: Duration = Duration::from_secs(5);

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
    /// Directory of the credentials that a manifest names as `credential:NAME`.
    pub fn credentials_dir(&self) -> PathBuf {
        self.root.join("credentials")
    }
    /// Directory of the backups that skills write.
    pub fn backups_dir(&self) -> PathBuf {
        self.root.join("backups")
    }

    /// Name of the control group of this house, derived from the canonical path of the home, so
    /// that houses on one host don't share it.
    pub fn cgroup_name(&self) -> String {
        let path = self
            .root
            .canonicalize()
            .unwrap_or_else(|_| self.root.clone());
        let digest = abbey_support::digest::sha256_hex(path.as_os_str().as_encoded_bytes());
        format!("abbey-{}", &digest[..12])
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

    /// Creates every directory of the home with its mode and owner, and returns hostd's
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
        // A control plane may already run here, so an existing directory never gets a narrower mode, even briefly.
        fs::create_dir_all(&self.root).map_err(Error::file("create", &self.root))?;
        let config = self.hostd_config()?;
        let shared = if config.privileged { 0o1771 } else { 0o711 };
        for (dir, mode) in [
            (self.root.clone(), shared),
            (self.run_dir(), shared),
            (self.cell_records_dir(), 0o2750),
            (self.root.join("logs"), 0o2751),
            (self.root.join("agents"), 0o751),
            (self.root.join("services"), 0o751),
            (self.root.join("runs"), 0o751),
            (self.credentials_dir(), 0o2750),
            (self.skills_dir(), 0o755),
        ] {
            let owner = config.privileged.then_some((0, config.serve_uid));
            if !has_mode_and_owner(&dir, mode, owner) {
                fs::create_dir_all(&dir).map_err(Error::file("create", &dir))?;
                if let Some((uid, gid)) = owner {
                    change_owner(&dir, uid, gid)?;
                }
                // Last: changing the owner clears the set-group-id bit.
                create_dir_with_mode(&dir, mode)?;
            }
        }
        create_dir_with_mode(&self.backups_dir(), 0o700)?;
        create_dir_with_mode(&self.egress_log_dir(), 0o700)?;
        if config.privileged {
            self.give_to_control_plane_user(config.serve_uid)?;
        }
        self.check_agents_can_enter()?;
        Ok(config)
    }

    /// Changes the owner of the control plane's files (database, keys, logs) to its user.
    fn give_to_control_plane_user(&self, uid: u32) -> Result<(), Error> {
        let mut own = vec![
            self.backups_dir(),
            self.egress_log_dir(),
            self.operator_token_file(),
        ];
        own.extend(
            ["abbey.db", "abbey.db-wal", "abbey.db-shm", "signing.key"]
                .map(|name| self.root.join(name)),
        );
        own.extend(["serve.lock", "serve.json"].map(|name| self.run_dir().join(name)));
        for path in own.iter().filter(|p| p.exists()) {
            change_owner(path, uid, uid)?;
        }
        // The operator puts credentials there; the control plane reads them.
        for entry in fs::read_dir(self.credentials_dir())
            .into_iter()
            .flatten()
            .flatten()
        {
            let path = entry.path();
            if entry.file_type().is_ok_and(|t| t.is_file()) {
                change_owner(&path, 0, uid)?;
                fs::set_permissions(&path, fs::Permissions::from_mode(0o640))
                    .map_err(Error::file("set the mode of", &path))?;
            }
        }
        Ok(())
    }

    /// As root, checks that users of agents can enter every directory above the home.
    fn check_agents_can_enter(&self) -> Result<(), Error> {
        if !rustix::process::geteuid().is_root() {
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

    /// Acquires the exclusive lock of the home, which is held until the returned file is dropped.
    ///
    /// # Errors
    /// [`Error::Locked`] with the holder's process id if another control plane runs.
    pub fn acquire_lock(&self) -> Result<File, Error> {
        let path = self.run_dir().join("serve.lock");
        let mut file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(Error::file("open", &path))?;
        let until = runtime::System.now() + LOCK_WITHIN;
        while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let holder = fs::read_to_string(&path)
                .unwrap_or_default()
                .trim()
                .to_owned();
            let is_alive = holder
                .parse()
                .is_ok_and(|pid| abbey_cells::identify(pid).is_some());
            // The kernel releases the lock when the last thread of a killed holder has ended.
            if is_alive || runtime::System.now() >= until {
                return Err(Error::Locked {
                    home: self.root.clone(),
                    holder,
                });
            }
            runtime::sleep_thread(Duration::from_millis(10));
        }
        file.set_len(0)
            .and_then(|()| write!(file, "{}", std::process::id()))
            .map_err(Error::file("write", &path))?;
        Ok(file)
    }

    /// Reads the key that signs checkpoints of the audit log; creates it on the first start.
    ///
    /// # Errors
    /// If it can be neither read nor created.
    pub fn load_or_create_signing_key(&self) -> Result<[u8; 32], Error> {
        let path = self.root.join("signing.key");
        match fs::read(&path) {
            Ok(bytes) => bytes.try_into().map_err(|_| Error::Damaged {
                path,
                why: "it must have 32 bytes".to_owned(),
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let mut key = [0u8; 32];
                fill_random(&mut key)?;
                publish_file(&path, &key, 0o600)?;
                Ok(key)
            }
            Err(e) => Err(Error::file("read", &path)(e)),
        }
    }

    /// Reads the operator's credential; creates it on the first start.
    ///
    /// # Errors
    /// If it can be neither read nor created.
    pub fn load_or_create_operator_token(&self) -> Result<Secret, Error> {
        let path = self.operator_token_file();
        match fs::read_to_string(&path) {
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

fn change_owner(path: &Path, uid: u32, gid: u32) -> Result<(), Error> {
    std::os::unix::fs::lchown(path, Some(uid), Some(gid))
        .map_err(Error::file("change the owner of", path))
}

/// Whether a directory exists with exactly this mode and owner.
fn has_mode_and_owner(dir: &Path, mode: u32, owner: Option<(u32, u32)>) -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::symlink_metadata(dir).is_ok_and(|m| {
        m.is_dir()
            && m.mode() & 0o7777 == mode
            && owner.is_none_or(|(uid, gid)| (m.uid(), m.gid()) == (uid, gid))
    })
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

fn fill_random(bytes: &mut [u8]) -> Result<(), Error> {
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
