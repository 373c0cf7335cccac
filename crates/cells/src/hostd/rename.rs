//! Renaming of an owner on the host. Every step can be repeated, so a crash between them is repaired by the next call.

use super::HostdConfig;
use crate::allocation::Allocations;
use crate::{Error, Result};
use abbey_model::CellName;
use std::fs;
use std::io;
use std::path::PathBuf;

/// Checks that a renaming is allowed.
///
/// # Errors
/// Why it is not.
pub(super) fn check(
    config: &HostdConfig,
    allocations: &Allocations,
    owner: &CellName,
    to: &CellName,
) -> std::result::Result<(), String> {
    if !matches!((owner, to), (CellName::Agent(_), CellName::Agent(_))) || owner == to {
        return Err("only an agent can get another name".to_owned());
    }
    for cell in [owner, to] {
        if config.cell_records_dir().join(cell.to_string()).exists() {
            return Err(format!("{cell} still has a running cell; stop it first"));
        }
    }
    if allocations.owners.contains_key(owner) && allocations.owners.contains_key(to) {
        return Err(format!("{to} has an allocation of its own"));
    }
    if config.owner_dir(owner).exists() && config.owner_dir(to).exists() {
        return Err(format!("{to} has files of its own"));
    }
    Ok(())
}

/// Moves the files and logs of an owner to those of its new name. Logs that an earlier owner of that name left stay
/// where they are, and so do the logs of the old name then.
pub(super) fn move_files(config: &HostdConfig, owner: &CellName, to: &CellName) -> Result<()> {
    let logs = |cell: &CellName| config.home.join("logs").join(cell.to_string());
    if !logs(to).exists() {
        move_dir(logs(owner), logs(to))?;
    }
    move_dir(config.owner_dir(owner), config.owner_dir(to))
}

/// Renames a directory; does nothing if it is not there.
fn move_dir(from: PathBuf, to: PathBuf) -> Result<()> {
    match fs::rename(&from, &to) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::file("rename", from)(e)),
        _ => Ok(()),
    }
}
