//! Tasks and runs: the engine's steps, applied inside the transaction.

use super::writer::Tx;
use super::{activity, approvals, ledger, links, parse, runs};
use crate::{
    Added, Checked, Claim, Claimed, Error, Failure, Hold, Intake, LeaseView, NewTask, Outcome,
    Result, RunFacts, TaskFilter, TaskRow,
};
use abbey_engine::task::{Event, Phase, Refusal, RunEnd, Step, Task};
use abbey_engine::{admission, queue, run, task};
use abbey_model::{
    Amounts, Generation, Id, LeaseToken, Principal, ResultSource, RunId, RunState, Slug, TaskRef,
    Timestamp, Verified,
};
use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Value, json};

const SELECT: &str = "SELECT number, id, text, phase, assignee, pinned, priority, author, attempts, token, route, policy, result, failure, version, created_at, updated_at, link FROM tasks";

fn row(r: &rusqlite::Row<'_>) -> rusqlite::Result<Result<TaskRow>> {
    let texts: [String; 5] = [r.get(1)?, r.get(3)?, r.get(6)?, r.get(7)?, r.get(10)?];
    let optional: [Option<String>; 4] = [r.get(4)?, r.get(11)?, r.get(12)?, r.get(17)?];
    let build = |number, text, pinned, attempts, token, failure, version, created, updated| {
        let [id, phase, priority, author, route] = &texts;
        let [assignee, policy, result, link] = &optional;
        Ok(TaskRow {
            number,
            id: parse(id)?,
            text,
            phase: serde_json::from_str(phase)?,
            assignee: assignee.as_deref().map(parse).transpose()?,
            pinned,
            priority: parse(priority)?,
            author: parse(author)?,
            attempts,
            token: LeaseToken(token),
            route: serde_json::from_str(route)?,
            policy: policy.as_deref().map(serde_json::from_str).transpose()?,
            result: result.as_deref().map(serde_json::from_str).transpose()?,
            failure,
            link: link.as_deref().map(serde_json::from_str).transpose()?,
            version,
            created_at: Timestamp(created),
            updated_at: Timestamp(updated),
        })
    };
    Ok(build(
        r.get(0)?,
        r.get(2)?,
        r.get(5)?,
        r.get(8)?,
        r.get(9)?,
        r.get(13)?,
        r.get(14)?,
        r.get(15)?,
        r.get(16)?,
    ))
}

pub(super) fn load(db: &Connection, task: TaskRef) -> Result<TaskRow> {
    let found = match task {
        TaskRef::Number(n) => db
            .prepare_cached(&format!("{SELECT} WHERE number = ?1"))?
            .query_row([n], row)
            .optional()?,
        TaskRef::Id(id) => db
            .prepare_cached(&format!("{SELECT} WHERE id = ?1"))?
            .query_row([id.to_string()], row)
            .optional()?,
    };
    found.unwrap_or_else(|| {
        Err(Error::NotFound {
            what: "task",
            name: task.to_string(),
        })
    })
}

/// Tasks by a condition of this room's.
pub(super) fn select(
    db: &Connection,
    condition: &str,
    values: impl rusqlite::Params,
) -> Result<Vec<TaskRow>> {
    let mut statement = db.prepare_cached(&format!("{SELECT} WHERE {condition}"))?;
    let rows = statement.query_map(values, row)?;
    collect(rows)
}

fn collect(rows: impl Iterator<Item = rusqlite::Result<Result<TaskRow>>>) -> Result<Vec<TaskRow>> {
    rows.map(|r| r?).collect()
}

pub(super) fn list(db: &Connection, filter: &TaskFilter) -> Result<Vec<TaskRow>> {
    let states: Vec<&str> = filter.states.iter().map(|s| s.name()).collect();
    let mut statement = db.prepare_cached(&format!(
        "{SELECT} WHERE (?1 = '[]' OR state IN (SELECT value FROM json_each(?1)))
           AND (?2 IS NULL OR assignee = ?2) AND number < ?3 ORDER BY number DESC LIMIT ?4"
    ))?;
    let rows = statement.query_map(
        params![
            json!(states).to_string(),
            filter.assignee.as_ref().map(Slug::as_str),
            filter.before.unwrap_or(i64::MAX as u64),
            filter.limit
        ],
        row,
    )?;
    collect(rows)
}

