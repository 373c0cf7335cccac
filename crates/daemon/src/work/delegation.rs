//! Delegation between agents: checks the right to delegate, adds the subtask, and delivers outcomes
//! of finished tasks to their recipients (S3-21 to S3-24).

use crate::core::error::Result;
use crate::core::plan::PlanInForce;
use crate::work::lookup::parse_token_limit;
use crate::work::state::WorkState;
use crate::work::{forge, outcomes};
use abbey_api::{DelegateBody, Problem};
use abbey_engine::authority::{self, Bounds};
use abbey_engine::matcher::Match;
use abbey_model::{
    BudgetAmounts, ChannelAddress, FaultKind, Grant, LeaseToken, Millis, Principal, Priority,
    Recipient, Slug, TaskRef,
};
use abbey_store::{Added, DelegationRequest, NewAuditEntry, NewTask, Notice, Topic};
use abbey_support::retry::Backoff;
use abbey_words::Text;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

/// Most fields that a delegated task's result can be required to have.
const FIELDS_MAX: usize = 32;
/// Longest name of a required field, bytes.
const FIELD_MAX: usize = 64;
/// Longest deadline of a delegated task.
const DEADLINE_MAX: Millis = Millis::from_secs(30 * 86_400);

/// Pauses before a failed delivery is retried.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(600));
/// Longest pause between two reads of the outbox.
const OUTBOX_INTERVAL: Duration = Duration::from_secs(60);

/// How an agent addresses another agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DelegationKind {
    /// A task that the other agent must do; requires the right `delegates`.
    Order,
    /// A question that the other agent may answer as it sees fit; requires the right `asks`.
    Question,
}

fn invalid(text: impl Into<String>) -> Problem {
    Problem::new(FaultKind::Invalid, text.into())
}

/// Adds a task for another agent on behalf of the authenticated caller. With a `parent`, whose lease the calling agent must
/// hold, it is a subtask; without one, an agent gives it on its own initiative. A repeated `key` returns the same task.
///
/// # Errors
/// If the request is invalid or the caller may not delegate to that agent.
pub(crate) async fn delegate_task(
    work: &Arc<WorkState>,
    who: &Principal,
    (body, kind): (&DelegateBody, DelegationKind),
    parent: Option<(TaskRef, LeaseToken)>,
    key: Option<String>,
) -> Result<Added> {
    let current = work.core.plan.require()?;
    let text = body.text.trim();
    if text.is_empty() || text.len() > 64 << 10 {
        return Err(invalid("`text` must have 1 to 65536 bytes").into());
    }
    let to = recipient_of_work(&current, &body.to)?;
    let grant = match who.agent() {
        Some(from) => check_delegation_right(work, &current, from, &to, kind).await?,
        None => Grant::default(),
    };
    // The text of a question is passed as data; only an order is an instruction.
    let (text, data) = match kind {
        DelegationKind::Order => (text.to_owned(), Map::new()),
        DelegationKind::Question => {
            let asked = [
                ("from", who.to_string().into()),
                ("question", text.to_owned().into()),
            ];
            let asked = asked.map(|(k, v): (&str, Value)| (k.to_owned(), v));
            let text =
                format!("Agent {who} asks you a question; answer it according to your charter");
            (text, asked.into_iter().collect())
        }
    };
    let intake = work.intake_for_text(&text);
    if !grant.skills.is_empty() {
        let fits = matches!(&intake.fit, Match::One(found) if grant.skills.contains(&found.skill));
        if !fits {
            let names: Vec<&str> = grant.skills.iter().map(String::as_str).collect();
            let text = format!(
                "{who} may delegate to {to} only tasks for the skills {}; this text matches none of them",
                names.join(", ")
            );
            return Err(Problem::new(FaultKind::Forbidden, text).into());
        }
    }
    let abbey_plan::Delegation { depth, fan_out } = current.house.delegation;
    let initiative = who.agent().is_some() && parent.is_none();
    let delegated = DelegationRequest {
        own_initiative: initiative,
        parent,
        expects: check_expected_fields(&body.expects)?,
        within: parse_deadline(body.deadline_ms)?,
        deliver: parse_recipient(&current, who, body.deliver.as_deref())?,
        tokens: grant.tokens,
        bounds: Bounds { depth, fan_out },
        data,
        ..DelegationRequest::default()
    };
    let request = serde_json::to_vec(body).unwrap_or_default();
    let new = NewTask {
        text,
        author: who.clone(),
        assignee: Some(to),
        // A lane before other work; age sees to it that nothing starves (S3-25).
        priority: match kind {
            DelegationKind::Order => Priority::P1,
            DelegationKind::Question => Priority::P2,
        },
        budget: BudgetAmounts {
            tokens: parse_token_limit(body.tokens)?,
            ..BudgetAmounts::default()
        },
        policy: None,
        idempotency: key.map(|k| (k, abbey_support::digest::sha256_hex(&request))),
        intake,
        delegated: Some(delegated),
    };
    match work.core.store.add_task(new).await {
        Err(abbey_store::Error::Authority(authority::Refusal::TooMany { open })) if initiative => {
            let text = format!(
                "{open} tasks that {who} gave on its own initiative are open, which is the limit; wait until one of them has ended, or cancel one (`abbey-agent status` lists them)"
            );
            Err(Problem::new(FaultKind::Limit, text).into())
        }
        added => Ok(added?),
    }
}

