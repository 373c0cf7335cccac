//! What hostd insists on before it starts anything: everything in a specification that could reach
//! beyond its own cell is either derived here or compared with what was allocation.

use super::HostdConfig;
use super::low_ports::check_low_ports;
use super::ownership;
use crate::allocation::{Allocation, Allocations, UIDS};
use crate::external;
use crate::files::archive::DISKS;
use crate::microvm::drives::{SIZE_MIN, has_images};
use crate::spec::{BootOrigin, MicroVm, SKILLS_IN_CELL};
use crate::{Bind, CellSpec, ForwardTarget, ListenAddress, PortForward};
use abbey_model::{CellKind, CellName, Limits, Slug, Vmm, overlap};
use abbey_support::beneath::DirHandle;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// Largest drive, bytes.
const DRIVE_MAX: u64 = 16 << 40;

/// Checks the specification of a cell against the owner's allocation, and fills in the fields that only hostd
/// decides (paths, tag).
///
/// # Errors
/// A sentence that names the violated rule.
pub(super) fn validate_spec(
    config: &HostdConfig,
    allocations: &Allocations,
    mut spec: CellSpec,
) -> Result<CellSpec, String> {
    let cell = spec.cell.clone();
    let allocation = allocations.owners.get(&cell).cloned().unwrap_or_default();
    if config.privileged && allocation.uid.is_none() {
        return Err(format!("{cell} has no allocated user"));
    }
    if spec.uid != allocation.uid {
        return Err(format!(
            "{cell} would run as user {:?}, but its allocation has {:?}",
            spec.uid, allocation.uid
        ));
    }
    ownership::require_files(config, allocations, &cell)?;
    match (spec.kind, &spec.sandbox, &spec.microvm, &spec.container) {
        (CellKind::Process, None, None, None)
        | (CellKind::Sandbox, Some(_), None, None)
        | (CellKind::Microvm, None, Some(_), None)
        | (CellKind::Container, None, None, Some(_)) => {}
        (kind, ..) => {
            return Err(format!(
                "the specification of {cell} is incomplete for the kind {kind}"
            ));
        }
    }
    if spec.microvm.is_some() {
        ownership::require_drives(config, allocations, &cell)?;
    }
    let drives = config.owner_dir(&cell).join("drives");
    if spec.microvm.is_none() && has_images(&drives) {
        return Err(format!(
            "the files of {cell} are on the drives of its microVM, in `{}`; go back to `cell: microvm`, or move that directory away to start without them",
            drives.display()
        ));
    }
    let on_disks = has_images(&config.owner_dir(&cell).join(DISKS));
    if on_disks && (spec.sandbox.is_none() || allocation.disks.is_none()) {
        return Err(format!(
            "the files of {cell} are on file systems of its sandbox's; go back to `cell: sandbox` with `drives`, or move `{}` away to start without them",
            config.owner_dir(&cell).join(DISKS).display()
        ));
    }
    if let Some(container) = &mut spec.container {
        if container.image.parse::<Slug>().is_err() || !matches!(cell, CellName::Agent(_)) {
            return Err(format!(
                "`{}` is not a valid image name for {cell}",
                container.image
            ));
        }
        container.images = config.images_dir();
        container.files = config.owner_dir(&cell);
        container.skills = catalogue(config)?;
    }
    if let Some(microvm) = &mut spec.microvm {
        sized(microvm)?;
        microvm.images = config.images_dir();
        microvm.files = config.owner_dir(&cell);
        let known =
            |c: &CellName| matches!(c, CellName::Run(_)) && allocations.owners.contains_key(c);
        if let Some(template) = microvm.origin.template().filter(|t| !known(t)) {
            return Err(format!("{template} is not a template of this house"));
        }
    }
    spec.run_dir = config.cell_records_dir().join(cell.to_string());
    spec.log_dir = config.home.join("logs").join(cell.to_string());
    config.group.clone_into(&mut spec.group);
    if spec.network.map(|n| n.subnet) != allocation.subnet.filter(|_| spec.network.is_some()) {
        return Err(format!(
            "the network of {cell} is not the one of its allocation"
        ));
    }
    if let Some(network) = &mut spec.network {
        if spec.sandbox.is_none() {
            return Err(format!(
                "{cell} has no isolation, so it cannot have its own network"
            ));
        }
        network.tag = Some(allocations.house_tag());
        network.bridged = allocation.bridged;
    }
    for forward in &mut spec.forwards {
        reachable(
            config,
            allocations,
            &allocation,
            spec.network.is_some(),
            forward,
        )?;
    }
    check_low_ports(config, &spec)?;
    check_limits(&spec)?;
    let binds = spec.sandbox.iter_mut().flat_map(|s| &mut s.binds);
    for bind in binds {
        bindable(config, allocations, &cell, bind)?;
    }
    // What is beside its files in the directory of another owner is that owner's to change.
    let own_drives = spec.microvm.as_ref().is_some_and(|m| m.drives.is_some());
    if own_drives && !matches!(cell, CellName::Agent(_)) {
        return Err(format!("{cell} is no agent, so it cannot have drives"));
    }
    Ok(spec)
}

