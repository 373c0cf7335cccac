//! Programs of the stock services. Each runs in the cell of its service, as the cell's user; the control plane asks it
//! what a consumer needs by running this binary once more in that cell, with JSON on standard input.

pub mod ask;
mod door;
mod error;
mod git;
pub mod postgres;
mod registry;
mod site;
mod tools;

pub use error::{Error, Result};

use std::ffi::OsString;
use std::path::PathBuf;

/// Whether the host has what a stock service consists of.
///
/// # Errors
/// What is missing, and what to install.
pub fn found(kind: &str) -> Result<()> {
    match kind {
        "postgres" => postgres::found(),
        "git" => git::found(),
        _ => Ok(()),
    }
}

/// Plays a part of a stock service: `KIND serve --address A --port N`, or `KIND ask` with a question on standard input.
///
/// # Errors
/// What could not be done, in words for the service's log.
pub async fn run(args: &[OsString]) -> Result<i32> {
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
        ("postgres", "serve") => postgres::serve(&home, address, port).await,
        ("git", "serve") => git::serve(&home, address, port).await,
        ("tools", "serve") => {
            let at = args.iter().position(|a| a == "--");
            let command = at.and_then(|at| args.get(at + 1..)).unwrap_or_default();
            tools::serve(address, port, command).await
        }
        ("site", "serve") => site::serve(&home, address, port).await,
        ("postgres", "ask") => ask::answer(|question| postgres::answer(&home, question)),
        ("git", "ask") => ask::answer(|question| git::answer(&home, question)),
        ("site", "ask") => ask::answer(|question| site::answer(&home, question)),
        (kind, part) => Err(Error::InvalidRequest(format!(
            "there is no `{kind} {part}`"
        ))),
    }
}