pub(super) fn offers(db: &Connection, agent: &Slug, limit: u32) -> Result<Vec<TaskRow>> {
    let mut statement = db.prepare_cached(&format!(
        "{SELECT} WHERE state = 'ready' AND EXISTS (SELECT 1 FROM json_each(phase, '$.candidates') WHERE value = ?1)
         ORDER BY queue_key, number LIMIT ?2"
    ))?;
    let rows = statement.query_map(params![agent.as_str(), limit], row)?;
    collect(rows)
}

pub(super) fn next_deadline(db: &Connection) -> Result<Option<Timestamp>> {
    let next: Option<i64> = db
        .prepare_cached("SELECT min(deadline) FROM tasks WHERE deadline IS NOT NULL")?
        .query_row([], |r| r.get(0))?;
    Ok(next.map(Timestamp))
}

/// When something must happen to a task by itself.
fn deadline(row: &TaskRow) -> Option<i64> {
    let due = row.link.as_ref().and_then(|l| l.due);
    let due = due.filter(|_| !row.state().is_terminal()).map(|d| d.0);
    let own = match &row.phase {
        Phase::Pending { not_before } => Some(not_before.0),
        Phase::Running { lease } => Some(lease.expires_at.min(lease.wall_ends_at).0),
        Phase::AwaitingApproval { until, .. } => Some(until.0),
        Phase::Parked { .. }
        | Phase::Ready { .. }
        | Phase::Blocked { .. }
        | Phase::Done { .. }
        | Phase::Unverified
        | Phase::Failed { .. }
        | Phase::TimedOut
        | Phase::Cancelled => None,
    };
    [own, due].into_iter().flatten().min()
}

/// A text without secrets: none stands in the database in clear.
pub(super) fn clean(tx: &Tx<'_>, text: &str) -> String {
    let redactor = tx
        .redactor
        .read()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    redactor.clean(text).into_owned()
}

pub(super) fn add(tx: &mut Tx<'_>, new: NewTask) -> Result<Added> {
    if let Some((key, digest)) = &new.idempotency {
        let key = format!("{} {key}", new.author);
        let known: Option<(String, String)> = tx
            .db
            .prepare_cached("SELECT digest, task FROM idempotency WHERE key = ?1")?
            .query_row([&key], |r| Ok((r.get(0)?, r.get(1)?)))
            .optional()?;
        if let Some((seen, id)) = known {
            if seen != *digest {
                return Err(Error::KeyReused(
                    new.idempotency.map(|(k, _)| k).unwrap_or_default(),
                ));
            }
            return Ok(Added {
                task: load(tx.db, TaskRef::Id(parse(&id)?))?,
                new: false,
            });
        }
    }
    let number = tx.next("tasks")?;
    let mut row = TaskRow {
        id: new_id(tx.now)?,
        number,
        text: clean(tx, &new.text),
        phase: Phase::Pending { not_before: tx.now },
        assignee: new.assignee.clone(),
        pinned: new.assignee.is_some(),
        priority: new.priority,
        author: new.author.clone(),
        attempts: 0,
        token: LeaseToken(0),
        route: admission::Route::default(),
        policy: new.policy,
        result: None,
        failure: None,
        link: None,
        version: 1,
        created_at: tx.now,
        updated_at: tx.now,
    };
    if let Some(asked) = &new.delegated {
        let link = links::make(tx, number, &new.author, new.assignee.as_ref(), asked)?;
        row.link = Some(link);
    }
    let link = row.link.as_ref();
    tx.db
        .prepare_cached(
            "INSERT INTO tasks (number, id, text, state, phase, holder, assignee, pinned, priority, author, attempts, token, route, policy, version, queue_key, deadline, created_at, updated_at, parent, link)
             VALUES (?1,?2,?3,'pending','{}',NULL,?4,?5,?6,?7,0,0,'{}',?8,1,?9,NULL,?10,?10,?11,?12)",
        )?
        .execute(params![
            row.number, row.id.to_string(), row.text, row.assignee.as_ref().map(Slug::as_str), row.pinned,
            row.priority.name(), row.author.to_string(), row.policy.as_ref().map(|p| json!(p).to_string()),
            queue::key(row.priority, tx.now), tx.now.0,
            link.and_then(|l| l.parent), link.map(serde_json::to_string).transpose()?,
        ])?;
    if let Some((key, digest)) = &new.idempotency {
        tx.db
            .prepare_cached("INSERT INTO idempotency VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![
                format!("{} {key}", new.author),
                digest,
                row.id.to_string(),
                tx.now.0
            ])?;
    }
    let budget = match &new.delegated {
        Some(asked) => links::budget(asked, new.budget),
        None => new.budget,
    };
    ledger::limit_task(tx, row.id, &budget)?;
    settle_admission(tx, &mut row, &new.intake)?;
    let mut detail = json!({
        "text": row.text, "priority": row.priority, "state": row.state().name(), "assignee": row.assignee,
        "skill": row.route.skill, "score": row.route.score,
    });
    if let (Some(link), Value::Object(map)) = (&row.link, &mut detail) {
        map.insert("root".to_owned(), json!(format!("TASK-{}", link.root)));
        map.insert(
            "parent".to_owned(),
            json!(link.parent.map(|p| format!("TASK-{p}"))),
        );
    }
    let action = if row.link.is_some() {
        "task.delegate"
    } else {
        "task.add"
    };
    activity::append(tx, &new.author, action, &format!("TASK-{number}"), detail)?;
    Ok(Added {
        task: row,
        new: true,
    })
}

