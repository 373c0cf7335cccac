//! Sagas: operations of several steps, each with its undo. The log of events alone decides what comes next.

use super::audit_log;
use crate::rows::{Query, Rows, params};
use crate::topic::Topic;
use crate::transaction::Tx;
use crate::{Error, Result, SagaRow};
use abbey_engine::saga;
use abbey_model::{Principal, SagaId};
use serde_json::json;

/// Stores a new saga of these steps, at its first step.
pub(crate) fn begin(
    tx: &mut Tx<'_>,
    id: SagaId,
    kind: &str,
    subject: &str,
    steps: &[String],
) -> Result<()> {
    let state = serde_json::to_string(&saga::State::Doing(0))?;
    tx.execute(
        "INSERT INTO sagas VALUES (?1, ?2, ?3, ?4, ?5, 1, ?6)",
        params![
            id.to_string(),
            kind,
            subject,
            serde_json::to_string(steps)?,
            state,
            tx.now
        ],
    )?;
    let detail = json!({ "saga": id, "kind": kind, "steps": steps });
    audit_log::append(tx, &Principal::House, "saga.begin", subject, detail)?;
    tx.publish(Topic::Sagas);
    Ok(())
}

/// Appends an event to the log of a saga. Returns the state that it leads to.
///
/// # Errors
/// When the event is not allowed in the saga's state.
pub(crate) fn log_event(tx: &mut Tx<'_>, id: SagaId, event: saga::Event) -> Result<saga::State> {
    let saga = id.to_string();
    let found = tx.rows.first(
        "SELECT state, steps, subject FROM sagas WHERE id = ?1",
        params![&saga],
        |c| {
            Ok((
                c.json::<saga::State>()?,
                c.json::<Vec<String>>()?,
                c.get::<String>()?,
            ))
        },
    )?;
    let (state, steps, subject) = found.ok_or_else(|| Error::NotFound {
        what: "saga",
        name: saga.clone(),
    })?;
    let count = u32::try_from(steps.len()).unwrap_or(u32::MAX);
    let next = saga::step(state, event, count).map_err(|e| Error::Row(e.to_string()))?;
    tx.execute(
        "INSERT INTO saga_log VALUES (?1, (SELECT count(*) FROM saga_log WHERE saga = ?1), ?2, ?3)",
        params![&saga, serde_json::to_string(&event)?, tx.now],
    )?;
    let open = !next.is_over() || matches!(next, saga::State::Stuck(_));
    tx.execute(
        "UPDATE sagas SET state = ?2, open = ?3 WHERE id = ?1",
        params![&saga, serde_json::to_string(&next)?, open],
    )?;
    if next == saga::State::Done {
        close_stuck(tx, id, &subject)?;
    }
    tx.publish(Topic::Sagas);
    if next.is_over() {
        let detail = json!({ "saga": id, "state": next });
        audit_log::append(tx, &Principal::House, "saga.end", &subject, detail)?;
    }
    Ok(next)
}

/// Closes what is stuck of a subject before a saga that was done: that one did what was left over.
fn close_stuck(tx: &mut Tx<'_>, done: SagaId, subject: &str) -> Result<()> {
    for saga in list_open(tx.rows)? {
        let stuck = matches!(saga.state, saga::State::Stuck(_));
        if stuck && saga.subject == subject && saga.id != done {
            tx.execute(
                "UPDATE sagas SET open = ?2 WHERE id = ?1",
                params![saga.id.to_string(), false],
            )?;
        }
    }
    Ok(())
}

/// Reads the sagas that have steps left to do or to undo.
pub(crate) fn list_open(rows: &dyn Rows) -> Result<Vec<SagaRow>> {
    rows.all(
        "SELECT id, kind, subject, steps, state FROM sagas WHERE open = 1 ORDER BY id",
        params![],
        |c| {
            Ok(SagaRow {
                id: c.parse()?,
                kind: c.get()?,
                subject: c.get()?,
                steps: c.json()?,
                state: c.json()?,
            })
        },
    )
}