/// Agent of the plan with this name.
///
/// # Errors
/// `NotFound` if there is none.
fn recipient_of_work(current: &PlanInForce, name: &str) -> Result<Slug> {
    let found = name.parse::<Slug>().ok();
    let found = found.filter(|s| current.house.agents.contains_key(s));
    Ok(found.ok_or_else(|| {
        Problem::new(FaultKind::NotFound, format!("there is no agent `{name}`"))
            .remedy("`abbey ps` lists the agents")
    })?)
}

/// Limits of what one agent may delegate to another; a refusal is logged to the audit log.
///
/// # Errors
/// The refusal.
async fn check_delegation_right(
    work: &WorkState,
    current: &PlanInForce,
    from: &Slug,
    to: &Slug,
    kind: DelegationKind,
) -> Result<Grant> {
    let agents = &current.house.agents;
    let own = agents.get(from).ok_or_else(|| {
        Problem::new(
            FaultKind::NotFound,
            format!("agent `{from}` is not in the plan"),
        )
    })?;
    let others = agents.iter().map(|(slug, agent)| (slug, &agent.delegates));
    let right = match kind {
        DelegationKind::Order => {
            authority::check_delegation_right(from, to, &own.delegates, others)
        }
        DelegationKind::Question => authority::check_ask_right(from, to, &own.asks),
    };
    if let Err(refusal) = right {
        let note = NewAuditEntry {
            actor: Principal::Agent(from.clone()),
            action: match kind {
                DelegationKind::Order => "task.delegate.refused",
                DelegationKind::Question => "task.ask.refused",
            }
            .to_owned(),
            entity: format!("agent-{to}"),
            detail: json!({ "why": refusal.to_string() }),
        };
        work.core.store.append_audit_entry(note).await?;
        return Err(abbey_store::Error::Authority(refusal).into());
    }
    Ok(match kind {
        DelegationKind::Order => own.grants.get(to).cloned().unwrap_or_default(),
        DelegationKind::Question => Grant::default(),
    })
}

/// Checks the field names that a result is required to have.
fn check_expected_fields(expects: &[String]) -> Result<Vec<String>> {
    let plain = |f: &String| {
        !f.is_empty() && f.len() <= FIELD_MAX && f.bytes().all(|b| b.is_ascii_graphic())
    };
    match expects.len() <= FIELDS_MAX && expects.iter().all(plain) {
        true => Ok(expects.to_vec()),
        false => Err(invalid(format!(
            "`expects` may name at most {FIELDS_MAX} fields of 1 to {FIELD_MAX} printable ASCII characters each"
        ))
        .into()),
    }
}

/// Deadline of a task from milliseconds.
fn parse_deadline(ms: Option<i64>) -> Result<Option<Millis>> {
    match ms {
        None => Ok(None),
        Some(ms) if ms > 0 && Millis(ms) <= DEADLINE_MAX => Ok(Some(Millis(ms))),
        Some(_) => Err(invalid("`deadline_ms` must be more than 0 and at most 30 days").into()),
    }
}

/// Problem for a channel as recipient: no connectors exist in this version.
fn no_channel(address: &ChannelAddress) -> Problem {
    invalid(format!(
        "`{}` cannot receive outcomes: this version of Abbey does not send to channels; name `me` or an agent",
        address.channel
    ))
}

/// Recipient of a task's outcome; `me` is the calling agent.
fn parse_recipient(
    current: &PlanInForce,
    who: &Principal,
    text: Option<&str>,
) -> Result<Recipient> {
    let recipient = match (text, who.agent()) {
        (None, _) => Recipient::Kept,
        (Some("me"), Some(agent)) => Recipient::Agent(agent.clone()),
        (Some(text), _) => text.parse().map_err(invalid)?,
    };
    match &recipient {
        Recipient::Agent(name) if !current.house.agents.contains_key(name) => {
            Err(invalid(format!(
                "there is no agent for the recipient `{recipient}`; `abbey ps` lists the agents"
            ))
            .into())
        }
        Recipient::Channel(address) => Err(no_channel(address).into()),
        _ => Ok(recipient),
    }
}

