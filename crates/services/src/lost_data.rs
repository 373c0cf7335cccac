//! Data of a service that was lost is not replaced by nothing, and data of one kind of service is not served by another.

use crate::{Error, Result};
use abbey_support::{file, service_data};
use std::fs;
use std::io;
use std::path::Path;

/// Checks that the service in `home` has its data directory or never had data.
///
/// # Errors
/// [`Error::Missing`] with the remedies.
pub(crate) fn check_data_not_lost(home: &Path) -> Result<()> {
    let data = home.join(service_data::DIRECTORY);
    match !had_data(home) || data.exists() {
        true => Ok(()),
        false => Err(Error::Missing {
            what: "the directory `data` of this service",
            remedy:
                "put it back or restore a backup; `abbey doctor` says how to begin anew without it"
                    .to_owned(),
        }),
    }
}

/// Makes the data directory of a service in `home` that never had data.
///
/// # Errors
/// As [`check_data_not_lost`], and if it can't be made.
pub(crate) fn make_data_dir(home: &Path) -> Result<()> {
    if had_data(home) {
        return check_data_not_lost(home);
    }
    let data = home.join(service_data::DIRECTORY);
    match fs::create_dir(&data) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(Error::file("make", data)(e)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Whether the service in `home` ever had data.
fn had_data(home: &Path) -> bool {
    let mut marks = service_data::MARKS.iter();
    marks.any(|mark| home.join(mark).exists())
}

/// Checks that the data of the service in `home`, if there is any, is of this kind.
///
/// # Errors
/// [`Error::OtherKind`] if it is not: another kind would give it to other agents.
pub(crate) fn check_kind(home: &Path, kind: &str) -> Result<()> {
    let found = match fs::read_to_string(home.join(service_data::KIND)) {
        Ok(found) => Some(found.trim().to_owned()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => guess_kind(home, kind),
        Err(e) => return Err(Error::file("read", home.join(service_data::KIND))(e)),
    };
    match found.filter(|found| found != kind) {
        None => Ok(()),
        Some(found) => Err(Error::OtherKind {
            kind: kind.to_owned(),
            found,
        }),
    }
}

/// Notes that the data is of this kind.
///
/// # Errors
/// As [`check_kind`], and if it cannot be written.
pub(crate) fn claim_data(home: &Path, kind: &str) -> Result<()> {
    check_kind(home, kind)?;
    let path = home.join(service_data::KIND);
    if path.exists() {
        return Ok(());
    }
    file::publish(&path, kind, 0o600, file::Sync::Content).map_err(Error::file("write", path))
}

/// Kind of data that says nothing of itself, as releases before wrote it and programs of the manifest's may; none if nothing speaks
/// against `kind`.
fn guess_kind(home: &Path, kind: &str) -> Option<String> {
    let data = home.join(service_data::DIRECTORY);
    let entries = |dir: &Path| {
        fs::read_dir(dir)
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path())
    };
    let _some = entries(&data).next()?;
    let is_repository = |path: &Path| path.join("HEAD").is_file() && path.join("objects").is_dir();
    let found = if data.join("PG_VERSION").is_file() {
        "postgres"
    } else if !home.join("consumers.json").is_file() {
        "unknown"
    } else if entries(&data).any(|place| entries(&place).any(|path| is_repository(&path))) {
        "git"
    } else if kind == "postgres" {
        "unknown"
    } else {
        kind
    };
    Some(found.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_of_one_kind_is_not_served_by_another() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path();
        let make = |path: &str, text: &str| {
            let path = home.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let refused = |kind: &str| match check_kind(home, kind) {
            Ok(()) => None,
            Err(Error::OtherKind { found, .. }) => Some(found),
            Err(other) => panic!("{other}"),
        };
        assert_eq!(refused("site"), None);
        // What a program of the manifest's left is nobody's.
        make("data/notes", "secret");
        for kind in ["postgres", "git", "site"] {
            assert_eq!(refused(kind).as_deref(), Some("unknown"), "{kind}");
        }
        // Data of the releases before.
        make("consumers.json", "{}");
        assert_eq!((refused("site"), refused("git")), (None, None));
        assert_eq!(refused("postgres").as_deref(), Some("unknown"));
        make("data/iris/r.git/HEAD", "ref: refs/heads/main");
        fs::create_dir(home.join("data/iris/r.git/objects")).unwrap();
        assert_eq!(refused("git"), None);
        assert_eq!(refused("site").as_deref(), Some("git"));
        claim_data(home, "git").unwrap();
        claim_data(home, "git").unwrap();
        fs::remove_dir_all(home.join("data")).unwrap();
        make("data/PG_VERSION", "17");
        assert_eq!(refused("postgres").as_deref(), Some("git"));
        fs::remove_file(home.join("kind")).unwrap();
        assert_eq!(refused("postgres"), None);
        assert_eq!(refused("site").as_deref(), Some("postgres"));
    }
}
