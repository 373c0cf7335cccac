//! PostgreSQL in a cell: a database and a role for each consumer, to which only that consumer may connect (S1-17, S2-05).
//!
//! The server listens for consumers with TLS and passwords; whoever administers it comes by a Unix socket in the
//! service's own directory, as the one user of the cell, so there is no password of an administrator anywhere.

mod consumers;
mod places;
mod server;

pub(crate) use places::check_installed;
pub use places::find_programs;
pub use server::serve_postgres;

use crate::Result;
use crate::ask::{ServiceReply, ServiceRequest};
use places::PostgresPaths;
use std::path::Path;

/// Performs a request of the control plane on the PostgreSQL service in the directory `home`.
pub(crate) fn perform_postgres_request(
    home: &Path,
    question: ServiceRequest,
) -> Result<ServiceReply> {
    consumers::perform_request(
        &PostgresPaths {
            home: home.to_owned(),
        },
        question,
    )
}
