//! Files of an owner as a whole: moved aside when it is removed, listed, brought back.

use super::HostdConfig;
use crate::files::CREDENTIAL;
use crate::files::store::{broken, make, open_dir, remove};
use crate::{Error, Result};
use abbey_model::{CellName, Slug};
use rustix::fs::CWD;
use std::path::Path;

/// An instant in a name, as it is written: a digit stands for any.
const STAMP: &str = "0000-00-00T00-00-00-000Z";

/// Moves an owner's files aside; nothing of an agent is deleted by the house.
pub(super) fn archive(config: &HostdConfig, owner: &CellName, stamp: &str) -> Result<()> {
    let from = config.dir_of(owner);
    if std::fs::symlink_metadata(&from).is_err() {
        return Ok(());
    }
    let removed = config.home.join("removed");
    make(CWD, &removed, 0o700, (0, 0))?;
    let to = removed.join(format!("{}-{stamp}", owner.slug()));
    std::fs::rename(&from, &to).map_err(Error::file("move aside", from))
}

/// What lies aside of agents' files: whose and when, oldest first.
pub(super) fn archives(config: &HostdConfig) -> Result<Vec<(Slug, String)>> {
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

/// Brings files back that were moved aside. Credentials stay away: they were taken back when their agent went.
pub(super) fn restore(config: &HostdConfig, owner: &CellName, stamp: &str) -> Result<()> {
    let to = config.dir_of(owner);
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
    let names = rustix::fs::Dir::read_from(&dir).map_err(broken("list", &from))?;
    let of_services = names
        .flatten()
        .filter_map(|e| Some(e.file_name().to_str().ok()?.to_owned()));
    gone.extend(of_services.filter(|n| n.starts_with(CREDENTIAL)));
    for name in gone {
        remove(&dir, &name)?;
    }
    if let Ok(home) = open_dir(&dir, Path::new("home")) {
        remove(&home, "token")?;
        if let Ok(services) = open_dir(&home, Path::new("services")) {
            let names = rustix::fs::Dir::read_from(&services).map_err(broken("list", &from))?;
            let plain =
                |e: &rustix::fs::DirEntry| e.file_type() == rustix::fs::FileType::RegularFile;
            for entry in names.flatten().filter(plain) {
                remove(&services, &entry.file_name().to_string_lossy())?;
            }
        }
    }
    std::fs::rename(&from, &to).map_err(Error::file("bring back", from))
}
