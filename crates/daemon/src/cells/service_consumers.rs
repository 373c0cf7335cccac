//! Databases and repositories of agents in stock services (S1-17 to S1-19, S2-05).
//!
//! The plan says which agent uses which service. This loop compares that with what each service
//! reports, and opens or closes access. A crash at any point is repaired by repeating, since an
//! agent's credential is on disk before the service gets it.

use crate::cells::agent_credentials::{
    SERVICE_PREFIX, parse_service_secret, service_credential_file,
};
use crate::cells::state::{AccessStates, CellsState, ConsumerStatus};
use crate::cells::{agent_credentials, exec, service_access};
use crate::core::error::{Error, Result};
use crate::core::home::generate_token;
use crate::core::hostd;
use crate::core::plan::PlanInForce;
use abbey_api::Problem;
use abbey_cells::crash;
use abbey_cells::hostd::{FileEntry, FileName, HostdOperation};
use abbey_model::{CellName, FaultKind, Millis, Principal, Slug, Timestamp};
use abbey_plan::{Service, ServiceKind};
use abbey_services::ask::{ConsumerState, ServiceReply, ServiceRequest};
use abbey_store::NewAuditEntry;
use abbey_support::retry::Backoff;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

/// Longest wait for a service's answer; some operations include a backup.
const WITHIN: Duration = Duration::from_secs(600);
/// Pauses before a failed pass is repeated.
const RETRY: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(10));
/// Time until the next pass while a manifest may still come.
const RECHECK_AFTER: Millis = Millis(1000);
/// Longest pause while nothing is due.
const IDLE: Duration = Duration::from_secs(3600);

/// What this loop has done since its start.
#[derive(Default)]
struct ConsumerProgress {
    /// Digest of the access that was opened, by service and agent.
    opened: BTreeMap<(Slug, Slug), String>,
    /// Access, by service and agent, that is opened once more though nothing of it changed.
    renewals: BTreeSet<(Slug, Slug)>,
    /// Last problem of each service, so that one cause is logged once.
    last_problems: BTreeMap<Slug, String>,
    /// Generation of the plan for which each service has opened and closed what it is to.
    settled: BTreeMap<Slug, u64>,
}

/// Opens and closes access of agents to services as the plan requires, until the control plane
/// stops.
pub(crate) async fn run_consumer_provisioning(cells: Arc<CellsState>) {
    let mut plans = cells.core.plan.subscribe();
    let mut known = ConsumerProgress::default();
    let mut backoff = RETRY;
    loop {
        let (settled, next) = provision_all_services(&cells, &mut known).await;
        let pause = match settled {
            true => {
                backoff = RETRY;
                next
            }
            false => backoff.next_delay().min(next),
        };
        tokio::select! {
            () = cells.core.rt.stopped() => return,
            changed = plans.changed() => {
                if changed.is_err() {
                    return;
                }
                backoff = RETRY;
            }
            () = cells.service_credentials_requested() => backoff = RETRY,
            () = cells.core.rt.sleep(pause) => {}
        }
    }
}

