//! What belongs to agents in services: a database, a place for repositories (S1-17 to S1-19, S2-05).
//!
//! There is one way to have it: the plan says who uses what. This loop compares that with what each service itself
//! says, and acts; a crash anywhere in it is repaired by doing it again, as an agent's credential is on disk before the
//! service is told of it.

use crate::cells::agent_credentials::{SERVICE_PREFIX, own_copy, secret_in};
use crate::cells::state::CellsState;
use crate::cells::{agent_credentials, exec};
use crate::core::error::{Error, Result};
use crate::core::home::new_token;
use crate::core::hostd;
use crate::core::plan::PlanInForce;
use abbey_api::Problem;
use abbey_cells::crash;
use abbey_cells::hostd::{FileEntry, FileName, Operation};
use abbey_model::{CellKind, CellName, FaultKind, Millis, Principal, Slug, Timestamp};
use abbey_plan::{Service, ServiceKind};
use abbey_services::ask::{Answer, Holding, Question};
use abbey_store::NewAuditEntry;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddrV4;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Time for a service to answer; a backup of what a consumer left is part of some answers.
const WITHIN: Duration = Duration::from_secs(600);
/// How long what could not be done waits, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// Longest sleep while nothing is due.
const IDLE: Duration = Duration::from_secs(3600);

/// What this loop has seen done since it began: digests of credentials by service and agent.
#[derive(Default)]
struct Known {
    given: BTreeMap<(Slug, Slug), String>,
    /// Last problem of each service, so that one cause is logged once.
    trouble: BTreeMap<Slug, String>,
}

/// Compares and acts until the house stops.
pub(crate) async fn run(cells: Arc<CellsState>) {
    let mut plans = cells.core.plan.subscribe();
    let mut known = Known::default();
    let mut again = AGAIN.0;
    loop {
        let (settled, next) = pass(&cells, &mut known).await;
        let pause = match settled {
            true => {
                again = AGAIN.0;
                next
            }
            false => {
                again = (again * 2).min(AGAIN.1);
                again.min(next)
            }
        };
        tokio::select! {
            () = cells.core.rt.stopped() => return,
            changed = plans.changed() => {
                if changed.is_err() {
                    return;
                }
                again = AGAIN.0;
            }
            () = cells.core.rt.sleep(pause) => {}
        }
    }
}

/// Whether everything is as it should be, and when something is due that is not yet.
async fn pass(cells: &Arc<CellsState>, known: &mut Known) -> (bool, Duration) {
    let Some(current) = cells.core.plan.current() else {
        return (true, IDLE);
    };
    let (mut settled, mut next) = (true, IDLE);
    for service in current.house.services.values() {
        if !service.kind.has_consumers() {
            continue;
        }
        match settle(cells, &current, service, known).await {
            Ok(due) => {
                known.trouble.remove(&service.slug);
                next = next.min(due);
            }
            Err(error) => {
                settled = false;
                let text = error.chain();
                let new = known.trouble.get(&service.slug) != Some(&text);
                if new && !not_up(&error) {
                    tracing::warn!(service = %service.slug, error = text, "what belongs to agents in a service could not be settled");
                }
                known.trouble.insert(service.slug.clone(), text);
            }
        }
    }
    cells.set_consumer_problems(known.trouble.clone());
    (settled, next)
}

/// A service that starts is no trouble.
fn not_up(error: &Error) -> bool {
    matches!(error, Error::Cell(abbey_cells::Error::NotRunning(_)))
}

async fn settle(
    cells: &Arc<CellsState>,
    current: &PlanInForce,
    service: &Service,
    known: &mut Known,
) -> Result<Duration> {
    let users: Vec<&Slug> = current
        .house
        .agents
        .values()
        .filter(|a| a.uses.contains(&service.slug))
        .map(|a| &a.slug)
        .collect();
    for agent in current.house.agents.keys().filter(|a| !users.contains(a)) {
        known.given.remove(&(service.slug.clone(), agent.clone()));
        if own_copy(cells, agent, &service.slug).exists() {
            bring(cells, agent, &service.slug, "", "").await?;
        }
    }
    let Answer::State {
        holdings,
        certificate,
    } = ask(cells, service, &Question::State {}).await?
    else {
        return Err(unexpected(service));
    };
    let mut outcome = Ok(());
    for agent in &users {
        let name = service.name_for(agent);
        let held = holdings.iter().find(|h| h.name == name);
        let held = (held, certificate.as_deref());
        // One whose home is not there yet keeps nothing from the others.
        if let Err(error) = open(cells, current, (service, agent), held, known).await {
            outcome = Err(error);
        }
    }
    let wanted: BTreeSet<String> = users.iter().map(|a| service.name_for(a)).collect();
    let mut due = IDLE;
    for left in holdings.iter().filter(|h| !wanted.contains(&h.name)) {
        if let Some(wait) = leave(cells, service, left).await? {
            due = due.min(wait.to_std());
        }
    }
    outcome.map(|()| due)
}

