//! Copies of the whole state, and its digest.

use super::connection::database_error;
use super::schema::{AUTHORITY, tables};
use crate::chain::canonical;
use crate::{Error, Result};
use abbey_support::digest::hex;
use abbey_support::file::{Sync, publish_finished};
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::time::Duration;

/// Pages copied between two pauses of the online backup.
const PAGES: i32 = 512;

/// Copies the state file to the path `to` while the store is in use. The copy appears under its name only when it is
/// complete. Credentials are left out: a restored copy would bring back those that were revoked since.
pub(super) fn copy_to(db: &Connection, to: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let file = |what: &'static str| {
        move |source| Error::File {
            what,
            path: to.to_owned(),
            source,
        }
    };
    let temporary = to.with_extension("partial");
    let _left_by_a_crash = std::fs::remove_file(&temporary);
    let failed = |error| match database_error(error) {
        Error::Database(e) if e.out_of_space => Error::DiskFull(to.to_owned()),
        error => error,
    };
    let mut target = Connection::open(&temporary).map_err(failed)?;
    std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o600))
        .map_err(file("protect"))?;
    copy_pages(db, &mut target).map_err(failed)?;
    drop(target);
    publish_finished(&temporary, to, Sync::Content).map_err(file("publish"))
}

fn copy_pages(db: &Connection, target: &mut Connection) -> rusqlite::Result<()> {
    rusqlite::backup::Backup::new(db, target)?.run_to_completion(
        PAGES,
        Duration::from_millis(1),
        None,
    )?;
    // Not even in pages that are free.
    target.pragma_update(None, "secure_delete", "ON")?;
    for table in AUTHORITY {
        target.execute(&format!("DELETE FROM {table}"), [])?;
    }
    // One file, complete in itself.
    target.pragma_update(None, "journal_mode", "DELETE")
}

/// SHA-256 over every row of every table but the credentials, as canonical JSON in key order. Equal hashes mean equal
/// states.
pub(super) fn state_hash(db: &Connection) -> Result<String> {
    let mut hash = Sha256::new();
    let all = tables(db).map_err(database_error)?;
    for table in all.iter().filter(|t| !AUTHORITY.contains(&t.as_str())) {
        hash_table(db, table, &mut hash)?;
    }
    Ok(hex(hash.finalize()))
}

fn hash_table(db: &Connection, table: &str, hash: &mut Sha256) -> Result<()> {
    // Names of tables come from our own schema.
    let sql = format!("SELECT * FROM {table} ORDER BY 1, 2");
    let mut statement = db.prepare(&sql).map_err(database_error)?;
    let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let mut rows = statement.query([]).map_err(database_error)?;
    while let Some(row) = rows.next().map_err(database_error)? {
        let mut object = json!({ "table": table });
        for (i, column) in columns.iter().enumerate() {
            object[column] = match row.get_ref(i).map_err(database_error)? {
                ValueRef::Null => Value::Null,
                ValueRef::Integer(n) => json!(n.to_string()),
                ValueRef::Real(x) => json!(x.to_string()),
                ValueRef::Text(bytes) => json_or_text(String::from_utf8_lossy(bytes).into_owned()),
                ValueRef::Blob(bytes) => json!(hex(bytes)),
            };
        }
        hash.update(canonical(&object)?.as_bytes());
        hash.update(b"\n");
    }
    Ok(())
}

/// Value of a JSON text, or the text.
fn json_or_text(text: String) -> Value {
    serde_json::from_str(&text).unwrap_or(Value::String(text))
}
