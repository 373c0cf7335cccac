//! Files of agents and services in one archive, each opened beneath its directory.

use super::host_facts::size_on_disk;
use super::{HostdConfig, disks, guest};
use crate::allocation::Allocations;
use crate::files::archive::{DISKS, UNLOADED};
use crate::files::guarded::GuardedFile;
use crate::files::store::ensure_dir;
use crate::files::tree::{
    LeftOut, TreePacker, is_left_out_beside_drives, is_left_out_of_agent, is_link_within,
};
use crate::microvm::drives;
use crate::{Error, Result};
use abbey_model::{Bytes, CellName, Slug};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Component, Path, PathBuf};

/// Most that a guest may send of its files, bytes.
const GUEST_MAX: u64 = 64 << 30;

/// What to pack.
#[derive(Debug, Clone, Copy)]
pub(super) struct PackScope<'a> {
    /// Only this agent; none for every agent and the allocations.
    pub(super) one: Option<&'a Slug>,
    /// Also the files of services.
    pub(super) services: bool,
}

impl PackScope<'_> {
    fn holds(&self, owner: &CellName) -> bool {
        match owner {
            CellName::Agent(slug) => self.one.is_none_or(|one| one == slug),
            CellName::Service(_) => self.services && self.one.is_none(),
            CellName::Run(_) => false,
        }
    }
}

/// What did not get into an archive.
#[derive(Debug)]
pub(super) struct Packed {
    /// What cannot be carried, one line for each path.
    pub(super) left_out: Vec<String>,
    /// Agents and services of which files that they have are missing, each with the reason.
    pub(super) incomplete: Vec<String>,
}

/// Writes a tar archive of the files of agents and services, and of the allocations, to `to`. The archive is left
/// unfinished: the caller writes its end. Ends with an error once `caller`, the connection of who asked, is closed or
/// the disk is nearly full.
pub(super) fn pack_owners(
    config: &HostdConfig,
    allocations: &Allocations,
    scope: PackScope<'_>,
    to: OwnedFd,
    caller: &UnixStream,
) -> Result<Packed> {
    pack_into(config, allocations, scope, to, caller).map_err(|error| match &error {
        Error::File { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            let owners = allocations.owners.keys().filter(|owner| scope.holds(owner));
            let sizes = owners.filter_map(|owner| size_on_disk(&config.owner_dir(owner)));
            let needed = sizes.fold(0_u64, |sum, size| sum.saturating_add(size.0));
            Error::Hostd {
                op: "pack files",
                why: format!(
                    "their working copy needs about {} on the file system of the home `{}`: {source}",
                    Bytes(needed).human(),
                    config.home.display()
                ),
            }
        }
        _ => error,
    })
}

