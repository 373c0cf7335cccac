//! Client of the agent API, with the agent's own credential.

use abbey_api::client::{AgentClient, Endpoint, Error};
use abbey_model::{FaultKind, Secret};
use abbey_support::retry::Backoff;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Longest outage of the control plane that a request is repeated through.
const OUTAGE_MAX: Duration = Duration::from_secs(60);

/// Why a driver could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A variable of the cell's environment is missing.
    #[error(
        "the environment variable `{0}` is not set; this role runs only in a cell that the control plane started"
    )]
    Environment(&'static str),
    /// The credential cannot be read.
    #[error("could not read the credential file `{path}`")]
    Credential {
        /// File of the credential.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The session file cannot be opened.
    #[error("could not open the session file of the agent")]
    Session(#[source] io::Error),
}

/// Creates a client of the agent API from the variables `ABBEY_URL` and `ABBEY_TOKEN_FILE`.
///
/// # Errors
/// [`StartError`] if a variable is missing or the token file cannot be read.
pub(crate) fn client_from_environment() -> Result<AgentClient, StartError> {
    let variable = |name| std::env::var(name).map_err(|_| StartError::Environment(name));
    let url = variable("ABBEY_URL")?;
    let path = PathBuf::from(variable("ABBEY_TOKEN_FILE")?);
    let token =
        std::fs::read_to_string(&path).map_err(|source| StartError::Credential { path, source })?;
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    Ok(AgentClient::new(
        Endpoint::Tcp(address.to_owned()),
        Some(Secret::new(token.trim())),
    ))
}

/// Delays between two attempts of a request.
pub(crate) const RETRY: Backoff = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
/// First delay.
pub(crate) const RETRY_FIRST: Duration = Duration::from_millis(100);
/// Longest delay.
pub(crate) const RETRY_LONGEST: Duration = Duration::from_secs(5);

/// Repeats an idempotent request for up to a minute while the control plane does not answer, for
/// example because it restarts.
pub(crate) async fn retry_through_restart<T, F: Future<Output = Result<T, Error>>>(
    mut request: impl FnMut() -> F,
) -> Result<T, Error> {
    let until = tokio::time::Instant::now() + OUTAGE_MAX;
    let mut backoff = RETRY;
    loop {
        match request().await {
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
