//! `abbey task sync`, and `task import` and `export` of Markdown: the work queue as a file that people edit.

use crate::connect::client;
use crate::exit::{self, Failure, Outcome};
use crate::http_stream::bytes;
use crate::output;
use abbey_api::client::Client;
use abbey_api::{QueueBody, QueueDoc};
use abbey_daemon::Home;
use eventsource_stream::Eventsource;
use futures_util::StreamExt;
use hyper::Method;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;

/// Changes that follow each other so closely are taken together.
const TOGETHER: Duration = Duration::from_millis(300);

/// Pause before a house that does not answer is asked again.
const AGAIN: Duration = Duration::from_secs(2);

/// How long what a file was before is kept, for whoever has it open.
const KEPT: Duration = Duration::from_secs(600);

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
/// at once more, and taken along. Also what was written into it later, by somebody who had it open, is found.
async fn once(client: &Client, file: &Path) -> Result<QueueDoc, Failure> {
    let mut all = QueueDoc {
        version: abbey_api::VERSION,
        text: String::new(),
        done: Vec::new(),
        conflicts: Vec::new(),
    };
    for (place, late) in left_behind(file)? {
        take(client, file, &late, &mut all).await?;
        put_aside(file, &place, &late)?;
    }
    let mut text = read(file)?;
    keep_own(file, &text)?;
    for _ in 0..TURNS_MAX {
        take(client, file, &text, &mut all).await?;
        let found = match all.text == text {
            true => read(file)?,
            false => exchange(file, &all.text)?,
        };
        if found == text {
            return Ok(all);
        }
        text = found;
    }
    let text = format!(
        "`{}` changes all the time; what it says was taken, and the file is left as it is",
        file.display()
    );
    Err(Failure::plain(text).with_code(exit::CONFLICT))
}

/// Does what a text wants.
async fn take(client: &Client, file: &Path, text: &str, all: &mut QueueDoc) -> Result<(), Failure> {
    let text = text.to_owned();
    let doc: QueueDoc = client
        .post("/api/v1/queue", &QueueBody { text }, &[])
        .await?;
    keep_conflicts(file, &doc)?;
    all.text = doc.text;
    all.done.extend(doc.done);
    all.conflicts.extend(doc.conflicts);
    Ok(())
}

fn read(file: &Path) -> Result<String, Failure> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(text),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(e) => Err(broken("read", file)(e)),
    }
}

/// `.NAME.queue-`, with which the names begin of what a file was before.
fn prefix(file: &Path) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    format!(".{name}.queue-")
}

fn digest(text: &str) -> String {
    abbey_support::digest::sha256_hex(text.as_bytes())[..16].to_owned()
}

/// Puts a text in the place of a file, and gives what was there. That stays for a while under a name that says what of
/// it was taken, for whoever still has it open and writes.
fn exchange(file: &Path, text: &str) -> Result<String, Failure> {
    let new = file.with_file_name(format!("{}new-{}", prefix(file), std::process::id()));
    let mode = std::fs::metadata(file).map(|m| m.permissions());
    std::fs::write(&new, text).map_err(broken("write", &new))?;
    if let Ok(mode) = mode {
        std::fs::set_permissions(&new, mode).map_err(broken("protect", &new))?;
    }
    match renameat_with(CWD, &new, CWD, file, RenameFlags::EXCHANGE) {
        Ok(()) => {}
        Err(rustix::io::Errno::NOENT) => {
            return match renameat_with(CWD, &new, CWD, file, RenameFlags::NOREPLACE) {
                Ok(()) => Ok(String::new()),
                // Somebody made it this very moment: what they wrote is looked at first.
                Err(rustix::io::Errno::EXIST) => read(file),
                Err(e) => Err(broken("write", file)(e.into())),
            };
        }
        Err(e) => return Err(broken("replace", file)(e.into())),
    }
    let was = std::fs::read_to_string(&new).map_err(broken("read", &new))?;
    put_aside(file, &new, &was)?;
    Ok(was)
}

/// Names what a file was by what of it was taken, and by itself: two of them may say the same.
fn put_aside(file: &Path, place: &Path, taken: &str) -> Result<(), Failure> {
    let rename = || {
        let number = std::fs::symlink_metadata(place)?.ino();
        let name = format!("{}{}-{number}", prefix(file), digest(taken));
        std::fs::rename(place, file.with_file_name(name))
    };
    match rename() {
        // Another turn was quicker, and took the same.
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(broken("put aside", place)(e)),
        _ => Ok(()),
    }
}

/// What was written into a file after it was exchanged, or by a turn that did not come to its end; what nobody has
/// written for a while is removed.
fn left_behind(file: &Path) -> Result<Vec<(PathBuf, String)>, Failure> {
    let dir = dir_of(file);
    let begins = prefix(file);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&dir).map_err(broken("list", &dir))? {
        let entry = entry.map_err(broken("list", &dir))?;
        let (name, place) = (entry.file_name(), entry.path());
        let Some(rest) = name.to_str().and_then(|n| n.strip_prefix(&begins)) else {
            continue;
        };
        let writes = rest.strip_prefix("new-");
        if writes.is_some_and(|pid| Path::new("/proc").join(pid).exists()) {
            continue;
        }
        // Another turn may be quicker.
        let (Ok(text), Ok(meta)) = (std::fs::read_to_string(&place), entry.metadata()) else {
            continue;
        };
        if rest.split('-').next() != Some(&digest(&text)) {
            found.push((place, text));
            continue;
        }
        let age = meta.modified().ok().and_then(|at| at.elapsed().ok());
        if age.is_some_and(|age| age > KEPT) {
            let _quicker = std::fs::remove_file(&place);
        }
    }
    Ok(found)
}

/// A file that the house did not write is kept beside the one that takes its place.
fn keep_own(file: &Path, text: &str) -> Result<(), Failure> {
    if text.trim().is_empty() || text.contains("<!-- abbey ") {
        return Ok(());
    }
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let place = file.with_file_name(format!("{name}.before"));
    let new = file.with_file_name(format!(".{name}.before-{}", std::process::id()));
    std::fs::write(&new, text).map_err(broken("write", &new))?;
    // Whole or not at all; and the first one is the one that people wrote.
    match renameat_with(CWD, &new, CWD, &place, RenameFlags::NOREPLACE) {
        Ok(()) => {
            let place = place.display();
            output::say(&format!("the file as it was is kept as `{place}`"));
            Ok(())
        }
        Err(rustix::io::Errno::EXIST) => std::fs::remove_file(&new).map_err(broken("remove", &new)),
        Err(e) => Err(broken("keep", &place)(e.into())),
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

fn dir_of(file: &Path) -> PathBuf {
    let parent = file.parent().filter(|p| !p.as_os_str().is_empty());
    parent.unwrap_or(Path::new(".")).to_owned()
}

/// Tells when the file was written or replaced.
fn watch_file(file: &Path, tell: mpsc::Sender<()>) -> Result<(), Failure> {
    let dir = dir_of(file);
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
