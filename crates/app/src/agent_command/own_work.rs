//! Verbs of `abbey-agent` for the agent's own tasks, and its notes.

use super::arguments::{DoneArgs, NextArgs};
use super::call::{Call, checked_name, parse_json, text_or_input};
use crate::exit::{self, Failure, Outcome};
use crate::output::{self, text_or_dash};
use crate::task_output::{print_task, shorten_title, waits_for};
use crate::units::{budget_amount, budget_metric};
use abbey_agents::agent_command::HeldLease;
use abbey_agents::runtime::TurnEnd;
use abbey_api::{
    BudgetScope, ClaimBody, ClaimDoc, CompleteBody, FailBody, NextQuery, NoteBody, OfferDoc,
    RenewBody, RunFactsView, TaskDoc, TaskView, VERSION,
};
use abbey_model::{EndReason, ResultSource, RunState, TaskRef, TaskState};
use serde_json::json;
use std::time::{Duration, Instant};

/// Longest time that one request waits on the server.
const WAIT: Duration = Duration::from_secs(20);

pub(super) async fn next(call: &Call, args: NextArgs) -> Outcome {
    let Some(offer) = wait_for_offer(call, args.wait.unwrap_or_default()).await? else {
        match call.json {
            true => output::print_json(&serde_json::Value::Null),
            false => output::print_line("no task is offered"),
        }
        return Ok(match args.wait {
            Some(_) => exit::TIMEOUT,
            None => exit::NOT_FOUND,
        });
    };
    if args.program.is_empty() {
        print_offer(call, &offer);
        return Ok(exit::OK);
    }
    let body = ClaimBody {
        revision: Some(offer.revision),
    };
    let claimed = call.me().claim(&offer.task, &body).await;
    let claimed = claimed.map_err(|e| call.failure(e))?;
    let (number, task) = (offer.number.clone(), offer.task.clone());
    let run = claimed.run.clone();
    let performed = call.own.perform_with_program(offer, claimed, args.program);
    let (end, accepted) = performed.await;
    let recorded = call.me().task(&task).await.ok();
    let recorded = recorded.and_then(|doc| recorded_end(doc, &run));
    let end = recorded.or_else(|| reported_end(end.filter(|_| accepted)?));
    print_end(call, &number, end)
}

async fn wait_for_offer(call: &Call, patience: Duration) -> Result<Option<OfferDoc>, Failure> {
    let until = Instant::now() + patience;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let query = NextQuery {
            wait_ms: u64::try_from(left.min(WAIT).as_millis()).ok(),
            config: None,
        };
        let answer = call.me().next(&query).await;
        let offer = answer.map_err(|e| call.failure(e))?.document;
        if offer.is_some() || Instant::now() >= until {
            return Ok(offer);
        }
    }
}

fn print_offer(call: &Call, offer: &OfferDoc) {
    if call.json {
        return output::print_json(offer);
    }
    output::print_hanging(format!("{}  ", offer.number), &*offer.text);
    let list = |label: &str, all: &[String]| {
        if !all.is_empty() {
            output::print_hanging(format!("  {label}: "), all.join(", "));
        }
    };
    list("expects", &offer.expects);
    list("evidence", &offer.evidence);
    list("skills that fit partly", &offer.suggested_skills);
    if let Some(failure) = &offer.failure {
        output::print_hanging("  previous failure: ", &**failure);
    }
    output::print_line(&format!("`abbey-agent claim {}` claims it", offer.number));
}

/// How a run ended that a program did.
struct ProgramEnd {
    code: u8,
    /// For programs.
    state: &'static str,
    /// For people: what the run did.
    words: &'static str,
    text: String,
}

impl ProgramEnd {
    fn failed(text: String) -> ProgramEnd {
        ProgramEnd {
            code: exit::FAILURE,
            state: "failed",
            words: "failed",
            text,
        }
    }

    fn completed(text: String) -> ProgramEnd {
        ProgramEnd {
            code: exit::OK,
            state: "completed",
            words: "completed",
            text,
        }
    }
}

