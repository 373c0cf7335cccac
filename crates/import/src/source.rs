//! Files of another installation: read only below the directory that was named, following no link, bounded, as text.

use crate::{Error, Import, Kind, Result};
use abbey_model::Redactor;
use rustix::fs::{CWD, Dir, FileType, Mode, OFlags};
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Largest file that is looked at, bytes.
const FILE_MAX: u64 = 4 << 20;
/// Largest text that becomes an agent's, bytes.
pub(crate) const TEXT_MAX: usize = 64 << 10;
/// Files that hold secrets wherever they lie.
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
/// Deepest directory, and most files, that are looked through for them.
const DEPTH_MAX: usize = 6;
const LOOK_MAX: usize = 5000;

/// A directory.
#[derive(Debug)]
pub(crate) struct Source {
    root: OwnedFd,
    /// As it was named.
    pub(crate) path: PathBuf,
}

fn flags(more: OFlags) -> OFlags {
    OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | more
}

impl Source {
    pub(crate) fn open(path: &Path) -> Result<Source> {
        // The directory itself is what a person named, so it may be a link.
        let kind = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, kind, Mode::empty());
        let root = root.map_err(|e| Error::File {
            path: path.to_owned(),
            source: e.into(),
        })?;
        Ok(Source {
            root,
            path: path.to_owned(),
        })
    }

    /// Opens something below; none where it is not there, or is a link.
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

    /// The text of a plain file; none where there is none.
    pub(crate) fn text(&self, path: &str) -> Option<String> {
        let file = File::from(self.below(path, OFlags::empty())?);
        let plain = file
            .metadata()
            .is_ok_and(|m| m.is_file() && m.len() <= FILE_MAX);
        let mut text = String::new();
        let read = plain && file.take(FILE_MAX).read_to_string(&mut text).is_ok();
        read.then_some(text)
    }

    pub(crate) fn is_dir(&self, path: &str) -> bool {
        self.below(path, OFlags::DIRECTORY).is_some()
    }

    /// Names in a directory, sorted; empty where it is not there.
    pub(crate) fn names(&self, path: &str) -> Vec<String> {
        let Some(dir) = self.below(path, OFlags::DIRECTORY) else {
            return Vec::new();
        };
        let entries = Dir::read_from(&dir).into_iter().flatten().flatten();
        let names = entries.filter_map(|e| e.file_name().to_str().ok().map(str::to_owned));
        let mut names: Vec<String> = names.filter(|n| n != "." && n != "..").collect();
        names.sort();
        names
    }

    /// The text of a file for an agent: bounded, and without what looks like a secret, which is told.
    pub(crate) fn clean(&self, import: &mut Import, path: &str) -> Option<String> {
        let text = self.text(path)?;
        if text.trim().is_empty() {
            return None;
        }
        let text = cleaned(import, path, &text);
        if text.len() > TEXT_MAX {
            let why = format!(
                "it has {} bytes, and at most {TEXT_MAX} become an agent's",
                text.len()
            );
            import.found(Kind::Left, path, why);
            return None;
        }
        Some(text)
    }

    /// Tells of files that hold secrets, and of documents in which some stand, everywhere below.
    pub(crate) fn secrets(&self, import: &mut Import) {
        let mut left = LOOK_MAX;
        let mut waits = vec![(String::new(), 0)];
        while let Some((dir, depth)) = waits.pop() {
            for name in self.names(&dir) {
                let path = match dir.is_empty() {
                    true => name.clone(),
                    false => format!("{dir}/{name}"),
                };
                left = left.saturating_sub(1);
                if left == 0 {
                    import.found(
                        Kind::Left,
                        &dir,
                        "not every file was looked through for secrets: there are too many",
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
                    import.found(Kind::Secret, &path, "it holds credentials and stays there; give its agent what it needs by reference, then take the file away");
                    continue;
                }
                let document = name.ends_with(".md") || name.ends_with(".txt");
                if let Some(text) = document.then(|| self.text(&path)).flatten() {
                    let _told = cleaned(import, &path, &text);
                }
            }
        }
    }
}

/// A text without what looks like a secret; each line that had one is told.
pub(crate) fn cleaned(import: &mut Import, path: &str, text: &str) -> String {
    let redactor = Redactor::new([]);
    let clean = redactor.clean(text).into_owned();
    if clean != text {
        let line = |(n, l): (usize, &str)| (redactor.clean(l) != l).then(|| (n + 1).to_string());
        let lines: Vec<String> = text.lines().enumerate().filter_map(line).collect();
        let place = match lines.is_empty() {
            true => path.to_owned(),
            false => format!("{path}:{}", lines.join(",")),
        };
        import.found(Kind::Secret, place, "what looks like a credential stands in it; it is taken out on the way, and should be revoked");
    }
    clean
}

/// Whether something is a plain file, for a path that a person named.
pub(crate) fn is_file(path: &Path) -> bool {
    let stat = rustix::fs::statat(CWD, path, rustix::fs::AtFlags::empty());
    stat.is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::RegularFile)
}
