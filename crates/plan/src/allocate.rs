//! The allocator: subnets, ports and users, each with one owner (S1-06, S1-07, S2-06, S3-02).
//!
//! What is taken is data: the registry's rows and what the host already uses. Nothing is found
//! by scanning, and a conflict names the holder.

use crate::house::Network;
use abbey_model::{Bytes, Slug, Subnet, overlap};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

/// Purpose of the allocation that keeps a service's port inside cells.
pub(crate) const INSIDE_PORT: &str = "inside port";

/// Number of uids that a house can give.
const UID_COUNT: u32 = 60_000;

/// Kind of resource that can have only one owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResourceKind {
    /// An IPv4 subnet, `10.77.1.0/24`.
    Subnet,
    /// A TCP port of the house.
    Port,
    /// A user id.
    Uid,
    /// A port that is nobody else's concern: of a service in its own network, or at which cells reach an external service
    /// (`models:8080`).
    InsidePort,
}

impl ResourceKind {
    /// Name of the kind in the database and in messages.
    pub const fn name(self) -> &'static str {
        match self {
            ResourceKind::Subnet => "subnet",
            ResourceKind::Port => "port",
            ResourceKind::Uid => "uid",
            ResourceKind::InsidePort => "inside_port",
        }
    }
}

/// A resource that is allocated to one owner.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Allocation {
    /// Kind of resource.
    pub kind: ResourceKind,
    /// The resource: a port, subnet or user number.
    pub value: String,
    /// Owner: `agent:SLUG` or `service:SLUG`.
    pub owner: String,
    /// Purpose of the resource, such as `door` or `subnet`.
    pub purpose: String,
}

impl Allocation {
    /// Port that the allocation is, or that a program has in its own network.
    pub fn port(&self) -> Option<u16> {
        match self.kind {
            ResourceKind::Port | ResourceKind::InsidePort => {
                self.value.rsplit(':').next()?.parse().ok()
            }
            ResourceKind::Subnet | ResourceKind::Uid => None,
        }
    }
}

/// Resources that the host has and uses, found by the caller.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// Networks of interfaces and routes, with where they were seen.
    pub subnets: Vec<(Ipv4Addr, u8, String)>,
    /// Listening TCP ports, with the holder where it is known.
    pub ports: BTreeMap<u16, String>,
    /// Those of them on loopback or on every address whose program is not a cell of this house.
    #[serde(default)]
    pub foreign_ports: BTreeSet<u16>,
    /// First uid for cells, where they can have their own.
    pub uid_first: Option<u32>,
    /// Uids that are bound to an owner (`agent:NAME`, `service:NAME`), because files belong to them: also those of
    /// services that are disabled or were removed.
    #[serde(default)]
    pub bound_uids: BTreeMap<String, u32>,
    /// Whether limits can be enforced; the reason when not.
    pub no_limits: Option<String>,
    /// Whether cells can have a network of their own; the reason when not.
    pub no_network: Option<String>,
    /// Whether sandboxes can be built; the reason when not.
    #[serde(default)]
    pub no_sandboxes: Option<String>,
    /// Whether the kernel has Landlock; the reason when not.
    #[serde(default)]
    pub no_landlock: Option<String>,
    /// Whether virtual machines can run; the reason when not.
    #[serde(default)]
    pub no_machines: Option<String>,
    /// Whether Firecracker can run them; the reason when not.
    #[serde(default)]
    pub no_firecracker: Option<String>,
    /// Whether containers can run; the reason when not.
    #[serde(default)]
    pub no_containers: Option<String>,
    /// Images of containers that were asked about and are not on this host.
    #[serde(default)]
    pub missing_container_images: BTreeSet<String>,
    /// Whether agents' files can have a file system of their own; the reason when not.
    #[serde(default)]
    pub no_disks: Option<String>,
    /// Sizes of home and workspace of the agents that were asked about and whose files are in directories, on no drives
    /// yet, by owner (`agent:NAME`).
    #[serde(default)]
    pub files_off_drives: BTreeMap<String, (Bytes, Bytes)>,
    /// Space that the images of agents' drives take on their disk, by owner (`agent:NAME`).
    #[serde(default)]
    pub space_of_drives: BTreeMap<String, Bytes>,
    /// Space that the file system of the house has left; none where it cannot be read.
    #[serde(default)]
    pub free_space: Option<Bytes>,
    /// Chain of another program that drops what cells send to other hosts, with the interface prefix of the house.
    #[serde(default)]
    pub forward_blocked_by: Option<String>,
    /// Kinds of service that data in the directories of services is of, by owner (`service:NAME`), also of services that were removed.
    #[serde(default)]
    pub kinds_of_data: BTreeMap<String, String>,
    /// Why agents and services that had files can't go on, by owner (`agent:NAME`): their directory does not exist any more.
    #[serde(default)]
    pub lost_files: BTreeMap<String, String>,
    /// The same for services, by owner, whose directory lacks the data that it seems to have had.
    #[serde(default)]
    pub lost_data: BTreeMap<String, String>,
    /// Memory of the host; none where it cannot be read.
    #[serde(default)]
    pub memory: Option<Bytes>,
    /// Locales that programs of the host can have, as their files are called: `sl_SI.utf8`.
    #[serde(default)]
    pub locales: BTreeSet<String>,
    /// Images that machines can boot from.
    #[serde(default)]
    pub images: BTreeSet<String>,
}

