//! Runtimes: the programs that do an agent's work, how each is run in a cell, and how it is driven.
//!
//! [`spec`] is the one table of runtimes. `docs/recipes/add-a-runtime.md` walks through adding one.

pub(crate) mod driver;
mod native;
mod spec;

pub use driver::{Assignment, Driver, Events, Lease, TurnEnd};
pub use spec::{CellEnvironment, Files, Install, Layout, Readiness, RuntimeSpec};

use crate::agent_api::{StartError, client_from_environment};
use crate::worker;
use abbey_model::Runtime;
use std::sync::Arc;

/// How a runtime is run.
pub fn spec(runtime: Runtime) -> &'static RuntimeSpec {
    match runtime {
        Runtime::Native => &native::SPEC,
    }
}

/// Drives a runtime in its agent's cell until the process is ended; the role that [`RuntimeSpec::driver`] names.
///
/// # Errors
/// [`StartError`]; later failures are retried.
pub async fn drive(runtime: Runtime) -> Result<(), StartError> {
    let client = Arc::new(client_from_environment()?);
    match runtime {
        Runtime::Native => worker::work(client, &mut native::NativeDriver::open()?).await,
    }
}
