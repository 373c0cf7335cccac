//! Files of agents and services that were lost: what was prepared once is not replaced by nothing.

use crate::cells::state::CellsState;
use crate::core::error::Result;
use abbey_model::{CellName, Slug};
use abbey_plan::{HostFacts, House};
use std::collections::{BTreeMap, BTreeSet};

/// Agents and services of a house whose files are gone as far as the host can tell, with path and remedies. Agents that are
/// being created, removed or renamed are left out: their files are moving.
pub(crate) async fn find_lost_files(
    cells: &CellsState,
    house: &House,
    facts: &HostFacts,
) -> Result<BTreeMap<CellName, String>> {
    let store = &cells.core.store;
    let mut moving: BTreeSet<Slug> = BTreeSet::new();
    for saga in store.open_sagas().await? {
        moving.extend(saga.subject.parse::<Slug>());
    }
    for renamed in store.pending_renames().await? {
        moving.extend([renamed.old, renamed.new]);
    }
    let agents = house.agents.keys().filter(|slug| !moving.contains(*slug));
    let agents = agents.cloned().map(CellName::Agent);
    let own = house.services.values().filter(|s| s.at.is_none());
    let lost_agents = agents.filter_map(|owner| {
        let why = facts.lost_files.get(&owner.owner())?.clone();
        Some((owner, why))
    });
    let lost_services = own.filter_map(|service| {
        let owner = CellName::Service(service.slug.clone());
        // Any other service has its own names in its directory.
        let is_stock = service.kind.has_consumers();
        let data = facts.lost_data.get(&owner.owner()).filter(|_| is_stock);
        let why = facts.lost_files.get(&owner.owner()).or(data)?.clone();
        Some((owner, why))
    });
    Ok(lost_agents.chain(lost_services).collect())
}
