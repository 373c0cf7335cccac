//! `abbey`: arguments in, documents out. It sees the system through the API's types.
#![allow(clippy::print_stdout, reason = "the command line prints")]

mod agent_files;
mod cli;
mod command_stream;
mod commands;
mod connect;
mod control_plane;
mod examples;
mod exit;
mod fleet_output;
mod http_stream;
mod key_values;
mod manifest_file;
mod output;
mod plan_output;
mod roles;
mod task_output;
mod workflow_drawing;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<std::ffi::OsString> = std::env::args_os().collect();
    if args.get(1).is_some_and(|a| a == "role") {
        return roles::run(&args[2..]);
    }
    if let Some(refusal) = cli::not_built(&args) {
        eprintln!("error: {refusal}");
        return ExitCode::from(exit::USAGE);
    }
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let usage = error.use_stderr();
            let _closed = error.print();
            return ExitCode::from(if usage { exit::USAGE } else { exit::OK });
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: could not start: {error}");
            return ExitCode::from(exit::FAILURE);
        }
    };
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = cli.execute() => outcome,
            _ = tokio::signal::ctrl_c() => Ok(exit::INTERRUPTED),
        }
    });
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            failure.print();
            ExitCode::from(failure.code())
        }
    }
}
