//! The state directory: layout, lock, keys and the operator's credential.

use crate::core::error::Error;
use crate::core::runtime::{self, Random, Timers};
use abbey_cells::hostd::Config;
use abbey_model::Secret;
use abbey_support::file;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Time for the lock of a holder that was killed to come free.
const LOCK_WITHIN: Duration = Duration::from_secs(5);

/// Everything below `ABBEY_HOME`.
#[derive(Debug, Clone)]
pub struct Home {
    root: PathBuf,
}

impl Home {
    /// A home at this path.
    pub fn new(root: PathBuf) -> Self {
        Home { root }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }
    /// The state file.
    pub fn database(&self) -> PathBuf {
        self.root.join("abbey.db")
    }
    /// Sockets, locks and records; nothing in it outlives the house.
    pub fn run(&self) -> PathBuf {
        self.root.join("run")
    }
    /// Records of cells.
    pub fn cells(&self) -> PathBuf {
        self.run().join("cells")
    }
    /// Socket of the agent API.
    pub fn inside(&self) -> PathBuf {
        self.run().join("inside.sock")
    }
    /// Socket of the egress proxy, for shims.
    pub fn egress_socket(&self) -> PathBuf {
        self.run().join("egress.sock")
    }
    /// Socket for names, for shims.
    pub fn names_socket(&self) -> PathBuf {
        self.run().join("names.sock")
    }
    /// What went through the egress proxy.
    pub fn egress_logs(&self) -> PathBuf {
        self.root.join("egress")
    }
    /// Socket on which the operator's tools reach the operator API.
    pub fn operator(&self) -> PathBuf {
        self.run().join("operator.sock")
    }
    /// The operator's credential.
    pub fn operator_token(&self) -> PathBuf {
        self.root.join("operator.token")
    }
    /// Where a running control plane says who and where it is.
    pub fn announcement(&self) -> PathBuf {
        self.run().join("serve.json")
    }
    /// Log of the control plane.
    pub fn serve_log(&self) -> PathBuf {
        self.root.join("logs").join("serve.log")
    }
    /// Logs of one cell.
    pub fn cell_logs(&self, cell: &str) -> PathBuf {
        self.root.join("logs").join(cell)
    }
    /// Files of one agent.
    pub fn agent(&self, slug: &str) -> PathBuf {
        self.root.join("agents").join(slug)
    }
    /// Files of one service.
    pub fn service(&self, slug: &str) -> PathBuf {
        self.root.join("services").join(slug)
    }
    /// Files of a single command.
    pub fn command(&self, slug: &str) -> PathBuf {
        self.root.join("runs").join(slug)
    }
    /// Files of agents that are gone.
    pub fn removed(&self) -> PathBuf {
        self.root.join("removed")
    }
    /// Skills of this house.
    pub fn skills(&self) -> PathBuf {
        self.root.join("skills")
    }
    /// Credentials that the manifest names as `credential:NAME`.
    pub fn credentials(&self) -> PathBuf {
        self.root.join("credentials")
    }
    /// Backups that the house made by itself.
    pub fn backups(&self) -> PathBuf {
        self.root.join("backups")
    }

    /// Name of the control groups of this house: tells installations on one host apart.
    pub fn group(&self) -> String {
        let path = self
            .root
            .canonicalize()
            .unwrap_or_else(|_| self.root.clone());
        let digest = abbey_support::digest::sha256_hex(path.as_os_str().as_encoded_bytes());
        format!("abbey-{}", &digest[..12])
    }

    /// What hostd of this house works with.
    ///
    /// # Errors
    /// When its directory cannot be made.
    pub fn hostd_config(&self) -> Result<Config, Error> {
        Ok(Config::of(&self.root, self.group())?)
    }

    /// Does what hostd does, in this process and without users or networks of their own.
    #[cfg(test)]
    pub(crate) fn unprivileged_helper(&self) -> std::sync::Arc<dyn abbey_cells::hostd::Helper> {
        let mut config = self.hostd_config().expect("a home");
        config.privileged = false;
        std::sync::Arc::new(abbey_cells::hostd::Inline(config))
    }

    /// Makes the directories. As root: the control plane's user may make files in the home and in
    /// `run`, but not touch what is root's there (both are sticky), and cells' files and records
    /// are root's. As a user everything is that user's.
    ///
    /// # Errors
    /// When the home is not writable or too deep for sockets.
    pub fn prepare(&self) -> Result<Config, Error> {
        if !abbey_plan::home_fits(&self.root.to_string_lossy()) {
            return Err(Error::HomeTooDeep(self.root.clone()));
        }
        // Another one may be at work in it already: what is there is never narrowed, not for a moment.
        fs::create_dir_all(&self.root).map_err(Error::file("make", &self.root))?;
        let config = self.hostd_config()?;
        let shared = if config.privileged { 0o1771 } else { 0o711 };
        for (dir, mode) in [
            (self.root.clone(), shared),
            (self.run(), shared),
            (self.cells(), 0o2750),
            (self.root.join("logs"), 0o2751),
            (self.root.join("agents"), 0o751),
            (self.root.join("services"), 0o751),
            (self.root.join("runs"), 0o751),
            (self.credentials(), 0o2750),
            (self.skills(), 0o755),
        ] {
            let owner = config.privileged.then_some((0, config.serve_uid));
            if !stands(&dir, mode, owner) {
                fs::create_dir_all(&dir).map_err(Error::file("make", &dir))?;
                if let Some((uid, gid)) = owner {
                    chown(&dir, uid, gid)?;
                }
                // Last: changing the owner clears the set-group-id bit.
                make_dir(&dir, mode)?;
            }
        }
        make_dir(&self.backups(), 0o700)?;
        make_dir(&self.egress_logs(), 0o700)?;
        if config.privileged {
            self.hand_over(config.serve_uid)?;
        }
        self.reachable()?;
        Ok(config)
    }