/// How the house recorded the end of a run; none while it goes on, and where it was lost. The program may have ended it
/// itself, by a request or by a command.
fn recorded_end(doc: TaskDoc, run: &str) -> Option<ProgramEnd> {
    let task = doc.task;
    let run = task.runs.iter().find(|r| r.id == run)?;
    let failure = task.failure.unwrap_or_default();
    let end = match (run.state, run.reason) {
        (RunState::Succeeded, Some(EndReason::Blocked)) => ProgramEnd {
            code: exit::APPROVAL,
            state: "waits",
            words: "waits",
            text: task.waiting_for.map(|w| w.text).unwrap_or_default(),
        },
        (RunState::Succeeded, _) if task.state == TaskState::Unverified => {
            ProgramEnd::failed(failure)
        }
        (RunState::Succeeded, _) => {
            ProgramEnd::completed(task.result.map(|r| r.text).unwrap_or_default())
        }
        (RunState::Failed | RunState::TimedOut, _) => ProgramEnd::failed(failure),
        (RunState::Cancelled, _) => ProgramEnd::failed("the task was cancelled".to_owned()),
        (
            RunState::Interrupted
            | RunState::Superseded
            | RunState::Queued
            | RunState::Starting
            | RunState::Running,
            _,
        ) => return None,
    };
    Some(end)
}

/// How a run ended that the worker reported.
fn reported_end(end: TurnEnd) -> Option<ProgramEnd> {
    match end {
        TurnEnd::Completed { text, .. } => Some(ProgramEnd::completed(text)),
        TurnEnd::Failed { text, .. } => Some(ProgramEnd::failed(text)),
        TurnEnd::AwaitsApproval { .. } | TurnEnd::AlreadyEnded => None,
    }
}

/// Prints how a task ended that a program did.
fn print_end(call: &Call, number: &str, end: Option<ProgramEnd>) -> Outcome {
    let Some(end) = end else {
        let text = format!("{number}: the lease was lost, or the result was not accepted");
        return Err(Failure::plain(text)
            .with_code(exit::CONFLICT)
            .hint("the house offers the task again"));
    };
    match call.json {
        true => output::print_json(
            &json!({ "version": VERSION, "task": number, "run": end.state, "text": end.text }),
        ),
        false => {
            let text = match end.code {
                exit::OK => end.text,
                _ => output::with_local_times(&end.text),
            };
            output::print_hanging(format!("{number}: the run {}: ", end.words), text);
        }
    }
    Ok(end.code)
}

pub(super) async fn claim(call: &Call, task: &str) -> Outcome {
    let task = checked_name("a task", task)?;
    let claimed = call.me().claim(task, &ClaimBody { revision: None }).await;
    let claimed = claimed.map_err(|e| call.failure(e))?;
    let lease = HeldLease {
        task: claimed.task.clone(),
        number: number_of_claimed(call, &claimed, task).await,
        token: claimed.lease.token,
    };
    let task = &lease.number;
    call.own.keep_lease(&lease).map_err(|e| {
        Failure::plain(format!(
            "{task} is claimed, but its lease cannot be kept: {e}"
        ))
        .hint("it expires by itself, and the task is offered again")
    })?;
    match call.json {
        true => output::print_json(&claimed),
        false => output::print_line(&format!(
            "{task} is claimed by {}; renew the lease within {} s, by `abbey-agent renew {task}`",
            claimed.run,
            claimed.lease.ttl_ms / 1000
        )),
    }
    Ok(exit::OK)
}

/// Number of a task that was claimed by this name, as all commands show it.
async fn number_of_claimed(call: &Call, claimed: &ClaimDoc, name: &str) -> String {
    if let Ok(TaskRef::Number(number)) = name.parse() {
        return TaskRef::Number(number).to_string();
    }
    let doc = call.me().task(&claimed.task).await;
    doc.map_or_else(|_| name.to_owned(), |doc| doc.task.number)
}

pub(super) async fn renew(call: &Call, task: Option<String>) -> Outcome {
    let lease = call.current_lease(task)?;
    let body = RenewBody {
        facts: RunFactsView::default(),
    };
    let renewed = call
        .me()
        .renew(&lease.task, &body, lease.lease().header())
        .await;
    let renewed = renewed.map_err(|e| call.failure(e))?;
    match call.json {
        true => output::print_json(&renewed),
        false => output::print_line(&format!(
            "the lease on {} is renewed for {} s",
            lease.number,
            renewed.ttl_ms / 1000
        )),
    }
    Ok(exit::OK)
}

