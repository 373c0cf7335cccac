//! Home and workspace of a sandbox on file systems with a size of their own: an agent that fills its disk fills
//! no other's, and not the host's.
//!
//! An image is mounted only in the mounts of the process that needs it: that of the call, which becomes the cell's
//! shim if it starts one. So the host never has it mounted, and it is gone with the last of them, however that
//! ends. The kernel has one loop device for an image, so all of them see the same files. The images are root's;
//! no agent can write what the kernel is to take for a file system.

use super::HostdConfig;
use super::ownership::require_files;
use crate::allocation::{Allocations, Disks};
use crate::files::archive::DISKS;
use crate::microvm::drives;
use crate::sys::programs;
use crate::{Error, Result, crash};
use abbey_model::{Bytes, CellName};
use abbey_plan::space_to_move;
use abbey_support::file;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// How they are mounted. The kernel takes the device away after the last use of it. Space of files that are removed stays the
/// image's: it is taken from the file system of the house once ([`drives::take_space`]).
const OPTIONS: &str = "loop,nosuid,nodev,noatime";

/// Reason why sandboxes cannot have disk images of their own on this host; none if they can.
pub(crate) fn why_disks_unusable(privileged: bool) -> Option<String> {
    if !privileged {
        return Some(
            "file systems can be mounted only if the house was started as root".to_owned(),
        );
    }
    if !Path::new("/dev/loop-control").exists() {
        return Some("the kernel has no loop devices".to_owned());
    }
    let missing = [("mkfs.ext4", "e2fsprogs"), ("mount", "mount")]
        .into_iter()
        .find(|(program, _)| !programs::is_installed(program));
    missing.map(|(program, package)| format!("`{program}` is not installed (package {package})"))
}

fn mount(image: &Path, at: &Path) -> Result<()> {
    let mut command = drives::host_command("mount", None);
    command
        .args(["-t", "ext4", "-o", OPTIONS])
        .args([image, at]);
    drives::run_drive_tool(command, &[0], image)
}

/// Mounts the file systems that an owner's files are on, if they are on any, for the rest of this process.
///
/// # Errors
/// Also if one of them is lost: it is not replaced by an empty one.
pub(super) fn mount_disks_of(
    config: &HostdConfig,
    allocations: &Allocations,
    owner: &CellName,
) -> Result<()> {
    let disks = allocations.owners.get(owner).and_then(|a| a.disks);
    let disks = match disks {
        Some(disks) => Some(disks),
        None => disks_without_allocation(config, owner)?,
    };
    let Some(disks) = disks.filter(|_| config.privileged) else {
        return Ok(());
    };
    let op = "use the files of a cell";
    require_files(config, allocations, owner).map_err(|why| Error::Hostd { op, why })?;
    mount_owner_disks(config, owner, disks)
}

/// As [`mount_disks_of`], to read the files where they are: none moves into an image that does not exist yet.
pub(super) fn mount_existing_disks_of(
    config: &HostdConfig,
    allocations: &Allocations,
    owner: &CellName,
) -> Result<()> {
    match drives::has_images(&config.owner_dir(owner).join(DISKS)) {
        true => mount_disks_of(config, allocations, owner),
        false => require_files(config, allocations, owner).map_err(|why| Error::Hostd {
            op: "use the files of a cell",
            why,
        }),
    }
}

/// Images that hold the files of an owner whose allocation names none, as of an agent that was restored with files from
/// before its manifest entry lost `drives`. They keep their sizes. None if the owner has no images, or uses the files
/// beside them ([`has_unused_disks`]).
///
/// # Errors
/// If one of its two images is lost.
fn disks_without_allocation(config: &HostdConfig, owner: &CellName) -> Result<Option<Disks>> {
    let dir = config.owner_dir(owner).join(DISKS);
    if !matches!(owner, CellName::Agent(_)) || !drives::has_images(&dir) {
        return Ok(None);
    }
    if has_files_beside_disks(config, owner) {
        return Ok(None);
    }
    let size = |name: &str| {
        let image = dir.join(name).with_extension("ext4");
        let found = fs::symlink_metadata(&image).map_err(Error::file("use the drive", image))?;
        Ok::<_, Error>(Bytes(found.size()))
    };
    Ok(Some(Disks {
        state: size("state")?,
        workspace: size("workspace")?,
    }))
}

