//! `abbey task sync`, and `task import` and `export` of Markdown: the work queue as a file that people edit.

use crate::connect::operator_client;
use crate::exit::{self, Failure, Outcome};
use crate::output;
use crate::queue_text::QueueText;
use abbey_api::client::Client;
use abbey_api::{QueueBody, QueueConflict, QueueDoc};
use abbey_daemon::Home;
use abbey_support::input::read_input;
use futures_util::StreamExt;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;

/// Time in which further changes are collected before a synchronisation.
const DEBOUNCE: Duration = Duration::from_millis(300);

/// Delay before the next request to a control plane that does not answer.
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// How long previous content of the file is kept, for editors that still have it open.
const KEEP_PREVIOUS: Duration = Duration::from_secs(600);

/// Rounds in which the file may change during a synchronisation before it is stopped.
const ROUNDS_MAX: u32 = 20;

/// Longest work queue file that is read, bytes; the house takes shorter ones.
const TEXT_MAX: u64 = 8 << 20;

fn broken(what: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    let text = format!("cannot {what} `{}`", path.display());
    move |e| Failure::plain(format!("{text}: {e}"))
}

/// As [`broken`], of what the command line names.
fn unusable(what: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    let (what, path) = (format!("cannot {what}"), path.to_owned());
    move |e| Failure::unusable_path(&what, &path, e)
}

/// Prints the work queue of the house as Markdown.
pub(crate) async fn export_work_queue(client: &Client) -> Outcome {
    let doc = client.queue().show().await?;
    output::print_line(doc.text.trim_end());
    Ok(exit::OK)
}

/// Applies the edits in a work queue file to the house and prints the changes; the file is not changed. Exit code 4
/// if an edit conflicts.
pub(crate) async fn import_work_queue(client: &Client, json: bool, file: &Path) -> Outcome {
    let content = read(file)?;
    let doc = merge(client, &QueueText::decode(&content)).await?;
    report(json, file, &doc)
}

fn report(json: bool, file: &Path, doc: &QueueDoc) -> Outcome {
    let conflicts = doc.conflicts.iter().map(|c| {
        let place = format!("{}:{}", file.display(), c.line);
        let task = c.task.as_ref().map(|t| format!("{t}: "));
        format!("{place}: {}{}", task.unwrap_or_default(), c.why)
    });
    if json {
        output::print_json(doc);
        // The reason for the exit code.
        conflicts.for_each(|c| output::print_message(&c));
    } else {
        let (done, known) = (doc.done.iter(), doc.known.iter());
        done.chain(known).for_each(|d| output::print_line(d));
        conflicts.for_each(|c| output::print_line(&c));
    }
    Ok(match doc.conflicts.is_empty() {
        true => exit::OK,
        false => exit::CONFLICT,
    })
}

/// Applies the edits in a work queue file to the house, and writes the changes of the house into the file; with
/// `watch` again whenever one of them changes, until interrupted. Exit code 4 if an edit conflicts.
pub(crate) async fn sync_work_queue(home: &Home, json: bool, file: &Path, watch: bool) -> Outcome {
    let client = operator_client(home)?;
    if !watch {
        let doc = synchronize(&client, file).await?;
        return report(json, file, &doc);
    }
    let (changed, mut changes) = mpsc::channel(1);
    watch_file(file, changed.clone())?;
    drop(tokio::spawn(watch_house(home.clone(), changed)));
    // A line that stays as it is would be reported again at every change.
    let mut reported: Vec<QueueConflict> = Vec::new();
    loop {
        match synchronize(&client, file).await {
            Ok(mut doc) => {
                let conflicts = std::mem::take(&mut doc.conflicts);
                let is_old = |c: &&QueueConflict| {
                    reported
                        .iter()
                        .any(|r| r.wrote == c.wrote && r.why == c.why)
                };
                doc.conflicts = conflicts.iter().filter(|c| !is_old(c)).cloned().collect();
                reported = conflicts.into_iter().filter(|c| c.kept).collect();
                if !doc.done.is_empty() || !doc.known.is_empty() || !doc.conflicts.is_empty() {
                    let _told = report(json, file, &doc)?;
                }
            }
            Err(error) if error.code() == exit::UNREACHABLE => {
                // Edits that people make meanwhile stay in the file.
                tokio::time::sleep(RETRY_DELAY).await;
                continue;
            }
            Err(error) => return Err(error),
        }
        tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(exit::OK),
            change = changes.recv() => if change.is_none() { return Ok(exit::OK) },
        }
        tokio::time::sleep(DEBOUNCE).await;
        let _those_meanwhile = changes.try_recv();
    }
}

