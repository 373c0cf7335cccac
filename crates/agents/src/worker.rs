//! The worker: waits for an offer, claims it, keeps the lease while a [`Driver`] does the work, and reports the result.
//!
//! ```text
//! wait for an offer ─▶ claim ─▶ begin ─▶ submit turn ──▶ complete / fail ─▶ wait …
//!                                         ├─ renew at a third of the lease
//!                                         └─ lease lost ─▶ cancel, report nothing
//! ```
//!
//! Every runtime is worked by this one loop, in the agent's cell, so leases are kept while the control plane restarts.

use crate::agent_api::{RETRY, RETRY_FIRST, RETRY_LONGEST};
use crate::lease_files::{self, HeldLease, PublishedLease};
use crate::runtime::driver::{Assignment, Driver, Events, Lease, TurnEnd};
use abbey_api::client::{AgentClient, Error};
use abbey_api::{
    ClaimBody, ClaimDoc, CompleteBody, FailBody, LeaseDoc, NextQuery, OfferDoc, RenewBody,
    RunFactsView,
};
use abbey_model::{FaultKind, HEARTBEAT_INTERVAL};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Longest wait for an offer in one request.
const OFFER_WAIT: Duration = Duration::from_secs(25);
/// Interval at which the file of a lease is looked for.
const LEASE_FILE_INTERVAL: Duration = Duration::from_secs(1);
/// Longest wait for the control plane to accept a result; it may verify evidence first.
const RESULT_WAIT: Duration = Duration::from_secs(3600);

/// Claims and performs the tasks offered to this cell's agent, one at a time with this driver;
/// never returns.
pub async fn run_worker(client: Arc<AgentClient>, driver: &mut impl Driver) -> ! {
    if let Some(home) = own_home() {
        lease_files::clear(&home);
    }
    let who_am_i = || client.me().show();
    let me = until_answered("read this agent's own description", who_am_i).await;
    let mut config = me.config;
    announce_readiness();
    log(&format!("{} is ready in house {}", me.agent, me.house));
    loop {
        let next = until_answered("wait for a task", || next_offer(&client, config));
        let (offer, newest) = next.await;
        if newest.is_some_and(|n| n != config) {
            let me = until_answered("read this agent's own description", who_am_i).await;
            config = me.config;
            log(&format!("configuration {config} is in force"));
        }
        let Some(offer) = offer else { continue };
        match claim(&client, &offer).await {
            Ok(claimed) => run_claimed_task(&client, driver, offer, claimed).await,
            // Another agent was faster, or the task changed: the next offer is as good.
            Err(Error::Refused(problem)) if problem.fault() == FaultKind::Conflict => {}
            Err(Error::Refused(problem)) if problem.fault() == FaultKind::Stale => {}
            // A budget or a provider makes it wait; the house offers it again by itself.
            Err(Error::Refused(problem)) if problem.fault() == FaultKind::Limit => {}
            Err(error) => {
                log(&format!("could not claim {}: {error}", offer.number));
                tokio::time::sleep(RETRY_FIRST).await;
            }
        }
    }
}

/// Reports readiness to the shim: one line on the descriptor that `ABBEY_READY_FD` names, and from then on one line for
/// each heartbeat. They come from the loop that does the work, so a worker that hangs sends none.
fn announce_readiness() {
    let fd = std::env::var("ABBEY_READY_FD")
        .ok()
        .and_then(|n| n.parse::<i32>().ok());
    let Some(fd) = fd else { return };
    let path = format!("/proc/self/fd/{fd}");
    tokio::spawn(async move {
        loop {
            let _no_shim = std::fs::write(&path, "\n");
            tokio::time::sleep(HEARTBEAT_INTERVAL).await;
        }
    });
}

/// Writes one line to the cell's log.
fn log(text: &str) {
    use std::io::Write;
    let _log_gone = writeln!(std::io::stderr().lock(), "{text}");
}

/// Repeats a request until it is answered: the control plane may be restarting.
async fn until_answered<T, F: Future<Output = Result<T, Error>>>(
    what: &str,
    mut request: impl FnMut() -> F,
) -> T {
    let mut backoff = RETRY;
    loop {
        match request().await {
            Ok(value) => return value,
            Err(error) => {
                let delay = backoff.next_delay();
                if delay == RETRY_LONGEST {
                    log(&format!("could not {what}: {error}; trying again"));
                }
                tokio::time::sleep(delay).await;
            }
        }
    }
}

/// Asks for an offer. Also returns the number of the newest configuration, which acknowledges `config`.
async fn next_offer(
    client: &AgentClient,
    config: u64,
) -> Result<(Option<OfferDoc>, Option<u64>), Error> {
    let query = NextQuery {
        wait_ms: u64::try_from(OFFER_WAIT.as_millis()).ok(),
        config: Some(config),
    };
    let answer = client.me().next(&query).await?;
    Ok((answer.document, answer.version))
}

async fn claim(client: &AgentClient, offer: &OfferDoc) -> Result<ClaimDoc, Error> {
    let body = ClaimBody {
        revision: Some(offer.revision),
    };
    client.me().claim(&offer.task, &body).await
}

