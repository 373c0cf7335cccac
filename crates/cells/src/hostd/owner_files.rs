//! Files of an owner as a whole: moved aside when it is removed, listed, brought back.

use super::HostdConfig;
use crate::files::CREDENTIAL;
use crate::files::archive::DISKS;
use crate::files::store::{ensure_dir, remove_file};
use crate::files::tree::unpack_tree;
use crate::{Error, Result, crash};
use abbey_model::{CellName, Slug};
use abbey_support::beneath::DirHandle;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

/// An instant in a name, as it is written: a digit stands for any.
const STAMP: &str = "0000-00-00T00-00-00-000Z";

/// Directory of an agent's logs among its archived files.
const ARCHIVED_LOGS: &str = "logs";

/// Directory of archived files. Others can create entries beside it, so it is used only if it is ours.
fn open_removed(config: &HostdConfig) -> Result<DirHandle> {
    ensure_dir(&config.open_home()?, "removed", 0o700, (0, 0))
}

/// Moves the logs of an agent from one directory to the other, if they are in the one and not in the other.
fn move_logs(from: (&DirHandle, &str), to: (&DirHandle, &str)) -> Result<()> {
    let failed = || Error::file("move the logs of", from.1);
    let there = to.0.stat_entry(to.1).map_err(failed())?;
    match from.0.stat_entry(from.1).map_err(failed())? {
        Some(_) if there.is_none() => from.0.rename(from.1, to.0, to.1).map_err(failed()),
        _ => Ok(()),
    }
}

fn open_logs(config: &HostdConfig) -> Result<DirHandle> {
    let home = config.open_home()?;
    home.open_dir("logs")
        .map_err(Error::file("open", config.home.join("logs")))
}

/// Moves the files of an owner to `HOME/removed/NAME-STAMP`, those of an agent with its logs. Nothing is deleted; does
/// nothing if there are no files.
pub(super) fn archive_owner_files(
    config: &HostdConfig,
    owner: &CellName,
    stamp: &str,
) -> Result<()> {
    let (parent, name) = config.open_parent(owner)?;
    let failed = || Error::file("archive", config.owner_dir(owner));
    if parent.stat_entry(name).map_err(failed())?.is_none() {
        return Ok(());
    }
    // Only hostd makes entries beside the home and the workspace of an agent. What is no directory goes away alone.
    if matches!(owner, CellName::Agent(_))
        && let Ok(files) = config.open_owner_dir(owner)
    {
        move_logs(
            (&open_logs(config)?, &owner.to_string()),
            (&files, ARCHIVED_LOGS),
        )?;
    }
    let to = format!("{name}-{stamp}");
    parent
        .rename(name, &open_removed(config)?, &to)
        .map_err(failed())?;
    let files = config.home.join("removed").join(&to);
    for dir in [DISKS, "drives"] {
        super::disks::give_unused_space_back(&files.join(dir));
    }
    Ok(())
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
    let (parent, name) = config.open_parent(owner)?;
    let failed = |what| Error::file(what, config.owner_dir(owner));
    if parent
        .stat_entry(name)
        .map_err(failed("bring files back to"))?
        .is_some()
    {
        return Err(failed("bring files back to")(
            std::io::ErrorKind::AlreadyExists.into(),
        ));
    }
    let removed = open_removed(config)?;
    let from = format!("{name}-{stamp}");
    let dir = removed
        .open_dir(&from)
        .map_err(Error::file("open", config.home.join("removed").join(&from)))?;
    let named = |dir: &DirHandle| {
        let names = dir.names().map_err(Error::file("list", &from))?;
        let texts = names.into_iter().filter_map(|n| n.into_string().ok());
        Ok::<Vec<String>, Error>(texts.collect())
    };
    let mut gone = vec!["token".to_owned(), "key".to_owned()];
    gone.extend(
        named(&dir)?
            .into_iter()
            .filter(|n| n.starts_with(CREDENTIAL)),
    );
    for name in gone {
        remove_file(&dir, &name)?;
    }
    if let Ok(home) = dir.open_dir("home") {
        remove_file(&home, "token")?;
        if let Ok(services) = home.open_dir("services") {
            for name in named(&services)? {
                services
                    .remove_tree(&name)
                    .map_err(Error::file("remove", name))?;
            }
        }
    }
    move_logs(
        (&dir, ARCHIVED_LOGS),
        (&open_logs(config)?, &owner.to_string()),
    )?;
    removed
        .rename(&from, &parent, name)
        .map_err(failed("bring back"))
}

/// Gives an agent without an allocation the home and workspace in a tar archive, whole or not at all. They belong to the
/// control plane's user until the agent gets one.
///
/// # Errors
/// If the agent has files now, an entry leads out, or the files cannot be written; then nothing of the archive is left.
pub(super) fn fill_owner_files(
    config: &HostdConfig,
    owner: &CellName,
    archive: OwnedFd,
) -> Result<()> {
    let (parent, name) = config.open_parent(owner)?;
    let removed = open_removed(config)?;
    let scratch = format!(".{name}.new");
    let failed = |what| Error::file(what, config.owner_dir(owner));
    // What a crash left.
    removed.remove_tree(&scratch).map_err(failed("prepare"))?;
    let ids = match config.privileged {
        true => (config.serve_uid, config.serve_uid),
        false => (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        ),
    };
    let filled = ensure_dir(&removed, &scratch, 0o711, (0, 0)).and_then(|dir| {
        for place in ["home", "workspace"] {
            dir.ensure_dir(place, 0o700, ids)
                .map_err(failed("prepare"))?;
        }
        let within = |path: &Path| path.starts_with("home") || path.starts_with("workspace");
        unpack_tree(&dir, ids, File::from(archive), within).map_err(failed("fill"))
    });
    if let Err(error) = filled {
        let _swept_by_the_next = removed.remove_tree(&scratch);
        return Err(error);
    }
    crash::point("hostd.filled");
    removed
        .rename(&scratch, &parent, name)
        .map_err(failed("fill"))
}
