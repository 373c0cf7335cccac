//! Starting, repairing and stopping the control plane from the command line.

use crate::connect::{is_control_plane_up, operator_client};
use crate::exit::{self, Failure};
use crate::follow::{activity_of, follow};
use crate::output::{Progress, print_message};
use crate::stopped_control_plane::{explain_silence, kill_stopped_control_plane};
use crate::unfinished_shutdown::finish_shutdown;
use abbey_api::client::{Client, Error};
use abbey_api::*;
use abbey_cells::hostd::{HostdStartup, listening_process, socket_owner, unit_of};
use abbey_cells::{Backend, ShimBackend, is_stopped};
use abbey_daemon::{Home, STATE_FORMAT, refuse_where_house_moved_away};
use abbey_model::{CellName, Millis, Observed, ProcessIdentity};
use abbey_support::shell::shell_path;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The program of this process, also if another file has taken its place.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// Message about [`runs_another_build`].
pub(crate) const ANOTHER_BUILD: &str = "the house runs another build of abbey than this command; `abbey up` replaces its control plane, and agents go on";

/// Longest wait while another process starts or stops a control plane of this home.
const START_WITHIN: Duration = Duration::from_secs(20);

/// Time for each cell to end by itself when the control plane does not stop it.
const STOP_GRACE: Millis = Millis::from_secs(5);

/// Longest wait until every agent, service and the control plane have stopped.
pub(crate) const DOWN_WITHIN: Duration = Duration::from_secs(60);

/// Whether nothing of the house runs and nothing of it was left behind, as after `abbey down`.
pub(crate) fn is_house_down(home: &Home) -> bool {
    let mut cells = std::fs::read_dir(home.cell_records_dir());
    let left = cells.as_mut().is_ok_and(|cells| cells.next().is_some());
    !left && listening_process(home.root()).is_none()
}

/// A failure of a command that found no control plane, with what that means for the house: it is down, or goes on without
/// one. Other failures stay as they are.
pub(crate) fn explain_missing_control_plane(home: &Home, failure: Failure) -> Failure {
    if !failure.is_unheard() {
        return failure;
    }
    if let Some((why, hint)) = explain_silence(home) {
        return failure.explain_unheard(&why, &hint);
    }
    let root = home.root().display();
    let other = "`--home` or ABBEY_HOME selects another house";
    let (why, hint) = match is_house_down(home) {
        true => (
            format!("the house in `{root}` is down"),
            format!("`abbey up` starts it, `abbey doctor` checks it while it is down; {other}"),
        ),
        false => (
            format!(
                "the control plane of the house in `{root}` does not run, and parts of the house go on without it"
            ),
            format!("`abbey up` starts it again, and agents go on; {other}"),
        ),
    };
    failure.explain_unheard(&why, &hint)
}

