//! Starting, repairing and stopping the control plane from the command line.

use crate::connect::is_up;
use crate::exit::{self, Failure};
use crate::output::Progress;
use abbey_api::client::Client;
use abbey_api::*;
use abbey_daemon::Home;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for another control plane to answer or to let go.
const START_WITHIN: Duration = Duration::from_secs(20);

/// Longest wait for everything to be gone.
pub(crate) const DOWN_WITHIN: Duration = Duration::from_secs(60);

/// Starts a control plane in the background unless one runs. Of two that start at once, one gets
/// the lock; the other waits until it answers, or takes its place if it goes away.
pub(crate) async fn ensure_up(home: &Home) -> Result<bool, Failure> {
    let until = Instant::now() + START_WITHIN;
    loop {
        if is_up(home).await {
            repair_home(home)?;
            return Ok(false);
        }
        match start_serve(home)? {
            Started::Up => return Ok(true),
            Started::Locked(_) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Started::Locked(failure) => return Err(failure),
        }
    }
}

/// Mends what only the owner of the home can: its permissions, and a lost hostd. For others there
/// is nothing to do.
fn repair_home(home: &Home) -> Result<(), Failure> {
    use std::os::unix::fs::MetadataExt;
    let owner = std::fs::metadata(home.root()).map_or(u32::MAX, |m| m.uid());
    if owner == rustix::process::geteuid().as_raw() {
        let binary = std::env::current_exe().unwrap_or_default();
        abbey_daemon::mend(home.root().to_owned(), &binary)?;
    }
    Ok(())
}

enum Started {
    Up,
    /// Another one holds the home.
    Locked(Failure),
}

fn start_serve(home: &Home) -> Result<Started, Failure> {
    let log = home.serve_log();
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
            "the home `{}` is not writable: {e}",
            home.root().display()
        ))
        .hint("choose another with `--home` or ABBEY_HOME, or mend its permissions")
    })?;
    let mut child = Command::new("/proc/self/exe")
        .args(["role", "serve", "--home"])
        .arg(home.root())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log_file)
        .spawn()
        .map_err(|e| Failure::plain(format!("the control plane could not be started: {e}")))?;
    let mut line = String::new();
    if let Some(pipe) = child.stdout.take() {
        let _ended_early = BufReader::new(pipe).read_line(&mut line);
    }
    let told: Value = serde_json::from_str(&line).unwrap_or_default();
    if told["pid"].is_u64() {
        return Ok(Started::Up);
    }
    let text = told["error"].as_str().map_or_else(
        || {
            format!(
                "the control plane ended before it was up; its log is `{}`",
                log.display()
            )
        },
        str::to_owned,
    );
    let code = told["code"]
        .as_u64()
        .and_then(|c| u8::try_from(c).ok())
        .unwrap_or(exit::FAILURE);
    let failure = Failure::plain(text).with_code(code);
    if told["locked"] == true {
        Ok(Started::Locked(failure))
    } else {
        Err(failure)
    }
}

/// Asks the house to go down and waits until nothing of it is left.
pub(crate) async fn take_down(home: &Home, client: &Client) -> Result<(), Failure> {
    let house: HouseDoc = client.get("/api/v1/house").await?;
    let _going: Value = client
        .post("/api/v1/down", &serde_json::json!({}), &[])
        .await?;
    let mut progress = Progress::new();
    let until = Instant::now() + DOWN_WITHIN;
    let pid = i32::try_from(house.pid).unwrap_or(0);
    // An ended process that nobody has collected yet is gone for our purposes.
    let running = || abbey_cells::identify(pid).is_some();
    while (is_up(home).await || running()) && Instant::now() < until {
        progress.show("stopping agents and services");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    progress.end();
    if is_up(home).await {
        return Err(Failure::plain("the house is still stopping")
            .hint("`abbey ps` shows what is left")
            .with_code(exit::TIMEOUT));
    }
    Ok(())
}