fn pack_into(
    config: &HostdConfig,
    allocations: &Allocations,
    scope: PackScope<'_>,
    to: OwnedFd,
    caller: &UnixStream,
) -> Result<Packed> {
    let owners = || {
        allocations
            .owners
            .iter()
            .filter(|(owner, _)| scope.holds(owner))
    };
    // Before the home is opened, so that it is seen with what is mounted.
    let (mut unusable, mut incomplete) = (BTreeMap::new(), Vec::new());
    for (owner, _) in owners() {
        if disks::has_unused_disks(config, allocations, owner) {
            incomplete.push(format!(
                "{}: the files on its drives in `{}` are not packed, since its manifest entry names no `drives` and it uses the files beside them; name its `drives` again, or move that directory to another place",
                owner.owner(),
                config.owner_dir(owner).join(DISKS).display()
            ));
        }
        match disks::mount_existing_disks_of(config, allocations, owner) {
            // The others are packed all the same.
            Err(error) if scope.one.is_none() => drop(unusable.insert(owner, error.to_string())),
            mounted => mounted?,
        }
    }
    let home = config.open_home()?;
    let to = GuardedFile::new(File::from(to), caller.as_fd());
    let mut archive = tar::Builder::new(to.map_err(Error::file("write", "an archive"))?);
    let mut left_out = LeftOut::default();
    for (owner, allocation) in owners() {
        let files = config.owner_dir(owner);
        let (name, skip): (_, fn(&Path) -> bool) = match owner {
            CellName::Agent(slug) => (
                Path::new("agents").join(slug.as_str()),
                match files.join("drives/workspace.ext4").exists() {
                    true => is_left_out_beside_drives,
                    false => is_left_out_of_agent,
                },
            ),
            CellName::Service(slug) | CellName::Run(slug) => {
                (Path::new("services").join(slug.as_str()), |_| false)
            }
        };
        if let Some(why) = unusable.get(owner) {
            incomplete.push(format!("{}: {why}", owner.owner()));
            continue;
        }
        let dir = match home.open_dir(&name) {
            Ok(dir) => dir,
            // A service outside the house has none, and an agent that was never provisioned.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && scope.one.is_none() => continue,
            Err(e) => return Err(Error::file("open", &files)(e)),
        };
        TreePacker::new(&mut archive, &mut left_out, skip)
            .add(&dir, &name)
            .map_err(Error::file("pack", &files))?;
        if drives::has_images(&files.join("drives")) {
            microvm(config, owner, allocation.uid, &mut archive, &mut left_out)?;
        }
    }
    if scope.one.is_none() {
        let skills = Path::new("skills");
        if let Ok(dir) = home.open_dir(skills) {
            TreePacker::new(&mut archive, &mut left_out, |_| false)
                .add(&dir, skills)
                .map_err(Error::file("pack", skills))?;
        }
        let allocations = Path::new("hostd/claims.json");
        home.open_file(allocations)
            .and_then(|mut file| archive.append_file(allocations, &mut file))
            .map_err(Error::file("pack", allocations))?;
    }
    // Dropping it would write the end.
    std::mem::forget(archive);
    incomplete.extend(left_out.data().iter().cloned());
    Ok(Packed {
        left_out: left_out.into_lines(),
        incomplete,
    })
}

/// What is on the drives of a microVM: its guest tells while it runs; else programs of its user's look.
/// Later entries of an archive count, so these come after what its directory holds beside them.
fn microvm(
    config: &HostdConfig,
    owner: &CellName,
    uid: Option<u32>,
    archive: &mut tar::Builder<impl Write>,
    left_out: &mut LeftOut,
) -> Result<()> {
    let name = Path::new("agents").join(owner.slug().as_str());
    if guest::is_running_microvm(&config.cell_records_dir(), owner)? {
        left_out.add(
            &name,
            "links that lead out, sockets, pipes and files that are mostly holes on the drives of a microVM that runs",
        );
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
    let mut packer = TreePacker::new(archive, left_out, is_left_out_of_agent);
    let packed = drives::extract_drive_files(owner, &files, &staging, uid)
        .and_then(|()| packer.add(&dir, &name).map_err(failed("pack")));
    let _swept_with_the_house = handle.remove_tree(UNLOADED);
    packed
}

/// Entries that a guest sends, under names and owners of ours.
fn copy(
    stream: UnixStream,
    name: &Path,
    uid: Option<u32>,
    archive: &mut tar::Builder<impl Write>,
) -> std::io::Result<()> {
    let mut from = tar::Archive::new(stream.take(GUEST_MAX));
    for entry in from.entries()? {
        let entry = entry?;
        let path = entry.path()?.into_owned();
        let plain = path.components().all(|c| matches!(c, Component::Normal(_)));
        let kind = entry.header().entry_type();
        let target = entry.link_name()?.map(std::borrow::Cow::into_owned);
        let within = |target: &PathBuf| is_link_within(&path, target);
        let link = target.filter(|t| kind.is_symlink() && within(t));
        let wanted = kind.is_file() || kind.is_dir() || link.is_some();
        if !plain || !wanted || path.ancestors().any(is_left_out_of_agent) {
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
        match link {
            Some(target) => archive.append_link(&mut header, name.join(&path), target)?,
            None => archive.append_data(&mut header, name.join(&path), entry)?,
        }
    }
    Ok(())
}