/// Runs admission and stores where it leads.
pub(super) fn settle_admission(tx: &mut Tx<'_>, row: &mut TaskRow, intake: &Intake) -> Result<()> {
    let mut agents = intake.agents.clone();
    for agent in &mut agents {
        agent.tokens_left = ledger::tokens_left(tx, &agent.slug)?;
    }
    let assignee = row.assignee.as_ref().filter(|_| row.pinned);
    let (decision, route) = admission::admit(assignee, &intake.fit, &agents);
    let step = task::step(
        &machine(row),
        &Event::Admit(decision),
        &Principal::House,
        tx.now,
    )?;
    if step.task.phase == row.phase && route == row.route {
        // The same answer again is no change: a claim based on it stays good.
        return Ok(());
    }
    row.route = route;
    for value in row.route.args.values_mut() {
        *value = clean(tx, value);
    }
    if !row.pinned {
        row.assignee = match &step.task.phase {
            Phase::Ready { candidates } if candidates.len() == 1 => candidates.first().cloned(),
            _ => None,
        };
    }
    store(tx, row, step.task)
}

pub(super) fn admit(tx: &mut Tx<'_>, task: TaskRef, intake: Intake) -> Result<TaskRow> {
    let mut row = load(tx.db, task)?;
    let before = row.phase.clone();
    settle_admission(tx, &mut row, &intake)?;
    if row.phase != before {
        let detail = json!({ "state": row.state().name(), "assignee": row.assignee, "skill": row.route.skill });
        activity::append(tx, &Principal::House, "task.admit", &name(&row), detail)?;
    }
    Ok(row)
}

pub(super) fn machine(row: &TaskRow) -> Task {
    Task {
        phase: row.phase.clone(),
        token: row.token,
        attempts: row.attempts,
        author: row.author.clone(),
    }
}

fn name(row: &TaskRow) -> String {
    format!("TASK-{}", row.number)
}

/// Writes the machine's outcome back.
fn store(tx: &Tx<'_>, row: &mut TaskRow, next: Task) -> Result<()> {
    row.phase = next.phase;
    row.token = next.token;
    row.attempts = next.attempts;
    row.version += 1;
    row.updated_at = tx.now;
    tx.db
        .prepare_cached(
            "UPDATE tasks SET state=?2, phase=?3, holder=?4, assignee=?5, attempts=?6, token=?7, route=?8, result=?9, failure=?10, version=?11, deadline=?12, updated_at=?13 WHERE number=?1",
        )?
        .execute(params![
            row.number, row.state().name(), serde_json::to_string(&row.phase)?,
            row.phase.lease().map(|l| l.holder.as_str()), row.assignee.as_ref().map(Slug::as_str),
            row.attempts, row.token.0, serde_json::to_string(&row.route)?,
            row.result.as_ref().map(serde_json::to_string).transpose()?, row.failure,
            row.version, deadline(row), tx.now.0,
        ])?;
    Ok(())
}

fn new_id<K>(now: Timestamp) -> Result<Id<K>> {
    let mut random = [0u8; 16];
    getrandom::fill(&mut random).map_err(|e| Error::Row(format!("no randomness: {e}")))?;
    Ok(Id::v7(
        u64::try_from(now.0).unwrap_or(0),
        u128::from_ne_bytes(random),
    ))
}

pub(super) fn new_reservation(now: Timestamp) -> Result<abbey_model::ReservationId> {
    new_id(now)
}

