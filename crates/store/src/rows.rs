//! The row interface: all that a database must offer so that every operation of [`crate::ops`] runs on it.
//!
//! Operations are written once, in a subset of SQL that SQLite and PostgreSQL share: `?1`, `?2`, … as placeholders,
//! `INSERT … ON CONFLICT`, `RETURNING`, `coalesce`, `CAST(… AS BIGINT)`, sub-queries and `UNION`. Functions of one
//! database (JSON access, two-argument `max`, `INSERT OR IGNORE`, pragmas) are not used: documents that a row holds
//! as JSON are read in Rust. A test holds the operations to this.
//!
//! Columns hold four types only ([`Scalar`]). Truth values are the integers 0 and 1.

use crate::{Error, Result};
use abbey_model::Timestamp;
use serde::de::DeserializeOwned;
use std::borrow::Cow;
use std::ops::ControlFlow;
use std::str::FromStr;

/// One value, as a parameter of a statement or in a column of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scalar<'a> {
    /// No value.
    Null,
    /// A 64-bit integer.
    Integer(i64),
    /// UTF-8 text.
    Text(Cow<'a, str>),
    /// Bytes.
    Bytes(Cow<'a, [u8]>),
}

/// One row of a result.
pub trait Row {
    /// Value of a column, counted from 0.
    ///
    /// # Errors
    /// [`Error::Row`] when there is no such column or its type is none of [`Scalar`]'s.
    fn scalar(&self, column: usize) -> Result<Scalar<'_>>;
}

/// Reads rows. Every read of an operation goes through this one method.
pub trait Rows {
    /// Runs a query and shows its rows to `visit`, in order, until that answers `Break`.
    ///
    /// # Errors
    /// [`Error::Database`] when the database fails, or whatever `visit` returns.
    fn visit(
        &self,
        sql: &str,
        parameters: &[Scalar<'_>],
        visit: &mut dyn FnMut(&dyn Row) -> Result<ControlFlow<()>>,
    ) -> Result<()>;
}

/// Changes rows, inside an open transaction.
pub trait WriteRows: Rows {
    /// Runs a statement; the number of rows that it changed.
    ///
    /// # Errors
    /// [`Error::Database`] when the database fails.
    fn execute(&self, sql: &str, parameters: &[Scalar<'_>]) -> Result<u64>;
}

/// Queries in the forms that operations use.
pub(crate) trait Query: Rows {
    /// Every row.
    fn all<T>(
        &self,
        sql: &str,
        parameters: &[Scalar<'_>],
        mut read: impl FnMut(&mut Columns<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut rows = Vec::new();
        self.visit(sql, parameters, &mut |row| {
            rows.push(read(&mut Columns::of(row))?);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(rows)
    }

    /// The first row, if there is one.
    fn first<T>(
        &self,
        sql: &str,
        parameters: &[Scalar<'_>],
        mut read: impl FnMut(&mut Columns<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        let mut found = None;
        self.visit(sql, parameters, &mut |row| {
            found = Some(read(&mut Columns::of(row))?);
            Ok(ControlFlow::Break(()))
        })?;
        Ok(found)
    }

    /// The first column of the first row, if there is one.
    fn value<T: FromScalar>(&self, sql: &str, parameters: &[Scalar<'_>]) -> Result<Option<T>> {
        self.first(sql, parameters, |columns| columns.get())
    }

    /// The one value of an aggregate such as `count(*)`.
    fn aggregate<T: FromScalar>(&self, sql: &str, parameters: &[Scalar<'_>]) -> Result<T> {
        self.value(sql, parameters)?
            .ok_or_else(|| Error::Row("an aggregate gave no row".to_owned()))
    }

    /// Whether there is any row.
    fn exists(&self, sql: &str, parameters: &[Scalar<'_>]) -> Result<bool> {
        Ok(self.first(sql, parameters, |_| Ok(()))?.is_some())
    }
}

impl<R: Rows + ?Sized> Query for R {}

/// The columns of one row, read from left to right: a row is read in the order in which its query names the columns.
pub(crate) struct Columns<'a> {
    row: &'a dyn Row,
    next: usize,
}

impl<'a> Columns<'a> {
    /// Reads the columns of a row from the first on.
    pub(crate) fn of(row: &'a dyn Row) -> Self {
        Columns { row, next: 0 }
    }

    fn scalar(&mut self) -> Result<Scalar<'a>> {
        let column = self.next;
        self.next += 1;
        self.row.scalar(column)
    }

    /// Reads the next column as a type that the database stores directly.
    pub(crate) fn get<T: FromScalar>(&mut self) -> Result<T> {
        let column = self.next;
        T::from_scalar(self.scalar()?)
            .ok_or_else(|| Error::Row(format!("column {column} has another type than expected")))
    }

    fn text(&mut self) -> Result<Option<Cow<'a, str>>> {
        let column = self.next;
        match self.scalar()? {
            Scalar::Null => Ok(None),
            Scalar::Text(text) => Ok(Some(text)),
            Scalar::Integer(_) | Scalar::Bytes(_) => {
                Err(Error::Row(format!("column {column} is not text")))
            }
        }
    }

    fn some_text(&mut self) -> Result<Cow<'a, str>> {
        let column = self.next;
        self.text()?
            .ok_or_else(|| Error::Row(format!("column {column} is empty")))
    }

    /// Reads the next column, which is text, with the type's `FromStr`.
    pub(crate) fn parse<T: FromStr<Err: std::fmt::Display>>(&mut self) -> Result<T> {
        parse(&self.some_text()?)
    }

    /// As [`Columns::parse`], for a column that may be null.
    pub(crate) fn parse_optional<T: FromStr<Err: std::fmt::Display>>(
        &mut self,
    ) -> Result<Option<T>> {
        self.text()?.as_deref().map(parse).transpose()
    }

    /// Reads the next column, which is text, as JSON of the type.
    pub(crate) fn json<T: DeserializeOwned>(&mut self) -> Result<T> {
        Ok(serde_json::from_str(&self.some_text()?)?)
    }

    /// As [`Columns::json`], for a column that may be null.
    pub(crate) fn json_optional<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        let text = self.text()?;
        Ok(text.as_deref().map(serde_json::from_str).transpose()?)
    }
}

/// Parses the text of a column with the type's `FromStr`.
///
/// # Errors
/// [`Error::Row`] when the text does not parse.
pub(crate) fn parse<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T> {
    text.parse().map_err(|e: T::Err| Error::Row(e.to_string()))
}

/// Types that a column can be read as.
pub(crate) trait FromScalar: Sized {
    /// The value, unless the column has another type.
    fn from_scalar(scalar: Scalar<'_>) -> Option<Self>;
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl FromScalar for $type {
            fn from_scalar(scalar: Scalar<'_>) -> Option<Self> {
                match scalar {
                    Scalar::Integer(n) => n.try_into().ok(),
                    Scalar::Null | Scalar::Text(_) | Scalar::Bytes(_) => None,
                }
            }
        }
    )*};
}
integers!(i64, u64, u32, u8);

impl FromScalar for bool {
    fn from_scalar(scalar: Scalar<'_>) -> Option<Self> {
        i64::from_scalar(scalar).map(|n| n != 0)
    }
}

impl FromScalar for Timestamp {
    fn from_scalar(scalar: Scalar<'_>) -> Option<Self> {
        i64::from_scalar(scalar).map(Timestamp)
    }
}

impl FromScalar for String {
    fn from_scalar(scalar: Scalar<'_>) -> Option<Self> {
        match scalar {
            Scalar::Text(text) => Some(text.into_owned()),
            Scalar::Null | Scalar::Integer(_) | Scalar::Bytes(_) => None,
        }
    }
}

impl FromScalar for Vec<u8> {
    fn from_scalar(scalar: Scalar<'_>) -> Option<Self> {
        match scalar {
            Scalar::Bytes(bytes) => Some(bytes.into_owned()),
            Scalar::Null | Scalar::Integer(_) | Scalar::Text(_) => None,
        }
    }
}

impl<T: FromScalar> FromScalar for Option<T> {
    fn from_scalar(scalar: Scalar<'_>) -> Option<Self> {
        match scalar {
            Scalar::Null => Some(None),
            scalar => T::from_scalar(scalar).map(Some),
        }
    }
}

impl From<i64> for Scalar<'_> {
    fn from(n: i64) -> Self {
        Scalar::Integer(n)
    }
}
/// Counts above 2⁶³−1 are stored as that: no amount, number or limit of a house is larger.
impl From<u64> for Scalar<'_> {
    fn from(n: u64) -> Self {
        Scalar::Integer(i64::try_from(n).unwrap_or(i64::MAX))
    }
}
impl From<u32> for Scalar<'_> {
    fn from(n: u32) -> Self {
        Scalar::Integer(n.into())
    }
}
impl From<u8> for Scalar<'_> {
    fn from(n: u8) -> Self {
        Scalar::Integer(n.into())
    }
}
impl From<bool> for Scalar<'_> {
    fn from(truth: bool) -> Self {
        Scalar::Integer(truth.into())
    }
}
impl From<Timestamp> for Scalar<'_> {
    fn from(at: Timestamp) -> Self {
        Scalar::Integer(at.0)
    }
}
impl<'a> From<&'a str> for Scalar<'a> {
    fn from(text: &'a str) -> Self {
        Scalar::Text(Cow::Borrowed(text))
    }
}
impl<'a> From<&'a String> for Scalar<'a> {
    fn from(text: &'a String) -> Self {
        Scalar::Text(Cow::Borrowed(text))
    }
}
impl From<String> for Scalar<'_> {
    fn from(text: String) -> Self {
        Scalar::Text(Cow::Owned(text))
    }
}
impl<'a> From<&'a [u8]> for Scalar<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Scalar::Bytes(Cow::Borrowed(bytes))
    }
}
impl<'a, T: Into<Scalar<'a>>> From<Option<T>> for Scalar<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Scalar::Null, Into::into)
    }
}
impl<'a> From<&'a Option<String>> for Scalar<'a> {
    fn from(value: &'a Option<String>) -> Self {
        value.as_ref().into()
    }
}

/// Parameters of a statement, each converted into a [`Scalar`].
macro_rules! params {
    () => { &[] as &[$crate::rows::Scalar<'_>] };
    ($($value:expr),+ $(,)?) => { &[$($crate::rows::Scalar::from($value)),+] as &[$crate::rows::Scalar<'_>] };
}
pub(crate) use params;
