//! An edit of the manifest file by a command. The file gets the new text just before the house does, and the text of before
//! waits beside it until the house has accepted the edit. So a command that is interrupted leaves the file as the house is,
//! or the next command puts the text of before back; and what a person writes into the file meanwhile stays.
//!
//! Commands that edit or apply the manifest of one house do so one after another.

use crate::exit::{self, Failure};
use crate::follow::activity_of;
use crate::manifest_file::MANIFEST_MAX;
use crate::output::{Progress, print_message};
use abbey_api::client::{self, Client};
use abbey_daemon::{Error, Home, ManifestLock};
use abbey_model::FaultKind;
use abbey_support::beneath::DirHandle;
use abbey_support::digest::sha256_hex;
use abbey_support::file::{self, Sync, publish};
use abbey_support::input::{read_input, read_text_within};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longest wait for another command that edits the file, and for a house that may still be accepting an edit.
const PATIENCE: Duration = Duration::from_secs(120);
/// Time between two looks at either.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The right to edit or apply the manifest of a house, until it is dropped.
#[derive(Debug)]
pub(crate) struct ManifestTurn {
    _lock: ManifestLock,
}

/// Waits until no other command edits or applies the manifest of the house.
///
/// # Errors
/// Exit code 124 if another command does all the time.
pub(crate) async fn wait_for_turn(home: &Home) -> Result<ManifestTurn, Failure> {
    let until = Instant::now() + PATIENCE;
    let mut progress = Progress::new();
    loop {
        let holder = match home.try_lock_manifest()? {
            ManifestLock::HeldBy(holder) => holder,
            lock => {
                progress.end();
                return Ok(ManifestTurn { _lock: lock });
            }
        };
        let process = holder.map_or_else(String::new, |pid| format!(" (process {pid})"));
        if Instant::now() >= until {
            progress.end();
            let text = format!(
                "another command{process} edits or applies the manifest of the house in `{}`",
                home.root().display()
            );
            return Err(Failure::plain(text)
                .hint("repeat the command once that one has ended")
                .with_code(exit::TIMEOUT));
        }
        progress.show(&format!(
            "waiting for another command{process} that edits or applies the manifest"
        ));
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// An edit that is in the file, and that the house has not accepted yet.
#[derive(Debug)]
pub(crate) struct PendingEdit {
    /// The file, behind every link.
    target: PathBuf,
    /// What it has now.
    text: String,
    before: Kept,
}

/// The text that a file had before an edit, and where it is kept.
#[derive(Debug)]
struct Kept {
    text: String,
    path: PathBuf,
}

impl PendingEdit {
    /// Writes `text` in the place of `before`, which waits beside it.
    ///
    /// # Errors
    /// Exit code 4 if the file has another text than `before` by now, and 1 if it cannot be written.
    pub(crate) fn begin(
        home: &Home,
        file: &Path,
        before: &str,
        text: &str,
    ) -> Result<PendingEdit, Failure> {
        require_unedited(file, before)?;
        let cannot = |e: io::Error| cannot_write(file, &e);
        // Through a symbolic link, not in its place.
        let target = file.canonicalize().map_err(cannot)?;
        let kept = Kept {
            text: before.to_owned(),
            path: kept_at(home, &target, text.as_bytes()),
        };
        publish(&kept.path, before, mode_of(&target), Sync::Content).map_err(cannot)?;
        file::replace(&target, text).map_err(|e| {
            kept.drop();
            cannot(e)
        })?;
        Ok(PendingEdit {
            target,
            text: text.to_owned(),
            before: kept,
        })
    }

    /// Ends the edit: the house has accepted it.
    pub(crate) fn accepted(self) {
        self.before.drop();
    }

    /// Puts the text of before back, since the house has not accepted the edit. Does nothing if somebody has edited the file
    /// in between.
    ///
    /// # Errors
    /// Exit code 1 if the file cannot be written; the text stays beside it.
    pub(crate) fn refused(self) -> Result<(), Failure> {
        put_back(&self.target, self.text.as_bytes(), self.before)
    }
}

/// Refuses to go on with an edit of the text `before` if the file has another one by now.
///
/// # Errors
/// Exit code 4 if it has, and 1 if it cannot be read.
pub(crate) fn require_unedited(file: &Path, before: &str) -> Result<(), Failure> {
    let now = read_input(file, MANIFEST_MAX).map_err(|e| cannot_write(file, &e.into()))?;
    match now == before.as_bytes() {
        true => Ok(()),
        false => Err(
            Failure::plain(format!("`{}` was edited meanwhile", file.display()))
                .hint("nothing was changed; repeat the command")
                .with_code(exit::CONFLICT),
        ),
    }
}

impl Kept {
    /// Removes the file.
    fn drop(&self) {
        let _compared_by_the_next_command = std::fs::remove_file(&self.path);
    }
}

/// Writes the kept text if the file still has the text of the edit.
fn put_back(target: &Path, edited: &[u8], before: Kept) -> Result<(), Failure> {
    let cannot = |e: io::Error| cannot_write(target, &e);
    if read_input(target, MANIFEST_MAX).map_err(|e| cannot(e.into()))? == edited {
        file::replace(target, &before.text).map_err(|e| {
            cannot(e).hint(format!(
                "the house has not accepted the change; the text of before is in `{}`",
                before.path.display()
            ))
        })?;
    }
    before.drop();
    Ok(())
}

/// Ends edits of the manifest file whose command ended before it knew whether the house accepted them. Returns whether the
/// file has another text now.
///
/// # Errors
/// If the house does not answer, or the file cannot be written.
pub(crate) async fn finish_interrupted_edits(
    home: &Home,
    client: &Client,
    file: &Path,
) -> Result<bool, Failure> {
    let Ok(target) = file.canonicalize() else {
        return Ok(false);
    };
    let lock = home.try_lock_manifest()?;
    // While another has the lock, the command that edits the file goes on.
    match lock {
        ManifestLock::Taken(_) => finish_edits(home, client, &target).await,
        ManifestLock::HeldBy(_) | ManifestLock::Unavailable => Ok(false),
    }
}

/// For a command that applies the file: waits until no other command edits it, ends interrupted edits, and keeps others from
/// editing it until the result is dropped. What the command read before is outdated then.
///
/// # Errors
/// As [`wait_for_turn`] and [`finish_interrupted_edits`].
pub(crate) async fn hold_manifest(
    home: &Home,
    client: &Client,
    file: &Path,
) -> Result<ManifestTurn, Failure> {
    let turn = wait_for_turn(home).await?;
    if let Some(target) = edited_by_commands(file) {
        finish_edits(home, client, &target).await?;
    }
    Ok(turn)
}

/// The file behind every link; none if it is nothing that commands edit, such as a pipe, which can be read once only.
pub(crate) fn edited_by_commands(file: &Path) -> Option<PathBuf> {
    file.canonicalize().ok().filter(|target| target.is_file())
}

/// As [`finish_interrupted_edits`], for a command whose turn it is, and that has read the file.
///
/// # Errors
/// Exit code 4 if the file has another text now.
pub(crate) async fn require_no_interrupted_edit(
    home: &Home,
    client: &Client,
    file: &Path,
) -> Result<(), Failure> {
    let target = file.canonicalize().map_err(|e| cannot_write(file, &e))?;
    match finish_edits(home, client, &target).await? {
        false => Ok(()),
        true => Err(
            Failure::plain("the manifest file has changed; run the command again")
                .with_code(exit::CONFLICT),
        ),
    }
}

/// Text that the next command of a house that is down puts back into the file, since the edit that the file has was interrupted
/// before the house accepted it; none if the file stays as it is.
///
/// # Errors
/// If the state of the house cannot be read.
pub(crate) async fn text_to_put_back(home: &Home, file: &Path) -> Result<Option<String>, Failure> {
    let Ok(target) = file.canonicalize() else {
        return Ok(None);
    };
    // While another has the lock, the command that edits the file goes on.
    if kept_edits(home, &target).is_empty()
        || !matches!(home.try_lock_manifest()?, ManifestLock::Taken(_))
    {
        return Ok(None);
    }
    let in_force = match abbey_daemon::manifest_offline(home.root().to_owned()).await {
        Ok(in_force) => Some(in_force.manifest),
        Err(Error::Problem(problem)) if problem.fault() == FaultKind::NotFound => None,
        Err(error) => return Err(error.into()),
    };
    let is_in_force =
        async |text: &[u8]| Ok(in_force.as_ref().is_some_and(|m| m.as_bytes() == text));
    let ends = judge_edits(home, &target, &is_in_force).await?;
    let back = ends.into_iter().rev().find_map(|end| match end {
        EditEnd::PutBack { before, .. } => Some(before.text),
        EditEnd::Over(_) => None,
    });
    Ok(back)
}

/// How an edit whose command was interrupted ends.
enum EditEnd {
    /// The house has accepted it, or somebody has edited the file since: the file stays.
    Over(Kept),
    /// The house has not accepted it: the file gets the text of before.
    PutBack { edited: Vec<u8>, before: Kept },
}

/// How each interrupted edit of a file ends, in the order in which they do, and changes nothing. `is_in_force` says whether
/// the house has a manifest.
async fn judge_edits(
    home: &Home,
    target: &Path,
    is_in_force: &impl AsyncFn(&[u8]) -> Result<bool, Failure>,
) -> Result<Vec<EditEnd>, Failure> {
    let mut ends = Vec::new();
    let Ok(mut now) = read_input(target, MANIFEST_MAX) else {
        return Ok(ends);
    };
    for path in kept_edits(home, target) {
        let Ok(text) = read_kept(&path) else {
            continue;
        };
        let before = Kept { text, path };
        if before.path != kept_at(home, target, &now) || is_in_force(&now).await? {
            ends.push(EditEnd::Over(before));
            continue;
        }
        let edited = std::mem::replace(&mut now, before.text.clone().into_bytes());
        ends.push(EditEnd::PutBack { edited, before });
    }
    Ok(ends)
}

async fn finish_edits(home: &Home, client: &Client, target: &Path) -> Result<bool, Failure> {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    file::remove_temporaries(target, |of| {
        of == name || of.starts_with(&prefix(home, target))
    });
    let mut changed = false;
    let is_in_force = async |text: &[u8]| is_in_force(client, text).await;
    for end in judge_edits(home, target, &is_in_force).await? {
        match end {
            EditEnd::Over(before) => before.drop(),
            EditEnd::PutBack { edited, before } => {
                put_back(target, &edited, before)?;
                print_message(&format!(
                    "an edit of `{}` was interrupted before the house accepted it: the file is as it was before",
                    target.display()
                ));
                changed = true;
            }
        }
    }
    Ok(changed)
}

/// Reads a text of before, if a command of this user wrote it. The directory may be another user's, who could put a link
/// there: what this user may read would get into a file of that one.
fn read_kept(path: &Path) -> io::Result<String> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let kept = DirHandle::open_trusted(dir)?.open_file(name)?;
    if kept.metadata()?.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(read_text_within(kept, MANIFEST_MAX)?)
}

/// Whether the house has this manifest, once it has ended what it was asked for.
async fn is_in_force(client: &Client, text: &[u8]) -> Result<bool, Failure> {
    let until = Instant::now() + PATIENCE;
    loop {
        let busy = activity_of(client).await.is_some();
        match client.house().manifest().await {
            Ok(in_force) if in_force.manifest.as_bytes() == text => return Ok(true),
            Ok(_) => {}
            // A house that never had a plan.
            Err(client::Error::Refused(why)) if why.fault() == FaultKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        if !busy || Instant::now() >= until {
            return Ok(false);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Texts of before that wait beside the file for the house.
fn kept_edits(home: &Home, target: &Path) -> Vec<PathBuf> {
    let entries = target.parent().map(std::fs::read_dir).into_iter();
    let names = entries.flatten().flatten().flatten().map(|e| e.file_name());
    let names = names.filter(|name| name.to_string_lossy().starts_with(&prefix(home, target)));
    names.map(|name| target.with_file_name(name)).collect()
}

/// Where the text of before waits while the file has this text.
fn kept_at(home: &Home, target: &Path, edited: &[u8]) -> PathBuf {
    let digest = &sha256_hex(edited)[..16];
    target.with_file_name(format!("{}{digest}", prefix(home, target)))
}

/// Beginning of the names of texts of before; the digest of the edited text follows. Two houses may be made from one
/// manifest, and each ends its own edits only.
fn prefix(home: &Home, target: &Path) -> String {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let house = &sha256_hex(home.root().as_os_str().as_bytes())[..8];
    format!(".{name}.before-{house}-")
}

fn mode_of(file: &Path) -> u32 {
    std::fs::metadata(file).map_or(0o644, |m| m.permissions().mode() & 0o7777)
}

fn cannot_write(file: &Path, error: &io::Error) -> Failure {
    Failure::plain(format!(
        "cannot write the manifest `{}`: {error}",
        file.display()
    ))
}
