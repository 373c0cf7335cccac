//! Routes with which an agent takes work: offers, claims, and what it reports under a lease.

use crate::api_server::state::ApiState;
use crate::api_server::web::{Doc, Json, Me, header_text};
use crate::api_server::web::{Path, Query};
use crate::core::error::Result;
use crate::core::plan::PlanInForce;
use crate::insight::{skill_views, task_views};
use crate::work::evidence;
use crate::work::evidence::EvidenceResult;
use crate::work::lookup::parse_task_ref;
use abbey_api::*;
use abbey_model::{EndReason, FaultKind, LeaseToken, Millis, Slug, ToolPolicy};
use abbey_store::{
    Claim, EvidenceCheck, Failure, LeaseProof, Outcome, ReportedUsage, RunFacts, TaskRow, Topic,
};
use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

type Shared = State<Arc<ApiState>>;

/// Longest wait in one request, for an offer or for the end of a subtask.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(55);

/// Most claims of a result that are stored, and the longest one in characters.
const CLAIMS_MAX: usize = 8;
const CLAIM_MAX: usize = 200;

/// Routes for an agent's own credential.
pub(crate) fn routes() -> OpenApiRouter<Arc<ApiState>> {
    OpenApiRouter::new()
        .routes(routes!(next))
        .routes(routes!(own_task))
        .routes(routes!(claim))
        .routes(routes!(renew))
        .routes(routes!(complete))
        .routes(routes!(fail))
        .routes(routes!(block))
}

/// Tools and limits of an agent, narrowed by those of a task.
pub(crate) fn policy_of(
    current: &PlanInForce,
    agent: &abbey_plan::Agent,
    task: Option<&TaskRow>,
) -> ToolPolicy {
    let mut policy = match task.and_then(|t| t.policy.as_ref()) {
        Some(narrower) => agent.tools.narrowed(narrower),
        None => agent.tools.clone(),
    };
    // A tool without anything that it could act on is not offered to the model.
    if agent.delegates.is_none() {
        policy.tools.remove(&abbey_model::Tool::Delegate);
    }
    if agent.asks.is_none() {
        policy.tools.remove(&abbey_model::Tool::Ask);
    }
    if agent.skills.is_empty() {
        policy.tools.remove(&abbey_model::Tool::SearchSkills);
    }
    let mut documents = current.house.documents.values();
    if !documents.any(|d| d.read_by(&agent.slug)) {
        policy.tools.remove(&abbey_model::Tool::Document);
    }
    // An agent that may run any program may run those of its skills. Workers of earlier releases, which run on in their
    // cells after an upgrade, know no tool of this name.
    if policy.tools.contains(&abbey_model::Tool::Shell) {
        policy.tools.remove(&abbey_model::Tool::RunSkillScript);
    }
    policy
}

/// Waits for work. The database is asked only when something changed since the last look.
#[utoipa::path(
    get, path = "/api/v1/self/next", operation_id = "me_next", tag = "me",
    summary = "Waits for work: an offer, or none; with the number of the newest configuration",
    params(NextQuery),
    responses((status = 200, body = Option<OfferDoc>)),
)]
async fn next(
    State(api): Shared,
    Extension(Me(slug)): Extension<Me>,
    Query(query): Query<NextQuery>,
) -> Result<Response> {
    let until = api.core.rt.now() + Duration::from_millis(query.wait_ms.unwrap_or(0)).min(WAIT_MAX);
    let mut work = api.core.store.subscribe(Topic::Work);
    let mut plans = api.core.plan.subscribe();
    let _asks_until_dropped = api.record_asking_for_work(&slug);
    loop {
        let version = *work.borrow_and_update();
        plans.mark_unchanged();
        let config = api.core.plan.require()?.config_generation_of(&slug);
        if let Some(said) = query.config {
            api.work.acknowledge_config(&slug, said);
            // A new one comes before new work.
            if said != config {
                return Ok(no_offer(config));
            }
        }
        if !api.has_no_offer_at(&slug, version) {
            let offers = api.core.store.offers(slug.clone(), 1).await?;
            if let Some(task) = offers.first() {
                return Ok(Doc(offer(&api, &slug, task).await?).into_response());
            }
            api.record_no_offer(&slug, version);
        }
        tokio::select! {
            _ = work.changed() => {}
            _ = plans.changed() => {}
            () = api.core.rt.sleep_until(until) => return Ok(no_offer(config)),
            () = api.core.rt.stopped() => return Ok(no_offer(config)),
        }
    }
}

