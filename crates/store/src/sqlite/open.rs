//! Opening the state file: sound, of a known format, with the right promises about durability.

use super::connection::database_error;
use super::schema::{
    FORMAT, distrust_schema, find_damage, foreign_schema, migrate, read_format, tables,
};
use crate::chain::{GENESIS, public_key};
use crate::{Clock, Entropy, Error, Result};
use abbey_model::{Redactor, Timestamp};
use rusqlite::{Connection, ErrorCode, OptionalExtension};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// First SQLite without the WAL-reset fault (sqlite.org/wal.html, "walresetbug").
const SQLITE_LEAST: i32 = 3_051_003;
/// Largest file that is checked page by page at each start; a larger one would keep a restart
/// waiting, and a damaged page of it is found when it is read.
const CHECK_MAX: u64 = 8 << 20;

/// Options for opening a store.
pub struct SqliteOptions {
    /// The state file.
    pub path: PathBuf,
    /// The clock that decides leases.
    pub clock: Arc<dyn Clock>,
    /// Source of the random bits of identifiers.
    pub entropy: Arc<dyn Entropy>,
    /// Keeps secrets out of the audit log and out of every text that is stored.
    pub redactor: Arc<std::sync::RwLock<Redactor>>,
    /// Key that signs checkpoints, 32 bytes.
    pub signing_key: [u8; 32],
    /// Called when a flush failed: the state on disk is unknown and the process must end.
    pub on_fatal: Box<dyn FnOnce(&str) + Send>,
}

pub(super) struct Opened {
    pub(super) connection: Connection,
    /// The newest instant in the file: the clock never goes behind it.
    pub(super) newest: Timestamp,
    /// Sequence number and hash of the newest audit entry.
    pub(super) head: (u64, String),
}

/// Space below which a failure of the disk is taken for the lack of space, bytes.
const SPACE_LEAST: u64 = 256 << 10;

/// Opens or creates the state file, checks that it is sound, and migrates it to the newest format.
///
/// # Errors
/// [`Error::Corrupt`] for any other file, [`Error::Newer`] for a format of a later version.
pub(super) fn open(options: &SqliteOptions) -> Result<Opened> {
    if rusqlite::version_number() < SQLITE_LEAST {
        return Err(Error::OldSqlite(rusqlite::version().to_owned()));
    }
    let path = &options.path;
    let existed = path.metadata().map(|m| m.len() > 0).unwrap_or(false);
    let corrupt = |why: String| Error::Corrupt {
        path: path.clone(),
        why,
    };
    // The lack of space says nothing about the file.
    let unreadable = |e: rusqlite::Error| match e.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => Error::DiskFull(path.clone()),
        Some(ErrorCode::SystemIoFailure) if !has_space(path) => Error::DiskFull(path.clone()),
        _ => corrupt(e.to_string()),
    };
    let connection = Connection::open(path).map_err(unreadable)?;
    restrict(path)?;
    prepare(&connection).map_err(unreadable)?;
    let (format, id) = read_format(&connection).map_err(unreadable)?;
    if format > FORMAT {
        return Err(Error::Newer {
            path: path.clone(),
            found: format,
            known: FORMAT,
        });
    }
    let foreign = id != 0 || !tables(&connection).map_err(database_error)?.is_empty();
    if existed && format == 0 && foreign {
        return Err(corrupt("it is a database, but not of a house".to_owned()));
    }
    if existed && format > 0 {
        // Whoever can write the file could have put a trigger there that grants what nobody granted.
        if let Some(why) = foreign_schema(&connection, format).map_err(unreadable)? {
            return Err(corrupt(why));
        }
        let size = path.metadata().map_or(0, |m| m.len());
        if size <= CHECK_MAX
            && let Some(why) = find_damage(&connection, "quick_check").map_err(unreadable)?
        {
            return Err(corrupt(why));
        }
    }
    migrate(&connection, format, FORMAT).map_err(|e| match e.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => Error::DiskFull(path.clone()),
        _ => database_error(e),
    })?;
    let (newest, head) = read_newest(&connection, &options.signing_key).map_err(database_error)?;
    Ok(Opened {
        connection,
        newest,
        head,
    })
}

/// Whether the file system of the state file has space for the files beside it (the shared memory of the journal): a database
/// reports the lack of it as a failure of the disk.
fn has_space(path: &Path) -> bool {
    let dir = path.parent().unwrap_or(path);
    rustix::fs::statvfs(dir).map_or(true, |stat| {
        stat.f_bavail.saturating_mul(stat.f_frsize) >= SPACE_LEAST
    })
}

/// Stores the public key of a new house; the newest instant in the file, and the head of the audit log.
fn read_newest(
    connection: &Connection,
    signing_key: &[u8; 32],
) -> rusqlite::Result<(Timestamp, (u64, String))> {
    connection.execute(
        "INSERT OR IGNORE INTO meta VALUES ('public_key', ?1)",
        [public_key(signing_key)],
    )?;
    let newest: Option<i64> = connection.query_row(
        "SELECT max(at) FROM (SELECT max(at) at FROM activity UNION ALL SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'newest')",
        [],
        |r| r.get(0),
    )?;
    let head = connection
        .query_row(
            "SELECT seq, hash FROM activity ORDER BY seq DESC LIMIT 1",
            [],
            |r| Ok((r.get(0)?, r.get(1)?)),
        )
        .optional()?
        .unwrap_or((0, GENESIS.to_owned()));
    Ok((Timestamp(newest.unwrap_or(0)), head))
}

/// Settings that every connection of ours has.
fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    distrust_schema(connection)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    // No memory map: a truncated file would be a signal instead of an error.
    connection.pragma_update(None, "mmap_size", 0)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "wal_autocheckpoint", 2000)?;
    Ok(())
}

/// Only the house reads its state.
fn restrict(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(|source| {
        Error::File {
            what: "protect",
            path: path.to_owned(),
            source,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::schema::MIGRATIONS;
    use super::*;

    /// An upgraded house gives no number twice.
    #[test]
    fn numbers_of_approvals_go_on_behind_those_that_are_there() {
        let counter = |with: &str| -> Option<String> {
            let db = Connection::open_in_memory().unwrap();
            for sql in &MIGRATIONS[..4] {
                db.execute_batch(sql).unwrap();
            }
            db.execute_batch(with).unwrap();
            migrate(&db, 4, FORMAT).unwrap();
            let mut found = db
                .prepare("SELECT value FROM meta WHERE key = 'approvals'")
                .unwrap();
            let mut rows = found.query([]).unwrap();
            rows.next().unwrap().map(|r| r.get(0).unwrap())
        };
        let asked = "INSERT INTO approvals VALUES (7, 1, 'a', 'x', '{}', '', '', 'denied', '\"deny\"', 0, NULL, NULL, 0, NULL);";
        assert_eq!(counter(asked).as_deref(), Some("7"));
        assert_eq!(counter(""), None);
    }
}
