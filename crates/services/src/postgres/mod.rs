//! PostgreSQL in a cell: a database and a role for each consumer, and nobody else may connect to it (S1-17, S2-05).
//!
//! The server listens for consumers with TLS and passwords; whoever administers it comes by a Unix socket in the
//! service's own directory, as the one user of the cell, so there is no password of an administrator anywhere.

mod consumers;
mod places;
mod server;

pub(crate) use places::found;
pub use places::programs;
pub use server::serve;

use crate::Result;
use crate::ask::{ServiceReply, ServiceRequest};
use places::PostgresPaths;
use std::path::Path;

/// Answers the control plane.
pub(crate) fn answer(home: &Path, question: ServiceRequest) -> Result<ServiceReply> {
    consumers::answer(
        &PostgresPaths {
            home: home.to_owned(),
        },
        question,
    )
}
