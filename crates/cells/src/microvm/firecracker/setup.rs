//! Configures a Firecracker process over its API before its microVM starts.

use super::client::{FirecrackerCall, FirecrackerClient};
use crate::Result;
use std::path::PathBuf;
use std::time::Duration;

/// Time for it to answer at all.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// Configuration calls for a Firecracker process, sent before its microVM starts.
#[derive(Debug)]
pub(crate) struct FirecrackerSetup {
    pub(super) socket: PathBuf,
    pub(super) id: String,
    pub(super) steps: Vec<FirecrackerCall>,
}

impl FirecrackerSetup {
    /// Waits until Firecracker's API answers, then configures and starts its microVM.
    pub(crate) fn configure_and_start(&self) -> Result<()> {
        let client = FirecrackerClient::new(&self.socket, &self.id);
        client.wait_until_ready(ANSWERS_WITHIN)?;
        client.run_calls(&self.steps)
    }
}
