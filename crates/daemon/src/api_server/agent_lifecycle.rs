//! Operator routes that show, export, import and drain agents (S1-24, S2-24).

use crate::api_server::access::Caller;
use crate::api_server::state::ApiState;
use crate::api_server::web::Path;
use crate::api_server::web::{Doc, Json, Query};
use crate::cells::{identity_files, service_consumers};
use crate::core::error::{Result, not_found};
use crate::core::{hostd, runtime};
use crate::work::lookup::{find_agent_slug, parse_slug};
use abbey_api::*;
use abbey_model::{CellName, FaultKind, Principal, Slug, Timestamp};
use abbey_services::ask::{ServiceReply, ServiceRequest};
use abbey_store::{NewAuditEntry, TaskFilter};
use axum::extract::State;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

type Shared = State<Arc<ApiState>>;

/// Operator routes that show, export, import and drain agents.
pub(crate) fn routes() -> OpenApiRouter<Arc<ApiState>> {
    OpenApiRouter::new()
        .routes(routes!(entry))
        .routes(routes!(bundle, bring))
        .routes(routes!(drain))
        .routes(routes!(leftovers))
}

/// What the manifest says of an agent, or said when it last lived here.
#[utoipa::path(
    get, path = "/api/v1/agents/{agent}/entry", operation_id = "agents_entry", tag = "agents",
    summary = "The manifest entry of an agent, now or when it last was part of the house",
    params(EntryQuery),
    responses((status = 200, body = EntryDoc)),
)]
async fn entry(
    State(api): Shared,
    Path(name): Path<String>,
    Query(query): Query<EntryQuery>,
) -> Result<Doc<EntryDoc>> {
    let slug = parse_slug(&name)?;
    let until = match &query.removed {
        None => None,
        Some(stamp) => Some(Time::from_stamp(stamp).ok_or_else(|| {
            Problem::new(FaultKind::Invalid, format!("`{stamp}` is no stamp of files that were put away"))
                .remedy("`abbey agent rm` prints it, and the names in `removed/` of the state directory end with it")
        })?),
    };
    let present = api
        .core
        .plan
        .current()
        .is_some_and(|c| c.house.agents.contains_key(&slug));
    let former = api
        .core
        .store
        .last_manifest_with_agent(slug.clone(), until.map(|t| t.0))
        .await?;
    let Some((generation, manifest, charter)) = former else {
        let text = format!("there is no agent `{slug}`, and no earlier manifest declared one");
        let remedy = "`abbey ps` lists the agents; those that were removed have their files in `removed/` of the state directory";
        return Err(Problem::new(FaultKind::NotFound, text)
            .remedy(remedy)
            .into());
    };
    let entry = abbey_plan::edit::agent_entry(&manifest, &slug).map_err(|m| {
        let text: Vec<String> = m.iter().map(ToString::to_string).collect();
        Problem::new(FaultKind::Conflict, text.join("; "))
    })?;
    let mut data_names = named_data(&manifest, &slug);
    // What it has somewhere without using it goes with it to another name.
    if let Some(current) = api.core.plan.current() {
        let owned = current.applied.ownership.data_names(&current.house, &slug);
        for (service, name) in owned {
            data_names.entry(service.to_string()).or_insert(name);
        }
    }
    Ok(Doc(EntryDoc {
        version: VERSION,
        agent: slug.to_string(),
        generation,
        present,
        entry,
        charter,
        data_names,
        removed: hostd::archived_files(&api.core.hostd, &slug).await?,
    }))
}

/// Names that a manifest gives the data of an agent, by service.
fn named_data(manifest: &str, agent: &Slug) -> BTreeMap<String, String> {
    let Ok((house, _)) = abbey_plan::parse_stored(manifest) else {
        return BTreeMap::new();
    };
    let services = house.services.values();
    let named = services.filter_map(|s| {
        let name = s.names.get(agent)?;
        Some((s.slug.to_string(), name.to_string()))
    });
    named.collect()
}

#[utoipa::path(
    get, path = "/api/v1/agents/{agent}/bundle", operation_id = "agents_export_bundle", tag = "agents",
    summary = "The files that make an agent who it is, without credentials",
    responses((status = 200, body = BundleDoc)),
)]
async fn bundle(State(api): Shared, Path(name): Path<String>) -> Result<Doc<BundleDoc>> {
    let slug = find_agent_slug(&api.work, &name)?;
    let (files, left_out) = identity_files::pack(&api.core, slug.clone()).await?;
    Ok(Doc(BundleDoc {
        version: VERSION,
        agent: slug.to_string(),
        files,
        left_out,
    }))
}

