//! QEMU's monitor: a line of JSON for each word, both ways. Its events tell how a microVM ended; its commands
//! put the memory of one aside, and bring it back.
//! Source: QEMU's documentation, interop/qmp-spec and devel/migration.

use crate::sys::descriptors;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Longest line; the longest answer is a list of some twenty capabilities.
const LINE_MAX: usize = 64 << 10;
/// Time for QEMU to do any one thing.
const STEP_WITHIN: Duration = Duration::from_secs(20);
/// Distance between two questions about something that takes its time.
const ASK_EVERY: Duration = Duration::from_millis(2);

/// What is asked of QEMU, one after the other.
struct Step {
    command: Value,
    /// Comes along.
    fd: Option<OwnedFd>,
    /// Asked again until the answer's status is the second; what the first says in the meantime is waited for.
    until: Option<(&'static [&'static str], &'static [&'static str])>,
}

impl Step {
    fn plain(command: Value) -> Step {
        Step {
            command,
            fd: None,
            until: None,
        }
    }
}

/// Client of QEMU's machine protocol (QMP) over a socket.
pub(crate) struct QemuMonitor {
    stream: Option<UnixStream>,
    line: Vec<u8>,
    steps: VecDeque<Step>,
    /// Since when the first step waits for its answer.
    asked: Option<Instant>,
    /// When the first step is asked again.
    again: Option<Instant>,
    /// QEMU's reason why the guest stopped for good.
    pub(crate) shutdown: Option<String>,
    /// Reason why a command failed.
    pub(crate) failed: Option<String>,
}

fn ignore_shared() -> Step {
    let on = json!({ "capability": "x-ignore-shared", "state": true });
    Step::plain(json!({
        "execute": "migrate-set-capabilities",
        "arguments": { "capabilities": [on] },
    }))
}

fn lend(fd: OwnedFd) -> Step {
    Step {
        command: json!({ "execute": "getfd", "arguments": { "fdname": "state" } }),
        fd: Some(fd),
        until: None,
    }
}

impl QemuMonitor {
    /// Monitor over a connected QMP socket. Sends `qmp_capabilities`, which QEMU requires first.
    pub(crate) fn new(fd: OwnedFd) -> QemuMonitor {
        let mut monitor = QemuMonitor {
            stream: Some(UnixStream::from(fd)),
            line: Vec::new(),
            steps: VecDeque::new(),
            asked: None,
            again: None,
            shutdown: None,
            failed: None,
        };
        let hello = Step::plain(json!({ "execute": "qmp_capabilities" }));
        monitor.steps.push_back(hello);
        monitor.ask();
        monitor
    }

    /// Restores a snapshot and resumes the microVM.
    pub(crate) fn restore(&mut self, state: OwnedFd) {
        let incoming = json!({ "uri": "fd:state" });
        self.steps.extend([
            ignore_shared(),
            lend(state),
            Step::plain(json!({ "execute": "migrate-incoming", "arguments": incoming })),
            Step {
                command: json!({ "execute": "query-status" }),
                fd: None,
                until: Some((&["inmigrate"], &["paused", "running"])),
            },
            Step::plain(json!({ "execute": "cont" })),
        ]);
        self.ask();
    }

    /// Snapshots the microVM: its devices go to `state`, its memory stays in its file. QEMU exits afterwards.
    pub(crate) fn snapshot(&mut self, state: OwnedFd) {
        let uri = json!({ "uri": "fd:state" });
        self.steps.extend([
            ignore_shared(),
            Step::plain(json!({ "execute": "stop" })),
            lend(state),
            Step::plain(json!({ "execute": "migrate", "arguments": uri })),
            Step {
                command: json!({ "execute": "query-migrate" }),
                fd: None,
                until: Some((
                    &["setup", "active", "device", "pre-switchover"],
                    &["completed"],
                )),
            },
            Step::plain(json!({ "execute": "quit" })),
        ]);
        self.ask();
    }

    /// Whether all queued commands have completed.
    pub(crate) fn is_done(&self) -> bool {
        self.steps.is_empty()
    }

