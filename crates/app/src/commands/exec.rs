//! `abbey exec`: runs a program in the cell of an agent.

use crate::command_stream::{exit_code, follow, pass_on, read_stdin};
use crate::connect::segment;
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
    let body = serde_json::to_value(body).unwrap_or_default();
    let path = format!("/api/v1/agents/{}/exec", segment(agent));
    let end = follow(home, &path, body, pass_on).await?;
    if let Some(why) = end["error"].as_str() {
        output::say(&format!("error: {why}"));
    }
    Ok(exit_code(&end))
}