/// Makes one pass over every service; returns whether all succeeded, and the time until the next
/// grace period ends.
async fn provision_all_services(
    cells: &Arc<CellsState>,
    known: &mut ConsumerProgress,
) -> (bool, Duration) {
    let Some(current) = cells.core.plan.current() else {
        return (true, IDLE);
    };
    // At once: an agent that comes back soon is not taken for one that has its access.
    known.opened.retain(|(service, agent), _| {
        let removed = !current.house.services.contains_key(service);
        let agent = current.house.agents.get(agent);
        removed || agent.is_some_and(|a| a.uses.contains(service))
    });
    let requested = cells.take_service_credential_requests();
    for agent in current.house.agents.values() {
        if requested.contains(&agent.slug) {
            let used = agent.uses.iter();
            let used = used.map(|service| (service.clone(), agent.slug.clone()));
            known.renewals.extend(used);
        }
    }
    known.renewals.retain(|(service, agent)| {
        let agent = current.house.agents.get(agent);
        agent.is_some_and(|a| a.uses.contains(service))
    });
    publish_status(cells, known);
    let (mut settled, mut next) = (true, IDLE);
    if cells.access_states().is_none() {
        match service_access::known_access(cells).await {
            Ok(states) => cells.set_access_states(states.as_ref().clone()),
            Err(error) => {
                settled = false;
                tracing::warn!(
                    error = error.chain(),
                    "what agents had in services could not be read; retrying within 10 seconds"
                );
            }
        }
    }
    if let Err(error) = remove_credentials_of_removed_services(cells, &current, known).await {
        settled = false;
        tracing::warn!(
            error = error.chain(),
            "credentials for services that the manifest no longer has could not be removed; retrying within 10 seconds"
        );
    }
    for service in current.house.services.values() {
        if !service.kind.has_consumers() {
            continue;
        }
        match provision_service(cells, &current, service, known).await {
            Ok(due) => {
                known.last_problems.remove(&service.slug);
                let generation = current.generation;
                known.settled.insert(service.slug.clone(), generation);
                next = next.min(due);
            }
            Err(error) => {
                settled = false;
                let text = error.chain();
                let new = known.last_problems.get(&service.slug) != Some(&text);
                if new && !is_cell_not_running(&error) {
                    tracing::warn!(service = %service.slug, error = text, "access of agents to a service could not be provisioned; retrying within 10 seconds");
                }
                known.last_problems.insert(service.slug.clone(), text);
            }
        }
    }
    publish_status(cells, known);
    (settled, next)
}

fn publish_status(cells: &CellsState, known: &ConsumerProgress) {
    cells.set_consumer_status(ConsumerStatus {
        trouble: known.last_problems.clone(),
        opened: known.opened.keys().cloned().collect(),
        settled: known.settled.clone(),
    });
}

/// Removes the credentials of agents for services that the manifest no longer has, as far as this control plane opened
/// them: at its start it does so for every service of the plan in force.
async fn remove_credentials_of_removed_services(
    cells: &CellsState,
    current: &PlanInForce,
    known: &mut ConsumerProgress,
) -> Result<()> {
    let keys = known.opened.keys().cloned();
    let removed: Vec<_> = keys
        .filter(|(service, _)| !current.house.services.contains_key(service))
        .collect();
    for (service, agent) in removed {
        // With an agent that is removed as well, its files are moved away.
        if current.house.agents.contains_key(&agent) {
            write_service_credential(cells, &agent, &service, "", "").await?;
        }
        known.opened.remove(&(service, agent));
    }
    Ok(())
}

/// Whether the error only says that the service's cell is not running yet.
fn is_cell_not_running(error: &Error) -> bool {
    matches!(error, Error::Cell(abbey_cells::Error::NotRunning(_)))
}

async fn provision_service(
    cells: &Arc<CellsState>,
    current: &PlanInForce,
    service: &Service,
    known: &mut ConsumerProgress,
) -> Result<Duration> {
    let users: Vec<&Slug> = current
        .house
        .agents
        .values()
        .filter(|a| a.uses.contains(&service.slug))
        .map(|a| &a.slug)
        .collect();
    for agent in current.house.agents.keys().filter(|a| !users.contains(a)) {
        if service_credential_file(cells, agent, &service.slug).exists() {
            write_service_credential(cells, agent, &service.slug, "", "").await?;
        }
    }
    let ServiceReply::State {
        holdings,
        certificate,
    } = query_service(cells, service, &ServiceRequest::State {}).await?
    else {
        return Err(unexpected_answer(service));
    };
    change_access(cells, |states| {
        service_access::note_holdings(states, &service.slug, &holdings);
    });
    let mut outcome = Ok(());
    for agent in &users {
        let name = service.name_for(agent);
        let held = holdings.iter().find(|h| h.name == name);
        let held = (held, certificate.as_deref());
        // An agent whose home does not exist yet does not hold up the others.
        if let Err(error) = open_access(cells, current, (service, agent), held, known).await {
            outcome = Err(error);
        }
    }
    let wanted: BTreeSet<String> = users.iter().map(|a| service.name_for(a)).collect();
    let mut due = IDLE;
    for left in holdings.iter().filter(|h| !wanted.contains(&h.name)) {
        if let Some(wait) = close_or_drop_access(cells, service, left).await? {
            due = due.min(wait.to_std());
        }
    }
    outcome.map(|()| due)
}

