//! Files of a single command: brought along, taken along, deleted. Before its cell starts only we
//! write there; afterwards nothing is reached by following a link.

use super::HostdConfig;
use crate::files::archive::{BYTES_MAX, invalid_archive, pack_unfinished, unpack_archive};
use crate::{Error, Result};
use abbey_model::CellName;
use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Unpacks a tar archive into the directory of a command (`abbey run`), owned by `uid`, before its cell starts.
pub(super) fn unpack_command_files(
    config: &HostdConfig,
    owner: &CellName,
    uid: Option<u32>,
    archive: OwnedFd,
) -> Result<()> {
    let dir = config.owner_dir(owner);
    unpack_archive(&dir, uid, File::from(archive)).map_err(Error::file("unpack into", &dir))
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
    let dir = config.owner_dir(owner);
    let archive = pack_unfinished(&dir, paths, to)?;
    let end = archive
        .into_inner()
        .and_then(|mut file| match file.stream_position()? > BYTES_MAX {
            true => Err(invalid_archive("it exceeds 256 MiB")),
            false => file.flush(),
        });
    end.map_err(Error::file("take along from", dir))
}

/// Deletes the directory and the log of a command that has ended. Succeeds if there are none.
pub(super) fn delete_command_files(config: &HostdConfig, owner: &CellName) -> Result<()> {
    let log = config.home.join("logs").join(owner.to_string());
    for dir in [config.owner_dir(owner), log] {
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(Error::file("remove", dir)(e));
            }
            _ => {}
        }
    }
    Ok(())
}
