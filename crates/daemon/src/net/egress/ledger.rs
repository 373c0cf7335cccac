//! Records of outgoing connections by cell and day: a log line for each connection, and the bytes
//! counted against the daily budget.

use crate::core::error::{Error, Result};
use crate::core::state::CoreState;
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
/// Most refusals that are remembered for this.
const REMEMBERED_MAX: usize = 4096;

/// Log line of one connection.
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
    /// Bytes sent by the cell.
    #[serde(default)]
    pub(crate) up: u64,
    /// Bytes received by the cell.
    #[serde(default)]
    pub(crate) down: u64,
}

type Day = (String, Arc<AtomicU64>);

/// Bytes of each cell today, and recently logged refusals.
#[derive(Debug, Default)]
pub(crate) struct EgressLedger {
    today: Mutex<BTreeMap<CellName, Day>>,
    refusals: Mutex<BTreeMap<String, Instant>>,
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
    pub(crate) fn should_log_refusal(&self, refusal: String, now: Instant) -> bool {
        let mut known = self.refusals.lock();
        known.retain(|_, at| now.duration_since(*at) < LOG_AGAIN_AFTER);
        if known.contains_key(&refusal) || known.len() >= REMEMBERED_MAX {
            return false;
        }
        known.insert(refusal, now);
        true
    }
}

/// Appends a connection to today's log of a cell. If that fails it logs a warning, and the
/// connection goes on.
pub(crate) fn append_connection(core: &CoreState, cell: &CellName, line: &ConnectionLine) {
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

fn log_path(core: &CoreState, cell: &CellName, date: &str) -> PathBuf {
    // Single commands are short-lived, so they share one log.
    let name = match cell {
        CellName::Agent(_) | CellName::Service(_) => cell.to_string(),
        CellName::Run(_) => "commands".to_owned(),
    };
    let dir = core.home.egress_log_dir().join(name);
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
