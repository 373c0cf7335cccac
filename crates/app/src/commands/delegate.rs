//! `abbey delegate`: gives a task to an agent by name.

use crate::connect::operator_client;
use crate::durations::{milliseconds, parse_duration, parse_positive_duration};
use crate::exit::{self, Outcome};
use crate::task_output::{print_task, wait_for_end};
use abbey_api::DelegateBody;
use abbey_api::headers::IdempotencyKey;
use abbey_daemon::Home;
use clap::Args;
use std::time::Duration;

#[derive(Debug, Args)]
pub(crate) struct DelegateArgs {
    /// Agent that gets the task.
    pub(crate) agent: String,
    /// Text of the task.
    pub(crate) text: String,
    /// Wait until the task has ended; the exit code gives the outcome.
    #[arg(long)]
    pub(crate) wait: bool,
    /// Longest wait; then the exit code is 124.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
    /// Recipient of the result: `agent:NAME`.
    #[arg(long, value_name = "RECIPIENT")]
    pub(crate) deliver: Option<String>,
    /// Do not deliver the result; it is stored with the task (the default).
    #[arg(long, conflicts_with = "deliver")]
    pub(crate) no_deliver: bool,
    /// Field that the result must have; may be given several times.
    #[arg(long = "expect", value_name = "FIELD")]
    pub(crate) expects: Vec<String>,
    /// Time after which the task and its subtasks time out.
    #[arg(long, value_name = "TIME", value_parser = parse_positive_duration)]
    pub(crate) deadline: Option<Duration>,
    /// Limit on tokens over all runs, including those of subtasks.
    #[arg(long)]
    pub(crate) tokens: Option<u64>,
    /// A second request with the same key returns the first task instead of adding another.
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency_key: Option<String>,
}

/// `abbey delegate`: adds a task for the named agent and prints it; with `--wait` when it has ended, with the exit
/// codes of `abbey task add --wait`.
pub(crate) async fn cmd_delegate(home: &Home, json: bool, args: DelegateArgs) -> Outcome {
    let client = operator_client(home)?;
    let body = DelegateBody {
        to: args.agent,
        text: args.text,
        expects: args.expects,
        deadline_ms: args.deadline.map(milliseconds),
        deliver: args.deliver,
        tokens: args.tokens,
        task: None,
    };
    let key = args.idempotency_key.map(IdempotencyKey);
    let doc = client.tasks().delegate(&body, key).await?;
    if !args.wait {
        print_task(json, &doc);
        return Ok(exit::OK);
    }
    let patience = args.timeout;
    wait_for_end(&client, json, &doc.task.id, patience).await
}