    /// Gives the control plane's user what is its own, whoever made it.
    fn hand_over(&self, uid: u32) -> Result<(), Error> {
        let mut own = vec![self.backups(), self.egress_logs(), self.operator_token()];
        own.extend(
            ["abbey.db", "abbey.db-wal", "abbey.db-shm", "signing.key"]
                .map(|name| self.root.join(name)),
        );
        own.extend(["serve.lock", "serve.json"].map(|name| self.run().join(name)));
        for path in own.iter().filter(|p| p.exists()) {
            chown(path, uid, uid)?;
        }
        // The operator puts credentials there; the control plane reads them.
        for entry in fs::read_dir(self.credentials())
            .into_iter()
            .flatten()
            .flatten()
        {
            let path = entry.path();
            if entry.file_type().is_ok_and(|t| t.is_file()) {
                chown(&path, 0, uid)?;
                fs::set_permissions(&path, fs::Permissions::from_mode(0o640))
                    .map_err(Error::file("protect", &path))?;
            }
        }
        Ok(())
    }

    /// With users of their own, agents must be able to walk to their files.
    fn reachable(&self) -> Result<(), Error> {
        if !rustix::process::geteuid().is_root() {
            return Ok(());
        }
        let root = self
            .root
            .canonicalize()
            .map_err(Error::file("look at", &self.root))?;
        for dir in root.ancestors() {
            let mode = fs::metadata(dir)
                .map_err(Error::file("look at", dir))?
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

    /// Takes the lock of the home; held until the file is dropped.
    ///
    /// # Errors
    /// [`Error::Locked`] with the holder when another control plane runs.
    pub fn lock(&self) -> Result<File, Error> {
        let path = self.run().join("serve.lock");
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
            let lives = holder
                .parse()
                .is_ok_and(|pid| abbey_cells::identify(pid).is_some());
            // The threads of a killed holder let go one after the other.
            if lives || runtime::System.now() >= until {
                return Err(Error::Locked {
                    home: self.root.clone(),
                    holder,
                });
            }
            runtime::pause_thread(Duration::from_millis(10));
        }
        file.set_len(0)
            .and_then(|()| write!(file, "{}", std::process::id()))
            .map_err(Error::file("write", &path))?;
        Ok(file)
    }

    /// Key that signs checkpoints; made on the first start.
    ///
    /// # Errors
    /// When it can be neither read nor made.
    pub fn signing_key(&self) -> Result<[u8; 32], Error> {
        let path = self.root.join("signing.key");
        match fs::read(&path) {
            Ok(bytes) => bytes.try_into().map_err(|_| Error::Damaged {
                path,
                why: "it must have 32 bytes".to_owned(),
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let mut key = [0u8; 32];
                random(&mut key)?;
                publish(&path, &key, 0o600)?;
                Ok(key)
            }
            Err(e) => Err(Error::file("read", &path)(e)),
        }
    }

    /// The operator's credential; made on the first start.
    ///
    /// # Errors
    /// When it can be neither read nor made.
    pub fn operator_secret(&self) -> Result<Secret, Error> {
        let path = self.operator_token();
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Secret::new(text.trim())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let token = new_token("abbey_op_")?;
                publish(&path, token.expose().as_bytes(), 0o600)?;
                Ok(token)
            }
            Err(e) => Err(Error::file("read", &path)(e)),
        }
    }
}

fn chown(path: &Path, uid: u32, gid: u32) -> Result<(), Error> {
    std::os::unix::fs::lchown(path, Some(uid), Some(gid)).map_err(Error::file("hand over", path))
}

/// Whether a directory is there with exactly this mode and owner.
fn stands(dir: &Path, mode: u32, owner: Option<(u32, u32)>) -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::symlink_metadata(dir).is_ok_and(|m| {
        m.is_dir()
            && m.mode() & 0o7777 == mode
            && owner.is_none_or(|(uid, gid)| (m.uid(), m.gid()) == (uid, gid))
    })
}

/// Makes a directory with exactly this mode.
pub(crate) fn make_dir(dir: &Path, mode: u32) -> Result<(), Error> {
    fs::create_dir_all(dir).map_err(Error::file("make", dir))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(mode)).map_err(Error::file("protect", dir))
}

/// Publishes a file atomically, with exactly this mode.
pub(crate) fn publish(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    file::publish(path, bytes, mode, file::Sync::Content).map_err(Error::file("publish", path))
}

/// A fresh credential: 256 random bits after a prefix that redaction knows.
pub(crate) fn new_token(prefix: &str) -> Result<Secret, Error> {
    use base64::Engine;
    let mut bytes = [0u8; 32];
    random(&mut bytes)?;
    let text = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    Ok(Secret::new(format!("{prefix}{text}")))
}

fn random(bytes: &mut [u8]) -> Result<(), Error> {
    runtime::System.fill(bytes).map_err(|why| Error::Damaged {
        path: "/dev/urandom".into(),
        why,
    })
}

/// Owners whose files are below a directory.
pub(crate) fn slugs_in(dir: &Path) -> Result<std::collections::BTreeSet<abbey_model::Slug>, Error> {
    let entries = fs::read_dir(dir).map_err(Error::file("list", dir))?;
    Ok(entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .collect())
}
