//! Where PostgreSQL's programs and data are.

use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// The role that administers the server.
pub(super) const ADMIN: &str = "abbey";
/// Where Debian keeps the programs of each version.
const VERSIONS: &str = "/usr/lib/postgresql";

/// Paths in the service's directory.
pub(super) struct PostgresPaths {
    pub(super) home: PathBuf,
}

impl PostgresPaths {
    pub(super) fn data(&self) -> PathBuf {
        self.home.join("data")
    }
    pub(super) fn socket(&self) -> PathBuf {
        self.home.join("socket")
    }
    pub(super) fn backups(&self) -> PathBuf {
        self.home.join("backups")
    }
    pub(super) fn certificate(&self) -> PathBuf {
        self.home.join("server.pem")
    }
    pub(super) fn key(&self) -> PathBuf {
        self.home.join("server.key")
    }

    /// The version of the data, once there are any.
    pub(super) fn version(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.data().join("PG_VERSION")).ok()?;
        Some(text.trim().to_owned())
    }

    /// Where the programs are: of the version of the data, or the newest.
    pub(super) fn programs(&self) -> Result<PathBuf> {
        let wanted = self.version();
        let found = programs(wanted.as_deref());
        found.ok_or_else(|| match wanted {
            Some(version) => Error::Missing {
                what: "the PostgreSQL that wrote these databases",
                remedy: format!("install version {version} (on Debian: postgresql-{version}), or restore a backup into another"),
            },
            None => missing(),
        })
    }
}

fn missing() -> Error {
    Error::Missing {
        what: "PostgreSQL",
        remedy: "install it on the host (on Debian: postgresql)".to_owned(),
    }
}

/// Whether the host has any PostgreSQL.
pub(crate) fn found() -> Result<()> {
    programs(None).map(drop).ok_or_else(missing)
}

/// The directory of PostgreSQL's programs: of this version, or the newest that there is.
pub fn programs(version: Option<&str>) -> Option<PathBuf> {
    let number = |path: &Path| -> Option<u32> { path.file_name()?.to_str()?.parse().ok() };
    let mut kept: Vec<(u32, PathBuf)> = std::fs::read_dir(VERSIONS)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| Some((number(&e.path())?, e.path().join("bin"))))
        .filter(|(n, bin)| version.is_none_or(|v| v == n.to_string()) && bin.join("psql").is_file())
        .collect();
    kept.sort();
    if let Some((_, newest)) = kept.pop() {
        return Some(newest);
    }
    // Elsewhere there is one version, and its programs are where all are.
    let found = ["/usr/local/bin", "/usr/bin", "/bin"].map(PathBuf::from);
    found.into_iter().find(|d| d.join("postgres").is_file())
}
