//! Trees of files of agents and services in a backup. Everything is opened beneath the tree without following links.
//! What cannot be carried is named, never silently left out.

use super::archive::{DISKS, UNLOADED, invalid_archive, make_dirs};
use super::names::CREDENTIAL;
use abbey_model::IDENTITY_FILES;
use abbey_support::beneath::{DirHandle, Owner, set_owner_and_mode};
use rustix::fs::{AtFlags, FileType, Gid, Timespec, Timestamps, Uid};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// Deepest directory; each level needs a descriptor.
const DEPTH_MAX: usize = 256;
/// Longest path below the files of an owner that is packed, bytes: with the directory that it is unpacked into it stays
/// below the limit of the kernel, 4096.
pub const PACKED_PATH_MAX: usize = 3072;
/// Most bytes of holes that are packed of one owner. A hole costs its owner nothing, but each of its zeros is written
/// by who packs it.
pub(crate) const HOLES_MAX: u64 = 256 << 20;
/// Most paths that are named one by one.
const NAMED_MAX: usize = 200;
/// Most files with data that are named as missing.
const DATA_NAMED_MAX: usize = 20;

/// Paths that are not in a backup, with the reason.
#[derive(Debug, Default)]
pub(crate) struct LeftOut {
    named: Vec<String>,
    more: u64,
    /// The first files among them that hold data.
    data: Vec<String>,
}

impl LeftOut {
    /// Adds a path with the reason why it is not in the backup.
    pub(crate) fn add(&mut self, path: &Path, why: &str) {
        match self.named.len() < NAMED_MAX {
            true => self.named.push(format!("{}: {why}", path.display())),
            false => self.more += 1,
        }
    }

    /// Adds a file that holds data, without which a backup is not complete.
    pub(crate) fn add_data(&mut self, path: &Path, why: &str) {
        if self.data.len() < DATA_NAMED_MAX {
            self.data.push(format!("{}: {why}", path.display()));
        }
        self.add(path, why);
    }

    /// The first files that hold data, each with the reason why it is not there.
    pub(crate) fn data(&self) -> &[String] {
        &self.data
    }

    /// One line for each path, and one with the number of those that are not named.
    pub(crate) fn into_lines(mut self) -> Vec<String> {
        if self.more > 0 {
            self.named.push(format!("{} more paths", self.more));
        }
        self.named
    }
}

/// Takes the holes of a file from those that may still be packed, or says why the file is left out.
pub(crate) fn take_holes(found: &Metadata, left: &mut u64) -> Result<(), String> {
    let stored = found.blocks().saturating_mul(512);
    match left.checked_sub(found.len().saturating_sub(stored)) {
        Some(rest) => {
            *left = rest;
            Ok(())
        }
        None => Err(format!(
            "a file of {} MiB of which only {} MiB are stored, the rest being holes",
            found.len() >> 20,
            stored >> 20
        )),
    }
}

/// Whether a path below an agent's directory is a credential, which no backup contains, or holds disk images, whose
/// files are packed instead.
pub fn is_left_out_of_agent(below: &Path) -> bool {
    let first = below
        .iter()
        .next()
        .and_then(OsStr::to_str)
        .unwrap_or_default();
    let exact = [
        "token",
        "key",
        "home/token",
        "home/session.lock",
        "home/lost+found",
        "workspace/lost+found",
    ];
    below.starts_with("home/services")
        || first.starts_with(CREDENTIAL)
        || ["drives", DISKS, UNLOADED].contains(&first)
        || exact.iter().any(|path| below == Path::new(path))
}

/// As [`is_left_out_of_agent`], for an agent whose home and workspace are on drives: beside them lie only what the drives
/// were made from, and files that make the agent who it is.
pub(crate) fn is_left_out_beside_drives(below: &Path) -> bool {
    let mut parts = below.iter().filter_map(OsStr::to_str);
    let stale = match (parts.next(), parts.next()) {
        (Some("home"), Some(_)) => true,
        (Some("workspace"), Some(name)) => name != "memory" && !IDENTITY_FILES.contains(&name),
        _ => false,
    };
    stale || is_left_out_of_agent(below)
}

