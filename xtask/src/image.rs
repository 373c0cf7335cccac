//! Images that microVMs boot from, built once for examples, tests and benches.

use crate::run::{install_packages, repository_root, run_step};

/// Name of each image, and its packages beside the stock ones. A whole host is emulated from the last one, so it has
/// the modules of its kernel.
const IMAGES: [(&str, &str); 3] = [
    ("base", ""),
    ("podman", "podman,crun,uidmap"),
    (HOST, "nftables,kmod,linux-image-cloud-amd64"),
];

/// The image from which a test emulates a whole host.
const HOST: &str = "host";

/// Builds the images that are missing below `target/images`, and installs what that needs. The one of whole hosts is
/// built only if `hosts` is set.
pub(crate) fn build_images(hosts: bool) -> Result<(), String> {
    install_packages(&[
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("mmdebstrap", "mmdebstrap"),
        ("cpio", "cpio"),
        ("lz4", "lz4"),
        ("mkfs.ext4", "e2fsprogs"),
        ("dpkg-deb", "dpkg"),
        ("apt-get", "apt"),
    ])?;
    let target = repository_root().join("target");
    let release = target.join("release/abbey");
    let program = if release.exists() {
        release
    } else {
        target.join("debug/abbey")
    };
    let (program, home) = (program.display().to_string(), target.display().to_string());
    for (name, include) in IMAGES.into_iter().filter(|(n, _)| hosts || *n != HOST) {
        if target.join("images").join(name).join("image.json").exists() {
            continue;
        }
        let mut args = vec!["--home", &home, "image", "build", name];
        if !include.is_empty() {
            args.extend(["--include", include]);
        }
        run_step("image", &program, &args)?;
    }
    Ok(())
}
