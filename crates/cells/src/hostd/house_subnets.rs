//! Subnets of the houses that run on this host, so that two houses which plan at the same time do not both take one: the
//! host routes a subnet only once a cell has started there.

use super::HostdConfig;
use crate::allocation::{self, Allocations};
use crate::sys::host::{HOST_FILES, create_host_files_dir};
use crate::sys::lock;
use crate::{Error, HouseTag, Result, record};
use abbey_model::Subnet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What the names of the files with subnets of houses begin with; the first user of the house follows.
const PREFIX: &str = "subnets-";

/// Subnets of one house.
#[derive(Debug, Serialize, Deserialize)]
struct HouseSubnets {
    /// Inode of the network namespace that they are in.
    namespace: u64,
    subnets: BTreeSet<Subnet>,
    /// Tag of the house, by which its interfaces and tables are found once its home is deleted; none in a file of an
    /// earlier release.
    #[serde(default)]
    tag: Option<HouseTag>,
}

/// Inode of the network namespace of this process.
pub(super) fn own_namespace() -> Result<u64> {
    let path = "/proc/self/ns/net";
    let found = fs::metadata(path).map_err(Error::file("read", path))?;
    Ok(found.ino())
}

/// Waits until no other house of this host takes subnets, and keeps them from doing so until the file is dropped.
pub(super) fn lock_subnets() -> Result<fs::File> {
    lock::lock_file(&create_host_files_dir()?.join("subnets.lock"))
}

/// Tells the other houses of this host which subnets this one has.
pub(super) fn publish_subnets(config: &HostdConfig, allocations: &Allocations) -> Result<()> {
    if !config.privileged {
        return Ok(());
    }
    let subnets = allocations.owners.values().filter_map(|a| a.subnet);
    let own = HouseSubnets {
        namespace: own_namespace()?,
        subnets: subnets.collect(),
        tag: allocations.tag,
    };
    let file = file_of(allocations.uid_first);
    create_host_files_dir()?;
    record::write_json_without_sync(&file, &own)
}

/// File with the subnets of a house.
pub(super) fn file_of(first_user: u32) -> PathBuf {
    Path::new(HOST_FILES).join(format!("{PREFIX}{first_user}"))
}

/// Network namespace and tag of a house that did not withdraw its subnets; none for a house that did, and for one of an
/// earlier release.
pub(super) fn unwithdrawn(first_user: u32) -> Option<(u64, HouseTag)> {
    let stated = fs::read(file_of(first_user)).ok()?;
    let stated: HouseSubnets = serde_json::from_slice(&stated).ok()?;
    Some((stated.namespace, stated.tag?))
}

/// Withdraws what [`publish_subnets`] published, as the house ends.
pub(super) fn withdraw_subnets(allocations: &Allocations) {
    let _of_a_house_that_does_not_run = fs::remove_file(file_of(allocations.uid_first));
}

/// Subnets of the other houses that run in this network, each with the home of its house. What cannot be read is left
/// out: their routes are found too, once a cell has started.
pub(super) fn subnets_of_others(allocations: &Allocations) -> Vec<(Subnet, String)> {
    let Ok(namespace) = own_namespace() else {
        return Vec::new();
    };
    let entries = fs::read_dir(HOST_FILES).into_iter().flatten().flatten();
    let others = entries.filter_map(|entry| {
        let name = entry.file_name();
        let first: u32 = name.to_str()?.strip_prefix(PREFIX)?.parse().ok()?;
        let stated: HouseSubnets = serde_json::from_slice(&fs::read(entry.path()).ok()?).ok()?;
        // Who has a lock is a question to the kernel, for those alone about which it matters.
        let is_other = first != allocations.uid_first && stated.namespace == namespace;
        let users = allocation::file_of_users(first);
        lock::lock_holder(&fs::File::open(&users).ok().filter(|_| is_other)?)?;
        Some((stated.subnets, fs::read_to_string(users).ok()?))
    });
    let each = others.flat_map(|(subnets, home)| {
        subnets
            .into_iter()
            .map(move |subnet| (subnet, home.clone()))
    });
    each.collect()
}

/// Whether a subnet is one of another house that runs in this network.
///
/// # Errors
/// The text names the other house and what to do.
pub(super) fn check_others(
    allocations: &Allocations,
    subnet: Subnet,
) -> std::result::Result<(), String> {
    let mut others = subnets_of_others(allocations).into_iter();
    match others.find(|(taken, _)| taken.overlaps(subnet)) {
        Some((_, home)) => Err(format!(
            "subnet {subnet} is one of the house in `{home}`, which took it at the same time; `abbey up` allocates another"
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocation::Allocation;
    use abbey_model::CellName;
    use std::io::Write;
    use std::net::Ipv4Addr;

    fn house(first: u32, subnet: Ipv4Addr) -> Allocations {
        let owner: CellName = "agent-iris".parse().unwrap();
        let allocation = Allocation {
            subnet: Subnet::new(subnet, 29),
            ..Allocation::default()
        };
        Allocations {
            uid_first: first,
            tag: None,
            version: 1,
            owners: [(owner, allocation)].into(),
            prepared: BTreeSet::new(),
            on_drives: BTreeSet::new(),
        }
    }

    /// Files of houses, which go with this.
    struct Published([u32; 2]);

    impl Drop for Published {
        fn drop(&mut self) {
            for first in self.0 {
                let subnets = Path::new(HOST_FILES).join(format!("{PREFIX}{first}"));
                for file in [subnets, allocation::file_of_users(first)] {
                    let _may_be_gone = fs::remove_file(file);
                }
            }
        }
    }

    #[test]
    fn a_subnet_of_another_house_is_refused_while_that_house_runs() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let config = HostdConfig {
            home: dir.path().to_owned(),
            group: "abbey-test".to_owned(),
            serve_uid: 0,
            privileged: true,
        };
        // Ranges that no house gets, and subnets by the process, so that no other test has them.
        let pid = std::process::id();
        let (first, second) = (pid | 1 << 31, pid | 3 << 30);
        let _published = Published([first, second]);
        let [_, _, high, low] = (pid << 4).to_be_bytes();
        let (ours, theirs) = (
            house(first, Ipv4Addr::new(10, 213, high, low)),
            house(second, Ipv4Addr::new(10, 213, high, low + 8)),
        );
        let subnet = |house: &Allocations| house.owners.values().next().and_then(|a| a.subnet);
        let (of_ours, of_theirs) = (subnet(&ours).unwrap(), subnet(&theirs).unwrap());
        publish_subnets(&config, &theirs).unwrap();
        publish_subnets(&config, &ours).unwrap();
        check_others(&ours, of_theirs).expect("its house does not run");

        let users = allocation::file_of_users(second);
        let mut running = lock::lock_file(&users).unwrap();
        running.write_all(b"/srv/other").unwrap();
        let refused = check_others(&ours, of_theirs).unwrap_err();
        assert!(
            refused.contains(&format!("{of_theirs} is one of the house in `/srv/other`")),
            "{refused}"
        );
        check_others(&ours, of_ours).expect("its own");
        assert!(subnets_of_others(&ours).contains(&(of_theirs, "/srv/other".to_owned())));

        drop(running);
        check_others(&ours, of_theirs).expect("its house has ended");
    }
}