/// Whether an owner has both files in its plain directories and images with files that are not mounted, since its
/// allocation names no disks. To be asked before anything is mounted.
pub(super) fn has_unused_disks(
    config: &HostdConfig,
    allocations: &Allocations,
    owner: &CellName,
) -> bool {
    let allocated = allocations.owners.get(owner).and_then(|a| a.disks);
    allocated.is_none()
        && drives::has_images(&config.owner_dir(owner).join(DISKS))
        && has_files_beside_disks(config, owner)
}

fn has_files_beside_disks(config: &HostdConfig, owner: &CellName) -> bool {
    let files = config.owner_dir(owner);
    let parts = [("state", "home"), ("workspace", "workspace")];
    parts.iter().any(|(name, place)| {
        let image = files.join(DISKS).join(name).with_extension("ext4");
        let mut entries = fs::read_dir(files.join(place)).into_iter().flatten();
        !moved(&image).exists() && entries.next().is_some()
    })
}

/// Mounts the disk images of an owner in mounts of this process alone. Creates or grows an image as needed; a new
/// one gets the owner's existing files.
fn mount_owner_disks(config: &HostdConfig, owner: &CellName, disks: Disks) -> Result<()> {
    let files = config.owner_dir(owner);
    let dir = files.join(DISKS);
    let running = || super::guest::is_running(&config.cell_records_dir(), owner);
    if !files.exists() || !drives::has_images(&dir) && running()? {
        // The files move into an image while nobody can change them: at the next start.
        return Ok(());
    }
    abbey_launch::unshare_mounts().map_err(Error::file("leave", "the mounts of the host"))?;
    fs::create_dir_all(&dir).map_err(Error::file("make", &dir))?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))
        .map_err(Error::file("protect", &dir))?;
    // One at a time: two that mount at once could make two devices of one image.
    let _lock = crate::sys::lock::lock_file(&dir.join("lock"))?;
    let parts = [
        ("state", "abbey-state", disks.state, "home"),
        ("workspace", "abbey-work", disks.workspace, "workspace"),
    ];
    // Files move once all of them have got into images, so that what does not fit leaves the owner as it was.
    let mut made = Vec::new();
    for (name, label, size, place) in parts {
        let (image, place) = (dir.join(name).with_extension("ext4"), files.join(place));
        match fs::symlink_metadata(&image) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::file("look at", &image)(e));
            }
            Err(_) => {
                if let Err(error) = fill(&image, label, size, &place) {
                    made.push(image);
                    for image in made {
                        let _made_anew_next_time = fs::remove_file(unfinished(&image));
                    }
                    return Err(error);
                }
                made.push(image);
            }
            // One that is in use grows when it is not.
            Ok(meta) if meta.size() < size.0 && !in_use(&image) => {
                drives::grow_drive(&image, size, None)?;
            }
            Ok(_) => {}
        }
    }
    for image in &made {
        publish(image)?;
    }
    for (name, _, _, place) in parts {
        let (image, place) = (dir.join(name).with_extension("ext4"), files.join(place));
        empty(&image, &place)?;
        fs::create_dir_all(&place).map_err(Error::file("make", &place))?;
        drives::take_space(&image)?;
        mount(&image, &place)?;
    }
    Ok(())
}

/// Says beside an image that the files of the directory below it are in it, until they are gone from there.
fn moved(image: &Path) -> PathBuf {
    image.with_extension("moved")
}

/// Takes away what was moved into an image; after a crash this is where it goes on. Nothing is mounted there yet.
fn empty(image: &Path, place: &Path) -> Result<()> {
    let moved = moved(image);
    if !moved.exists() {
        return Ok(());
    }
    if place.is_dir() {
        fs::remove_dir_all(place).map_err(Error::file("remove", place))?;
    }
    fs::remove_file(&moved).map_err(Error::file("remove", moved))
}

/// Where an image is until it is whole.
fn unfinished(image: &Path) -> PathBuf {
    image.with_extension("new")
}

/// Makes an image beside its place, with the files of a directory.
fn fill(image: &Path, label: &str, size: Bytes, from: &Path) -> Result<()> {
    require_space(image, from)?;
    fill_whole(image, label, size, from)
}

