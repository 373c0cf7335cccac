//! What owners have: users, subnets and addresses that are allocated to them and released again, and files that must
//! not be replaced by none once they exist.

use super::HostdConfig;
use super::house_subnets::{check_others, lock_subnets, publish_subnets};
use super::operation::{HostdReply, refused, still_running};
use crate::allocation::{Allocation, Allocations, LockedAllocations, lock_allocations};
use crate::files::archive::DISKS;
use crate::microvm::drives::has_images;
use crate::{Result, crash};
use abbey_model::CellName;
use abbey_support::service_data;
use abbey_support::shell::shell_path;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Carries out [`HostdOperation::Allocate`](super::HostdOperation::Allocate).
pub(super) fn allocate(
    config: &HostdConfig,
    mut held: LockedAllocations,
    owner: &CellName,
    allocation: Allocation,
    dry: bool,
) -> Result<HostdReply> {
    if allocation.uid.is_some() && !config.privileged {
        return refused("hostd runs without root privileges, so it cannot allocate user ids");
    }
    let before = held.allocations.owners.get(owner).cloned();
    let had = before.as_ref().and_then(|b| b.subnet);
    let taken = allocation.subnet.filter(|s| had != Some(*s));
    let _taking = match taken.filter(|_| config.privileged) {
        Some(subnet) => {
            let taking = lock_subnets()?;
            if let Err(why) = check_others(&held.allocations, subnet) {
                return refused(why);
            }
            Some(taking)
        }
        None => None,
    };
    match held.allocations.assign(owner, allocation) {
        Err(why) => return refused(why),
        Ok(()) if dry || before.as_ref() == held.allocations.owners.get(owner) => {}
        Ok(()) => {
            crash::point("hostd.claim");
            // Before it is saved: the next call would find nothing to do. What is published too much harms nobody.
            publish_subnets(config, &held.allocations)?;
            held.save()?;
            crash::point("hostd.claimed");
        }
    }
    Ok(HostdReply::Done)
}

/// Carries out [`HostdOperation::Release`](super::HostdOperation::Release).
pub(super) fn release(
    config: &HostdConfig,
    mut held: LockedAllocations,
    owner: &CellName,
    dry: bool,
) -> Result<HostdReply> {
    if config.is_live(owner) {
        return refused(still_running(owner));
    }
    if fs::symlink_metadata(config.owner_dir(owner)).is_ok() {
        return refused(format!(
            "{owner} still has files; archive or delete them first"
        ));
    }
    if !dry && held.allocations.owners.remove(owner).is_some() {
        held.allocations.forget_files(owner);
        held.save()?;
        publish_subnets(config, &held.allocations)?;
        crash::point("hostd.released");
    }
    Ok(HostdReply::Done)
}

/// Notes that the files of an agent or service exist, and that they are on the drives of its microVM. `seen` is what was noted
/// before.
pub(super) fn note_files(config: &HostdConfig, seen: &Allocations, owner: &CellName) -> Result<()> {
    let own = matches!(owner, CellName::Agent(_) | CellName::Service(_));
    // Not while they are made: a crash may leave the first of them.
    let on_drives = missing_drive(config, owner).is_none();
    let is_noted = seen.prepared.contains(owner) && seen.on_drives.contains(owner) >= on_drives;
    if !own || is_noted {
        return Ok(());
    }
    let mut held = lock_allocations(&config.hostd_dir())?;
    if !held.allocations.owners.contains_key(owner) {
        return Ok(());
    }
    held.allocations.prepared.insert(owner.clone());
    if on_drives {
        held.allocations.on_drives.insert(owner.clone());
    }
    held.save()
}

/// Forgets that the files of an agent are on drives, which were moved away.
pub(super) fn forget_drives(config: &HostdConfig, owner: &CellName) -> Result<()> {
    let mut held = lock_allocations(&config.hostd_dir())?;
    match held.allocations.on_drives.remove(owner) {
        true => held.save(),
        false => Ok(()),
    }
}

/// The first drive of a microVM that an owner lacks.
fn missing_drive(config: &HostdConfig, owner: &CellName) -> Option<PathBuf> {
    let dir = config.owner_dir(owner).join("drives");
    let mut drives = ["state", "workspace"]
        .map(|name| dir.join(name).with_extension("ext4"))
        .into_iter();
    drives.find(|drive| is_missing(drive))
}

/// Checks that the drives of a microVM exist, if they did before: they would be made anew from files that the agent had before
/// it had drives.
///
/// # Errors
/// What is missing, and what can be done about it.
pub(super) fn require_drives(
    config: &HostdConfig,
    allocations: &Allocations,
    owner: &CellName,
) -> std::result::Result<(), String> {
    let had = allocations.on_drives.contains(owner);
    match missing_drive(config, owner).filter(|_| had) {
        Some(missing) => Err(describe_loss(
            &config.owner_dir(owner),
            owner,
            None,
            &missing,
        )),
        None => Ok(()),
    }
}

/// Forgets that an owner has files, before they are moved away on request.
pub(super) fn forget_files(config: &HostdConfig, owner: &CellName) -> Result<()> {
    let mut held = lock_allocations(&config.hostd_dir())?;
    match held.allocations.forget_files(owner) {
        true => held.save(),
        false => Ok(()),
    }
}