/// Whether a link at `at`, relative to the root of a tree, with this target stays in the tree. No component of `at` may be a
/// link itself.
pub fn is_link_within(at: &Path, target: &Path) -> bool {
    stays_within(target, at.components().count().saturating_sub(1))
}

/// Whether a link in a directory `depth` levels below the root of a tree stays in the tree, wherever the other links of the
/// tree lead that are like it: it goes up first and not too far, and only down from there. (`a/../..` may lead further up
/// than its text says, if `a` is a link.)
pub(crate) fn stays_within(target: &Path, depth: usize) -> bool {
    let parts = target.components().filter(|c| *c != Component::CurDir);
    let parts: Vec<Component<'_>> = parts.collect();
    let up = parts.iter().take_while(|c| **c == Component::ParentDir);
    let up = up.count();
    let down = parts[up..].iter();
    !target.as_os_str().is_empty()
        && up <= depth
        && down.copied().all(|c| matches!(c, Component::Normal(_)))
}

/// Adds trees to a tar archive.
pub(crate) struct TreePacker<'a, W: Write> {
    archive: &'a mut tar::Builder<W>,
    left_out: &'a mut LeftOut,
    skip: fn(&Path) -> bool,
    /// Bytes of holes that may still be packed.
    holes_left: u64,
}

impl<'a, W: Write> TreePacker<'a, W> {
    /// Packs the files of one owner into `archive`, and names in `left_out` what cannot be carried. `skip` says whether a
    /// path below the root of a tree is not part of it.
    pub(crate) fn new(
        archive: &'a mut tar::Builder<W>,
        left_out: &'a mut LeftOut,
        skip: fn(&Path) -> bool,
    ) -> TreePacker<'a, W> {
        TreePacker {
            archive,
            left_out,
            skip,
            holes_left: HOLES_MAX,
        }
    }

    /// Adds the content of an open directory, whose name in the archive is `root`.
    pub(crate) fn add(&mut self, dir: &DirHandle, root: &Path) -> io::Result<()> {
        self.add_below(dir, root, Path::new(""), 0)
    }

    fn add_below(
        &mut self,
        dir: &DirHandle,
        root: &Path,
        below: &Path,
        depth: usize,
    ) -> io::Result<()> {
        for entry in dir.names()? {
            let below = below.join(&entry);
            let path = root.join(&below);
            if (self.skip)(&below) {
                continue;
            }
            if below.as_os_str().len() > PACKED_PATH_MAX {
                self.left_out.add(&path, "paths are carried to 3072 bytes");
                continue;
            }
            // The owner may remove or swap an entry while we read: what is gone is left out.
            let Ok(Some(stat)) = dir.stat_entry(&entry) else {
                continue;
            };
            let mut header = header(&stat);
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory if depth >= DEPTH_MAX => {
                    self.left_out
                        .add(&path, "directories are carried to a depth of 256");
                }
                FileType::Directory => {
                    let Ok(inner) = dir.open_dir(&entry) else {
                        continue;
                    };
                    header.set_entry_type(tar::EntryType::Directory);
                    self.archive.append_data(&mut header, &path, io::empty())?;
                    self.add_below(&inner, root, &below, depth + 1)?;
                }
                FileType::RegularFile => {
                    let Ok(fd) = dir.open_entry(&entry) else {
                        continue;
                    };
                    let file = File::from(fd);
                    let found = file.metadata()?;
                    if !found.is_file() {
                        continue;
                    }
                    if let Err(why) = take_holes(&found, &mut self.holes_left) {
                        match found.blocks() {
                            0 => self.left_out.add(&path, &why),
                            _ => self.left_out.add_data(&path, &why),
                        }
                        continue;
                    }
                    header.set_entry_type(tar::EntryType::Regular);
                    header.set_size(found.len());
                    // A file that grows or shrinks meanwhile still has the size in its header.
                    let whole = file.chain(io::repeat(0)).take(found.len());
                    self.archive.append_data(&mut header, &path, whole)?;
                }
                FileType::Symlink => {
                    let Ok(target) = rustix::fs::readlinkat(dir, &entry, Vec::new()) else {
                        continue;
                    };
                    let target = PathBuf::from(OsStr::from_bytes(target.to_bytes()));
                    if is_link_within(&below, &target) {
                        header.set_entry_type(tar::EntryType::Symlink);
                        self.archive.append_link(&mut header, &path, &target)?;
                    } else {
                        self.left_out
                            .add(&path, "a link that leads out, or up behind a name");
                    }
                }
                _ => self.left_out.add(&path, "a socket, pipe or device"),
            }
        }
        Ok(())
    }
}

