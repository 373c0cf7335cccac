//! Access to files below an open directory, for processes with more rights than whoever can change what lies there.
//!
//! Every path is resolved by the kernel in one step (`openat2(2)`) that neither leaves the directory nor follows a link,
//! so a file that is swapped while it is in use is refused or missing, never one from elsewhere. Files are opened only if
//! they are regular and have one name: a hard link to a file of another owner is refused, a FIFO is not waited for.
//! What is found is judged by the open descriptor, never by a second look at its path.

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid, fchmod, fchown, fstat,
    mkdirat, openat, openat2, renameat, statat, unlinkat,
};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

/// Deepest directory that [`DirHandle::remove_tree`] enters: each level holds a descriptor.
const DEPTH_MAX: usize = 512;

/// An open directory. Paths given to its methods are relative to it.
#[derive(Debug)]
pub struct DirHandle(OwnedFd);

/// User and group of a file.
pub type Owner = (u32, u32);

impl DirHandle {
    /// Opens the directory at `path`. Its parents are trusted: whoever can change them decides which directory it is.
    /// The last component may not be a link.
    ///
    /// # Errors
    /// The system's error.
    pub fn open(path: &Path) -> io::Result<DirHandle> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(DirHandle(openat(CWD, path, flags, Mode::empty())?))
    }

    /// Opens the directory at `path`. The path is trusted as a whole and may be a link.
    ///
    /// # Errors
    /// The system's error.
    pub fn open_trusted(path: &Path) -> io::Result<DirHandle> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(DirHandle(openat(CWD, path, flags, Mode::empty())?))
    }

    /// As [`DirHandle::open_trusted`], if the directory belongs to the user of this process.
    ///
    /// # Errors
    /// `PermissionDenied` with the owner for a directory of another user, otherwise the system's error.
    pub fn open_own(path: &Path) -> io::Result<DirHandle> {
        let dir = DirHandle::open_trusted(path)?;
        let (owner, own) = (dir.stat()?.st_uid, own_user());
        match owner == own {
            true => Ok(dir),
            false => Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("it belongs to user {owner}, not to user {own} who runs this program"),
            )),
        }
    }

    /// Opens a directory below this one.
    ///
    /// # Errors
    /// The system's error: `ELOOP` if a link is on the way, `EXDEV` if the path leads out.
    pub fn open_dir(&self, path: impl AsRef<Path>) -> io::Result<DirHandle> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        Ok(DirHandle(self.resolve(path.as_ref(), flags, 0)?))
    }

    /// Opens a regular file below this directory for reading.
    ///
    /// # Errors
    /// As [`DirHandle::open_dir`]; `InvalidInput` if it is not a regular file or has several names.
    pub fn open_file(&self, path: impl AsRef<Path>) -> io::Result<File> {
        regular(self.resolve(path.as_ref(), OFlags::RDONLY | OFlags::NONBLOCK, 0)?)
    }

    /// As [`DirHandle::open_file`], for a path that may lead through symbolic links as long as these stay below this
    /// directory. A kernel without `openat2(2)` follows none.
    ///
    /// # Errors
    /// As [`DirHandle::open_file`]; `EXDEV` if the path or a link leads out.
    pub fn open_file_through_links(&self, path: impl AsRef<Path>) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        loop {
            match openat2(&self.0, path.as_ref(), flags, Mode::empty(), beneath) {
                Err(rustix::io::Errno::AGAIN) => {}
                Err(rustix::io::Errno::NOSYS) => return self.open_file(path),
                ended => return regular(ended?),
            }
        }
    }

    /// Opens a file or directory below this directory for reading, whatever its kind and however many names it has. Does
    /// not wait for the other end of a FIFO.
    ///
    /// # Errors
    /// As [`DirHandle::open_dir`].
    pub fn open_entry(&self, path: impl AsRef<Path>) -> io::Result<OwnedFd> {
        self.resolve(path.as_ref(), OFlags::RDONLY | OFlags::NONBLOCK, 0)
    }

    /// Opens a regular file below this directory for reading and writing, for example a lock, and creates it with this
    /// mode (under the umask) if it is missing. Its content is kept.
    ///
    /// # Errors
    /// As [`DirHandle::open_file`].
    pub fn open_or_create(&self, path: impl AsRef<Path>, mode: u32) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NONBLOCK;
        regular(self.resolve(path.as_ref(), flags, mode)?)
    }

    /// Creates a file below this directory, with this mode under the umask.
    ///
    /// # Errors
    /// As [`DirHandle::open_dir`]; `AlreadyExists` if there is anything at the path.
    pub fn create_file(&self, path: impl AsRef<Path>, mode: u32) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        Ok(self.resolve(path.as_ref(), flags, mode)?.into())
    }

    /// Reads at most `limit` bytes of a regular file below this directory.
    ///
    /// # Errors
    /// As [`DirHandle::open_file`]; `InvalidData` for a longer file.
    pub fn read(&self, path: impl AsRef<Path>, limit: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = self.open_file(path)?;
        file.take(limit + 1).read_to_end(&mut bytes)?;
        match bytes.len() as u64 > limit {
            true => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("it is longer than {limit} bytes"),
            )),
            false => Ok(bytes),
        }
    }

    /// Creates the directory `name` directly in this one unless it exists, gives it exactly this mode and, for root, this
    /// owner. Where others can create entries, one that belongs to neither this process nor that owner is refused: its
    /// content is not ours.
    ///
    /// # Errors
    /// The system's error; `PermissionDenied` for a directory of another user.
    pub fn ensure_dir(
        &self,
        name: impl AsRef<Path>,
        mode: u32,
        owner: Owner,
    ) -> io::Result<DirHandle> {
        let name = single(name.as_ref())?;
        match mkdirat(&self.0, name, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        let dir = self.open_dir(name)?;
        let (own, parent, found) = (own_user(), self.stat()?, dir.stat()?);
        let shared = parent.st_uid != own || parent.st_mode & 0o022 != 0;
        if shared && found.st_uid != own && found.st_uid != owner.0 {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("it belongs to user {}", found.st_uid),
            ));
        }
        let owned = own != 0 || (found.st_uid, found.st_gid) == owner;
        if owned && found.st_mode & 0o7777 == mode {
            return Ok(dir);
        }
        set_owner_and_mode(&dir.0, owner, mode)?;
        Ok(dir)
    }

    /// Replaces the file `name` directly in this directory by one with these bytes, exactly this mode and, for root, this
    /// owner: whole or not at all. `sync` makes the content survive a power failure.
    ///
    /// # Errors
    /// The first step that failed; the old file stays then.
    pub fn publish(
        &self,
        name: impl AsRef<Path>,
        bytes: &[u8],
        mode: u32,
        owner: Owner,
        sync: bool,
    ) -> io::Result<()> {
        let name = single(name.as_ref())?;
        // By chance: whoever can write here cannot be in the way.
        let mut temporary = OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{:016x}.new", random()?));
        let temporary = Path::new(&temporary);
        let mut file = self.create_file(temporary, 0o600)?;
        let written = file
            .write_all(bytes)
            .and_then(|()| if sync { file.sync_all() } else { Ok(()) })
            .and_then(|()| set_owner_and_mode(&file, owner, mode))
            .and_then(|()| Ok(renameat(&self.0, temporary, &self.0, name)?));
        if written.is_err() {
            let _gone_already = self.remove_file(temporary);
        }
        written
    }

    /// Metadata of this directory.
    ///
    /// # Errors
    /// The system's error.
    pub fn stat(&self) -> io::Result<Stat> {
        Ok(fstat(&self.0)?)
    }

    /// Metadata of an entry directly in this directory, of a link itself; none if there is no such entry.
    ///
    /// # Errors
    /// The system's error.
    pub fn stat_entry(&self, name: impl AsRef<Path>) -> io::Result<Option<Stat>> {
        match statat(&self.0, single(name.as_ref())?, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Names of the entries of this directory.
    ///
    /// # Errors
    /// The system's error.
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.0)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name));
            }
        }
        Ok(names)
    }

    /// Moves an entry of this directory to another name in `to`. Neither may be a path.
    ///
    /// # Errors
    /// The system's error.
    pub fn rename(
        &self,
        from: impl AsRef<Path>,
        to: &DirHandle,
        name: impl AsRef<Path>,
    ) -> io::Result<()> {
        let (from, name) = (single(from.as_ref())?, single(name.as_ref())?);
        Ok(renameat(&self.0, from, &to.0, name)?)
    }

    /// Moves the entry `name` of this directory to `NAME.moved-` and a number by chance, so that its name is free.
    ///
    /// # Errors
    /// The system's error.
    pub fn move_aside(&self, name: impl AsRef<Path>) -> io::Result<()> {
        let name = single(name.as_ref())?;
        let mut aside = name.as_os_str().to_owned();
        aside.push(format!(".moved-{:016x}", random()?));
        self.rename(name, self, &aside)
    }

    /// Removes the file or link `name` directly in this directory. Succeeds if there is none.
    ///
    /// # Errors
    /// The system's error.
    pub fn remove_file(&self, name: impl AsRef<Path>) -> io::Result<()> {
        absent_is_fine(unlinkat(&self.0, single(name.as_ref())?, AtFlags::empty()))
    }

    /// Removes the entry `name` directly in this directory with everything below it. Links are removed, not followed.
    /// Succeeds if there is none.
    ///
    /// # Errors
    /// The system's error; `InvalidInput` for a tree deeper than 512 directories.
    pub fn remove_tree(&self, name: impl AsRef<Path>) -> io::Result<()> {
        self.remove_below(single(name.as_ref())?, 0)
    }

    fn remove_below(&self, name: &Path, depth: usize) -> io::Result<()> {
        match unlinkat(&self.0, name, AtFlags::empty()) {
            Err(rustix::io::Errno::ISDIR | rustix::io::Errno::PERM) => {}
            ended => return absent_is_fine(ended),
        }
        if depth == DEPTH_MAX {
            return Err(invalid("it is nested too deeply"));
        }
        let dir = self.open_dir(name)?;
        for entry in dir.names()? {
            dir.remove_below(Path::new(&entry), depth + 1)?;
        }
        absent_is_fine(unlinkat(&self.0, name, AtFlags::REMOVEDIR))
    }

    /// Gives the entry `name` of this directory to another owner if it is a directory, or a regular file with one name.
    /// Does nothing if there is no such entry.
    ///
    /// # Errors
    /// The system's error; `InvalidInput` for a link, a file with several names and anything else.
    pub fn give_entry(&self, name: impl AsRef<Path>, owner: Owner) -> io::Result<()> {
        let opened = self.resolve(name.as_ref(), OFlags::RDONLY | OFlags::NONBLOCK, 0);
        let fd = match opened {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened?,
        };
        if FileType::from_raw_mode(fstat(&fd)?.st_mode) != FileType::Directory {
            let file = regular(fd)?;
            return give(&file, owner);
        }
        give(&fd, owner)
    }

    /// Path by which this process reaches the directory itself, for functions and programs that take only paths. Valid
    /// while the handle is open, in this process and in children that inherit its descriptors.
    pub fn proc_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }

    fn resolve(&self, path: &Path, flags: OFlags, mode: u32) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NOCTTY;
        let beneath =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let mode = Mode::from_raw_mode(mode);
        loop {
            match openat2(&self.0, path, flags, mode, beneath) {
                // The kernel could not prove that a concurrent rename did not lead out; it asks to be asked again.
                Err(rustix::io::Errno::AGAIN) => {}
                // Before Linux 5.6, and where a seccomp filter of the host does not know the call.
                Err(rustix::io::Errno::NOSYS) => return self.resolve_by_steps(path, flags, mode),
                ended => return Ok(ended?),
            }
        }
    }

    /// As [`DirHandle::resolve`] for kernels without `openat2(2)`: one component at a time, none of which may be a link.
    fn resolve_by_steps(&self, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let mut parts = Vec::new();
        for part in path.components() {
            match part {
                Component::Normal(part) => parts.push(part),
                Component::CurDir => {}
                _ => return Err(rustix::io::Errno::XDEV.into()),
            }
        }
        let last = parts.pop().unwrap_or(OsStr::new("."));
        let step = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut at = None::<OwnedFd>;
        for part in parts {
            let from = at.as_ref().map_or(self.0.as_fd(), AsFd::as_fd);
            at = Some(openat(from, part, step, Mode::empty())?);
        }
        let from = at.as_ref().map_or(self.0.as_fd(), AsFd::as_fd);
        Ok(openat(from, last, flags, mode)?)
    }
}

