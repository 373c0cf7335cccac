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
    /// Directory of the database cluster.
    pub(super) fn data_dir(&self) -> PathBuf {
        self.home.join("data")
    }
    /// Directory of the administrator's Unix socket.
    pub(super) fn socket_dir(&self) -> PathBuf {
        self.home.join("socket")
    }
    /// Directory of the database backups.
    pub(super) fn backups_dir(&self) -> PathBuf {
        self.home.join("backups")
    }
    /// Path of the server's TLS certificate.
    pub(super) fn certificate_file(&self) -> PathBuf {
        self.home.join("server.pem")
    }
    /// Path of the server's TLS private key.
    pub(super) fn key_file(&self) -> PathBuf {
        self.home.join("server.key")
    }

    /// Major version of PostgreSQL that created the database cluster; none if there is no cluster yet.
    pub(super) fn cluster_version(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.data_dir().join("PG_VERSION")).ok()?;
        Some(text.trim().to_owned())
    }

    /// Directory of PostgreSQL's programs in the version of the cluster, or in the newest version for a new
    /// cluster.
    pub(super) fn program_dir(&self) -> Result<PathBuf> {
        let wanted = self.cluster_version();
        let found = find_programs(wanted.as_deref());
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

/// Checks that PostgreSQL is installed on the host.
pub(crate) fn check_installed() -> Result<()> {
    find_programs(None).map(drop).ok_or_else(missing)
}

/// Directory of PostgreSQL's programs on this host: of this major version, or of the newest.
pub fn find_programs(version: Option<&str>) -> Option<PathBuf> {
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
