//! The schema of the state file, format by format, and the check that a file has no other.

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension};

/// `user_version` of each migration, in order; a new format is one more entry.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("schema/1_initial.sql"),
    include_str!("schema/2_task_links.sql"),
    include_str!("schema/3_schedules.sql"),
    include_str!("schema/4_approvals.sql"),
    include_str!("schema/5_approval_numbers.sql"),
    include_str!("schema/6_workflows.sql"),
    include_str!("schema/7_documents.sql"),
    include_str!("schema/8_escalations.sql"),
    include_str!("schema/9_draining.sql"),
    include_str!("schema/10_named_tokens.sql"),
    include_str!("schema/11_renamed_agents.sql"),
    include_str!("schema/12_first_files.sql"),
    include_str!("schema/13_waiting.sql"),
    include_str!("schema/14_refused_keys.sql"),
];
/// Newest format of the state file that this version reads and writes.
pub const FORMAT: i64 = MIGRATIONS.len() as i64;
/// Marks the file as ours: the letters ABBY.
const APPLICATION_ID: i32 = 0x4142_4259;

/// Tables whose rows grant authority. No backup has them and no restore takes them: a restored house issues its
/// credentials anew.
pub(super) const AUTHORITY: &[&str] = &["tokens"];

/// Brings a file from format `from` to format `to`.
pub(super) fn migrate(connection: &Connection, from: i64, to: i64) -> rusqlite::Result<()> {
    for (sql, format) in MIGRATIONS.iter().zip(1..=to) {
        if format > from {
            connection.execute_batch(&format!(
                "BEGIN IMMEDIATE; {sql} PRAGMA user_version = {format}; PRAGMA application_id = {APPLICATION_ID}; COMMIT;"
            ))?;
        }
    }
    Ok(())
}

/// Format and application of a file; an empty file has format 0.
pub(super) fn read_format(connection: &Connection) -> rusqlite::Result<(i64, i32)> {
    let number = |name| connection.pragma_query_value(None, name, |r| r.get::<_, i64>(0));
    let application = number("application_id")?;
    Ok((
        number("user_version")?,
        i32::try_from(application).unwrap_or(-1),
    ))
}

/// Makes a connection believe nothing that the schema of the file says beyond its tables: no trigger fires, no view is
/// read, no function runs from within the schema, and nothing writes to the schema itself.
pub(super) fn distrust_schema(connection: &Connection) -> rusqlite::Result<()> {
    for (setting, on) in [
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
    ] {
        connection.set_db_config(setting, on)?;
    }
    Ok(())
}

/// An object of a schema: kind, name, table, and its definition unless SQLite made it.
type SchemaObject = (String, String, String, Option<String>);

fn objects(connection: &Connection) -> rusqlite::Result<Vec<SchemaObject>> {
    let mut found = connection
        .prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name")?;
    found
        .query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?)))?
        .collect()
}

/// An empty database of a format, in memory.
pub(super) fn reference(format: i64) -> rusqlite::Result<Connection> {
    let connection = Connection::open_in_memory()?;
    migrate(&connection, 0, format)?;
    Ok(connection)
}

/// Names of the tables of a database with a schema of ours.
pub(super) fn tables(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut names =
        connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")?;
    names.query_map([], |r| r.get(0))?.collect()
}

/// First way in which the schema of a file differs from that of its format; `None` if it has exactly the objects that
/// Abbey creates.
pub(super) fn foreign_schema(
    connection: &Connection,
    format: i64,
) -> rusqlite::Result<Option<String>> {
    let (ours, theirs) = (objects(&reference(format)?)?, objects(connection)?);
    if let Some((kind, name, ..)) = theirs.iter().find(|o| !ours.contains(o)) {
        let known = ours.iter().any(|o| o.1 == *name);
        return Ok(Some(match known {
            true => format!("the {kind} `{name}` is not as Abbey creates it"),
            false => format!("it has the {kind} `{name}`, which Abbey does not create"),
        }));
    }
    let missing = ours.iter().find(|o| !theirs.contains(o));
    Ok(missing.map(|(kind, name, ..)| format!("the {kind} `{name}` is missing")))
}

/// First damage that a check of the whole file finds; `None` if there is none.
pub(super) fn find_damage(
    connection: &Connection,
    check: &str,
) -> rusqlite::Result<Option<String>> {
    let verdict: Option<String> = connection
        .query_row(&format!("PRAGMA {check}(1)"), [], |r| r.get(0))
        .optional()?;
    Ok(verdict.filter(|v| v != "ok"))
}
