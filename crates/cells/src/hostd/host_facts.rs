//! What the host uses already, read and never changed.

use super::HostdConfig;
use crate::allocation::Allocations;
use crate::sys::cgroup::ControlGroups;
use crate::sys::host;
use crate::{container, microvm, network, sandbox};
use abbey_plan::HostFacts;
use std::collections::BTreeMap;
use std::fs;

/// Facts about the host: routes, listening ports, memory, images, locales, and why limits, networks, microVMs or
/// containers are unavailable; and the users that allocations of the house are bound to, if hostd is root.
pub(super) fn observe_host(config: &HostdConfig, allocations: &Allocations) -> HostFacts {
    let own = allocations.house_tag().interface_prefix();
    let group = &config.group;
    let uid_first = config.privileged.then_some(allocations.uid_first + 1);
    let owners = allocations.owners.iter();
    let bound = owners.filter_map(|(owner, has)| Some((owner.owner(), has.uid?)));
    let others = host::ipv4_routes()
        .into_iter()
        .filter(|r| !r.2.starts_with(&own));
    HostFacts {
        subnets: others
            .map(|(a, p, name)| (a, p, format!("route by {name}")))
            .collect(),
        ports: listening(),
        uid_first,
        bound_uids: bound.collect(),
        no_limits: ControlGroups::why_unusable(group),
        no_network: network::why_networks_unusable(uid_first.is_some()),
        no_sandboxes: sandbox::why_sandboxes_unusable(),
        no_landlock: sandbox::why_landlock_unusable(),
        no_machines: microvm::why_microvms_unusable(),
        no_firecracker: microvm::firecracker::why_firecracker_unusable(),
        no_containers: container::why_unusable(),
        no_disks: super::disks::why_disks_unusable(uid_first.is_some()),
        forward_blocked_by: network::foreign::blocking_chain(allocations.house_tag(), allocations),
        memory: host::read_meminfo("MemTotal:"),
        // A damaged one is found when it is to be used, and said then.
        images: microvm::image::image_names(&config.images_dir()),
        locales: host::installed_locales(),
    }
}

/// Listening TCP ports with the name of the holder where we may see it.
fn listening() -> BTreeMap<u16, String> {
    let mut inodes: BTreeMap<String, u16> = BTreeMap::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in fs::read_to_string(table)
            .unwrap_or_default()
            .lines()
            .skip(1)
        {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // State 0A is LISTEN; the inode is field 10.
            if let [_, local, _, "0A", _, _, _, _, _, inode, ..] = fields[..]
                && let Some(port) = local
                    .rsplit_once(':')
                    .and_then(|(_, p)| u16::from_str_radix(p, 16).ok())
            {
                inodes.insert(format!("socket:[{inode}]"), port);
            }
        }
    }
    let mut ports: BTreeMap<u16, String> = inodes
        .values()
        .map(|p| (*p, "another program".to_owned()))
        .collect();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes.filter(|p| {
        p.file_name()
            .to_string_lossy()
            .bytes()
            .all(|b| b.is_ascii_digit())
    }) {
        for fd in fs::read_dir(process.path().join("fd"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let Ok(target) = fs::read_link(fd.path()) else {
                continue;
            };
            if let Some(port) = inodes.get(target.to_string_lossy().as_ref()) {
                let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                let pid = process.file_name();
                ports.insert(
                    *port,
                    format!("pid {} ({})", pid.to_string_lossy(), name.trim()),
                );
            }
        }
    }
    ports
}
