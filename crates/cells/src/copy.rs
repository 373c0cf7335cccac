//! Files on their way into a cell or out of it, as a tar stream: the sender runs on one side, the receiver on the other.
//!
//! Either side may be hostile to the other, and an agent may change its files meanwhile. Nothing below the named path is
//! reached through a link: each directory and file is opened in its directory's handle, without following links.

use crate::files::guarded::check_free_space;
use crate::files::tree::{HOLES_MAX, stays_within, take_holes};
use abbey_support::beneath::DirHandle;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// Most paths that are named as unreadable.
const UNREAD_NAMED_MAX: usize = 10;
/// Deepest directory; an agent could nest without end.
const DEPTH_MAX: usize = 128;

/// What was copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copied {
    /// Number of files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Which symbolic links a receiver makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// All: the receiver's own file system is the cell's.
    All,
    /// Those that lead to a path of the directory that is copied. Others would lead to files of the receiver that the
    /// sender chose.
    WithinCopy,
}

/// Writes the file or directory `source` to `to` as a tar stream with one entry at its top. Links below a directory are
/// sent as links; what is no file, directory or link is left out, as are files that are mostly holes, and `left_out` gets a
/// sentence about it.
///
/// # Errors
/// If something cannot be read, once all else is sent; or if `to` cannot be written.
pub fn send_files(
    source: &Path,
    to: impl Write,
    left_out: &mut dyn FnMut(String),
) -> io::Result<Copied> {
    let name = match source.file_name() {
        Some(name) => name.to_owned(),
        None => {
            let whole = source.canonicalize()?;
            whole.file_name().unwrap_or(OsStr::new("root")).to_owned()
        }
    };
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::open(source, flags, Mode::empty())?;
    let mut sender = Sender {
        archive: tar::Builder::new(to),
        copied: Copied::default(),
        left_out,
        holes_left: HOLES_MAX,
        unread: Vec::new(),
        unread_count: 0,
    };
    let file = File::from(opened);
    let found = file.metadata()?;
    if found.is_dir() {
        sender.send_directory(
            &OwnedFd::from(file).into(),
            Path::new(&name),
            found.mode(),
            0,
        )?;
    } else if found.is_file() {
        sender.send_file(file, Path::new(&name))?;
    } else {
        return Err(io::Error::other("it is neither a file nor a directory"));
    }
    sender.archive.into_inner()?.flush()?;
    match sender.unread_count {
        0 => Ok(sender.copied),
        count => Err(io::Error::other(format!(
            "not all could be read ({count} paths), and the rest was copied: {}",
            sender.unread.join("; ")
        ))),
    }
}

struct Sender<'a, W: Write> {
    archive: tar::Builder<W>,
    copied: Copied,
    left_out: &'a mut dyn FnMut(String),
    /// Bytes of holes that may still be sent.
    holes_left: u64,
    /// The first paths that can't be read, with the reason.
    unread: Vec<String>,
    /// Number of paths that can't be read.
    unread_count: usize,
}

