//! Lists, in files of root, of what the control plane may ask hostd for because root applied a manifest that names it.

use crate::{Error, Result};
use abbey_support::file::{Sync, publish};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::path::Path;

/// The list in a file; empty if there is none.
///
/// # Errors
/// If the file cannot be read, or is no such list.
pub(super) fn allowed<T: Ord + DeserializeOwned>(path: &Path) -> Result<BTreeSet<T>> {
    Ok(crate::record::read_json(path)?.unwrap_or_default())
}

/// Adds items to the list in a file; with `only`, nothing else is in it any more.
///
/// # Errors
/// If the file cannot be read or written.
pub(super) fn allow<T: Ord + Serialize + DeserializeOwned>(
    path: &Path,
    items: BTreeSet<T>,
    only: bool,
) -> Result<()> {
    let before = allowed(path)?;
    let after: BTreeSet<&T> = match only {
        true => items.iter().collect(),
        false => items.union(&before).collect(),
    };
    if after.iter().copied().eq(&before) {
        return Ok(());
    }
    let text = serde_json::to_vec(&after).unwrap_or_default();
    publish(path, &text, 0o600, Sync::Content).map_err(Error::file("write", path))
}
