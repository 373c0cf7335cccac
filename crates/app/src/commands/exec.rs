//! `abbey exec`: runs a program in the cell of an agent.

use crate::command_stream::{
    internal_failure, print_program_output, program_exit_code, read_stdin_base64,
    stream_program_output,
};
use crate::connect::operator_client;
use crate::exit::Outcome;
use crate::output;
use abbey_api::ExecBody;
use abbey_daemon::Home;

/// `abbey exec`: runs a program in the cell of an agent, or of a service as `service/NAME`, with the standard streams of this process. Returns the exit
/// code of the program, or 125 when Abbey failed.
pub(crate) async fn cmd_exec(home: &Home, agent: &str, argv: Vec<String>) -> Outcome {
    let body = ExecBody {
        argv,
        stdin: read_stdin_base64(),
    };
    let client = operator_client(home).map_err(internal_failure)?;
    let stream = match agent.strip_prefix("service/") {
        Some(service) => client.services().exec(service, &body).await,
        None => client.agents().exec(agent, &body).await,
    };
    let end =
        stream_program_output(stream.map_err(internal_failure)?, print_program_output).await?;
    if let Some(why) = end["error"].as_str() {
        output::print_message(&format!("error: {why}"));
    }
    Ok(program_exit_code(&end))
}