pub(super) fn claim(tx: &mut Tx<'_>, claim: Claim) -> Result<Claimed> {
    let mut row = load(tx.db, claim.task)?;
    if let Some(seen) = claim.seen
        && seen != row.version
        && matches!(row.phase, Phase::Ready { .. })
    {
        return Err(Error::Stale {
            what: name(&row),
            seen,
            current: row.version,
        });
    }
    let who = Principal::Agent(claim.agent.clone());
    let run: RunId = new_id(tx.now)?;
    let event = Event::Claim {
        run,
        generation: claim.generation,
        ttl: claim.ttl,
        wall: claim.wall,
    };
    let step = task::step(&machine(&row), &event, &who, tx.now)?;
    let running: u32 = tx
        .db
        .prepare_cached("SELECT count(*) FROM tasks WHERE holder = ?1")?
        .query_row([claim.agent.as_str()], |r| r.get(0))?;
    if running >= claim.runs_max {
        return Err(Error::Busy {
            agent: claim.agent,
            running,
        });
    }
    let hold = Amounts {
        runs: 1,
        seconds: u64::try_from(claim.wall.secs_ceil()).unwrap_or(0),
        ..Amounts::default()
    };
    ledger::reserve_run(tx, &claim.agent, row.id, run, hold)?;
    let state =
        run::step(RunState::Queued, run::Event::Claimed).map_err(|e| Error::Row(e.to_string()))?;
    tx.db
        .prepare_cached(
            "INSERT INTO runs (id, task, agent, generation, state, configured_model, effective_model, charter_hash, started_at) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9)",
        )?
        .execute(params![
            run.to_string(), row.id.to_string(), claim.agent.as_str(), claim.generation.0, state.name(),
            claim.configured_model, claim.effective_model, claim.charter_hash, tx.now.0,
        ])?;
    row.assignee = Some(claim.agent);
    store(tx, &mut row, step.task)?;
    let detail = json!({ "run": run, "token": row.token, "generation": claim.generation });
    activity::append(tx, &who, "task.claim", &name(&row), detail)?;
    let lease = LeaseView {
        token: row.token,
        ttl: claim.ttl,
    };
    Ok(Claimed {
        task: row,
        run,
        lease,
    })
}

pub(super) fn renew(
    tx: &mut Tx<'_>,
    task: TaskRef,
    hold: &Hold,
    facts: &RunFacts,
) -> Result<LeaseView> {
    let mut row = load(tx.db, task)?;
    let event = Event::Renew {
        token: hold.token,
        ttl: hold.ttl,
    };
    let step = task::step(
        &machine(&row),
        &event,
        &Principal::Agent(hold.agent.clone()),
        tx.now,
    )?;
    if let Some(lease) = row.phase.lease() {
        report(tx, lease.run, facts)?;
    }
    // A heartbeat is not news: it changes the lease and leaves no entry in the log.
    store(tx, &mut row, step.task)?;
    Ok(LeaseView {
        token: hold.token,
        ttl: hold.ttl,
    })
}

/// Folds what a worker reports into its run; reporting makes it `running`.
fn report(tx: &Tx<'_>, run: RunId, facts: &RunFacts) -> Result<()> {
    let row = runs::load(tx.db, run)?;
    if row.state == RunState::Running && *facts == RunFacts::default() {
        // A plain heartbeat tells nothing new of the run.
        return Ok(());
    }
    let state =
        run::step(row.state, run::Event::Reported).map_err(|e| Error::Row(e.to_string()))?;
    let facts = merged(row.facts, facts);
    tx.db
        .prepare_cached("UPDATE runs SET state = ?2, facts = ?3 WHERE id = ?1")?
        .execute(params![
            run.to_string(),
            state.name(),
            serde_json::to_string(&facts)?
        ])?;
    Ok(())
}

/// What is known after a report: absent fields stay as they were.
fn merged(old: RunFacts, new: &RunFacts) -> RunFacts {
    RunFacts {
        prompt_hash: new.prompt_hash.clone().or(old.prompt_hash),
        skill_hash: new.skill_hash.clone().or(old.skill_hash),
        session_start: new.session_start.or(old.session_start),
        session_end: new.session_end.or(old.session_end),
        receipts: new.receipts.or(old.receipts),
        flagged: new.flagged.or(old.flagged),
    }
}

