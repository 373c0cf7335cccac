//! What houses leave on the host whose home was deleted while something of them was there: nobody can run `abbey down` for
//! them any more.

use super::config::control_group_of;
use super::house_subnets;
use super::moved_home::{RoleProcess, role_processes};
use crate::allocation::{self, UIDS};
use crate::network::firewall;
use crate::sys::cgroup::ControlGroups;
use crate::sys::host::HOST_FILES;
use crate::sys::{lock, process};
use abbey_model::CellName;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What the names of the files that houses lock begin with; the first user of the house follows.
const PREFIX: &str = "users-";

/// Removes empty control groups at the path `own` that are of no cell, and as root what is left on the host of every house
/// whose home does not exist any more, or is `own` by now, which has other users, and of which nothing runs: empty control
/// groups, interfaces, tables of the firewall and the reservation of its users. Does what it can; what is left is removed by
/// the next one.
pub fn clean_up_after_deleted_homes(own: &Path) {
    let records = own.join("run/cells");
    ControlGroups::remove_unused(&control_group_of(own), |cell| {
        fs::symlink_metadata(records.join(cell.to_string())).is_ok()
    });
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let entries = fs::read_dir(HOST_FILES).into_iter().flatten().flatten();
    let first_users = entries.filter_map(|entry| {
        let name = entry.file_name();
        name.to_str()?.strip_prefix(PREFIX)?.parse().ok()
    });
    let own_first = allocation::first_user_of(own);
    let mut running = None;
    for first in first_users.filter(|first| own_first != Some(*first)) {
        clean_up_after(own, first, &mut running);
    }
}

/// Cleans up after the house with this first user, if its home was deleted and nothing of it runs. `running` is read once,
/// for the first house that needs it.
fn clean_up_after(own: &Path, first: u32, running: &mut Option<Running>) {
    let file = allocation::file_of_users(first);
    let stated = || fs::read_to_string(&file).unwrap_or_default();
    let before = stated();
    if before.is_empty() {
        // Of a house that ended between the creation of the file and its first line.
        if let Ok(Some(_held)) = lock::try_lock_existing_file(&file)
            && stated().is_empty()
        {
            let _gone_already = fs::remove_file(&file);
        }
        return;
    }
    let home = Path::new(&before);
    let is_gone = |home: &Path| match fs::symlink_metadata(home) {
        Err(e) => e.kind() == io::ErrorKind::NotFound,
        // The house that is there has other users; of one whose allocations cannot be read that is not known.
        Ok(_) => home == own && has_no_or_other_users(own),
    };
    if !home.is_absolute() || !is_gone(home) {
        return;
    }
    let running = running.get_or_insert_with(Running::read);
    // Interfaces and tables of a network that is not ours, and that somebody is in, are removed by a house in that network.
    // Nothing is locked before this is known: that house would take it for held.
    let is_in_reach = |(namespace, _): (u64, _)| {
        house_subnets::own_namespace().is_ok_and(|own| own == namespace)
            || !running.namespaces.contains(&namespace)
    };
    let left = || house_subnets::unwithdrawn(first);
    if running.has_any_of(first, home, own) || !left().is_none_or(is_in_reach) {
        return;
    }
    // The house holds it while it runs, wherever its home is. Another one may have removed the file meanwhile.
    let Ok(Some(_held)) = lock::try_lock_existing_file(&file) else {
        return;
    };
    if stated() != before || !is_gone(home) {
        return;
    }
    if home != own {
        ControlGroups::remove_unused(&control_group_of(home), |_| false);
    }
    if let Some((namespace, tag)) = left() {
        let is_here = house_subnets::own_namespace().is_ok_and(|own| own == namespace);
        let removed = !is_here
            || (crate::network::remove_all_interfaces(tag).is_ok()
                && firewall::remove_unrecorded_firewall(tag).is_ok());
        if !removed {
            return;
        }
    }
    let _gone_already = fs::remove_file(house_subnets::file_of(first));
    let _gone_already = fs::remove_file(&file);
}

/// Whether a home that is not that of a house with certain users has no house at all, or one with other users.
fn has_no_or_other_users(home: &Path) -> bool {
    let claims = fs::symlink_metadata(home.join("hostd/claims.json"));
    claims.is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
        || allocation::first_user_of(home).is_some()
}

/// What runs on the host.
struct Running {
    users: BTreeSet<u32>,
    roles: Vec<RoleProcess>,
    /// Inodes of the network namespaces that have a process.
    namespaces: BTreeSet<u64>,
}

impl Running {
    fn read() -> Running {
        // A process that has ended and for which nobody waited yet is none.
        let pids = process::all().filter(|pid| process::identify(*pid).is_some());
        let pids: Vec<i32> = pids.collect();
        let namespace = |pid: &i32| fs::metadata(format!("/proc/{pid}/ns/net")).ok();
        Running {
            users: pids.iter().filter_map(|p| process::user_of(*p)).collect(),
            roles: role_processes(),
            namespaces: pids.iter().filter_map(namespace).map(|m| m.ino()).collect(),
        }
    }

    /// Whether anything of the house that was in `home` and has these users runs. At `own`, processes of a control plane
    /// and control groups are those of the house that is there now.
    fn has_any_of(&self, first: u32, home: &Path, own: &Path) -> bool {
        if self
            .users
            .range(first..first.saturating_add(UIDS))
            .next()
            .is_some()
        {
            return true;
        }
        if home == own {
            return false;
        }
        let group = control_group_of(home);
        let cells = ControlGroups::list_cells(&group);
        let mut cells = cells.iter().filter_map(|dir| dir.file_name()?.to_str());
        let is_occupied = |cell: &str| {
            !ControlGroups::find_existing(&group, cell)
                .processes()
                .is_empty()
        };
        self.roles.iter().any(|role| role.home == home)
            || cells.any(|cell| cell.parse::<CellName>().is_ok() && is_occupied(cell))
    }
}
