//! Root file system of a container, for tests without a registry.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Image in root's Podman, removed when it is dropped.
#[derive(Debug)]
pub struct Image(String);

impl Image {
    /// Imports an archive of a root file system.
    ///
    /// # Panics
    /// If Podman fails.
    pub fn import(archive: &str) -> Image {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let image = Image(format!("abbey-test-{}-{number}", std::process::id()));
        let import = Command::new("podman")
            .args(["import", "-q", archive, &image.reference()])
            .output()
            .expect("podman runs");
        assert!(import.status.success(), "{import:?}");
        image
    }

    /// Name under `localhost/`, as a manifest gives it.
    pub fn name(&self) -> &str {
        &self.0
    }

    fn reference(&self) -> String {
        format!("localhost/{}:latest", self.0)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let remove = ["rmi", "-f", &self.reference()];
        let _gone_already = Command::new("podman").args(remove).output();
    }
}

/// Packs a root file system of BusyBox and an agent's directories into an archive in `dir`, and
/// returns its path.
///
/// # Panics
/// If BusyBox is missing or `tar` fails.
pub fn pack_busybox_root(dir: &Path) -> String {
    pack_root(dir, &make_busybox_root(dir))
}

/// Packs the root file system of [`pack_busybox_root`] with the host's Python and the libraries that it needs.
///
/// # Panics
/// If BusyBox or Python is missing or a program fails.
pub fn pack_python_root(dir: &Path) -> String {
    let root = make_busybox_root(dir);
    // The system's own and no other version that is first on the path: it has no files outside /usr and /lib. It knows
    // where its modules are; `ldd` knows what they load.
    let script = r#"
set -e
python=/usr/bin/python3
modules=$($python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
libraries=$(ldd $python "$modules"/lib-dynload/*.so | sed -n 's/^.*[[:space:]]\/\([^ ]*\) (.*/\1/p' | sort -u)
mkdir -p "$0/usr/bin"
tar -C / -chf - --exclude=__pycache__ --exclude=test --exclude='config-*' "${modules#/}" $libraries | tar -C "$0" -xf -
cp $python "$0/usr/bin/python3"
"#;
    let copied = Command::new("sh").arg("-c").arg(script).arg(&root).status();
    assert!(copied.expect("sh runs").success(), "Python is not copied");
    pack_root(dir, &root)
}

fn make_busybox_root(dir: &Path) -> PathBuf {
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
    // As in any image: the runtime keeps the mode of what it mounts memory on.
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
    std::fs::set_permissions(root.join("tmp"), everybody).expect("a file");
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).expect("a file");
    std::fs::write(root.join("run/abbey-config"), "").expect("a file");
    let programs = [
        "sh", "id", "cat", "ls", "sleep", "seq", "grep", "hostname", "tail", "tr", "true", "uname",
    ];
    for program in programs {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(program)).expect("a file");
    }
    root
}

fn pack_root(dir: &Path, root: &Path) -> String {
    let archive = dir.join("image.tar");
    let packed = Command::new("tar")
        .arg("-C")
        .arg(root)
        .arg("-cf")
        .arg(&archive)
        .arg(".")
        .status();
    assert!(packed.expect("tar runs").success());
    archive.display().to_string()
}
