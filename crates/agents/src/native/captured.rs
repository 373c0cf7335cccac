//! Programs whose output is kept: it is read to its end, however much it is, so that no program is ended by a full or
//! closed pipe, and the result is there when the program itself ends, whoever else holds the pipe.

use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::process::{ExitStatus, Stdio};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::sync::oneshot;

/// Bytes that are read at once.
const CHUNK: usize = 16 << 10;
/// Space for the line that says how much was left out, in bytes.
const NOTE: usize = 64;

/// Head and tail of an output.
#[derive(Debug)]
pub(crate) struct HeadAndTail {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    /// Most bytes of each.
    half: usize,
    /// Bytes of the whole output.
    total: u64,
}

impl HeadAndTail {
    /// Nothing yet; keeps at most `limit` bytes, including the note about what was left out.
    pub(super) fn new(limit: usize) -> Self {
        HeadAndTail {
            head: Vec::new(),
            tail: VecDeque::new(),
            half: limit.saturating_sub(NOTE) / 2,
            total: 0,
        }
    }

    /// Adds output.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.total = self.total.saturating_add(bytes.len() as u64);
        let space = self.half.saturating_sub(self.head.len()).min(bytes.len());
        let (first, rest) = bytes.split_at(space);
        self.head.extend_from_slice(first);
        // What is further from the end than the tail is long is not kept at all.
        let rest = rest
            .get(rest.len().saturating_sub(self.half)..)
            .unwrap_or_default();
        let excess = (self.tail.len() + rest.len()).saturating_sub(self.half);
        self.tail.drain(..excess);
        self.tail.extend(rest);
    }

    /// The output as text, with a line in place of what was left out.
    pub(crate) fn text(&self) -> String {
        let tail: Vec<u8> = self.tail.iter().copied().collect();
        let kept = (self.head.len() + tail.len()) as u64;
        if kept == self.total {
            let whole = [self.head.as_slice(), tail.as_slice()].concat();
            return String::from_utf8_lossy(&whole).into_owned();
        }
        // A character that was cut in two is left out too.
        let whole_end = match std::str::from_utf8(&self.head) {
            Err(e) if e.error_len().is_none() => e.valid_up_to(),
            _ => self.head.len(),
        };
        let whole_start = tail
            .iter()
            .take(4)
            .take_while(|b| **b & 0xC0 == 0x80)
            .count();
        let head = String::from_utf8_lossy(self.head.get(..whole_end).unwrap_or_default());
        let tail = String::from_utf8_lossy(tail.get(whole_start..).unwrap_or_default());
        let left_out = self.total - kept;
        format!("{head}\n[{left_out} bytes left out]\n{tail}")
    }
}

/// Head and tail of a text, at most `limit` bytes in all.
pub(super) fn shorten(text: String, limit: usize) -> String {
    if text.len() <= limit {
        return text;
    }
    let mut kept = HeadAndTail::new(limit);
    kept.push(text.as_bytes());
    kept.text()
}

/// How a program ended, and what it wrote.
#[derive(Debug)]
pub(crate) struct Captured {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: HeadAndTail,
    pub(crate) stderr: HeadAndTail,
}

impl Captured {
    /// What a model is told of the program's end: its status and output, as an error unless it succeeded.
    pub(super) fn report(&self) -> Result<String, String> {
        let text = format!(
            "{}\n{}{}",
            self.status,
            self.stdout.text(),
            self.stderr.text()
        );
        match self.status.success() {
            true => Ok(text),
            false => Err(text),
        }
    }
}

/// Ends the process group of a program whose end nobody waits for any more.
struct GroupGuard(Option<Pid>);

