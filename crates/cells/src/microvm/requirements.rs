//! What a host needs to run microVMs.

use super::qemu;
use crate::sys::programs;

/// Reason why QEMU cannot run microVMs on this host, with what to install; none if it can.
pub(crate) fn why_microvms_unusable() -> Option<String> {
    let missing = [
        (qemu::PROGRAM, "qemu-system-x86"),
        ("mkfs.ext4", "e2fsprogs"),
    ]
    .into_iter()
    .find(|(program, _)| !programs::is_installed(program));
    if std::env::consts::ARCH != "x86_64" {
        return Some(format!(
            "microVMs are built for x86_64, and this host is {}",
            std::env::consts::ARCH
        ));
    }
    missing.map(|(program, package)| {
        format!("`{program}` is not installed (package {package} on Debian)")
    })
}
