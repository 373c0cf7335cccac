//! Files of agents and services in one archive. Each is opened beneath its directory without following links, so
//! that nothing an agent puts there, or swaps while we read, leads out of it.

use super::{HostdConfig, guest};
use crate::allocation::Allocations;
use crate::files::archive::{UNLOADED, open_below};
use crate::files::tree::{LeftOut, TreePacker, is_left_out_of_agent};
use crate::microvm::drives;
use crate::{Error, Result};
use abbey_model::{CellName, Slug};
use rustix::fs::{CWD, OFlags};
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Component, Path};

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

/// Writes a tar archive of the files of agents and services, and of the allocations, to `to`. The archive is left
/// unfinished: the caller writes its end. Returns what could not be carried, one line for each path.
pub(super) fn pack_owners(
    config: &HostdConfig,
    allocations: &Allocations,
    scope: PackScope<'_>,
    to: OwnedFd,
) -> Result<Vec<String>> {
    let owners = || {
        allocations
            .owners
            .iter()
            .filter(|(owner, _)| scope.holds(owner))
    };
    for (owner, allocation) in owners() {
        if let Some(disks) = allocation.disks {
            super::disks::mount_owner_disks(config, owner, disks)?;
        }
    }
    let mut archive = tar::Builder::new(File::from(to));
    let mut left_out = LeftOut::default();
    for (owner, allocation) in owners() {
        let (name, skip): (_, fn(&Path) -> bool) = match owner {
            CellName::Agent(slug) => (
                Path::new("agents").join(slug.as_str()),
                is_left_out_of_agent,
            ),
            CellName::Service(slug) | CellName::Run(slug) => {
                (Path::new("services").join(slug.as_str()), |_| false)
            }
        };
        let files = config.owner_dir(owner);
        let dir = match open_below(CWD, files.as_os_str().as_bytes(), OFlags::DIRECTORY) {
            Ok(dir) => dir,
            // A service outside the house has none, and an agent that was never provisioned.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && scope.one.is_none() => continue,
            Err(e) => return Err(Error::file("open", &files)(e)),
        };
        let mut packer = TreePacker {
            archive: &mut archive,
            left_out: &mut left_out,
            skip,
        };
        packer
            .add(&dir, &name)
            .map_err(Error::file("pack", &files))?;
        if files.join("drives").exists() {
            microvm(config, owner, allocation.uid, &mut archive, &mut left_out)?;
        }
    }
    if scope.one.is_none() {
        let skills = config.home.join("skills");
        if let Ok(dir) = open_below(CWD, skills.as_os_str().as_bytes(), OFlags::DIRECTORY) {
            let mut packer = TreePacker {
                archive: &mut archive,
                left_out: &mut left_out,
                skip: |_| false,
            };
            packer
                .add(&dir, Path::new("skills"))
                .map_err(Error::file("pack", &skills))?;
        }
        let allocations = config.home.join("hostd/claims.json");
        archive
            .append_path_with_name(&allocations, "hostd/claims.json")
            .map_err(Error::file("pack", allocations))?;
    }
    // Dropping it would write the end.
    std::mem::forget(archive);
    Ok(left_out.into_lines())
}

/// What is on the drives of a microVM: its guest tells while it runs; else programs of its user's look.
/// Later entries of an archive count, so these come after what its directory holds beside them.
fn microvm(
    config: &HostdConfig,
    owner: &CellName,
    uid: Option<u32>,
    archive: &mut tar::Builder<File>,
    left_out: &mut LeftOut,
) -> Result<()> {
    let name = Path::new("agents").join(owner.slug().as_str());
    if guest::is_running_microvm(&config.cell_records_dir(), owner)? {
        left_out.add(
            &name,
            "links, sockets and pipes on the drives of a microVM that runs",
        );
        let stream = guest::pack_guest_files(config, owner)?;
        return copy(stream, &name, uid, archive).map_err(Error::file("pack", name));
    }
    let staging = config.owner_dir(owner).join(UNLOADED);
    let _left_by_a_crash = std::fs::remove_dir_all(&staging);
    std::fs::create_dir(&staging).map_err(Error::file("make", &staging))?;
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::Permissions::from_mode(0o711);
    let packed = std::fs::set_permissions(&staging, mode)
        .map_err(Error::file("protect", &staging))
        .and_then(|()| drives::extract_drive_files(owner, &config.owner_dir(owner), &staging, uid))
        .and_then(|()| {
            let dir = open_below(CWD, staging.as_os_str().as_bytes(), OFlags::DIRECTORY);
            let mut packer = TreePacker {
                archive,
                left_out,
                skip: is_left_out_of_agent,
            };
            dir.and_then(|dir| packer.add(&dir, &name))
                .map_err(Error::file("pack", &staging))
        });
    let _swept_with_the_house = std::fs::remove_dir_all(&staging);
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
        let wanted = kind.is_file() || kind.is_dir();
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
        archive.append_data(&mut header, name.join(&path), entry)?;
    }
    Ok(())
}
