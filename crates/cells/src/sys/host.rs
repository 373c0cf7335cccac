//! What the host has, read from `/proc` and the C library's files.

use crate::{Error, Result};
use abbey_model::Bytes;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// Directory of files about the host and no single house. Only root writes there; its content ends with a boot.
pub(crate) const HOST_FILES: &str = "/run/abbey";

/// Makes the directory of files about the host, unless it exists.
pub(crate) fn create_host_files_dir() -> Result<&'static Path> {
    let dir = Path::new(HOST_FILES);
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir);
    made.map_err(Error::file("create", dir))?;
    Ok(dir)
}

/// Names of the locales that are installed on the host, from `/usr/lib/locale` and `localedef --list-archive`.
pub fn installed_locales() -> std::collections::BTreeSet<String> {
    let entries = fs::read_dir("/usr/lib/locale").into_iter().flatten();
    let whole = entries
        .flatten()
        .filter(|e| e.path().join("LC_CTYPE").exists());
    let mut names: std::collections::BTreeSet<String> = whole
        .filter_map(|e| e.file_name().into_string().ok())
        .collect();
    let archive = std::process::Command::new("localedef")
        .arg("--list-archive")
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .output();
    if let Ok(archive) = archive {
        let text = String::from_utf8_lossy(&archive.stdout).into_owned();
        names.extend(text.lines().map(str::to_owned));
    }
    names
}

/// Value of one line of `/proc/meminfo`, for example `MemAvailable:`, in bytes; none if it cannot be read.
pub fn read_meminfo(line: &str) -> Option<Bytes> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let rest = text.lines().find_map(|l| l.strip_prefix(line))?;
    let kib: u64 = rest.split_whitespace().next()?.parse().ok()?;
    Some(Bytes(kib << 10))
}

/// IPv4 routes of the host except the default, from `/proc/net/route`: network address, prefix length, interface.
pub(crate) fn ipv4_routes() -> Vec<(Ipv4Addr, u8, String)> {
    let text = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let route = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let word = |i: usize| {
            u32::from_str_radix(fields.get(i)?, 16)
                .ok()
                .map(u32::swap_bytes)
        };
        let (address, mask) = (word(1)?, word(7)?);
        let prefix = u8::try_from(mask.count_ones()).ok()?;
        (prefix > 0).then(|| (Ipv4Addr::from(address), prefix, fields[0].to_owned()))
    };
    text.lines().skip(1).filter_map(route).collect()
}
