//! Images: what a microVM boots from. A kernel and its drivers from Debian's package for clouds,
//! a root file system put together in user space, and the digests of both. Nothing is ever mounted,
//! and no program of an image runs while it is made.
//!
//! An image is a directory that appears whole: it is built beside its place and renamed.

use super::image_setuid::remove_setuid_bits;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The name that is meant when none is given.
pub const DEFAULT: &str = "base";
/// Parts of an image.
const PARTS: [&str; 3] = ["kernel", "initrd", "base.ext4"];
/// What every Debian has, and what agents' skills and shells expect to find.
const PACKAGES: [&str; 25] = [
    "base-files",
    "bash",
    "ca-certificates",
    "coreutils",
    "curl",
    "dash",
    "diffutils",
    "findutils",
    "git",
    "grep",
    "gzip",
    "hostname",
    "iproute2",
    "libc-bin",
    "login",
    "mawk",
    "mount",
    "ncurses-base",
    "passwd",
    "procps",
    "python3",
    "sed",
    "tar",
    "tzdata",
    "util-linux",
];
/// Makes `/bin` and its like links into `/usr`, as every current Debian has them.
const MERGED: &str = "/usr/share/mmdebstrap/hooks/merged-usr";
/// Drivers, below the kernel's modules, in the order of their need.
const MODULES: [&str; 15] = [
    "drivers/virtio/virtio_ring.ko",
    "drivers/virtio/virtio.ko",
    "drivers/virtio/virtio_mmio.ko",
    "net/core/failover.ko",
    "drivers/net/net_failover.ko",
    "drivers/net/virtio_net.ko",
    "drivers/block/virtio_blk.ko",
    "drivers/char/virtio_console.ko",
    "drivers/char/hw_random/virtio-rng.ko",
    "net/vmw_vsock/vsock.ko",
    "net/vmw_vsock/vmw_vsock_virtio_transport_common.ko",
    "net/vmw_vsock/vmw_vsock_virtio_transport.ko",
    "fs/overlayfs/overlay.ko",
    "fs/fuse/fuse.ko",
    "drivers/net/tun.ko",
];
const INIT: &str = include_str!("init.sh");
/// Fetches the packages of the kernel and of busybox into [`BOOT`] of the root.
const BOOT_PACKAGES: &str = include_str!("boot_packages.sh");
/// Where [`BOOT_PACKAGES`] leaves packages, below the root.
const BOOT: &str = ".boot";

/// Description of an image, in `image.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Name of the image.
    pub name: String,
    /// Package and version of the kernel.
    pub kernel: String,
    /// Release of Debian.
    pub suite: String,
    /// Packages that were requested.
    pub packages: Vec<String>,
    /// SHA-256 of each part, hexadecimal.
    pub digests: BTreeMap<String, String>,
}

/// Options for building an image.
#[derive(Debug, Clone, Default)]
pub struct ImageRecipe {
    /// Release of Debian; the host's own by default.
    pub suite: Option<String>,
    /// Packages besides the standard ones.
    pub include: Vec<String>,
}

/// [`Error::Image`] for the step `what` with this reason.
pub(super) fn image_error(what: &'static str, why: impl Into<String>) -> Error {
    Error::Image {
        what,
        why: why.into(),
    }
}

/// Package of a program on Debian.
fn package_of(program: &str) -> &str {
    match program {
        "mkfs.ext4" => "e2fsprogs",
        "dpkg-deb" => "dpkg",
        other => other,
    }
}

/// [`Error::Image`] for a tool that could not be started; names the Debian package if it is not installed.
pub(super) fn tool_error(what: &'static str, program: &str, package: &str, e: &io::Error) -> Error {
    match e.kind() {
        io::ErrorKind::NotFound => image_error(
            what,
            format!("`{program}` is not installed (package {package} on Debian)"),
        ),
        _ => image_error(what, format!("`{program}`: {e}")),
    }
}

