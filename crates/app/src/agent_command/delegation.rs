//! Verbs of `abbey-agent` by which the agent turns to others: tasks and questions for agents, approvals of people.

use super::arguments::{ApprovalsVerb, AskArgs, DelegateArgs, GivenArgs};
use super::call::{Call, checked_name, parse_json, text_or_input};
use crate::durations::milliseconds;
use crate::exit::{self, Failure, Outcome};
use crate::output;
use crate::task_output::{print_task, wait_for_end_read_by};
use abbey_agents::agent_command::task_of_environment;
use abbey_api::headers::{IdempotencyKey, OptionalLease};
use abbey_api::{
    ApprovalBody, ApprovalView, ApprovalsQuery, DelegateBody, TaskDoc, UseBody, WaitQuery,
};
use abbey_model::FaultKind;
use std::time::{Duration, Instant};

/// Pause before a request is repeated while the control plane does not answer.
const PAUSE: Duration = Duration::from_millis(500);

/// What another agent gets.
enum Given {
    Task,
    Question,
}

pub(super) async fn delegate(call: &Call, args: DelegateArgs) -> Outcome {
    let body = DelegateBody {
        to: args.agent,
        text: text_or_input(args.text)?,
        expects: args.expects,
        deadline_ms: args.given.deadline.map(milliseconds),
        deliver: args.given.deliver.clone(),
        tokens: args.tokens,
        task: None,
    };
    give(call, Given::Task, body, args.given).await
}

pub(super) async fn ask(call: &Call, args: AskArgs) -> Outcome {
    let body = DelegateBody {
        to: args.agent,
        text: text_or_input(args.question)?,
        expects: Vec::new(),
        deadline_ms: args.given.deadline.map(milliseconds),
        deliver: args.given.deliver.clone(),
        tokens: None,
        task: None,
    };
    give(call, Given::Question, body, args.given).await
}

async fn give(call: &Call, kind: Given, mut body: DelegateBody, args: GivenArgs) -> Outcome {
    let part_of = match args.own_initiative {
        true => None,
        false => args.task.or_else(task_of_environment),
    };
    let lease = part_of.map(|task| call.lease_on(&task)).transpose()?;
    body.task = lease.as_ref().map(|l| l.task.clone());
    let lease = lease.map(|l| OptionalLease(l.token));
    let key = args.idempotency_key.map(IdempotencyKey);
    let doc = match kind {
        Given::Task => call.me().delegate(&body, lease, key).await,
        Given::Question => call.me().ask_agent(&body, lease, key).await,
    };
    let doc = doc.map_err(|e| match e.kind() {
        FaultKind::NotFound => call
            .failure(e)
            .hint("`abbey-agent self` lists the other agents"),
        _ => call.failure(e),
    })?;
    if args.wait {
        return wait_for_end(call, &doc.task.id, args.timeout).await;
    }
    print_task(call.json, &doc);
    if !call.json {
        let number = &doc.task.number;
        output::print_line(&format!(
            "`abbey-agent status {number} --wait 60s` shows the result"
        ));
    }
    Ok(exit::OK)
}

/// Waits until a delegated task has ended, or for as long as `abbey task add --wait` waits, then prints it.
async fn wait_for_end(call: &Call, task: &str, patience: Duration) -> Outcome {
    let until = Instant::now() + patience;
    wait_for_end_read_by(call.json, patience, async |wait| {
        match read(call, task, wait).await {
            Ok(doc) => Ok(Some(doc)),
            // The control plane may be restarting; the task goes on.
            Err(e) if e.kind() == FaultKind::Unavailable && Instant::now() + PAUSE < until => {
                tokio::time::sleep(PAUSE).await;
                Ok(None)
            }
            Err(e) => Err(call.failure(e)),
        }
    })
    .await
}

async fn read(
    call: &Call,
    task: &str,
    wait: Duration,
) -> Result<TaskDoc, abbey_api::client::Error> {
    let query = WaitQuery {
        wait_ms: u64::try_from(wait.as_millis()).ok(),
    };
    call.me().delegated(task, &query).await
}

