//! What hostd knows from its start on.

use super::checkpoints::checkpoint_file;
use crate::sys::accounts;
use crate::{Error, Result, allocation};
use abbey_model::CellName;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The user whom the control plane becomes where the system has one.
const USER: &str = "abbey";
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
    /// Directory of an owner's files: `HOME/agents/NAME`, `HOME/services/NAME` or `HOME/runs/NAME`.
    pub(super) fn owner_dir(&self, owner: &CellName) -> PathBuf {
        let kind = match owner {
            CellName::Agent(_) => "agents",
            CellName::Service(_) => "services",
            CellName::Run(_) => "runs",
        };
        self.home.join(kind).join(owner.slug().as_str())
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
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o2750))
            .map_err(Error::file("protect", &dir))?;
        Ok(config)
    }
}
