//! Programs in a guest that lend rights to whoever executes them.

use std::path::Path;

/// Programs of an image that keep their set-user-id bit: rootless Podman gives a container its users by them. They map the
/// ranges in `/etc/subuid` and `/etc/subgid`, and nothing else. Source: newuidmap(1).
pub(crate) const RIGHTS_LENDERS: [&str; 2] = ["newuidmap", "newgidmap"];

/// Whether a program in this guest may gain rights by executing another: only where the image has what rootless Podman
/// needs.
pub(super) fn may_lend_rights() -> bool {
    Path::new("/usr/bin").join(RIGHTS_LENDERS[0]).exists()
}