impl<W: Write> Sender<'_, W> {
    fn send_directory(
        &mut self,
        dir: &DirHandle,
        path: &Path,
        mode: u32,
        depth: usize,
    ) -> io::Result<()> {
        if depth > DEPTH_MAX {
            let text = format!("`{}` is nested too deeply", path.display());
            return Err(io::Error::other(text));
        }
        let mut header = tar_header(tar::EntryType::Directory, mode, 0);
        self.archive.append_data(&mut header, path, io::empty())?;
        let names = match dir.names() {
            Err(error) if depth > 0 => {
                self.leave_out(path, &error);
                return Ok(());
            }
            names => names?,
        };
        for name in names {
            let path = path.join(&name);
            // What vanishes while it is read is left out.
            let Ok(Some(stat)) = dir.stat_entry(&name) else {
                continue;
            };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => match dir.open_dir(&name) {
                    Ok(below) => self.send_directory(&below, &path, stat.st_mode, depth + 1)?,
                    // A file system has that for itself, and only root can read it.
                    Err(_) if name == "lost+found" && stat.st_uid == 0 => {}
                    Err(error) => self.leave_out(&path, &error),
                },
                FileType::RegularFile => match dir.open_entry(&name) {
                    Ok(file) => self.send_file(File::from(file), &path)?,
                    Err(error) => self.leave_out(&path, &error),
                },
                FileType::Symlink => {
                    let target = match rustix::fs::readlinkat(dir, &name, Vec::new()) {
                        Ok(target) => target,
                        Err(error) => {
                            self.leave_out(&path, &error.into());
                            continue;
                        }
                    };
                    let mut header = tar_header(tar::EntryType::Symlink, 0o777, 0);
                    let target = OsStr::from_bytes(target.as_bytes());
                    self.archive.append_link(&mut header, &path, target)?;
                }
                _ => (self.left_out)(format!(
                    "`{}` was left out: it is no file, directory or link",
                    path.display()
                )),
            }
        }
        Ok(())
    }

    /// Notes that something can't be read; the rest is sent all the same.
    fn leave_out(&mut self, path: &Path, error: &io::Error) {
        if self.unread.len() < UNREAD_NAMED_MAX {
            self.unread.push(format!("`{}`: {error}", path.display()));
        }
        self.unread_count += 1;
    }

    fn send_file(&mut self, file: File, path: &Path) -> io::Result<()> {
        let found = file.metadata()?;
        if !found.is_file() {
            let text = format!("`{}` changed while it was read", path.display());
            return Err(io::Error::other(text));
        }
        if let Err(why) = take_holes(&found, &mut self.holes_left) {
            (self.left_out)(format!("`{}` was left out: {why}", path.display()));
            return Ok(());
        }
        let mut header = tar_header(tar::EntryType::Regular, found.mode(), found.len());
        // The header has its length: a file that grows is cut there, and one that shrinks ends in zeros.
        let content = file.chain(io::repeat(0)).take(found.len());
        self.archive.append_data(&mut header, path, content)?;
        self.copied.files += 1;
        self.copied.bytes += found.len();
        Ok(())
    }
}

fn tar_header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode & 0o777);
    header.set_size(size);
    header
}

/// Reads the tar stream of [`send_files`] and writes it to `target`: into it if that is a directory, and otherwise under
/// that name. Existing files are replaced whole. `links` says which links are made; the others are left out, and
/// `left_out` gets a sentence about each.
///
/// # Errors
/// If the stream is invalid or ends early, or something cannot be written. What was written by then stays.
pub fn receive_files(
    target: &Path,
    from: impl Read,
    links: Links,
    left_out: &mut dyn FnMut(String),
) -> io::Result<Copied> {
    let into = fs::metadata(target).is_ok_and(|m| m.is_dir());
    let (base, renamed) = match (into, target.file_name()) {
        (true, _) | (false, None) => (target, None),
        (false, Some(name)) => {
            let parent = target.parent().filter(|p| !p.as_os_str().is_empty());
            (parent.unwrap_or(Path::new(".")), Some(name))
        }
    };
    let base_dir = DirHandle::open_trusted(base)
        .map_err(|e| io::Error::new(e.kind(), format!("directory `{}`: {e}", base.display())))?;
    let wants_directory = !into && target.as_os_str().as_bytes().ends_with(b"/");
    let mut receiver = Receiver {
        base: &base_dir,
        links,
        left_out,
        copied: Copied::default(),
    };
    let mut archive = tar::Archive::new(from);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let parts = plain_parts(&path)?;
        let Some((top, below)) = parts.split_first() else {
            continue;
        };
        let is_file = entry.header().entry_type() == tar::EntryType::Regular;
        if is_file && below.is_empty() && wants_directory {
            return Err(at(&path, io::ErrorKind::NotADirectory.into()));
        }
        let mut parts = vec![renamed.unwrap_or(top)];
        parts.extend(below.iter().copied());
        receiver.receive(&parts, 1, &path, &mut entry)?;
    }
    let copied = receiver.copied;
    // The sender must not fail because its last padding is not read.
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
    Ok(copied)
}

