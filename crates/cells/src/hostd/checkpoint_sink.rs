//! Copies of the checkpoint file elsewhere: which lines a sink lacks, and the sink that is a file.

use super::HostdConfig;
use super::checkpoints::{checkpoint_file, ends_within_line};
use super::named_files::open_sink_file;
use crate::sys::lock::try_lock_file;
use crate::{Error, Result};
use abbey_model::{CheckpointLine, Timestamp};
use abbey_support::digest::sha256_hex;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// More than the longest line of a checkpoint file, bytes.
const LINE_MAX: u64 = 4096;

/// Lines of the checkpoint file that a sink lacks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Undelivered {
    /// The oldest of them, without their ends.
    pub lines: Vec<String>,
    /// Number of all of them.
    pub count: u64,
    /// Instant of the oldest.
    pub since: Option<Timestamp>,
}

/// Lines of the checkpoint file in hostd's directory `dir` behind the line `last`, at most the oldest `max`. If the file
/// does not have that line, all are undelivered.
///
/// # Errors
/// If the file cannot be read.
pub fn undelivered_checkpoints(dir: &Path, last: Option<&str>, max: usize) -> Result<Undelivered> {
    let path = checkpoint_file(dir);
    let file = match File::open(&path) {
        Ok(file) => BufReader::new(file),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Undelivered::default()),
        Err(e) => return Err(Error::file("read", path)(e)),
    };
    let mut found = Undelivered::default();
    for line in file.lines() {
        let line = line.map_err(Error::file("read", &path))?;
        if last == Some(line.as_str()) {
            found = Undelivered::default();
            continue;
        }
        // A part of a line, as a full disk leaves it.
        let Ok(parsed) = serde_json::from_str::<CheckpointLine>(&line) else {
            continue;
        };
        found.count += 1;
        found.since = found.since.or(Some(parsed.at()));
        if found.lines.len() < max {
            found.lines.push(line);
        }
    }
    Ok(found)
}

/// Appends to the sink `path` the lines of the checkpoint file that it lacks. The sink is its own bookmark: it is
/// continued behind its last line, whoever was interrupted before.
///
/// # Errors
/// A sentence that says why not; nothing was appended, or a part that the next call continues.
pub(super) fn copy_checkpoints(
    config: &HostdConfig,
    path: &Path,
) -> std::result::Result<(), String> {
    let mut sink = open_sink_file(config, path)?;
    let failed = |e: io::Error| format!("cannot append to `{}`: {e}", path.display());
    // Not a lock on the sink itself, which everybody who can read it could hold.
    let digest = sha256_hex(path.as_os_str().as_bytes());
    let lock = config
        .hostd_dir()
        .join(format!("sink-{}.lock", &digest[..16]));
    let _lock = try_lock_file(&lock)
        .map_err(|e| crate::error::error_chain(&e))?
        .ok_or_else(|| failed(io::ErrorKind::WouldBlock.into()))?;
    let kept = checkpoint_file(&config.hostd_dir());
    let mut kept = match File::open(&kept) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(format!("cannot read `{}`: {e}", kept.display())),
    };
    let from = find_continuation(&mut kept, &mut sink).map_err(failed)?;
    let from = from.ok_or_else(|| {
        format!(
            "`{}` holds something else than signed heads of this house; name another file",
            path.display()
        )
    })?;
    append_lines(&mut kept, from, &mut sink).map_err(failed)
}

/// Offset in `kept` from which on the sink is to be continued; none if the sink is not a copy of it.
fn find_continuation(kept: &mut File, sink: &mut File) -> io::Result<Option<u64>> {
    let Some(last) = last_line(sink)? else {
        return Ok(Some(0));
    };
    kept.rewind()?;
    let mut lines = Lines::new(kept);
    let mut behind = None;
    while lines.advance()? {
        if lines.line == last {
            behind = Some(lines.offset);
        }
    }
    if behind.is_some() {
        return Ok(behind);
    }
    // A backup was restored: what the sink has from then on was given up, and its copy goes on where the two parted.
    sink.rewind()?;
    kept.rewind()?;
    let (mut ours, mut theirs) = (Lines::new(kept), Lines::new(sink));
    let mut common = 0;
    while ours.advance()? && theirs.advance()? && ours.line == theirs.line {
        common = ours.offset;
    }
    Ok((common > 0).then_some(common))
}

/// Appends the whole lines of `kept` from an offset on.
fn append_lines(kept: &mut File, from: u64, sink: &mut File) -> io::Result<()> {
    kept.seek(SeekFrom::Start(from))?;
    let mut lines = Lines::new(kept);
    let mut out = Vec::new();
    // A full disk may have left a part of a line, which must not damage the next one.
    let torn = ends_within_line(sink)?;
    while lines.advance()? {
        if out.is_empty() && torn && lines.offset == lines.line.len() as u64 {
            out.push(b'\n');
        }
        out.extend_from_slice(&lines.line);
        if out.len() > 1 << 16 {
            sink.write_all(&out)?;
            out.clear();
        }
    }
    if !out.is_empty() {
        sink.write_all(&out)?;
    }
    sink.sync_all()
}

/// Last whole line of a file, with its end.
fn last_line(file: &mut File) -> io::Result<Option<Vec<u8>>> {
    let length = file.metadata()?.len();
    // Room for a torn line behind it.
    file.seek(SeekFrom::Start(length.saturating_sub(2 * LINE_MAX)))?;
    let mut tail = Vec::new();
    file.take(2 * LINE_MAX).read_to_end(&mut tail)?;
    let end = tail.iter().rposition(|b| *b == b'\n').map(|at| at + 1);
    Ok(end.map(|end| {
        let start = tail[..end - 1].iter().rposition(|b| *b == b'\n');
        tail[start.map_or(0, |at| at + 1)..end].to_vec()
    }))
}

