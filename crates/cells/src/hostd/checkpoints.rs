//! Checkpoints of the audit log outside the database: a file that is only ever appended to, in hostd's directory, where
//! the control plane can read it and cannot change it.

use crate::{Error, Result};
use abbey_model::{Checkpoint, CheckpointLine};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Mode of the checkpoint file and of the journal.
pub(super) const HOSTD_LOG_MODE: u32 = 0o640;

/// Most checkpoints of one call.
const CHECKPOINTS_MAX: usize = 10_000;

/// Path of the checkpoint file in hostd's directory `dir`.
pub fn checkpoint_file(dir: &Path) -> PathBuf {
    dir.join("checkpoints.jsonl")
}

/// Why these checkpoints are not accepted from the control plane; none if they are. Whether they fit the log is
/// judged by whoever verifies it: a line that doesn't fit is evidence.
pub(super) fn why_refused(checkpoints: &[Checkpoint]) -> Option<&'static str> {
    let is_hex = |text: &str, bytes: usize| {
        text.len() == 2 * bytes && text.bytes().all(|b| b.is_ascii_hexdigit())
    };
    let good =
        |c: &Checkpoint| is_hex(&c.hash, 32) && is_hex(&c.key, 32) && is_hex(&c.signature, 64);
    match checkpoints {
        [] => Some("the request has no checkpoint"),
        many if many.len() > CHECKPOINTS_MAX => Some("at most 10,000 checkpoints fit one request"),
        all if !all.iter().all(good) => {
            Some("a hash, key or signature is not hexadecimal digits of its length")
        }
        _ => None,
    }
}

/// Appends lines to the checkpoint file in hostd's directory `dir`, which survive a power failure once this returns.
///
/// # Errors
/// If the file cannot be written.
pub fn append_checkpoint_lines(dir: &Path, lines: &[CheckpointLine]) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let path = checkpoint_file(dir);
    let mut bytes = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut bytes, line)
            .map_err(|e| Error::file("write", &path)(e.into()))?;
        bytes.push(b'\n');
    }
    let mut append = || -> io::Result<()> {
        let mut file = fs::OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(HOSTD_LOG_MODE)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)?;
        // A full disk may have left a part of a line, which must not damage the next one.
        if ends_within_line(&mut file)? {
            bytes.insert(0, b'\n');
        }
        file.write_all(&bytes)?;
        file.sync_all()
    };
    append().map_err(Error::file("append to", &path))
}

/// Whether the last byte of a file is another than the end of a line.
pub(super) fn ends_within_line(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

/// Lines of the checkpoint file in hostd's directory `dir`, oldest first; empty if there is no file. Parts of lines, as
/// a full disk leaves them, are skipped.
///
/// # Errors
/// If the file cannot be read, or has a line of another kind.
pub fn read_checkpoint_lines(dir: &Path) -> Result<Vec<CheckpointLine>> {
    let path = checkpoint_file(dir);
    match File::open(&path) {
        Ok(file) => parse_checkpoint_lines(BufReader::new(file), &path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Error::file("read", path)(e)),
    }
}

/// Parses lines of a checkpoint file; `path` is the file that an error names.
///
/// # Errors
/// As [`read_checkpoint_lines`].
pub fn parse_checkpoint_lines(reader: impl BufRead, path: &Path) -> Result<Vec<CheckpointLine>> {
    let mut lines = Vec::new();
    for (n, line) in reader.lines().enumerate() {
        let line = line.map_err(Error::file("read", path))?;
        match serde_json::from_str(&line) {
            Ok(line) => lines.push(line),
            Err(e) if e.is_eof() => {}
            Err(e) => {
                return Err(Error::Record {
                    path: path.to_owned(),
                    why: format!("line {}: {e}", n + 1),
                });
            }
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use abbey_model::Timestamp;

    fn checkpoint(seq: u64) -> Checkpoint {
        Checkpoint {
            seq,
            hash: "ab".repeat(32),
            key: "cd".repeat(32),
            signature: "ef".repeat(64),
            at: Timestamp(7),
        }
    }

    #[test]
    fn a_line_that_a_full_disk_cut_does_not_damage_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let line = |seq| CheckpointLine::Checkpoint(checkpoint(seq));
        assert_eq!(read_checkpoint_lines(dir.path()).unwrap(), []);
        append_checkpoint_lines(dir.path(), &[line(1)]).unwrap();
        let path = checkpoint_file(dir.path());
        let mut cut = fs::read(&path).unwrap();
        cut.extend(b"{\"kind\":\"checkp");
        fs::write(&path, cut).unwrap();
        append_checkpoint_lines(dir.path(), &[line(2), line(3)]).unwrap();
        let seqs: Vec<u64> = read_checkpoint_lines(dir.path())
            .unwrap()
            .iter()
            .map(CheckpointLine::seq)
            .collect();
        assert_eq!(seqs, [1, 2, 3]);
        fs::write(&path, "{\"kind\":\"other\"}\n").unwrap();
        assert!(read_checkpoint_lines(dir.path()).is_err());
    }

    #[test]
    fn only_checkpoints_of_the_right_shape_are_accepted() {
        assert_eq!(why_refused(&[checkpoint(1)]), None);
        assert!(why_refused(&[]).is_some());
        let long = Checkpoint {
            hash: "x".repeat(1 << 20),
            ..checkpoint(1)
        };
        assert!(why_refused(&[long]).is_some());
    }
}
