//! Set-user-ID programs in a guest.

use std::path::Path;

/// Programs of an image that keep their set-user-ID bit: rootless Podman gives a container its users by them. They map the
/// ranges in `/etc/subuid` and `/etc/subgid`, and nothing else. Source: newuidmap(1).
pub(crate) const SETUID_PROGRAMS: [&str; 2] = ["newuidmap", "newgidmap"];

/// Whether a program in this guest may gain rights by executing another: only where the image has what rootless Podman
/// needs.
pub(super) fn has_setuid_programs() -> bool {
    Path::new("/usr/bin").join(SETUID_PROGRAMS[0]).exists()
}