/// Limits are within what a manifest can declare; beyond that they would limit nothing.
fn check_limits(spec: &CellSpec) -> Result<(), String> {
    let Limits {
        cpu_milli,
        processes,
        ..
    } = spec.limits;
    if !(1..=Limits::CPU_MILLI_MAX).contains(&cpu_milli) {
        return Err(format!(
            "{} would have {} CPUs; choose at most {}",
            spec.cell,
            f64::from(cpu_milli) / 1000.0,
            Limits::CPU_MILLI_MAX / 1000
        ));
    }
    let range = Limits::PROCESSES_MIN..=Limits::PROCESSES_MAX;
    match range.contains(&processes) {
        true => Ok(()),
        false => Err(format!(
            "{} would have {processes} processes; choose {} to {}",
            spec.cell,
            range.start(),
            range.end()
        )),
    }
}

/// A microVM boots from an image of the house, and its drives have sizes that a file system can have.
fn sized(microvm: &MicroVm) -> Result<(), String> {
    if microvm.image.parse::<Slug>().is_err() {
        return Err(format!("`{}` is not a valid image name", microvm.image));
    }
    if microvm.vmm == Vmm::Firecracker && microvm.origin != BootOrigin::Cold {
        return Err("templates need QEMU; a Firecracker microVM always boots".to_owned());
    }
    // What others begin from, or begins from another, has no drive of its own.
    if microvm.origin != BootOrigin::Cold && microvm.drives.is_some() {
        return Err(
            "a microVM with its own drives cannot start from a template snapshot".to_owned(),
        );
    }
    let sizes = microvm
        .drives
        .iter()
        .flat_map(|d| [d.state, d.workspace, d.scratch]);
    for size in sizes {
        if size < SIZE_MIN || size.0 > DRIVE_MAX {
            return Err(format!(
                "a drive of {size} is not allowed; choose 16 MiB to 16 TiB"
            ));
        }
    }
    Ok(())
}

/// A forward listens where its owner is, and leads to the house or to one of its services.
fn reachable(
    config: &HostdConfig,
    allocations: &Allocations,
    allocation: &Allocation,
    networked: bool,
    forward: &mut PortForward,
) -> Result<(), String> {
    let at = *forward.at.socket_address().ip();
    let subnet = allocation.subnet.filter(|_| networked);
    let own = match forward.at {
        _ if at.is_loopback() => true,
        ListenAddress::Host(_) => subnet.is_some_and(|s| s.gateway() == at),
        ListenAddress::Cell(_) => subnet.is_some_and(|s| {
            let taken = at == s.gateway() || at == s.cell();
            !taken && overlap((s.base(), s.prefix()), (at, 32))
        }),
    };
    if !own {
        return Err(format!("this cell may not listen on {at}"));
    }
    match &mut forward.to {
        ForwardTarget::House(socket) => *socket = config.home.join("run/inside.sock"),
        ForwardTarget::Egress(socket) => *socket = config.home.join("run/egress.sock"),
        ForwardTarget::Names(socket) => *socket = config.home.join("run/names.sock"),
        ForwardTarget::Service(to) => {
            let services = allocations
                .owners
                .iter()
                .filter(|(name, _)| matches!(name, CellName::Service(_)));
            if !services
                .into_iter()
                .any(|(_, c)| c.service_address() == Some(*to))
            {
                return Err(format!("no service of this house has the address {to}"));
            }
        }
        ForwardTarget::External { service, record } => {
            let owner = allocations.owners.get(&CellName::Service(service.clone()));
            if owner.is_none_or(|claim| claim.elsewhere.is_none()) {
                return Err(format!(
                    "`{service}` is not an external service of this house"
                ));
            }
            *record = external::external_services_file(&config.hostd_dir());
        }
    }
    Ok(())
}

