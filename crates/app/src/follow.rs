//! Requests that take as long as the host is slow: a command follows one while the control plane gets on with it.

use crate::exit::{self, Failure};
use crate::output::Progress;
use abbey_api::HouseQuery;
use abbey_api::client::{Client, Error};
use std::fmt;
use std::pin::pin;
use std::time::Duration;
use tokio::time::Instant;

/// Time limit of a request whose progress is followed instead.
pub(crate) const UNLIMITED: Duration = Duration::from_secs(30 * 24 * 3600);
/// Time between two questions about the progress.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// What the control plane is doing for a request that takes long; none if it is idle or does not answer.
pub(crate) async fn activity_of(client: &Client) -> Option<String> {
    let house = client.house().show(&HouseQuery::default()).await;
    house.ok()?.activity
}

/// A control plane that made no progress with a request for as long as a command had patience.
#[derive(Debug)]
pub(crate) struct Stalled {
    patience: Duration,
    /// What it began last, if it said.
    at: Option<String>,
}

impl fmt::Display for Stalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.patience.as_secs();
        write!(f, "the control plane has made no progress for {seconds} s")?;
        match &self.at {
            Some(at) => write!(f, " since it began {at}"),
            None => Ok(()),
        }
    }
}

impl From<Stalled> for Failure {
    fn from(stalled: Stalled) -> Failure {
        Failure::plain(stalled.to_string())
            .hint("it goes on in the background: `abbey ps` shows how far it is, `abbey doctor` what may hold it up, and the same command with a longer `--timeout` waits for it")
            .with_code(exit::TIMEOUT)
    }
}

/// Awaits the answer to `request` and shows what `activity` says meanwhile. Each new text is progress.
///
/// # Errors
/// If there was no progress for as long as `patience`. The control plane goes on with the request.
pub(crate) async fn follow<T>(
    request: impl Future<Output = Result<T, Error>>,
    activity: impl AsyncFn() -> Option<String>,
    patience: Duration,
    progress: &mut Progress,
) -> Result<Result<T, Error>, Stalled> {
    let mut request = pin!(request);
    let mut seen = None;
    let mut until = Instant::now() + patience;
    while Instant::now() < until {
        let ask = async {
            let pause = ASK_EVERY.min(patience / 60);
            tokio::time::sleep_until(until.min(Instant::now() + pause)).await;
            let answer = tokio::time::timeout_at(until, activity()).await;
            answer.ok().flatten()
        };
        let now = tokio::select! {
            biased;
            answer = &mut request => return Ok(answer),
            now = ask => now,
        };
        if let Some(text) = now.filter(|text| seen.as_ref() != Some(text)) {
            progress.show(&text);
            seen = Some(text);
            until = Instant::now() + patience;
        }
    }
    Err(Stalled { patience, at: seen })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn block_on<T>(test: impl Future<Output = T>) -> T {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().build().unwrap().block_on(test)
    }

    #[test]
    fn a_request_is_followed_for_as_long_as_there_is_progress() {
        block_on(async {
            let steps = Cell::new(0);
            let finished = tokio::sync::Notify::new();
            let step = async || {
                steps.set(steps.get() + 1);
                if steps.get() == 4 {
                    finished.notify_one();
                }
                Some(format!("creating agent {}", steps.get()))
            };
            let request = async {
                finished.notified().await;
                Ok(7)
            };
            let patience = Duration::from_secs(60);
            let done = follow(request, step, patience, &mut Progress::new()).await;
            assert_eq!(done.unwrap().unwrap(), 7);
        });
    }

    #[test]
    fn a_request_without_progress_is_given_up() {
        block_on(async {
            let asked = Cell::new(0);
            let stuck = async || {
                asked.set(asked.get() + 1);
                match asked.get() {
                    1 => None,
                    2 => Some("creating agent `a`".to_owned()),
                    // Not even that is answered any more.
                    _ => std::future::pending().await,
                }
            };
            let request = std::future::pending::<Result<(), Error>>();
            let patience = Duration::from_millis(1200);
            let done = follow(request, stuck, patience, &mut Progress::new()).await;
            let stalled = done.unwrap_err();
            assert!(
                stalled
                    .to_string()
                    .ends_with("since it began creating agent `a`"),
                "{stalled}"
            );
            assert_eq!(Failure::from(stalled).code(), exit::TIMEOUT);
        });
    }
}
