//! Files at the place of an agent that is created: what lies there goes out of the way, and what its plan brings comes in.

use crate::cells::identity_files;
use crate::cells::state::CellsState;
use crate::core::error::Result;
use crate::core::hostd;
use crate::core::saved_templates::require_saved_template;
use abbey_cells::hostd::HostdOperation;
use abbey_model::{CellName, FirstFiles, Slug};
use std::os::fd::AsFd;
use std::sync::Arc;

async fn pending_first_files(cells: &CellsState, slug: &Slug) -> Result<Option<FirstFiles>> {
    let pending = cells.core.store.pending_first_files().await?;
    let mine = pending.into_iter().find(|(agent, _)| agent == slug);
    Ok(mine.map(|(_, source)| source))
}

/// Archives files at the place of a new agent. Nobody's, they would become its memory. An agent with an allocation had them
/// before, as after a restore of the house.
pub(super) async fn clear_place(cells: &CellsState, slug: &Slug) -> Result<()> {
    let helper = Arc::clone(&cells.core.hostd);
    let owners = hostd::call_blocking(move || helper.owners()).await?;
    match owners.contains_key(&CellName::Agent(slug.clone())) {
        true => Ok(()),
        false => put_away(cells, slug).await,
    }
}

/// Archives the files of an agent whose creation begins anew. Restored files go back to where the next attempt finds them.
pub(super) async fn put_away(cells: &CellsState, slug: &Slug) -> Result<()> {
    let Some(FirstFiles::Archive(stamp)) = pending_first_files(cells, slug).await? else {
        return archive_files(cells, slug).await;
    };
    let kept = hostd::archived_files(&cells.core.hostd, slug).await?;
    if kept.contains(&stamp) {
        return archive_files(cells, slug).await;
    }
    let owner = CellName::Agent(slug.clone());
    hostd::run_operation(&cells.core.hostd, HostdOperation::Archive { owner, stamp }).await
}

/// Puts the first files of a new agent in place, if its plan brings any. Whole or not at all: files that are there were put
/// there by an attempt that was cut off.
pub(super) async fn fill_home(cells: &CellsState, slug: &Slug) -> Result<()> {
    let Some(source) = pending_first_files(cells, slug).await? else {
        return Ok(());
    };
    if cells.core.home.agent_dir(slug.as_str()).exists() {
        return Ok(());
    }
    let owner = CellName::Agent(slug.clone());
    match source {
        FirstFiles::Template(name) => {
            let file = require_saved_template(&cells.core.home, &name)?;
            let helper = Arc::clone(&cells.core.hostd);
            let fill = HostdOperation::Fill { owner };
            hostd::call_blocking(move || helper.call(fill, &[file.as_fd()]).map(drop)).await
        }
        FirstFiles::Archive(stamp) => {
            let restore = HostdOperation::Restore { owner, stamp };
            hostd::run_operation(&cells.core.hostd, restore).await
        }
        FirstFiles::Agent(_) => Ok(()),
    }
}

/// Brings a clone the files that make its original who it is, over those that the house writes for a new agent. Repeated
/// as a whole if it was cut off: the clone does not start before.
pub(super) async fn bring_identity(cells: &CellsState, slug: &Slug) -> Result<()> {
    let Some(FirstFiles::Agent(original)) = pending_first_files(cells, slug).await? else {
        return Ok(());
    };
    let current = cells.core.plan.current();
    if !current.is_some_and(|c| c.house.agents.contains_key(&original)) {
        tracing::warn!(agent = %slug, %original, "the clone is made without the files of its original, which was removed meanwhile");
        return Ok(());
    }
    let (mut files, _left_out) = identity_files::pack(&cells.core, original).await?;
    // The charter is part of the manifest.
    files.retain(|f| f.path != "SOUL.md");
    identity_files::bring(&cells.core, slug, &files).await
}

/// Moves the files of an agent into the archive of removed agents; nothing is deleted.
pub(super) async fn archive_files(cells: &CellsState, slug: &Slug) -> Result<()> {
    let stamp = abbey_api::Time(cells.core.store.now()).stamp();
    let owner = CellName::Agent(slug.clone());
    hostd::run_operation(&cells.core.hostd, HostdOperation::Archive { owner, stamp }).await
}