/// A cell sees its own files, and of the rest of the host at most a program that everybody may
/// run, and cannot write that. The source becomes a path on which no owner can put a link.
fn bindable(
    config: &HostdConfig,
    allocations: &Allocations,
    cell: &CellName,
    bind: &mut Bind,
) -> Result<(), String> {
    let plain = |path: &Path| {
        path.is_absolute()
            && path
                .components()
                .all(|c| matches!(c, Component::RootDir | Component::Normal(_)))
    };
    let source = bind.source.display().to_string();
    if !plain(&bind.source) || !plain(&bind.path) {
        return Err(format!("`{source}` is not a plain absolute path"));
    }
    if bind.path == Path::new(SKILLS_IN_CELL) && matches!(cell, CellName::Agent(_)) {
        let skills = catalogue(config)?;
        return match bind.source == skills && !bind.writable {
            true => Ok(()),
            false => Err(format!(
                "{cell} may have only `{}` at `{SKILLS_IN_CELL}`, and not write it",
                skills.display()
            )),
        };
    }
    if let Ok(own) = bind.source.strip_prefix(config.owner_dir(cell)) {
        return own_bind(cell, own).map_err(|why| format!("{why}: `{source}`"));
    }
    if bind.writable {
        return Err(format!("{cell} may not write `{source}`"));
    }
    let home = &config.home;
    if bind.source.starts_with(home) || home.starts_with(&bind.source) {
        return Err(format!("`{source}` belongs to the house, not to {cell}"));
    }
    let no_program = || format!("`{source}` is not a program that everybody may run");
    let real = bind.source.canonicalize().map_err(|_| no_program())?;
    let meta = real.symlink_metadata().map_err(|_| no_program())?;
    if !meta.is_file() || meta.mode() & 0o005 != 0o005 || real.starts_with(home) {
        return Err(no_program());
    }
    if config.privileged {
        let mut entry = meta;
        for dir in real.ancestors().skip(1) {
            let meta = dir.symlink_metadata().map_err(|_| no_program())?;
            if meta.mode() & 0o001 == 0 {
                return Err(no_program());
            }
            let replaceable = changeable(config, allocations, &meta, &entry);
            entry = meta;
            if replaceable {
                return Err(format!(
                    "`{source}` is in `{}`, which a user of this house can change",
                    dir.display()
                ));
            }
        }
    }
    bind.source = real;
    Ok(())
}

/// Directory of the house's skills, which every agent may read. Nobody but the user of hostd can put another in its place
/// or an entry into it.
fn catalogue(config: &HostdConfig) -> Result<PathBuf, String> {
    let path = config.home.join("skills");
    let failed = |e: std::io::Error| format!("`{}` cannot be mounted: {e}", path.display());
    let dir = DirHandle::open_own(&config.home).and_then(|home| home.open_dir("skills"));
    let stat = dir.and_then(|dir| dir.stat()).map_err(failed)?;
    let own = stat.st_uid == rustix::process::geteuid().as_raw();
    match own && stat.st_mode & 0o022 == 0 {
        true => Ok(path),
        false => Err(format!(
            "`{}` can be changed by other users, so it is not mounted; give it the mode 755 and the owner of the house",
            path.display()
        )),
    }
}

/// An owner's directory as a whole, or an entry of it, but nothing below what the owner can replace by a link.
fn own_bind(cell: &CellName, below: &Path) -> Result<(), String> {
    let parts: Vec<_> = below.iter().collect();
    let allowed = match (cell, parts.as_slice()) {
        (CellName::Agent(_), [place]) => *place == "home" || *place == "workspace",
        // A file of ours in a sticky directory of ours, as `verify_own_binds` checks.
        (CellName::Agent(_), [place, _]) => *place == "workspace",
        (CellName::Service(_) | CellName::Run(_), []) => true,
        _ => false,
    };
    match allowed {
        true => Ok(()),
        false => Err("this part of its files cannot be mounted".to_owned()),
    }
}

/// Whether the control plane's user or a cell's can replace an entry of a directory.
fn changeable(
    config: &HostdConfig,
    allocations: &Allocations,
    dir: &Metadata,
    entry: &Metadata,
) -> bool {
    let cells = allocations.uid_first..allocations.uid_first + UIDS;
    let ours = |id: u32| id == config.serve_uid || cells.contains(&id);
    let writable = dir.mode() & 0o002 != 0 || dir.mode() & 0o020 != 0 && ours(dir.gid());
    let sticky = dir.mode() & 0o1000 != 0 && !ours(entry.uid());
    ours(dir.uid()) || writable && !sticky
}

/// Checks that no source among a cell's own files is a link that its owner made; called once its disks are mounted.
///
/// # Errors
/// A sentence that names the source.
pub(super) fn verify_own_binds(config: &HostdConfig, spec: &CellSpec) -> Result<(), String> {
    let files = config.owner_dir(&spec.cell);
    let own_uid = rustix::process::geteuid().as_raw();
    for bind in spec.sandbox.iter().flat_map(|s| &s.binds) {
        let Ok(below) = bind.source.strip_prefix(&files) else {
            continue;
        };
        let checked = config.open_owner_dir(&spec.cell).and_then(|dir| {
            let failed = |e| crate::Error::file("mount", &bind.source)(e);
            match below.iter().count() {
                0 => Ok(()),
                1 => dir.open_dir(below).map(drop).map_err(failed),
                _ => {
                    let found = dir.open_file(below).map_err(failed)?;
                    match found.metadata().map_err(failed)?.uid() == own_uid {
                        true => Ok(()),
                        false => Err(failed(std::io::ErrorKind::PermissionDenied.into())),
                    }
                }
            }
        });
        checked.map_err(|e| crate::error::error_chain(&e))?;
    }
    Ok(())
}
