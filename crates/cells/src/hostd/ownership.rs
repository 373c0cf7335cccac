//! What owners have: users, subnets and addresses that are allocated to them and released again, and files that must
//! not be replaced by none once they exist.

use super::HostdConfig;
use super::house_subnets::{check_others, lock_subnets, publish_subnets};
use super::operation::{HostdReply, refused, still_running};
use crate::allocation::{Allocation, Allocations, LockedAllocations, lock_allocations};
use crate::{Result, crash};
use abbey_model::CellName;
use abbey_support::service_data;
use abbey_support::shell::shell_path;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

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
            held.save()?;
            publish_subnets(config, &held.allocations)?;
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
        held.allocations.prepared.remove(owner);
        held.save()?;
        publish_subnets(config, &held.allocations)?;
        crash::point("hostd.released");
    }
    Ok(HostdReply::Done)
}

/// Notes that the files of an agent or service exist.
pub(super) fn note_files(config: &HostdConfig, owner: &CellName) -> Result<()> {
    let mut held = lock_allocations(&config.hostd_dir())?;
    let known = held.allocations.owners.contains_key(owner);
    let own = matches!(owner, CellName::Agent(_) | CellName::Service(_));
    match known && own && held.allocations.prepared.insert(owner.clone()) {
        true => held.save(),
        false => Ok(()),
    }
}

/// Forgets that an owner has files, before they are moved away on request.
pub(super) fn forget_files(config: &HostdConfig, owner: &CellName) -> Result<()> {
    let mut held = lock_allocations(&config.hostd_dir())?;
    match held.allocations.prepared.remove(owner) {
        true => held.save(),
        false => Ok(()),
    }
}

/// Checks that the directory of an owner exists, if it did before: a new one would look like an owner that has its files.
///
/// # Errors
/// What is missing, and what can be done about it.
pub(super) fn require_files(
    config: &HostdConfig,
    allocations: &Allocations,
    owner: &CellName,
) -> std::result::Result<(), String> {
    let dir = config.owner_dir(owner);
    let missing =
        matches!(fs::symlink_metadata(&dir), Err(e) if e.kind() == io::ErrorKind::NotFound);
    match missing && allocations.prepared.contains(owner) {
        true => Err(describe_loss(&dir, owner, &dir)),
        false => Ok(()),
    }
}

/// Agents and services whose directory does not exist any more, each with what can be done about it.
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
        let why = describe_loss(&dir, owner, &dir.join(service_data::DIRECTORY));
        Some((owner.owner(), why))
    });
    lost.collect()
}

/// What is missing, and what can be done about it. `dir` is the directory of the owner.
fn describe_loss(dir: &Path, owner: &CellName, missing: &Path) -> String {
    let slug = owner.slug();
    let anew = match owner {
        CellName::Agent(_) => format!(
            "to begin anew, take the agent out of the manifest, run `abbey up --yes`, and add it again (`abbey agent add {slug}`)"
        ),
        CellName::Service(_) | CellName::Run(_) => {
            let aside = match dir == missing {
                true => "",
                false => "move the rest of the service's directory to another place, and ",
            };
            format!(
                "to begin anew without its data, {aside}run `mkdir {}`",
                shell_path(dir)
            )
        }
    };
    format!(
        "its files are gone: `{}` does not exist, though it did before. Put the directory back, or restore a backup (`abbey restore`); {anew}",
        missing.display()
    )
}
