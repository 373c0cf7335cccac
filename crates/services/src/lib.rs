//! Programs of the stock services. Each runs in the cell of its service, as the cell's user; the control plane asks it
//! what a consumer needs by running this binary once more in that cell, with JSON on standard input.

pub mod ask;
mod door;
mod error;
mod git;
mod lost_data;
pub mod postgres;
mod registry;
mod site;
mod tools;

pub use error::{Error, Result};

use std::ffi::OsString;
use std::path::PathBuf;

/// Checks that the programs of a stock service (`postgres` or `git`) are installed on the host.
///
/// # Errors
/// What is missing and what to install.
pub fn check_installed(kind: &str) -> Result<()> {
    match kind {
        "postgres" => postgres::check_installed(),
        "git" => git::check_installed(),
        _ => Ok(()),
    }
}

/// Runs the role `service`: `KIND serve --address A --port N` serves a stock service, `KIND ask` performs one
/// request from standard input. Returns the exit status.
///
/// # Errors
/// What failed, as text for the service's log.
pub async fn run_service(args: &[OsString]) -> Result<i32> {
    let word = |i: usize| args.get(i).and_then(|a| a.to_str()).unwrap_or_default();
    let value = |name: &str| {
        let at = args.iter().position(|a| a == name)?;
        args.get(at + 1)?.to_str()
    };
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("."), PathBuf::from);
    let served = word(1) == "serve";
    let port = value("--port").and_then(|p| p.parse().ok());
    let (address, port) = match (value("--address"), port) {
        (Some(address), Some(port)) => (address, port),
        _ if served => {
            let text = "`--address` and `--port` are missing";
            return Err(Error::InvalidRequest(text.to_owned()));
        }
        _ => ("", 0),
    };
    match (word(0), word(1)) {
        (kind @ ("postgres" | "git" | "site"), "serve") => lost_data::claim_data(&home, kind)?,
        (kind @ ("postgres" | "git" | "site"), "ask") => lost_data::check_kind(&home, kind)?,
        _ => {}
    }
    match (word(0), word(1)) {
        ("postgres", "serve") => postgres::serve_postgres(&home, address, port).await,
        ("git", "serve") => git::serve_git(&home, address, port).await,
        ("tools", "serve") => {
            let at = args.iter().position(|a| a == "--");
            let command = at.and_then(|at| args.get(at + 1..)).unwrap_or_default();
            tools::serve_tools(address, port, command).await
        }
        ("site", "serve") => site::serve_site(&home, address, port).await,
        ("postgres", "ask") => ask::answer_stdin_request(|question| {
            postgres::perform_postgres_request(&home, question)
        }),
        ("git", "ask") => {
            ask::answer_stdin_request(|question| git::perform_git_request(&home, question))
        }
        ("site", "ask") => {
            ask::answer_stdin_request(|question| site::perform_site_request(&home, question))
        }
        (kind, part) => Err(Error::InvalidRequest(format!(
            "unknown service command `{kind} {part}`"
        ))),
    }
}
