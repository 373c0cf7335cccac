//! The work queue as a file: printed, taken in, or kept the same on both sides while people and agents work.

use crate::connect::client;
use crate::exit::{self, Failure};
use crate::output;
use crate::watch::bytes;
use abbey_api::client::Client;
use abbey_api::{QueueBody, QueueDoc};
use abbey_daemon::Home;
use eventsource_stream::Eventsource;
use futures_util::StreamExt;
use hyper::Method;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;

type Outcome = Result<u8, Failure>;

/// Changes that follow each other so closely are taken together.
const TOGETHER: Duration = Duration::from_millis(300);
/// Pause before a house that does not answer is asked again.
const AGAIN: Duration = Duration::from_secs(2);
/// Turns in which a file may change under our hands before we leave it to whoever changes it.
const TURNS_MAX: u32 = 20;

fn broken(what: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    let text = format!("could not {what} `{}`", path.display());
    move |e| Failure::plain(format!("{text}: {e}"))
}

/// Prints it.
pub(crate) async fn export(client: &Client) -> Outcome {
    let doc: QueueDoc = client.get("/api/v1/queue").await?;
    output::line(doc.text.trim_end());
    Ok(exit::OK)
}

/// Does what a file wants, and leaves the file alone.
pub(crate) async fn import(client: &Client, json: bool, file: &Path) -> Outcome {
    let text = std::fs::read_to_string(file).map_err(broken("read", file))?;
    let doc: QueueDoc = client
        .post("/api/v1/queue", &QueueBody { text }, &[])
        .await?;
    report(json, file, &doc)
}

fn report(json: bool, file: &Path, doc: &QueueDoc) -> Outcome {
    if json {
        output::json(doc);
    } else {
        doc.done.iter().for_each(|d| output::line(d));
        for c in &doc.conflicts {
            let place = format!("{}:{}", file.display(), c.line);
            let task = c
                .task
                .as_ref()
                .map_or_else(String::new, |t| format!("{t}: "));
            output::line(&format!("{place}: {task}{}", c.why));
        }
    }
    Ok(match doc.conflicts.is_empty() {
        true => exit::OK,
        false => exit::CONFLICT,
    })
}

/// Brings file and house to the same; with `watch`, whenever one of them changes, until it is ended.
pub(crate) async fn sync(home: &Home, json: bool, file: &Path, watch: bool) -> Outcome {
    let client = client(home)?;
    if !watch {
        let doc = once(&client, file).await?;
        return report(json, file, &doc);
    }
    let (tell, mut changes) = mpsc::channel(1);
    watch_file(file, tell.clone())?;
    drop(tokio::spawn(watch_house(home.clone(), tell)));
    loop {
        match once(&client, file).await {
            Ok(doc) if doc.done.is_empty() && doc.conflicts.is_empty() => {}
            Ok(doc) => drop(report(json, file, &doc)?),
            Err(error) if error.code() == exit::UNREACHABLE => {
                // What people write meanwhile stays in the file.
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            Err(error) => return Err(error),
        }
        tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(exit::OK),
            change = changes.recv() => if change.is_none() { return Ok(exit::OK) },
        }
        tokio::time::sleep(TOGETHER).await;
        let _those_meanwhile = changes.try_recv();
    }
}

/// One turn. A file that somebody writes at the same moment is exchanged, not overwritten: what was there is looked
/// at once more, and taken along.
async fn once(client: &Client, file: &Path) -> Result<QueueDoc, Failure> {
    let read = || match std::fs::read_to_string(file) {
        Ok(text) => Ok(text),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(e) => Err(broken("read", file)(e)),
    };
    let mut text = read()?;
    keep_own(file, &text)?;
    let mut all: Option<QueueDoc> = None;
    for _ in 0..TURNS_MAX {
        let body = QueueBody { text: text.clone() };
        let mut doc: QueueDoc = client.post("/api/v1/queue", &body, &[]).await?;
        keep_conflicts(file, &doc)?;
        let found = match doc.text == text {
            true => read()?,
            false => exchange(file, &doc.text)?,
        };
        if let Some(before) = all.take() {
            doc.done.splice(0..0, before.done);
            doc.conflicts.splice(0..0, before.conflicts);
        }
        if found == text {
            return Ok(doc);
        }
        all = Some(doc);
        text = found;
    }
    let text = format!(
        "`{}` changes all the time; what it says was taken, and the file is left as it is",
        file.display()
    );
    Err(Failure::plain(text).with_code(exit::CONFLICT))
}

