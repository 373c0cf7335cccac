//! Files of the workspace, as the tools for files read and write them: below the working directory, and within the paths
//! that the policy grants.

use abbey_model::ToolPolicy;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat2};
use rustix::io::Errno;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

/// Largest file that is read or edited, in bytes.
pub(super) const FILE_MAX: u64 = 4 << 20;

/// A path that the policy grants, with how the kernel may resolve it.
struct GrantedPath<'a> {
    shown: &'a str,
    path: PathBuf,
    resolve: ResolveFlags,
}

/// Checks a path before anything is opened or made. Where only some paths are granted, it must be plain and no link is
/// followed: `notes/../other` and a link in `notes/` would lead out of them.
fn granted<'a>(policy: &ToolPolicy, shown: &'a str) -> Result<GrantedPath<'a>, String> {
    let clean = shown.trim_start_matches("./");
    let mut resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    if !policy.paths.is_empty() {
        resolve |= ResolveFlags::NO_SYMLINKS;
        let plain = Path::new(clean)
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        if !plain || !policy.paths.iter().any(|p| clean.starts_with(p.as_str())) {
            return Err(format!(
                "`{shown}` is outside the granted paths ({})",
                policy.paths.join(", ")
            ));
        }
    }
    Ok(GrantedPath {
        shown,
        path: PathBuf::from(clean),
        resolve,
    })
}

impl GrantedPath<'_> {
    fn open_at(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let mode = match flags.contains(OFlags::CREATE) {
            true => Mode::from_raw_mode(0o600),
            false => Mode::empty(),
        };
        openat2(CWD, path, flags | OFlags::CLOEXEC, mode, self.resolve)
    }

    /// Opens the file. The kernel refuses paths and links that leave the working directory (`openat2`), and nothing waits
    /// for the other end of a FIFO.
    fn open(&self, flags: OFlags) -> Result<File, String> {
        let opened = self.open_at(&self.path, flags | OFlags::NONBLOCK);
        let file = opened.map(File::from).map_err(|e| match e {
            Errno::LOOP => format!(
                "`{}` leads through a link, which is not followed here",
                self.shown
            ),
            Errno::XDEV => format!("`{}` leads out of the workspace", self.shown),
            e => format!("`{}`: {e}", self.shown),
        })?;
        match file.metadata().is_ok_and(|m| m.is_file()) {
            true => Ok(file),
            false => Err(format!("`{}` is not a file", self.shown)),
        }
    }

    /// Makes the directories above the file that are missing, each in the directory that was opened before it.
    fn create_directories(&self) -> Result<(), String> {
        let parent = self.path.parent().unwrap_or(Path::new(""));
        let refused = |dir: &Path, e: Errno| format!("`{}`: {e}", dir.display());
        let mut above = PathBuf::from(".");
        for part in parent.components() {
            let Component::Normal(name) = part else {
                // The opening of the file refuses what leads out; nothing is made on the way there.
                return Ok(());
            };
            let dir = above.join(name);
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            match self.open_at(&dir, flags) {
                Ok(_) => {}
                Err(Errno::NOENT) => {
                    let inside = self
                        .open_at(&above, flags)
                        .map_err(|e| refused(&above, e))?;
                    match mkdirat(&inside, name, Mode::from_raw_mode(0o700)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(e) => return Err(refused(&dir, e)),
                    }
                }
                Err(e) => return Err(refused(&dir, e)),
            }
            above = dir;
        }
        Ok(())
    }
}

/// Reads a text file.
///
/// # Errors
/// Why it can't be read, for the model.
pub(super) fn read(policy: &ToolPolicy, path: &str) -> Result<String, String> {
    let mut text = String::new();
    let file = granted(policy, path)?.open(OFlags::RDONLY)?;
    file.take(FILE_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|e| format!("`{path}`: {e}"))?;
    // The beginning alone must not pass for the file: an edit would write it back.
    match text.len() as u64 > FILE_MAX {
        true => Err(format!("`{path}` is larger than {FILE_MAX} bytes")),
        false => Ok(text),
    }
}

/// Creates or replaces a text file, with the directories above it. A refused path leaves nothing behind.
///
/// # Errors
/// Why it can't be written, for the model.
pub(super) fn write(policy: &ToolPolicy, path: &str, content: &str) -> Result<(), String> {
    if content.len() as u64 > FILE_MAX {
        return Err(format!("larger than {FILE_MAX} bytes"));
    }
    let granted = granted(policy, path)?;
    granted.create_directories()?;
    let mut file = granted.open(OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)?;
    file.write_all(content.as_bytes())
        .map_err(|e| format!("`{path}`: {e}"))
}