/// Checks that the files of an owner exist, if they did before: new ones would look like an owner that has its files.
///
/// # Errors
/// What is missing, and what can be done about it.
pub(super) fn require_files(
    config: &HostdConfig,
    allocations: &Allocations,
    owner: &CellName,
) -> std::result::Result<(), String> {
    let allocation = allocations.owners.get(owner).cloned().unwrap_or_default();
    let uid = allocation.uid;
    let lost = allocations.prepared.contains(owner);
    let missing = missing_files(config, owner, &allocation).filter(|_| lost);
    // A directory of drives that was moved away whole is another matter: an agent without a microVM can start without it.
    let half = allocations.on_drives.contains(owner)
        && !is_missing(&config.owner_dir(owner).join("drives"));
    let missing = missing.or_else(|| missing_drive(config, owner).filter(|_| half));
    match missing {
        Some(missing) => Err(describe_loss(
            &config.owner_dir(owner),
            owner,
            uid,
            &missing,
        )),
        None => Ok(()),
    }
}

/// What of the files of an owner with this allocation does not exist: its directory, or, as where another file system was mounted
/// before, what is in it once it is prepared.
fn missing_files(
    config: &HostdConfig,
    owner: &CellName,
    allocation: &Allocation,
) -> Option<PathBuf> {
    let dir = config.owner_dir(owner);
    if is_missing(&dir) {
        return Some(dir);
    }
    match owner {
        CellName::Agent(_) => {
            let mut drives = [DISKS, "drives"].into_iter();
            let on_drives = drives.any(|name| has_images(&dir.join(name)));
            let mut places = ["home", "workspace"]
                .map(|place| dir.join(place))
                .into_iter();
            let place = places.find(|place| !on_drives && is_missing(place));
            // Once files are in images, nothing is below where these are mounted.
            let moved = ["home", "workspace"]
                .iter()
                .all(|place| is_empty(&dir.join(place)));
            let mut images = ["state", "workspace"]
                .map(|name| dir.join(DISKS).join(name).with_extension("ext4"))
                .into_iter();
            let image = images.find(|image| moved && is_missing(image));
            place.or(image.filter(|_| allocation.disks.is_some()))
        }
        // Only its own user's directory was prepared.
        CellName::Service(_) => {
            let found = fs::symlink_metadata(&dir).ok()?;
            let foreign = allocation.uid.is_some_and(|uid| found.uid() != uid);
            (foreign && is_empty(&dir)).then_some(dir)
        }
        CellName::Run(_) => None,
    }
}

fn is_missing(path: &Path) -> bool {
    matches!(fs::symlink_metadata(path), Err(e) if e.kind() == io::ErrorKind::NotFound)
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
}

/// Agents and services whose files do not exist any more, each with what can be done about it.
pub(super) fn lost_files(
    config: &HostdConfig,
    allocations: &Allocations,
) -> BTreeMap<String, String> {
    let prepared = allocations.prepared.iter();
    let lost = prepared.filter_map(|owner| {
        let why = require_files(config, allocations, owner).err()?;
        Some((owner.owner(), why))
    });
    lost.collect()
}

/// Services whose directory lacks `data` beside what stock services write only once they have data, each with what can be
/// done about it. Any other service has its own names in its directory.
pub(super) fn lost_data(
    config: &HostdConfig,
    allocations: &Allocations,
) -> BTreeMap<String, String> {
    let services = allocations.owners.keys();
    let lost = services.filter_map(|owner| {
        let CellName::Service(_) = owner else {
            return None;
        };
        let opened = config.open_owner_dir(owner).ok()?;
        let has = |name: &&str| matches!(opened.stat_entry(*name), Ok(Some(_)));
        let is_missing = matches!(opened.stat_entry(service_data::DIRECTORY), Ok(None));
        if !is_missing || !service_data::MARKS.iter().any(has) {
            return None;
        }
        let dir = config.owner_dir(owner);
        let uid = allocations.owners.get(owner).and_then(|a| a.uid);
        let why = describe_loss(&dir, owner, uid, &dir.join(service_data::DIRECTORY));
        Some((owner.owner(), why))
    });
    lost.collect()
}

/// What is missing, and what can be done about it. `dir` is the directory of the owner with this user.
fn describe_loss(dir: &Path, owner: &CellName, uid: Option<u32>, missing: &Path) -> String {
    let slug = owner.slug();
    let anew = match owner {
        CellName::Agent(_) => format!(
            "to begin anew, remove the agent (`abbey agent rm {slug}`, or while the house is down its entry in the manifest and then `abbey up`), and then `abbey agent restore {slug}` or the entry as before"
        ),
        CellName::Service(_) | CellName::Run(_) => {
            let aside = match dir == missing {
                true => "",
                false => "move the rest of the service's directory to another place, and ",
            };
            let user = uid.map_or_else(String::new, |uid| format!(" -o {uid} -g {uid}"));
            format!(
                "to begin anew without its data, {aside}run `install -d -m 700{user} {}`",
                shell_path(dir)
            )
        }
    };
    let what = match fs::symlink_metadata(missing) {
        Ok(_) => "is empty and belongs to another user than before",
        Err(_) => "does not exist, though it did before",
    };
    format!(
        "its files are gone: `{}` {what}. Put it back, or restore a backup (`abbey restore`); {anew}",
        missing.display()
    )
}