impl From<OwnedFd> for DirHandle {
    /// An open directory as it is.
    fn from(fd: OwnedFd) -> Self {
        DirHandle(fd)
    }
}

impl AsFd for DirHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Gives an open file or directory exactly this mode and, if this process is root, this owner.
///
/// # Errors
/// The system's error.
pub fn set_owner_and_mode(fd: impl AsFd, owner: Owner, mode: u32) -> io::Result<()> {
    // The mode last: changing the owner clears set-id bits.
    give(&fd, owner)?;
    Ok(fchmod(fd, Mode::from_raw_mode(mode))?)
}

fn give(fd: impl AsFd, (uid, gid): Owner) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Ok(fchown(
        fd,
        Some(Uid::from_raw(uid)),
        Some(Gid::from_raw(gid)),
    )?)
}

fn own_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn random() -> io::Result<u64> {
    let mut bytes = [0u8; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Whether a path has one component and stays where it begins.
fn single(path: &Path) -> io::Result<&Path> {
    let mut parts = path.components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(_)), None) if !path.as_os_str().as_bytes().ends_with(b"/") => {
            Ok(path)
        }
        _ => Err(invalid("it is not the name of an entry")),
    }
}

fn regular(fd: OwnedFd) -> io::Result<File> {
    let stat = fstat(&fd)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(invalid("it is not a regular file"));
    }
    // 0: removed since it was opened.
    if stat.st_nlink > 1 {
        return Err(invalid("it is a hard link to a file with other names"));
    }
    Ok(fd.into())
}

