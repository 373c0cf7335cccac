//! What the host uses already, read and never changed.

use super::HostdConfig;
use super::house_subnets::subnets_of_others;
use super::ownership;
use crate::allocation::{Allocations, UIDS};
use crate::files::archive::DISKS;
use crate::record::{self, CellRecord};
use crate::sys::cgroup::ControlGroups;
use crate::sys::{host, listeners, process};
use crate::{container, microvm, network, sandbox};
use abbey_model::{Bytes, CellName, Slug};
use abbey_plan::HostFacts;
use abbey_support::service_data;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Stdio;

/// Longest name of a kind of data, bytes.
const KIND_MAX: u64 = 64;

/// Facts about the host: routes, listening ports, memory, images, locales, and why limits, networks, microVMs or
/// containers are unavailable; and the users that allocations of the house are bound to, if hostd is root.
pub(super) fn observe_host(
    config: &HostdConfig,
    allocations: &Allocations,
    container_images: BTreeSet<String>,
) -> HostFacts {
    let own = allocations.house_tag().interface_prefix();
    let group = &config.group;
    let uid_first = config.privileged.then_some(allocations.uid_first + 1);
    let owners = allocations.owners.iter();
    let bound = owners.filter_map(|(owner, has)| Some((owner.owner(), has.uid?)));
    let others = host::ipv4_routes()
        .into_iter()
        .filter(|r| !r.2.starts_with(&own));
    let routes = others.map(|(a, p, name)| (a, p, format!("route by {name}")));
    let of_houses = subnets_of_others(allocations).into_iter();
    let of_houses = of_houses.map(|(s, home)| (s.base(), s.prefix(), format!("house in {home}")));
    let (ports, foreign_ports) = listening(config, allocations.uid_first);
    HostFacts {
        subnets: routes.chain(of_houses).collect(),
        ports,
        foreign_ports,
        uid_first,
        bound_uids: bound.collect(),
        no_limits: ControlGroups::why_unusable(group),
        no_network: network::why_networks_unusable(uid_first.is_some()),
        no_sandboxes: sandbox::why_sandboxes_unusable(),
        no_landlock: sandbox::why_landlock_unusable(),
        no_machines: microvm::why_microvms_unusable(),
        no_firecracker: microvm::firecracker::why_firecracker_unusable(),
        no_containers: container::why_unusable(),
        missing_container_images: container::missing_images(container_images),
        lost_files: ownership::lost_files(config, allocations),
        lost_data: ownership::lost_data(config, allocations),
        kinds_of_data: kinds_of_data(config),
        files_off_drives: BTreeMap::new(),
        space_of_drives: space_of_drives(config, allocations),
        free_space: super::disks::free_space(&config.home),
        no_disks: super::disks::why_disks_unusable(uid_first.is_some()),
        forward_blocked_by: network::foreign::blocking_chain(allocations.house_tag(), allocations),
        memory: host::read_meminfo("MemTotal:"),
        // A damaged one is found when it is to be used, and said then.
        images: microvm::image::image_names(&config.images_dir()),
        locales: host::installed_locales(),
    }
}

/// Sizes of home and workspace of those of these agents whose files are in directories and on no drives, by owner.
pub(super) fn sizes_off_drives(
    config: &HostdConfig,
    agents: BTreeSet<Slug>,
) -> BTreeMap<String, (Bytes, Bytes)> {
    let sizes = agents.into_iter().filter_map(|slug| {
        let owner = CellName::Agent(slug);
        let dir = config.owner_dir(&owner);
        let mut drives = [DISKS, "drives"].into_iter();
        let on_drives = drives.any(|name| microvm::drives::has_images(&dir.join(name)));
        if on_drives || !dir.is_dir() {
            return None;
        }
        let size = |place: &str| size_on_disk(&dir.join(place)).unwrap_or_default();
        Some((owner.owner(), (size("home"), size("workspace"))))
    });
    sizes.collect()
}

/// Kinds that data in the directories of services is of, by owner, as the services noted them.
fn kinds_of_data(config: &HostdConfig) -> BTreeMap<String, String> {
    let entries = fs::read_dir(config.home.join("services"));
    let names = entries.into_iter().flatten().flatten();
    let kinds = names.filter_map(|entry| {
        let slug: Slug = entry.file_name().to_str()?.parse().ok()?;
        let owner = CellName::Service(slug);
        let file = config.open_owner_dir(&owner).ok()?;
        let file = file.open_file(service_data::KIND).ok()?;
        let mut kind = String::new();
        file.take(KIND_MAX).read_to_string(&mut kind).ok()?;
        Some((owner.owner(), kind.trim().to_owned()))
    });
    kinds.collect()
}

