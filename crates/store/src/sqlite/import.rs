//! Rows of a state file that may come from anybody, in a new file whose schema is ours.

use super::schema::{
    AUTHORITY, FORMAT, distrust_schema, find_damage, foreign_schema, migrate, read_format,
    reference, tables,
};
use crate::{Error, Result};
use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, params_from_iter};
use std::path::Path;

/// Copies the rows of the state file `from`, which is opened read-only, to the new file `to`, in the format that it
/// has. Tables are created from our own schema and filled column by column; credentials are left out.
///
/// # Errors
/// [`Error::Corrupt`] if the file is damaged, no state file, or has anything in its schema that Abbey does not create
/// (a trigger, a view, another definition of a table); [`Error::Newer`] for a format of a later version.
pub fn import_state_file(from: &Path, to: &Path) -> Result<()> {
    let corrupt = |why: String| Error::Corrupt {
        path: from.to_owned(),
        why,
    };
    let unreadable = |e: rusqlite::Error| corrupt(e.to_string());
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let source = Connection::open_with_flags(from, flags).map_err(unreadable)?;
    distrust_schema(&source).map_err(unreadable)?;
    let (format, _) = read_format(&source).map_err(unreadable)?;
    if format > FORMAT {
        return Err(Error::Newer {
            path: from.to_owned(),
            found: format,
            known: FORMAT,
        });
    }
    if format < 1 {
        return Err(corrupt("it is not the database of a house".to_owned()));
    }
    if let Some(why) = foreign_schema(&source, format).map_err(unreadable)? {
        return Err(corrupt(why));
    }
    if let Some(why) = find_damage(&source, "integrity_check").map_err(unreadable)? {
        return Err(corrupt(why));
    }
    copy_rows(&source, format, to).map_err(|e| match e.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => Error::DiskFull(to.to_owned()),
        _ => corrupt(e.to_string()),
    })
}

fn copy_rows(source: &Connection, format: i64, to: &Path) -> rusqlite::Result<()> {
    let mut target = Connection::open(to)?;
    migrate(&target, 0, format)?;
    let transaction = target.transaction()?;
    for table in tables(&reference(format)?)? {
        if AUTHORITY.contains(&table.as_str()) {
            continue;
        }
        // Migrations may have put rows there.
        transaction.execute(&format!("DELETE FROM {table}"), [])?;
        let columns: Vec<String> = transaction
            .prepare(&format!("SELECT * FROM {table}"))?
            .column_names()
            .map(|name| format!("\"{name}\""))
            .collect();
        let places = vec!["?"; columns.len()].join(", ");
        let columns = columns.join(", ");
        let mut insert = transaction.prepare(&format!(
            "INSERT INTO {table} ({columns}) VALUES ({places})"
        ))?;
        let mut select = source.prepare(&format!("SELECT {columns} FROM {table}"))?;
        let width = select.column_count();
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let values = (0..width).map(|i| row.get::<_, Value>(i));
            let values: Vec<Value> = values.collect::<rusqlite::Result<_>>()?;
            insert.execute(params_from_iter(values))?;
        }
    }
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rows_come_over_and_no_credentials() {
        let dir = tempfile::tempdir().unwrap();
        let made = |name: &str, format: i64, with: &str| {
            let path = dir.path().join(name);
            let db = Connection::open(&path).unwrap();
            migrate(&db, 0, format).unwrap();
            db.execute_batch(with).unwrap();
            path
        };
        let token = "INSERT INTO tokens (hash, principal, scope, created_at) VALUES ('h', 'operator', 'operator', 1);";
        let task = "INSERT INTO meta VALUES ('timezone', 'UTC');";
        for format in 1..=FORMAT {
            let from = made(&format!("{format}.db"), format, &format!("{token}{task}"));
            let to = dir.path().join(format!("{format}-new.db"));
            import_state_file(&from, &to).unwrap();
            let db = Connection::open(&to).unwrap();
            let count = |table: &str| -> i64 {
                let sql = format!("SELECT count(*) FROM {table}");
                db.query_row(&sql, [], |r| r.get(0)).unwrap()
            };
            assert_eq!((count("tokens"), count("meta")), (0, 1));
            assert_eq!(read_format(&db).unwrap().0, format);
        }
        for (name, with, says) in [
            (
                "trigger",
                "CREATE TRIGGER zz AFTER DELETE ON tokens BEGIN SELECT 1; END;",
                "trigger `zz`",
            ),
            (
                "view",
                "ALTER TABLE wakes RENAME TO w; CREATE VIEW wakes AS SELECT * FROM w;",
                "`w`",
            ),
            (
                "column",
                "ALTER TABLE wakes ADD COLUMN more TEXT;",
                "table `wakes`",
            ),
            ("index", "DROP INDEX approvals_task;", "is missing"),
            ("future", "PRAGMA user_version = 9999;", "newer version"),
            (
                "nothing",
                "PRAGMA user_version = 0;",
                "not the database of a house",
            ),
        ] {
            let from = made(name, FORMAT, with);
            let to = dir.path().join(format!("{name}-new"));
            let error = import_state_file(&from, &to).unwrap_err().to_string();
            assert!(error.contains(says), "{name}: {error}");
            assert!(!to.exists());
        }
    }
}