/// Runs a program of the host to its end.
fn run(what: &'static str, program: &str, configure: impl FnOnce(&mut Command)) -> Result<Vec<u8>> {
    let mut command = Command::new(program);
    command
        .env("PATH", crate::sys::programs::SYSTEM_PATH)
        .stdin(Stdio::null());
    configure(&mut command);
    let output = command
        .output()
        .map_err(|e| tool_error(what, program, package_of(program), &e))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let last: Vec<&str> = text.lines().rev().take(3).collect();
    let last: Vec<&str> = last.into_iter().rev().collect();
    Err(image_error(
        what,
        format!(
            "`{program}` ended with {}: {}",
            output.status,
            last.join("; ")
        ),
    ))
}

/// The release of this host, if it is a Debian.
fn own_suite() -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    let value = text
        .lines()
        .find_map(|l| l.strip_prefix("VERSION_CODENAME="))?;
    Some(value.trim_matches('"').to_owned())
}

/// A directory that goes with its owner.
struct Scratch(PathBuf);
impl Drop for Scratch {
    fn drop(&mut self) {
        let _already_renamed = fs::remove_dir_all(&self.0);
    }
}

/// Builds image `name` in directory `images`; `tell` receives progress messages.
///
/// # Errors
/// [`Error::Image`] with the step that failed; the unfinished image is removed.
pub fn build_image(
    images: &Path,
    name: &str,
    recipe: &ImageRecipe,
    tell: &dyn Fn(&str),
) -> Result<Image> {
    named(name)?;
    fs::create_dir_all(images).map_err(Error::file("make", images))?;
    let place = images.join(name);
    let scratch = Scratch(images.join(format!(".{name}.{}", std::process::id())));
    let at = scratch.0.clone();
    fs::create_dir(&at).map_err(Error::file("make", &at))?;
    let suite = recipe
        .suite
        .clone()
        .or_else(own_suite)
        .unwrap_or_else(|| "bookworm".to_owned());
    let mut packages: Vec<String> = PACKAGES.map(str::to_owned).to_vec();
    packages.extend(recipe.include.iter().cloned());
    packages.sort();
    packages.dedup();

    tell(&format!(
        "putting {} packages of {suite} together",
        packages.len()
    ));
    root(&at, &suite, &packages)?;
    tell("unpacking the kernel and busybox");
    let version = kernel(&at)?;
    initrd(&at)?;
    tell("writing the root file system");
    file_system(&at)?;
    for left in [BOOT, "root", "initrd.d", "kernel.d", "busybox.d"] {
        let _never_made = fs::remove_dir_all(at.join(left));
    }
    let mut digests = BTreeMap::new();
    for part in PARTS {
        let path = at.join(part);
        protect(&path)?;
        digests.insert(part.to_owned(), digest(&path)?);
    }
    let image = Image {
        name: name.to_owned(),
        kernel: version,
        suite,
        packages,
        digests,
    };
    crate::record::write_json(&at.join("image.json"), &image)?;
    settle(&at, &place)?;
    Ok(image)
}

/// Puts a finished directory in its place; the one before stays for those that run from it.
fn settle(at: &Path, place: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(at, fs::Permissions::from_mode(0o755))
        .map_err(Error::file("protect", at))?;
    if place.exists() {
        fs::remove_dir_all(place).map_err(Error::file("remove", place))?;
    }
    fs::rename(at, place).map_err(Error::file("publish", place))
}

fn protect(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o444))
        .map_err(Error::file("protect", path))
}

fn named(name: &str) -> Result<()> {
    name.parse::<abbey_model::Slug>()
        .map(drop)
        .map_err(|e| image_error("name", format!("`{name}` is not a valid image name: {e}")))
}

