//! Waiting until agents and services are as a command left them to be. The control plane decides what that is and when
//! waiting ends.

use crate::durations::parse_duration;
use crate::exit::{self, Failure, Outcome};
use crate::output::{Progress, print_message, print_notice};
use crate::text::{Text, Tone};
use abbey_api::client::Client;
use abbey_api::{ReadinessDoc, ReadinessQuery, ReadinessState, ReadinessView};
use abbey_model::Presence;
use clap::Args;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Longest part of a wait that is one request, which also is how long a line of progress can be old.
const REQUEST_WAIT: Duration = Duration::from_secs(5);

/// Longest time without progress in a command that waits for nothing else.
pub(crate) const PROGRESS_WITHIN: Duration = Duration::from_secs(90);

/// Whether a command waits for what it asked for, and how long.
#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// Return at once instead of waiting until what was asked for is done.
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Longest wait, and longest time without progress while a manifest is applied; what is not done by then goes on.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "90s",
        value_parser = parse_duration,
        conflicts_with = "no_wait"
    )]
    pub(crate) timeout: Duration,
}

/// What a command waits for.
#[derive(Debug, Clone)]
pub(crate) enum WaitFor {
    /// Every agent and service.
    Everything,
    /// These agents.
    Agents(Vec<String>),
    /// One service.
    Service(String),
}

impl WaitArgs {
    /// Longest wait; none if the command is not to wait.
    pub(crate) fn patience(&self) -> Option<Duration> {
        (!self.no_wait).then_some(self.timeout)
    }

    /// Longest time without progress in what comes before the wait.
    pub(crate) fn progress_within(&self) -> Duration {
        self.patience().unwrap_or(PROGRESS_WITHIN)
    }

    /// Waits for this if the command is to wait, and prints what is not as desired and why. Exit code 7 if anything
    /// is not.
    pub(crate) async fn wait(&self, client: &Client, what: WaitFor) -> Outcome {
        match self.patience() {
            None => Ok(exit::OK),
            Some(patience) => wait_until_settled(client, what, patience).await,
        }
    }
}

async fn wait_until_settled(client: &Client, what: WaitFor, patience: Duration) -> Outcome {
    let mut progress = Progress::new();
    WAITING.store(true, Ordering::Relaxed);
    let waited = poll_until_settled(client, what, patience, &mut progress).await;
    WAITING.store(false, Ordering::Relaxed);
    progress.end();
    Ok(report(&waited?, patience))
}

/// Whether this process waits for something that goes on without it.
static WAITING: AtomicBool = AtomicBool::new(false);

/// Says that what was waited for goes on, for whoever ended the wait.
pub(crate) fn report_interrupted_wait() {
    if WAITING.load(Ordering::Relaxed) {
        if std::io::stderr().is_terminal() {
            // Below the line of progress.
            print_message("");
        }
        print_message(
            "no longer waiting; what was asked for goes on in the background, and `abbey ps` shows how far it is",
        );
    }
}

async fn poll_until_settled(
    client: &Client,
    what: WaitFor,
    patience: Duration,
    progress: &mut Progress,
) -> Result<ReadinessDoc, Failure> {
    let until = Instant::now() + patience;
    let (agents, services) = match what {
        WaitFor::Everything => (None, None),
        WaitFor::Agents(names) => (Some(names.join(",")), None),
        WaitFor::Service(name) => (None, Some(name)),
    };
    // The first answers come soon, so that there is something to show.
    let mut wait = Duration::from_millis(200);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let query = ReadinessQuery {
            agents: agents.clone(),
            services: services.clone(),
            wait_ms: u64::try_from(wait.min(left).as_millis()).ok(),
        };
        let doc = client.house().readiness(&query).await?;
        if doc.settled || left.is_zero() {
            return Ok(doc);
        }
        let moving = doc.cells.iter();
        let moving = moving.filter(|c| c.state == ReadinessState::Changing);
        let moving: Vec<&ReadinessView> = moving.collect();
        let names: Vec<&str> = moving.iter().map(|c| c.name.as_str()).collect();
        let names = names.join(", ");
        progress.show(&match (moving.as_slice(), wait == REQUEST_WAIT) {
            // It takes long enough to say why, and when it ends.
            (
                [
                    ReadinessView {
                        reason: Some(why), ..
                    },
                ],
                true,
            ) => {
                format!(
                    "waiting at most {} s for {names}: {why}",
                    patience.as_secs()
                )
            }
            _ => format!("waiting for {names}"),
        });
        wait = REQUEST_WAIT;
    }
}

/// Prints what is not as desired; returns the exit code, 7 if there is something.
fn report(doc: &ReadinessDoc, patience: Duration) -> u8 {
    let mut code = exit::OK;
    for cell in &doc.cells {
        match (cell.state, &cell.reason) {
            (ReadinessState::Reached, None) => {}
            (ReadinessState::Reached, Some(note)) => {
                let line = format!(" {}: {note}", subject(cell));
                let line = Text::toned(Tone::Attention, "note:").and(Tone::Plain, &line);
                print_notice(&line.and(Tone::Plain, &remedy(cell)));
            }
            (state, reason) => {
                let after = match state {
                    ReadinessState::Changing => format!(" after {} s", patience.as_secs()),
                    _ => String::new(),
                };
                let why = reason.iter().map(|r| format!(": {r}"));
                let why: String = why.collect();
                let presence = match (state, cell.presence) {
                    (ReadinessState::Changing, Presence::Ready) => "not as planned yet".to_owned(),
                    (_, presence) => presence.to_string(),
                };
                print_message(&format!(
                    "{} is {presence}{after}{why}{}",
                    subject(cell),
                    remedy(cell)
                ));
                code = exit::DEGRADED;
            }
        }
    }
    code
}

fn subject(cell: &ReadinessView) -> String {
    format!("{} `{}`", cell.kind, cell.name)
}

fn remedy(cell: &ReadinessView) -> String {
    let name = &cell.name;
    match cell.kind.as_str() {
        "service" => format!("; `abbey service logs {name}` shows its output"),
        _ => format!("; `abbey why {name}` says more"),
    }
}