/// An allocation that cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AllocationConflict {
    /// Another owner holds it.
    #[error("{kind} {value} is in use by {holder}", kind = kind.name())]
    Held {
        /// Kind of resource.
        kind: ResourceKind,
        /// The resource: a port, subnet or user number.
        value: String,
        /// Present owner, or the host's program that uses it.
        holder: String,
    },
    /// The whole range is in use.
    #[error("no {kind} is free in {range}: the house uses {used} of it{}", others_use(.others), kind = kind.name())]
    Exhausted {
        /// Kind of resource.
        kind: ResourceKind,
        /// Range that was searched.
        range: String,
        /// Number of allocations of the house in it.
        used: usize,
        /// What else uses a part of it.
        others: BTreeSet<String>,
    },
}

/// The end of the message of an exhausted range: what others use a part of it.
fn others_use(others: &BTreeSet<String>) -> String {
    match (others.first(), others.len()) {
        (None, _) => String::new(),
        (Some(one), 1) => format!(", and {one} a part"),
        (Some(one), n) => format!(", and {one} and {} others a part", n - 1),
    }
}

/// Every allocation of the house.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registry {
    rows: BTreeSet<Allocation>,
}

impl Registry {
    /// A registry that holds these allocations.
    pub fn new(rows: impl IntoIterator<Item = Allocation>) -> Self {
        Registry {
            rows: rows.into_iter().collect(),
        }
    }

    /// Every allocation, in order.
    pub fn rows(&self) -> impl Iterator<Item = &Allocation> {
        self.rows.iter()
    }

    /// The allocation that an owner (`agent:NAME`, `service:NAME`) has for a purpose.
    pub fn find_allocation(&self, owner: &str, purpose: &str) -> Option<&Allocation> {
        self.rows
            .iter()
            .find(|r| r.owner == owner && r.purpose == purpose)
    }

    fn holder(&self, kind: ResourceKind, value: &str) -> Option<&str> {
        self.rows
            .iter()
            .find(|r| r.kind == kind && r.value == value)
            .map(|r| r.owner.as_str())
    }

    /// Records the port at which cells reach an external service, unless one is recorded already.
    pub(crate) fn keep_inside_port(&mut self, service: &Slug, port: u16) {
        let owner = format!("service:{service}");
        if self.find_allocation(&owner, INSIDE_PORT).is_none() {
            let value = format!("{service}:{port}");
            self.insert(ResourceKind::InsidePort, value, &owner, INSIDE_PORT);
        }
    }

    /// Ports at which cells reach external services.
    pub(crate) fn inside_ports(&self) -> impl Iterator<Item = u16> {
        let rows = self.rows.iter().filter(|r| r.purpose == INSIDE_PORT);
        rows.filter_map(Allocation::port)
    }

