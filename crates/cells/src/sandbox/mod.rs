//! The `sandbox` backend: namespaces, a root of its own, filters. [`render`] says what the isolation layers
//! are, `launch` builds them, and the shim compares what was read back with what was asked.

mod render;
mod seccomp;

pub(crate) use render::isolation;

use crate::{CellSpec, Error, Result, Sandbox};
use abbey_launch::IsolationInForce;
use abbey_model::Layer;
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

/// What a further program of a cell must be restricted by: the same as the first.
pub(crate) fn target(init: OwnedFd, sandbox: &Sandbox) -> Result<abbey_launch::ExistingIsolation> {
    Ok(abbey_launch::ExistingIsolation {
        init,
        rootless: !rustix::process::geteuid().is_root(),
        landlock: Some(render::landlock(sandbox)?).filter(|_| abbey_launch::landlock_version() > 0),
        filters: seccomp::filters(sandbox.profile)?,
    })
}

/// Layers that hold, as they were read back.
pub(crate) fn layers(in_force: &IsolationInForce) -> BTreeSet<Layer> {
    in_force
        .layers()
        .into_iter()
        .filter_map(|(name, holds)| holds.then(|| name.parse().ok())?)
        .collect()
}

/// Refuses to go on when a layer is missing that was not waived by name.
pub(crate) fn insist(spec: &CellSpec, have: &BTreeSet<Layer>) -> Result<()> {
    let missing: Vec<&str> = Layer::ALL
        .iter()
        .copied()
        .filter(|l| !have.contains(l) && !spec.waived.contains(l))
        .map(Layer::name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::Isolation {
        cell: spec.cell.clone(),
        why: format!(
            "{} could not be read back from inside; fix the host, or accept it by name with `waive: [{}]`",
            missing.join(", "),
            missing.join(", ")
        ),
    })
}