/// Puts a text in the place of a file, and gives what was there.
fn exchange(file: &Path, text: &str) -> Result<String, Failure> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let new = file.with_file_name(format!(".{name}.{}", std::process::id()));
    let mode = std::fs::metadata(file).map(|m| m.permissions());
    std::fs::write(&new, text).map_err(broken("write", &new))?;
    if let Ok(mode) = mode {
        std::fs::set_permissions(&new, mode).map_err(broken("protect", &new))?;
    }
    let renamed = renameat_with(CWD, &new, CWD, file, RenameFlags::EXCHANGE);
    match renamed {
        Ok(()) => {}
        Err(rustix::io::Errno::NOENT) => {
            let place = renameat_with(CWD, &new, CWD, file, RenameFlags::NOREPLACE);
            place.map_err(|e| broken("write", file)(e.into()))?;
            return Ok(String::new());
        }
        Err(e) => return Err(broken("replace", file)(e.into())),
    }
    let was = std::fs::read_to_string(&new).map_err(broken("read", &new))?;
    std::fs::remove_file(&new).map_err(broken("remove", &new))?;
    Ok(was)
}

/// A file that the house did not write is kept beside the one that takes its place.
fn keep_own(file: &Path, text: &str) -> Result<(), Failure> {
    if text.trim().is_empty() || text.contains("<!-- abbey ") {
        return Ok(());
    }
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let place = file.with_file_name(format!("{name}.before"));
    let mut made = std::fs::OpenOptions::new();
    match made.write(true).create_new(true).open(&place) {
        Ok(mut kept) => {
            output::say(&format!(
                "the file as it was is kept as `{}`",
                place.display()
            ));
            kept.write_all(text.as_bytes())
                .map_err(broken("write", &place))
        }
        // The first one is the one that people wrote.
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(broken("make", &place)(e)),
    }
}

/// What people wrote and was not done is not lost with the line that it stood in.
fn keep_conflicts(file: &Path, doc: &QueueDoc) -> Result<(), Failure> {
    if doc.conflicts.is_empty() {
        return Ok(());
    }
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let place = file.with_file_name(format!("{name}.conflicts"));
    let opened = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(&place);
    let mut out = opened.map_err(broken("open", &place))?;
    for c in &doc.conflicts {
        let text = format!("line {}: {}\n{}\n\n", c.line, c.why, c.wrote);
        out.write_all(text.as_bytes())
            .map_err(broken("write", &place))?;
    }
    Ok(())
}

/// Tells when the file was written or replaced.
fn watch_file(file: &Path, tell: mpsc::Sender<()>) -> Result<(), Failure> {
    let parent = file.parent().filter(|p| !p.as_os_str().is_empty());
    let dir: PathBuf = parent.unwrap_or(Path::new(".")).to_owned();
    let watch = || -> rustix::io::Result<_> {
        let fd = inotify::init(CreateFlags::CLOEXEC)?;
        let wanted = WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        inotify::add_watch(&fd, &dir, wanted)?;
        Ok(fd)
    };
    let fd = watch().map_err(|e| broken("watch", &dir)(e.into()))?;
    std::thread::spawn(move || {
        let mut buffer = [0u8; 4096];
        // Which file it was does not matter: a look that finds nothing new changes nothing.
        while let Ok(1..) = rustix::io::read(&fd, &mut buffer) {
            let _one_is_enough = tell.try_send(());
        }
    });
    Ok(())
}

/// Tells when something happened in the house; goes on when the house comes back.
async fn watch_house(home: Home, tell: mpsc::Sender<()>) {
    while !tell.is_closed() {
        if let Ok(client) = client(&home)
            && let Ok(response) = client.open(Method::GET, "/api/v1/events", None, &[]).await
            && response.status().is_success()
        {
            let mut events = Box::pin(bytes(response).eventsource());
            while let Some(Ok(_)) = events.next().await {
                let _one_is_enough = tell.try_send(());
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}