/// No work; the number of the caller's configuration goes along.
fn no_offer(config: u64) -> Response {
    (
        [(axum::http::header::ETAG, format!("\"{config}\""))],
        Doc(Value::Null),
    )
        .into_response()
}

async fn offer(api: &ApiState, slug: &Slug, task: &TaskRow) -> Result<OfferDoc> {
    let current = api.core.plan.require()?;
    let agent = current.find_agent(slug)?;
    let skills = api.work.skills.current();
    let skill = task
        .route
        .skill
        .as_ref()
        .and_then(|name| skills.all.get(name));
    Ok(OfferDoc {
        version: VERSION,
        task: task.id.to_string(),
        number: format!("TASK-{}", task.number),
        text: task.text.clone(),
        revision: task.version,
        snapshot: api.core.store.audit_head(),
        skill: skill
            .map(|s| skill_views::skill_of_agent(&api.work, agent, s, Some(task.route.score))),
        suggested_skills: task
            .route
            .suggested
            .iter()
            .filter(|name| agent.skills.contains(name))
            .cloned()
            .collect(),
        args: task.route.args.clone(),
        model: agent.model.as_ref().map(ToString::to_string),
        policy: serde_json::to_value(policy_of(&current, agent, Some(task))).unwrap_or_default(),
        trace: api.work.traces.trace_of_task(task),
        failure: task.failure.clone(),
        files: agent.files.clone(),
        charter_hash: abbey_support::digest::sha256_hex(current.charter_of(slug).as_bytes()),
        // Only a task that ran before can have asked for anything.
        approvals: match task.attempts {
            0 => Vec::new(),
            _ => crate::work::approvals::decided_approvals_of_task(&api.work, task.number).await?,
        },
        expects: task
            .link
            .as_ref()
            .map(|l| l.expects.clone())
            .unwrap_or_default(),
        data: task
            .link
            .as_ref()
            .map(|l| l.data.clone())
            .unwrap_or_default(),
        evidence: task
            .link
            .iter()
            .flat_map(|l| &l.evidence)
            .map(ToString::to_string)
            .collect(),
    })
}

/// A task whose newest run is the caller's; any other is reported as not found, also when it exists.
#[utoipa::path(
    get, path = "/api/v1/self/tasks/{task}", operation_id = "me_task", tag = "me",
    summary = "A task that the agent works on, or was the last to work on, with its runs",
    responses((status = 200, body = TaskDoc)),
)]
async fn own_task(
    State(api): Shared,
    Extension(Me(slug)): Extension<Me>,
    Path(name): Path<String>,
) -> Result<Doc<TaskDoc>> {
    let row = api.core.store.task(parse_task_ref(&name)?).await?;
    let mut doc = task_views::task_doc(&api.work, row).await?;
    let newest = doc.task.runs.last();
    if newest.is_none_or(|run| run.agent != slug.as_str()) {
        let text = format!("this agent was not the last to work on a task `{name}`");
        return Err(Problem::new(FaultKind::NotFound, text).into());
    }
    doc.task.runs.retain(|run| run.agent == slug.as_str());
    Ok(Doc(doc))
}

