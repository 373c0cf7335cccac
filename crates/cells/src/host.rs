//! What the host uses already, read and never changed.

use crate::cgroup::Groups;
use crate::machine;
use crate::network::{self, Tag};
use abbey_model::Bytes;
use abbey_plan::HostFacts;
use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

/// Looks at interfaces' routes, listening ports and control groups. `uid_first` is the first user
/// of the house's cells, where they can have their own.
pub(crate) fn observe(group: &str, uid_first: Option<u32>, tag: Tag, images: &Path) -> HostFacts {
    let own = tag.prefix();
    let others = routes().into_iter().filter(|r| !r.2.starts_with(&own));
    HostFacts {
        subnets: others
            .map(|(a, p, name)| (a, p, format!("route by {name}")))
            .collect(),
        ports: listening(),
        uid_first,
        no_limits: Groups::unusable(group),
        no_network: network::unusable(uid_first.is_some()),
        no_machines: machine::unusable(),
        no_firecracker: machine::firecracker::unusable(),
        no_containers: machine::container::unusable(),
        no_disks: crate::hostd::disks::unusable(uid_first.is_some()),
        memory: memory("MemTotal:"),
        // A damaged one is found when it is to be used, and said then.
        images: machine::image::names(images),
        locales: locales(),
    }
}

/// Locales of the host as their files are called: directories, and those in the archive of the C library.
/// Source: localedef(1), `--list-archive`.
pub fn locales() -> std::collections::BTreeSet<String> {
    let entries = fs::read_dir("/usr/lib/locale").into_iter().flatten();
    let whole = entries
        .flatten()
        .filter(|e| e.path().join("LC_CTYPE").exists());
    let mut names: std::collections::BTreeSet<String> = whole
        .filter_map(|e| e.file_name().into_string().ok())
        .collect();
    let archive = std::process::Command::new("localedef")
        .arg("--list-archive")
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .output();
    if let Ok(archive) = archive {
        let text = String::from_utf8_lossy(&archive.stdout).into_owned();
        names.extend(text.lines().map(str::to_owned));
    }
    names
}

/// A line of `/proc/meminfo`, for example `MemAvailable:`; none where it cannot be read.
pub fn memory(line: &str) -> Option<Bytes> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let rest = text.lines().find_map(|l| l.strip_prefix(line))?;
    let kib: u64 = rest.split_whitespace().next()?.parse().ok()?;
    Some(Bytes(kib << 10))
}

/// Routes and their interfaces, of `/proc/net/route` (hexadecimal, in host byte order of a little-endian word).
pub(crate) fn routes() -> Vec<(Ipv4Addr, u8, String)> {
    let text = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let route = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let word = |i: usize| {
            u32::from_str_radix(fields.get(i)?, 16)
                .ok()
                .map(u32::swap_bytes)
        };
        let (address, mask) = (word(1)?, word(7)?);
        let prefix = u8::try_from(mask.count_ones()).ok()?;
        (prefix > 0).then(|| (Ipv4Addr::from(address), prefix, fields[0].to_owned()))
    };
    text.lines().skip(1).filter_map(route).collect()
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