/// `abbey-agent status`: the agent's own tasks and budgets, or a task that it delegated.
pub(super) async fn status(call: &Call, task: Option<String>, wait: Option<Duration>) -> Outcome {
    let Some(task) = task else {
        return super::own_work::show_tasks_and_budgets(call).await;
    };
    let task = checked_name("a task", &task)?;
    if let Some(patience) = wait {
        return wait_for_end(call, task, patience).await;
    }
    let doc = match read(call, task, Duration::ZERO).await {
        // It may be one that the agent itself works on.
        Err(e) if e.kind() == FaultKind::NotFound => call.me().task(task).await.map_err(|_| e),
        doc => doc,
    };
    print_task(call.json, &doc.map_err(|e| call.failure(e))?);
    Ok(exit::OK)
}

pub(super) async fn cancel(call: &Call, task: &str) -> Outcome {
    let task = checked_name("a task", task)?;
    let doc = call.me().cancel_delegated(task).await;
    print_task(call.json, &doc.map_err(|e| call.failure(e))?);
    Ok(exit::OK)
}

pub(super) async fn approvals(call: &Call, verb: ApprovalsVerb) -> Outcome {
    match verb {
        ApprovalsVerb::List { all } => list_approvals(call, all).await,
        ApprovalsVerb::Request {
            action,
            args,
            why,
            within,
            task,
        } => {
            let lease = call.current_lease(task)?;
            let body = ApprovalBody {
                task: lease.task.clone(),
                action,
                args: parse_json("--args", &args)?,
                why,
                within_ms: within.map(milliseconds),
            };
            let header = lease.lease().header();
            let asked = call.me().request_approval(&body, header).await;
            let asked = asked.map_err(|e| call.failure(e))?;
            // The request has ended the run.
            call.own.forget_lease(&lease);
            print_approval(call, &asked);
            Ok(exit::OK)
        }
        ApprovalsVerb::Use {
            approval,
            action,
            args,
            task,
        } => {
            let lease = call.current_lease(task)?.lease();
            let number = checked_name("an approval", &approval)?;
            let body = UseBody {
                action,
                args: parse_json("--args", &args)?,
            };
            let header = lease.header();
            let used = call.me().use_approval(number, &body, header).await;
            let used = used.map_err(|e| call.failure(e))?;
            print_approval(call, &used);
            Ok(exit::OK)
        }
    }
}

async fn list_approvals(call: &Call, all: bool) -> Result<u8, Failure> {
    let mut query = ApprovalsQuery {
        all: Some(all),
        ..ApprovalsQuery::default()
    };
    let page = call.me().approvals(&query).await;
    let mut doc = page.map_err(|e| call.failure(e))?;
    while let Some(cursor) = doc.cursor.take() {
        query.cursor = Some(cursor);
        let page = call.me().approvals(&query).await;
        let page = page.map_err(|e| call.failure(e))?;
        doc.approvals.extend(page.approvals);
        doc.cursor = page.cursor;
    }
    if call.json {
        output::print_json(&doc);
        return Ok(exit::OK);
    }
    let row = |a: &ApprovalView| {
        vec![
            a.id.clone(),
            a.task.clone(),
            a.state.to_string(),
            a.action.clone(),
            output::local_time(a.expires_at),
        ]
    };
    let rows: Vec<Vec<String>> = doc.approvals.iter().map(row).collect();
    let head = ["APPROVAL", "TASK", "STATE", "ACTION", "EXPIRES"];
    output::print_table(&head, rows, "no approvals");
    Ok(exit::OK)
}

fn print_approval(call: &Call, approval: &ApprovalView) {
    match call.json {
        true => output::print_json(approval),
        false => output::print_hanging(
            format!("{} is {}: ", approval.id, approval.state),
            format!("{} ({})", approval.action, approval.task),
        ),
    }
}