/// One synchronisation. The file is exchanged atomically, never overwritten, so that an edit made at the same moment is
/// found in the previous content and applied too; so is one that an editor writes later into the file it had open.
async fn synchronize(client: &Client, file: &Path) -> Result<QueueDoc, Failure> {
    let mut all = QueueDoc {
        version: abbey_api::VERSION,
        text: String::new(),
        edits: Vec::new(),
        done: Vec::new(),
        known: Vec::new(),
        conflicts: Vec::new(),
    };
    for (place, late) in find_late_edits(file)? {
        apply_edits(client, file, &late, &mut all).await?;
        keep_previous(file, &place, &late)?;
    }
    let mut content = read_if_there(file)?;
    keep_original(file, &content)?;
    for _ in 0..ROUNDS_MAX {
        let new = apply_edits(client, file, &content, &mut all).await?;
        let found = match new == content {
            true => read_if_there(file)?,
            false => exchange(file, &new)?,
        };
        if found == content {
            return Ok(all);
        }
        content = found;
    }
    let text = format!(
        "`{}` keeps changing; its content was imported and the file was not rewritten; run the command again",
        file.display()
    );
    Err(Failure::plain(text).with_code(exit::CONFLICT))
}

/// Sends the content of a work queue to the house, collects the outcome, and returns the new content.
async fn apply_edits(
    client: &Client,
    file: &Path,
    content: &[u8],
    all: &mut QueueDoc,
) -> Result<Vec<u8>, Failure> {
    let decoded = QueueText::decode(content);
    let doc = merge(client, &decoded).await?;
    keep_conflicts(file, &doc)?;
    let new = decoded.edited(&doc.edits).ok_or_else(|| {
        Failure::plain(format!(
            "the house answered with changes that do not fit `{}`, so the file was not written",
            file.display()
        ))
    })?;
    all.text = doc.text;
    all.edits = doc.edits;
    all.done.extend(doc.done);
    all.known.extend(doc.known);
    let is_new = |c: &QueueConflict| !all.conflicts.iter().any(|old| old.kept && old == c);
    let conflicts: Vec<QueueConflict> = doc.conflicts.into_iter().filter(is_new).collect();
    all.conflicts.extend(conflicts);
    Ok(new)
}

async fn merge(client: &Client, content: &QueueText<'_>) -> Result<QueueDoc, Failure> {
    let body = QueueBody {
        text: content.text().to_owned(),
        undecoded: content.undecoded(),
    };
    Ok(client.queue().merge(&body).await?)
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    read_input(file, TEXT_MAX).map_err(|e| unusable("read", file)(e.into()))
}

/// As [`read`], of a file that need not exist yet.
fn read_if_there(file: &Path) -> Result<Vec<u8>, Failure> {
    match read_input(file, TEXT_MAX) {
        Ok(content) => Ok(content),
        Err(e) if e.is_not_found() => Ok(Vec::new()),
        Err(e) => Err(unusable("read", file)(e.into())),
    }
}

/// Prefix of the names of files with previous content: `.NAME.queue-`.
fn prefix(file: &Path) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    format!(".{name}.queue-")
}

fn digest(content: &[u8]) -> String {
    abbey_support::digest::sha256_hex(content)[..16].to_owned()
}