/// Reads a tar stream with the files and directories `names`, plain relative paths, from a sender in a cell and writes
/// them below the directory `base` under the same paths. Existing files are replaced whole. Links that lead out of their
/// named directory are left out, and `left_out` gets a sentence about each.
///
/// # Errors
/// If the stream is invalid or has an entry of another name, or something cannot be written. What was written by then
/// stays.
pub fn receive_named(
    base: &Path,
    names: &[PathBuf],
    from: impl Read,
    left_out: &mut dyn FnMut(String),
) -> io::Result<()> {
    let base_dir = DirHandle::open_trusted(base)?;
    let mut receiver = Receiver {
        base: &base_dir,
        links: Links::WithinCopy,
        left_out,
        copied: Copied::default(),
    };
    for name in names {
        if let Some(parent) = name.parent() {
            fs::create_dir_all(base.join(parent))?;
        }
    }
    let mut archive = tar::Archive::new(from);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let parts = plain_parts(&path)?;
        let named = names.iter().filter(|name| path.starts_with(name));
        let Some(top) = named.map(|n| n.components().count()).min() else {
            return Err(at(&path, io::Error::other("it was not asked for")));
        };
        receiver.receive(&parts, top, &path, &mut entry)?;
    }
    Ok(())
}

/// Adds the path of an entry to an error.
fn at(path: &Path, e: io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("`{}`: {e}", path.display()))
}

struct Receiver<'a> {
    base: &'a DirHandle,
    links: Links,
    left_out: &'a mut dyn FnMut(String),
    copied: Copied,
}

impl Receiver<'_> {
    /// Writes one entry of a stream under `parts` below the base. The first `top` parts are the path of what is copied;
    /// `path` is how the stream calls the entry.
    fn receive(
        &mut self,
        parts: &[&OsStr],
        top: usize,
        path: &Path,
        entry: &mut tar::Entry<'_, impl Read>,
    ) -> io::Result<()> {
        let (name, parents) = parts
            .split_last()
            .map(|(n, p)| (n.as_bytes(), p))
            .unwrap_or_default();
        let mut dir = self.base.open_dir(".")?;
        for part in parents {
            dir = dir.open_dir(part).map_err(|e| at(path, e))?;
        }
        let at = |e: io::Error| at(path, e);
        match entry.header().entry_type() {
            tar::EntryType::Directory => {
                let mode = self.allowed_mode(entry.header().mode()?) | 0o700;
                match rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(mode)) {
                    Ok(()) => {}
                    Err(rustix::io::Errno::EXIST) => {
                        dir.open_dir(OsStr::from_bytes(name)).map_err(at)?;
                    }
                    Err(e) => return Err(at(e.into())),
                }
            }
            tar::EntryType::Regular => {
                let (mode, size) = (self.allowed_mode(entry.header().mode()?), entry.size());
                let exact = self.links == Links::All;
                replace_file(&dir, name, (mode, exact), size, entry).map_err(at)?;
                self.copied.files += 1;
                self.copied.bytes += size;
            }
            tar::EntryType::Symlink => {
                let target = entry.link_name()?.map(PathBuf::from).unwrap_or_default();
                let depth = parents.len().checked_sub(top);
                let within = depth.is_some_and(|depth| stays_within(&target, depth));
                if self.links == Links::WithinCopy && !within {
                    (self.left_out)(format!(
                        "`{}` was left out: it is a link that leads out of what is copied",
                        path.display()
                    ));
                    return Ok(());
                }
                let temporary = temporary_name();
                rustix::fs::symlinkat(&target, &dir, &temporary).map_err(|e| at(e.into()))?;
                publish(&dir, &temporary, name).map_err(at)?;
            }
            _ => {
                return Err(at(io::Error::other(
                    "an entry of this kind is not accepted",
                )));
            }
        }
        Ok(())
    }

    /// Mode of what is written: out of a cell comes nothing that other users of this host may change.
    fn allowed_mode(&self, mode: u32) -> u32 {
        match self.links {
            Links::All => mode & 0o777,
            Links::WithinCopy => mode & 0o755,
        }
    }
}