/// Unpacks the package whose file name begins so; gives its file name without the extension.
fn unpack(at: &Path, package: &str, to: &Path) -> Result<String> {
    let packages = at.join(BOOT);
    let file = fs::read_dir(&packages)
        .map_err(Error::file("list", &packages))?
        .flatten()
        .map(|e| e.path())
        .find(|p| {
            p.extension().is_some_and(|e| e == "deb")
                && p.file_name()
                    .is_some_and(|n| n.to_string_lossy().starts_with(package))
        })
        .ok_or_else(|| image_error("fetch a package", format!("`{package}` was not downloaded")))?;
    run("unpack a package", "dpkg-deb", |c| {
        c.arg("-x").arg(&file).arg(to);
    })?;
    Ok(file
        .file_stem()
        .map_or_else(String::new, |s| s.to_string_lossy().into_owned()))
}

/// The kernel, beside its modules; gives its package and version.
fn kernel(at: &Path) -> Result<String> {
    let to = at.join("kernel.d");
    let version = unpack(at, "linux-image-", &to)?;
    let boot = to.join("boot");
    let image = fs::read_dir(&boot)
        .map_err(Error::file("list", &boot))?
        .flatten()
        .map(|e| e.path())
        .find(|p| {
            p.file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with("vmlinuz"))
        })
        .ok_or_else(|| image_error("find the kernel", "the package contains none"))?;
    super::kernel::unpack_kernel(&image, &at.join("kernel"))?;
    Ok(version)
}

/// The first file system: drivers, busybox, and a script.
fn initrd(at: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let dir = at.join("initrd.d");
    let busybox = at.join("busybox.d");
    unpack(at, "busybox-static", &busybox)?;
    for name in [
        "bin", "modules", "dev", "proc", "sys", "base", "layer", "new",
    ] {
        let path = dir.join(name);
        fs::create_dir_all(&path).map_err(Error::file("make", path))?;
    }
    let own = busybox.join("bin/busybox");
    fs::copy(&own, dir.join("bin/busybox")).map_err(Error::file("copy", own))?;
    let init = dir.join("init");
    fs::write(&init, INIT).map_err(Error::file("write", &init))?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))
        .map_err(Error::file("protect", &init))?;
    let all = at.join("kernel.d/lib/modules");
    let release = fs::read_dir(&all)
        .map_err(Error::file("list", &all))?
        .flatten()
        .next()
        .ok_or_else(|| image_error("find drivers", "the kernel's package contains none"))?;
    for module in MODULES {
        let from = release.path().join("kernel").join(module);
        let name = from.file_name().unwrap_or_default();
        fs::copy(&from, dir.join("modules").join(name)).map_err(Error::file("copy", &from))?;
    }
    let out = fs::File::create(at.join("initrd")).map_err(Error::file("make", "initrd"))?;
    let mut child = Command::new("cpio")
        .args(["-o", "-H", "newc", "--quiet", "-R", "0:0"])
        .current_dir(&dir)
        .stdin(Stdio::piped())
        .stdout(out)
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| tool_error("pack the first file system", "cpio", "cpio", &e))?;
    if let Some(mut names) = child.stdin.take() {
        for name in below(&dir, Path::new(""))? {
            let _it_ended = writeln!(names, "{}", name.display());
        }
    }
    match child.wait() {
        Ok(status) if status.success() => Ok(()),
        other => Err(image_error(
            "pack the first file system",
            format!("`cpio`: {other:?}"),
        )),
    }
}

/// Everything in a directory, parents first.
pub(super) fn below(dir: &Path, at: &Path) -> Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    let mut entries: Vec<_> = fs::read_dir(dir.join(at))
        .map_err(Error::file("list", dir))?
        .flatten()
        .collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = at.join(entry.file_name());
        names.push(name.clone());
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            names.extend(below(dir, &name)?);
        }
    }
    Ok(names)
}