/// Delivers outcomes of finished tasks to their recipients until the control plane stops;
/// deliveries to forges don't hold up those to agents.
pub(crate) async fn run_outcome_delivery(work: Arc<WorkState>) {
    // A forge may be slow, so its deliveries have a loop of their own.
    let is_forge = |to: &Recipient| matches!(to, Recipient::Hook(_));
    tokio::join!(
        run_delivery_of(&work, move |to| !is_forge(to)),
        run_delivery_of(&work, is_forge)
    );
}

/// By task, when a failed delivery is retried and the pause before it.
pub(crate) type Retries = BTreeMap<u64, (Instant, Backoff)>;

/// Delivers the notices of the outbox whose recipient matches `mine`.
async fn run_delivery_of(work: &Arc<WorkState>, mine: impl Fn(&Recipient) -> bool) {
    let mut retries = Retries::new();
    let mut outbox = work.core.store.subscribe(Topic::Outbox);
    loop {
        if let Err(error) = deliver_outbox(work, &mine, &mut retries).await {
            tracing::warn!(
                error = error.chain(),
                "an outcome could not be delivered; it is retried later"
            );
        }
        tokio::select! {
            () = work.core.rt.stopped() => return,
            _ = outbox.changed() => {}
            () = work.core.rt.sleep(until_retry(work, &retries)) => {}
        }
    }
}

/// Delivers every notice of the outbox that is due, and returns the time until the next attempt.
pub(crate) async fn deliver_due(work: &Arc<WorkState>, retries: &mut Retries) -> Result<Duration> {
    deliver_outbox(work, &|_: &Recipient| true, retries).await?;
    Ok(until_retry(work, retries))
}

/// Time until the outbox is read again.
fn until_retry(work: &WorkState, retries: &Retries) -> Duration {
    let now = work.core.rt.now();
    let next = retries.values().map(|(at, _)| at.duration_since(now)).min();
    next.unwrap_or(OUTBOX_INTERVAL).min(OUTBOX_INTERVAL)
}

/// Tries each due notice once; a failed one does not hold up the others.
async fn deliver_outbox(
    work: &Arc<WorkState>,
    mine: &impl Fn(&Recipient) -> bool,
    retries: &mut Retries,
) -> Result<()> {
    let mut failed = None;
    let notices = work.core.store.outbox().await?;
    retries.retain(|task, _| notices.iter().any(|n| n.task == *task));
    for notice in notices.iter().filter(|n| mine(&n.recipient)) {
        let due = retries.get(&notice.task).map(|(at, _)| *at);
        if due.is_some_and(|at| work.core.rt.now() < at) {
            continue;
        }
        match deliver_notice(work, notice).await {
            Ok(()) => {
                retries.remove(&notice.task);
                work.core.store.mark_delivered(notice.task).await?;
            }
            Err(error) => {
                let now = work.core.rt.now();
                let (at, backoff) = retries.entry(notice.task).or_insert((now, RETRY));
                *at = now + backoff.next_delay();
                failed = Some(error);
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

async fn deliver_notice(work: &Arc<WorkState>, notice: &Notice) -> Result<()> {
    let row = work.core.store.task(TaskRef::Number(notice.task)).await?;
    let to = match &notice.recipient {
        Recipient::Kept => return Ok(()),
        Recipient::Hook(origin) => return forge::report_outcome_to_forge(work, origin, &row).await,
        Recipient::Channel(address) => {
            let why = no_channel(address).detail;
            return outcomes::log_undeliverable_outcome(work, &row, &notice.recipient, &why).await;
        }
        Recipient::Agent(to) => to,
    };
    let exists = work
        .core
        .plan
        .current()
        .is_some_and(|c| c.house.agents.contains_key(to));
    if !exists {
        let why = "there is no such agent any more; the result stays with the task";
        return outcomes::log_undeliverable_outcome(work, &row, &notice.recipient, why).await;
    }
    let by = row.assignee.as_ref().map_or("nobody", Slug::as_str);
    let first = row.text.lines().next().unwrap_or_default();
    let notice = Text::new("notice-outcome")
        .with("task", format!("TASK-{}", row.number))
        .with("title", first)
        .with("agent", by)
        .with("state", row.state().name());
    let language = work.core.plan.language_of(Some(to));
    let text = format!(
        "{}\n{}",
        language.render(&notice),
        outcomes::outcome_text(&row)
    );
    let new = NewTask {
        priority: Priority::P1,
        // The key makes a repeated delivery the same task.
        idempotency: Some((
            format!("deliver TASK-{}", row.number),
            // The digest leaves out the notice, whose language may have changed since.
            abbey_support::digest::sha256_hex(outcomes::outcome_text(&row).as_bytes()),
        )),
        ..work.house_task(to, text)
    };
    work.core.store.add_task(new).await?;
    Ok(())
}
