//! Files of a single command: brought along, taken along, deleted. Everything is done beneath the command's directory,
//! which its program can change; before its cell starts only we write there.

use super::HostdConfig;
use crate::files::archive::{
    ArchivedLinks, BYTES_MAX, invalid_archive, pack_unfinished, unpack_archive,
};
use crate::{Error, Result};
use abbey_model::CellName;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Unpacks a tar archive into the directory of a command (`abbey run`), owned by `uid`, before its cell starts.
pub(super) fn unpack_command_files(
    config: &HostdConfig,
    owner: &CellName,
    uid: Option<u32>,
    archive: OwnedFd,
) -> Result<()> {
    let dir = config.open_owner_dir(owner)?;
    unpack_archive(&dir, uid, ArchivedLinks::Refused, File::from(archive))
        .map_err(Error::file("unpack into", config.owner_dir(owner)))
}

/// Writes a tar archive of `paths` below a command's directory to `to`.
///
/// # Errors
/// If a path does not exist or is neither file nor directory, or the archive exceeds 256 MiB.
pub(super) fn pack_command_files(
    config: &HostdConfig,
    owner: &CellName,
    paths: &[PathBuf],
    to: OwnedFd,
) -> Result<()> {
    let archive = pack_unfinished(&config.open_owner_dir(owner)?, paths, to)?;
    let end = archive
        .into_inner()
        .and_then(|mut file| match file.stream_position()? > BYTES_MAX {
            true => Err(invalid_archive("it exceeds 256 MiB")),
            false => file.flush(),
        });
    end.map_err(Error::file("take along from", config.owner_dir(owner)))
}

/// Deletes the directory and the log of a command that has ended. Succeeds if there are none.
pub(super) fn delete_command_files(config: &HostdConfig, owner: &CellName) -> Result<()> {
    let logs = config
        .open_home()?
        .open_dir("logs")
        .map_err(Error::file("open", config.home.join("logs")))?;
    let (runs, name) = config.open_parent(owner)?;
    runs.remove_tree(name)
        .map_err(Error::file("remove", config.owner_dir(owner)))?;
    let log = owner.to_string();
    logs.remove_tree(&log)
        .map_err(Error::file("remove", config.home.join("logs").join(&log)))
}