/// Packages unpacked into a root, with nothing of them run.
fn root(at: &Path, suite: &str, packages: &[String]) -> Result<()> {
    run("put the root together", "mmdebstrap", |c| {
        c.args(["--quiet", "--variant=extract", "--format=directory"])
            .arg(format!("--hook-dir={MERGED}"))
            .arg(format!("--extract-hook={BOOT_PACKAGES}"))
            .arg(format!("--include={}", packages.join(",")))
            .arg(suite)
            .arg(at.join("root"));
    })?;
    let root = at.join("root");
    let boot = root.join(BOOT);
    fs::rename(&boot, at.join(BOOT)).map_err(Error::file("move", boot))?;
    remove_setuid_bits(&root)?;
    for (path, text) in [
        (
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\nagent:x:1000:1000:agent:/agent/home:/bin/sh\nnobody:x:65534:65534::/:/usr/sbin/nologin\n",
        ),
        ("etc/group", "root:x:0:\nagent:x:1000:\nnogroup:x:65534:\n"),
        ("etc/subuid", "agent:100000:65536\n"),
        ("etc/subgid", "agent:100000:65536\n"),
        (
            "etc/nsswitch.conf",
            "passwd: files\ngroup: files\nhosts: files dns\n",
        ),
        ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
        ("etc/hostname", "abbey\n"),
        ("etc/machine-id", ""),
        (
            "etc/resolv.conf",
            "nameserver 127.0.0.1\noptions use-vc timeout:4 attempts:1\n",
        ),
    ] {
        let path = root.join(path);
        let _a_link_perhaps = fs::remove_file(&path);
        fs::write(&path, text).map_err(Error::file("write", path))?;
    }
    // What the packages' own scripts would have made of these.
    let links = [("usr/bin/python", "python3"), ("usr/bin/awk", "mawk")];
    for (path, to) in links {
        let path = root.join(path);
        if !path.exists() && path.parent().is_some_and(|d| d.join(to).exists()) {
            std::os::unix::fs::symlink(to, &path).map_err(Error::file("make", path))?;
        }
    }
    certificates(&root)
}

/// One file with every root certificate of the package.
fn certificates(root: &Path) -> Result<()> {
    let from = root.join("usr/share/ca-certificates");
    let mut bundle = Vec::new();
    if from.is_dir() {
        for name in below(&from, Path::new(""))? {
            if name.extension().is_some_and(|e| e == "crt") {
                let path = from.join(&name);
                bundle.extend(fs::read(&path).map_err(Error::file("read", path))?);
            }
        }
    }
    let to = root.join("etc/ssl/certs");
    fs::create_dir_all(&to).map_err(Error::file("make", &to))?;
    let path = to.join("ca-certificates.crt");
    fs::write(&path, bundle).map_err(Error::file("write", path))
}

/// The root as a file system, with some room for its tables.
fn file_system(at: &Path) -> Result<()> {
    let root = at.join("root");
    let used: u64 = below(&root, Path::new(""))?
        .iter()
        .filter_map(|n| fs::symlink_metadata(root.join(n)).ok())
        .map(|m| m.len().next_multiple_of(4096) + 512)
        .sum();
    let size_kib = (used * 5 / 4 + (32 << 20)) >> 10;
    run("write the root file system", "mkfs.ext4", |c| {
        c.args([
            "-q",
            "-F",
            "-m",
            "0",
            "-O",
            "^has_journal",
            "-L",
            "abbey-base",
        ])
        .args(["-E", "root_owner=0:0"])
        .arg("-d")
        .arg(&root)
        .arg(at.join("base.ext4"))
        .arg(format!("{size_kib}k"));
    })
    .map(drop)
}

fn digest(path: &Path) -> Result<String> {
    let file = fs::File::open(path);
    file.and_then(abbey_support::digest::sha256_hex_of_reader)
        .map_err(Error::file("read", path))
}

