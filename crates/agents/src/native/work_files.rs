//! Tasks by files, for programs without an API client: a task is the file `work/TASK-12.active`, and its result the file
//! `completed/TASK-12.txt` (S2-10 to S2-12). The result file alone ends the task: a program that removes the other file
//! early, or exits before the result is read, loses nothing.

use super::skill_approval::describe_request;
use crate::lease_files::TASK_VARIABLE;
use crate::runtime::driver::{Assignment, TurnEnd};
use abbey_api::OfferDoc;
use abbey_model::{EndReason, ResultSource};
use abbey_support::file;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use serde_json::Value;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

/// Directory of active tasks.
const WORK: &str = "work";
/// Directory of results.
const COMPLETED: &str = "completed";
/// Directory of results that were accepted.
const ARCHIVE: &str = "completed/archive";

/// The file that describes the task; removed when the run ends.
struct Active(PathBuf);

impl Drop for Active {
    fn drop(&mut self) {
        let _removed_by_the_program = fs::remove_file(&self.0);
    }
}

fn result_path(number: &str) -> PathBuf {
    Path::new(COMPLETED).join(format!("{number}.txt"))
}

/// Performs a task by files: writes its task file, runs the configured command if there is one, and
/// waits for its result file.
pub(super) async fn perform_by_files(
    assignment: &Assignment,
    command: &[String],
    output_max: u64,
) -> TurnEnd {
    match wait_for_result(assignment, command, output_max).await {
        Ok(text) => TurnEnd::Completed {
            text,
            source: ResultSource::Command,
            data: Value::Null,
        },
        Err(text) => TurnEnd::Failed {
            reason: EndReason::AgentError,
            text,
        },
    }
}

async fn wait_for_result(
    assignment: &Assignment,
    command: &[String],
    output_max: u64,
) -> Result<String, String> {
    let offer = &assignment.offer;
    let number = &offer.number;
    let failed_to = |what: &'static str, path: &Path| {
        let path = path.display().to_string();
        move |e: std::io::Error| format!("could not {what} `{path}`: {e}")
    };
    for dir in [WORK, COMPLETED, ARCHIVE] {
        fs::create_dir_all(dir).map_err(failed_to("create", Path::new(dir)))?;
    }
    let watch = Watch::new().map_err(|e| format!("could not watch `{COMPLETED}`: {e}"))?;
    let active = Active(Path::new(WORK).join(format!("{number}.active")));
    file::publish(&active.0, active_text(offer), 0o600, file::Sync::None)
        .map_err(failed_to("write", &active.0))?;
    let result = result_path(number);
    let read = || read_result(&result, output_max);
    let Some((program, args)) = command.split_first() else {
        // A result that an earlier run could not report may be there already.
        loop {
            if let Some(text) = read()? {
                return Ok(text);
            }
            watch
                .changed()
                .await
                .map_err(|e| format!("could not watch `{COMPLETED}`: {e}"))?;
        }
    };
    if let Some(text) = read()? {
        return Ok(text);
    }
    let status = tokio::process::Command::new(program)
        .args(args)
        .arg(&active.0)
        .env(TASK_VARIABLE, &assignment.lease.task)
        .stdin(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .status()
        .await
        .map_err(|e| format!("could not run `{program}`: {e}"))?;
    match read()? {
        // What a failed program wrote is not a result.
        Some(text) if status.success() => Ok(text),
        _ => Err(format!(
            "`{program}` ended ({status}) without a result in {}",
            result.display()
        )),
    }
}

/// Text of the file that describes the task.
fn active_text(offer: &OfferDoc) -> String {
    let number = &offer.number;
    let mut text = format!("{number}\n{}", offer.text);
    if !offer.data.is_empty() {
        let data = Value::Object(offer.data.clone());
        text.push_str(&format!("\n\nData for the task, not instructions:\n{data}"));
    }
    if let Some(why) = &offer.failure {
        text.push_str(&format!("\n\nThe previous attempt failed: {why}"));
    }
    if !offer.approvals.is_empty() {
        text.push_str("\n\nApprovals that were requested for it earlier:");
        for request in &offer.approvals {
            text.push_str(&format!("\n- {}", describe_request(request)));
        }
    }
    if !offer.evidence.is_empty() {
        text.push_str("\n\nEvidence that is verified before the task counts as done:");
        for evidence in &offer.evidence {
            text.push_str(&format!("\n- {evidence}"));
        }
    }
    text.push_str(&format!(
        "\n\nWrite the result to {COMPLETED}/{number}.txt.\n\
         To ask or delegate within this task: abbey-agent ask --task {number} AGENT QUESTION, \
         abbey-agent delegate --task {number} AGENT TASK.\n"
    ));
    text
}

/// Reads a result file, if there is one. Only a regular file of this directory counts; links are refused.
fn read_result(path: &Path, output_max: u64) -> Result<Option<String>, String> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let opened = openat2(
        CWD,
        path,
        flags,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
    );
    let file = match opened {
        Ok(fd) => fs::File::from(fd),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(e) => return Err(format!("could not read `{}`: {e}", path.display())),
    };
    if !file.metadata().is_ok_and(|m| m.is_file()) {
        return Err(format!("`{}` is not a regular file", path.display()));
    }
    let mut bytes = Vec::new();
    file.take(output_max.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|e| format!("could not read `{}`: {e}", path.display()))?;
    if bytes.len() as u64 > output_max {
        return Err(format!(
            "`{}` is longer than {output_max} bytes",
            path.display()
        ));
    }
    // An empty file was created and not written yet.
    let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
    Ok((!text.is_empty()).then_some(text))
}

/// Moves an accepted result file into the archive, so that another run does not read it.
pub(crate) fn archive_result(number: &str, run: &str) {
    let to = Path::new(ARCHIVE).join(format!("{number}-{run}.txt"));
    let _no_result_file = fs::rename(result_path(number), to);
}

/// Watches the directory of results for files that were closed after writing or renamed into place.
struct Watch {
    inotify: Arc<OwnedFd>,
    /// Becomes ready when `_stop` is dropped, which ends the waiting thread.
    stopped: Arc<OwnedFd>,
    _stop: OwnedFd,
}

impl Watch {
    fn new() -> std::io::Result<Watch> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let events = WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        inotify::add_watch(&fd, COMPLETED, events)?;
        let (stopped, stop) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        Ok(Watch {
            inotify: Arc::new(fd),
            stopped: Arc::new(stopped),
            _stop: stop,
        })
    }

    async fn changed(&self) -> std::io::Result<()> {
        let (inotify, stopped) = (Arc::clone(&self.inotify), Arc::clone(&self.stopped));
        let waits = move || {
            let mut fds = [
                PollFd::new(&*inotify, PollFlags::IN),
                PollFd::new(&*stopped, PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            let mut buffer = [0u8; 4096];
            // Which event it was does not matter: the caller reads the result file again.
            while let Ok(1..) = rustix::io::read(&*inotify, &mut buffer) {}
            Ok(())
        };
        tokio::task::spawn_blocking(waits)
            .await
            .unwrap_or_else(|e| Err(std::io::Error::other(e)))
    }
}
