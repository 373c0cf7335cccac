//! `abbey logs` and `abbey service logs`: what a cell printed.

use crate::connect::operator_client;
use crate::exit::{self, Outcome};
use crate::output;
use abbey_api::{LogLine, LogQuery};
use abbey_daemon::Home;
use clap::Args;
use std::time::Duration;

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Name of the agent, or of the service for `abbey service logs`.
    #[arg(value_name = "NAME")]
    pub(crate) agent: String,
    /// Wait for new lines and print them.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Number of existing lines to print.
    #[arg(short = 'n', long, default_value_t = 100)]
    pub(crate) lines: usize,
}

/// `abbey logs`: prints the last lines that an agent wrote to its standard streams; new ones as they arrive with
/// `--follow`.
pub(crate) async fn cmd_logs(home: &Home, json: bool, args: &LogsArgs) -> Outcome {
    print_logs(home, json, "agents", args).await
}

/// Prints the last log lines of an agent (`kind` is `agents`) or a service (`services`); new ones as they arrive
/// with `--follow`.
pub(crate) async fn print_logs(home: &Home, json: bool, kind: &str, args: &LogsArgs) -> Outcome {
    let client = operator_client(home)?;
    let name = &args.agent;
    let mut lines = args.lines;
    let mut newest = None;
    loop {
        let query = LogQuery {
            lines: u32::try_from(lines).ok(),
        };
        let doc = match kind {
            "services" => client.services().logs(name, &query).await?,
            _ => client.agents().logs(name, &query).await?,
        };
        let fresh: Vec<&LogLine> = doc
            .lines
            .iter()
            .filter(|l| newest.is_none_or(|n| l.at > n))
            .collect();
        for l in &fresh {
            if json {
                output::print_line(&serde_json::to_string(l).unwrap_or_default())
            } else {
                output::print_line(&format!("{} {} {}", l.at, l.stream, l.text))
            }
        }
        newest = fresh.last().map(|l| l.at).or(newest);
        if !args.follow {
            return Ok(exit::OK);
        }
        lines = 1000;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}