fn absent_is_fine(ended: rustix::io::Result<()>) -> io::Result<()> {
    match ended {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn handle() -> (tempfile::TempDir, DirHandle) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("in")).unwrap();
        fs::create_dir(dir.path().join("out")).unwrap();
        fs::write(dir.path().join("out/secret"), "canary").unwrap();
        let handle = DirHandle::open_own(&dir.path().join("in")).unwrap();
        (dir, handle)
    }

    #[test]
    fn links_that_stay_below_a_directory_may_be_followed_and_others_not() {
        let (dir, handle) = handle();
        let path = |name: &str| dir.path().join("in").join(name);
        fs::create_dir(path("sub")).unwrap();
        fs::write(path("sub/charter"), "text").unwrap();
        symlink("sub/charter", path("inside")).unwrap();
        symlink("../out/secret", path("outside")).unwrap();
        symlink(dir.path().join("out"), path("away")).unwrap();
        for name in ["sub/charter", "inside", "./sub/../inside"] {
            let mut text = String::new();
            let mut file = handle.open_file_through_links(name).unwrap();
            file.read_to_string(&mut text).unwrap();
            assert_eq!(text, "text", "{name}");
        }
        rustix::fs::mkfifoat(CWD, path("fifo"), Mode::from_raw_mode(0o600)).unwrap();
        for name in [
            "outside",
            "away/secret",
            "../out/secret",
            "/etc/passwd",
            "fifo",
        ] {
            assert!(handle.open_file_through_links(name).is_err(), "{name}");
        }
    }

    /// The own process as the caller of every method; both ways of resolving.
    #[test]
    fn no_path_leads_out_of_the_directory() {
        let (dir, handle) = handle();
        let (inside, out) = (dir.path().join("in"), dir.path().join("out"));
        symlink(&out, inside.join("link")).unwrap();
        symlink("../out/secret", inside.join("file")).unwrap();
        symlink("/proc/self/root", inside.join("root")).unwrap();
        for path in [
            "../out", "..", "/", "link", "link/.", "root/etc", "./../out",
        ] {
            assert!(handle.open_dir(path).is_err(), "{path}");
            assert!(
                handle
                    .resolve_by_steps(
                        Path::new(path),
                        OFlags::RDONLY | OFlags::NOFOLLOW,
                        Mode::empty()
                    )
                    .is_err(),
                "{path}"
            );
        }
        for path in ["../out/secret", "link/secret", "file", "root/etc/passwd"] {
            assert!(handle.read(path, 100).is_err(), "{path}");
            assert!(handle.open_or_create(path, 0o666).is_err(), "{path}");
            assert!(handle.create_file(path, 0o666).is_err(), "{path}");
        }
        assert!(handle.create_file("link/new", 0o666).is_err());
        for path in ["..", ".", "a/b", "link/", "/etc/passwd", ""] {
            assert!(handle.remove_tree(path).is_err(), "{path}");
            assert!(
                handle.publish(path, b"x", 0o600, (0, 0), false).is_err(),
                "{path}"
            );
            assert!(
                handle.rename(path, &handle, "x").is_err()
                    && handle.rename("file", &handle, path).is_err()
            );
        }
        // What lies in the place of a link is the link.
        handle
            .publish("file", b"mine", 0o600, (0, 0), true)
            .unwrap();
        assert_eq!(handle.read("file", 100).unwrap(), b"mine");
        assert!(handle.ensure_dir("link", 0o700, (0, 0)).is_err());
        handle.remove_tree("link").unwrap();
        handle.remove_tree("root").unwrap();
        assert_eq!(fs::read_to_string(out.join("secret")).unwrap(), "canary");
        assert_eq!(fs::read_dir(&out).unwrap().count(), 1);
    }

    #[test]
    fn only_regular_files_with_one_name_are_opened() {
        let (dir, handle) = handle();
        let inside = dir.path().join("in");
        fs::hard_link(dir.path().join("out/secret"), inside.join("hard")).unwrap();
        let made = std::process::Command::new("mkfifo")
            .arg(inside.join("fifo"))
            .status();
        assert!(made.unwrap().success());
        let _listener = std::os::unix::net::UnixListener::bind(inside.join("socket")).unwrap();
        for name in ["hard", "fifo", "socket"] {
            assert!(handle.open_file(name).is_err(), "{name}");
            assert!(handle.open_or_create(name, 0o600).is_err(), "{name}");
            assert!(handle.give_entry(name, (0, 0)).is_err(), "{name}");
        }
        fs::write(inside.join("long"), "12345").unwrap();
        assert!(handle.read("long", 4).is_err());
        assert_eq!(handle.read("long", 5).unwrap(), b"12345");
        assert!(handle.stat_entry("absent").unwrap().is_none());
        handle.give_entry("absent", (0, 0)).unwrap();
    }

    #[test]
    fn directories_and_files_get_exactly_their_mode_and_trees_are_removed() {
        let (dir, handle) = handle();
        let inside = dir.path().join("in");
        let own = rustix::process::geteuid().as_raw();
        let below = handle.ensure_dir("a", 0o2751, (own, own)).unwrap();
        handle.ensure_dir("a", 0o700, (own, own)).unwrap();
        assert_eq!(
            fs::metadata(inside.join("a")).unwrap().mode() & 0o7777,
            0o700
        );
        below.publish("f", b"1", 0o444, (own, own), false).unwrap();
        below.publish("f", b"2", 0o640, (own, own), false).unwrap();
        let file = inside.join("a/f");
        assert_eq!(
            fs::metadata(&file).unwrap().permissions().mode() & 0o7777,
            0o640
        );
        assert_eq!(below.names().unwrap(), ["f"]);
        symlink(dir.path().join("out"), inside.join("a/out")).unwrap();
        fs::create_dir_all(inside.join("a/b/c/d")).unwrap();
        handle.remove_tree("a").unwrap();
        handle.remove_tree("a").unwrap();
        assert!(handle.names().unwrap().is_empty());
        assert!(dir.path().join("out/secret").exists());
    }
}