    /// Allocates a port in a service's own network, where no other service is in the way.
    pub(crate) fn allocate_own_port(&mut self, service: &Slug, port: u16) {
        let owner = format!("service:{service}");
        let held = self.find_allocation(&owner, "port");
        // One that was allocated for the whole house is as good.
        if held.is_some_and(|held| held.port() == Some(port)) {
            return;
        }
        self.release_purpose(&owner, "port");
        let value = format!("{service}:{port}");
        self.insert(ResourceKind::InsidePort, value, &owner, "port");
    }

    /// Releases the allocation that an owner has for a purpose.
    pub fn release_purpose(&mut self, owner: &str, purpose: &str) {
        self.rows
            .retain(|r| !(r.owner == owner && r.purpose == purpose));
    }

    /// Releases every allocation of an owner.
    pub fn release_owner(&mut self, owner: &str) {
        self.rows.retain(|r| r.owner != owner);
    }

    /// Gives every allocation of an owner to the same owner under another name.
    pub(crate) fn rename_owner(&mut self, old: &str, new: &str) {
        let rename = |mut row: Allocation| {
            if row.owner == old {
                new.clone_into(&mut row.owner);
            }
            row
        };
        self.rows = std::mem::take(&mut self.rows)
            .into_iter()
            .map(rename)
            .collect();
    }

    fn insert(&mut self, kind: ResourceKind, value: String, owner: &str, purpose: &str) {
        self.rows.insert(Allocation {
            kind,
            value,
            owner: owner.to_owned(),
            purpose: purpose.to_owned(),
        });
    }

    /// Allocates exactly this TCP port to an owner, and takes it from whoever got it from the network's range.
    pub fn allocate_named_port(&mut self, port: u16, owner: &str, purpose: &str) {
        let value = port.to_string();
        let taken: Vec<(String, String)> = self
            .rows
            .iter()
            .filter(|r| r.kind == ResourceKind::Port && r.value == value)
            .filter(|r| (r.owner.as_str(), r.purpose.as_str()) != (owner, purpose))
            .map(|r| (r.owner.clone(), base_purpose(&r.purpose).to_owned()))
            .collect();
        // A runtime's ports follow each other, so it gives up all of them.
        for (other, base) in taken {
            self.rows
                .retain(|r| !(r.owner == other && base_purpose(&r.purpose) == base));
        }
        self.release_purpose(owner, purpose);
        self.insert(ResourceKind::Port, value, owner, purpose);
    }

    /// Allocates the first TCP port of the network's range for which the port and every offset of it are free and not
    /// among the `named` ones. What the owner has is kept if it is inside the range and not named, and, where it is a
    /// port of the host (`on_host`), no other program has it.
    ///
    /// # Errors
    /// [`AllocationConflict::Exhausted`].
    pub fn allocate_any_port(
        &mut self,
        network: &Network,
        offsets: &[u16],
        (owner, purpose): (&str, &str),
        named: &BTreeSet<u16>,
        on_host: bool,
        host: &HostFacts,
    ) -> Result<u16, AllocationConflict> {
        let (first, last) = network.ports;
        let every = |base: u16, fits: &dyn Fn(u16) -> bool| {
            let mut ports = offsets.iter().map(|o| base.checked_add(*o));
            ports.all(|port| port.is_some_and(fits))
        };
        let usable = |port: u16| {
            let free = !on_host || !host.ports.contains_key(&port);
            (first..=last).contains(&port) && !named.contains(&port) && free
        };
        let held = self
            .find_allocation(owner, purpose)
            .filter(|r| r.kind == ResourceKind::Port)
            .and_then(|r| r.value.parse().ok());
        if let Some(port) = held.filter(|port| every(*port, &usable)) {
            return Ok(port);
        }
        self.rows.retain(|r| {
            let own = base_purpose(&r.purpose) == purpose;
            let port = matches!(r.kind, ResourceKind::Port | ResourceKind::InsidePort);
            !(r.owner == owner && port && own)
        });
        let free = |port: u16| {
            port <= last
                && !named.contains(&port)
                && !host.ports.contains_key(&port)
                && self.holder(ResourceKind::Port, &port.to_string()).is_none()
        };
        let base = (first..=last)
            .find(|base| every(*base, &free))
            .ok_or_else(|| AllocationConflict::Exhausted {
                kind: ResourceKind::Port,
                range: format!("{first}-{last}"),
                used: self
                    .rows
                    .iter()
                    .filter(|r| r.kind == ResourceKind::Port)
                    .filter(|r| r.port().is_some_and(|p| (first..=last).contains(&p)))
                    .count(),
                others: host
                    .ports
                    .range(first..=last)
                    .map(|(_, h)| h.clone())
                    .collect(),
            })?;
        for offset in offsets {
            let purpose = if *offset == 0 {
                purpose.to_owned()
            } else {
                format!("{purpose}+{offset}")
            };
            self.insert(
                ResourceKind::Port,
                (base + offset).to_string(),
                owner,
                &purpose,
            );
        }
        Ok(base)
    }

