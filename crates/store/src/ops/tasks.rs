//! Tasks as rows: adding, reading, editing and admitting them.

use super::task_rows::{self, engine_task, load, store, task_name};
use super::transitions::store_transition;
use super::{audit_log, delegation, ledger, waits};
use crate::rows::{Query, params};
use crate::topic::Topic;
use crate::transaction::Tx;
use crate::{Added, Error, Intake, NewTask, Result, TaskEdit, TaskRow};
use abbey_engine::matcher::Match;
use abbey_engine::task::{self, Event, Phase};
use abbey_engine::{admission, queue};
use abbey_model::{LeaseToken, Principal, Slug, TaskId, TaskRef};
use serde_json::{Value, json};

/// Adds a task, sets its budget, and offers it to eligible agents. A repeated idempotency key returns the task that was
/// added first.
///
/// # Errors
/// [`Error::KeyReused`] when the key came with another request; also when a delegation is not allowed.
pub(crate) fn add(tx: &mut Tx<'_>, new: NewTask) -> Result<Added> {
    if let Some(task) = added_before(tx, &new)? {
        return Ok(Added { task, new: false });
    }
    let number = tx.next_number("tasks")?;
    let mut row = TaskRow {
        id: tx.new_id()?,
        number,
        text: tx.redact(&new.text),
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
        let link = delegation::link_subtask(tx, number, &new.author, new.assignee.as_ref(), asked)?;
        row.link = Some(link);
    }
    let link = row.link.as_ref();
    tx.execute(
        "INSERT INTO tasks (number, id, text, state, phase, holder, assignee, pinned, priority, author, attempts, token, route, policy, version, queue_key, deadline, created_at, updated_at, parent, link)
         VALUES (?1, ?2, ?3, 'pending', '{}', NULL, ?4, ?5, ?6, ?7, 0, 0, '{}', ?8, 1, ?9, NULL, ?10, ?10, ?11, ?12)",
        params![
            row.number, row.id.to_string(), &row.text, row.assignee.as_ref().map(Slug::as_str), row.pinned,
            row.priority.name(), row.author.to_string(), row.policy.as_ref().map(|p| json!(p).to_string()),
            queue::sort_key(row.priority, tx.now), tx.now,
            link.and_then(|l| l.parent), link.map(serde_json::to_string).transpose()?,
        ],
    )?;
    if let Some((key, digest)) = &new.idempotency {
        tx.execute(
            "INSERT INTO idempotency VALUES (?1, ?2, ?3, ?4)",
            params![key_of(&new.author, key), digest, row.id.to_string(), tx.now],
        )?;
    }
    let budget = match &new.delegated {
        Some(asked) => delegation::subtask_budget(asked, new.budget),
        None => new.budget,
    };
    ledger::set_task_limits(tx, row.id, &budget)?;
    apply_admission(tx, &mut row, &new.intake)?;
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
    audit_log::append(tx, &new.author, action, &task_name(&row), detail)?;
    Ok(Added {
        task: row,
        new: true,
    })
}

/// Idempotency keys of different authors never meet.
fn key_of(author: &Principal, key: &str) -> String {
    format!("{author} {key}")
}

/// The task that was added before with the same key and the same request.
fn added_before(tx: &Tx<'_>, new: &NewTask) -> Result<Option<TaskRow>> {
    let Some((key, digest)) = &new.idempotency else {
        return Ok(None);
    };
    let known: Option<(String, TaskId)> = tx.rows.first(
        "SELECT digest, task FROM idempotency WHERE key = ?1",
        params![key_of(&new.author, key)],
        |c| Ok((c.get()?, c.parse()?)),
    )?;
    match known {
        None => Ok(None),
        Some((seen, id)) if seen == *digest => load(tx.rows, TaskRef::Id(id)).map(Some),
        Some(_) => Err(Error::KeyReused(key.clone())),
    }
}