#[utoipa::path(
    post, path = "/api/v1/agents/{agent}/bundle", operation_id = "agents_import_bundle", tag = "agents",
    summary = "Brings an agent files from elsewhere",
    responses((status = 200, body = BundleDoc)),
)]
async fn bring(
    State(api): Shared,
    Caller(by): Caller,
    Path(name): Path<String>,
    Json(body): Json<BundleBody>,
) -> Result<Doc<BundleDoc>> {
    let slug = find_agent_slug(&api.work, &name)?;
    identity_files::bring(&api.core, &slug, &body.files).await?;
    let paths: Vec<&str> = body.files.iter().map(|f| f.path.as_str()).collect();
    let note = NewAuditEntry {
        actor: by,
        action: "agent.bring".to_owned(),
        entity: format!("agent-{slug}"),
        detail: json!({ "files": paths }),
    };
    api.core.store.append_audit_entry(note).await?;
    Ok(Doc(BundleDoc {
        version: VERSION,
        agent: slug.to_string(),
        files: body.files,
        left_out: Vec::new(),
    }))
}

/// No more work is offered to an agent; what it has, it may finish. Starting it, or its going, ends that.
#[utoipa::path(
    post, path = "/api/v1/agents/{agent}/drain", operation_id = "agents_drain", tag = "agents",
    summary = "Offers an agent no more work; starting it ends that",
    responses((status = 200, body = AgentView)),
)]
async fn drain(
    State(api): Shared,
    Caller(by): Caller,
    Path(name): Path<String>,
) -> Result<Doc<AgentView>> {
    let slug = find_agent_slug(&api.work, &name)?;
    api.core.store.set_draining(slug.clone(), true, by).await?;
    let fleet = crate::insight::cell_views::fleet_doc(&api.work).await?;
    let found = fleet.agents.into_iter().find(|a| a.name == slug.as_str());
    Ok(Doc(found.ok_or_else(|| not_found("agent", slug.as_str()))?))
}

#[utoipa::path(
    get, path = "/api/v1/agents/{agent}/leftovers", operation_id = "agents_leftovers", tag = "agents",
    summary = "What a removed agent left behind",
    responses((status = 200, body = LeftoversDoc)),
)]
async fn leftovers(State(api): Shared, Path(name): Path<String>) -> Result<Doc<LeftoversDoc>> {
    let slug = parse_slug(&name)?;
    let cell = CellName::Agent(slug.clone());
    let mut left = Vec::new();
    if let Some(current) = api.core.plan.current() {
        if current.house.agents.contains_key(&slug) {
            let text = format!(
                "agent `{slug}` has not been removed; leftovers are listed only for removed agents"
            );
            return Err(Problem::new(FaultKind::Conflict, text).into());
        }
        let owner = format!("agent:{slug}");
        let held = current.registry.rows().filter(|r| r.owner == owner);
        left.extend(
            held.map(|r| format!("{} {} is still allocated to it", r.kind.name(), r.value)),
        );
    }
    let hostd = Arc::clone(&api.core.hostd);
    let owners = hostd::call_blocking(move || hostd.owners()).await?;
    if owners.contains_key(&cell) {
        left.push("hostd, the privileged helper, still reserves a user id for it".to_owned());
    }
    let backend = Arc::clone(&api.cells.backend);
    let cells = runtime::run_blocking(move || backend.list()).await;
    let cells = cells.map_err(|e| Problem::new(FaultKind::Internal, e.to_string()))??;
    if cells.contains(&cell) {
        left.push("its cell has not been removed".to_owned());
    }
    let me = Principal::Agent(slug.clone());
    let now = api.core.store.now();
    let tokens = api.core.store.tokens().await?;
    if tokens
        .iter()
        .any(|t| t.principal == me && t.expires_at.is_none_or(|e| e > now))
    {
        left.push("a credential of it is still good".to_owned());
    }
    let mine = TaskFilter {
        assignee: Some(slug.clone()),
        limit: 1000,
        ..TaskFilter::default()
    };
    let tasks = api.core.store.tasks(mine).await?;
    let open = tasks.iter().filter(|t| !t.state().is_terminal());
    Ok(Doc(LeftoversDoc {
        version: VERSION,
        agent: slug.to_string(),
        removed: hostd::archived_files(&api.core.hostd, &slug).await?,
        place: api.core.home.root().join("removed").display().to_string(),
        kept: kept(&api, &slug).await,
        tasks: open.map(|t| format!("TASK-{}", t.number)).collect(),
        leftovers: left,
    }))
}

/// What services that answer keep of a removed agent.
async fn kept(api: &Arc<ApiState>, slug: &Slug) -> Vec<KeptView> {
    let mut all = Vec::new();
    let Some(current) = api.core.plan.current() else {
        return all;
    };
    let mut left: BTreeMap<&Slug, BTreeSet<&str>> = BTreeMap::new();
    for (service, name) in current.applied.ownership.left_by(slug) {
        left.entry(service).or_default().insert(name);
    }
    for (service, names) in left {
        let Some(service) = current.house.services.get(service) else {
            continue;
        };
        let asked =
            service_consumers::query_service(&api.cells, service, &ServiceRequest::State {}).await;
        let Ok(ServiceReply::State { holdings, .. }) = asked else {
            continue;
        };
        let holdings = holdings.into_iter();
        for held in holdings.filter(|h| names.contains(h.name.as_str())) {
            let until = held.closed_ms.filter(|_| !held.open);
            all.push(KeptView {
                service: service.slug.to_string(),
                name: held.name,
                until: until.map(|since| Time(Timestamp(since) + service.grace)),
            });
        }
    }
    all
}
