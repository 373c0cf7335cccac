//! What hostd has given to whom. Kept in a file of its own, so that a control plane that was taken
//! over cannot give one agent the user of another.

use crate::{Error, HouseTag, Result, external};
use abbey_model::{Bytes, CellName, Egress, Subnet, is_private, overlap};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};

/// First user number that any house uses; below it live ordinary users and their containers.
pub(crate) const UIDS_FIRST: u32 = 0x2000_0000;
/// User numbers of one house.
pub(crate) const UIDS: u32 = 1 << 16;
/// Houses that fit without sharing; each takes a place by chance on its first start.
const PLACES: u32 = 0x5000;

/// Sizes of an agent's file systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disks {
    /// Size of the file system for `home`.
    pub state: Bytes,
    /// Size of the file system for `workspace`.
    pub workspace: Bytes,
}

/// What hostd has allocated to one owner.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allocation {
    /// User id; none if cells run as the house's user.
    pub uid: Option<u32>,
    /// Subnet of its own network.
    #[serde(default)]
    pub subnet: Option<Subnet>,
    /// Whether its cell is a port of the house's bridge instead of having a routed pair of interfaces.
    #[serde(default)]
    pub bridged: bool,
    /// Sizes of its disk images, if it has any.
    #[serde(default)]
    pub disks: Option<Disks>,
    /// Port of the agent API on the gateway's address.
    #[serde(default)]
    pub door: Option<u16>,
    /// Port on which it serves others.
    #[serde(default)]
    pub port: Option<u16>,
    /// Address of an external service, which the house does not run.
    #[serde(default)]
    pub elsewhere: Option<SocketAddrV4>,
    /// Destinations outside the house that it may reach.
    #[serde(default)]
    pub egress: Egress,
}

impl Allocation {
    /// Address at which this owner serves others: its external address, or its cell's address with the allocated
    /// port. None if it serves nobody.
    pub(crate) fn service_address(&self) -> Option<SocketAddrV4> {
        if self.elsewhere.is_some() {
            return self.elsewhere;
        }
        let address = self.subnet.map_or(Ipv4Addr::LOCALHOST, Subnet::cell);
        Some(SocketAddrV4::new(address, self.port?))
    }
}

/// Allocations of all owners of a house.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocations {
    /// First user id of the house: the control plane's; cells have those after it.
    pub uid_first: u32,
    /// Tag of the house, which is part of the names of its interfaces and firewall table.
    #[serde(default)]
    pub tag: Option<HouseTag>,
    /// Number that grows with every change.
    #[serde(default)]
    pub version: u64,
    /// Allocations by owner.
    pub owners: BTreeMap<CellName, Allocation>,
    /// Agents and services whose files have been prepared, so that a directory of theirs that does not exist was lost.
    #[serde(default)]
    pub prepared: BTreeSet<CellName>,
    /// Agents whose files have been on the drives of a microVM, so that a drive of theirs that does not exist was lost.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub on_drives: BTreeSet<CellName>,
}

impl Allocations {
    /// Forgets that an owner has files; false if there is nothing to forget.
    pub(crate) fn forget_files(&mut self, owner: &CellName) -> bool {
        self.prepared.remove(owner) | self.on_drives.remove(owner)
    }

    /// Subnets whose cells are ports of the house's bridge.
    pub(crate) fn bridged_subnets(&self) -> BTreeSet<Subnet> {
        let bridged = self.owners.values().filter(|c| c.bridged);
        bridged.filter_map(|c| c.subnet).collect()
    }

    /// Tag of the house, which is part of the names of its interfaces and firewall table.
    pub fn house_tag(&self) -> HouseTag {
        self.tag.unwrap_or(HouseTag::from_bits(0))
    }

    /// Assigns `allocation` to `owner`, replacing its earlier one; an owner keeps the user it already has.
    ///
    /// # Errors
    /// If a user is outside the house's range or taken, a subnet is public, taken or routed by the host, or a
    /// service address cannot be one. The text names the rule and the other owner.
    pub fn assign(
        &mut self,
        owner: &CellName,
        allocation: Allocation,
    ) -> std::result::Result<(), String> {
        // Disks are made beside the files, and only the directory of an agent is not the owner's to change.
        if allocation.disks.is_some() && !matches!(owner, CellName::Agent(_)) {
            return Err(format!("{owner} is no agent, so it cannot have disks"));
        }
        if let Some(uid) = allocation.uid {
            let range = self.uid_first + 1..self.uid_first + UIDS;
            if !range.contains(&uid) {
                return Err(format!(
                    "user {uid} is outside this house's range, {} to {}",
                    range.start,
                    range.end - 1
                ));
            }
            let mut others = self.owners.iter().filter(|(o, _)| *o != owner);
            if let Some((holder, _)) = others.find(|(_, c)| c.uid == Some(uid)) {
                return Err(format!("user {uid} is allocated to {holder}"));
            }
        }
        if let Some(subnet) = allocation.subnet {
            self.subnet(owner, subnet)?;
        }
        if let Some(at) = allocation.elsewhere {
            let address = at.ip();
            // Link-local addresses are those of a cloud's metadata as well.
            let none = address.is_link_local()
                || address.is_multicast()
                || address.is_unspecified()
                || address.is_broadcast();
            if none || !matches!(owner, CellName::Service(_)) {
                return Err(format!("{at} cannot be the address of a service"));
            }
        }
        let mut allocation = allocation;
        match self.owners.get(owner).and_then(|held| held.uid) {
            Some(held) if allocation.uid.is_some_and(|asked| asked != held) => {
                Err(format!("{owner} already has user {held}; release it first"))
            }
            held => {
                allocation.uid = allocation.uid.or(held);
                self.owners.insert(owner.clone(), allocation);
                Ok(())
            }
        }
    }
}

