//! The row interface over a SQLite connection, with its cache of prepared statements.

use crate::error::DatabaseError;
use crate::rows::{Row, Rows, Scalar, WriteRows};
use crate::{Error, Result};
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{CachedStatement, Connection};
use std::borrow::Cow;
use std::ops::ControlFlow;

/// Statements that a connection keeps prepared: more than the operations have.
const PREPARED_MAX: usize = 256;

impl ToSql for Scalar<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Scalar::Null => ValueRef::Null,
            Scalar::Integer(n) => ValueRef::Integer(*n),
            Scalar::Text(text) => ValueRef::Text(text.as_bytes()),
            Scalar::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

impl Row for rusqlite::Row<'_> {
    fn scalar(&self, column: usize) -> Result<Scalar<'_>> {
        match self.get_ref(column).map_err(database_error)? {
            ValueRef::Null => Ok(Scalar::Null),
            ValueRef::Integer(n) => Ok(Scalar::Integer(n)),
            ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => Ok(Scalar::Text(Cow::Borrowed(text))),
                Err(_) => Err(Error::Row(format!("column {column} is not UTF-8"))),
            },
            ValueRef::Blob(bytes) => Ok(Scalar::Bytes(Cow::Borrowed(bytes))),
            ValueRef::Real(_) => Err(Error::Row(format!("column {column} is a fraction"))),
        }
    }
}

/// A connection of ours as rows.
pub(super) struct SqliteRows(pub(super) Connection);

impl SqliteRows {
    /// Wraps an open connection as the row interface of the operations.
    pub(super) fn new(connection: Connection) -> Self {
        connection.set_prepared_statement_cache_capacity(PREPARED_MAX);
        SqliteRows(connection)
    }

    fn prepare(&self, sql: &str, parameters: &[Scalar<'_>]) -> Result<CachedStatement<'_>> {
        let mut statement = self.0.prepare_cached(sql).map_err(database_error)?;
        for (index, parameter) in parameters.iter().enumerate() {
            statement
                .raw_bind_parameter(index + 1, parameter)
                .map_err(database_error)?;
        }
        Ok(statement)
    }
}

impl Rows for SqliteRows {
    fn visit(
        &self,
        sql: &str,
        parameters: &[Scalar<'_>],
        visit: &mut dyn FnMut(&dyn Row) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let mut statement = self.prepare(sql, parameters)?;
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next().map_err(database_error)? {
            if visit(row)?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl WriteRows for SqliteRows {
    fn execute(&self, sql: &str, parameters: &[Scalar<'_>]) -> Result<u64> {
        let mut statement = self.prepare(sql, parameters)?;
        let changed = statement.raw_execute().map_err(database_error)?;
        Ok(changed as u64)
    }
}

/// Converts an error of SQLite into the store's error, without exposing its type.
pub(super) fn database_error(error: rusqlite::Error) -> Error {
    let full = error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull);
    Error::Database(DatabaseError::new(full, error))
}
