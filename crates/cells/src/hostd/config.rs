//! What hostd knows from its start on.

use super::checkpoints::checkpoint_file;
use crate::sys::accounts;
use crate::{Error, Result, allocation};
use abbey_model::CellName;
use abbey_support::beneath::DirHandle;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The user whom the control plane becomes where the system has one.
pub(super) const USER: &str = "abbey";
/// Mode of hostd's own directory.
pub(super) const HOSTD_DIR_MODE: u32 = 0o2750;
/// Configuration of hostd, fixed at its start; nothing of it comes from a caller.
#[derive(Debug, Clone)]
pub struct HostdConfig {
    /// Directory of the house, `ABBEY_HOME`.
    pub home: PathBuf,
    /// Name of the house's control groups.
    pub group: String,
    /// User id of the control plane.
    pub serve_uid: u32,
    /// Whether this process runs as root.
    pub privileged: bool,
}

/// Name of the control groups of the house in `home`, derived from the canonical path, so that houses on one host don't
/// share it.
pub fn control_group_of(home: &Path) -> String {
    let path = home.canonicalize().unwrap_or_else(|_| home.to_owned());
    let digest = abbey_support::digest::sha256_hex(path.as_os_str().as_encoded_bytes());
    format!("abbey-{}", &digest[..12])
}

impl HostdConfig {
    /// Directory of hostd's own files: `HOME/hostd`.
    pub fn hostd_dir(&self) -> PathBuf {
        self.home.join("hostd")
    }
    /// Directory of the records of cells: `HOME/run/cells`.
    pub fn cell_records_dir(&self) -> PathBuf {
        self.home.join("run/cells")
    }
    /// Directory of the images of microVMs: `HOME/images`.
    pub fn images_dir(&self) -> PathBuf {
        self.home.join("images")
    }
    /// Path of hostd's socket in a house's directory: `HOME/run/hostd.sock`.
    pub fn socket_path(home: &Path) -> PathBuf {
        home.join("run/hostd.sock")
    }
    /// Path of the file that the hostd of the house in `home` holds locked while it runs: `HOME/hostd/hostd.lock`.
    pub(super) fn lock_path(home: &Path) -> PathBuf {
        home.join("hostd/hostd.lock")
    }
    /// The house's directory, opened; everything that hostd does with files of others begins there.
    ///
    /// # Errors
    /// If it is missing, or belongs to another user than this process.
    pub(super) fn open_home(&self) -> Result<DirHandle> {
        DirHandle::open_own(&self.home).map_err(Error::file("open", &self.home))
    }
    /// Directory in which owners of this kind have theirs, opened, and the name of this owner's in it.
    ///
    /// # Errors
    /// As [`HostdConfig::open_home`].
    pub(super) fn open_parent<'o>(&self, owner: &'o CellName) -> Result<(DirHandle, &'o str)> {
        let kind = kind_dir(owner);
        let parent = self
            .open_home()?
            .open_dir(kind)
            .map_err(Error::file("open", self.home.join(kind)))?;
        Ok((parent, owner.slug().as_str()))
    }
    /// Directory of an owner's files, opened without following a link.
    ///
    /// # Errors
    /// As [`HostdConfig::open_home`], and if the owner has no directory.
    pub(super) fn open_owner_dir(&self, owner: &CellName) -> Result<DirHandle> {
        let (parent, name) = self.open_parent(owner)?;
        parent
            .open_dir(name)
            .map_err(Error::file("open", self.owner_dir(owner)))
    }
    /// Whether a cell of this owner has records, so that its programs may be running.
    pub(super) fn is_live(&self, owner: &CellName) -> bool {
        fs::symlink_metadata(self.cell_records_dir().join(owner.to_string())).is_ok()
    }
    /// Directory of an owner's files: `HOME/agents/NAME`, `HOME/services/NAME` or `HOME/runs/NAME`.
    pub(super) fn owner_dir(&self, owner: &CellName) -> PathBuf {
        self.home.join(kind_dir(owner)).join(owner.slug().as_str())
    }
}

fn kind_dir(owner: &CellName) -> &'static str {
    match owner {
        CellName::Agent(_) => "agents",
        CellName::Service(_) => "services",
        CellName::Run(_) => "runs",
    }
}

impl HostdConfig {
    /// Configuration of hostd for the house in `home`, run by the current user. Creates hostd's directory if it is
    /// missing.
    ///
    /// # Errors
    /// When it cannot be made or is damaged.
    pub fn for_house(home: &Path, group: String) -> Result<HostdConfig> {
        let euid = rustix::process::geteuid();
        let mut config = HostdConfig {
            home: home.to_owned(),
            group,
            serve_uid: euid.as_raw(),
            privileged: euid.is_root(),
        };
        config.open_home()?;
        let dir = config.hostd_dir();
        fs::create_dir_all(&dir).map_err(Error::file("make", &dir))?;
        if config.privileged {
            let first = allocation::lock_allocations(&dir)?.allocations.uid_first;
            config.serve_uid = accounts::find_account(|a| a.name == USER).map_or(first, |a| a.uid);
            // The control plane reads the journal.
            std::os::unix::fs::chown(&dir, Some(0), Some(config.serve_uid))
                .map_err(Error::file("hand over", &dir))?;
            // It reads the checkpoints too, also those that came with a backup of a house with another user.
            match std::os::unix::fs::lchown(checkpoint_file(&dir), Some(0), Some(config.serve_uid))
            {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::file("hand over", checkpoint_file(&dir))(e));
                }
                _ => {}
            }
        }
        fs::set_permissions(&dir, fs::Permissions::from_mode(HOSTD_DIR_MODE))
            .map_err(Error::file("protect", &dir))?;
        Ok(config)
    }
}
