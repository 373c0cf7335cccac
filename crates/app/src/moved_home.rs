//! A home that was renamed or moved while its house runs: the control plane and the cells go on with the path that it had, where
//! their files are no more.

use crate::exit::{self, Failure};
use crate::output::print_message;
use abbey_cells::hostd::{moved_house, remedy_of_move, socket_owner};
use abbey_daemon::{Home, refuse_where_house_moved_away};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Refuses to change a house whose home was moved while it runs, since nothing of it finds its files, and to start or stop
/// another one where it was.
///
/// # Errors
/// Where the home was and how to put it back, with exit code 4; whom it belongs to, if that is another user.
pub(crate) fn refuse_moved_home(home: &Home) -> Result<(), Failure> {
    let Some(before) = moved_from(home) else {
        return Ok(refuse_where_house_moved_away(home)?);
    };
    // Where a house was started says its own process: no path to move something to as another user.
    home.require_own()?;
    let now = home.root();
    let text = format!(
        "the house runs with its files in `{}`, and they were moved to `{}` meanwhile",
        before.display(),
        now.display()
    );
    Err(Failure::plain(text)
        .hint(remedy_of_move(now, &before))
        .with_code(exit::CONFLICT))
}

/// Warns that a house which still runs was moved away from this home, where nothing can be started until it is put back.
pub(crate) fn warn_of_moved_house(home: &Home) {
    if let Some(moved) = moved_house(home.root()) {
        let (text, remedy) = (moved.refusal(home.root()), moved.remedy(home.root()));
        print_message(&format!(
            "warning: {text}; nothing can be started here: {remedy}"
        ));
    }
}

/// Path of the home that the running control plane of this house was started with, if that leads elsewhere or nowhere now.
fn moved_from(home: &Home) -> Option<PathBuf> {
    let pid = socket_owner(&home.operator_api_socket())?;
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mut words = line.split(|byte| *byte == 0);
    words.find(|word| *word == b"--home")?;
    let started_with = Path::new(OsStr::from_bytes(words.next()?));
    let directory = |path: &Path| fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
    // In its own mounts, where this process may look there: it can have others than a command has.
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    let there = match directory(&root) {
        Some(_) => root.join(started_with.strip_prefix("/").unwrap_or(started_with)),
        None => started_with.to_owned(),
    };
    let moved = directory(&there) != Some(directory(home.root())?);
    moved.then(|| started_with.to_owned())
}
