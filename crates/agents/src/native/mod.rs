//! The native agent: waits for work, claims it, does it by skill or by model, and reports.
//!
//! It runs inside the cell and talks only to the inside door, with its own credential.

mod document;
mod files;
mod gate;
mod model;
mod prompt;
mod servers;
mod session;
mod tools;
mod work;

use abbey_api::client::{AgentClient, Endpoint, Error};
use abbey_api::headers::Lease;
use abbey_api::{
    ClaimBody, ClaimDoc, CompleteBody, FailBody, LeaseDoc, NextQuery, OfferDoc, RenewBody,
    RunFactsView,
};
use abbey_model::{FaultKind, Secret};
use abbey_support::retry::Backoff;
use serde_json::json;
use session::Session;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use work::{Ending, Work};

/// Longest wait for an offer in one request.
const POLL: Duration = Duration::from_secs(25);
/// Longest outage of the house that a run waits out.
const OUTAGE_MAX: Duration = Duration::from_secs(60);
/// Pause after a failed exchange: first and longest.
const RETRY: Backoff = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(5);

/// Why the agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A variable of the cell's environment is missing.
    #[error("the environment has no `{0}`; a native agent is started by its cell")]
    Environment(&'static str),
    /// The credential cannot be read.
    #[error("the credential `{path}` cannot be read")]
    Token {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The session cannot be written.
    #[error("the session cannot be written")]
    Session(#[source] io::Error),
}

/// A client for the inside door, from the cell's environment.
///
/// # Errors
/// [`StartError`] when the environment is not that of a cell.
pub fn door_client() -> Result<AgentClient, StartError> {
    let url = std::env::var("ABBEY_URL").map_err(|_| StartError::Environment("ABBEY_URL"))?;
    let path = PathBuf::from(
        std::env::var("ABBEY_TOKEN_FILE")
            .map_err(|_| StartError::Environment("ABBEY_TOKEN_FILE"))?,
    );
    let token =
        std::fs::read_to_string(&path).map_err(|source| StartError::Token { path, source })?;
    let address = url
        .trim_start_matches("http://")
        .trim_end_matches('/')
        .to_owned();
    Ok(AgentClient::new(
        Endpoint::Tcp(address),
        Some(Secret::new(token.trim())),
    ))
}

/// Longest wait for a result to be taken.
const RESULT_WITHIN: Duration = Duration::from_secs(3600);

/// Runs until the process is ended.
///
/// # Errors
/// [`StartError`]; later failures are waited out.
pub async fn run() -> Result<(), StartError> {
    let client = Arc::new(door_client()?);
    let home = std::env::var("HOME").map_err(|_| StartError::Environment("HOME"))?;
    let session = Session::open(&PathBuf::from(home)).map_err(StartError::Session)?;
    let session = Arc::new(tokio::sync::Mutex::new(session));
    let me = patiently("read my configuration", || client.me().show()).await;
    let mut config = me.config;
    announce();
    say(&format!("{} is ready in house {}", me.agent, me.house));
    loop {
        let (offer, newest) = patiently("wait for work", || next(&client, config)).await;
        if newest.is_some_and(|n| n != config) {
            let me = patiently("read my configuration", || client.me().show());
            config = me.await.config;
            say(&format!("works under configuration {config} from now on"));
        }
        let Some(offer) = offer else { continue };
        match claim(&client, &offer).await {
            Ok(claimed) => attend(&client, &session, offer, claimed).await,
            // Somebody else was faster, or it changed: the next offer is as good.
            Err(Error::Refused(problem)) if problem.status == 409 => {}
            Err(error) => {
                say(&format!("could not claim {}: {error}", offer.number));
                tokio::time::sleep(RETRY_FIRST).await;
            }
        }
    }
}

/// Tells the shim that we are up (one line on the descriptor that it named).
fn announce() {
    let fd = std::env::var("ABBEY_READY_FD")
        .ok()
        .and_then(|n| n.parse::<i32>().ok());
    if let Some(fd) = fd {
        let _no_shim = std::fs::write(format!("/proc/self/fd/{fd}"), "\n");
    }
}

/// One line for the cell's log.
fn say(text: &str) {
    use std::io::Write;
    let _log_gone = writeln!(io::stderr().lock(), "{text}");
}

/// Tries until it works: the house may be restarting.
async fn patiently<T, F: Future<Output = Result<T, Error>>>(
    what: &str,
    mut attempt: impl FnMut() -> F,
) -> T {
    let mut backoff = RETRY;
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) => {
                let delay = backoff.next_delay();
                if delay == RETRY_LONGEST {
                    say(&format!("could not {what}: {error}; trying again"));
                }
                tokio::time::sleep(delay).await;
            }
        }
    }
}

