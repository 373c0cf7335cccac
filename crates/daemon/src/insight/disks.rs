//! File systems of the host.

use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Free space below which the database is in danger, bytes.
pub(crate) const SPACE_LEAST: u64 = 64 << 20;
/// Free inodes below which starts of cells and writes of files are in danger.
pub(crate) const INODES_LEAST: u64 = 256;

/// Mounted file systems that hold data, once per device, with total, used and available bytes and inodes as JSON objects.
/// That of `home`, the state directory, is one of them whatever its kind, and has `home` set. A file system that makes
/// inodes as they are needed has 0 of them.
pub(crate) fn list_disks(home: &Path) -> Vec<Value> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let of_home = mount_of(home, &table);
    let mut seen = std::collections::BTreeSet::new();
    let mut disks = Vec::new();
    for line in table.lines() {
        let mut fields = line.split(' ');
        let (Some(device), Some(mount), Some(kind)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let stored = device.starts_with("/dev/")
            || matches!(
                kind,
                "zfs" | "btrfs" | "overlay" | "nfs" | "nfs4" | "virtiofs"
            );
        let path = unescape(mount);
        let holds_home = of_home.as_deref() == Some(Path::new(&path));
        // A device may be mounted in several places, and one name such as `tmpfs` stand for many.
        let is_new = stored && seen.insert(device.to_owned());
        // Volumes of one device, as of btrfs, are mounted each by itself; that of the home is shown in any case.
        let is_listed = disks.iter().any(|d: &Value| d["mount"] == path.as_str());
        if !is_new && (!holds_home || is_listed) {
            continue;
        }
        let Ok(stat) = rustix::fs::statvfs(path.as_str()) else {
            continue;
        };
        if stat.f_blocks > 0 {
            disks.push(json!({
                "mount": path, "device": device, "type": kind,
                "total_bytes": stat.f_blocks * stat.f_frsize, "available_bytes": stat.f_bavail * stat.f_frsize,
                "used_bytes": stat.f_blocks.saturating_sub(stat.f_bfree) * stat.f_frsize,
                "total_inodes": stat.f_files, "available_inodes": stat.f_favail,
                "home": match of_home {
                    Some(_) => holds_home,
                    None => is_same_file_system(home, Path::new(&path)),
                },
            }));
        }
    }
    disks
}

/// Where the file system that holds `path` is mounted.
fn mount_of(path: &Path, table: &str) -> Option<PathBuf> {
    let path = path.canonicalize().ok()?;
    let mounts = table.lines().filter_map(|line| line.split(' ').nth(1));
    let above = mounts
        .map(|mount| PathBuf::from(unescape(mount)))
        .filter(|mount| path.starts_with(mount));
    above.max_by_key(|mount| mount.components().count())
}

fn is_same_file_system(one: &Path, other: &Path) -> bool {
    let device = |path| fs::metadata(path).ok().map(|m| m.dev());
    device(one).is_some() && device(one) == device(other)
}

/// A path of the table, which escapes blanks in octal.
fn unescape(mount: &str) -> String {
    mount.replace("\\040", " ")
}
