//! Root file system of a container, for tests without a registry.

use std::path::Path;
use std::process::Command;

/// Packs a root file system of BusyBox and an agent's directories into an archive in `dir`, and
/// returns its path.
///
/// # Panics
/// If BusyBox is missing or `tar` fails.
pub fn pack_busybox_root(dir: &Path) -> String {
    let root = dir.join("root");
    let places = [
        "bin",
        "abbey",
        "tmp",
        "run",
        "proc",
        "sys",
        "dev",
        "etc",
        "agent/home",
        "agent/workspace",
    ];
    for place in places {
        std::fs::create_dir_all(root.join(place)).expect("a file");
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).expect("a file");
    std::fs::write(root.join("run/abbey-config"), "").expect("a file");
    let programs = [
        "sh", "id", "cat", "ls", "sleep", "seq", "grep", "hostname", "tail", "uname",
    ];
    for program in programs {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(program)).expect("a file");
    }
    let archive = dir.join("image.tar");
    let packed = Command::new("tar")
        .arg("-C")
        .arg(&root)
        .arg("-cf")
        .arg(&archive)
        .arg(".")
        .status();
    assert!(packed.expect("tar runs").success());
    archive.display().to_string()
}
