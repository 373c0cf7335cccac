//! Operator routes that save agents as templates and remove those.

use crate::api_server::access::Caller;
use crate::api_server::state::ApiState;
use crate::api_server::web::{Doc, Json, Path};
use crate::cells::exec;
use crate::core::error::{Error, Result};
use crate::core::runtime;
use crate::core::saved_templates::{self, NewTemplate, SavedTemplate};
use crate::work::lookup::{find_agent_slug, parse_slug};
use abbey_api::{Problem, RemovedTemplateDoc, SaveTemplateBody, SavedTemplateDoc, Time, VERSION};
use abbey_cells::hostd::{HostdOperation, HostdReply};
use abbey_model::{CellKind, FaultKind, Slug};
use abbey_plan::{Likeness, Mistake, edit, remove_own_keys, templates};
use abbey_store::NewAuditEntry;
use axum::extract::State;
use serde_json::json;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

type Shared = State<Arc<ApiState>>;

/// Operator routes of saved templates.
pub(crate) fn routes() -> OpenApiRouter<Arc<ApiState>> {
    OpenApiRouter::new()
        .routes(routes!(save))
        .routes(routes!(remove))
}

#[utoipa::path(
    post, path = "/api/v1/templates/{template}", operation_id = "templates_save", tag = "templates",
    summary = "Saves an agent as a template: its manifest entry, charter, home and workspace",
    responses((status = 200, body = SavedTemplateDoc)),
)]
async fn save(
    State(api): Shared,
    Caller(by): Caller,
    Path(name): Path<String>,
    Json(body): Json<SaveTemplateBody>,
) -> Result<Doc<SavedTemplateDoc>> {
    let name: Slug = name
        .parse()
        .map_err(|e: abbey_model::SlugError| Problem::new(FaultKind::Invalid, e.to_string()))?;
    if templates::find(name.as_str()).is_some() {
        let text = format!("`{name}` is a built-in template, which cannot be replaced");
        let problem = Problem::new(FaultKind::Conflict, text);
        return Err(problem.remedy("choose another name").into());
    }
    let slug = find_agent_slug(&api.work, &body.agent)?;
    let current = api.core.plan.current();
    let current =
        current.ok_or_else(|| Problem::new(FaultKind::NotFound, "there is no plan yet"))?;
    let Some(agent) = current.house.agents.get(&slug) else {
        let text = format!("there is no agent `{slug}`");
        return Err(Problem::new(FaultKind::NotFound, text).into());
    };
    let taken = || {
        let text = format!("template `{name}` exists already");
        let remedy = "`--replace` replaces it; agents made from it stay as they are";
        Error::from(Problem::new(FaultKind::Conflict, text).remedy(remedy))
    };
    let _one_at_a_time = api.saving_template.lock().await;
    let there = saved_templates::open_saved_template(&api.core.home, &name).is_ok();
    if there && !body.replace {
        return Err(taken());
    }
    let entry = entry_to_save(&current.manifest, &slug, agent).map_err(|m| {
        let text: Vec<String> = m.iter().map(ToString::to_string).collect();
        Problem::new(FaultKind::Conflict, text.join("; "))
    })?;
    let about = SavedTemplate {
        version: VERSION,
        name: name.clone(),
        agent: slug.clone(),
        role: agent.role.clone(),
        cell: agent.cell.to_string(),
        skills: agent.skills.clone(),
        at: Time(api.core.store.now()),
        entry,
        charter: current.charter_of(&slug).to_owned(),
    };
    let (out, to) = exec::create_pipe()?;
    let (state, owner) = (Arc::clone(&api), slug.clone());
    let packing = runtime::run_blocking(move || {
        let asked = HostdOperation::Pack {
            owner: Some(owner),
            services: false,
        };
        state.core.hostd.call(asked, &[to.as_fd()])
    });
    let state = Arc::clone(&api);
    let writing = runtime::run_blocking(move || {
        let new = NewTemplate::create(&state.core.home, &about.name)?;
        let secret = |text: &str| state.core.secrets.is_in(text);
        let left_out = new.write(&about, io::BufReader::new(std::fs::File::from(out)), secret)?;
        Ok::<_, Error>((new, left_out))
    });
    let lost = |e: tokio::task::JoinError| Problem::new(FaultKind::Internal, e.to_string());
    let (new, mut left_out) = writing.await.map_err(lost)??;
    // The archive ends where hostd failed, so it counts only once that has not.
    if let HostdReply::Packed {
        left_out: unpacked,
        incomplete,
    } = packing.await.map_err(lost)??
    {
        let prefix = format!("agents/{slug}");
        let below = |line: String| {
            let below = line.strip_prefix(&prefix).unwrap_or(&line);
            below.trim_start_matches(['/', ':', ' ']).to_owned()
        };
        left_out.extend(unpacked.into_iter().map(below));
        left_out.extend(incomplete);
    }
    let place = api.core.home.templates_dir();
    let bytes = match new.publish(body.replace) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(taken()),
        published => published.map_err(Error::file("publish a template in", place))?,
    };
    let note = NewAuditEntry {
        actor: by,
        action: "template.save".to_owned(),
        entity: format!("template-{name}"),
        detail: json!({ "agent": slug, "bytes": bytes, "replaced": there }),
    };
    api.core.store.append_audit_entry(note).await?;
    Ok(Doc(SavedTemplateDoc {
        version: VERSION,
        name: name.to_string(),
        agent: slug.to_string(),
        bytes,
        left_out,
    }))
}

/// Manifest entry for agents made like `agent`. What its files depend on is written out, whatever the defaults are then.
fn entry_to_save(
    manifest: &str,
    slug: &Slug,
    agent: &abbey_plan::Agent,
) -> std::result::Result<Vec<String>, Vec<Mistake>> {
    let lines = edit::agent_entry(manifest, slug)?;
    let mut text = edit::add_entry("version: 1\n", slug, &lines)?;
    text = remove_own_keys(&text, slug, Likeness::Template)?;
    text = edit::set_key(&text, slug, "cell", &agent.cell.to_string())?;
    if agent.cell == CellKind::Microvm {
        text = edit::set_key(&text, slug, "image", &agent.image)?;
    }
    edit::agent_entry(&text, slug)
}

#[utoipa::path(
    post, path = "/api/v1/templates/{template}/remove", operation_id = "templates_remove", tag = "templates",
    summary = "Removes a saved template; agents made from it stay",
    responses((status = 200, body = RemovedTemplateDoc)),
)]
async fn remove(
    State(api): Shared,
    Caller(by): Caller,
    Path(name): Path<String>,
) -> Result<Doc<RemovedTemplateDoc>> {
    let name = parse_slug(&name)?;
    saved_templates::remove_saved_template(&api.core.home, &name)?;
    let note = NewAuditEntry {
        actor: by,
        action: "template.remove".to_owned(),
        entity: format!("template-{name}"),
        detail: json!({}),
    };
    api.core.store.append_audit_entry(note).await?;
    Ok(Doc(RemovedTemplateDoc {
        version: VERSION,
        name: name.to_string(),
    }))
}