/// Unpacks the files, directories and links of a tar archive for which `wanted` is true into the empty directory `dir`,
/// which nobody else can enter, owned by `owner`. Links are made last, so none is followed.
///
/// # Errors
/// `InvalidInput` for a path or link that leads out, and for other kinds of entries; otherwise the system's error.
pub(crate) fn unpack_tree(
    dir: &DirHandle,
    owner: Owner,
    archive: impl Read,
    wanted: fn(&Path) -> bool,
) -> io::Result<()> {
    let (mut links, mut modes) = (BTreeMap::new(), BTreeMap::new());
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        if !wanted(&path) {
            continue;
        }
        let plain = path.components().all(|c| matches!(c, Component::Normal(_)));
        if !plain || path.components().count() > DEPTH_MAX {
            return Err(invalid_archive("a path leads out of the directory"));
        }
        if path.ancestors().any(|p| links.contains_key(p)) {
            return Err(invalid_archive("a path leads through a link"));
        }
        let mode = entry.header().mode()? & 0o777;
        let parent = path.parent().unwrap_or(Path::new(""));
        match entry.header().entry_type() {
            tar::EntryType::Directory => {
                make_dirs(dir, &path, owner)?;
                modes.insert(path, mode | 0o500);
            }
            tar::EntryType::Regular => {
                let parent = make_dirs(dir, parent, owner)?;
                let mut file = parent.create_file(path.file_name().unwrap_or_default(), 0o600)?;
                io::copy(&mut entry, &mut file)?;
                let time = Timespec {
                    tv_sec: entry.header().mtime()?.try_into().unwrap_or(0),
                    tv_nsec: 0,
                };
                let times = Timestamps {
                    last_access: time,
                    last_modification: time,
                };
                rustix::fs::futimens(&file, &times)?;
                set_owner_and_mode(&file, owner, mode | 0o400)?;
            }
            tar::EntryType::Symlink => {
                let target = entry.link_name()?.unwrap_or_default().into_owned();
                if !is_link_within(&path, &target) {
                    return Err(invalid_archive("a link leads out of the directory"));
                }
                links.insert(path, target);
            }
            _ => {
                return Err(invalid_archive(
                    "an archive may contain only files, directories and links",
                ));
            }
        }
    }
    for (path, target) in &links {
        let parent = make_dirs(dir, path.parent().unwrap_or(Path::new("")), owner)?;
        let name = path.file_name().unwrap_or_default();
        rustix::fs::symlinkat(target, &parent, name)?;
        let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(&parent, name, Some(uid), Some(gid), flags)?;
    }
    // The deepest first: a directory may not be writable.
    for (path, mode) in modes.iter().rev() {
        set_owner_and_mode(&dir.open_dir(path)?, owner, *mode)?;
    }
    Ok(())
}