    /// Allocates exactly this subnet to an owner, and takes it from whoever has it or a part of it.
    ///
    /// # Errors
    /// [`AllocationConflict::Held`] with what uses it on the host.
    pub fn allocate_named_subnet(
        &mut self,
        subnet: Subnet,
        owner: &str,
        host: &HostFacts,
    ) -> Result<(), AllocationConflict> {
        let net = (subnet.base(), subnet.prefix());
        let mut others = host.subnets.iter();
        if let Some((_, _, holder)) = others.find(|(a, p, _)| overlap((*a, *p), net)) {
            return Err(AllocationConflict::Held {
                kind: ResourceKind::Subnet,
                value: subnet.to_string(),
                holder: holder.clone(),
            });
        }
        self.release_purpose(owner, "subnet");
        self.rows.retain(|r| {
            let held = r.value.parse::<Subnet>();
            r.kind != ResourceKind::Subnet || held.is_ok_and(|held| !held.overlaps(subnet))
        });
        self.insert(ResourceKind::Subnet, subnet.to_string(), owner, "subnet");
        Ok(())
    }

    /// Allocates the first free subnet of the network's pool that overlaps no network of the host. A subnet that the
    /// owner has is kept, unless the host uses it for something else by now.
    ///
    /// # Errors
    /// [`AllocationConflict::Exhausted`].
    pub fn allocate_subnet(
        &mut self,
        network: &Network,
        owner: &str,
        host: &HostFacts,
    ) -> Result<Subnet, AllocationConflict> {
        let held = self
            .find_allocation(owner, "subnet")
            .and_then(|r| r.value.parse().ok());
        let pool = (network.pool, network.pool_prefix);
        let on_host = |net: (Ipv4Addr, u8)| {
            let mut others = host.subnets.iter();
            others.any(|(a, p, _)| overlap((*a, *p), net))
        };
        // One that was cut from another pool or in another size is exchanged.
        if let Some(subnet) = held.filter(|s: &Subnet| {
            let net = (s.base(), s.prefix());
            s.prefix() == network.prefix && overlap(pool, net) && !on_host(net)
        }) {
            return Ok(subnet);
        }
        self.release_purpose(owner, "subnet");
        let size = 1u64 << (32 - network.prefix);
        let count = 1u64 << (network.prefix - network.pool_prefix);
        let base = u64::from(u32::from(network.pool));
        for n in 0..count {
            let Ok(bits) = u32::try_from(base + n * size) else {
                break;
            };
            let address = Ipv4Addr::from(bits);
            let Some(subnet) = Subnet::new(address, network.prefix) else {
                break;
            };
            let taken = self.rows.iter().any(|r| {
                r.kind == ResourceKind::Subnet
                    && crate::shape::parse_network(&r.value)
                        .is_some_and(|(a, p)| overlap((a, p), (address, network.prefix)))
            });
            if !taken && !on_host((address, network.prefix)) {
                self.insert(ResourceKind::Subnet, subnet.to_string(), owner, "subnet");
                return Ok(subnet);
            }
        }
        Err(AllocationConflict::Exhausted {
            kind: ResourceKind::Subnet,
            range: format!("{}/{}", network.pool, network.pool_prefix),
            used: self
                .rows
                .iter()
                .filter(|r| r.kind == ResourceKind::Subnet)
                .filter_map(|r| r.value.parse::<Subnet>().ok())
                .filter(|s| overlap((s.base(), s.prefix()), pool))
                .count(),
            others: host
                .subnets
                .iter()
                .filter(|(a, p, _)| overlap((*a, *p), pool))
                .map(|(_, _, holder)| holder.clone())
                .collect(),
        })
    }