/// Parts of a path that stays where it begins.
fn plain_parts(path: &Path) -> io::Result<Vec<&OsStr>> {
    let parts = path.components().filter(|c| *c != Component::CurDir);
    let parts = parts.map(|c| match c {
        Component::Normal(part) => Ok(part),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("the path `{}` leads out of the target", path.display()),
        )),
    });
    parts.collect()
}

fn temporary_name() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    format!(".abbey-cp-{}-{n}", std::process::id())
}

/// Writes a file beside the old one and puts it in its place whole. Its mode is exact, or what the umask leaves of it.
fn replace_file(
    dir: &DirHandle,
    name: &[u8],
    (mode, exact): (u32, bool),
    size: u64,
    content: &mut impl Read,
) -> io::Result<()> {
    let temporary = temporary_name();
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let first = if exact { 0o600 } else { mode };
    let file = rustix::fs::openat(dir, &temporary, flags, Mode::from_raw_mode(first))?;
    let mut file = File::from(file);
    // A cell may send without end, or say that it will.
    let written = check_free_space(&file, size)
        .and_then(|()| io::copy(content, &mut file))
        .and_then(|n| match n == size {
            true if exact => Ok(rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?),
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        });
    match written {
        Ok(()) => publish(dir, &temporary, name),
        Err(e) => {
            let _left_behind = rustix::fs::unlinkat(dir, &temporary, AtFlags::empty());
            Err(e)
        }
    }
}

