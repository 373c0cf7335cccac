//! Reacts to changes of the host's networks: the kernel's notices wake hostd, and a process of its own compares
//! everything with the allocations and repairs what differs.

use super::HostdConfig;
use super::journal::{self, JournalLine};
use super::server::lock_firewall;
use crate::network::{firewall, repair, watch::NetworkWatch};
use crate::{Result, allocation, record};
use rustix::event::{PollFd, PollFlags};
use rustix::process::Pid;
use std::io;
use std::time::{Duration, Instant};

/// Time without a notice after which a comparison begins: changes come in bursts, most of them the house's own, and a cell
/// that starts would wait for a comparison in the middle of one.
const QUIET: Duration = Duration::from_millis(100);
/// Longest time from a notice to a comparison.
const LATEST: Duration = Duration::from_secs(1);

/// When the networks are to be compared with the allocations.
pub(super) struct NetworkGuard {
    watch: NetworkWatch,
    /// When the next comparison begins; none if nothing changed since the last one began.
    due: Option<Instant>,
    /// Latest value of `due`, from the first notice on.
    latest: Option<Instant>,
    /// Process that compares.
    running: Option<i32>,
}

impl NetworkGuard {
    /// Subscribes to the kernel's notices. The first comparison is due at once, for what changed without a hostd.
    pub(super) fn open() -> io::Result<NetworkGuard> {
        let now = Instant::now();
        Ok(NetworkGuard {
            watch: NetworkWatch::open()?,
            due: Some(now),
            latest: Some(now),
            running: None,
        })
    }

    /// What to wait for: the first notice after a comparison. Those that follow are read together when the next one would
    /// begin, so that hostd does not run for each step of a cell that starts.
    pub(super) fn poll_fds(&self) -> Vec<PollFd<'_>> {
        let watched = self.watch.descriptors().into_iter();
        watched
            .filter(|_| self.due.is_none())
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect()
    }

    /// Longest wait, if a comparison is to begin then.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        let due = self.due.filter(|_| self.running.is_none())?;
        Some(due.saturating_duration_since(Instant::now()))
    }

    /// Reads the notices that have arrived; any of them postpones the comparison, or makes one due.
    pub(super) fn read_notices(&mut self) {
        if !self.watch.drain() {
            return;
        }
        let now = Instant::now();
        let latest = *self.latest.get_or_insert(now + LATEST);
        self.due = Some(latest.min(now + QUIET));
    }

    /// Whether a comparison is to begin now.
    pub(super) fn is_due(&mut self) -> bool {
        let is_due = |guard: &Self| guard.next_deadline().is_some_and(|wait| wait.is_zero());
        if !is_due(self) {
            return false;
        }
        self.read_notices();
        is_due(self)
    }

    /// Takes notice that a process compares from now on.
    pub(super) fn note_start(&mut self, pid: i32) {
        self.due = None;
        self.latest = None;
        self.running = Some(pid);
    }

    /// Takes notice of the end of a child.
    pub(super) fn note_end(&mut self, pid: Pid) {
        if self.running == Some(pid.as_raw_nonzero().get()) {
            self.running = None;
        }
    }
}

/// Compares and repairs the networks of the house; writes a line into the journal if anything was repaired, or could not
/// be.
pub(super) fn check_networks(config: &HostdConfig) {
    let outcome = match repair(config) {
        Ok(repaired) if repaired.is_empty() => return,
        Ok(repaired) => format!("repaired: {}", repaired.join(", ")),
        Err(error) => format!("failed: {}", crate::error::error_chain(&error)),
    };
    let line = JournalLine {
        at: record::now(),
        uid: 0,
        pid: i32::try_from(std::process::id()).unwrap_or(0),
        op: "network".to_owned(),
        subject: String::new(),
        dry_run: false,
        outcome,
    };
    journal::append_journal_line(&config.hostd_dir(), &line);
}

fn repair(config: &HostdConfig) -> Result<Vec<String>> {
    let dir = config.hostd_dir();
    if !firewall::was_firewall_applied(&dir) {
        return Ok(Vec::new());
    }
    let _one_at_a_time = lock_firewall(&dir)?;
    // Who took the house off the network while we waited left no record of a table.
    if !firewall::was_firewall_applied(&dir) {
        return Ok(Vec::new());
    }
    let allocations = allocation::lock_allocations(&dir)?.allocations;
    if allocations.owners.values().all(|c| c.subnet.is_none()) {
        return Ok(Vec::new());
    }
    repair::repair_networks(&dir, &config.cell_records_dir(), &allocations)
}