    /// Allocates a user id at or above `first`: the one in `bound`, to which the owner's files belong, or the one that
    /// it has already. A released id is not allocated again while a higher one is free, so that a new owner does not get
    /// the files of an old one.
    ///
    /// # Errors
    /// [`AllocationConflict::Exhausted`].
    pub fn allocate_uid(
        &mut self,
        owner: &str,
        first: u32,
        newest: u32,
        bound: &BTreeMap<String, u32>,
    ) -> Result<u32, AllocationConflict> {
        let row = self.find_allocation(owner, "uid");
        let has: Option<u32> = row.and_then(|r| r.value.parse().ok());
        let others = || bound.iter().filter(|(o, _)| *o != owner).map(|(_, u)| *u);
        match bound.get(owner).copied() {
            None => match has {
                Some(uid) if !others().any(|u| u == uid) => return Ok(uid),
                _ => self.release_purpose(owner, "uid"),
            },
            Some(uid) => {
                if has != Some(uid) {
                    self.release_purpose(owner, "uid");
                    self.insert(ResourceKind::Uid, uid.to_string(), owner, "uid");
                }
                return Ok(uid);
            }
        }
        let used: BTreeSet<u32> = self
            .rows
            .iter()
            .filter(|r| r.kind == ResourceKind::Uid)
            .filter_map(|r| r.value.parse().ok())
            .chain(others())
            .collect();
        let last = first.saturating_add(UID_COUNT);
        let start = newest
            .max(used.last().copied().unwrap_or(first.saturating_sub(1)))
            .saturating_add(1)
            .max(first);
        let uid = (start..last)
            .chain(first..last)
            .find(|u| !used.contains(u))
            .ok_or_else(|| AllocationConflict::Exhausted {
                kind: ResourceKind::Uid,
                range: format!("{first}-{last}"),
                used: used.len(),
                others: BTreeSet::new(),
            })?;
        self.insert(ResourceKind::Uid, uid.to_string(), owner, "uid");
        Ok(uid)
    }
}

/// Purpose of the first port of several that follow each other: `door` of `door+1`.
fn base_purpose(purpose: &str) -> &str {
    purpose.split_once('+').map_or(purpose, |(base, _)| base)
}

