//! File systems of the host.

use serde_json::{Value, json};
use std::fs;

/// Mounted file systems that hold data, once per device, with total, used and available bytes as
/// JSON objects.
pub(crate) fn list_disks() -> Vec<Value> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
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
        if !stored || !seen.insert(device.to_owned()) {
            continue;
        }
        // The table escapes blanks in octal.
        let path = mount.replace("\\040", " ");
        let Ok(stat) = rustix::fs::statvfs(path.as_str()) else {
            continue;
        };
        if stat.f_blocks > 0 {
            disks.push(json!({
                "mount": path, "device": device, "type": kind,
                "total_bytes": stat.f_blocks * stat.f_frsize, "available_bytes": stat.f_bavail * stat.f_frsize,
                "used_bytes": stat.f_blocks.saturating_sub(stat.f_bfree) * stat.f_frsize,
            }));
        }
    }
    disks
}
