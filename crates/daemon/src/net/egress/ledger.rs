//! What went out, by cell and day: a line for each connection, and the bytes against a budget.

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

/// Days for which lines are kept.
const DAYS_KEPT: usize = 14;
/// A refusal that repeats is an entry of the chain once in this time.
const QUIET: Duration = Duration::from_secs(600);
/// Refusals that are remembered for that.
const REMEMBERED_MAX: usize = 4096;

/// One connection, as a line of the log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Line {
    /// RFC 3339.
    pub(crate) at: String,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Where it led; absent when it led nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) address: Option<String>,
    /// `done`, or why not.
    pub(crate) outcome: String,
    /// Bytes to the outside.
    #[serde(default)]
    pub(crate) up: u64,
    /// Bytes from the outside.
    #[serde(default)]
    pub(crate) down: u64,
}

type Day = (String, Arc<AtomicU64>);

/// Every cell's account.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    today: Mutex<BTreeMap<CellName, Day>>,
    refusals: Mutex<BTreeMap<String, Instant>>,
}

impl Ledger {
    /// Bytes of a cell since midnight, shared by its connections. After a start they are added up
    /// from the log.
    pub(crate) fn bytes(&self, core: &CoreState, cell: &CellName) -> Result<Arc<AtomicU64>> {
        let date = date(core);
        let mut today = self.today.lock();
        if let Some((_, bytes)) = today.get(cell).filter(|(d, _)| *d == date) {
            return Ok(Arc::clone(bytes));
        }
        let path = path(core, cell, &date);
        let spent = match fs::File::open(&path) {
            Ok(file) => BufReader::new(file)
                .lines()
                .map_while(std::result::Result::ok)
                .filter_map(|l| serde_json::from_str::<Line>(&l).ok())
                .map(|l| l.up + l.down)
                .sum(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => 0,
            Err(e) => return Err(Error::file("read", path)(e)),
        };
        let bytes = Arc::new(AtomicU64::new(spent));
        today.insert(cell.clone(), (date, Arc::clone(&bytes)));
        Ok(bytes)
    }

    /// Whether a refusal was not reported recently, and so is logged again.
    pub(crate) fn is_news(&self, refusal: String, now: Instant) -> bool {
        let mut known = self.refusals.lock();
        known.retain(|_, at| now.duration_since(*at) < QUIET);
        if known.contains_key(&refusal) || known.len() >= REMEMBERED_MAX {
            return false;
        }
        known.insert(refusal, now);
        true
    }
}

/// Adds a line; a full disk loses the line and not the connection.
pub(crate) fn write(core: &CoreState, cell: &CellName, line: &Line) {
    let path = path(core, cell, &date(core));
    if let Err(error) = append(&path, line) {
        tracing::warn!(%cell, %error, "a line about egress could not be written");
    }
}

fn append(path: &std::path::Path, line: &Line) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = fs::OpenOptions::new();
    options.append(true).create(true).mode(0o600);
    let mut file = match options.open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let dir = path.parent().ok_or(std::io::ErrorKind::NotFound)?;
            fs::create_dir_all(dir)?;
            forget_old(dir);
            options.open(path)?
        }
        other => other?,
    };
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    file.write_all(&bytes)
}

/// Days sort by name.
fn forget_old(dir: &std::path::Path) {
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

fn path(core: &CoreState, cell: &CellName, date: &str) -> PathBuf {
    // Single commands come and go; theirs are kept together.
    let name = match cell {
        CellName::Agent(_) | CellName::Service(_) => cell.to_string(),
        CellName::Run(_) => "commands".to_owned(),
    };
    let dir = core.home.egress_logs().join(name);
    dir.join(format!("{date}.jsonl"))
}

/// The day of the house's budget zone.
fn date(core: &CoreState) -> String {
    let zone = core
        .plan
        .current()
        .and_then(|c| jiff::tz::TimeZone::get(&c.house.budget.timezone).ok())
        .unwrap_or(jiff::tz::TimeZone::UTC);
    let now = jiff::Timestamp::from_millisecond(core.store.now().0).unwrap_or_default();
    now.to_zoned(zone).date().to_string()
}

/// Counts what passes, and stops it where the budget ends.
#[derive(Debug)]
pub(crate) struct Counter {
    /// Of the cell since midnight.
    pub(crate) spent: Arc<AtomicU64>,
    pub(crate) limit: Option<u64>,
    pub(crate) up: AtomicU64,
    pub(crate) down: AtomicU64,
}

impl Counter {
    /// Whether the budget is used up.
    pub(crate) fn is_over(&self) -> bool {
        self.limit
            .is_some_and(|limit| self.spent.load(Ordering::Relaxed) >= limit)
    }
    pub(crate) fn add(&self, direction: &AtomicU64, bytes: usize) {
        direction.fetch_add(bytes as u64, Ordering::Relaxed);
        self.spent.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}