impl Allocations {
    /// Parses allocations that come with a backup, and checks every rule that allocations are subject to but what the
    /// host routes now.
    ///
    /// # Errors
    /// Names the violated rule.
    pub fn parse_foreign(json: &[u8]) -> std::result::Result<Allocations, String> {
        let foreign: Allocations = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        if !is_user_of_control_plane(foreign.uid_first) {
            return Err(format!(
                "user {} cannot be the first user of a house",
                foreign.uid_first
            ));
        }
        let mut checked = Allocations {
            owners: BTreeMap::new(),
            // An archive need not have the files of everybody.
            prepared: BTreeSet::new(),
            on_drives: BTreeSet::new(),
            ..foreign.clone()
        };
        for (owner, allocation) in foreign.owners {
            let subnet = allocation.subnet;
            if let Some(subnet) = subnet {
                checked.subnet_in_house(&owner, subnet)?;
            }
            let elsewhere = Allocation {
                subnet: None,
                ..allocation
            };
            checked.assign(&owner, elsewhere)?;
            if let Some(kept) = checked.owners.get_mut(&owner) {
                kept.subnet = subnet;
            }
        }
        Ok(checked)
    }

    /// Whether an owner may have a subnet as far as the house is concerned: private, and nobody else's.
    fn subnet_in_house(&self, owner: &CellName, subnet: Subnet) -> std::result::Result<(), String> {
        let net = (subnet.base(), subnet.prefix());
        if !is_private(net) {
            return Err(format!("subnet {subnet} is not in a private range"));
        }
        let mut others = self.owners.iter().filter(|(o, _)| *o != owner);
        let taken = others.find(|(_, c)| c.subnet.is_some_and(|s| s.overlaps(subnet)));
        match taken {
            Some((holder, _)) => Err(format!("subnet {subnet} is allocated to {holder}")),
            None => Ok(()),
        }
    }

    /// Whether an owner may have a subnet: private, nobody's, and not where the host goes already.
    fn subnet(&self, owner: &CellName, subnet: Subnet) -> std::result::Result<(), String> {
        self.subnet_in_house(owner, subnet)?;
        let net = (subnet.base(), subnet.prefix());
        let own = self.tag.map(HouseTag::interface_prefix);
        let foreign = |name: &str| own.as_ref().is_none_or(|own| !name.starts_with(own));
        let routes = crate::sys::host::ipv4_routes();
        match routes
            .iter()
            .find(|(a, p, name)| foreign(name) && overlap((*a, *p), net))
        {
            Some((address, prefix, name)) => Err(format!(
                "subnet {subnet} overlaps {address}/{prefix}, which this host routes by {name}"
            )),
            None => Ok(()),
        }
    }
}

/// Allocations of a house, locked while this exists.
pub(crate) struct LockedAllocations {
    path: PathBuf,
    pub(crate) allocations: Allocations,
    _lock: fs::File,
}

/// Reads `allocations` of the house from `claims.json` in hostd's directory and locks them until the result is
/// dropped. Creates the file, with a random range of users and a random tag, on the first start.
pub(crate) fn lock_allocations(dir: &Path) -> Result<LockedAllocations> {
    let lock = crate::sys::lock::lock_file(&dir.join("claims.lock"))?;
    let path = dir.join("claims.json");
    let allocations: Allocations = match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| Error::Record {
            path: path.clone(),
            why: e.to_string(),
        })?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => Allocations {
            uid_first: users_of_no_other_house()?,
            tag: None,
            version: 0,
            owners: BTreeMap::new(),
            prepared: BTreeSet::new(),
            on_drives: BTreeSet::new(),
        },
        Err(e) => return Err(Error::file("read", &path)(e)),
    };
    let mut held = LockedAllocations {
        path,
        allocations,
        _lock: lock,
    };
    if held.allocations.tag.is_none() {
        held.allocations.tag = Some(HouseTag::from_bits(chance()?));
        held.save()?;
    }
    // A home of a release that had no such record.
    if !external::external_services_file(dir).exists() {
        held.publish_external()?;
    }
    Ok(held)
}

