//! Drives of sandboxes that the kernel made read-only: after a failed write, such as on a full disk of the host, ext4 refuses
//! further ones until the drive is mounted anew.

use abbey_cells::{CellRecord, is_alive};
use std::path::Path;

/// Which drives of an agent are read-only in its running cell: `home`, `workspace`, as in its `files`; none if it has no
/// drives. They are mounted only for the processes of the cell, so the mounts of its shim are read.
pub(super) fn read_only_drives(record: &CellRecord, files: &Path) -> Option<Vec<&'static str>> {
    if !is_alive(&record.shim) {
        return None;
    }
    let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", record.shim.pid)).ok()?;
    let drives = ["home", "workspace"].into_iter().filter_map(|place| {
        let at = files.join(place);
        let mut lines = mounts.lines();
        lines.find_map(|line| takes_no_writes(line, &at).map(|bad| (place, bad)))
    });
    let drives: Vec<_> = drives.collect();
    let bad = drives.iter().filter(|(_, bad)| *bad);
    (!drives.is_empty()).then(|| bad.map(|(place, _)| *place).collect())
}

/// What is wrong with an agent with such drives, and the remedy.
pub(super) fn describe_read_only(agent: &str, drives: &[&str]) -> (String, String) {
    let (named, verb) = match drives {
        [one] => (format!("the drive of its {one}"), "is"),
        all => (format!("the drives of its {}", all.join(" and ")), "are"),
    };
    (
        format!("{named} {verb} read-only since a write to the disk of the host failed"),
        format!(
            "`abbey report disk` shows what is full: free space, then `abbey restart {agent}` mounts its drives anew"
        ),
    )
}

/// Whether the ext4 at this path takes no writes, if this line of `mountinfo` is its. Source: `proc_pid_mountinfo(5)`; after
/// an error a file system is `ro`, and since Linux 6.16 it has the option `emergency_ro`.
fn takes_no_writes(line: &str, at: &Path) -> Option<bool> {
    let (mount, of_file_system) = line.split_once(" - ")?;
    let place = unescape(mount.split(' ').nth(4)?);
    let mut of_file_system = of_file_system.split(' ');
    let kind = of_file_system.next()?;
    let mut options = of_file_system.nth(1)?.split(',');
    let is_it = kind == "ext4" && Path::new(&place) == at;
    is_it.then(|| options.any(|option| matches!(option, "ro" | "emergency_ro")))
}

/// A path as the kernel writes it in lists of mounts, where spaces and the like are octal.
fn unescape(text: &str) -> String {
    let octal = [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ];
    octal
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drive_is_read_only_by_the_options_of_its_file_system() {
        let line = |options: &str| {
            format!(
                "611 580 7:3 / /h\\040x/agents/c/home rw,nosuid,nodev,noatime - ext4 /dev/loop3 {options}"
            )
        };
        let at = Path::new("/h x/agents/c/home");
        for (options, expected) in [
            ("rw", false),
            ("ro", true),
            ("rw,emergency_ro", true),
            ("rw,errors=remount-ro", false),
        ] {
            assert_eq!(
                takes_no_writes(&line(options), at),
                Some(expected),
                "{options}"
            );
        }
        assert_eq!(takes_no_writes(&line("ro"), Path::new("/h")), None);
        assert_eq!(takes_no_writes("", at), None);
    }
}