#[utoipa::path(
    post, path = "/api/v1/self/tasks/{task}/claim", operation_id = "me_claim", tag = "me",
    summary = "Claims an offered task",
    responses((status = 200, body = ClaimDoc)),
)]
async fn claim(
    State(api): Shared,
    Extension(Me(slug)): Extension<Me>,
    Path(name): Path<String>,
    Json(body): Json<ClaimBody>,
) -> Result<Doc<ClaimDoc>> {
    let task = parse_task_ref(&name)?;
    let current = api.core.plan.require()?;
    let agent = current.find_agent(&slug)?;
    let model = agent.model.as_ref().map(ToString::to_string);
    let generation = api
        .cells
        .observations
        .snapshot()
        .get(&abbey_model::CellName::Agent(slug.clone()))
        .map(|s| s.history.generation)
        .unwrap_or_default();
    let claim = Claim {
        task,
        agent: slug.clone(),
        generation,
        ttl: api.work.lease_ttl,
        wall: Millis(agent.tools.wall_ms_max),
        runs_max: agent.max_concurrent_runs,
        seen: body.revision,
        configured_model: model.clone(),
        effective_model: model,
        charter_hash: Some(abbey_support::digest::sha256_hex(
            current.charter_of(&slug).as_bytes(),
        )),
    };
    let claimed = match api.core.store.claim(claim).await {
        // It can't begin now: admission finds out until when, and nobody is offered it before.
        Err(error @ (abbey_store::Error::Budget(_) | abbey_store::Error::MustWait(_))) => {
            let row = api.core.store.task(task).await?;
            api.work.readmit_task(&row).await?;
            return Err(error.into());
        }
        claimed => claimed?,
    };
    Ok(Doc(ClaimDoc {
        version: VERSION,
        task: claimed.task.id.to_string(),
        run: claimed.run.to_string(),
        lease: LeaseDoc {
            token: claimed.lease.token.0,
            ttl_ms: claimed.lease.ttl.0,
        },
    }))
}

/// The right that a request claims to have, with the name from the credential.
pub(crate) fn lease_proof(api: &ApiState, slug: Slug, headers: &HeaderMap) -> Result<LeaseProof> {
    let token = header_text(headers, "abbey-lease")
        .and_then(|t| t.parse().ok())
        .ok_or_else(|| {
            Problem::new(
                FaultKind::Invalid,
                "the header `Abbey-Lease` is missing; send the lease token that claiming the task returned",
            )
        })?;
    Ok(LeaseProof {
        agent: slug,
        token: LeaseToken(token),
        ttl: api.work.lease_ttl,
    })
}

/// Claims of a run within the bounds of what is stored about it.
fn bounded_claims(claims: Vec<String>) -> Vec<String> {
    let short = |claim: String| claim.chars().take(CLAIM_MAX).collect();
    claims.into_iter().take(CLAIMS_MAX).map(short).collect()
}

fn facts_of(facts: RunFactsView) -> RunFacts {
    RunFacts {
        prompt_hash: facts.prompt_hash,
        skill_hash: facts.skill_hash,
        session_start: facts.session_start,
        session_end: facts.session_end,
        receipts: facts.receipts,
        flagged: facts.flagged,
        claims: facts.claims.map(bounded_claims),
        reported_usage: facts.reported_usage.map(|u| ReportedUsage {
            input: u.input,
            output: u.output,
            cached: u.cached,
        }),
    }
}

#[utoipa::path(
    post, path = "/api/v1/self/tasks/{task}/renew", operation_id = "me_renew", tag = "me",
    summary = "Renews the lease",
    params(headers::Lease),
    responses((status = 200, body = LeaseDoc)),
)]
async fn renew(
    State(api): Shared,
    Extension(Me(slug)): Extension<Me>,
    Path(name): Path<String>,
    headers: HeaderMap,
    Json(body): Json<RenewBody>,
) -> Result<Doc<LeaseDoc>> {
    let hold = lease_proof(&api, slug, &headers)?;
    let lease = api
        .core
        .store
        .renew(parse_task_ref(&name)?, hold, facts_of(body.facts))
        .await?;
    Ok(Doc(LeaseDoc {
        token: lease.token.0,
        ttl_ms: lease.ttl.0,
    }))
}

