//! Files of another installation: read only below the named directory, without following links, bounded, as text.

use crate::{Error, Import, ReportKind, Result};
use abbey_model::Redactor;
use rustix::fs::{CWD, Dir, FileType, Mode, OFlags};
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Largest file that is read, in bytes.
const FILE_MAX: u64 = 4 << 20;
/// Largest text that is imported, in bytes.
pub(crate) const TEXT_MAX: usize = 64 << 10;
/// Names of files that hold secrets, in any directory.
const SECRETS: [&str; 8] = [
    ".env",
    ".discord-tokens.env",
    "auth.json",
    "auth-profiles.json",
    "credentials.json",
    "id_rsa",
    "id_ed25519",
    ".netrc",
];
/// Deepest directory that is searched for secrets, and largest number of files.
const DEPTH_MAX: usize = 6;
const FILES_MAX: usize = 5000;

/// Directory of the imported installation.
#[derive(Debug)]
pub(crate) struct SourceDir {
    root: OwnedFd,
    /// Path as the operator named it.
    pub(crate) path: PathBuf,
}

fn flags(more: OFlags) -> OFlags {
    OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | more
}

impl SourceDir {
    /// Opens the directory of an installation at `path`, which may be a link itself.
    pub(crate) fn open(path: &Path) -> Result<SourceDir> {
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
        })
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

    /// Text of a regular file below the directory, at most 4 MiB; none if it does not exist, is not UTF-8, or is
    /// reached through a link.
    pub(crate) fn read_text(&self, path: &str) -> Option<String> {
        let file = File::from(self.below(path, OFlags::empty())?);
        let plain = file
            .metadata()
            .is_ok_and(|m| m.is_file() && m.len() <= FILE_MAX);
        let mut text = String::new();
        let read = plain && file.take(FILE_MAX).read_to_string(&mut text).is_ok();
        read.then_some(text)
    }

    /// Whether a path below the directory is a directory and not reached through a link.
    pub(crate) fn is_dir(&self, path: &str) -> bool {
        self.below(path, OFlags::DIRECTORY).is_some()
    }

    /// Names of the entries of a directory, sorted; empty if it does not exist.
    pub(crate) fn list_names(&self, path: &str) -> Vec<String> {
        let Some(dir) = self.below(path, OFlags::DIRECTORY) else {
            return Vec::new();
        };
        let entries = Dir::read_from(&dir).into_iter().flatten().flatten();
        let names = entries.filter_map(|e| e.file_name().to_str().ok().map(str::to_owned));
        let mut names: Vec<String> = names.filter(|n| n != "." && n != "..").collect();
        names.sort();
        names
    }

    /// Text of a file for an agent, with secrets redacted and reported; none if it is empty or longer than 64 KiB,
    /// which is reported.
    pub(crate) fn read_agent_text(&self, import: &mut Import, path: &str) -> Option<String> {
        let text = self.read_text(path)?;
        if text.trim().is_empty() {
            return None;
        }
        let text = redact_secrets(import, path, &text);
        if text.len() > TEXT_MAX {
            let why = format!(
                "not imported: it has {} bytes, the limit is {TEXT_MAX}",
                text.len()
            );
            import.add_report_entry(ReportKind::Left, path, why);
            return None;
        }
        Some(text)
    }

    /// Reports all files below the directory that hold secrets, and documents that contain some.
    pub(crate) fn report_secrets(&self, import: &mut Import) {
        let mut left = FILES_MAX;
        let mut waits = vec![(String::new(), 0)];
        while let Some((dir, depth)) = waits.pop() {
            for name in self.list_names(&dir) {
                let path = match dir.is_empty() {
                    true => name.clone(),
                    false => format!("{dir}/{name}"),
                };
                left = left.saturating_sub(1);
                if left == 0 {
                    import.add_report_entry(
                        ReportKind::Left,
                        &dir,
                        "too many files: not all of them were checked for secrets",
                    );
                    return;
                }
                if self.is_dir(&path) {
                    if depth < DEPTH_MAX
                        && !matches!(name.as_str(), ".git" | "node_modules" | "sessions")
                    {
                        waits.push((path, depth + 1));
                    }
                    continue;
                }
                let holds =
                    SECRETS.contains(&name.as_str()) || dir.split('/').any(|d| d == "credentials");
                if holds {
                    import.add_report_entry(ReportKind::Secret, &path, "holds credentials, which are not imported: reference what the agent needs in the manifest, then delete the file");
                    continue;
                }
                let document = name.ends_with(".md") || name.ends_with(".txt");
                if let Some(text) = document.then(|| self.read_text(&path)).flatten() {
                    let _told = redact_secrets(import, &path, &text);
                }
            }
        }
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