/// The whole lines of a file, one after the other.
struct Lines<'a> {
    reader: BufReader<&'a mut File>,
    /// The line read last, with its end.
    line: Vec<u8>,
    /// Bytes read since the start, up to the end of that line.
    offset: u64,
}

impl<'a> Lines<'a> {
    fn new(file: &'a mut File) -> Self {
        Lines {
            reader: BufReader::new(file),
            line: Vec::new(),
            offset: 0,
        }
    }

    /// Reads the next line; false at the end, also within a line.
    fn advance(&mut self) -> io::Result<bool> {
        self.line.clear();
        let read = self.reader.read_until(b'\n', &mut self.line)?;
        self.offset += read as u64;
        Ok(self.line.last() == Some(&b'\n'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hostd::append_checkpoint_lines;
    use abbey_model::Checkpoint;
    use std::fs;

    fn line(seq: u64) -> CheckpointLine {
        CheckpointLine::Checkpoint(Checkpoint {
            seq,
            hash: "ab".repeat(32),
            key: "cd".repeat(32),
            signature: "ef".repeat(64),
            at: Timestamp(seq.cast_signed()),
        })
    }

    fn restored(seq: u64) -> CheckpointLine {
        CheckpointLine::Restored {
            seq,
            hash: "ab".repeat(32),
            key: "cd".repeat(32),
            at: Timestamp(9),
        }
    }

    struct Pair {
        dir: tempfile::TempDir,
        config: HostdConfig,
    }

    impl Pair {
        fn new() -> Pair {
            let dir = tempfile::tempdir().unwrap();
            let config = HostdConfig {
                home: dir.path().to_owned(),
                group: String::new(),
                serve_uid: 0,
                privileged: false,
            };
            fs::create_dir(config.hostd_dir()).unwrap();
            Pair { dir, config }
        }

        fn keep(&self, lines: &[CheckpointLine]) {
            append_checkpoint_lines(&self.config.hostd_dir(), lines).unwrap();
        }

        fn sink(&self) -> std::path::PathBuf {
            self.dir.path().join("sink")
        }

        fn copy(&self) -> std::result::Result<(), String> {
            copy_checkpoints(&self.config, &self.sink())
        }

        fn seqs(&self) -> Vec<u64> {
            let reader = BufReader::new(File::open(self.sink()).unwrap());
            let lines = crate::hostd::parse_checkpoint_lines(reader, &self.sink()).unwrap();
            lines.iter().map(CheckpointLine::seq).collect()
        }
    }

    #[test]
    fn a_sink_is_continued_behind_its_last_line_and_repetition_adds_nothing() {
        let pair = Pair::new();
        pair.copy().unwrap();
        pair.keep(&[line(1), line(2)]);
        pair.copy().unwrap();
        pair.copy().unwrap();
        assert_eq!(pair.seqs(), [1, 2]);
        pair.keep(&[line(3)]);
        pair.copy().unwrap();
        assert_eq!(pair.seqs(), [1, 2, 3]);
        // The other disk was exchanged: the new one gets everything.
        fs::remove_file(pair.sink()).unwrap();
        pair.copy().unwrap();
        assert_eq!(pair.seqs(), [1, 2, 3]);
    }

    #[test]
    fn a_sink_that_a_full_disk_tore_is_continued() {
        let pair = Pair::new();
        pair.keep(&[line(1), line(2), line(3)]);
        pair.copy().unwrap();
        let whole = fs::read(pair.sink()).unwrap();
        let third = whole.len() / 3;
        for cut in [
            1,
            third - 1,
            third,
            third + 1,
            2 * third + 7,
            whole.len() - 1,
        ] {
            fs::write(pair.sink(), &whole[..cut]).unwrap();
            pair.copy().unwrap();
            // A line that lacked nothing but its end is there twice, which says nothing wrong.
            let mut seqs = pair.seqs();
            seqs.dedup();
            assert_eq!(seqs, [1, 2, 3], "cut at {cut}");
        }
    }

    #[test]
    fn a_sink_keeps_what_a_restore_gave_up_and_goes_on_with_the_restored_log() {
        let pair = Pair::new();
        pair.keep(&[line(1), line(2), line(3)]);
        pair.copy().unwrap();
        fs::remove_file(checkpoint_file(&pair.config.hostd_dir())).unwrap();
        pair.keep(&[line(1), line(2), restored(2), line(4)]);
        pair.copy().unwrap();
        pair.copy().unwrap();
        assert_eq!(pair.seqs(), [1, 2, 3, 2, 4]);
    }

    #[test]
    fn a_file_that_is_something_else_is_left_as_it_is() {
        let pair = Pair::new();
        pair.keep(&[line(1)]);
        fs::write(pair.sink(), "notes\n").unwrap();
        assert!(pair.copy().unwrap_err().contains("something else"));
        assert_eq!(fs::read_to_string(pair.sink()).unwrap(), "notes\n");
    }

    #[test]
    fn undelivered_lines_are_those_behind_the_last_delivered_one() {
        let pair = Pair::new();
        let dir = pair.config.hostd_dir();
        pair.keep(&[line(1), line(2), line(3)]);
        let all = undelivered_checkpoints(&dir, None, 2).unwrap();
        assert_eq!((all.count, all.lines.len()), (3, 2));
        let rest = undelivered_checkpoints(&dir, Some(&all.lines[1]), 9).unwrap();
        assert_eq!((rest.count, rest.since), (1, Some(Timestamp(3))));
        let none = undelivered_checkpoints(&dir, Some(&rest.lines[0]), 9).unwrap();
        assert_eq!(none, Undelivered::default());
    }
}