/// Writes a new file that as many may read and change as `file`, if that exists; never more, not even for a moment.
fn write_like(file: &Path, new: &Path, content: &[u8]) -> Result<(), Failure> {
    let like = match std::fs::metadata(file) {
        Ok(like) => Some(like),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => return Err(broken("read", file)(e)),
    };
    // One that a process with the same number left.
    match std::fs::remove_file(new) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(broken("remove", new)(e));
        }
        _ => {}
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    if like.is_some() {
        options.mode(0o600);
    }
    let mut out = options.open(new).map_err(broken("write", new))?;
    if let Some(like) = like {
        // Only root can, and for everybody else it is their own already.
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::fchown(&out, Some(like.uid()), Some(like.gid()))
                .map_err(broken("protect", new))?;
        }
        out.set_permissions(like.permissions())
            .map_err(broken("protect", new))?;
    }
    out.write_all(content).map_err(broken("write", new))
}

/// Whether a process that this one may look into has this file open.
fn is_open_somewhere(file: &Path) -> bool {
    let Ok(wanted) = std::fs::metadata(file) else {
        return false;
    };
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut descriptors = processes
        .filter(|e| e.file_name().to_string_lossy().parse::<i32>().is_ok())
        .flat_map(|e| {
            let list = std::fs::read_dir(e.path().join("fd"));
            list.into_iter().flatten().flatten()
        });
    descriptors.any(|entry| {
        let open = std::fs::metadata(entry.path());
        open.is_ok_and(|m| (m.dev(), m.ino()) == (wanted.dev(), wanted.ino()))
    })
}

/// Removes a file with previous content that nobody has open, so that nobody can write into it any more. Returns whether it
/// did; `taken` is what was applied of it.
fn remove_unused(place: &Path, taken: &[u8]) -> bool {
    use std::os::unix::fs::PermissionsExt;
    // Others may have it open, whose processes only root can look into.
    let only_ours = std::fs::metadata(place).is_ok_and(|m| m.permissions().mode() & 0o022 == 0);
    let sees_all = only_ours || rustix::process::geteuid().is_root();
    if !sees_all || is_open_somewhere(place) {
        return false;
    }
    // What an editor wrote before it closed the file is applied later.
    let unchanged = read(place).is_ok_and(|content| content == taken);
    unchanged && std::fs::remove_file(place).is_ok()
}

/// Replaces the content of the file and returns the previous content, which is kept for a while in a hidden file if an
/// editor still has it open.
fn exchange(file: &Path, content: &[u8]) -> Result<Vec<u8>, Failure> {
    let new = file.with_file_name(format!("{}new-{}", prefix(file), std::process::id()));
    write_like(file, &new, content)?;
    match renameat_with(CWD, &new, CWD, file, RenameFlags::EXCHANGE) {
        Ok(()) => {}
        Err(rustix::io::Errno::NOENT) => {
            return match renameat_with(CWD, &new, CWD, file, RenameFlags::NOREPLACE) {
                Ok(()) => Ok(Vec::new()),
                // The file was created concurrently: apply its content first.
                Err(rustix::io::Errno::EXIST) => read_if_there(file),
                Err(e) => Err(broken("write", file)(e.into())),
            };
        }
        Err(e) => return Err(broken("replace", file)(e.into())),
    }
    let was = read(&new)?;
    keep_previous(file, &new, &was)?;
    Ok(was)
}

/// Names a file with previous content by the digest of what was applied of it, and by a number, since two may have the
/// same content.
fn keep_previous(file: &Path, place: &Path, taken: &[u8]) -> Result<(), Failure> {
    if remove_unused(place, taken) {
        return Ok(());
    }
    let rename = || {
        let number = std::fs::symlink_metadata(place)?.ino();
        let name = format!("{}{}-{number}", prefix(file), digest(taken));
        std::fs::rename(place, file.with_file_name(name))
    };
    match rename() {
        // A concurrent synchronisation applied the same content.
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(broken("keep", place)(e)),
        _ => Ok(()),
    }
}

