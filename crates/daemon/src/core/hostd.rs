//! Calls to hostd, the privileged helper, and starting it before the control plane gives up its
//! privileges.

use crate::core::error::{Error, Result};
use crate::core::home::Home;
use crate::core::runtime;
use abbey_api::Problem;
use abbey_cells::hostd;
use abbey_model::{FaultKind, Slug};
use rustix::fs::{Gid, Uid, fchown};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Runs a blocking call of hostd or of a cell backend on a thread of its own, and awaits its
/// result.
pub(crate) async fn call_blocking<T: Send + 'static>(
    call: impl FnOnce() -> abbey_cells::Result<T> + Send + 'static,
) -> Result<T> {
    let joined = runtime::run_blocking(call).await;
    Ok(joined.map_err(|e| Problem::new(FaultKind::Internal, e.to_string()))??)
}

/// Has hostd perform one operation, and discards its reply.
pub(crate) async fn run_operation(
    helper: &std::sync::Arc<dyn hostd::HostdApi>,
    operation: hostd::HostdOperation,
) -> Result<()> {
    let helper = std::sync::Arc::clone(helper);
    call_blocking(move || helper.call(operation, &[]).map(drop)).await
}

/// Stamps of the files of a removed agent that are kept, oldest first.
pub(crate) async fn archived_files(
    helper: &std::sync::Arc<dyn hostd::HostdApi>,
    agent: &Slug,
) -> Result<Vec<String>> {
    let all = archived_files_of_all(helper).await?.into_iter();
    let mine = all.filter(|(owner, _)| owner == agent);
    Ok(mine.map(|(_, stamp)| stamp).collect())
}

/// Names of removed agents with the stamps of their files that are kept, oldest first.
pub(crate) async fn archived_files_of_all(
    helper: &std::sync::Arc<dyn hostd::HostdApi>,
) -> Result<Vec<(Slug, String)>> {
    let helper = std::sync::Arc::clone(helper);
    let listed =
        call_blocking(move || helper.call(hostd::HostdOperation::Archives {}, &[])).await?;
    let hostd::HostdReply::Archives { archives } = listed else {
        let text = "hostd, the privileged helper, sent an unexpected reply; see the log of the control plane";
        return Err(Problem::new(FaultKind::Internal, text).into());
    };
    Ok(archives)
}

/// Creates the directories of the home and makes sure that hostd answers, starting `binary` as
/// hostd if it does not.
///
/// # Errors
/// If either fails.
pub fn ensure_home_and_hostd(
    home: PathBuf,
    binary: &Path,
) -> std::result::Result<hostd::HostdStartup, Error> {
    let config = Home::new(home).create_directories()?;
    Ok(hostd::ensure_hostd_running(&config, binary)?)
}

/// Refuses to start or stop anything in a home from which a house that still runs was moved away: it has the same names, and
/// its cells would be taken for those of the house that is there now.
///
/// # Errors
/// `Conflict` with both paths and how to put the home back.
pub fn refuse_where_house_moved_away(home: &Home) -> Result<()> {
    let Some(moved) = hostd::moved_house(home.root()) else {
        return Ok(());
    };
    let problem = Problem::new(FaultKind::Conflict, moved.refusal(home.root()));
    Err(problem.remedy(moved.remedy(home.root())).into())
}

/// What a control plane has before it serves.
#[derive(Debug)]
pub struct Prepared {
    /// The lock of the home; whoever has it decides about hostd.
    pub lock: File,
    /// Whether hostd was started, for [`end_started_hostd`].
    pub started_hostd: bool,
}

/// Creates the home, takes its lock, starts hostd, and makes this process an ordinary user without capabilities.
/// Must be called while the process has a single thread.
///
/// # Errors
/// [`Error::Locked`] if another control plane or a command has the lock, and if any step fails; the caller must exit then.
pub fn prepare_control_plane(home: PathBuf, binary: &Path) -> std::result::Result<Prepared, Error> {
    let home = Home::new(home);
    if !rustix::process::geteuid().is_root() && hostd::is_privileged_hostd_running(home.root()) {
        // A service manager started hostd as root and this process as the ordinary user: nothing else is left to do.
        return Ok(Prepared {
            lock: home.acquire_lock()?,
            started_hostd: false,
        });
    }
    // Before anything is started or changed.
    refuse_where_house_moved_away(&home)?;
    home.check_database_not_lost()?;
    let config = home.create_directories()?;
    // Before hostd is looked for: a control plane that ends, and a command that cleans up after one, end it, and have the lock.
    let lock = home.acquire_lock()?;
    if config.privileged {
        let (uid, gid) = (
            Uid::from_raw(config.serve_uid),
            Gid::from_raw(config.serve_uid),
        );
        fchown(&lock, Some(uid), Some(gid))
            .map_err(|e| Error::file("give to its user", home.lock_file())(e.into()))?;
    }
    let startup = hostd::ensure_hostd_running(&config, binary)?;
    hostd::drop_privileges(&config)?;
    Ok(Prepared {
        lock,
        started_hostd: startup != hostd::HostdStartup::Running,
    })
}

/// Ends the hostd of a home whose control plane could not start, so that nothing of it is left. One that does not answer is
/// left alone.
pub fn end_started_hostd(home: &Path) {
    let _not_answering = hostd::end_hostd(&hostd::HostdClient::new(home));
}

/// Moves this process into a session of its own, so that it outlives the process that started it.
///
/// # Errors
/// The error of the system call.
pub fn detach_from_parent() -> std::result::Result<(), Error> {
    hostd::detach_from_parent()?;
    Ok(())
}

/// Serves hostd's socket in this process until it is told to end; calls `ready` once the socket
/// answers.
///
/// # Errors
/// If it cannot listen, or hostd of this house already runs.
pub fn run_hostd(home: PathBuf, ready: impl FnOnce()) -> std::result::Result<(), Error> {
    let config = Home::new(home).hostd_config()?;
    let ready = || {
        if let Err(error) = hostd::publish_agent_command(&config) {
            // Agents work without it; only their scripts need it. The log may be on the full disk as well.
            let _not_logged = writeln!(std::io::stderr(), "{}", Error::from(error).chain());
        }
        ready();
    };
    Ok(hostd::serve_hostd(&config, ready)?)
}
