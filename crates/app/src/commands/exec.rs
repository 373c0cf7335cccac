//! `abbey exec`: runs a program in the cell of an agent.

use crate::command_stream::{exit_code, follow, internal_failure, pass_on, read_stdin};
use crate::connect::client;
use crate::exit::Outcome;
use crate::output;
use abbey_api::ExecBody;
use abbey_daemon::Home;

/// Runs a program in the cell of an agent. The exit code is that of the program, or 125 when Abbey failed.
pub(crate) async fn cmd_exec(home: &Home, agent: &str, argv: Vec<String>) -> Outcome {
    let body = ExecBody {
        argv,
        stdin: read_stdin(),
    };
    let client = client(home).map_err(internal_failure)?;
    let stream = client.agents().exec(agent, &body).await;
    let end = follow(stream.map_err(internal_failure)?, pass_on).await?;
    if let Some(why) = end["error"].as_str() {
        output::say(&format!("error: {why}"));
    }
    Ok(exit_code(&end))
}