/// Puts a temporary entry in the place of a file or link, never in that of a device or a socket.
fn publish(dir: impl AsFd, temporary: &str, name: &[u8]) -> io::Result<()> {
    let dir = dir.as_fd();
    let replaced = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(_) => true,
        Ok(stat) => matches!(
            FileType::from_raw_mode(stat.st_mode),
            FileType::RegularFile | FileType::Symlink
        ),
    };
    let done = match replaced {
        true => rustix::fs::renameat(dir, temporary, dir, name).map_err(io::Error::from),
        false => Err(io::Error::other("it exists and is not a file")),
    };
    if done.is_err() {
        let _left_behind = rustix::fs::unlinkat(dir, temporary, AtFlags::empty());
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn sent(source: &Path) -> Vec<u8> {
        let mut bytes = Vec::new();
        send_files(source, &mut bytes, &mut |_| {}).unwrap();
        bytes
    }

    fn receive(target: &Path, bytes: &[u8]) -> io::Result<Copied> {
        receive_files(target, bytes, Links::WithinCopy, &mut |_| {})
    }

    #[test]
    fn a_tree_arrives_under_its_name_or_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("tree");
        fs::create_dir_all(source.join("below")).unwrap();
        fs::write(source.join("below/file"), vec![7; 300_000]).unwrap();
        fs::set_permissions(
            source.join("below/file"),
            fs::Permissions::from_mode(0o4755),
        )
        .unwrap();
        symlink("/etc/passwd", source.join("link")).unwrap();
        let target = dir.path().join("target");
        fs::create_dir(&target).unwrap();
        let bytes = sent(&source);
        let copied = receive(&target, &bytes).unwrap();
        assert_eq!((copied.files, copied.bytes), (1, 300_000));
        receive(&dir.path().join("renamed"), &bytes).unwrap();
        for at in [target.join("tree"), dir.path().join("renamed")] {
            let file = at.join("below/file");
            assert_eq!(fs::read(&file).unwrap(), vec![7; 300_000]);
            assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o755);
            assert!(fs::symlink_metadata(at.join("link")).is_err());
        }
        receive_files(&target, &bytes[..], Links::All, &mut |_| {}).unwrap();
        let link = fs::read_link(target.join("tree/link")).unwrap();
        assert_eq!(link, Path::new("/etc/passwd"));
    }

    #[test]
    fn a_hostile_stream_writes_nothing_outside_of_its_target() {
        let dir = tempfile::tempdir().unwrap();
        let (target, outside) = (dir.path().join("target"), dir.path().join("outside"));
        fs::create_dir(&target).unwrap();
        fs::create_dir(&outside).unwrap();
        symlink(&outside, target.join("door")).unwrap();
        for name in ["../outside/x", "/outside/x", "door/x", "a/../../outside/x"] {
            let mut archive = tar::Builder::new(Vec::new());
            let mut header = tar_header(tar::EntryType::Regular, 0o644, 1);
            let field = &mut header.as_old_mut().name;
            field[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            archive.append(&header, &b"x"[..]).unwrap();
            let bytes = archive.into_inner().unwrap();
            assert!(receive(&target, &bytes).is_err(), "{name}");
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        // A link in place of a file is replaced, and what it leads to is left alone.
        fs::write(outside.join("kept"), "kept").unwrap();
        symlink(outside.join("kept"), target.join("file")).unwrap();
        fs::write(dir.path().join("file"), "new").unwrap();
        receive(&target, &sent(&dir.path().join("file"))).unwrap();
        assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "new");
        assert_eq!(fs::read_to_string(outside.join("kept")).unwrap(), "kept");
    }

    #[test]
    fn links_stay_where_they_lead_to_what_is_copied() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("tree");
        fs::create_dir_all(source.join("below/deep")).unwrap();
        fs::write(source.join("below/file"), "content").unwrap();
        fs::write(dir.path().join("secret"), "secret").unwrap();
        let inside = [
            ("to-file", "below/file"),
            ("to-dir", "./below"),
            ("below/up", ".."),
            ("below/deep/up-and-down", "../../below/file"),
            ("through", "to-dir/file"),
            ("dangling", "nowhere"),
        ];
        let outside = [
            ("absolute", "/etc/passwd"),
            ("out", "../secret"),
            ("below/out", "../../secret"),
            // By their text these lead to the tree; by way of the link `below/up` they would not.
            ("winding", "below/up/../secret"),
            ("below/winding", "up/../../secret"),
        ];
        for (name, target) in inside.iter().chain(&outside) {
            symlink(target, source.join(name)).unwrap();
        }
        let bytes = sent(&source);
        let mut left_out = Vec::new();
        let target = dir.path().join("copy");
        let mut tell = |text: String| left_out.push(text);
        receive_files(&target, &bytes[..], Links::WithinCopy, &mut tell).unwrap();
        for (name, leads_to) in inside {
            let copied = fs::read_link(target.join(name)).unwrap();
            assert_eq!(copied, Path::new(leads_to), "{name}");
        }
        for name in [
            "to-file",
            "through",
            "below/deep/up-and-down",
            "below/up/to-dir/file",
        ] {
            assert_eq!(fs::read_to_string(target.join(name)).unwrap(), "content");
        }
        for (name, _) in outside {
            assert!(fs::symlink_metadata(target.join(name)).is_err(), "{name}");
            let told = format!("`tree/{name}` was left out: it is a link that leads out");
            assert!(
                left_out.iter().any(|t| t.starts_with(&told)),
                "{left_out:?}"
            );
        }
        assert_eq!(left_out.len(), outside.len());
    }

    #[test]
    fn nothing_is_written_through_a_link_of_the_stream() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        fs::create_dir_all(target.join("tree/below")).unwrap();
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar_header(tar::EntryType::Symlink, 0o777, 0);
        archive
            .append_link(&mut header, "tree/link", "below")
            .unwrap();
        let mut header = tar_header(tar::EntryType::Regular, 0o644, 1);
        archive
            .append_data(&mut header, "tree/link/x", &b"x"[..])
            .unwrap();
        let bytes = archive.into_inner().unwrap();
        assert!(receive(&target, &bytes).is_err());
        assert_eq!(fs::read_dir(target.join("tree/below")).unwrap().count(), 0);
        // Nor is the topmost entry a link.
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar_header(tar::EntryType::Symlink, 0o777, 0);
        archive.append_link(&mut header, "link", "tree").unwrap();
        let bytes = archive.into_inner().unwrap();
        receive(&target, &bytes).unwrap();
        assert!(fs::symlink_metadata(target.join("link")).is_err());
    }

    #[test]
    fn a_stream_that_ends_early_leaves_no_half_file() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), vec![7; 100_000]).unwrap();
        let bytes = sent(&dir.path().join("file"));
        let target = dir.path().join("target");
        fs::create_dir(&target).unwrap();
        assert!(receive(&target, &bytes[..50_000]).is_err());
        assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
    }
}
