//! Files of another installation: read only below the named directory, without following links, bounded, as text.

use crate::document::Document;
use crate::parsing::{Notation, parse};
use crate::skips::Skips;
use crate::{Error, Import, ReportKind, Result};
use abbey_model::Redactor;
use rustix::fs::{CWD, Dir, FileType, Mode, OFlags};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Largest file that is read, in bytes.
const FILE_MAX: u64 = 4 << 20;
/// Largest text that is imported, in bytes.
pub(crate) const TEXT_MAX: usize = 64 << 10;
/// Directory of the imported installation.
#[derive(Debug)]
pub(crate) struct SourceDir {
    root: OwnedFd,
    /// Path as the operator named it.
    pub(crate) path: PathBuf,
    /// What the operator leaves out.
    pub(crate) skips: Skips,
    /// Files and directories that are accounted for.
    accounted: RefCell<BTreeSet<String>>,
    /// Files that were included so far.
    included: Cell<u32>,
}

/// Most files that an installation's configuration includes, each counted as often as it is read.
const INCLUDES_MAX: u32 = 64;

/// What an entry of a directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A socket, a FIFO or a device.
    Special,
}

fn flags(more: OFlags) -> OFlags {
    OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | more
}

impl SourceDir {
    /// Opens the directory of an installation at `path`, which may be a link itself.
    pub(crate) fn open(path: &Path, skip: &[String]) -> Result<SourceDir> {
        // The directory itself is what a person named, so it may be a link.
        let kind = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, kind, Mode::empty());
        let root = root.map_err(|e| Error::File {
            path: path.to_owned(),
            source: e.into(),
        })?;
        Ok(SourceDir {
            root,
            path: path.to_owned(),
            skips: Skips::new(skip),
            accounted: RefCell::default(),
            included: Cell::default(),
        })
    }

    /// Counts one more included file; false once there were too many, since files can include each other again and again.
    pub(crate) fn may_include(&self) -> bool {
        self.included.update(|n| n.saturating_add(1));
        self.included.get() <= INCLUDES_MAX
    }

    /// Opens a path below the directory; none when it does not exist or leads through a link.
    fn below(&self, path: &str, last: OFlags) -> Option<OwnedFd> {
        let parts: Vec<&str> = path
            .split('/')
            .filter(|p| !p.is_empty() && *p != ".")
            .collect();
        if parts.contains(&"..") {
            return None;
        }
        let mut at: Option<OwnedFd> = None;
        for (n, part) in parts.iter().enumerate() {
            let kind = if n + 1 == parts.len() {
                last
            } else {
                OFlags::DIRECTORY
            };
            let next = match &at {
                Some(dir) => rustix::fs::openat(dir, *part, flags(kind), Mode::empty()),
                None => rustix::fs::openat(&self.root, *part, flags(kind), Mode::empty()),
            };
            at = Some(next.ok()?);
        }
        match at {
            Some(fd) => Some(fd),
            None => {
                rustix::fs::openat(&self.root, ".", flags(OFlags::DIRECTORY), Mode::empty()).ok()
            }
        }
    }

    /// Text of a regular file below the directory, without a byte-order mark; none if it does not exist, is reached through
    /// a link, or is left out.
    ///
    /// # Errors
    /// If it cannot be read, is longer than 4 MiB, or is not UTF-8.
    pub(crate) fn read_text(&self, path: &str) -> Result<Option<String>> {
        if self.skips.hides(path) {
            return Ok(None);
        }
        let Some(file) = self.below(path, OFlags::empty()).map(File::from) else {
            return Ok(None);
        };
        let failed = |source| Error::File {
            path: self.path.join(path),
            source,
        };
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Ok(None);
        }
        let mistake = |line, why: String| Error::Mistake {
            path: self.path.join(path),
            line,
            why,
        };
        if metadata.len() > FILE_MAX {
            let why = format!("it has {} bytes, the limit is {FILE_MAX}", metadata.len());
            return Err(mistake(None, why));
        }
        let mut bytes = Vec::new();
        file.take(FILE_MAX)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Some(match text.strip_prefix('\u{feff}') {
                Some(rest) => rest.to_owned(),
                None => text,
            })),
            Err(e) => {
                let valid = &e.as_bytes()[..e.utf8_error().valid_up_to()];
                let line = valid.iter().filter(|b| **b == b'\n').count() + 1;
                Err(mistake(
                    u64::try_from(line).ok(),
                    "it is not UTF-8".to_owned(),
                ))
            }
        }
    }

    /// Document in a file below the directory, whose keys are accounted for instead of the file; none as in
    /// [`SourceDir::read_text`].
    ///
    /// # Errors
    /// As [`SourceDir::read_text`], and with the line if the file does not have the notation.
    pub(crate) fn read_document(
        &self,
        path: &str,
        notation: Notation,
    ) -> Result<Option<Document<'_>>> {
        let Some(text) = self.read_text(path)? else {
            return Ok(None);
        };
        let value = parse(notation, &self.path.join(path), &text)?;
        self.account(path);
        Ok(Some(Document::new(path, value, &self.skips)))
    }

    /// Records that a file, or a directory with all that is in it, is carried over or reported.
    pub(crate) fn account(&self, path: &str) {
        self.accounted.borrow_mut().insert(path.to_owned());
    }

    /// Whether a file or directory was recorded by [`SourceDir::account`], or is left out.
    pub(crate) fn is_accounted(&self, path: &str) -> bool {
        self.accounted.borrow().contains(path) || self.skips.hides(path)
    }

    /// Whether the directory has a regular file of this path, not reached through a link.
    pub(crate) fn is_file(&self, path: &str) -> bool {
        let file = self.below(path, OFlags::empty());
        file.is_some_and(|fd| {
            let stat = rustix::fs::fstat(fd);
            stat.is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::RegularFile)
        })
    }

    /// Entries of a directory with their kinds, sorted by name; empty if it does not exist or is left out. Names that are not
    /// UTF-8 have replacement characters.
    pub(crate) fn list_entries(&self, path: &str) -> Vec<(String, EntryKind)> {
        let Some(dir) = self.below(path, OFlags::DIRECTORY) else {
            return Vec::new();
        };
        let entries = Dir::read_from(&dir).into_iter().flatten().flatten();
        let entries = entries.filter(|e| !matches!(e.file_name().to_bytes(), b"." | b".."));
        let mut entries: Vec<(String, EntryKind)> = entries
            .map(|entry| {
                let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
                let stat = rustix::fs::statat(&dir, entry.file_name(), flags);
                let kind = match stat.map(|s| FileType::from_raw_mode(s.st_mode)) {
                    Ok(FileType::RegularFile) => EntryKind::File,
                    Ok(FileType::Directory) => EntryKind::Directory,
                    Ok(FileType::Symlink) => EntryKind::Link,
                    _ => EntryKind::Special,
                };
                (entry.file_name().to_string_lossy().into_owned(), kind)
            })
            .collect();
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        entries
    }

    /// Whether a path below the directory is a directory and not reached through a link.
    pub(crate) fn is_dir(&self, path: &str) -> bool {
        self.below(path, OFlags::DIRECTORY).is_some()
    }

    /// Names of the entries of a directory that are not left out, sorted; empty if it does not exist.
    pub(crate) fn list_names(&self, path: &str) -> Vec<String> {
        let at = |name: &str| match path.is_empty() {
            true => name.to_owned(),
            false => format!("{path}/{name}"),
        };
        let entries = self.list_entries(path).into_iter();
        entries
            .map(|(name, _)| name)
            .filter(|name| !self.skips.hides(&at(name)))
            .collect()
    }

    /// Text of a file for an agent, with secrets redacted and reported; none if it does not exist or is empty, and, which is
    /// reported, if it is longer than 64 KiB or is no text.
    pub(crate) fn read_agent_text(&self, import: &mut Import, path: &str) -> Option<String> {
        let text = match self.read_text(path) {
            Ok(text) => text?,
            Err(Error::Mistake { why, .. }) => {
                self.leave(import, path, why);
                return None;
            }
            Err(e) => {
                self.leave(import, path, e.to_string());
                return None;
            }
        };
        if text.len() > TEXT_MAX {
            let _reported = redact_secrets(import, path, &text);
            let why = format!("it has {} bytes, the limit is {TEXT_MAX}", text.len());
            self.leave(import, path, why);
            return None;
        }
        self.account(path);
        import.carried.insert(path.to_owned());
        if text.trim().is_empty() {
            return None;
        }
        Some(redact_secrets(import, path, &text))
    }

    /// Reports a file or directory as not imported.
    pub(crate) fn leave(&self, import: &mut Import, path: &str, why: impl Into<String>) {
        self.account(path);
        import.add_report_entry(ReportKind::Left, crate::names::shown_path(path), why);
    }
}

/// Replaces what looks like a secret in a text, and reports the lines that had one.
pub(crate) fn redact_secrets(import: &mut Import, path: &str, text: &str) -> String {
    let redactor = Redactor::new([]);
    let clean = redactor.clean(text).into_owned();
    if clean != text {
        let line = |(n, l): (usize, &str)| (redactor.clean(l) != l).then(|| (n + 1).to_string());
        let lines: Vec<String> = text.lines().enumerate().filter_map(line).collect();
        let place = match lines.is_empty() {
            true => path.to_owned(),
            false => format!("{path}:{}", lines.join(",")),
        };
        import.add_report_entry(
            ReportKind::Secret,
            place,
            "contains what looks like a credential: it is redacted in the copy; revoke it",
        );
    }
    clean
}

/// Whether a path is a regular file; links are followed.
pub(crate) fn is_file(path: &Path) -> bool {
    let stat = rustix::fs::statat(CWD, path, rustix::fs::AtFlags::empty());
    stat.is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::RegularFile)
}