impl LockedAllocations {
    /// Writes the allocations to `claims.json` with the next version number, and publishes the addresses of
    /// external services.
    pub(crate) fn save(&mut self) -> Result<()> {
        self.allocations.version += 1;
        crate::record::write_json(&self.path, &self.allocations)?;
        self.publish_external()
    }

    fn publish_external(&self) -> Result<()> {
        let addresses =
            self.allocations
                .owners
                .iter()
                .filter_map(|(owner, allocation)| match owner {
                    CellName::Service(service) => Some((service.clone(), allocation.elsewhere?)),
                    CellName::Agent(_) | CellName::Run(_) => None,
                });
        let dir = self.path.parent().unwrap_or(&self.path);
        external::write_external_addresses(
            &external::external_services_file(dir),
            &addresses.collect(),
        )
    }
}

/// Most looks for a range of users that no house of this host has had since its boot.
const LOOKS: u32 = 64;

/// First of a range of users, by chance. Two houses of twenty thousand would share theirs, and the second could not start
/// beside the first.
fn users_of_no_other_house() -> Result<u32> {
    let any = || Ok(UIDS_FIRST + chance()? % PLACES * UIDS);
    for _ in 0..LOOKS {
        let first = any()?;
        if !file_of_users(first).exists() {
            return Ok(first);
        }
    }
    any()
}

/// First user of the house in `home`; none if there is no house, or its allocations cannot be read.
pub(crate) fn first_user_of(home: &Path) -> Option<u32> {
    let bytes = fs::read(home.join("hostd/claims.json")).ok()?;
    let allocations: Allocations = serde_json::from_slice(&bytes).ok()?;
    Some(allocations.uid_first)
}

/// Whether a user is the first of a range, as the control plane of a house can be.
pub(crate) fn is_user_of_control_plane(user: u32) -> bool {
    let place = user.checked_sub(UIDS_FIRST);
    place.is_some_and(|place| place % UIDS == 0 && place / UIDS < PLACES)
}

/// File that a house with this range of users locks while it runs.
pub(crate) fn file_of_users(first: u32) -> PathBuf {
    Path::new(crate::sys::host::HOST_FILES).join(format!("users-{first}"))
}

/// A number by chance: the names of two houses on one host are the same once in a million.
fn chance() -> Result<u32> {
    let mut bytes = [0u8; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| Error::file("read", "/dev/urandom")(e.into()))?;
    Ok(u32::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_allocations_are_checked_like_those_that_are_requested() {
        let parse = |first: u32, uid: u32, subnet: &str| {
            let json = format!(
                r#"{{"uid_first":{first},"owners":{{"agent-a":{{"uid":{uid},"subnet":"{subnet}"}},"agent-b":{{"uid":null}}}}}}"#
            );
            Allocations::parse_foreign(json.as_bytes())
        };
        let good = parse(
            UIDS_FIRST + 3 * UIDS,
            UIDS_FIRST + 3 * UIDS + 1,
            "10.1.2.0/24",
        )
        .unwrap();
        assert!(good.owners[&owner("a")].subnet.is_some());
        for (first, uid, subnet) in [
            (0, 1, "10.1.2.0/24"),
            (UIDS_FIRST + 1, UIDS_FIRST + 2, "10.1.2.0/24"),
            (
                UIDS_FIRST + PLACES * UIDS,
                UIDS_FIRST + PLACES * UIDS + 1,
                "10.1.2.0/24",
            ),
            (UIDS_FIRST, 0, "10.1.2.0/24"),
            (UIDS_FIRST, UIDS_FIRST + UIDS, "10.1.2.0/24"),
            (UIDS_FIRST, UIDS_FIRST + 1, "8.8.8.0/24"),
        ] {
            assert!(parse(first, uid, subnet).is_err(), "{first} {uid} {subnet}");
        }
    }

    fn owner(name: &str) -> CellName {
        CellName::Agent(name.parse().unwrap())
    }

    #[test]
    fn a_user_has_one_owner_for_as_long_as_it_is_held() {
        let mut allocations = Allocations {
            uid_first: UIDS_FIRST,
            tag: None,
            version: 0,
            owners: BTreeMap::new(),
            prepared: BTreeSet::new(),
            on_drives: BTreeSet::new(),
        };
        let uid = |n| Allocation {
            uid: Some(UIDS_FIRST + n),
            ..Allocation::default()
        };
        allocations.assign(&owner("a"), uid(1)).unwrap();
        allocations.assign(&owner("a"), uid(1)).unwrap();
        let refused = allocations.assign(&owner("b"), uid(1)).unwrap_err();
        assert!(refused.ends_with("is allocated to agent-a"), "{refused}");
        assert!(allocations.assign(&owner("a"), uid(2)).is_err());
        // Neither root, nor the control plane's own, nor beyond the range.
        for bad in [0, UIDS_FIRST, UIDS_FIRST + UIDS] {
            let allocation = Allocation {
                uid: Some(bad),
                ..Allocation::default()
            };
            assert!(
                allocations.assign(&owner("c"), allocation).is_err(),
                "{bad}"
            );
        }
    }
}
