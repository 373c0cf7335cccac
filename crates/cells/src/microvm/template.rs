//! Templates: snapshots of microVMs that have booted and wait for their instructions. Others start from one, each
//! with a copy-on-write view of its memory.
//!
//! A template never had any instructions, so it holds no secret; each microVM from it gets a clock, a name and
//! randomness of its own before anything runs in it. Its memory is sealed against writing: QEMU insists on
//! opening it for that, and one that was taken over could otherwise reach all that begin after it.

use super::image::Image;
use crate::control::{ShimRequest, client};
use crate::sys::descriptors;
use crate::{Error, Result};
use abbey_model::Bytes;
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Saved state of a microVM, or empty memory for it.
#[derive(Debug)]
pub(crate) struct MicroVmTemplate {
    /// Digest of what it was made from; see [`template_key`].
    pub(crate) key: String,
    /// Memory file.
    pub(crate) memory: OwnedFd,
    /// File with the state of the devices.
    pub(crate) devices: OwnedFd,
}

fn broken(what: &'static str) -> impl FnOnce(rustix::io::Errno) -> Error {
    move |e| Error::file(what, "the memory of a template")(e.into())
}

/// SHA-256 over everything that a template depends on: image, Abbey's binary, QEMU, kernel and processor of the
/// host, memory, CPUs and KVM. A template with another key is not used.
pub(crate) fn template_key(
    image: &Image,
    tools: &Path,
    memory: Bytes,
    cpus: u32,
    kvm: bool,
) -> String {
    let file = |path: &Path| {
        fs::metadata(path).map_or_else(
            |_| "none".to_owned(),
            |m| format!("{}:{}:{}:{}", m.dev(), m.ino(), m.mtime(), m.len()),
        )
    };
    let line = |path: &str, start: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let found = text.lines().find(|l| l.starts_with(start));
        found.unwrap_or_default().to_owned()
    };
    let parts = [
        format!("{:?}", image.digests),
        file(tools),
        file(&Path::new("/usr/bin").join(super::qemu::PROGRAM)),
        line("/proc/version", ""),
        line("/proc/cpuinfo", "model name"),
        line("/proc/cpuinfo", "flags"),
        format!("{memory} {cpus} {kvm}"),
    ];
    abbey_support::digest::sha256_hex(parts.join("\n"))
}

impl MicroVmTemplate {
    /// Empty template with `memory` bytes, into which QEMU saves a microVM.
    pub(crate) fn empty(key: String, memory: Bytes) -> Result<MicroVmTemplate> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let make = |name: &str| rustix::fs::memfd_create(name, flags).map_err(broken("make"));
        let (ram, devices) = (
            make("abbey-template-memory")?,
            make("abbey-template-devices")?,
        );
        rustix::fs::ftruncate(&ram, memory.0).map_err(broken("size"))?;
        Ok(MicroVmTemplate {
            key,
            memory: ram,
            devices,
        })
    }

    /// Seals the template's memory and devices against every later change (`F_ADD_SEALS`).
    pub(crate) fn seal(&self) -> Result<()> {
        let all = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        for fd in [&self.memory, &self.devices] {
            rustix::fs::fcntl_add_seals(fd, all).map_err(broken("seal"))?;
        }
        Ok(())
    }

    /// Opens the saved device state for reading from its beginning.
    pub(crate) fn open_devices(&self) -> Result<OwnedFd> {
        let path = format!("/proc/self/fd/{}", self.devices.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).map_err(broken("open"))
    }

    /// Fetches a template from the shim that keeps it, over the control socket in `run_dir`. Fails if its key
    /// differs or it is not sealed.
    pub(crate) fn fetch_from_shim(run_dir: &Path, key: &str) -> Result<MicroVmTemplate> {
        let no = |why: &str| Error::Image {
            what: "begin from a template of",
            why: why.to_owned(),
        };
        let stream = client::connect_to_shim(run_dir).map_err(Error::file("reach", run_dir))?;
        let line = serde_json::to_string(&ShimRequest::Template {}).unwrap_or_default() + "\n";
        descriptors::send_with_descriptors(&stream, line.as_bytes(), &[])
            .map_err(Error::file("ask", run_dir))?;
        let (bytes, fds) =
            descriptors::receive_line(&stream, 1 << 16).map_err(Error::file("ask", run_dir))?;
        let status: crate::control::ShimStatus =
            serde_json::from_slice(&bytes).map_err(|_| no("its shim does not answer"))?;
        if status.template.as_deref() != Some(key) {
            return Err(no("it was made for another image, binary or host"));
        }
        let Ok([memory, devices]) = <[OwnedFd; 2]>::try_from(fds) else {
            return Err(no("its descriptors were not passed"));
        };
        for fd in [&memory, &devices] {
            let seals = rustix::fs::fcntl_get_seals(fd).map_err(broken("look at"))?;
            if !seals.contains(SealFlags::WRITE) {
                return Err(no("it is not sealed"));
            }
        }
        Ok(MicroVmTemplate {
            key: key.to_owned(),
            memory,
            devices,
        })
    }

    /// Descriptors of the memory and of the device state, for passing over a socket.
    pub(crate) fn fds(&self) -> [std::os::fd::BorrowedFd<'_>; 2] {
        [self.memory.as_fd(), self.devices.as_fd()]
    }
}
