//! Renaming of an owner on the host. Every step can be repeated, so a crash between them is repaired by the next call.

use super::HostdConfig;
use crate::allocation::Allocations;
use crate::{Error, Result, crash};
use abbey_model::CellName;
use abbey_support::beneath::DirHandle;
use std::io;

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
    // It was done before: a cell of the new name may run by now.
    if !is_present(config, allocations, owner) && is_present(config, allocations, to) {
        return Ok(());
    }
    for cell in [owner, to] {
        if config.is_live(cell) {
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

/// Whether an owner has an allocation, files or a cell.
fn is_present(config: &HostdConfig, allocations: &Allocations, owner: &CellName) -> bool {
    allocations.owners.contains_key(owner)
        || config.owner_dir(owner).exists()
        || config.is_live(owner)
}

/// Moves the files and logs of an owner to those of its new name. Logs that an earlier owner of that name left stay
/// where they are, and so do the logs of the old name then.
pub(super) fn move_files(config: &HostdConfig, owner: &CellName, to: &CellName) -> Result<()> {
    let home = config.open_home()?;
    if let Ok(logs) = home.open_dir("logs") {
        let (from, to) = (owner.to_string(), to.to_string());
        if matches!(logs.stat_entry(&to), Ok(None)) {
            move_entry(&logs, &from, &to).map_err(Error::file("rename", from))?;
        }
    }
    let (parent, name) = config.open_parent(owner)?;
    move_entry(&parent, name, to.slug().as_str())
        .map_err(Error::file("rename", config.owner_dir(owner)))?;
    crash::point("hostd.moved");
    Ok(())
}

/// Renames an entry of a directory; does nothing if it is not there.
fn move_entry(dir: &DirHandle, from: &str, to: &str) -> io::Result<()> {
    match dir.rename(from, dir, to) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
