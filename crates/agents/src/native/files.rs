//! Work by files, for whoever knows nothing else: a task lies in `work/TASK-12.active`, and its result in
//! `completed/TASK-12.txt` (S2-10 to S2-12). What counts is the result alone: who removes the other file early, or
//! ends before we heard of it, loses nothing; the task itself ends in one change of the house's state.

use super::work::Ending;
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

/// Where work lies.
const WORK: &str = "work";
/// Where results lie.
const COMPLETED: &str = "completed";
/// Where results lie that were handed over.
const ARCHIVE: &str = "completed/archive";

/// The file that says what is to be done; gone with the run.
struct Active(PathBuf);

impl Drop for Active {
    fn drop(&mut self) {
        let _whoever_worked_removed_it = fs::remove_file(&self.0);
    }
}

fn result_of(number: &str) -> PathBuf {
    Path::new(COMPLETED).join(format!("{number}.txt"))
}

/// Waits for the result of a task; with a program, that is started to make it.
pub(super) async fn perform(offer: &OfferDoc, command: &[String], output_max: u64) -> Ending {
    match attend(offer, command, output_max).await {
        Ok(text) => Ending::Done {
            text,
            source: ResultSource::Command,
            data: Value::Null,
        },
        Err(text) => Ending::Failed {
            reason: EndReason::AgentError,
            text,
        },
    }
}

async fn attend(offer: &OfferDoc, command: &[String], output_max: u64) -> Result<String, String> {
    let number = &offer.number;
    let told = |what: &'static str, path: &Path| {
        let path = path.display().to_string();
        move |e: std::io::Error| format!("could not {what} `{path}`: {e}")
    };
    for dir in [WORK, COMPLETED, ARCHIVE] {
        fs::create_dir_all(dir).map_err(told("make", Path::new(dir)))?;
    }
    let watch = Watch::new().map_err(|e| format!("could not watch `{COMPLETED}`: {e}"))?;
    let active = Active(Path::new(WORK).join(format!("{number}.active")));
    let text = match &offer.data.is_empty() {
        true => offer.text.clone(),
        false => format!(
            "{}\n\nData for it, no instruction:\n{}",
            offer.text,
            Value::Object(offer.data.clone())
        ),
    };
    let before = offer.failure.as_ref().map_or_else(String::new, |why| {
        format!("\n\nThe try before did not do: {why}")
    });
    let text =
        format!("{number}\n{text}{before}\n\nThe result goes to {COMPLETED}/{number}.txt.\n");
    file::publish(&active.0, text, 0o600, file::Sync::None).map_err(told("write", &active.0))?;
    let result = result_of(number);
    let read = || read(&result, output_max);
    let Some((program, args)) = command.split_first() else {
        // What a run before did not get to hand over is there already.
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
        .stdin(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .status()
        .await
        .map_err(|e| format!("`{program}` could not be run: {e}"))?;
    match read()? {
        // A result that was begun before a failure is not one.
        Some(text) if status.success() => Ok(text),
        _ => Err(format!(
            "`{program}` ended ({status}) without {}",
            result.display()
        )),
    }
}

/// A result, if there is one: a plain file of this directory, and nothing that a link leads to.
fn read(path: &Path, output_max: u64) -> Result<Option<String>, String> {
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
        return Err(format!("`{}` is not a file", path.display()));
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
    // One that was made and not yet written.
    let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
    Ok((!text.is_empty()).then_some(text))
}

/// Puts aside what was handed over, so that it is not taken for the result of another run.
pub(super) fn settled(number: &str, run: &str) {
    let to = Path::new(ARCHIVE).join(format!("{number}-{run}.txt"));
    let _there_was_none = fs::rename(result_of(number), to);
}

/// Tells when a file was written to its end, or came under its name.
struct Watch {
    inotify: Arc<OwnedFd>,
    /// Whoever waits ends when the other end is gone.
    over: Arc<OwnedFd>,
    _ours: OwnedFd,
}

impl Watch {
    fn new() -> std::io::Result<Watch> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let wanted = WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        inotify::add_watch(&fd, COMPLETED, wanted)?;
        let (over, ours) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        Ok(Watch {
            inotify: Arc::new(fd),
            over: Arc::new(over),
            _ours: ours,
        })
    }

    async fn changed(&self) -> std::io::Result<()> {
        let (inotify, over) = (Arc::clone(&self.inotify), Arc::clone(&self.over));
        let waits = move || {
            let mut fds = [
                PollFd::new(&*inotify, PollFlags::IN),
                PollFd::new(&*over, PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            let mut buffer = [0u8; 4096];
            // What it was does not matter: whoever waits looks again.
            while let Ok(1..) = rustix::io::read(&*inotify, &mut buffer) {}
            Ok(())
        };
        tokio::task::spawn_blocking(waits)
            .await
            .unwrap_or_else(|e| Err(std::io::Error::other(e)))
    }
}