/// Space that the images of drives take on their disk, by owner.
fn space_of_drives(config: &HostdConfig, allocations: &Allocations) -> BTreeMap<String, Bytes> {
    let taken = allocations.owners.keys().filter_map(|owner| {
        let dir = config.owner_dir(owner);
        let mut places = [DISKS, "drives"].into_iter().map(|name| dir.join(name));
        let images = places.find(|images| microvm::drives::has_images(images))?;
        Some((owner.owner(), microvm::drives::space_taken(&images)))
    });
    taken.collect()
}

/// What the files below a directory take on their disk; none if that cannot be measured.
pub(super) fn size_on_disk(path: &Path) -> Option<Bytes> {
    let mut command = microvm::drives::host_command("du", None);
    let command = command.args(["-s", "-x", "-B1", "--"]).arg(path);
    // What a running agent removes meanwhile is missing from the sum and makes an exit status of 1.
    let output = command.stdout(Stdio::piped()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.split_whitespace().next()?.parse().ok().map(Bytes)
}

/// Listening TCP ports, with the name of the holder where we may see it, and those of them in the way of a cell that
/// are not of this house.
fn listening(config: &HostdConfig, first: u32) -> (BTreeMap<u16, String>, BTreeSet<u16>) {
    let shims = running_shims(config);
    let sockets = listeners::tcp_listeners().unwrap_or_default();
    let mut holders: BTreeMap<u64, i32> = BTreeMap::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in processes.filter_map(|p| p.file_name().to_str()?.parse::<i32>().ok()) {
        let inodes = listeners::socket_inodes(pid).unwrap_or_default();
        holders.extend(inodes.into_iter().map(|inode| (inode, pid)));
    }
    let mut ports = BTreeMap::new();
    let mut foreign = BTreeSet::new();
    for socket in sockets {
        let holder = holders.get(&socket.inode).copied();
        let own = match holder {
            Some(pid) => ancestry(pid).any(|p| shims.contains(&p)),
            // Whose process is not seen is told by its user: of this house's cells, or of the house while one runs.
            None if config.privileged => (first..first + UIDS).contains(&socket.uid),
            None => socket.uid == config.serve_uid && !shims.is_empty(),
        };
        if !own && socket.accepts_loopback() {
            foreign.insert(socket.port);
        }
        let name = match holder {
            Some(pid) => format!("pid {pid} ({})", program_name(pid)),
            None => "another program".to_owned(),
        };
        if !own || !ports.contains_key(&socket.port) {
            ports.insert(socket.port, name);
        }
    }
    (ports, foreign)
}

/// Longest name of a program, characters.
const NAME_MAX: usize = 120;

/// Name of the program of a process, for people; of one of Abbey also what it is for which house. Whoever runs it chooses
/// what that says, so it is escaped and cut.
fn program_name(pid: i32) -> String {
    let read = |file: &str| {
        let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let comm = read("comm");
    let program = fs::read_link(format!("/proc/{pid}/exe")).ok();
    let program = program.as_ref().and_then(|p| p.file_name()?.to_str());
    let name = match program {
        // Abbey starts itself by `/proc/self/exe`, of which the kernel keeps the last part.
        Some(program) if comm.trim() == "exe" => program,
        _ => comm.trim(),
    };
    let line = read("cmdline");
    let words: Vec<&str> = line.split('\0').collect();
    let text = match words[..] {
        [_, "role", "serve", "--home", home, ..] if name.starts_with("abbey") => {
            format!("{name}, control plane of the house in {home}")
        }
        [title, ..] if title.starts_with("abbey role ") => title.to_owned(),
        _ => name.to_owned(),
    };
    text.chars()
        .take(NAME_MAX)
        .flat_map(char::escape_debug)
        .collect()
}

/// Processes of the shims of this house that run.
fn running_shims(config: &HostdConfig) -> BTreeSet<i32> {
    let cells = fs::read_dir(config.cell_records_dir()).into_iter();
    let records = cells.flatten().flatten().filter_map(|cell| {
        let file = cell.path().join("shim.json");
        record::read_json::<CellRecord>(&file).ok().flatten()
    });
    let alive = records.filter(|r| process::is_alive(&r.shim));
    alive.map(|r| r.shim.pid).collect()
}

/// A process, its parent, and so on up to the first process of the host.
fn ancestry(pid: i32) -> impl Iterator<Item = i32> {
    std::iter::successors(Some(pid), |pid| process::parent(*pid))
}
