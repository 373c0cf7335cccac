//! Runtimes: the programs that do an agent's work, how each is run in a cell, and how it is driven.
//!
//! [`runtime_spec`] is the one table of runtimes. `docs/recipes/add-a-runtime.md` walks through adding one.

pub(crate) mod driver;
mod native;
mod spec;

pub use driver::{Assignment, Driver, Events, Lease, TurnEnd};
pub use spec::{CellEnvironment, Files, Install, Layout, Readiness, RuntimeSpec};

use crate::agent_api::{StartError, client_from_environment};
use crate::worker;
use abbey_model::Runtime;
use std::sync::Arc;

/// Specification of a runtime: how its cell is started, checked and stopped.
pub fn runtime_spec(runtime: Runtime) -> &'static RuntimeSpec {
    match runtime {
        Runtime::Native => &native::SPEC,
    }
}

/// Drives a runtime in its agent's cell until the process ends: the worker loop with the runtime's
/// driver, as [`RuntimeSpec::driver`] starts it.
///
/// # Errors
/// [`StartError`]; later failures are retried.
pub async fn run_driver(runtime: Runtime) -> Result<(), StartError> {
    let client = Arc::new(client_from_environment()?);
    match runtime {
        Runtime::Native => worker::run_worker(client, &mut native::NativeDriver::open()?).await,
    }
}
