//! Files of a single command: brought along, taken along, deleted. Before its cell starts only we
//! write there; afterwards nothing is reached by following a link.

use super::HostdConfig;
use crate::files::archive::{BYTES_MAX, invalid, pack_into, unpack};
use crate::{Error, Result};
use abbey_model::CellName;
use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Unpacks an archive of directories and files into the directory of `owner`, for its user.
pub(super) fn stage(
    config: &HostdConfig,
    owner: &CellName,
    uid: Option<u32>,
    archive: OwnedFd,
) -> Result<()> {
    let dir = config.dir_of(owner);
    unpack(&dir, uid, File::from(archive)).map_err(Error::file("unpack into", &dir))
}

/// Packs files and directories of `owner`; what is not there, or is no file, is an error.
pub(super) fn collect(
    config: &HostdConfig,
    owner: &CellName,
    paths: &[PathBuf],
    to: OwnedFd,
) -> Result<()> {
    let dir = config.dir_of(owner);
    let archive = pack_into(&dir, paths, to)?;
    let end = archive
        .into_inner()
        .and_then(|mut file| match file.stream_position()? > BYTES_MAX {
            true => Err(invalid("it is more than can be taken along")),
            false => file.flush(),
        });
    end.map_err(Error::file("take along from", dir))
}

/// Deletes the directory and the log of a command; nothing runs in it any more.
pub(super) fn discard(config: &HostdConfig, owner: &CellName) -> Result<()> {
    let log = config.home.join("logs").join(owner.to_string());
    for dir in [config.dir_of(owner), log] {
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(Error::file("remove", dir)(e));
            }
            _ => {}
        }
    }
    Ok(())
}
