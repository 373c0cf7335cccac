//! Tasks of the repository: `check`, `tidy`, `graph`, `quickstart`, `image`, `bless`, `simulate`, `corpus`,
//! `live-imports`.
//!
//! `./check` and `./quickstart` are thin wrappers over this; no step needs a host other than the
//! package registries.
#![allow(
    clippy::print_stdout,
    reason = "its output is for the person at the terminal"
)]

mod check;
mod firecracker;
mod graph;
mod image;
mod live_imports;
mod quickstart;
mod run;
mod tidy;
mod tools;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rest: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
    let outcome = match args.first().map(String::as_str) {
        Some("check") => check::check(&rest),
        Some("tidy") => tidy::tidy(),
        Some("graph") => tidy::graph(&rest),
        Some("quickstart") => quickstart::quickstart(),
        Some("image") => image::build_images(true),
        Some("bless") => check::bless(),
        Some("simulate") => check::simulate(&rest),
        Some("corpus") => check::corpus(),
        Some("live-imports") => live_imports::live_imports(),
        _ => Err(
            "usage: cargo xtask check [--stories | --long] | tidy | graph [--at DIR] [CRATE] | quickstart | image | bless | simulate [--seed N] [--seeds COUNT] [--days N] | corpus | live-imports"
                .to_owned(),
        ),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("xtask: {why}");
            ExitCode::FAILURE
        }
    }
}
