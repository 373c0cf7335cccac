//! The session: one JSON object a line, appended, rotated by size, with one writer (S4-10).
//!
//! Lines reach the disk at the end of each run (`fdatasync`); a crash in between can tear only the
//! last line, which is closed off at the next start and skipped by readers.

use abbey_model::Redactor;
use serde_json::Value;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Size at which a session file is rotated, in bytes.
const FILE_MAX: u64 = 8 << 20;

/// The session file of an agent's home.
pub(crate) struct Session {
    home: PathBuf,
    file: File,
    position: u64,
    redactor: Redactor,
}

impl Session {
    /// Opens the session file of a home directory.
    ///
    /// # Errors
    /// When it cannot be written, or another process writes it.
    pub(crate) fn open(home: &Path) -> io::Result<Session> {
        let path = home.join("session.jsonl");
        move_aside(&path)?;
        let mut file = open(&path)?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(
            |_| {
                io::Error::new(
                    io::ErrorKind::ResourceBusy,
                    format!("`{}` has another writer", path.display()),
                )
            },
        )?;
        let mut position = file.seek(SeekFrom::End(0))?;
        if position > 0 {
            let mut last = [0u8];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
                position += 1;
            }
        }
        Ok(Session {
            home: home.to_owned(),
            file,
            position,
            redactor: Redactor::default(),
        })
    }

    /// Offset of the next line in the session file, bytes.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The newest lines of the session, of at most `limit` bytes; the first of them may be the end of a line.
    pub(crate) fn newest(&self, limit: u64) -> String {
        let mut text = String::new();
        for path in newest_files(&self.home, limit).into_iter().rev() {
            text.push_str(&read_end(&path, limit).unwrap_or_default());
        }
        let surplus = text
            .len()
            .saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
        let start = (surplus..=text.len()).find(|at| text.is_char_boundary(*at));
        text.split_off(start.unwrap_or(0))
    }

    /// Appends an event as one line with secrets redacted, and with the time of this host's clock. If the disk is full the line is lost,
    /// and the run continues.
    pub(crate) fn append(&mut self, event: &Value) {
        let mut event = event.clone();
        if let Value::Object(fields) = &mut event {
            fields.insert("at".to_owned(), now_ms().into());
        }
        let line = format!("{}\n", self.redactor.clean(&event.to_string()));
        if self.file.write_all(line.as_bytes()).is_ok() {
            self.position += line.len() as u64;
        }
    }

    /// Flushes the file to the disk, and rotates a large one between two runs.
    pub(crate) fn sync(&mut self) {
        let _disk_full = self.file.sync_data();
        if self.position < FILE_MAX {
            return;
        }
        let path = self.home.join("session.jsonl");
        let rotated = (1..)
            .map(|n| rotated_path(&self.home, n))
            .find(|p| !p.exists());
        if let Some(rotated) = rotated
            && fs::rename(&path, rotated).is_ok()
            && let Ok(file) = open(&path)
        {
            let _ours_alone =
                rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive);
            self.file = file;
            self.position = 0;
        }
    }
}

/// Moves what is no file and stands in the place of the session out of the way: a program of the agent put it there.
fn move_aside(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() => {
            let free = (1..).map(|n| path.with_extension(format!("moved-{n}")));
            let mut free = free.skip_while(|p| fs::symlink_metadata(p).is_ok());
            free.next().map_or(Ok(()), |to| fs::rename(path, to))
        }
        _ => Ok(()),
    }
}

/// Milliseconds since 1970 of this host's clock.
fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

fn rotated_path(home: &Path, number: u32) -> PathBuf {
    home.join(format!("session-{number}.jsonl"))
}

/// Session files whose end has at least `limit` bytes together, newest first, or all of them.
pub(crate) fn newest_files(home: &Path, limit: u64) -> Vec<PathBuf> {
    let count = (1..)
        .take_while(|n| rotated_path(home, *n).exists())
        .count();
    let rotated = (1..=u32::try_from(count).unwrap_or(u32::MAX)).rev();
    let all =
        std::iter::once(home.join("session.jsonl")).chain(rotated.map(|n| rotated_path(home, n)));
    let mut sum = 0;
    let mut files = Vec::new();
    for path in all {
        if sum >= limit {
            break;
        }
        sum += fs::metadata(&path).map_or(0, |m| m.len());
        files.push(path);
    }
    files
}

/// The last `limit` bytes of a file. Nothing waits here, whatever lies in its place.
///
/// # Errors
/// If it is no file, or can't be read.
pub(crate) fn read_end(path: &Path, limit: u64) -> io::Result<String> {
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let mut file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(nonblocking)
        .open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    file.seek(SeekFrom::Start(found.len().saturating_sub(limit)))?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn open(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_stands_in_the_place_of_the_session_is_moved_aside() {
        let dir = tempfile::tempdir().unwrap();
        for n in [1, 2] {
            fs::create_dir(dir.path().join("session.jsonl")).unwrap();
            let mut session = Session::open(dir.path()).unwrap();
            session.append(&json!({ "event": "a" }));
            assert!(dir.path().join(format!("session.moved-{n}")).is_dir());
            fs::remove_file(dir.path().join("session.jsonl")).unwrap();
        }
    }

    #[test]
    fn a_torn_line_is_ended_and_a_second_writer_is_refused() {
        let dir = std::env::temp_dir().join(format!("abbey-session-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        fs::write(
            dir.join("session.jsonl"),
            "{\"event\":\"a\"}\n{\"event\":\"to",
        )
        .unwrap();
        let mut session = Session::open(&dir).unwrap();
        session.append(&json!({ "event": "b", "key": format!("sk-abbey-{}", "A1b2".repeat(8)) }));
        assert!(Session::open(&dir).is_err());
        let text = fs::read_to_string(dir.join("session.jsonl")).unwrap();
        let whole = text
            .lines()
            .filter(|l| serde_json::from_str::<Value>(l).is_ok())
            .count();
        assert_eq!((text.lines().count(), whole), (3, 2));
        assert!(text.contains("[redacted]") && !text.contains("A1b2"));
        assert_eq!(session.position(), text.len() as u64);
        // A rotated file comes before the newest one.
        assert!(session.newest(1 << 20).starts_with("{\"event\":\"a\"}\n"));
        assert_eq!(session.newest(20).len(), 20);
        fs::write(dir.join("session-1.jsonl"), "{\"event\":\"old\"}\n").unwrap();
        assert!(
            session
                .newest(1 << 20)
                .starts_with("{\"event\":\"old\"}\n{\"event\":\"a\"}")
        );
        fs::remove_dir_all(dir).unwrap();
    }
}
