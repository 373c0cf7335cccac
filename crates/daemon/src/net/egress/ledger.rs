//! Records of outgoing connections by cell and day: a log line for each connection, and the bytes
//! counted against the daily budget.

use crate::core::error::{Error, Result};
use crate::core::rate::TokenBucket;
use crate::core::state::CoreState;
use crate::net::state::NetState;
use abbey_model::CellName;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Days whose log files are kept.
const DAYS_KEPT: usize = 14;
/// Time in which a repeated refusal is not logged to the audit log again.
const LOG_AGAIN_AFTER: Duration = Duration::from_secs(600);
/// Most refusals of a cell that are remembered for this.
const REMEMBERED_MAX: usize = 64;
/// Lines of each log: at once, and in a second from then on. A cell causes one with each connection, also refused ones.
const LINES: (f64, f64) = (1000.0, 1.0);
/// How long connections over this limit are counted before one line reports them.
const COUNT_FOR: Duration = Duration::from_secs(10);
/// Outcome of the line that stands for several connections.
const MORE: &str = "more";

/// Log line of one connection, or of several whose outcome is `more`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ConnectionLine {
    /// End of the connection, RFC 3339.
    pub(crate) at: String,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Address that was connected to; absent if no connection was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) address: Option<String>,
    /// `done`, or the code of the refusal.
    pub(crate) outcome: String,
    /// Number of connections that this line stands for.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub(crate) connections: u64,
    /// Bytes sent by the cell.
    #[serde(default)]
    pub(crate) up: u64,
    /// Bytes received by the cell.
    #[serde(default)]
    pub(crate) down: u64,
}

fn one() -> u64 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
fn is_one(connections: &u64) -> bool {
    *connections == 1
}

type Day = (String, Arc<AtomicU64>);

/// Lines that one log may still get, and the sum of the connections that came without one.
#[derive(Debug)]
struct LogAllowance {
    lines: TokenBucket,
    more: Option<ConnectionLine>,
}

/// A refusal that was logged.
#[derive(Debug)]
struct Refusal {
    at: Instant,
    /// What was refused and why, for people.
    text: String,
}

/// Bytes of each cell today, and recently logged refusals.
#[derive(Debug, Default)]
pub(crate) struct EgressLedger {
    today: Mutex<BTreeMap<CellName, Day>>,
    refusals: Mutex<BTreeMap<CellName, BTreeMap<String, Refusal>>>,
    /// By the name of the log.
    allowances: Mutex<BTreeMap<String, LogAllowance>>,
}

