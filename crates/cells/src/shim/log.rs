//! The log of a cell: one JSON object a line, without secrets, rotated by size.

use crate::{Error, Result};
use abbey_model::{Redactor, Timestamp};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Size at which the log file is rotated, bytes.
const FILE_MAX: u64 = 4 << 20;
/// Rotated files that are kept.
const FILES_MAX: u32 = 4;
/// Longest line; the rest begins a new one, so that a child cannot fill memory.
const LINE_MAX: usize = 8192;

/// Log of a cell, rotated by size.
pub(super) struct CellLog {
    dir: PathBuf,
    file: File,
    size: u64,
    redactor: Redactor,
    partial: [(&'static str, Vec<u8>); STREAMS.len()],
}

/// Name of the console of a microVM in the log.
pub(super) const CONSOLE: &str = "console";
/// Name in the log of the program that runs a microVM or container.
pub(super) const AROUND: &str = "machine";
/// Streams of the log.
const STREAMS: [&str; 4] = ["out", "err", CONSOLE, AROUND];

impl CellLog {
    /// Opens `current.jsonl` in directory `dir` for appending; `redactor` removes secrets from every line.
    pub(super) fn open(dir: &Path, redactor: Redactor) -> Result<CellLog> {
        fs::create_dir_all(dir).map_err(Error::file("make", dir))?;
        let path = dir.join("current.jsonl");
        let file = append(&path)?;
        let size = file
            .metadata()
            .map_err(Error::file("look at", &path))?
            .len();
        Ok(CellLog {
            dir: dir.to_owned(),
            file,
            size,
            redactor,
            partial: STREAMS.map(|name| (name, Vec::new())),
        })
    }

    /// Appends output of the named stream; only complete lines are written, the rest waits for more. Returns the bytes that
    /// this writes to the file.
    pub(super) fn append(&mut self, stream: &str, bytes: &[u8], at: Timestamp) -> u64 {
        let Some(index) = self.partial.iter().position(|(name, _)| *name == stream) else {
            return 0;
        };
        let mut written = 0;
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            self.partial[index].1.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.partial[index].1.len() >= LINE_MAX {
                written += self.write(index, at);
            }
        }
        written
    }

    /// Writes incomplete lines of all streams.
    pub(super) fn flush(&mut self, at: Timestamp) {
        for index in 0..self.partial.len() {
            if !self.partial[index].1.is_empty() {
                self.write(index, at);
            }
        }
    }

    fn write(&mut self, index: usize, at: Timestamp) -> u64 {
        let (stream, bytes) = &mut self.partial[index];
        let text = String::from_utf8_lossy(bytes);
        let clean = self
            .redactor
            .clean(text.trim_end_matches(['\n', '\r']))
            .into_owned();
        let line = serde_json::json!({ "at": at.0, "stream": stream, "text": clean });
        bytes.clear();
        let line = format!("{line}\n");
        // A full disk must not end the agent; the line is lost and the next one is tried.
        if self.file.write_all(line.as_bytes()).is_ok() {
            self.size += line.len() as u64;
        }
        if self.size >= FILE_MAX {
            self.rotate();
        }
        line.len() as u64
    }

    fn rotate(&mut self) {
        let name = |n: u32| self.dir.join(format!("{n}.jsonl"));
        let _may_not_exist = fs::remove_file(name(FILES_MAX));
        for n in (1..FILES_MAX).rev() {
            let _may_not_exist = fs::rename(name(n), name(n + 1));
        }
        let current = self.dir.join("current.jsonl");
        let _kept_on_failure = fs::rename(&current, name(1));
        if let Ok(file) = append(&current) {
            self.file = file;
            self.size = 0;
        }
    }
}

fn append(path: &Path) -> Result<File> {
    fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
        .map_err(Error::file("open", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_clean_and_rotated() {
        let dir = std::env::temp_dir().join(format!("abbey-log-{}", std::process::id()));
        let mut log = CellLog::open(
            &dir,
            Redactor::new([abbey_model::Secret::new("canary-value")]),
        )
        .unwrap();
        log.append("out", b"half ", Timestamp(1));
        log.append("out", b"line with canary-value\nrest", Timestamp(2));
        log.flush(Timestamp(3));
        let text = fs::read_to_string(dir.join("current.jsonl")).unwrap();
        assert_eq!(text.lines().count(), 2);
        assert!(text.contains("half line with [redacted]") && !text.contains("canary-value"));
        for _ in 0..600 {
            log.append("err", &[b'x'; LINE_MAX * 2], Timestamp(4));
        }
        assert!(dir.join("1.jsonl").exists());
        fs::remove_dir_all(dir).unwrap();
    }
}
