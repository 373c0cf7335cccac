//! Which manifest a command works on: the one that it is told, the one here, or the one that the house was brought up
//! from.

use crate::connect::operator_client;
use crate::durations::{milliseconds, now};
use crate::exit::{self, Failure};
use crate::manifest_file::MANIFEST_MAX;
use crate::output::{local_time, print_message};
use abbey_api::Time;
use abbey_daemon::Home;
use abbey_daemon::manifest::House;
use abbey_model::Timestamp;
use abbey_support::file::{Sync, publish};
use abbey_support::input::{read_input, read_input_text};
use abbey_support::shell::shell_path;
use clap::Args;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

/// Name of a manifest that is not told.
const MANIFEST: &str = "abbey.yaml";

#[derive(Debug, Args)]
pub(crate) struct ManifestArg {
    /// Path of the manifest [default: `abbey.yaml` in this directory, or else the one that the house was last brought up
    /// from].
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
}

impl ManifestArg {
    /// Path of the manifest; it need not exist.
    pub(crate) fn path(&self, home: &Home) -> PathBuf {
        if let Some(file) = &self.file {
            return file.clone();
        }
        let path = usual_path(home);
        note_other_manifest(home, &path);
        path
    }
}

/// Says once that the manifest in this directory is used, where the house was last brought up from another one.
fn note_other_manifest(home: &Home, used: &Path) {
    static IS_SAID: AtomicBool = AtomicBool::new(false);
    let whole = |path: &Path| path.canonicalize().ok();
    let Some(last) = remembered(home).filter(|last| whole(last) != whole(used)) else {
        return;
    };
    if used.exists() && last.exists() && !IS_SAID.swap(true, Ordering::Relaxed) {
        print_message(&format!(
            "note: this uses `{}` of this directory; the house was last brought up from {}, which `-f` names",
            used.display(),
            shell_path(&last)
        ));
    }
}

/// The manifest in this directory, or else the one that the house was last brought up from; it need not exist.
pub(crate) fn usual_path(home: &Home) -> PathBuf {
    let here = PathBuf::from(MANIFEST);
    match here.exists() {
        true => here,
        false => remembered(home).unwrap_or(here),
    }
}

/// The manifest that the house was last brought up from, if this user wrote down which. What another user wrote is not
/// trusted: whoever reads a manifest also reads the files that it names.
fn remembered(home: &Home) -> Option<PathBuf> {
    let path = home.last_manifest_file();
    let mine = rustix::process::geteuid().as_raw();
    let written = std::fs::symlink_metadata(&path).ok()?;
    if !written.is_file() || written.uid() != mine {
        return None;
    }
    let bytes = read_input(&path, 64 << 10).ok()?;
    Some(PathBuf::from(std::ffi::OsString::from_vec(bytes)))
}

/// The house as the plan in force has it, or as the manifest in use says while the control plane does not run; none if
/// neither can be read.
pub(crate) async fn house_in_use(home: &Home) -> Option<House> {
    let in_force = match operator_client(home) {
        Ok(client) => client.house().manifest().await.ok(),
        Err(_) => None,
    };
    let text = match in_force {
        Some(doc) => doc.manifest,
        None => read_input_text(&remembered(home)?, MANIFEST_MAX).ok()?,
    };
    abbey_daemon::manifest::parse(&text).ok()
}

/// A manifest file that cannot be applied as it is, while the house goes on with what was applied before.
#[derive(Debug)]
pub(crate) struct RefusedManifest {
    /// What is wrong, and since when.
    pub(crate) text: String,
    /// Command that lists every mistake.
    pub(crate) remedy: String,
}

/// What is wrong with the file that the house was last brought up from, if it is gone or has mistakes by now; none if it has
/// none, or cannot be read, or another user brought the house up.
pub(crate) fn refused_manifest(home: &Home) -> Option<RefusedManifest> {
    let file = remembered(home)?;
    let devices = ["/dev", "/proc"].iter().any(|dir| file.starts_with(dir));
    let text = match read_input_text(&file, MANIFEST_MAX) {
        Err(e) if e.is_not_found() && !devices => {
            return Some(RefusedManifest {
                text: format!(
                    "`{}`, from which the house was brought up, does not exist any more; the house goes on with what was applied",
                    file.display()
                ),
                remedy: "`abbey plan --in-force` prints the manifest that was applied last"
                    .to_owned(),
            });
        }
        text => text.ok()?,
    };
    let mistakes = abbey_daemon::manifest::parse(&text).err()?;
    let first = mistakes.first()?;
    let more = match mistakes.len() {
        1 => String::new(),
        n => format!(" (and {} more)", n - 1),
    };
    let changed = std::fs::metadata(&file).and_then(|m| m.modified()).ok();
    let since = changed.map_or_else(String::new, |at| format!(", {}", since_when(at)));
    Some(RefusedManifest {
        text: format!(
            "`{}` cannot be applied{since}: {first}{more}; the house goes on with what was applied before",
            file.display()
        ),
        remedy: format!("`abbey plan -f {}` lists every mistake", shell_path(&file)),
    })
}

/// When a file was last changed, and how long ago that is, such as `last changed 5 min ago, at 2026-12-01 10:00:00`.
fn since_when(changed: SystemTime) -> String {
    let since = changed.duration_since(SystemTime::UNIX_EPOCH);
    let at = Timestamp(since.map_or(0, milliseconds));
    let age = now().since(at).human();
    format!("last changed {age} ago, at {}", local_time(Time(at)))
}

/// Failure with exit code 4 if there are users of what is to be removed.
pub(crate) fn refuse_in_use(what: &str, users: &[String]) -> Result<(), Failure> {
    if users.is_empty() {
        return Ok(());
    }
    let text = format!("{what} is in use by {}", users.join(", "));
    Err(Failure::plain(text)
        .with_code(exit::CONFLICT)
        .hint("change the manifest first, or remove it all the same with `--force`"))
}

/// Writes down the manifest that the house has just been brought up from. Only the owner of the home does; for anybody
/// else nothing changes.
pub(crate) fn remember(home: &Home, file: &Path) {
    let mine = rustix::process::geteuid().as_raw();
    let owner = std::fs::metadata(home.root()).map_or(u32::MAX, |m| m.uid());
    let Ok(path) = std::path::absolute(file) else {
        return;
    };
    if owner == mine && remembered(home).as_ref() != Some(&path) {
        let bytes = path.as_os_str().as_bytes();
        let _told_next_time = publish(&home.last_manifest_file(), bytes, 0o644, Sync::Content);
    }
}