/// Gives an agent its database or repositories in a service, unless that is known to be done.
async fn open_access(
    cells: &Arc<CellsState>,
    current: &PlanInForce,
    (service, agent): (&Service, &&Slug),
    (held, certificate): (Option<&ConsumerState>, Option<&str>),
    known: &mut ConsumerProgress,
) -> Result<()> {
    let name = service.name_for(agent);
    let key = (service.slug.clone(), (*agent).clone());
    let copy = service_credential_file(cells, agent, &service.slug);
    let copy = cells.core.home.read_text(&copy).unwrap_or_default();
    let secret = match parse_service_secret(&copy) {
        Some(secret) => secret.to_owned(),
        None => generate_token(SERVICE_PREFIX)?.expose().to_owned(),
    };
    let owner = format!("agent:{agent}");
    let subnet = abbey_plan::allocated_subnet(&current.registry, &owner);
    let reach = current.house.agents.get(*agent).and_then(|a| {
        let reaches = abbey_plan::reachable_services(&current.house, &current.registry, a, subnet);
        reaches.into_iter().find(|r| r.service == service.slug)
    });
    let Some(reach) = reach else {
        return Err(unexpected_answer(service));
    };
    let text = credential_line(service.kind, &name, reach.address, &secret);
    let trust = certificate.unwrap_or_default();
    let taken = (service.connections, service.rate, service.quota);
    let digest =
        abbey_support::digest::sha256_hex(format!("{text}\n{trust}\n{taken:?}").as_bytes());
    let is_as_planned =
        held.is_some_and(|h| h.open && h.connections == i64::from(service.connections));
    let is_current = is_as_planned && !known.renewals.contains(&key);
    if is_current && known.opened.get(&key) == Some(&digest) {
        return Ok(());
    }
    crash::point("consumer.open.begin");
    write_service_credential(cells, agent, &service.slug, &text, trust).await?;
    agent_credentials::reload_credentials(cells).await?;
    crash::point("consumer.open.brought");
    let question = ServiceRequest::Open {
        name: name.clone(),
        secret,
        connections: service.connections,
        rate: service.rate,
        bytes: service.quota.0,
    };
    query_service(cells, service, &question).await?;
    crash::point("consumer.open.end");
    if !held.is_some_and(|h| h.open) {
        let detail = json!({ "agent": agent.as_str(), "name": name, "again": held.is_some() });
        log_service_change(cells, service, "service.open", detail).await?;
    }
    known.renewals.remove(&key);
    known.opened.insert(key, digest);
    Ok(())
}

/// Closes access that no agent uses any more, and drops its data after the grace period. Returns
/// the time until then.
async fn close_or_drop_access(
    cells: &Arc<CellsState>,
    service: &Service,
    left: &ConsumerState,
) -> Result<Option<Millis>> {
    let now = cells.core.store.now();
    let name = left.name.clone();
    let since = left.closed_ms.filter(|_| !left.open);
    let Some(since) = since else {
        crash::point("consumer.close.begin");
        let question = ServiceRequest::Close {
            name: name.clone(),
            at_ms: now.0,
        };
        let done = query_service(cells, service, &question).await?;
        crash::point("consumer.close.end");
        let detail =
            json!({ "name": name, "backup": backup_path(&done), "grace_ms": service.grace.0 });
        log_service_change(cells, service, "service.close", detail).await?;
        return Ok(Some(service.grace));
    };
    let kept = now.since(Timestamp(since));
    if kept < service.grace {
        return Ok(Some(Millis(service.grace.0 - kept.0)));
    }
    // A manifest may have come while this pass was on its way with the one before.
    if cells.waits_for_manifest() || is_used(cells, service, &name) {
        return Ok(Some(RECHECK_AFTER));
    }
    crash::point("consumer.drop.begin");
    let question = ServiceRequest::Drop {
        name: name.clone(),
        at_ms: now.0,
    };
    let done = query_service(cells, service, &question).await?;
    crash::point("consumer.drop.end");
    let detail = json!({ "name": name, "backup": backup_path(&done) });
    log_service_change(cells, service, "service.drop", detail).await?;
    Ok(None)
}

