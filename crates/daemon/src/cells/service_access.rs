//! What agents have and had in the services of the house, as the audit log and the services say.

use crate::cells::state::{AccessStates, CellsState};
use crate::core::error::Result;
use abbey_model::{CellName, Slug, Timestamp};
use abbey_plan::{AccessState, Service, ServiceAccess};
use abbey_services::ask::ConsumerState;
use serde_json::Value;
use std::sync::Arc;

/// What agents have and had in services: as the last pass over the services found it, or as the audit log has it.
pub(crate) async fn known_access(cells: &CellsState) -> Result<Arc<AccessStates>> {
    if let Some(known) = cells.access_states() {
        return Ok(known);
    }
    let mut states = AccessStates::new();
    for entry in cells.core.store.service_access_entries().await? {
        let Ok(CellName::Service(service)) = entry.entity.parse() else {
            continue;
        };
        note_change(
            &mut states,
            &service,
            (&entry.action, &entry.detail),
            entry.at,
        );
    }
    Ok(Arc::new(states))
}

/// Applies a change of an agent's access, as the audit log records it.
pub(super) fn note_change(
    states: &mut AccessStates,
    service: &Slug,
    (action, detail): (&str, &Value),
    at: Timestamp,
) {
    let Some(name) = detail["name"].as_str() else {
        return;
    };
    let backup = detail["backup"].as_str().map(str::to_owned);
    let state = match action {
        "service.open" => AccessState::Open,
        "service.close" => AccessState::Closed { at, backup },
        "service.drop" => AccessState::Dropped { at, backup },
        _ => return,
    };
    states.insert((service.clone(), name.to_owned()), state);
}

/// Corrects what is known by what a service says of itself: it may have been restored, or changed just before a crash.
pub(super) fn note_holdings(states: &mut AccessStates, service: &Slug, holdings: &[ConsumerState]) {
    states.retain(|(of, name), state| {
        of != service
            || matches!(state, AccessState::Dropped { .. })
            || holdings.iter().any(|h| h.name == *name)
    });
    for held in holdings {
        let key = (service.clone(), held.name.clone());
        let backup = match states.remove(&key) {
            Some(AccessState::Closed { backup, .. }) => backup,
            Some(AccessState::Open | AccessState::Dropped { .. }) | None => None,
        };
        let state = match held.closed_ms.filter(|_| !held.open) {
            Some(at) => AccessState::Closed {
                at: Timestamp(at),
                backup,
            },
            None => AccessState::Open,
        };
        states.insert(key, state);
    }
}

/// The states as the planner takes them.
pub(crate) fn planned_access(states: &AccessStates) -> Vec<ServiceAccess> {
    let access = |((service, name), state): (&(Slug, String), &AccessState)| ServiceAccess {
        service: service.clone(),
        name: name.clone(),
        state: state.clone(),
    };
    states.iter().map(access).collect()
}

/// What a service keeps though no agent uses it: name, instant of its closing, instant of its deletion, and the path of its
/// copy in the directory of the service.
pub(crate) fn closed_access(
    states: &AccessStates,
    service: &Service,
) -> Vec<(String, Timestamp, Timestamp, Option<String>)> {
    let of_service = states.iter().filter(|((of, _), _)| *of == service.slug);
    let closed = of_service.filter_map(|((_, name), state)| match state {
        AccessState::Closed { at, backup } => {
            Some((name.clone(), *at, *at + service.grace, backup.clone()))
        }
        AccessState::Open | AccessState::Dropped { .. } => None,
    });
    closed.collect()
}