/// Edits that were written into previous content after the exchange, or that an interrupted synchronisation left. Files
/// that nobody has open any more, or that have not changed for 10 minutes, are removed.
fn find_late_edits(file: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>, Failure> {
    let dir = dir_of(file);
    let begins = prefix(file);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&dir).map_err(unusable("list", &dir))? {
        let entry = entry.map_err(broken("list", &dir))?;
        let (name, place) = (entry.file_name(), entry.path());
        let Some(rest) = name.to_str().and_then(|n| n.strip_prefix(&begins)) else {
            continue;
        };
        let writes = rest.strip_prefix("new-");
        if writes.is_some_and(|pid| Path::new("/proc").join(pid).exists()) {
            continue;
        }
        // A concurrent synchronisation may remove it first.
        let (Ok(content), Ok(meta)) = (read_input(&place, TEXT_MAX), entry.metadata()) else {
            continue;
        };
        if rest.split('-').next() != Some(&digest(&content)) {
            found.push((place, content));
            continue;
        }
        let age = meta.modified().ok().and_then(|at| at.elapsed().ok());
        if !remove_unused(&place, &content) && age.is_some_and(|age| age > KEEP_PREVIOUS) {
            let _already_removed = std::fs::remove_file(&place);
        }
    }
    Ok(found)
}

/// Keeps a copy of a file that the house did not write, beside the file that replaces it.
fn keep_original(file: &Path, content: &[u8]) -> Result<(), Failure> {
    let header = b"<!-- abbey ";
    if content.trim_ascii().is_empty() || content.windows(header.len()).any(|w| w == header) {
        return Ok(());
    }
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let place = file.with_file_name(format!("{name}.before"));
    let new = file.with_file_name(format!(".{name}.before-{}", std::process::id()));
    write_like(file, &new, content)?;
    // Atomic, and never over an earlier copy: the first one is what people wrote.
    match renameat_with(CWD, &new, CWD, &place, RenameFlags::NOREPLACE) {
        Ok(()) => {
            let place = place.display();
            output::print_message(&format!(
                "the previous content of the file is kept in `{place}`"
            ));
            Ok(())
        }
        Err(rustix::io::Errno::EXIST) => std::fs::remove_file(&new).map_err(broken("remove", &new)),
        Err(e) => Err(broken("keep", &place)(e.into())),
    }
}

/// Appends edits that were refused to a file beside the queue, since their lines are rewritten.
fn keep_conflicts(file: &Path, doc: &QueueDoc) -> Result<(), Failure> {
    let overwritten: Vec<&QueueConflict> = doc.conflicts.iter().filter(|c| !c.kept).collect();
    if overwritten.is_empty() {
        return Ok(());
    }
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let place = file.with_file_name(format!("{name}.conflicts"));
    // What people wrote into the file is for whom the file is.
    let mode = std::fs::metadata(file).map_or(0o600, |m| m.mode() & 0o666);
    // Whoever owns the directory may have put something else in its place.
    let no_link = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let opened = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(mode)
        .custom_flags(i32::try_from(no_link).unwrap_or(0))
        .open(&place)
        .and_then(|out| match out.metadata()?.is_file() {
            true => Ok(out),
            false => Err(std::io::Error::other("it is no file")),
        });
    let mut out = opened.map_err(broken("open", &place))?;
    for c in overwritten {
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

/// Sends a message whenever the file is written or replaced.
fn watch_file(file: &Path, changed: mpsc::Sender<()>) -> Result<(), Failure> {
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
        // Other files of the directory count too: a synchronisation without changes does nothing.
        while let Ok(1..) = rustix::io::read(&fd, &mut buffer) {
            let _already_pending = changed.try_send(());
        }
    });
    Ok(())
}

/// Sends a message for every event of the house; reconnects when the house restarts.
async fn watch_house(home: Home, changed: mpsc::Sender<()>) {
    while !changed.is_closed() {
        if let Ok(client) = operator_client(&home)
            && let Ok(stream) = client.activity().follow(None).await
        {
            let mut events = Box::pin(stream.events());
            while let Some(Ok(_)) = events.next().await {
                let _already_pending = changed.try_send(());
            }
        }
        tokio::time::sleep(RETRY_DELAY).await;
    }
}