/// Whether an agent of the plan that is in force at this moment has what is in a service under this name.
fn is_used(cells: &CellsState, service: &Service, name: &str) -> bool {
    let Some(current) = cells.core.plan.current() else {
        return false;
    };
    let agents = current.house.agents.values();
    let mut users = agents.filter(|a| a.uses.contains(&service.slug));
    let service = current.house.services.get(&service.slug);
    service.is_some_and(|service| users.any(|a| service.name_for(&a.slug) == name))
}

fn backup_path(answer: &ServiceReply) -> Option<&str> {
    match answer {
        ServiceReply::Done { backup, .. } => backup.as_deref(),
        ServiceReply::State { .. } | ServiceReply::Failed { .. } => None,
    }
}

async fn log_service_change(
    cells: &CellsState,
    service: &Service,
    action: &str,
    detail: serde_json::Value,
) -> Result<()> {
    let note = NewAuditEntry {
        actor: Principal::House,
        action: action.to_owned(),
        entity: CellName::Service(service.slug.clone()).to_string(),
        detail: detail.clone(),
    };
    cells.core.store.append_audit_entry(note).await?;
    let now = cells.core.store.now();
    change_access(cells, |states| {
        service_access::note_change(states, &service.slug, (action, &detail), now);
    });
    Ok(())
}

/// Changes what is known of the access of agents, once it was read.
fn change_access(cells: &CellsState, change: impl FnOnce(&mut AccessStates)) {
    if let Some(states) = cells.access_states() {
        let mut states = states.as_ref().clone();
        change(&mut states);
        cells.set_access_states(states);
    }
}

/// Writes an agent's credential for a service and the certificate it trusts; empty texts remove
/// them.
async fn write_service_credential(
    cells: &CellsState,
    agent: &Slug,
    service: &Slug,
    credential: &str,
    trust: &str,
) -> Result<()> {
    let entry = |name, content: &str| FileEntry {
        name,
        content: content.to_owned(),
    };
    let files = vec![
        entry(FileName::Credential(service.clone()), credential),
        entry(FileName::Trust(service.clone()), trust),
    ];
    let owner = CellName::Agent(agent.clone());
    hostd::run_operation(&cells.core.hostd, HostdOperation::Prepare { owner, files }).await
}

/// The line in which clients of this kind of service expect a credential.
fn credential_line(kind: ServiceKind, name: &str, at: SocketAddrV4, secret: &str) -> String {
    match kind {
        // Source: PostgreSQL, "The Password File".
        ServiceKind::Postgres => format!("*:*:*:{name}:{secret}\n"),
        // Source: git-credential-store(1); curl takes the same as a URL.
        ServiceKind::Git | ServiceKind::Site | ServiceKind::Tools | ServiceKind::Command => {
            format!("http://{name}:{secret}@{at}\n")
        }
    }
}

fn unexpected_answer(service: &Service) -> Error {
    let text = format!(
        "service `{}` answered in an unexpected format; its binary may be of another version, restart it with `abbey service restart`",
        service.slug
    );
    Problem::new(FaultKind::Internal, text).into()
}

/// Sends a question to a stock service by running its role in the service's cell, and returns the
/// answer.
///
/// # Errors
/// If the service is not running, fails, or answers in another format.
pub(crate) async fn query_service(
    cells: &Arc<CellsState>,
    service: &Service,
    question: &ServiceRequest,
) -> Result<ServiceReply> {
    let kind = service.kind.name();
    let mut argv = exec::own_program(service.cell)?;
    argv.extend(["role", "service", kind, "ask"].map(str::to_owned));
    let text = serde_json::to_vec(question).unwrap_or_default();
    let cell = CellName::Service(service.slug.clone());
    let answer = exec::run_with_input(cells, cell, argv, &text, WITHIN).await?;
    match serde_json::from_slice(&answer) {
        Ok(ServiceReply::Failed { why }) => {
            let text = format!("service `{}`: {why}", service.slug);
            Err(Problem::new(FaultKind::Unavailable, text).into())
        }
        Ok(answer) => Ok(answer),
        Err(_) => Err(unexpected_answer(service)),
    }
}
