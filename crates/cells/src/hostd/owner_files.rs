//! Files of an owner as a whole: moved aside when it is removed, listed, brought back.

use super::HostdConfig;
use crate::files::CREDENTIAL;
use crate::files::store::{ensure_dir, file_error, open_dir, remove_file};
use crate::{Error, Result};
use abbey_model::{CellName, Slug};
use rustix::fs::CWD;
use std::path::Path;

/// An instant in a name, as it is written: a digit stands for any.
const STAMP: &str = "0000-00-00T00-00-00-000Z";

/// Moves the files of an owner to `HOME/removed/NAME-STAMP`. Nothing is deleted; does nothing if there are no
/// files.
pub(super) fn archive_owner_files(
    config: &HostdConfig,
    owner: &CellName,
    stamp: &str,
) -> Result<()> {
    let from = config.owner_dir(owner);
    if std::fs::symlink_metadata(&from).is_err() {
        return Ok(());
    }
    let removed = config.home.join("removed");
    ensure_dir(CWD, &removed, 0o700, (0, 0))?;
    let to = removed.join(format!("{}-{stamp}", owner.slug()));
    std::fs::rename(&from, &to).map_err(Error::file("archive", from))
}

/// Archived files of agents, as agent name and time stamp, oldest first.
pub(super) fn list_archives(config: &HostdConfig) -> Result<Vec<(Slug, String)>> {
    let removed = config.home.join("removed");
    let entries = match std::fs::read_dir(&removed) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::file("list", removed)(e)),
    };
    let archive = |name: String| {
        let (slug, stamp) = name.split_at_checked(name.len().checked_sub(STAMP.len() + 1)?)?;
        let stamp = stamp.strip_prefix('-')?;
        let instant = stamp
            .bytes()
            .zip(STAMP.bytes())
            .all(|(b, like)| match like {
                b'0' => b.is_ascii_digit(),
                like => b == like,
            });
        instant.then_some((slug.parse().ok()?, stamp.to_owned()))
    };
    let names = entries
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok());
    let mut all: Vec<(Slug, String)> = names.filter_map(archive).collect();
    all.sort_by(|a, b| a.1.cmp(&b.1));
    Ok(all)
}

/// Moves archived files of an agent back, without credentials, which were revoked when the agent was removed.
///
/// # Errors
/// If the agent has files now, or there is no such archive.
pub(super) fn restore_owner_files(
    config: &HostdConfig,
    owner: &CellName,
    stamp: &str,
) -> Result<()> {
    let to = config.owner_dir(owner);
    if std::fs::symlink_metadata(&to).is_ok() {
        return Err(Error::file("bring files back to", to)(
            std::io::ErrorKind::AlreadyExists.into(),
        ));
    }
    let from = config
        .home
        .join("removed")
        .join(format!("{}-{stamp}", owner.slug()));
    let dir = open_dir(CWD, &from)?;
    let mut gone = vec!["token".to_owned(), "key".to_owned()];
    let names = rustix::fs::Dir::read_from(&dir).map_err(file_error("list", &from))?;
    let of_services = names
        .flatten()
        .filter_map(|e| Some(e.file_name().to_str().ok()?.to_owned()));
    gone.extend(of_services.filter(|n| n.starts_with(CREDENTIAL)));
    for name in gone {
        remove_file(&dir, &name)?;
    }
    if let Ok(home) = open_dir(&dir, Path::new("home")) {
        remove_file(&home, "token")?;
        if let Ok(services) = open_dir(&home, Path::new("services")) {
            let names = rustix::fs::Dir::read_from(&services).map_err(file_error("list", &from))?;
            let plain =
                |e: &rustix::fs::DirEntry| e.file_type() == rustix::fs::FileType::RegularFile;
            for entry in names.flatten().filter(plain) {
                remove_file(&services, &entry.file_name().to_string_lossy())?;
            }
        }
    }
    std::fs::rename(&from, &to).map_err(Error::file("bring back", from))
}