pub(super) fn complete(
    tx: &mut Tx<'_>,
    task: TaskRef,
    hold: &Hold,
    (outcome, checked): (Outcome, Checked),
    facts: &RunFacts,
) -> Result<TaskRow> {
    let mut row = load(tx.db, task)?;
    let declared = row.link.as_ref().is_some_and(|l| !l.evidence.is_empty());
    if let Some(link) = &row.link {
        let missing = links::lacking(link, &outcome);
        if !missing.is_empty() {
            return Err(Error::Handoff { missing });
        }
    }
    // What stands behind a result follows from its source, not from the agent's word.
    let verified = match (outcome.source, checked) {
        (_, Checked::Holds) if declared => Some(Verified::Evidence),
        (_, _) if declared => None,
        (ResultSource::Skill, _) if row.route.skill.is_some() => Some(Verified::Skill),
        (ResultSource::Skill | ResultSource::Model | ResultSource::Command, _) => {
            Some(Verified::None)
        }
    };
    let who = Principal::Agent(hold.agent.clone());
    let step = task::step(
        &machine(&row),
        &Event::Complete {
            token: hold.token,
            verified,
        },
        &who,
        tx.now,
    )?;
    let redacted = redact_outcome(tx, outcome);
    row.result = Some(redacted);
    let detail = json!({ "verified": verified, "source": row.result.as_ref().map(|r| r.source) });
    finish(
        tx,
        &mut row,
        step,
        &who,
        ("task.complete", detail),
        Some(facts),
    )?;
    Ok(row)
}

/// Secrets do not enter results either.
fn redact_outcome(tx: &Tx<'_>, outcome: Outcome) -> Outcome {
    let redactor = tx
        .redactor
        .read()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let data = outcome.data.to_string();
    let data = match redactor.clean(&data) {
        std::borrow::Cow::Borrowed(_) => outcome.data,
        std::borrow::Cow::Owned(clean) => serde_json::from_str(&clean).unwrap_or(Value::Null),
    };
    Outcome {
        text: redactor.clean(&outcome.text).into_owned(),
        data,
        ..outcome
    }
}

pub(super) fn fail(
    tx: &mut Tx<'_>,
    task: TaskRef,
    hold: &Hold,
    failure: Failure,
    facts: &RunFacts,
) -> Result<TaskRow> {
    let mut row = load(tx.db, task)?;
    let who = Principal::Agent(hold.agent.clone());
    let step = task::step(
        &machine(&row),
        &Event::Fail {
            token: hold.token,
            reason: failure.reason,
        },
        &who,
        tx.now,
    )?;
    let text = {
        let redactor = tx
            .redactor
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        redactor.clean(&failure.text).into_owned()
    };
    let detail = json!({ "reason": failure.reason, "text": text });
    row.failure = Some(text);
    finish(tx, &mut row, step, &who, ("task.fail", detail), Some(facts))?;
    Ok(row)
}

pub(super) fn block(
    tx: &mut Tx<'_>,
    task: TaskRef,
    hold: &Hold,
    on: String,
    why: String,
) -> Result<TaskRow> {
    let (on, why) = (clean(tx, &on), clean(tx, &why));
    let mut row = load(tx.db, task)?;
    let who = Principal::Agent(hold.agent.clone());
    let detail = json!({ "on": on, "why": why });
    let step = task::step(
        &machine(&row),
        &Event::Block {
            token: hold.token,
            on,
            why,
        },
        &who,
        tx.now,
    )?;
    finish(tx, &mut row, step, &who, ("task.block", detail), None)?;
    Ok(row)
}

/// Events without parameters that people and the house cause.
pub(super) fn simple(
    tx: &mut Tx<'_>,
    task: TaskRef,
    event: &Event,
    who: &Principal,
) -> Result<TaskRow> {
    let mut row = load(tx.db, task)?;
    let step = task::step(&machine(&row), event, who, tx.now)?;
    finish(
        tx,
        &mut row,
        step,
        who,
        (&format!("task.{}", event.name()), json!({})),
        None,
    )?;
    if matches!(event, Event::Cancel) {
        call_off_below(tx, row.number)?;
    }
    Ok(row)
}

/// Stores a step that may have ended a run: the run, its hold on the ledger, the task, the entry.
pub(super) fn finish(
    tx: &mut Tx<'_>,
    row: &mut TaskRow,
    step: Step,
    who: &Principal,
    (action, mut detail): (&str, Value),
    facts: Option<&RunFacts>,
) -> Result<()> {
    if let Some(end) = step.ends {
        end_run(tx, end, facts)?;
        if let Value::Object(map) = &mut detail {
            map.insert("run".to_owned(), json!(end.run));
            map.insert("reason".to_owned(), json!(end.reason));
        }
    }
    store(tx, row, step.task)?;
    if let Value::Object(map) = &mut detail {
        map.insert("state".to_owned(), json!(row.state().name()));
    }
    activity::append(tx, who, action, &name(row), detail)?;
    approvals::lapse(tx, row)?;
    links::over(tx, row)
}

