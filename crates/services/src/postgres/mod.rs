//! PostgreSQL in a cell: a database and a role for each consumer, and nobody else may connect to it (S1-17, S2-05).
//!
//! The server listens for consumers with TLS and passwords; whoever administers it comes by a Unix socket in the
//! service's own directory, as the one user of the cell, so there is no password of an administrator anywhere.

mod consumers;
mod server;

pub use server::serve;

use crate::ask::{Answer, Question};
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// The role that administers the server.
const ADMIN: &str = "abbey";
/// Where Debian keeps the programs of each version.
const VERSIONS: &str = "/usr/lib/postgresql";

/// Places in the service's directory.
struct Places {
    home: PathBuf,
}

impl Places {
    fn data(&self) -> PathBuf {
        self.home.join("data")
    }
    fn socket(&self) -> PathBuf {
        self.home.join("socket")
    }
    fn backups(&self) -> PathBuf {
        self.home.join("backups")
    }
    fn certificate(&self) -> PathBuf {
        self.home.join("server.pem")
    }
    fn key(&self) -> PathBuf {
        self.home.join("server.key")
    }

    /// The version of the data, once there are any.
    fn version(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.data().join("PG_VERSION")).ok()?;
        Some(text.trim().to_owned())
    }

    /// Where the programs are: of the version of the data, or the newest.
    fn programs(&self) -> Result<PathBuf> {
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

/// Answers the control plane.
pub(crate) fn answer(home: &Path, question: Question) -> Result<Answer> {
    consumers::answer(
        &Places {
            home: home.to_owned(),
        },
        question,
    )
}
