//! The `sandbox` backend: namespaces, a root of its own, filters. [`mod@render`] renders what the isolation layers
//! are, `launch` builds them, and the shim compares what was read back with what was asked.

mod oci_profile;
mod render;
mod seccomp;

pub(crate) use oci_profile::oci_seccomp_profile;
pub(crate) use render::render_isolation;

use crate::{CellSpec, Error, Result, Sandbox};
use abbey_launch::IsolationInForce;
use abbey_model::{CellName, Layer, Profile};
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Prepares what is the same for all sandboxes, so that the processes that this one forks need not. What fails is tried
/// again by the first start.
pub(crate) fn prepare_for_forks() {
    for profile in Profile::ALL {
        let _reported_by_the_start = seccomp::seccomp_filters(*profile);
    }
}

/// Restrictions for a further program that enters a running sandbox: the Landlock rules and filters of its first
/// program. `init` is a handle of a process in the sandbox.
pub(crate) fn entry_restrictions(
    init: OwnedFd,
    sandbox: &Sandbox,
) -> Result<abbey_launch::ExistingIsolation> {
    Ok(abbey_launch::ExistingIsolation {
        init,
        rootless: !rustix::process::geteuid().is_root(),
        landlock: Some(render::landlock_rules(sandbox)?)
            .filter(|_| abbey_launch::landlock_version() > 0),
        filters: seccomp::seccomp_filters(sandbox.profile)?,
    })
}

/// Reason why the kernel builds no sandbox for this user, none if it may: every sandbox has a user namespace, also one of
/// root. Source: user_namespaces(7); `unprivileged_userns_clone` is of Debian's kernels.
pub(crate) fn why_sandboxes_unusable() -> Option<String> {
    let is_zero = |path: &str| std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "0");
    if !Path::new("/proc/self/ns/user").exists() {
        return Some("this kernel was built without user namespaces".to_owned());
    }
    let of_ordinary_users = match rustix::process::geteuid().is_root() {
        true => None,
        false => Some("kernel.unprivileged_userns_clone"),
    };
    let settings = ["user.max_user_namespaces"]
        .into_iter()
        .chain(of_ordinary_users);
    let mut closed =
        settings.filter(|name| is_zero(&format!("/proc/sys/{}", name.replace('.', "/"))));
    closed
        .next()
        .map(|name| format!("this host allows no user namespaces (`sysctl {name}` is 0)"))
}

/// Reason why a sandbox has no Landlock on this host, none if it has. Source: kernel documentation,
/// userspace-api/landlock, and the kernel's parameter `lsm`.
pub(crate) fn why_landlock_unusable() -> Option<String> {
    (abbey_launch::landlock_version() == 0).then(|| {
        "this kernel has no Landlock, or it was booted without (`landlock` must be in its parameter `lsm=`)"
            .to_owned()
    })
}

/// Isolation layers that were verified from inside the sandbox.
pub(crate) fn layers_in_force(in_force: &IsolationInForce) -> BTreeSet<Layer> {
    in_force
        .layers()
        .into_iter()
        .filter_map(|(name, holds)| holds.then(|| name.parse().ok())?)
        .collect()
}

/// Fails with [`Error::Isolation`] if a layer is not in `have` and was not waived in the manifest.
pub(crate) fn require_layers(spec: &CellSpec, have: &BTreeSet<Layer>) -> Result<()> {
    let missing: Vec<&str> = Layer::ALL
        .iter()
        .copied()
        .filter(|l| !have.contains(l) && !spec.waived.contains(l))
        .map(Layer::name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let missing = missing.join(", ");
    let waiver = match &spec.cell {
        CellName::Agent(slug) => format!("agents.{slug}.waive: [{missing}]"),
        CellName::Service(slug) => format!("services.{slug}.waive: [{missing}]"),
        CellName::Run(_) => format!("--waive {}", missing.replace(' ', "")),
    };
    Err(Error::Isolation {
        cell: spec.cell.clone(),
        why: format!(
            "{missing} could not be read back from inside; fix the host, or accept it by name with `{waiver}`"
        ),
    })
}