impl EgressLedger {
    /// Counter of the bytes that a cell has transferred since midnight, shared by its connections.
    /// On first use it is summed up from today's log.
    pub(crate) fn bytes_today(&self, core: &CoreState, cell: &CellName) -> Result<Arc<AtomicU64>> {
        let date = today(core);
        let mut today = self.today.lock();
        if let Some((_, bytes)) = today.get(cell).filter(|(d, _)| *d == date) {
            return Ok(Arc::clone(bytes));
        }
        let path = log_path(core, cell, &date);
        let spent = match fs::File::open(&path) {
            Ok(file) => BufReader::new(file)
                .lines()
                .map_while(std::result::Result::ok)
                .filter_map(|l| serde_json::from_str::<ConnectionLine>(&l).ok())
                .map(|l| l.up + l.down)
                .sum(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => 0,
            Err(e) => return Err(Error::file("read", path)(e)),
        };
        let bytes = Arc::new(AtomicU64::new(spent));
        today.insert(cell.clone(), (date, Arc::clone(&bytes)));
        Ok(bytes)
    }

    /// Gives what is recorded about a cell to the cell's new name; does nothing if that was done before.
    ///
    /// # Errors
    /// If a log cannot be moved; the rest is moved by the next call.
    pub(crate) fn rename(&self, core: &CoreState, old: &CellName, new: &CellName) -> Result<()> {
        let logs = core.home.egress_log_dir();
        let (from, to) = (logs.join(old.to_string()), logs.join(new.to_string()));
        for day in fs::read_dir(&from).into_iter().flatten().flatten() {
            let (path, kept) = (day.path(), to.join(day.file_name()));
            move_lines(&path, &kept).map_err(Error::file("move", path))?;
        }
        match fs::remove_dir(&from) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::file("remove", from)(e));
            }
            _ => {}
        }
        // Connections that are just ending still count.
        let mut today = self.today.lock();
        today.remove(new);
        if let Some(day) = today.remove(old) {
            today.insert(new.clone(), day);
        }
        Ok(())
    }

    /// Whether this refusal was not logged recently; records it as logged at `now` if so.
    pub(crate) fn should_log_refusal(
        &self,
        cell: &CellName,
        refusal: String,
        text: String,
        now: Instant,
    ) -> bool {
        let mut all = self.refusals.lock();
        all.retain(|_, known| {
            known.retain(|_, known| now.duration_since(known.at) < LOG_AGAIN_AFTER);
            !known.is_empty()
        });
        let known = all.entry(cell.clone()).or_default();
        if known.contains_key(&refusal) || known.len() >= REMEMBERED_MAX {
            return false;
        }
        known.insert(refusal, Refusal { at: now, text });
        true
    }

    /// The newest refusals of a cell that were logged in the last ten minutes, at most `count`, for people.
    pub(crate) fn recent_refusals(
        &self,
        cell: &CellName,
        count: usize,
        now: Instant,
    ) -> Vec<String> {
        let all = self.refusals.lock();
        let known = all
            .get(cell)
            .into_iter()
            .flatten()
            .map(|(_, refusal)| refusal);
        let mut recent: Vec<&Refusal> = known
            .filter(|r| now.duration_since(r.at) < LOG_AGAIN_AFTER)
            .collect();
        recent.sort_by_key(|r| std::cmp::Reverse(r.at));
        recent
            .into_iter()
            .take(count)
            .map(|r| r.text.clone())
            .collect()
    }

    /// The line itself if its log may get one at `now`. Otherwise it is added to the sum, and `Err` says whether it is the
    /// first there, so that the caller has the sum logged later.
    fn admit_line(
        &self,
        log: &str,
        line: ConnectionLine,
        now: Instant,
    ) -> std::result::Result<ConnectionLine, bool> {
        let mut all = self.allowances.lock();
        let log = all.entry(log.to_owned()).or_insert_with(|| LogAllowance {
            lines: TokenBucket::new(LINES.0, LINES.1, now),
            more: None,
        });
        if log.lines.take(1.0, now).is_ok() {
            return Ok(line);
        }
        match &mut log.more {
            Some(more) => {
                more.connections += line.connections;
                more.up += line.up;
                more.down += line.down;
                Err(false)
            }
            None => {
                log.more = Some(ConnectionLine {
                    host: String::new(),
                    port: 0,
                    address: None,
                    outcome: MORE.to_owned(),
                    ..line
                });
                Err(true)
            }
        }
    }

    fn take_sum(&self, log: &str) -> Option<ConnectionLine> {
        self.allowances.lock().get_mut(log)?.more.take()
    }
}

/// Logs a connection of a cell; those over the limit of its log are counted, and logged as one line within [`COUNT_FOR`].
pub(crate) fn log_connection(net: &Arc<NetState>, cell: &CellName, line: ConnectionLine) {
    let log = log_name(cell);
    match net.egress.admit_line(&log, line, net.core.rt.now()) {
        Ok(line) => append_connection(&net.core, cell, &line),
        Err(false) => {}
        Err(true) => {
            let (net, cell) = (Arc::clone(net), cell.clone());
            let rt = net.core.rt.clone();
            drop(rt.spawn(async move {
                tokio::select! {
                    () = net.core.rt.sleep(COUNT_FOR) => {}
                    () = net.core.rt.stopped() => {}
                }
                if let Some(line) = net.egress.take_sum(&log) {
                    append_connection(&net.core, &cell, &line);
                }
            }));
        }
    }
}

/// Appends a connection to today's log of a cell. If that fails it logs a warning, and the
/// connection goes on.
fn append_connection(core: &CoreState, cell: &CellName, line: &ConnectionLine) {
    let path = log_path(core, cell, &today(core));
    if let Err(error) = append_line(&path, line) {
        tracing::warn!(%cell, %error, "could not append a connection to the egress log");
    }
}

fn append_line(path: &std::path::Path, line: &ConnectionLine) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = fs::OpenOptions::new();
    options.append(true).create(true).mode(0o600);
    let mut file = match options.open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let dir = path.parent().ok_or(std::io::ErrorKind::NotFound)?;
            fs::create_dir_all(dir)?;
            remove_old_days(dir);
            options.open(path)?
        }
        other => other?,
    };
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    file.write_all(&bytes)
}

/// Moves a log; behind what there is, if an earlier cell had that name.
fn move_lines(from: &std::path::Path, to: &std::path::Path) -> std::io::Result<()> {
    fs::create_dir_all(to.parent().unwrap_or(to))?;
    if !to.exists() {
        return fs::rename(from, to);
    }
    let mut kept = fs::OpenOptions::new().append(true).open(to)?;
    std::io::copy(&mut fs::File::open(from)?, &mut kept)?;
    fs::remove_file(from)
}

