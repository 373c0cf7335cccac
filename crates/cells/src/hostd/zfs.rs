//! Snapshots of the house's own files, where they are on ZFS. Nothing else of the host's is named or touched.

use crate::{Error, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where `zfs` is on the platforms that have it.
const PLACES: [&str; 4] = [
    "/usr/sbin/zfs",
    "/sbin/zfs",
    "/usr/local/sbin/zfs",
    "/usr/bin/zfs",
];

fn run(program: &Path, args: &[&str], last: &str) -> Result<String> {
    let out = Command::new(program)
        .args(args)
        .arg(last)
        .env_clear()
        .env("LC_ALL", "C")
        .output()
        .map_err(Error::file("run", program))?;
    match out.status.success() {
        true => Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned()),
        false => Err(Error::Hostd {
            op: "make a snapshot",
            why: String::from_utf8_lossy(&out.stderr).trim().to_owned(),
        }),
    }
}

/// Creates a ZFS snapshot of the data set that holds directory `home`. Returns its full name, `SET@abbey-LABEL`.
pub(super) fn create_zfs_snapshot(home: &Path, label: &str) -> Result<String> {
    let program = PLACES.iter().map(PathBuf::from).find(|p| p.is_file());
    let program = program.ok_or_else(|| Error::Hostd {
        op: "make a snapshot",
        why: "this host has no ZFS".to_owned(),
    })?;
    snapshot_with(&program, home, label)
}

fn snapshot_with(program: &Path, home: &Path, label: &str) -> Result<String> {
    let home = home.display().to_string();
    // Source: zfs-list(8): a path names the data set that holds it.
    let set = run(program, &["list", "-H", "-o", "name"], &home)?;
    let name = format!("{set}@abbey-{label}");
    run(program, &["snapshot"], &name)?;
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// Against a stand-in that takes the same arguments, as no host here has ZFS.
    #[test]
    fn the_data_set_of_the_house_is_kept_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let (zfs, log) = (dir.path().join("zfs"), dir.path().join("log"));
        let script = format!(
            "#!/bin/sh\nprintf '%s\\n' \"$*\" >> {}\n[ \"$1\" = list ] && echo tank/abbey\nexit 0\n",
            log.display()
        );
        std::fs::write(&zfs, script).unwrap();
        std::fs::set_permissions(&zfs, std::fs::Permissions::from_mode(0o755)).unwrap();
        let name = snapshot_with(&zfs, Path::new("/home/abbey"), "now").unwrap();
        assert_eq!(name, "tank/abbey@abbey-now");
        let told = std::fs::read_to_string(&log).unwrap();
        assert_eq!(
            told,
            "list -H -o name /home/abbey\nsnapshot tank/abbey@abbey-now\n"
        );
    }
}