/// Calls off what hangs on work that is not wanted any more.
fn call_off_below(tx: &mut Tx<'_>, number: u64) -> Result<()> {
    let below = links::children(tx.db, number)?;
    for mut child in below.into_iter().filter(|c| !c.state().is_terminal()) {
        let step = task::step(&machine(&child), &Event::Cancel, &Principal::House, tx.now)?;
        let because = json!({ "because": format!("TASK-{number}") });
        finish(
            tx,
            &mut child,
            step,
            &Principal::House,
            ("task.cancel", because),
            None,
        )?;
        call_off_below(tx, child.number)?;
    }
    Ok(())
}

fn end_run(tx: &mut Tx<'_>, end: RunEnd, facts: Option<&RunFacts>) -> Result<()> {
    let row = runs::load(tx.db, end.run)?;
    let state = run::step(row.state, run::Event::Ended(end.state))
        .map_err(|e| Error::Row(e.to_string()))?;
    let facts = match facts {
        Some(new) => merged(row.facts, new),
        None => row.facts,
    };
    tx.db
        .prepare_cached(
            "UPDATE runs SET state = ?2, reason = ?3, ended_at = ?4, facts = ?5 WHERE id = ?1",
        )?
        .execute(params![
            end.run.to_string(),
            state.name(),
            end.reason.name(),
            tx.now.0,
            serde_json::to_string(&facts)?,
        ])?;
    let seconds = u64::try_from(tx.now.since(row.started_at).secs_ceil()).unwrap_or(0);
    ledger::settle_run(tx, end.run, seconds)
}

pub(super) fn holder_lost(
    tx: &mut Tx<'_>,
    agent: &Slug,
    keep: Option<Generation>,
) -> Result<Vec<TaskRow>> {
    let mut statement = tx
        .db
        .prepare_cached(&format!("{SELECT} WHERE holder = ?1"))?;
    let held = collect(statement.query_map([agent.as_str()], row)?)?;
    drop(statement);
    let mut changed = Vec::new();
    for mut row in held {
        let Some(lease) = row.phase.lease().cloned() else {
            continue;
        };
        if keep.is_some_and(|keep| lease.generation >= keep) {
            continue;
        }
        let step = task::step(
            &machine(&row),
            &Event::HolderLost { token: lease.token },
            &Principal::House,
            tx.now,
        )?;
        finish(
            tx,
            &mut row,
            step,
            &Principal::House,
            ("task.holder_lost", json!({ "holder": agent })),
            None,
        )?;
        changed.push(row);
    }
    Ok(changed)
}

pub(super) fn sweep(tx: &mut Tx<'_>) -> Result<Vec<TaskRow>> {
    let mut statement = tx.db.prepare_cached(&format!(
        "{SELECT} WHERE deadline <= ?1 ORDER BY deadline LIMIT 500"
    ))?;
    let due = collect(statement.query_map([tx.now.0], row)?)?;
    drop(statement);
    let mut changed = Vec::new();
    for mut row in due {
        let overdue = row
            .link
            .as_ref()
            .and_then(|l| l.due)
            .is_some_and(|due| due <= tx.now);
        if let Phase::AwaitingApproval { approval, .. } = row.phase
            && !overdue
        {
            approvals::silence(tx, approval, &mut row)?;
            changed.push(row);
            continue;
        }
        let event = match &row.phase {
            _ if overdue => Event::Overdue,
            Phase::Running { lease } if tx.now >= lease.wall_ends_at => Event::WallTime,
            Phase::Running { .. } => Event::Expire,
            // A pause is over: the caller admits it anew.
            Phase::Pending { .. } => {
                changed.push(row);
                continue;
            }
            _ => continue,
        };
        match task::step(&machine(&row), &event, &Principal::House, tx.now) {
            Ok(step) => {
                let action = format!("task.{}", event.name());
                finish(
                    tx,
                    &mut row,
                    step,
                    &Principal::House,
                    (&action, json!({})),
                    None,
                )?;
                changed.push(row);
            }
            Err(Refusal::NotDue) => {}
            Err(refusal) => return Err(refusal.into()),
        }
    }
    Ok(changed)
}
