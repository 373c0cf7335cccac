//! Agents' files in one archive, each opened beneath its directory.

use super::{HostdConfig, guest};
use crate::allocation::Allocations;
use crate::files::archive::{EXCLUDED, LEFT_OUT, UNLOADED, add_directory, is_credential};
use crate::files::store::ensure_dir;
use crate::microvm::drives;
use crate::{Error, Result};
use abbey_model::{CellName, Slug};
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Component, Path, PathBuf};

/// Most that a guest may send of its files, bytes.
const GUEST_MAX: u64 = 64 << 30;
/// Writes a tar archive of all agents' files and the allocations, or of the files of agent `one` alone, to `to`.
/// The archive is left unfinished: the caller writes its end.
pub(super) fn pack_agents(
    config: &HostdConfig,
    allocations: &Allocations,
    one: Option<&Slug>,
    to: OwnedFd,
) -> Result<()> {
    let wanted = |owner: &CellName| match (owner, one) {
        (CellName::Agent(slug), Some(one)) => slug == one,
        (CellName::Agent(_), None) => true,
        (CellName::Service(_) | CellName::Run(_), _) => false,
    };
    let owners = || allocations.owners.iter().filter(|(owner, _)| wanted(owner));
    for (owner, allocation) in owners() {
        if let Some(disks) = allocation.disks {
            super::disks::mount_owner_disks(config, owner, disks)?;
        }
    }
    let home = config.open_home()?;
    let mut archive = tar::Builder::new(File::from(to));
    let mut name = PathBuf::from("agents");
    name.extend(one.map(Slug::as_str));
    let agents = &config.home.join(&name);
    let dir = home.open_dir(&name).map_err(Error::file("open", agents))?;
    let depth = usize::from(one.is_some());
    add_directory(&mut archive, &dir, &name, depth).map_err(Error::file("pack", agents))?;
    for (owner, allocation) in owners() {
        if config.owner_dir(owner).join("drives").exists() {
            microvm(config, owner, allocation.uid, &mut archive)?;
        }
    }
    if one.is_none() {
        let allocations = Path::new("hostd/claims.json");
        home.open_file(allocations)
            .and_then(|mut file| archive.append_file(allocations, &mut file))
            .map_err(Error::file("pack", allocations))?;
    }
    // Dropping it would write the end.
    std::mem::forget(archive);
    Ok(())
}

/// What is on the drives of a microVM: its guest tells while it runs; else programs of its user's look.
/// Later entries of an archive count, so these come after what its directory holds beside them.
fn microvm(
    config: &HostdConfig,
    owner: &CellName,
    uid: Option<u32>,
    archive: &mut tar::Builder<File>,
) -> Result<()> {
    let name = Path::new("agents").join(owner.slug().as_str());
    if guest::is_running_microvm(&config.cell_records_dir(), owner)? {
        let stream = guest::pack_guest_files(config, owner)?;
        return copy(stream, &name, uid, archive).map_err(Error::file("pack", name));
    }
    let (files, staging) = (
        config.owner_dir(owner),
        config.owner_dir(owner).join(UNLOADED),
    );
    let handle = config.open_owner_dir(owner)?;
    let failed = |what| Error::file(what, &staging);
    // What a crash left.
    handle.remove_tree(UNLOADED).map_err(failed("remove"))?;
    let dir = ensure_dir(&handle, UNLOADED, 0o711, (0, 0))?;
    let packed = drives::extract_drive_files(owner, &files, &staging, uid)
        .and_then(|()| add_directory(archive, &dir, &name, 0).map_err(failed("pack")));
    let _swept_with_the_house = handle.remove_tree(UNLOADED);
    packed
}

/// Entries that a guest sends, under names and owners of ours.
fn copy(
    stream: UnixStream,
    name: &Path,
    uid: Option<u32>,
    archive: &mut tar::Builder<File>,
) -> std::io::Result<()> {
    let mut from = tar::Archive::new(stream.take(GUEST_MAX));
    for entry in from.entries()? {
        let entry = entry?;
        let path = entry.path()?.into_owned();
        let plain = path.components().all(|c| matches!(c, Component::Normal(_)));
        let kind = entry.header().entry_type();
        let last = path.file_name().unwrap_or_default();
        let wanted = (kind.is_file() || kind.is_dir())
            && !EXCLUDED.iter().any(|e| *e == last)
            && !path.iter().any(|p| LEFT_OUT.iter().any(|l| *l == p));
        if !plain || !wanted || is_credential(&name.join(&path)) {
            continue;
        }
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(entry.size());
        header.set_mode(entry.header().mode()? & 0o777);
        header.set_mtime(entry.header().mtime()?);
        let owner = match entry.header().uid()? {
            0 => 0,
            _ => uid
                .unwrap_or_else(|| rustix::process::geteuid().as_raw())
                .into(),
        };
        header.set_uid(owner);
        header.set_gid(owner);
        archive.append_data(&mut header, name.join(&path), entry)?;
    }
    Ok(())
}
