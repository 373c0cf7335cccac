//! What every storage must do, and what SQLite adds to it.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test tells by failing, and by what it prints"
)]

mod conformance;
mod sqlite;
mod support;
mod wake_ups;

use support::{Factory, SqliteFactory};

#[test]
fn sqlite_conforms() {
    conformance::run(&|| Box::new(SqliteFactory::new()) as Box<dyn Factory>);
}
