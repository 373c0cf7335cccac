//! Files of agents and services that were lost: a cell that was started before had its directory, so that one which is not
//! there any more is not replaced by an empty one.

use crate::cells::state::CellsState;
use crate::core::error::Result;
use crate::core::home::Home;
use abbey_api::Problem;
use abbey_model::{CellName, FaultKind, Slug};
use abbey_plan::{HostFacts, House};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Directory of an owner's files, if it does not exist.
fn missing_directory(home: &Home, owner: &CellName) -> Option<PathBuf> {
    let path = match owner {
        CellName::Agent(slug) => home.agent_dir(slug.as_str()),
        CellName::Service(slug) => home.service_dir(slug.as_str()),
        CellName::Run(_) => return None,
    };
    let found = fs::symlink_metadata(&path);
    matches!(found, Err(e) if e.kind() == io::ErrorKind::NotFound).then_some(path)
}

/// What is missing, and what can be done about it.
fn describe(home: &Home, owner: &CellName, path: &Path) -> String {
    let slug = owner.slug();
    let anew = match owner {
        CellName::Agent(_) => format!(
            "to begin anew, take the agent out of the manifest, run `abbey up --yes`, and add it again (`abbey agent add {slug}`)"
        ),
        CellName::Service(_) | CellName::Run(_) => {
            let dir = home.service_dir(slug.as_str());
            let aside = match dir == *path {
                true => "",
                false => "move the rest of the service's directory to another place, and ",
            };
            format!(
                "to begin anew without its data, {aside}run `mkdir {}`",
                dir.display()
            )
        }
    };
    format!(
        "its files are gone: `{}` does not exist, though it did before. Put the directory back, or restore a backup (`abbey restore`); {anew}",
        path.display()
    )
}

/// Refuses to go on for an owner that was started before and whose directory does not exist any more.
///
/// # Errors
/// `Conflict` with the path and the remedies.
pub(crate) fn require_directory(cells: &CellsState, owner: &CellName) -> Result<()> {
    match missing_directory(&cells.core.home, owner) {
        Some(path) => Err(Problem::new(
            FaultKind::Conflict,
            describe(&cells.core.home, owner, &path),
        )
        .into()),
        None => Ok(()),
    }
}

/// Agents and services of a house that were started before and whose files are gone, with path and remedies. Also finds
/// services whose data the host reports as missing from their directory.
pub(crate) async fn find_lost_files(
    cells: &CellsState,
    house: &House,
    facts: Option<&HostFacts>,
) -> Result<BTreeMap<CellName, String>> {
    let started = started_before(cells).await?;
    let agents = house.agents.keys().cloned().map(CellName::Agent);
    let own = house.services.values().filter(|s| s.at.is_none());
    let services = own.map(|s| CellName::Service(s.slug.clone()));
    // Any other service has its own names in its directory.
    let is_stock = |slug: &Slug| {
        house
            .services
            .get(slug)
            .is_some_and(|s| s.kind.has_consumers())
    };
    let mut lost = BTreeMap::new();
    for owner in agents.chain(services) {
        let reported = facts.and_then(|f| f.lost_data.get(&owner.owner()));
        let data = reported.filter(|_| is_stock(owner.slug()));
        let missing = match started.contains(&owner) {
            true => missing_directory(&cells.core.home, &owner),
            false => None,
        };
        if let Some(path) = missing.as_ref().or(data) {
            let text = describe(&cells.core.home, &owner, path);
            lost.insert(owner, text);
        }
    }
    Ok(lost)
}

/// Cells that were started at least once and are not being created, removed or renamed.
pub(super) async fn started_before(cells: &CellsState) -> Result<BTreeSet<CellName>> {
    let store = &cells.core.store;
    let mut moving: BTreeSet<Slug> = BTreeSet::new();
    for saga in store.open_sagas().await? {
        moving.extend(saga.subject.parse::<Slug>());
    }
    for renamed in store.pending_renames().await? {
        moving.extend([renamed.old, renamed.new]);
    }
    let known = store.cells().await?.into_iter();
    let started = known.filter(|(cell, row)| {
        let is_moving = matches!(cell, CellName::Agent(slug) if moving.contains(slug));
        row.history.generation.0 > 0 && !is_moving
    });
    Ok(started.map(|(cell, _)| cell).collect())
}
