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
use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags, SeekFrom};
use rustix::io::Errno;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Size of a page of memory, bytes.
const PAGE: usize = 4096;
/// Bytes that are searched for zeros at once; a multiple of [`PAGE`].
const SCANNED_AT_ONCE: usize = 1 << 20;

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

fn broken(what: &'static str) -> impl FnOnce(Errno) -> Error {
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

/// Makes holes of the pages of a memory file that contain only zeros. They read the same, take no memory, and are not
/// mapped into microVMs together with their neighbours. Returns the number of freed bytes.
fn free_zero_pages(memory: &OwnedFd) -> rustix::io::Result<u64> {
    let mut freed = 0;
    let mut buffer = vec![0u8; SCANNED_AT_ONCE];
    let mut at = 0;
    loop {
        at = match rustix::fs::seek(memory, SeekFrom::Data(at)) {
            Ok(data) => data,
            // No data follows.
            Err(Errno::NXIO) => return Ok(freed),
            Err(error) => return Err(error),
        };
        let end = rustix::fs::seek(memory, SeekFrom::Hole(at))?;
        while at < end {
            let most = usize::try_from(end - at).map_or(buffer.len(), |n| n.min(buffer.len()));
            let n = rustix::io::pread(memory, &mut buffer[..most], at)?;
            if n == 0 {
                return Ok(freed);
            }
            let mut page_at = at;
            let runs = buffer[..n]
                .chunks(PAGE)
                .map(|page| page.iter().all(|b| *b == 0));
            let mut zeros = 0;
            for zero in runs.chain([false]) {
                if zero {
                    zeros += PAGE as u64;
                    continue;
                }
                if zeros > 0 {
                    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                    rustix::fs::fallocate(memory, flags, page_at, zeros)?;
                    freed += zeros;
                    page_at += zeros;
                    zeros = 0;
                }
                page_at += PAGE as u64;
            }
            at += n as u64;
        }
    }
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

    /// Seals the template's memory and devices against every later change (`F_ADD_SEALS`). Pages of zeros are given back to
    /// the host first.
    pub(crate) fn seal(&self) -> Result<()> {
        // A template that is larger than it has to be works as well.
        let _kept = free_zero_pages(&self.memory);
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

#[cfg(test)]
mod tests {
    use super::{MicroVmTemplate, PAGE, free_zero_pages};
    use abbey_model::Bytes;

    #[test]
    fn pages_of_zeros_in_a_template_take_no_memory() {
        let size = 3 << 20;
        let template = MicroVmTemplate::empty(String::new(), Bytes(size)).unwrap();
        let write = |page: u64, byte: u8, pages: usize| {
            let bytes = vec![byte; pages * PAGE];
            let n = rustix::io::pwrite(&template.memory, &bytes, page * PAGE as u64).unwrap();
            assert_eq!(n, bytes.len());
        };
        let allocated = || rustix::fs::fstat(&template.memory).unwrap().st_blocks * 512;
        // Zeros at the beginning, beside data, over the border of two steps, and at the end.
        write(0, 0, 3);
        write(3, 7, 2);
        write(5, 0, 1);
        write(250, 0, 10);
        write(300, 9, 1);
        write(767, 0, 1);
        assert_eq!(allocated(), 18 * PAGE as i64);
        assert_eq!(free_zero_pages(&template.memory), Ok(15 * PAGE as u64));
        assert_eq!(allocated(), 3 * PAGE as i64);
        let mut bytes = vec![1u8; 4 * PAGE];
        rustix::io::pread(&template.memory, bytes.as_mut_slice(), 2 * PAGE as u64).unwrap();
        let expected = [[0u8; PAGE], [7; PAGE], [7; PAGE], [0; PAGE]].concat();
        assert!(bytes == expected);
        assert_eq!(free_zero_pages(&template.memory), Ok(0));
        template.seal().unwrap();
    }
}
