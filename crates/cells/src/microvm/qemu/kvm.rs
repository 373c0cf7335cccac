//! The host's processors for a guest: the node that the program around a microVM opens.

use crate::{Bind, CellSpec, Error, Result};
use rustix::fs::{Access, CWD, FileType, Mode, access, makedev, mknodat};
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

const DEVICE: &str = "/dev/kvm";
/// Numbers of the node. Source: the kernel's list of devices, `devices.txt`.
const NUMBERS: (u32, u32) = (10, 232);

/// Whether whoever asks can open it.
fn opens() -> bool {
    access(DEVICE, Access::READ_OK | Access::WRITE_OK).is_ok()
}

/// Whether KVM can run guests on this host: the processor supports virtualization and this user may open
/// `/dev/kvm`.
pub(crate) fn is_kvm_usable() -> bool {
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let able = flags
        .lines()
        .find(|l| l.starts_with("flags"))
        .is_some_and(|l| l.split_whitespace().any(|f| f == "vmx" || f == "svm"));
    able && opens()
}

/// Mount of `/dev/kvm` into the monitor's sandbox. A user without access to the host's node gets a node of its own.
pub(crate) fn kvm_bind(spec: &CellSpec) -> Result<Bind> {
    let everybodys = fs::metadata(DEVICE).is_ok_and(|m| m.mode() & 0o006 == 0o006);
    let source = match spec.uid {
        Some(uid) if !everybodys => node(&spec.run_dir, uid)?,
        _ => PathBuf::from(DEVICE),
    };
    Ok(Bind {
        source,
        path: PathBuf::from(DEVICE),
        writable: true,
    })
}

fn node(dir: &Path, uid: u32) -> Result<PathBuf> {
    let path = dir.join("kvm");
    let _left_by_a_crash = fs::remove_file(&path);
    let (kind, mode) = (FileType::CharacterDevice, Mode::from_raw_mode(0o600));
    mknodat(CWD, &path, kind, mode, makedev(NUMBERS.0, NUMBERS.1))
        .map_err(|e| Error::file("make", &path)(e.into()))?;
    chown(&path, Some(uid), Some(uid)).map_err(Error::file("hand over", &path))?;
    Ok(path)
}