/// Reads through a restart of the house: what changes nothing is asked for again while nobody answers, for as long as
/// the lease of the run can last.
pub(crate) async fn through_restart<T, F: Future<Output = Result<T, Error>>>(
    mut attempt: impl FnMut() -> F,
) -> Result<T, Error> {
    let until = tokio::time::Instant::now() + OUTAGE_MAX;
    let mut backoff = RETRY;
    loop {
        match attempt().await {
            Err(error)
                if error.kind() == FaultKind::Unavailable
                    && tokio::time::Instant::now() < until =>
            {
                tokio::time::sleep(backoff.next_delay()).await;
            }
            outcome => return outcome,
        }
    }
}

/// An offer, if there is one, and the number of the newest configuration, if the house says it.
async fn next(client: &AgentClient, config: u64) -> Result<(Option<OfferDoc>, Option<u64>), Error> {
    let query = NextQuery {
        wait_ms: u64::try_from(POLL.as_millis()).ok(),
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

/// Works under a lease. Renewal runs beside the work; a refused renewal ends the work at once.
async fn attend(
    client: &Arc<AgentClient>,
    session: &Arc<tokio::sync::Mutex<Session>>,
    offer: OfferDoc,
    claimed: ClaimDoc,
) {
    let number = offer.number.clone();
    let lease = claimed.lease.clone();
    let right = Lease(lease.token);
    let mut session = session.lock().await;
    let start = session.position();
    session.append(
        &json!({ "event": "run_begin", "task": number, "run": claimed.run, "text": offer.text }),
    );
    let begun = RenewBody {
        facts: RunFactsView {
            session_start: Some(start),
            ..RunFactsView::default()
        },
    };
    if let Err(error) = client.me().renew(&claimed.task, &begun, right).await {
        say(&format!("{number}: {error}"));
        return;
    }
    let mut work = Work {
        client: Arc::clone(client),
        offer,
        run: claimed.run.clone(),
        right: tools::Right {
            task: claimed.task.clone(),
            lease: lease.token,
        },
        facts: RunFactsView::default(),
    };
    let ending = tokio::select! {
        ending = work.perform(&mut session) => Some(ending),
        () = keep(client, &claimed.task, &lease) => None,
    };
    let Some(ending) = ending else {
        session.append(&json!({ "event": "run_lost", "run": claimed.run }));
        say(&format!(
            "{number}: the lease was lost; the work is dropped"
        ));
        return;
    };
    session.append(&json!({ "event": "run_end", "run": claimed.run, "ending": ending.summary() }));
    session.sync();
    let mut facts = std::mem::take(&mut work.facts);
    facts.session_start = Some(start);
    facts.session_end = Some(session.position());
    let by_files = work.offer.files.is_some();
    let result = match ending {
        Ending::Done { text, source, data } => Ok(CompleteBody {
            text,
            source,
            data,
            facts,
        }),
        Ending::Waits { text } => {
            say(&format!("{number}: {text}"));
            return;
        }
        Ending::Failed { reason, text } => Err(FailBody {
            reason,
            text,
            facts,
        }),
    };
    // The house may look at evidence first, for as long as that takes.
    let client = AgentClient::clone(client).timeout(RESULT_WITHIN);
    // The house may be restarting: the result is offered until it is taken or refused.
    let mut backoff = RETRY;
    loop {
        let taken = match &result {
            Ok(done) => client.me().complete(&claimed.task, done, right).await,
            Err(failed) => client.me().fail(&claimed.task, failed, right).await,
        };
        match taken {
            Ok(_) => {
                if by_files {
                    files::settled(&number, &claimed.run);
                }
                return;
            }
            Err(error) if error.kind() == FaultKind::Unavailable => {
                tokio::time::sleep(backoff.next_delay()).await;
            }
            Err(error) => {
                say(&format!("{number}: the result was not taken: {error}"));
                return;
            }
        }
    }
}

/// Renews at a third of the lease; returns when the right is gone.
async fn keep(client: &AgentClient, task: &str, lease: &LeaseDoc) {
    let same = RenewBody {
        facts: RunFactsView::default(),
    };
    let every = Duration::from_millis(lease.ttl_ms.max(300).unsigned_abs() / 3);
    let mut failing_since: Option<tokio::time::Instant> = None;
    loop {
        tokio::time::sleep(every).await;
        match client.me().renew(task, &same, Lease(lease.token)).await {
            Ok(_) => failing_since = None,
            Err(error) if error.kind() == FaultKind::Unavailable => {
                let since = *failing_since.get_or_insert_with(tokio::time::Instant::now);
                // By our own monotonic clock the lease is surely over; stop before doing harm.
                if since.elapsed() > every * 3 {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}