#[utoipa::path(
    post, path = "/api/v1/self/tasks/{task}/complete", operation_id = "me_complete", tag = "me",
    summary = "Completes the task",
    params(headers::Lease),
    responses((status = 200, body = TaskDoc)),
)]
async fn complete(
    State(api): Shared,
    Extension(Me(slug)): Extension<Me>,
    Path(name): Path<String>,
    headers: HeaderMap,
    Json(body): Json<CompleteBody>,
) -> Result<Doc<TaskDoc>> {
    let hold = lease_proof(&api, slug, &headers)?;
    let limit = usize::try_from(ToolPolicy::default().output_bytes_max).unwrap_or(usize::MAX);
    if body.text.len() > limit {
        return Err(Problem::new(
            FaultKind::TooLarge,
            format!("the result is too long; it may have at most {limit} bytes"),
        )
        .into());
    }
    let outcome = Outcome {
        text: body.text,
        source: body.source,
        data: body.data,
    };
    let (task, facts) = (parse_task_ref(&name)?, facts_of(body.facts));
    let row = api.core.store.task(task).await?;
    let declared = row.link.as_ref().map_or(&[][..], |l| &l.evidence);
    let mut checked = EvidenceCheck::NotRun;
    if !declared.is_empty() {
        let looked = evidence::verify_while_renewing_lease(
            &api.work,
            task,
            &hold,
            (declared, &outcome.text),
        );
        checked = match looked.await? {
            EvidenceResult::Holds => EvidenceCheck::Holds,
            EvidenceResult::Unknown(why) => {
                tracing::warn!(task = %task, why, "evidence could not be verified");
                EvidenceCheck::Unknown(why)
            }
            EvidenceResult::Missing(text) => {
                let failure = Failure {
                    reason: EndReason::EvidenceFailed,
                    text,
                };
                let row = api.core.store.fail(task, hold, failure, facts).await?;
                return Ok(Doc(task_views::task_doc(&api.work, row).await?));
            }
        };
    }
    let row = api
        .core
        .store
        .complete(task, hold, (outcome, checked), facts);
    let row = row.await?;
    Ok(Doc(TaskDoc {
        version: VERSION,
        task: task_views::task_view(&api.work, &row, Vec::new()),
    }))
}

#[utoipa::path(
    post, path = "/api/v1/self/tasks/{task}/fail", operation_id = "me_fail", tag = "me",
    summary = "Reports that the run failed",
    params(headers::Lease),
    responses((status = 200, body = TaskDoc)),
)]
async fn fail(
    State(api): Shared,
    Extension(Me(slug)): Extension<Me>,
    Path(name): Path<String>,
    headers: HeaderMap,
    Json(body): Json<FailBody>,
) -> Result<Doc<TaskDoc>> {
    let hold = lease_proof(&api, slug, &headers)?;
    let failure = Failure {
        reason: body.reason,
        text: body.text,
    };
    let row = api
        .core
        .store
        .fail(parse_task_ref(&name)?, hold, failure, facts_of(body.facts))
        .await?;
    Ok(Doc(TaskDoc {
        version: VERSION,
        task: task_views::task_view(&api.work, &row, Vec::new()),
    }))
}

#[utoipa::path(
    post, path = "/api/v1/self/tasks/{task}/block", operation_id = "me_block", tag = "me",
    summary = "Waits for a named person or agent",
    params(headers::Lease),
    responses((status = 200, body = TaskDoc)),
)]
async fn block(
    State(api): Shared,
    Extension(Me(slug)): Extension<Me>,
    Path(name): Path<String>,
    headers: HeaderMap,
    Json(body): Json<BlockBody>,
) -> Result<Doc<TaskDoc>> {
    let hold = lease_proof(&api, slug, &headers)?;
    if body.on.trim().is_empty() {
        return Err(Problem::new(
            FaultKind::Invalid,
            "`on` is empty; write what must happen before the task can continue",
        )
        .into());
    }
    let row = api
        .core
        .store
        .block_task(parse_task_ref(&name)?, hold, body.on, body.why)
        .await?;
    Ok(Doc(TaskDoc {
        version: VERSION,
        task: task_views::task_view(&api.work, &row, Vec::new()),
    }))
}