pub(super) async fn done(call: &Call, args: DoneArgs) -> Outcome {
    let data = args.data.map(|d| parse_json("--data", &d)).transpose()?;
    let lease = call.current_lease(args.task)?;
    let body = CompleteBody {
        text: text_or_input(args.result)?,
        source: ResultSource::Command,
        data: data.unwrap_or_default(),
        facts: RunFactsView::default(),
    };
    let header = lease.lease().header();
    let doc = call.me().complete(&lease.task, &body, header).await;
    let doc = doc.map_err(|e| call.failure(e))?;
    call.own.forget_lease(&lease);
    print_task(call.json, &doc);
    Ok(match doc.task.state {
        TaskState::Done => exit::OK,
        // Evidence or expected fields are missing; the task says which.
        _ => exit::FAILURE,
    })
}

pub(super) async fn fail(call: &Call, task: Option<String>, reason: String) -> Outcome {
    let lease = call.current_lease(task)?;
    let body = FailBody {
        reason: EndReason::AgentError,
        text: text_or_input(reason)?,
        facts: RunFactsView::default(),
    };
    let header = lease.lease().header();
    let doc = call.me().fail(&lease.task, &body, header).await;
    let doc = doc.map_err(|e| call.failure(e))?;
    call.own.forget_lease(&lease);
    print_task(call.json, &doc);
    Ok(exit::OK)
}

pub(super) async fn note(call: &Call, text: String) -> Outcome {
    let body = NoteBody {
        text: text_or_input(text)?,
    };
    let logged = call.me().note(&body).await;
    let logged = logged.map_err(|e| call.failure(e))?;
    match call.json {
        true => output::print_json(&logged),
        false => output::print_line(&format!("logged as entry {}", logged.seq)),
    }
    Ok(exit::OK)
}

/// `abbey-agent status` without a task.
pub(super) async fn show_tasks_and_budgets(call: &Call) -> Outcome {
    let me = call.me().show().await.map_err(|e| call.failure(e))?;
    let given = call.me().delegated_tasks().await;
    let given = given.map_err(|e| call.failure(e))?.tasks;
    let leases = call.own.leases();
    if call.json {
        let held: Vec<&str> = leases.iter().map(|l| l.number.as_str()).collect();
        output::print_json(&json!({
            "version": VERSION, "agent": me.agent, "house": me.house, "local_time": me.local_time,
            "tasks": me.tasks, "delegated": given, "budget": me.budget, "leases": held,
        }));
        return Ok(exit::OK);
    }
    output::print_line(&format!(
        "{} of house {}, {}",
        me.agent, me.house, me.local_time
    ));
    let row = |t: &TaskView| {
        vec![
            t.number.clone(),
            t.state.to_string(),
            shorten_title(&t.title),
        ]
    };
    let rows: Vec<Vec<String>> = me.tasks.iter().map(row).collect();
    output::print_table(&["TASK", "STATE", "TITLE"], rows, "no task is offered");
    for lease in &leases {
        output::print_line(&format!("{} is being worked on", lease.number));
    }
    if !given.is_empty() {
        let row = |t: &TaskView| {
            vec![
                t.number.clone(),
                t.state.to_string(),
                text_or_dash(t.assignee.clone()),
                text_or_dash(waits_for(t)),
                shorten_title(&t.title),
            ]
        };
        let head = ["DELEGATED", "STATE", "TO", "WAITS FOR", "TITLE"];
        output::print_table(&head, given.iter().map(row).collect(), "");
        output::print_line("`abbey-agent cancel TASK` cancels one of them");
    }
    let row = |b: &BudgetScope| {
        let left = b.limit.map(|limit| {
            let used = b.spent.saturating_add(b.reserved);
            budget_amount(b.metric, limit.saturating_sub(used))
        });
        vec![
            b.scope.clone(),
            budget_metric(b.metric),
            budget_amount(b.metric, b.spent),
            text_or_dash(left),
        ]
    };
    let rows: Vec<Vec<String>> = me.budget.iter().map(row).collect();
    output::print_table(&["BUDGET", "METRIC", "SPENT", "LEFT"], rows, "no budgets");
    Ok(exit::OK)
}
