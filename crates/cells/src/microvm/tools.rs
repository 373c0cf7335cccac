//! The drive with the house's own program and the libraries that it runs with, so that an image need
//! not fit the host that it is used on.

use crate::spec::AGENT_COMMAND;
use crate::{Error, Result};
use abbey_support::file;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The command `abbey-agent` of a guest: Abbey's own binary, with the loader and libraries that came along with it.
const COMMAND_SCRIPT: &str = "#!/bin/sh
exec /abbey/lib/ld.so --library-path /abbey/lib /abbey/abbey role agent \"$@\"
";

/// Path of the read-only ext4 drive with Abbey's own binary and libraries, in `images`. Creates it if it is missing
/// or of another binary.
pub(crate) fn ensure_tools_drive(images: &Path) -> Result<PathBuf> {
    made(images, "ext4", drive)
}

/// Path of the directory with Abbey's own binary and libraries, in `images`. Creates it if it is missing or of
/// another binary.
pub(crate) fn ensure_tools_directory(images: &Path) -> Result<PathBuf> {
    made(images, "d", |staging, _, place| {
        fs::rename(staging, place).map_err(Error::file("publish", place))
    })
}

/// Something made from the running program and its libraries, of one kind.
fn made(
    images: &Path,
    kind: &str,
    finish: impl FnOnce(&Path, u64, &Path) -> Result<()>,
) -> Result<PathBuf> {
    let exe = Path::new("/proc/self/exe");
    let meta = fs::metadata(exe).map_err(Error::file("read", exe))?;
    let tag = format!(
        "{:x}-{:x}-{:x}-{:x}",
        meta.dev(),
        meta.ino(),
        meta.mtime(),
        meta.len()
    );
    let dir = images.join(".tools");
    fs::create_dir_all(&dir).map_err(Error::file("make", &dir))?;
    let place = dir.join(format!("{tag}.{kind}"));
    if place.exists() {
        return Ok(place);
    }
    let _one_at_a_time = crate::sys::lock::lock_file(&dir.join("lock"))?;
    if place.exists() {
        return Ok(place);
    }
    // Those of earlier programs: whoever runs from them keeps them open.
    for entry in fs::read_dir(&dir)
        .map_err(Error::file("list", &dir))?
        .flatten()
    {
        if entry.path().extension().is_some_and(|e| e == kind) {
            let _one_or_the_other = fs::remove_file(entry.path());
            let _one_or_the_other = fs::remove_dir_all(entry.path());
        }
    }
    let staging = dir.join(format!("staging-{kind}"));
    let _left_by_a_crash = fs::remove_dir_all(&staging);
    let total = gather(&staging, exe, meta.len());
    let finished = total.and_then(|total| finish(&staging, total, &place));
    let _moved_already = fs::remove_dir_all(&staging);
    finished.map(|()| place)
}

/// Puts everything into a directory; gives its size.
fn gather(staging: &Path, exe: &Path, length: u64) -> Result<u64> {
    use std::os::unix::fs::PermissionsExt;
    let lib = staging.join("lib");
    fs::create_dir_all(&lib).map_err(Error::file("make", &lib))?;
    let program = staging.join("abbey");
    fs::copy(exe, &program).map_err(Error::file("copy", exe))?;
    let commands = staging.join("bin");
    fs::create_dir_all(&commands).map_err(Error::file("make", &commands))?;
    let command = commands.join(AGENT_COMMAND);
    fs::write(&command, COMMAND_SCRIPT).map_err(Error::file("write", &command))?;
    let mut total = length;
    for source in libraries() {
        let name = source.file_name().unwrap_or_default().to_owned();
        let loader = name.to_string_lossy().starts_with("ld-");
        let target = match loader {
            true => lib.join("ld.so"),
            false => lib.join(&name),
        };
        total += fs::copy(&source, &target).map_err(Error::file("copy", &source))?;
    }
    for path in [staging, &lib, &program, &commands, &command] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))
            .map_err(Error::file("protect", path))?;
    }
    Ok(total)
}

fn drive(staging: &Path, total: u64, place: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let temporary = place.with_extension("new");
    let _left_by_a_crash = fs::remove_file(&temporary);
    let status = Command::new("mkfs.ext4")
        .env_clear()
        .env("PATH", crate::sys::programs::SYSTEM_PATH)
        .args([
            "-q",
            "-F",
            "-m",
            "0",
            "-O",
            "^has_journal",
            "-E",
            "root_owner=0:0",
            "-d",
        ])
        .arg(staging)
        .arg(&temporary)
        .arg(format!("{}k", (total + total / 8 + (8 << 20)) >> 10))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !status.as_ref().is_ok_and(std::process::ExitStatus::success) {
        return Err(Error::Image {
            what: "make the drive of tools",
            why: format!("`mkfs.ext4`: {status:?}; is e2fsprogs installed?"),
        });
    }
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o444))
        .map_err(Error::file("protect", &temporary))?;
    file::publish_finished(&temporary, place, file::Sync::None)
        .map_err(Error::file("publish", place))
}

/// What this process has mapped beside its program: its libraries and their loader.
fn libraries() -> BTreeSet<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    maps.lines()
        .filter_map(|l| l.split_whitespace().nth(5))
        .filter(|p| p.starts_with('/') && p.contains(".so"))
        .map(PathBuf::from)
        .collect()
}