/// Gives an agent its place, unless it is known to have it.
async fn open(
    cells: &Arc<CellsState>,
    current: &PlanInForce,
    (service, agent): (&Service, &&Slug),
    (held, certificate): (Option<&Holding>, Option<&str>),
    known: &mut Known,
) -> Result<()> {
    let name = service.name_for(agent);
    let key = (service.slug.clone(), (*agent).clone());
    let copy = fs::read_to_string(own_copy(cells, agent, &service.slug)).unwrap_or_default();
    let secret = match secret_in(&copy) {
        Some(secret) => secret.to_owned(),
        None => new_token(SERVICE_PREFIX)?.expose().to_owned(),
    };
    let owner = format!("agent:{agent}");
    let subnet = abbey_plan::subnet(&current.registry, &owner);
    let reach = current.house.agents.get(*agent).and_then(|a| {
        let reaches = abbey_plan::reaches(&current.house, &current.registry, a, subnet);
        reaches.into_iter().find(|r| r.service == service.slug)
    });
    let Some(reach) = reach else {
        return Err(unexpected(service));
    };
    let text = line_of(service.kind, &name, reach.at, &secret);
    let trust = certificate.unwrap_or_default();
    let taken = (service.connections, service.rate, service.quota);
    let digest =
        abbey_support::digest::sha256_hex(format!("{text}\n{trust}\n{taken:?}").as_bytes());
    let as_it_should =
        held.is_some_and(|h| h.open && h.connections == i64::from(service.connections));
    if as_it_should && known.given.get(&key) == Some(&digest) {
        return Ok(());
    }
    crash::point("consumer.open.begin");
    bring(cells, agent, &service.slug, &text, trust).await?;
    agent_credentials::refresh_keys(cells).await?;
    crash::point("consumer.open.brought");
    let question = Question::Open {
        name: name.clone(),
        secret,
        connections: service.connections,
        rate: service.rate,
        bytes: service.quota.0,
    };
    ask(cells, service, &question).await?;
    crash::point("consumer.open.end");
    if !held.is_some_and(|h| h.open) {
        let detail = json!({ "agent": agent.as_str(), "name": name, "again": held.is_some() });
        note(cells, service, "service.open", detail).await?;
    }
    known.given.insert(key, digest);
    Ok(())
}

/// Keeps out who uses it no more; after the time of grace, what was left goes. The wait until then.
async fn leave(
    cells: &Arc<CellsState>,
    service: &Service,
    left: &Holding,
) -> Result<Option<Millis>> {
    let now = cells.core.store.now();
    let name = left.name.clone();
    let since = left.closed_ms.filter(|_| !left.open);
    let Some(since) = since else {
        crash::point("consumer.close.begin");
        let question = Question::Close {
            name: name.clone(),
            at_ms: now.0,
        };
        let done = ask(cells, service, &question).await?;
        crash::point("consumer.close.end");
        let detail = json!({ "name": name, "backup": copy_of(&done), "grace_ms": service.grace.0 });
        note(cells, service, "service.close", detail).await?;
        return Ok(Some(service.grace));
    };
    let kept = now.since(Timestamp(since));
    if kept < service.grace {
        return Ok(Some(Millis(service.grace.0 - kept.0)));
    }
    crash::point("consumer.drop.begin");
    let question = Question::Drop {
        name: name.clone(),
        at_ms: now.0,
    };
    let done = ask(cells, service, &question).await?;
    crash::point("consumer.drop.end");
    let detail = json!({ "name": name, "backup": copy_of(&done) });
    note(cells, service, "service.drop", detail).await?;
    Ok(None)
}

fn copy_of(answer: &Answer) -> Option<&str> {
    match answer {
        Answer::Done { backup, .. } => backup.as_deref(),
        Answer::State { .. } | Answer::Failed { .. } => None,
    }
}

async fn note(
    cells: &CellsState,
    service: &Service,
    action: &str,
    detail: serde_json::Value,
) -> Result<()> {
    let note = NewAuditEntry {
        actor: Principal::House,
        action: action.to_owned(),
        entity: CellName::Service(service.slug.clone()).to_string(),
        detail,
    };
    cells.core.store.append_audit_entry(note).await?;
    Ok(())
}

/// Brings an agent its credential and what it trusts; empty ones are taken away.
async fn bring(
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
    hostd::call(&cells.core.hostd, Operation::Prepare { owner, files }).await
}

/// The line in which clients of a kind look for their credential.
fn line_of(kind: ServiceKind, name: &str, at: SocketAddrV4, secret: &str) -> String {
    match kind {
        // Source: PostgreSQL, "The Password File".
        ServiceKind::Postgres => format!("*:*:*:{name}:{secret}\n"),
        // Source: git-credential-store(1); curl takes the same as a URL.
        ServiceKind::Git | ServiceKind::Site | ServiceKind::Tools | ServiceKind::Command => {
            format!("http://{name}:{secret}@{at}\n")
        }
    }
}

fn unexpected(service: &Service) -> Error {
    let text = format!("service `{}` gave another answer", service.slug);
    Problem::new(FaultKind::Internal, text).into()
}

/// Asks a stock service in its own cell.
pub(crate) async fn ask(
    cells: &Arc<CellsState>,
    service: &Service,
    question: &Question,
) -> Result<Answer> {
    let program = match service.cell {
        CellKind::Process => {
            let own = Path::new("/proc/self/exe");
            let own = fs::read_link(own).map_err(Error::file("find", own))?;
            own.display().to_string()
        }
        _ => abbey_cells::Sandbox::OWN.to_owned(),
    };
    let kind = service.kind.name();
    let argv = [&program, "role", "service", kind, "ask"].map(str::to_owned);
    let text = serde_json::to_vec(question).unwrap_or_default();
    let cell = CellName::Service(service.slug.clone());
    let answer = exec::ask(cells, cell, argv.to_vec(), &text, WITHIN).await?;
    match serde_json::from_slice(&answer) {
        Ok(Answer::Failed { why }) => {
            let text = format!("service `{}`: {why}", service.slug);
            Err(Problem::new(FaultKind::Unavailable, text).into())
        }
        Ok(answer) => Ok(answer),
        Err(_) => Err(unexpected(service)),
    }
}
