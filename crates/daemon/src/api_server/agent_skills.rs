//! Skills in the agent API: names and descriptions, then the instructions of one, then its files. Each answer is limited
//! to what the caller may use (S4-13).

use crate::api_server::state::ApiState;
use crate::api_server::web::{Doc, Me, Path, Query, page_of_skills};
use crate::core::error::Result;
use crate::insight::{self_views, skill_views};
use abbey_agents::library::{list_skill_files, read_skill_file};
use abbey_agents::skill::Skill;
use abbey_api::*;
use abbey_model::{FaultKind, Slug};
use axum::Extension;
use axum::extract::State;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::sync::Arc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

type Shared = State<Arc<ApiState>>;

/// Routes of the agent API for skills.
pub(crate) fn routes() -> OpenApiRouter<Arc<ApiState>> {
    OpenApiRouter::new()
        .routes(routes!(skills))
        .routes(routes!(skills_of_colleagues))
        .routes(routes!(skill))
        .routes(routes!(skill_file))
}

#[utoipa::path(
    get, path = "/api/v1/self/skills", operation_id = "me_skills", tag = "me",
    summary = "Skills that the agent may use, or those that match a query",
    params(SkillsQuery),
    responses((status = 200, body = SkillsDoc)),
)]
async fn skills(
    State(api): Shared,
    Extension(Me(slug)): Extension<Me>,
    Query(query): Query<SkillsQuery>,
) -> Result<Doc<SkillsDoc>> {
    let current = api.core.plan.require()?;
    let agent = current.find_agent(&slug)?;
    let found = skill_views::find_skills_of_agent(&api.work, agent, query.q.as_deref());
    page_of_skills(found, &query)
}

#[utoipa::path(
    get, path = "/api/v1/self/colleagues/skills", operation_id = "me_skills_of_colleagues", tag = "me",
    summary = "Skills of other agents for which the agent may delegate tasks to them; `agents` names those",
    params(SkillsQuery),
    responses((status = 200, body = SkillsDoc)),
)]
async fn skills_of_colleagues(
    State(api): Shared,
    Extension(Me(slug)): Extension<Me>,
    Query(query): Query<SkillsQuery>,
) -> Result<Doc<SkillsDoc>> {
    let current = api.core.plan.require()?;
    let delegable = self_views::delegable_skills(&current, current.find_agent(&slug)?);
    let found = skill_views::find_skills_of_others(&api.work, &delegable, query.q.as_deref());
    page_of_skills(found, &query)
}

/// Calls `read` with a skill that the agent may use.
fn with_skill<T>(
    api: &ApiState,
    slug: &Slug,
    name: &str,
    read: impl FnOnce(&abbey_plan::Agent, &Skill) -> Result<T>,
) -> Result<T> {
    let current = api.core.plan.require()?;
    let agent = current.find_agent(slug)?;
    let skills = api.work.skills.current();
    let granted = agent.skills.iter().any(|s| s == name);
    match skills.all.get(name).filter(|_| granted) {
        Some(skill) => read(agent, skill),
        None => Err(Problem::new(
            FaultKind::NotFound,
            format!("agent `{slug}` has no skill `{name}`"),
        )
        .into()),
    }
}

fn unreadable(why: String) -> crate::core::error::Error {
    Problem::new(FaultKind::NotFound, why).into()
}

#[utoipa::path(
    get, path = "/api/v1/self/skills/{skill}", operation_id = "me_skill", tag = "me",
    summary = "Instructions of a skill that the agent may use, and its files",
    responses((status = 200, body = SkillTextDoc)),
)]
async fn skill(
    State(api): Shared,
    Extension(Me(slug)): Extension<Me>,
    Path(name): Path<String>,
) -> Result<Doc<SkillTextDoc>> {
    with_skill(&api, &slug, &name, |agent, skill| {
        let files = list_skill_files(skill).map_err(unreadable)?;
        let dir = skill_views::directory_in_cell(&api.work, agent, skill);
        let view = |f: abbey_agents::library::SkillFile| SkillFileView {
            path: f.path.display().to_string(),
            bytes: f.bytes,
            executable: f.executable,
        };
        Ok(Doc(SkillTextDoc {
            version: VERSION,
            name: skill.name.clone(),
            hash: skill.hash.clone(),
            text: skill.body.clone(),
            directory: dir.map(|dir| dir.display().to_string()),
            files: files.into_iter().map(view).collect(),
        }))
    })
}

#[utoipa::path(
    get, path = "/api/v1/self/skills/{skill}/file", operation_id = "me_skill_file", tag = "me",
    summary = "Content of one of its files",
    params(SkillFileQuery),
    responses((status = 200, body = SkillFileDoc)),
)]
async fn skill_file(
    State(api): Shared,
    Extension(Me(slug)): Extension<Me>,
    Path(name): Path<String>,
    Query(query): Query<SkillFileQuery>,
) -> Result<Doc<SkillFileDoc>> {
    with_skill(&api, &slug, &name, |_, skill| {
        let content = read_skill_file(skill, &query.path).map_err(unreadable)?;
        Ok(Doc(SkillFileDoc {
            version: VERSION,
            base64: STANDARD.encode(content),
            path: query.path,
        }))
    })
}