/// Copies an image that was built elsewhere, in directory `from`, to `images` under `name`, and checks its digests.
///
/// # Errors
/// If `from` holds no image, or a part does not match its digest.
pub fn import_image(images: &Path, name: &str, from: &Path) -> Result<Image> {
    named(name)?;
    let mut image = read(from)?;
    fs::create_dir_all(images).map_err(Error::file("make", images))?;
    let scratch = Scratch(images.join(format!(".{name}.{}", std::process::id())));
    let at = &scratch.0;
    fs::create_dir(at).map_err(Error::file("make", at))?;
    for part in PARTS {
        let (source, target) = (from.join(part), at.join(part));
        // Parts are never written again, so one file does for several houses of one user.
        let own = fs::metadata(&source).map_err(Error::file("read", &source))?;
        let same = own.uid() == rustix::process::geteuid().as_raw();
        if !(same && fs::hard_link(&source, &target).is_ok()) {
            fs::copy(&source, &target).map_err(Error::file("copy", &source))?;
        }
        protect(&target)?;
        if image.digests.get(part) != Some(&digest(&target)?) {
            return Err(damaged(name, part));
        }
    }
    name.clone_into(&mut image.name);
    crate::record::write_json(&at.join("image.json"), &image)?;
    settle(at, &images.join(name))?;
    Ok(image)
}

fn damaged(name: &str, part: &str) -> Error {
    image_error(
        "use",
        format!(
            "`{part}` of `{name}` is not what was built: its digest differs; build it again with `abbey image build {name}`"
        ),
    )
}

fn read(place: &Path) -> Result<Image> {
    let path = place.join("image.json");
    crate::record::read_json(&path)?.ok_or_else(|| {
        image_error(
            "find",
            format!(
                "`{}` holds no image; build one with `abbey image build`",
                place.display()
            ),
        )
    })
}

/// Descriptions of all images in a directory, sorted by name; empty if the directory does not exist.
///
/// # Errors
/// When one of them is damaged or the directory cannot be read.
pub fn list_images(images: &Path) -> Result<Vec<Image>> {
    let entries = match fs::read_dir(images) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::file("list", images)(e)),
    };
    let mut found: Vec<Image> = entries
        .flatten()
        .filter(|e| !e.file_name().to_string_lossy().starts_with('.'))
        .map(|e| read(&e.path()))
        .collect::<Result<_>>()?;
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// Names of all images in a directory, without reading them.
pub(crate) fn image_names(images: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(images).into_iter().flatten().flatten();
    entries
        .filter(|e| e.path().join("image.json").is_file())
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .filter(|n| !n.starts_with('.'))
        .collect()
}

/// Deletes the image `name`.
///
/// # Errors
/// If there is no image of this name.
pub fn remove_image(images: &Path, name: &str) -> Result<()> {
    named(name)?;
    let place = images.join(name);
    read(&place)?;
    fs::remove_dir_all(&place).map_err(Error::file("remove", place))
}

/// Description of the image in directory `place`, after its parts were compared with their digests. The comparison
/// is skipped if no part changed since the last one.
///
/// # Errors
/// [`Error::Image`] when it is absent or damaged.
pub(crate) fn open_verified_image(place: &Path) -> Result<Image> {
    let image = read(place)?;
    let seen: Vec<(u64, i64, i64, u64)> = PARTS
        .iter()
        .map(|part| {
            let path = place.join(part);
            let meta = fs::metadata(&path).map_err(Error::file("read", path))?;
            Ok((meta.ino(), meta.ctime(), meta.ctime_nsec(), meta.len()))
        })
        .collect::<Result<_>>()?;
    let stamp = place.join("verified.json");
    if crate::record::read_json(&stamp).ok().flatten().as_ref() == Some(&seen) {
        return Ok(image);
    }
    for part in PARTS {
        if image.digests.get(part) != Some(&digest(&place.join(part))?) {
            return Err(damaged(&image.name, part));
        }
    }
    let _read_again_next_time = crate::record::write_json(&stamp, &seen);
    Ok(image)
}

/// Reads every part of an image and compares it with its digest, even if it was compared before.
///
/// # Errors
/// As [`list_images`]; [`Error::Image`] names the part that differs.
pub fn verify_image(images: &Path, name: &str) -> Result<Image> {
    named(name)?;
    let place = images.join(name);
    let _look_again = fs::remove_file(place.join("verified.json"));
    open_verified_image(&place)
}