/// As [`fill`]. Fails if anything of the files did not get into the image, also for want of space below it.
fn fill_whole(image: &Path, label: &str, size: Bytes, from: &Path) -> Result<()> {
    let (new, at) = (unfinished(image), image.with_extension("mnt"));
    let _left_by_a_crash = fs::remove_file(moved(image));
    drives::create_empty_file_system(&new, label, size)?;
    crash::point("disk.made");
    fs::create_dir_all(&at).map_err(Error::file("make", &at))?;
    // Opened before anything is written, so that the kernel reports each write that fails later: the image has holes, for which the
    // file system of the house may have no space.
    let written = fs::File::open(&new).map_err(Error::file("open", &new))?;
    mount(&new, &at)?;
    let inside = fs::File::open(&at).map_err(Error::file("open", &at))?;
    let copied = match from.is_dir() {
        true => {
            let mut command = drives::host_command("cp", None);
            command.args(["-a", "--"]).args([&from.join("."), &at]);
            drives::run_drive_tool(command, &[0], from)
        }
        false => Ok(()),
    };
    let kept = rustix::fs::syncfs(&inside);
    drop(inside);
    let mut command = drives::host_command("umount", None);
    command.arg(&at);
    drives::run_drive_tool(command, &[0], &at)?;
    copied?;
    kept.map_err(|e| Error::file("write all files to", &new)(e.into()))?;
    written
        .sync_all()
        .map_err(Error::file("write all files to", &new))?;
    fs::remove_dir(&at).map_err(Error::file("remove", &at))?;
    crash::point("disk.filled");
    Ok(())
}

/// Checks that the file system of the house has space for a copy of a directory.
fn require_space(image: &Path, from: &Path) -> Result<()> {
    let needed = super::host_facts::size_on_disk(from).unwrap_or_default();
    let free = free_space(image.parent().unwrap_or(image));
    match free.filter(|free| free.0 < space_to_move(needed).0) {
        None => Ok(()),
        Some(free) => Err(Error::Drive {
            drive: image.to_owned(),
            why: format!(
                "its files are copied before they go, and the file system of the house has {} left for {}; nothing was changed: free some space",
                free.human(),
                needed.human()
            ),
        }),
    }
}

/// What a user who is not root can still write to the file system of a directory, or where it will be made; none if that is
/// unknown.
pub fn free_space(dir: &Path) -> Option<Bytes> {
    let exists = dir.ancestors().find(|dir| dir.exists())?;
    let stat = rustix::fs::statvfs(exists).ok()?;
    Some(Bytes(stat.f_bavail.saturating_mul(stat.f_frsize)))
}

/// Puts a filled image in its place, whole or not at all.
fn publish(image: &Path) -> Result<()> {
    fs::write(moved(image), "").map_err(Error::file("make", moved(image)))?;
    // The image survives a power failure before the directory that it was made from is removed.
    file::publish_finished(&unfinished(image), image, file::Sync::Entry)
        .map_err(Error::file("publish", image))?;
    crash::point("disk.published");
    Ok(())
}

/// Gives back what images in a directory take without having anything in it, once nobody uses them.
pub(super) fn give_unused_space_back(dir: &Path) {
    for image in drives::images(dir).filter(|image| !in_use(image)) {
        let _stays_taken = drives::give_space_back(&image);
    }
}

/// Whether the kernel has a device of an image. What is mounted elsewhere is seen here as well.
fn in_use(image: &Path) -> bool {
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let backing = |device: fs::DirEntry| {
        let text = fs::read_to_string(device.path().join("loop/backing_file")).ok()?;
        Some(PathBuf::from(text.trim_end()))
    };
    devices.filter_map(backing).any(|b| b == image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_without_space_below_it_is_not_whole() {
        if why_disks_unusable(rustix::process::geteuid().is_root()).is_some() {
            eprintln!("skipped: file systems cannot be mounted here");
            return;
        }
        abbey_launch::unshare_mounts().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (small, from) = (dir.path().join("small"), dir.path().join("from"));
        fs::create_dir(&small).unwrap();
        fs::create_dir(&from).unwrap();
        let mut mount = drives::host_command("mount", None);
        mount
            .args(["-t", "tmpfs", "-o", "size=24m", "abbey-test"])
            .arg(&small);
        drives::run_drive_tool(mount, &[0], &small).unwrap();
        // Incompressible or not makes no difference to it, but zeros may stay holes.
        fs::write(from.join("files"), vec![7; 40 << 20]).unwrap();
        let image = small.join("workspace.ext4");
        let size = Bytes(64 << 20);
        assert!(fill(&image, "abbey-work", size, &from).is_err());
        let failure = fill_whole(&image, "abbey-work", size, &from).unwrap_err();
        assert!(!image.exists(), "{failure}");
        fs::remove_file(unfinished(&image)).unwrap();
        fs::write(from.join("files"), vec![7; 8 << 20]).unwrap();
        fill(&image, "abbey-work", size, &from).unwrap();
    }
}