impl fmt::Display for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} for {} ({})",
            self.kind.name(),
            self.value,
            self.owner,
            self.purpose
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn network() -> Network {
        Network {
            bridged: false,
            pool: Ipv4Addr::new(10, 77, 0, 0),
            pool_prefix: 22,
            prefix: 24,
            ports: (18800, 18809),
            slots: BTreeMap::new(),
        }
    }

    fn any_port(registry: &mut Registry, owner: &str, on_host: bool, host: &HostFacts) -> u16 {
        let named = BTreeSet::from([18805]);
        registry
            .allocate_any_port(&network(), &[0, 3], (owner, "door"), &named, on_host, host)
            .unwrap()
    }

    #[test]
    fn a_footprint_is_reserved_whole_around_named_and_used_ports() {
        let mut registry = Registry::default();
        let host = HostFacts {
            ports: [(18803, "pid 1".to_owned())].into(),
            ..HostFacts::default()
        };
        assert_eq!(any_port(&mut registry, "agent:a", false, &host), 18801);
        assert_eq!(any_port(&mut registry, "agent:b", false, &host), 18806);
        // A named port takes all that its holder has, and the holder gets others.
        registry.release_owner("agent:b");
        registry.allocate_named_port(18804, "service:s", "port");
        assert_eq!(any_port(&mut registry, "agent:a", false, &host), 18806);
    }

    #[test]
    fn a_kept_port_moves_if_another_program_of_the_host_has_it() {
        let mut registry = Registry::default();
        let idle = HostFacts::default();
        assert_eq!(any_port(&mut registry, "agent:a", true, &idle), 18800);
        let used = HostFacts {
            ports: [(18800, "pid 12 (nginx)".to_owned())].into(),
            ..HostFacts::default()
        };
        // In a network of its own nobody is in the way.
        assert_eq!(any_port(&mut registry, "agent:a", false, &used), 18800);
        assert_eq!(any_port(&mut registry, "agent:a", true, &used), 18801);
    }

    #[test]
    fn subnets_avoid_the_host_and_run_out_with_a_count() {
        let mut registry = Registry::default();
        let host = HostFacts {
            subnets: vec![(Ipv4Addr::new(10, 77, 1, 0), 24, "eth0".into())],
            ..HostFacts::default()
        };
        let given: Vec<String> = ["a", "b", "c"]
            .iter()
            .map(|o| {
                registry
                    .allocate_subnet(&network(), o, &host)
                    .unwrap()
                    .to_string()
            })
            .collect();
        assert_eq!(given, ["10.77.0.0/24", "10.77.2.0/24", "10.77.3.0/24"]);
        assert!(matches!(
            registry.allocate_subnet(&network(), "d", &host),
            Err(AllocationConflict::Exhausted { used: 3, .. })
        ));
        let full = registry.allocate_subnet(&network(), "d", &host);
        assert_eq!(
            full.unwrap_err().to_string(),
            "no subnet is free in 10.77.0.0/22: the house uses 3 of it, and eth0 a part"
        );
        // A network that the host got since then is avoided, too.
        registry.release_owner("c");
        let later = HostFacts {
            subnets: vec![(Ipv4Addr::new(10, 77, 0, 0), 24, "tun0".into())],
            ..HostFacts::default()
        };
        let exchanged = registry.allocate_subnet(&network(), "a", &later).unwrap();
        assert_eq!(exchanged.to_string(), "10.77.1.0/24");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn nothing_ever_has_two_owners(ops in prop::collection::vec((0u8..6, 0u8..5), 1..60)) {
            let mut registry = Registry::default();
            let host = HostFacts::default();
            // Users of owners that have files, as hostd keeps them.
            let mut bound = BTreeMap::new();
            for (who, what) in ops {
                let owner = format!("agent:a{who}");
                match what {
                    0 => { let _ = registry.allocate_any_port(&network(), &[0, 3], (&owner, "door"), &BTreeSet::new(), true, &host); }
                    1 => {
                        let _ = registry.allocate_subnet(&network(), &owner, &host);
                        let uid = registry.allocate_uid(&owner, 700_000, 0, &bound).unwrap();
                        prop_assert_eq!(*bound.entry(owner.clone()).or_insert(uid), uid);
                        prop_assert!(bound.iter().all(|(o, u)| *o == owner || *u != uid));
                    }
                    2 => {
                        let named = Subnet::new(Ipv4Addr::new(10, 77, who % 4, 0), 24).unwrap();
                        registry.allocate_named_subnet(named, &owner, &host).unwrap();
                        let row = registry.find_allocation(&owner, "subnet").unwrap();
                        prop_assert_eq!(&row.value, &named.to_string());
                    }
                    // A service that is disabled: its files stay.
                    3 => registry.release_owner(&owner),
                    _ => { registry.release_owner(&owner); bound.remove(&owner); }
                }
                let mut seen = BTreeSet::new();
                for row in registry.rows() {
                    prop_assert!(seen.insert((row.kind, row.value.clone())), "two owners of {row}");
                }
            }
        }
    }
}