/// Changes text, priority and assignee of a task that is not running, and decides again which agents are eligible.
pub(crate) fn edit(
    tx: &mut Tx<'_>,
    task: TaskRef,
    edit: TaskEdit,
    who: &Principal,
) -> Result<TaskRow> {
    let mut row = load(tx.rows, task)?;
    let step = task::step(&engine_task(&row), &Event::Edit, who, tx.now)?;
    let text = tx.redact(&edit.text);
    if row.text != text {
        // What the earlier text asked for is not asked for any more.
        row.route.skill = None;
        row.route.args.clear();
        row.route.score = 0;
    }
    row.text = text;
    row.priority = edit.priority;
    row.pinned = edit.assignee.is_some();
    row.assignee = edit.assignee;
    tx.execute(
        "UPDATE tasks SET text = ?2, priority = ?3, pinned = ?4, assignee = ?5, queue_key = ?6 WHERE number = ?1",
        params![
            row.number,
            &row.text,
            row.priority.name(),
            row.pinned,
            row.assignee.as_ref().map(Slug::as_str),
            queue::sort_key(row.priority, row.created_at)
        ],
    )?;
    let detail = json!({ "text": row.text, "priority": row.priority, "assignee": row.assignee });
    store_transition(tx, &mut row, step, who, ("task.edit", detail), None)?;
    match row.phase {
        // A task that waits for its next attempt is admitted then.
        Phase::Pending { not_before } if not_before > tx.now => {}
        _ => apply_admission(tx, &mut row, &edit.intake)?,
    }
    tx.publish(Topic::Work);
    Ok(row)
}

/// Decides again which agents are eligible for a waiting task, and writes an audit entry when its phase changed.
pub(crate) fn admit(tx: &mut Tx<'_>, task: TaskRef, intake: &Intake) -> Result<TaskRow> {
    let mut row = load(tx.rows, task)?;
    let before = row.phase.clone();
    apply_admission(tx, &mut row, intake)?;
    if row.phase != before {
        let detail = json!({ "state": row.state().name(), "assignee": row.assignee, "skill": row.route.skill });
        audit_log::append(
            tx,
            &Principal::House,
            "task.admit",
            &task_name(&row),
            detail,
        )?;
    }
    Ok(row)
}

/// Runs admission and stores its decision: offered to candidates, or parked with reasons.
fn apply_admission(tx: &mut Tx<'_>, row: &mut TaskRow, intake: &Intake) -> Result<()> {
    let assignee = row.assignee.clone().filter(|_| row.pinned);
    let matched: Vec<&str> = match &intake.fit {
        Match::One(found) => vec![&found.skill],
        Match::Ambiguous(found) => found.iter().map(|c| c.skill.as_str()).collect(),
        Match::None => Vec::new(),
    };
    let mut agents = intake.agents.clone();
    for agent in &mut agents {
        // Only agents that may be chosen are looked up.
        let may_be = match &assignee {
            Some(only) => *only == agent.slug,
            None => {
                agent.is_root
                    || agent.suited.is_some()
                    || agent.skills.iter().any(|s| matched.contains(&s.as_str()))
            }
        };
        if may_be {
            waits::fill_in(tx, row, agent)?;
        }
    }
    let (decision, mut route) = admission::admit(assignee.as_ref(), &intake.fit, &agents);
    route.reason = tx.redact(&intake.reason);
    route.waits.clone_from(&row.route.waits);
    route.since = row.route.since;
    if route.skill.is_none() {
        route.suggested.clone_from(&intake.suggested);
    }
    let step = task::step(
        &engine_task(row),
        &Event::Admit(decision),
        &Principal::House,
        tx.now,
    )?;
    if step.task.phase == row.phase && route == row.route {
        // The same decision again is no change: a claim based on it stays good.
        return task_rows::restore_deadline(tx, row);
    }
    row.route = route;
    row.route.args = tx.redact_json(&row.route.args)?;
    if !row.pinned {
        row.assignee = match &step.task.phase {
            Phase::Ready { candidates } if candidates.len() == 1 => candidates.first().cloned(),
            _ => None,
        };
    }
    store(tx, row, step.task)
}
