//! The binary `abbey`: the command line, and the hidden roles. The command line uses the system through the operator API.
#![allow(clippy::print_stdout, reason = "the command line prints")]

mod agent_command;
mod agent_files;
mod cli;
mod command_stream;
mod commands;
mod completions;
mod connect;
mod consent;
mod control_plane;
mod durations;
mod examples;
mod exit;
mod fleet_output;
mod follow;
mod help;
mod hostd_notice;
mod imported_agents;
mod key_values;
mod local_terminal;
mod manifest_arg;
mod manifest_edit;
mod manifest_file;
mod manual;
mod moved_home;
mod names;
mod output;
mod plan_before_start;
mod plan_output;
mod program_session;
mod queue_text;
mod readiness;
mod roles;
mod shown;
mod stdout;
mod stopped_control_plane;
mod table;
mod task_output;
mod text;
mod transcript;
mod unfinished_shutdown;
mod units;
mod workflow_drawing;

use clap::FromArgMatches;
use clap::error::ErrorKind;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<std::ffi::OsString> = std::env::args_os().collect();
    if is_agent_command(&args) {
        return agent_command::run(&args[1..]);
    }
    if args.get(1).is_some_and(|a| a == "role") {
        return roles::run_role(&args[2..]);
    }
    completions::answer_shell();
    if let Some(refusal) = cli::unbuilt_verb_message(&args) {
        eprintln!("error: {refusal}");
        return ExitCode::from(exit::USAGE);
    }
    output::set_colors(help::color_choice(&args).unwrap_or_default());
    let args = help::complete_noun(args);
    let width = output::terminal_width().map_or(help::WIDTH, |w| w.min(help::WIDTH));
    let parsed = help::build_command(width)
        .try_get_matches_from(&args)
        .and_then(|matches| cli::Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        // A noun alone that has nothing to list, such as `abbey unit`, prints the help of that noun.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
            ) =>
        {
            let help = help::render_help(&args, width);
            stdout::check(write!(anstream::stdout(), "{}", help.ansi()));
            return ExitCode::from(stdout::finish(exit::OK, false, false));
        }
        Err(error) => {
            let usage = error.use_stderr();
            if usage && args.iter().any(|a| a == "--json") {
                let text = error.render().to_string();
                let text = text.trim_start_matches("error: ").trim_end();
                exit::Failure::usage(text).print(true);
            } else {
                stdout::check(error.print());
            }
            let code = if usage { exit::USAGE } else { exit::OK };
            return ExitCode::from(stdout::finish(code, false, false));
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the async runtime: {error}");
            return ExitCode::from(exit::FAILURE);
        }
    };
    output::set_colors(cli.color);
    let json = cli.json;
    if json {
        output::hide_progress();
    }
    let home = connect::resolve_home(cli.home.as_deref());
    let passes_signals_on = cli.command.passes_signals_on();
    let of_program = cli.command.ends_as_program();
    let reports_house = cli.command.reports_house();
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = cli.execute() => outcome,
            () = hostd_notice::report_waiting_for_hostd(home.root().to_owned()), if !json => {
                Ok(exit::FAILURE)
            }
            failure = stopped_control_plane::fail_if_stopped(&home), if !reports_house => Err(match of_program {
                true => failure.with_code(exit::INTERNAL),
                false => failure,
            }),
            _ = tokio::signal::ctrl_c(), if !passes_signals_on => {
                readiness::report_interrupted_wait();
                Ok(exit::INTERRUPTED)
            }
        }
    });
    let code = match outcome {
        Ok(code) => code,
        Err(failure) => {
            let failure = control_plane::explain_missing_control_plane(&home, failure);
            failure.print(json);
            failure.code()
        }
    };
    ExitCode::from(stdout::finish(code, of_program, json))
}

/// Whether this binary was called by the name `abbey-agent`.
fn is_agent_command(args: &[std::ffi::OsString]) -> bool {
    let name = args.first().map(std::path::Path::new);
    name.and_then(std::path::Path::file_name)
        .is_some_and(|name| name == abbey_cells::AGENT_COMMAND)
}