/// Works on one task under its lease. A refused renewal ends the work at once: the task may be another worker's.
pub(crate) async fn run_claimed_task(
    client: &Arc<AgentClient>,
    driver: &mut impl Driver,
    offer: OfferDoc,
    claimed: ClaimDoc,
) {
    let assignment = Assignment {
        client: Arc::clone(client),
        offer,
        run: claimed.run,
        lease: Lease {
            task: claimed.task,
            token: claimed.lease.token,
        },
    };
    let number = assignment.offer.number.as_str();
    // For programs of the agent; the work does not need it.
    let published = publish_lease(&assignment);
    let events = Events::default();
    driver.begin(&assignment, &events);
    if let Err(error) = renew(&assignment, &events).await {
        log(&format!("{number}: could not begin the run: {error}"));
        return;
    }
    let end = tokio::select! {
        end = driver.submit_turn(&assignment, &events) => Some(end),
        () = keep_lease(&assignment, &events, claimed.lease.ttl_ms, published.is_some()) => None,
    };
    let Some(end) = end else {
        driver.cancel(&assignment).await;
        log(&format!(
            "{number}: the lease was lost; the work is abandoned"
        ));
        return;
    };
    report_end(driver, &assignment, end, events.facts()).await;
}

/// The lease of a run, as its file has it.
fn held_lease(assignment: &Assignment) -> HeldLease {
    HeldLease {
        task: assignment.lease.task.clone(),
        number: assignment.offer.number.clone(),
        token: assignment.lease.token,
    }
}

/// Makes the lease known to the programs of the agent.
fn publish_lease(assignment: &Assignment) -> Option<PublishedLease> {
    let lease = held_lease(assignment);
    let number = &assignment.offer.number;
    let published = lease_files::publish(&own_home()?, lease);
    let report = |e: std::io::Error| log(&format!("{number}: could not write the lease file: {e}"));
    published.map_err(report).ok()
}

/// Home of the agent, in which its credential is.
fn own_home() -> Option<PathBuf> {
    let token = std::env::var_os("ABBEY_TOKEN_FILE").map(PathBuf::from)?;
    token.parent().map(Path::to_owned)
}

/// Renews the lease, and reports what is known of the run.
async fn renew(assignment: &Assignment, events: &Events) -> Result<LeaseDoc, Error> {
    let body = RenewBody {
        facts: events.facts(),
    };
    let (me, lease) = (assignment.client.me(), &assignment.lease);
    me.renew(&lease.task, &body, lease.header()).await
}

/// Waits until a lease is due to be renewed, or its file, which is watched if there is one, is gone: a program of the run has
/// ended it (`abbey-agent done`). Returns whether it is still there.
async fn wait_for_renewal(
    assignment: &Assignment,
    every: Duration,
    watched: Option<&Path>,
) -> bool {
    let due = tokio::time::Instant::now() + every;
    loop {
        let next = tokio::time::Instant::now() + LEASE_FILE_INTERVAL;
        tokio::time::sleep_until(next.min(due)).await;
        if watched.is_some_and(|home| !lease_files::holds(home, &held_lease(assignment))) {
            return false;
        }
        if tokio::time::Instant::now() >= due {
            return true;
        }
    }
}

/// Renews at a third of the lease's time, and at once when its file is removed; returns when the lease is lost.
async fn keep_lease(assignment: &Assignment, events: &Events, ttl_ms: i64, published: bool) {
    let every = Duration::from_millis(ttl_ms.max(300).unsigned_abs() / 3);
    let mut failing_since: Option<tokio::time::Instant> = None;
    let mut watched = own_home().filter(|_| published);
    loop {
        if !wait_for_renewal(assignment, every, watched.as_deref()).await {
            // Whoever removed it without ending the run is told nothing new by the house.
            watched = None;
        }
        match renew(assignment, events).await {
            Ok(_) => failing_since = None,
            Err(error) if error.kind() == FaultKind::Unavailable => {
                let since = *failing_since.get_or_insert_with(tokio::time::Instant::now);
                // By this process's monotonic clock the lease has surely expired.
                if since.elapsed() > every * 3 {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}

/// Reports how the run ended, until the control plane accepts or refuses it.
async fn report_end(
    driver: &mut impl Driver,
    assignment: &Assignment,
    end: TurnEnd,
    facts: RunFactsView,
) {
    let number = assignment.offer.number.as_str();
    let result = match end {
        TurnEnd::Completed { text, source, data } => Ok(CompleteBody {
            text,
            source,
            data,
            facts,
        }),
        // The approval request has ended the run and parked the task already.
        TurnEnd::AwaitsApproval { text } => {
            log(&format!("{number}: {text}"));
            return;
        }
        TurnEnd::AlreadyEnded => return,
        TurnEnd::Failed { reason, text } => Err(FailBody {
            reason,
            text,
            facts,
        }),
    };
    let client = AgentClient::clone(&assignment.client).timeout(RESULT_WAIT);
    let (me, lease) = (client.me(), &assignment.lease);
    let mut backoff = RETRY;
    loop {
        let reported = match &result {
            Ok(body) => me.complete(&lease.task, body, lease.header()).await,
            Err(body) => me.fail(&lease.task, body, lease.header()).await,
        };
        match reported {
            Ok(_) => return driver.accepted(assignment),
            Err(error) if error.kind() == FaultKind::Unavailable => {
                tokio::time::sleep(backoff.next_delay()).await;
            }
            Err(error) => {
                log(&format!("{number}: the result was refused: {error}"));
                return;
            }
        }
    }
}
