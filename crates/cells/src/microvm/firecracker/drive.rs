//! From a specification to a Firecracker that runs it.
//!
//! What its own jailer would do (a root of its own, a user, namespaces, control groups, no new privileges) is what
//! our sandbox does anyway, and reads back; so Firecracker is started in that, as the cell's user, and its API is
//! a socket that only this house's shim and that user can reach.

use super::api::{RateLimiter, TokenBucket};
use super::client::{HOUSE_PORT, ROOT, configuration_calls};
use super::setup::FirecrackerSetup;
use crate::microvm::instructions::{config_path, microvm_instructions, write_config};
use crate::microvm::parts::{collect_parts, monitor_cell};
use crate::microvm::prepared::{GuestLine, PreparedGuest, SnapshotRole};
use crate::microvm::{qemu, requirements};
use crate::spec::MicroVm;
use crate::{Bind, CellProgram, CellSpec, Error, Result};
use abbey_model::Bytes;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

const PROGRAM: &str = "firecracker";
/// Milliseconds in which a drive may move what a second allows.
const REFILL_MS: u64 = 1000;

/// One that a test brought.
fn brought() -> Option<PathBuf> {
    #[cfg(debug_assertions)]
    {
        std::env::var_os(crate::crash::FIRECRACKER).map(PathBuf::from)
    }
    #[cfg(not(debug_assertions))]
    {
        None
    }
}

fn program() -> Option<PathBuf> {
    let places = ["/usr/local/bin", "/usr/bin"].map(|d| Path::new(d).join(PROGRAM));
    brought().into_iter().chain(places).find(|p| p.is_file())
}

/// Reason why Firecracker cannot run microVMs on this host, with what to install; none if it can.
pub(crate) fn why_firecracker_unusable() -> Option<String> {
    if let Some(reason) = requirements::why_microvms_unusable() {
        return Some(reason);
    }
    if program().is_none() {
        return Some(format!(
            "`{PROGRAM}` is not installed (in /usr/local/bin or /usr/bin; its makers offer releases)"
        ));
    }
    let able = brought().is_some() || qemu::kvm_usable();
    (!able)
        .then(|| "Firecracker needs KVM, and this host's processors lend none to guests".to_owned())
}

/// Where its sockets are on the host.
fn sockets(spec: &CellSpec) -> PathBuf {
    spec.run_dir.join("vmm")
}

/// Its command line; everything else goes over the API.
fn arguments(spec: &CellSpec) -> Vec<String> {
    let path = |name: &str| format!("{ROOT}/{name}");
    let id = spec.cell.to_string();
    let words = [
        PROGRAM,
        "--api-sock",
        &path("run/api"),
        "--id",
        &id,
        "--level",
        "Warn",
    ];
    words.map(str::to_owned).to_vec()
}

/// Creates the files, sockets, configuration calls and outer sandbox of a Firecracker microVM; Firecracker is not
/// started yet.
pub(crate) fn prepare_firecracker(
    spec: &CellSpec,
    microvm: &MicroVm,
    boot: u64,
) -> Result<PreparedGuest> {
    let parts = collect_parts(spec, microvm, ROOT)?;
    let mut binds = parts.binds;
    let instructions = microvm_instructions(spec, microvm, boot)?;
    write_config(&config_path(spec), Some(&instructions), spec.uid)?;
    let program = program().ok_or_else(|| {
        Error::file("find", PROGRAM)(std::io::Error::from(std::io::ErrorKind::NotFound))
    })?;
    let dir = sockets(spec);
    let _left_by_a_crash = fs::remove_dir_all(&dir);
    fs::create_dir(&dir).map_err(Error::file("make", &dir))?;
    let path = dir.join(format!("guest_{HOUSE_PORT}"));
    let listener = UnixListener::bind(&path).map_err(Error::file("listen on", &path))?;
    listener
        .set_nonblocking(true)
        .map_err(Error::file("listen on", &path))?;
    for (path, mode) in [(&path, 0o600), (&dir, 0o700)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
            .map_err(Error::file("protect", path))?;
        if let Some(uid) = spec.uid {
            chown(path, Some(uid), Some(uid)).map_err(Error::file("hand over", path))?;
        }
    }
    let mut bind = |source: PathBuf, path: String, writable| {
        binds.push(Bind {
            source,
            path: PathBuf::from(path),
            writable,
        });
    };
    let own = format!("{ROOT}/{PROGRAM}");
    bind(program, own.clone(), false);
    bind(dir.clone(), format!("{ROOT}/run"), true);
    binds.push(qemu::bind_kvm(spec)?);
    let limit = spec.limits.io.map(|Bytes(size)| RateLimiter {
        bandwidth: Some(TokenBucket {
            size,
            refill_time: REFILL_MS,
        }),
        ops: None,
    });
    Ok(PreparedGuest {
        outer: monitor_cell(spec, CellProgram::Path(own.into()), arguments(spec), binds),
        fds: Vec::new(),
        line: GuestLine::Called {
            at: listener,
            uid: spec.uid,
        },
        firecracker_setup: Some(FirecrackerSetup {
            socket: dir.join("api"),
            id: spec.cell.to_string(),
            steps: configuration_calls(spec, microvm.drives.is_some(), limit),
        }),
        monitor: None,
        held: parts.held,
        aside: SnapshotRole::Nothing,
    })
}