/// Waits until a house that is going down has ended: who wants it up after that starts it again, and what ends cannot be
/// changed. Fails with exit code 124 after 60 seconds.
pub(crate) async fn wait_while_going_down(
    home: &Home,
    progress: &mut Progress,
) -> Result<(), Failure> {
    let until = Instant::now() + DOWN_WITHIN;
    while is_control_plane_up(home).await {
        let client = operator_client(home)?;
        match client.house().show(&HouseQuery::default()).await {
            Ok(house) if house.going_down => {}
            _ => return Ok(()),
        }
        if Instant::now() >= until {
            let text = "the house is still going down, so that it cannot be started yet";
            return Err(Failure::plain(text)
                .hint("`abbey down` waits for it and shows what is stopping")
                .with_code(exit::TIMEOUT));
        }
        progress.show("waiting for the end of `abbey down`");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Starts a control plane in the background unless one is running; returns whether it was started. If two processes
/// start one at the same time, one gets the lock, and the other waits for up to 20 seconds until the control plane
/// answers.
pub(crate) async fn ensure_control_plane_up(home: &Home) -> Result<bool, Failure> {
    let until = Instant::now() + START_WITHIN;
    loop {
        if is_control_plane_up(home).await {
            repair_home(home).await?;
            return Ok(false);
        }
        match start_serve(home)? {
            Started::Up => return Ok(true),
            Started::Locked(_) if Instant::now() < until => {
                // A signal may have stopped it since the command looked first.
                kill_stopped_control_plane(home)?;
                std::thread::sleep(Duration::from_millis(50));
            }
            Started::Locked(failure) => return Err(failure),
        }
    }
}

/// As [`ensure_control_plane_up`], and replaces a control plane and a hostd that are another build of Abbey than this
/// command. Their cells go on and are adopted.
pub(crate) async fn ensure_current_control_plane_up(home: &Home) -> Result<bool, Failure> {
    if runs_another_build(home) && is_control_plane_up(home).await {
        require_known_format(home).await?;
        end_control_plane(home)?;
    }
    ensure_control_plane_up(home).await
}

/// Refuses to replace a control plane whose state file this command's build could not open afterwards.
async fn require_known_format(home: &Home) -> Result<(), Failure> {
    let client = operator_client(home)?;
    let found = client
        .house()
        .show(&HouseQuery::default())
        .await?
        .state_format;
    match found.filter(|found| *found > STATE_FORMAT) {
        None => Ok(()),
        Some(found) => Err(Failure::plain(format!(
            "the house runs a newer version of Abbey than this command: its state has format {found}, and this command reads only formats up to {STATE_FORMAT}"
        ))
        .hint("run the newer version of `abbey`; nothing was changed, and the house goes on")
        .with_code(exit::CONFLICT)),
    }
}

/// Whether a control plane of this home runs that is another build of Abbey than this command; false if this process may
/// not know.
pub(crate) fn runs_another_build(home: &Home) -> bool {
    let pid = socket_owner(&home.operator_api_socket());
    let same = pid.and_then(|pid| abbey_cells::runs_program(pid, Path::new(OWN_PROGRAM)));
    same == Some(false)
}

/// Ends the control plane alone, and waits until its process is gone.
fn end_control_plane(home: &Home) -> Result<(), Failure> {
    let Some(pid) = socket_owner(&home.operator_api_socket()) else {
        return Ok(());
    };
    if let Some(unit) = unit_of(pid) {
        let text = format!(
            "the control plane runs another build of abbey than this command, and `{unit}` manages it"
        );
        return Err(Failure::plain(text)
            .hint("restart its units as `abbey unit status` names them, hostd first (`systemctl restart`); agents go on")
            .with_code(exit::CONFLICT));
    }
    let (process, end) = (
        abbey_cells::identify(pid),
        rustix::process::Pid::from_raw(pid),
    );
    let (Some(process), Some(end)) = (process, end) else {
        return Ok(());
    };
    rustix::process::kill_process(end, rustix::process::Signal::TERM)
        .map_err(|e| Failure::plain(format!("cannot end the control plane, process {pid}: {e}")))?;
    let until = Instant::now() + DOWN_WITHIN;
    while abbey_cells::is_alive(&process) {
        if Instant::now() > until {
            return Err(Failure::plain(format!(
                "the control plane, process {pid}, runs another build of abbey than this command and does not end"
            ))
            .hint("end it with `kill -9`, then run `abbey up`; agents go on")
            .with_code(exit::TIMEOUT));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Repairs what only the owner of the home can repair: its permissions, and a lost hostd. Does nothing for other users.
pub(crate) async fn repair_home(home: &Home) -> Result<(), Failure> {
    use std::os::unix::fs::MetadataExt;
    let owner = std::fs::metadata(home.root()).map_or(u32::MAX, |m| m.uid());
    if owner == rustix::process::geteuid().as_raw() {
        let binary = std::env::current_exe().unwrap_or_default();
        let root = home.root().to_owned();
        // On another thread, so that the command can say what it waits for.
        let ensured =
            tokio::task::spawn_blocking(move || abbey_daemon::ensure_home_and_hostd(root, &binary));
        let ensured = ensured
            .await
            .map_err(|e| Failure::plain(format!("hostd could not be checked: {e}")))?;
        let ensured = ensured.map_err(|e| explain_full_disk(home, &e.chain(), e.into()))?;
        if let HostdStartup::Replaced(pid) = ensured {
            print_message(&format!(
                "hostd (process {pid}) did not answer; it was killed and started again, and cells went on"
            ));
        }
    }
    Ok(())
}

/// Adds what to do about a full file system to a failure that one caused, by the text of its cause.
fn explain_full_disk(home: &Home, cause: &str, failure: Failure) -> Failure {
    // As the system and SQLite call it.
    let is_full = ["No space left on device", "disk is full"];
    if !is_full.iter().any(|text| cause.contains(text)) {
        return failure;
    }
    let shown = home.root().display();
    let word = shell_path(home.root());
    failure.hint(format!(
        "free space or inodes on the file system of `{shown}`, then repeat the command; `df -h {word}` and `df -i {word}` show what is left"
    ))
}

enum Started {
    Up,
    /// Another control plane holds the lock of the home.
    Locked(Failure),
}

fn start_serve(home: &Home) -> Result<Started, Failure> {
    home.require_own()?;
    refuse_where_house_moved_away(home)?;
    let log = home.serve_log_file();
    let prepared = || -> std::io::Result<std::fs::File> {
        use std::os::unix::fs::OpenOptionsExt;
        std::fs::create_dir_all(log.parent().unwrap_or(Path::new("/")))?;
        std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&log)
    };
    let log_file = prepared().map_err(|e| {
        Failure::plain(format!(
            "cannot write to the home `{}`: {e}",
            home.root().display()
        ))
        .hint("fix the permissions of the home, or select another home with `--home` or ABBEY_HOME")
    })?;
    let mut child = Command::new(OWN_PROGRAM)
        .args(["role", "serve", "--home"])
        .arg(home.root())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log_file)
        .spawn()
        .map_err(|e| Failure::plain(format!("cannot start the control plane: {e}")))?;
    let mut line = String::new();
    if let Some(pipe) = child.stdout.take() {
        let _ended_early = BufReader::new(pipe).read_line(&mut line);
    }
    let announcement: Value = serde_json::from_str(&line).unwrap_or_default();
    if announcement["pid"].is_u64() {
        return Ok(Started::Up);
    }
    let text = announcement["error"].as_str().map_or_else(
        || {
            format!(
                "the control plane exited before it was ready; see its log `{}`",
                log.display()
            )
        },
        str::to_owned,
    );
    let code = announcement["code"]
        .as_u64()
        .and_then(|c| u8::try_from(c).ok())
        .unwrap_or(exit::FAILURE);
    let failure = Failure::plain(text.as_str()).with_code(code);
    let failure = explain_full_disk(home, &text, failure);
    if announcement["locked"] == true {
        Ok(Started::Locked(failure))
    } else {
        Err(failure)
    }
}

/// Stops every cell of a house whose control plane does not do it. Returns how many there were.
///
/// # Errors
/// If the cells cannot be listed, or some of them are left.
pub(crate) async fn stop_cells_without_control_plane(home: &Home) -> Result<usize, Failure> {
    let backend = ShimBackend::new(home.root(), home.cgroup_name());
    let failed = |e: abbey_cells::Error| Failure::plain(e.to_string());
    let cells = backend.list().map_err(failed)?;
    if cells.is_empty() {
        return Ok(0);
    }
    // What is left of a cell is removed by hostd, which may have been killed too.
    repair_home(home).await?;
    for cell in &cells {
        // What does not answer is killed below.
        let _does_not_answer = backend.stop(cell, STOP_GRACE);
    }
    let until = Instant::now() + STOP_GRACE.to_std() + Duration::from_secs(1);
    let runs = |cell: &CellName| matches!(backend.observe(cell), Ok(Observed::Running { .. }));
    while cells.iter().any(runs) && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    for cell in &cells {
        backend.sweep(cell).map_err(failed)?;
    }
    // A control plane that is there needs hostd when it goes on.
    if home.acquire_lock().is_ok() {
        abbey_daemon::end_started_hostd(home.root());
    }
    Ok(cells.len())
}

/// Shuts the house down and waits until nothing of it runs: starts a hostd that is killed meanwhile again, and ends what a
/// control plane that is killed meanwhile leaves.
///
/// # Errors
/// Exit code 124 once nothing has stopped for 60 seconds, and 7 if something is left.
pub(crate) async fn shut_down_house(home: &Home, client: &Client) -> Result<(), Failure> {
    // The kernel's word for it, not that of the control plane.
    let process = socket_owner(&home.operator_api_socket()).and_then(abbey_cells::identify);
    match client.house().down().await {
        Ok(_going_down) => {}
        Err(refused @ Error::Refused(_)) => return Err(refused.into()),
        Err(unheard) => match &process {
            Some(process) if was_killed(process).await => {}
            _ => return Err(unheard.into()),
        },
    }
    let mut progress = Progress::new();
    let ended = async { Ok(wait_for_end(home, process.as_ref()).await) };
    progress.show("stopping agents and services");
    let activity = async || activity_of(client).await;
    let waited = follow(ended, activity, DOWN_WITHIN, &mut progress).await;
    progress.end();
    match waited {
        Ok(ended) => {
            ended??;
            finish_shutdown(home).await
        }
        Err(stalled) => Err(Failure::plain(format!(
            "the house is still stopping: {stalled}"
        ))
        .hint(format!(
            "run `abbey down` again to wait for it; its log is {}{}",
            home.serve_log_file().display(),
            process.map_or_else(String::new, |process| format!(
                ", and if it never ends, `kill -9 {}` ends the control plane alone, and `abbey down` recovers and stops what it left",
                process.pid
            ))
        ))
        .with_code(exit::TIMEOUT)),
    }
}

/// Waits until the control plane, which is `process`, has exited. hostd is needed for that, so one that is killed meanwhile is
/// started again.
async fn wait_for_end(home: &Home, process: Option<&ProcessIdentity>) -> Result<(), Failure> {
    let hostd = || listening_process(home.root()).and_then(abbey_cells::identify);
    let mut helper = hostd();
    loop {
        // In this order: the control plane closes its socket before it ends hostd.
        let lost = !helper.as_ref().is_some_and(takes_calls);
        let answers = is_control_plane_up(home).await;
        if answers && lost {
            repair_home(home).await?;
            helper = hostd();
        }
        // A zombie counts as ended.
        if !answers && !process.is_some_and(abbey_cells::is_alive) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

/// Whether a hostd runs, and no signal stopped it.
fn takes_calls(hostd: &ProcessIdentity) -> bool {
    abbey_cells::is_alive(hostd) && is_stopped(hostd.pid) != Some(true)
}

/// Whether a control plane that closed a connection without an answer has exited: the kernel closes it a little before.
async fn was_killed(process: &ProcessIdentity) -> bool {
    let until = Instant::now() + Duration::from_secs(2);
    while abbey_cells::is_alive(process) && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    !abbey_cells::is_alive(process)
}
