//! The kernel of an image, as every monitor of microVMs takes it: uncompressed, and so also quicker to boot
//! where a processor is translated.
//! Source: the kernel's documentation, arch/x86/boot, version 2.08 of the protocol.

use super::image::{image_error, tool_error};
use crate::{Error, Result};
use std::fs;
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::process::{Command, Stdio};

/// Sectors of real-mode code before the rest; 0 means 4.
const SETUP_SECTORS: usize = 0x1f1;
/// `HdrS`, by which the header is known.
const SIGNATURE: usize = 0x202;
/// Where the compressed kernel is, counted from the rest, and its length.
const PAYLOAD: [usize; 2] = [0x248, 0x24c];
const SECTOR: usize = 512;

/// How a payload begins, what takes it apart, its package, and how many bytes behind it are its length.
const PACKED: [(&[u8], &str, &str, usize); 4] = [
    (b"\x02\x21\x4c\x18", "lz4", "lz4", 4),
    (b"\x28\xb5\x2f\xfd", "zstd", "zstd", 4),
    (b"\x1f\x8b", "gzip", "gzip", 0),
    (b"\xfd7zXZ\0", "xz", "xz-utils", 0),
];

/// What is in a boot image of Linux for x86; none when it is no such image.
fn payload(image: &[u8]) -> Option<Range<usize>> {
    if image.get(SIGNATURE..SIGNATURE + 4)? != b"HdrS" {
        return None;
    }
    let word = |at: usize| -> Option<usize> {
        let bytes = image.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let sectors = match *image.get(SETUP_SECTORS)? {
        0 => 4,
        n => usize::from(n),
    };
    let first = (sectors + 1) * SECTOR + word(PAYLOAD[0])?;
    let range = first..first.checked_add(word(PAYLOAD[1])?)?;
    image.get(range.clone()).map(|_| range)
}

/// Extracts the uncompressed ELF kernel from the Linux boot image `from` to `to`.
pub(super) fn unpack_kernel(from: &Path, to: &Path) -> Result<()> {
    const WHAT: &str = "unpack the kernel";
    let image = fs::read(from).map_err(Error::file("read", from))?;
    let range = payload(&image)
        .ok_or_else(|| image_error(WHAT, format!("`{}` is not a boot image", from.display())))?;
    let packed = &image[range];
    let (_, program, package, behind) = PACKED
        .into_iter()
        .find(|(magic, ..)| packed.starts_with(magic))
        .ok_or_else(|| image_error(WHAT, "it is compressed in an unknown way"))?;
    let packed = &packed[..packed.len().saturating_sub(behind)];
    let out = fs::File::create(to).map_err(Error::file("make", to))?;
    let mut child = Command::new(program)
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(out)
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| tool_error(WHAT, program, package, &e))?;
    if let Some(mut input) = child.stdin.take() {
        // A program that ends early says why by its status.
        let _it_ended = input.write_all(packed);
    }
    let status = child.wait().map_err(Error::file("wait for", program))?;
    let mut magic = [0u8; 4];
    let read = fs::File::open(to).and_then(|mut f| std::io::Read::read_exact(&mut f, &mut magic));
    match (status.success(), read) {
        (true, Ok(())) if &magic == b"\x7fELF" => Ok(()),
        _ => Err(image_error(
            WHAT,
            format!("`{program}` did not extract a kernel"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A boot image of one setup sector with these bytes in it.
    fn image(content: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 2 * SECTOR + 16];
        image[SETUP_SECTORS] = 1;
        image[SIGNATURE..SIGNATURE + 4].copy_from_slice(b"HdrS");
        image[PAYLOAD[0]] = 16;
        let length = u32::try_from(content.len()).unwrap();
        image[PAYLOAD[1]..PAYLOAD[1] + 4].copy_from_slice(&length.to_le_bytes());
        image.extend(content);
        image
    }

    #[test]
    fn what_is_no_boot_image_is_not_unpacked() {
        assert_eq!(payload(b"short"), None);
        assert_eq!(payload(&image(b"kernel")), Some(1040..1046));
        let mut cut = image(b"kernel");
        cut.truncate(1043);
        assert_eq!(payload(&cut), None, "shorter than it says");
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::write(&from, image(b"kernel")).unwrap();
        let told = unpack_kernel(&from, &to).unwrap_err().to_string();
        assert!(told.contains("unknown way"), "{told}");
    }
}
