//! Asking the privileged helper, and starting it before the control plane becomes an ordinary user.

use crate::core::error::{Error, Result};
use crate::core::home::Home;
use crate::core::runtime;
use abbey_api::Problem;
use abbey_cells::hostd;
use abbey_model::FaultKind;
use std::path::{Path, PathBuf};

/// Runs a call that may block.
pub(crate) async fn ask<T: Send + 'static>(
    call: impl FnOnce() -> abbey_cells::Result<T> + Send + 'static,
) -> Result<T> {
    let joined = runtime::blocking(call).await;
    Ok(joined.map_err(|e| Problem::new(FaultKind::Internal, e.to_string()))??)
}

/// Has the helper do one operation that answers nothing.
pub(crate) async fn call(
    helper: &std::sync::Arc<dyn hostd::Helper>,
    operation: hostd::Operation,
) -> Result<()> {
    let helper = std::sync::Arc::clone(helper);
    ask(move || helper.call(operation, &[]).map(drop)).await
}

/// Makes the home as it must be, and makes sure that hostd answers.
///
/// # Errors
/// When either fails.
pub fn mend(home: PathBuf, binary: &Path) -> std::result::Result<(), Error> {
    let config = Home::new(home).prepare()?;
    Ok(hostd::ensure(&config, binary)?)
}

/// Makes the home, starts hostd, and gives up every privilege. The caller has one thread still.
///
/// # Errors
/// When any of it fails; the caller must end then.
pub fn descend(home: PathBuf, binary: &Path) -> std::result::Result<(), Error> {
    let home = Home::new(home);
    if !rustix::process::geteuid().is_root() && hostd::keeps(home.root()) {
        // A service manager started both: root's part is done, and this is the ordinary user already.
        return Ok(());
    }
    let config = home.prepare()?;
    hostd::ensure(&config, binary)?;
    hostd::descend(&config)?;
    Ok(())
}

/// Leaves the process that started this one, and its session.
///
/// # Errors
/// What the system says.
pub fn detach() -> std::result::Result<(), Error> {
    hostd::detach()?;
    Ok(())
}

/// Runs hostd in this process; `ready` is called once it answers.
///
/// # Errors
/// When it cannot listen, or another one of this house runs.
pub fn run(home: PathBuf, ready: impl FnOnce()) -> std::result::Result<(), Error> {
    let config = Home::new(home).hostd_config()?;
    Ok(hostd::serve(&config, ready)?)
}