/// Removes log files older than [`DAYS_KEPT`] days; their names sort by date.
fn remove_old_days(dir: &std::path::Path) {
    let mut days: Vec<PathBuf> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .collect();
    days.sort();
    let old = days.len().saturating_sub(DAYS_KEPT);
    for day in &days[..old] {
        let _gone_already = fs::remove_file(day);
    }
}

/// Name of a cell's log.
fn log_name(cell: &CellName) -> String {
    match cell {
        CellName::Agent(_) | CellName::Service(_) => cell.to_string(),
        // Single commands are short-lived, so they share one log.
        CellName::Run(_) => "commands".to_owned(),
    }
}

fn log_path(core: &CoreState, cell: &CellName, date: &str) -> PathBuf {
    let dir = core.home.egress_log_dir().join(log_name(cell));
    dir.join(format!("{date}.jsonl"))
}

/// Today's date in the time zone of the house's budget.
fn today(core: &CoreState) -> String {
    let zone = core
        .plan
        .current()
        .and_then(|c| jiff::tz::TimeZone::get(&c.house.budget.timezone).ok())
        .unwrap_or(jiff::tz::TimeZone::UTC);
    let now = jiff::Timestamp::from_millisecond(core.store.now().0).unwrap_or_default();
    now.to_zoned(zone).date().to_string()
}

/// Counts transferred bytes against a daily limit.
#[derive(Debug)]
pub(crate) struct ByteCounter {
    /// Bytes of the cell since midnight.
    pub(crate) spent: Arc<AtomicU64>,
    /// Most bytes per day; `None` for no limit.
    pub(crate) limit: Option<u64>,
    /// Bytes sent on this connection.
    pub(crate) up: AtomicU64,
    /// Bytes received on this connection.
    pub(crate) down: AtomicU64,
}

impl ByteCounter {
    /// Whether the cell has used up its daily limit.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.limit
            .is_some_and(|limit| self.spent.load(Ordering::Relaxed) >= limit)
    }
    /// Adds bytes to one direction of this connection and to the cell's total.
    pub(crate) fn count(&self, direction: &AtomicU64, bytes: usize) {
        direction.fetch_add(bytes as u64, Ordering::Relaxed);
        self.spent.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_over_the_limit_of_a_log_become_one_line_that_counts_them() {
        let ledger = EgressLedger::default();
        let now = Instant::now();
        let line = ConnectionLine {
            at: "2026-01-01T00:00:00Z".to_owned(),
            host: "example.org".to_owned(),
            port: 443,
            address: None,
            outcome: "not_allowed".to_owned(),
            connections: 1,
            up: 2,
            down: 3,
        };
        let mut logged = 0u64;
        let mut sums_begun = 0;
        for _ in 0..5000 {
            match ledger.admit_line("agent-a", line.clone(), now) {
                Ok(_) => logged += 1,
                Err(first) => sums_begun += u32::from(first),
            }
        }
        assert_eq!((logged, sums_begun), (1000, 1));
        assert!(ledger.admit_line("agent-b", line.clone(), now).is_ok());
        let sum = ledger.take_sum("agent-a").unwrap();
        assert_eq!((sum.connections, sum.up, sum.down), (4000, 8000, 12_000));
        assert_eq!((sum.host.as_str(), sum.outcome.as_str()), ("", MORE));
        assert!(ledger.take_sum("agent-a").is_none());
        let text = serde_json::to_string(&line).unwrap();
        assert!(!text.contains("connections"), "{text}");
    }

    #[test]
    fn a_cell_with_many_refusals_keeps_none_of_another_out_of_the_audit_log() {
        let ledger = EgressLedger::default();
        let now = Instant::now();
        let cell = |name: &str| CellName::Agent(name.parse().unwrap());
        let logged = (0..5000).filter(|n| {
            ledger.should_log_refusal(
                &cell("a"),
                format!("host-{n} 443 not_allowed"),
                String::new(),
                now,
            )
        });
        assert_eq!(logged.count(), REMEMBERED_MAX);
        let refusal = "host 443 not_allowed".to_owned();
        assert!(ledger.should_log_refusal(&cell("b"), refusal, "host:443: no".to_owned(), now));
        assert_eq!(ledger.recent_refusals(&cell("b"), 3, now), ["host:443: no"]);
        assert_eq!(ledger.recent_refusals(&cell("a"), 3, now).len(), 3);
        assert!(
            ledger
                .recent_refusals(&cell("b"), 3, now + LOG_AGAIN_AFTER)
                .is_empty()
        );
    }
}
