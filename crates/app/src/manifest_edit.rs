//! An edit of the manifest file by a command, which takes effect in the file only once the house has accepted it.
//!
//! Meanwhile the edited text waits beside the file. If the command ends in between, the next one compares that text with
//! the manifest in force: the house says whether the edit happened, and the file follows.

use crate::exit::{self, Failure};
use crate::manifest_file::MANIFEST_MAX;
use crate::output::print_message;
use abbey_api::client::Client;
use abbey_support::digest::sha256_hex;
use abbey_support::file::{Sync, publish};
use abbey_support::input::{read_input, read_input_text};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// An edit that the house has not accepted yet.
pub(crate) struct PendingEdit<'a> {
    file: &'a Path,
    text: &'a str,
    staged: PathBuf,
}

impl<'a> PendingEdit<'a> {
    /// Writes the edited text beside the file.
    ///
    /// # Errors
    /// Exit code 1 if that is not possible; then neither would the edit be.
    pub(crate) fn stage(file: &'a Path, text: &'a str) -> Result<PendingEdit<'a>, Failure> {
        let cannot = |e| cannot_write(file, &e);
        let before = read_input(file, MANIFEST_MAX).map_err(|e| cannot(e.into()))?;
        let name = format!("{}{}", prefix(file), &sha256_hex(before)[..16]);
        let staged = file.with_file_name(name);
        publish(&staged, text, mode_of(file), Sync::Content).map_err(cannot)?;
        Ok(PendingEdit { file, text, staged })
    }

    /// Puts the text in the place of the file's.
    ///
    /// # Errors
    /// Exit code 1 if that is not possible; the text stays beside the file, and the next command tries again.
    pub(crate) fn finish(self) -> Result<(), Failure> {
        // Through a symbolic link, not in its place.
        let target = self.file.canonicalize();
        let target = target.as_deref().unwrap_or(self.file);
        let written = publish(target, self.text, mode_of(self.file), Sync::Content);
        written.map_err(|e| {
            cannot_write(self.file, &e).hint(format!(
                "the house has accepted the change; the text that is in force is in `{}`",
                self.staged.display()
            ))
        })?;
        self.discard();
        Ok(())
    }

    /// Leaves the file as it is.
    pub(crate) fn discard(self) {
        let _compared_by_the_next_command = std::fs::remove_file(&self.staged);
    }
}

/// Finishes edits of the manifest file whose command ended before it knew that the house accepted them, and drops those
/// that the house did not accept. Returns whether the file has another text now.
///
/// # Errors
/// If the house does not answer, or the file cannot be written.
pub(crate) async fn finish_interrupted_edits(
    client: &Client,
    file: &Path,
) -> Result<bool, Failure> {
    let mut changed = false;
    for staged in staged_edits(file) {
        let text = read_input_text(&staged, MANIFEST_MAX);
        let (Ok(text), Ok(now)) = (text, read_input(file, MANIFEST_MAX)) else {
            continue;
        };
        let in_force = client.house().manifest().await?.manifest;
        let edit = PendingEdit {
            file,
            text: &text,
            staged: staged.clone(),
        };
        let unchanged = staged.ends_with(format!("{}{}", prefix(file), &sha256_hex(now)[..16]));
        match text == in_force && unchanged {
            true => {
                edit.finish()?;
                print_message(&format!(
                    "an edit of `{}` was interrupted, and the house had accepted it: the file has it now",
                    file.display()
                ));
                changed = true;
            }
            false => edit.discard(),
        }
    }
    Ok(changed)
}

/// Refuses to go on with a text that was read before an interrupted edit was finished.
///
/// # Errors
/// Exit code 4 if one was; see [`finish_interrupted_edits`].
pub(crate) async fn require_no_interrupted_edit(
    client: &Client,
    file: &Path,
) -> Result<(), Failure> {
    match finish_interrupted_edits(client, file).await? {
        false => Ok(()),
        true => Err(
            Failure::plain("the manifest file has changed; run the command again")
                .with_code(exit::CONFLICT),
        ),
    }
}

fn staged_edits(file: &Path) -> Vec<PathBuf> {
    let dir = file.parent().filter(|d| !d.as_os_str().is_empty());
    let entries = std::fs::read_dir(dir.unwrap_or(Path::new("."))).into_iter();
    let names = entries.flatten().flatten().map(|e| e.file_name());
    let names = names.filter(|name| name.to_string_lossy().starts_with(&prefix(file)));
    names.map(|name| file.with_file_name(name)).collect()
}

/// Beginning of the names of edits of a file; the digest of the text that was edited follows.
fn prefix(file: &Path) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    format!(".{name}.edit-")
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