impl Drop for GroupGuard {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ended = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Runs a program in a process group of its own, with `input` on its standard input, and waits for its end. Of each
/// output at most `limit` bytes are kept. A child that it leaves behind may go on, and write: that is read and dropped.
///
/// **Cancel safety:** the process group is ended when this future is dropped.
///
/// # Errors
/// If the program cannot be started or waited for.
pub(crate) async fn run_captured(
    command: &mut Command,
    input: Option<Vec<u8>>,
    limit: usize,
) -> std::io::Result<Captured> {
    let stdin = match input {
        Some(_) => Stdio::piped(),
        None => Stdio::null(),
    };
    let mut child = command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    let mut group = GroupGuard(pid.and_then(Pid::from_raw));
    let stdout = Reader::start(child.stdout.take(), limit);
    let stderr = Reader::start(child.stderr.take(), limit);
    let writer = child.stdin.take().zip(input).map(|(mut pipe, bytes)| {
        tokio::spawn(async move {
            let _not_read = pipe.write_all(&bytes).await;
        })
    });
    let status = child.wait().await?;
    group.0 = None;
    if let Some(writer) = writer {
        writer.abort();
    }
    Ok(Captured {
        status,
        stdout: stdout.finish().await,
        stderr: stderr.finish().await,
    })
}

/// A task that reads an output until the program ended, and drops what comes later.
struct Reader {
    ended: oneshot::Sender<()>,
    kept: oneshot::Receiver<HeadAndTail>,
    limit: usize,
}

impl Reader {
    fn start<P>(pipe: Option<P>, limit: usize) -> Reader
    where
        P: AsyncRead + AsFd + Unpin + Send + 'static,
    {
        let (ended, end) = oneshot::channel();
        let (sender, kept) = oneshot::channel();
        if let Some(pipe) = pipe {
            tokio::spawn(read_until(pipe, limit, end, sender));
        }
        Reader { ended, kept, limit }
    }

    /// What was written until now; the program has ended.
    async fn finish(self) -> HeadAndTail {
        let _read_to_its_end = self.ended.send(());
        let limit = self.limit;
        self.kept.await.unwrap_or_else(|_| HeadAndTail::new(limit))
    }
}

async fn read_until<P: AsyncRead + AsFd + Unpin>(
    mut pipe: P,
    limit: usize,
    mut end: oneshot::Receiver<()>,
    sender: oneshot::Sender<HeadAndTail>,
) {
    let mut kept = HeadAndTail::new(limit);
    let mut buffer = vec![0; CHUNK];
    loop {
        tokio::select! {
            read = pipe.read(&mut buffer) => match read {
                Ok(count @ 1..) => kept.push(buffer.get(..count).unwrap_or_default()),
                _ => {
                    let _nobody_waits = sender.send(kept);
                    return;
                }
            },
            _ = &mut end => break,
        }
    }
    // Everything that the program wrote is in the pipe by now.
    let mut left = rustix::io::ioctl_fionread(&pipe).unwrap_or(0);
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        match pipe.read(buffer.get_mut(..most).unwrap_or_default()).await {
            Ok(count @ 1..) => {
                kept.push(buffer.get(..count).unwrap_or_default());
                left = left.saturating_sub(count as u64);
            }
            _ => break,
        }
    }
    let _nobody_waits = sender.send(kept);
    while let Ok(1..) = pipe.read(&mut buffer).await {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    async fn sh(script: &str, limit: usize) -> Captured {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let captured = run_captured(&mut command, Some(b"input\n".to_vec()), limit).await;
        captured.unwrap()
    }

    #[tokio::test]
    async fn long_output_is_read_to_its_end_and_kept_at_both_ends() {
        let ended = sh("set -e; seq 1 60000; seq 1 60000 >&2; cat", 4096).await;
        assert!(ended.status.success(), "{}", ended.status);
        let (out, err) = (ended.stdout.text(), ended.stderr.text());
        assert!(out.starts_with("1\n2\n3\n") && out.ends_with("\n60000\ninput\n"));
        assert!(
            out.contains(" bytes left out]\n") && out.len() <= 4096,
            "{}",
            out.len()
        );
        assert!(err.starts_with("1\n2\n3\n") && err.ends_with("\n60000\n"));
    }

    #[tokio::test]
    async fn a_child_in_the_background_holds_nobody_up_and_is_not_ended() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("mark");
        let fifo = dir.path().join("fifo");
        let script = format!(
            "mkfifo {fifo}; (read line < {fifo}; echo late; echo late; touch {mark}) & echo started",
            fifo = fifo.display(),
            mark = mark.display()
        );
        let begun = Instant::now();
        let ended = sh(&script, 4096).await;
        assert_eq!(ended.stdout.text(), "started\n");
        assert!(begun.elapsed() < Duration::from_secs(30));
        // It writes into the pipe of an output that nobody waits for, and goes on.
        tokio::fs::write(&fifo, "go\n").await.unwrap();
        let until = Instant::now() + Duration::from_secs(30);
        while !mark.exists() {
            assert!(Instant::now() < until, "the child was ended");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[test]
    fn what_is_left_out_never_cuts_a_character() {
        let text = shorten("é".repeat(500), 201);
        let rest = text.trim_matches('é');
        assert!(
            rest.starts_with("\n[") && rest.ends_with("left out]\n"),
            "{text}"
        );
        assert_eq!(shorten("short".to_owned(), 200), "short");
    }
}