    /// Adds the monitor's socket to a `poll` set.
    pub(crate) fn add_poll_fds<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        fds.extend(self.stream.as_ref().map(|s| PollFd::new(s, PollFlags::IN)));
    }

    /// Instant at which the monitor must run again even if nothing arrives: to repeat a query or to time out.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.again.or(self.asked.map(|at| at + STEP_WITHIN))
    }

    fn ask(&mut self) {
        let (Some(step), Some(stream)) = (self.steps.front(), &self.stream) else {
            return;
        };
        if self.asked.is_some() {
            return;
        }
        let line = format!("{}\n", step.command);
        let fds: Vec<_> = step.fd.iter().map(AsFd::as_fd).collect();
        // Lines are short and QEMU reads them at once: they fit into the socket.
        if descriptors::send_with_descriptors(stream, line.as_bytes(), &fds).is_err() {
            self.stream = None;
        }
        self.asked = Some(Instant::now());
        self.again = None;
    }

    /// Reads QEMU's answers and events without waiting, and sends the next queued command.
    pub(crate) fn process_messages(&mut self) {
        let mut buffer = [0u8; 4096];
        while let Some(stream) = &self.stream {
            match rustix::io::read(stream, &mut buffer) {
                Ok(n @ 1..) if self.line.len() < LINE_MAX => {
                    self.line.extend_from_slice(&buffer[..n]);
                    while let Some(end) = self.line.iter().position(|b| *b == b'\n') {
                        let line: Vec<u8> = self.line.drain(..=end).collect();
                        self.hear(&line);
                    }
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Ok(_) | Err(_) => self.stream = None,
            }
        }
        let now = Instant::now();
        if self.again.is_some_and(|at| now >= at) {
            self.ask();
        }
        if self.asked.is_some_and(|at| now >= at + STEP_WITHIN) {
            self.fail("it does not answer".to_owned());
        }
    }

    fn fail(&mut self, why: String) {
        self.failed.get_or_insert(why);
        self.steps.clear();
        self.asked = None;
        self.again = None;
    }

    fn hear(&mut self, line: &[u8]) {
        let Ok(value) = serde_json::from_slice::<Value>(line) else {
            return;
        };
        if value["event"] == "SHUTDOWN" {
            let reason = value["data"]["reason"].as_str();
            self.shutdown = Some(reason.unwrap_or("unknown").to_owned());
        }
        if !value["error"].is_null() {
            let why = value["error"]["desc"].as_str().unwrap_or("no reason");
            return self.fail(why.to_owned());
        }
        if value.get("return").is_none() || self.asked.take().is_none() {
            return;
        }
        let status = value["return"]["status"].as_str().unwrap_or("setup");
        match self.steps.front().and_then(|s| s.until) {
            Some((waits, _)) if waits.contains(&status) => {
                self.again = Some(Instant::now() + ASK_EVERY);
                return;
            }
            Some((_, ends)) if !ends.contains(&status) => {
                return self.fail(format!("its status is `{status}`"));
            }
            _ => {}
        }
        self.steps.pop_front();
        self.ask();
    }
}

#[cfg(test)]
mod tests {
    use super::QemuMonitor;
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixStream;

    /// Plays QEMU: answers each command with the next of these.
    fn talk(monitor: &mut QemuMonitor, qemu: &UnixStream, answers: &[&str]) -> Vec<String> {
        let mut lines = BufReader::new(qemu.try_clone().unwrap()).lines();
        let mut heard = Vec::new();
        for answer in answers {
            let line = lines.next().unwrap().unwrap();
            let value: serde_json::Value = serde_json::from_str(&line).unwrap();
            heard.push(value["execute"].as_str().unwrap().to_owned());
            writeln!(&*qemu, "{answer}").unwrap();
            while monitor.next_deadline().is_some() && heard.len() < answers.len() {
                monitor.process_messages();
                if monitor.asked.is_some() {
                    break;
                }
            }
        }
        monitor.process_messages();
        heard
    }

    fn pair() -> (QemuMonitor, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (QemuMonitor::new(ours.into()), theirs)
    }

    #[test]
    fn a_microvm_is_snapshotted_step_by_step() {
        let (mut monitor, qemu) = pair();
        monitor.snapshot(std::fs::File::open("/dev/null").unwrap().into());
        let done = "{\"return\": {}}";
        let busy = "{\"return\": {\"status\": \"active\"}}";
        let over = "{\"return\": {\"status\": \"completed\"}}";
        let heard = talk(
            &mut monitor,
            &qemu,
            &[done, done, done, done, done, busy, over, done],
        );
        let wanted = [
            "qmp_capabilities",
            "migrate-set-capabilities",
            "stop",
            "getfd",
            "migrate",
            "query-migrate",
            "query-migrate",
            "quit",
        ];
        assert_eq!(heard, wanted);
        assert!(monitor.is_done() && monitor.failed.is_none());
    }

    #[test]
    fn what_qemu_refuses_is_told_and_nothing_more_is_asked() {
        let (mut monitor, qemu) = pair();
        monitor.restore(std::fs::File::open("/dev/null").unwrap().into());
        let refused = "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such thing\"}}";
        let heard = talk(&mut monitor, &qemu, &["{\"return\": {}}", refused]);
        assert_eq!(heard.len(), 2);
        assert_eq!(monitor.failed.as_deref(), Some("no such thing"));
        assert!(monitor.is_done());
        writeln!(
            &qemu,
            "{{\"event\": \"SHUTDOWN\", \"data\": {{\"reason\": \"guest-reset\"}}}}"
        )
        .unwrap();
        monitor.process_messages();
        assert_eq!(monitor.shutdown.as_deref(), Some("guest-reset"));
    }
}
