//! The image that machines boot from, built once for examples, tests and benches.

use crate::run::{install, root, step};

/// Builds `target/images/base` unless it is there, with what that takes.
pub(crate) fn image() -> Result<(), String> {
    install(&[
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("mmdebstrap", "mmdebstrap"),
        ("cpio", "cpio"),
        ("mkfs.ext4", "e2fsprogs"),
        ("dpkg-deb", "dpkg"),
        ("apt-get", "apt"),
    ])?;
    let target = root().join("target");
    if target.join("images/base/image.json").exists() {
        return Ok(());
    }
    let release = target.join("release/abbey");
    let program = if release.exists() {
        release
    } else {
        target.join("debug/abbey")
    };
    step(
        "image",
        &program.display().to_string(),
        &["--home", &target.display().to_string(), "image", "build"],
    )
}