/// Header with the mode, owner and time of a file; without special bits.
fn header(stat: &rustix::fs::Stat) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(stat.st_mode & 0o777);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_size(0);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_judged_by_where_its_names_lead() {
        let within = |at: &str, target: &str| is_link_within(Path::new(at), Path::new(target));
        assert!(within("workspace/a", "b") && within("workspace/a", "../home/b"));
        assert!(within("workspace/a", "./b") && within("a/b/c", ".././../d"));
        // `b` may be a link itself, which leads to where one step up is further up than it looks.
        assert!(!within("workspace/a", "b/../c") && !within("workspace/a", ""));
        assert!(!within("workspace/a", "/etc/passwd"));
        assert!(!within("workspace/a", "../../b") && !within("a", ".."));
        assert!(!within("workspace/a", "b/../../../c"));
    }

    #[test]
    fn a_tree_is_unpacked_as_it_was_packed_and_nothing_leads_out() {
        use std::os::unix::fs::PermissionsExt;
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let home = from.path().join("home");
        std::fs::create_dir_all(home.join("bin/closed")).unwrap();
        std::fs::write(home.join("bin/tool"), "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(home.join("bin/tool"), PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::set_permissions(home.join("bin/closed"), PermissionsExt::from_mode(0o555))
            .unwrap();
        std::os::unix::fs::symlink("bin/tool", home.join("short")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", home.join("out")).unwrap();
        for (name, size) in [("holes", HOLES_MAX), ("more", 1 << 20), ("vast", 1 << 40)] {
            let file = File::create(home.join(name)).unwrap();
            file.set_len(size).unwrap();
        }
        let mut archive = tar::Builder::new(tempfile::tempfile().unwrap());
        let mut left_out = LeftOut::default();
        let mut packer = TreePacker::new(&mut archive, &mut left_out, |_| false);
        packer
            .add(&DirHandle::open(from.path()).unwrap(), Path::new(""))
            .unwrap();
        let mut file = archive.into_inner().unwrap();
        io::Seek::rewind(&mut file).unwrap();
        let dir = DirHandle::open(to.path()).unwrap();
        let own = {
            let stat = dir.stat().unwrap();
            (stat.st_uid, stat.st_gid)
        };
        unpack_tree(&dir, own, &file, |_| true).unwrap();
        let at = to.path().join("home");
        let mode = |name: &str| {
            std::fs::metadata(at.join(name))
                .unwrap()
                .permissions()
                .mode()
        };
        assert_eq!(mode("bin/tool") & 0o777, 0o755);
        assert_eq!(mode("bin/closed") & 0o777, 0o555);
        assert_eq!(
            std::fs::read_link(at.join("short")).unwrap(),
            Path::new("bin/tool")
        );
        assert!(std::fs::symlink_metadata(at.join("out")).is_err());
        let mut left_out = left_out.into_lines();
        left_out.sort();
        // Which of the two that fit alone came first depends on the file system.
        assert_eq!(left_out.len(), 3, "{left_out:?}");
        assert_eq!(
            left_out[1],
            "home/out: a link that leads out, or up behind a name"
        );
        let vast =
            "home/vast: a file of 1048576 MiB of which only 0 MiB are stored, the rest being holes";
        assert_eq!(left_out[2], vast);

        // Archives that a packer of ours would not write.
        let refused = |add: &dyn Fn(&mut tar::Builder<Vec<u8>>)| {
            let to = tempfile::tempdir().unwrap();
            let mut archive = tar::Builder::new(Vec::new());
            add(&mut archive);
            let bytes = archive.into_inner().unwrap();
            let dir = DirHandle::open(to.path()).unwrap();
            unpack_tree(&dir, own, bytes.as_slice(), |_| true)
                .unwrap_err()
                .to_string()
        };
        let link = |archive: &mut tar::Builder<Vec<u8>>, target: &str| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_mode(0o777);
            header.set_size(0);
            archive.append_link(&mut header, "home/x", target).unwrap();
        };
        assert!(refused(&|a| link(a, "/etc")).contains("leads out"));
        assert!(refused(&|a| link(a, "../../x")).contains("leads out"));
        let through = refused(&|a| {
            link(a, "bin");
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(1);
            a.append_data(&mut header, "home/x/y", &b"z"[..]).unwrap();
        });
        assert!(through.contains("through a link"), "{through}");
    }

    #[test]
    fn what_lies_beside_drives_is_not_what_is_on_them() {
        let left = |path: &str| is_left_out_beside_drives(Path::new(path));
        assert!(left("home/tool") && left("workspace/src") && left("token"));
        assert!(!left("home") && !left("workspace/SOUL.md") && !left("workspace/memory/a.md"));
    }

    #[test]
    fn credentials_are_known_by_their_place_and_not_by_their_name() {
        let left = |path: &str| is_left_out_of_agent(Path::new(path));
        for path in [
            "token",
            "key",
            "home/token",
            "home/services/db",
            "service-db",
            "disks/state.ext4",
        ] {
            assert!(left(path), "{path}");
        }
        for path in [
            "workspace/token",
            "workspace/src/key",
            "home/notes/drives/x",
            "workspace/disks",
        ] {
            assert!(!left(path), "{path}");
        }
    }
}
