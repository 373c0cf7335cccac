//! The command `abbey-agent`: what an agent does as itself, for programs in its cell. It uses the agent API with the
//! credential of the cell, and prints like the rest of the command line.

mod arguments;
mod call;
mod delegation;
mod knowledge;
mod own_work;

use crate::exit::{self, Failure, Outcome};
use crate::{output, stdout};
use abbey_agents::StartError;
use abbey_agents::agent_command::OwnAgent;
use arguments::{AgentCli, Verb};
use call::Call;
use clap::Parser;
use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the command with these arguments, without the program's name.
pub(crate) fn run(args: &[OsString]) -> ExitCode {
    let named = [OsString::from("abbey-agent")];
    let args = named.iter().chain(args);
    let cli = match AgentCli::try_parse_from(args.clone()) {
        Ok(cli) => cli,
        Err(error) => {
            let usage = error.use_stderr();
            if usage && args.clone().any(|a| a == "--json") {
                let text = error.render().to_string();
                let text = text.trim_start_matches("error: ").trim_end();
                Failure::usage(text).print(true);
            } else {
                stdout::check(error.print());
            }
            let code = if usage { exit::USAGE } else { exit::OK };
            return ExitCode::from(stdout::finish(code, false, false));
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the async runtime: {error}");
            return ExitCode::from(exit::FAILURE);
        }
    };
    let json = cli.json;
    if json {
        output::hide_progress();
    }
    let of_program = matches!(cli.verb, Verb::Skills(arguments::SkillsVerb::Run { .. }));
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = execute(cli) => outcome,
            _ = tokio::signal::ctrl_c() => Ok(exit::INTERRUPTED),
        }
    });
    let code = match outcome {
        Ok(code) => code,
        Err(failure) => {
            failure.print(json);
            failure.code()
        }
    };
    ExitCode::from(stdout::finish(code, of_program, json))
}

async fn execute(cli: AgentCli) -> Outcome {
    let own = OwnAgent::from_environment().map_err(outside_of_cell)?;
    let call = Call {
        own,
        json: cli.json,
    };
    match cli.verb {
        Verb::Next(args) => own_work::next(&call, args).await,
        Verb::Claim { task } => own_work::claim(&call, &task).await,
        Verb::Renew { task } => own_work::renew(&call, task).await,
        Verb::Done(args) => own_work::done(&call, args).await,
        Verb::Fail { reason, task } => own_work::fail(&call, task, reason).await,
        Verb::Delegate(args) => delegation::delegate(&call, args).await,
        Verb::Ask(args) => delegation::ask(&call, args).await,
        Verb::Cancel { task } => delegation::cancel(&call, &task).await,
        Verb::Note { text } => own_work::note(&call, text).await,
        Verb::Memory(verb) => knowledge::memory(&call, verb),
        Verb::Skills(verb) => knowledge::skills(&call, verb).await,
        Verb::Approvals(verb) => delegation::approvals(&call, verb).await,
        Verb::Own => knowledge::describe_agent(&call).await,
        Verb::Status { task, wait } => delegation::status(&call, task, wait).await,
    }
}

fn outside_of_cell(error: StartError) -> Failure {
    let text = match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    Failure::plain(text).hint(
        "`abbey-agent` runs in the cell of an agent, such as by `abbey exec AGENT -- abbey-agent status`",
    )
}
