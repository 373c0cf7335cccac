//! Ports of the host below 1024 on which root lets cells of the house listen.
//!
//! The shims that listen run as root, so the kernel refuses them no port. The control plane asks for the ports, and may
//! only get those of a manifest that root applied.

use super::HostdConfig;
use super::allowed::{allow, allowed};
use crate::{CellSpec, ListenAddress, Result};
use abbey_model::CellKind;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// First port on which an ordinary user may listen.
const UNPRIVILEGED_PORT: u16 = 1024;

fn list_path(home: &Path) -> PathBuf {
    home.join("hostd/low-ports.json")
}

/// Lets cells of the house in `home` listen on these ports of the host too; ports from 1024 on need no permission and are
/// left out. With `only`, on no others below 1024 any more. To be called by root.
///
/// # Errors
/// If the list cannot be read or written.
pub fn allow_low_ports(home: &Path, ports: BTreeSet<u16>, only: bool) -> Result<()> {
    let mut low = ports;
    low.retain(|port| *port < UNPRIVILEGED_PORT);
    allow(&list_path(home), low, only)
}

/// Checks that root allowed every port below 1024 on which a cell would listen on the host.
///
/// # Errors
/// A sentence that names the first port that is not allowed, and what to do.
pub(super) fn check_low_ports(
    config: &HostdConfig,
    spec: &CellSpec,
) -> std::result::Result<(), String> {
    let on_host = |at: &ListenAddress| match at {
        ListenAddress::Host(_) => true,
        // The cell's own network has its own ports; a guest opens those inside it.
        ListenAddress::Cell(_) => spec.kind == CellKind::Process,
    };
    let listens = spec.forwards.iter().map(|f| f.at).filter(on_host);
    let mut low = listens
        .map(|at| at.socket_address().port())
        .filter(|port| *port < UNPRIVILEGED_PORT)
        .peekable();
    if !config.privileged || low.peek().is_none() {
        return Ok(());
    }
    let listed: BTreeSet<u16> =
        allowed(&list_path(&config.home)).map_err(|e| crate::error::error_chain(&e))?;
    match low.find(|port| !listed.contains(port)) {
        None => Ok(()),
        Some(port) => Err(format!(
            "{} may not listen on port {port} of this host: root has not applied a manifest that names it; run `abbey up` as root, or choose a port from 1024 on",
            spec.cell
        )),
    }
}
