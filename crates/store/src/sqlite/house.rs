//! Generations, allocations, cells, credentials, sagas, wakes and retention.

use super::writer::Tx;
use super::{activity, ledger, parse};
use crate::types::allocation::Allocation;
use crate::{CellChange, CellRow, Commit, Error, GenerationRow, Note, Result, SagaRow, TokenRow};
use abbey_engine::saga;
use abbey_engine::supervision::History;
use abbey_model::{CellName, Millis, Principal, SagaId, Slug, Timestamp, Wish};
use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub(super) fn commit(tx: &mut Tx<'_>, commit: Commit) -> Result<u64> {
    let current: u64 = tx.db.query_row(
        "SELECT coalesce(max(generation), 0) FROM generations",
        [],
        |r| r.get(0),
    )?;
    if current != commit.based_on {
        return Err(Error::Stale {
            what: "the plan".to_owned(),
            seen: commit.based_on,
            current,
        });
    }
    tx.db.execute(
        "INSERT INTO generations VALUES (?1,?2,?3,?4,?5,?6,?7)",
        params![
            commit.generation,
            commit.manifest,
            commit.base_dir,
            commit.applied.to_string(),
            commit.charters.to_string(),
            commit.newest_uid,
            tx.now.0
        ],
    )?;
    tx.db.execute("DELETE FROM allocations", [])?;
    for row in &commit.allocations {
        tx.db
            .prepare_cached("INSERT INTO allocations VALUES (?1,?2,?3,?4)")?
            .execute(params![row.kind, row.value, row.owner, row.purpose])?;
    }
    ledger::set_limits(tx, &commit.budgets, &commit.timezone)?;
    let detail = json!({ "generation": commit.generation, "steps": commit.steps });
    activity::append(tx, &commit.actor, "plan.commit", "house", detail)?;
    Ok(commit.generation)
}

/// The newest manifest that had an agent, and its charter then.
pub(super) fn former(db: &Connection, agent: &Slug) -> Result<Option<(u64, String, String)>> {
    let found = db
        .prepare_cached("SELECT generation, manifest, json_extract(charters, '$.\"' || ?1 || '\"') AS charter FROM generations WHERE charter IS NOT NULL ORDER BY generation DESC LIMIT 1")?
        .query_row([agent.as_str()], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))
        .optional()?;
    Ok(found)
}

pub(super) fn current(db: &Connection) -> Result<Option<GenerationRow>> {
    let row = db
        .prepare_cached("SELECT generation, manifest, base_dir, applied, charters, newest_uid, at FROM generations ORDER BY generation DESC LIMIT 1")?
        .query_row([], |r| {
            let applied: String = r.get(3)?;
            let charters: String = r.get(4)?;
            Ok((r.get(0)?, r.get(1)?, r.get(2)?, applied, charters, r.get(5)?, r.get(6)?))
        })
        .optional()?;
    let Some((generation, manifest, base_dir, applied, charters, newest_uid, at)) = row else {
        return Ok(None);
    };
    let mut statement = db.prepare_cached(
        "SELECT kind, value, owner, purpose FROM allocations ORDER BY kind, value",
    )?;
    let allocations = statement
        .query_map([], |r| {
            Ok(Allocation {
                kind: r.get(0)?,
                value: r.get(1)?,
                owner: r.get(2)?,
                purpose: r.get(3)?,
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    Ok(Some(GenerationRow {
        generation,
        manifest,
        base_dir,
        applied: serde_json::from_str(&applied)?,
        charters: serde_json::from_str(&charters)?,
        allocations,
        newest_uid,
        at: Timestamp(at),
    }))
}

pub(super) fn set_cell(tx: &mut Tx<'_>, cell: &CellName, change: CellChange) -> Result<()> {
    let name = cell.to_string();
    tx.db
        .prepare_cached("INSERT OR IGNORE INTO cells VALUES (?1, 0, ?2, ?3)")?
        .execute(params![
            name,
            serde_json::to_string(&History::default())?,
            tx.now.0
        ])?;
    if let Some((wish, who)) = change.wish {
        let changed = tx
            .db
            .prepare_cached("UPDATE cells SET wanted_up = ?2 WHERE name = ?1 AND wanted_up != ?2")?
            .execute(params![name, wish.number()])?;
        if let (1, Some(who)) = (changed, who) {
            let action = format!("cell.want_{}", wish.name());
            activity::append(tx, &who, &action, &name, json!({}))?;
        }
    }
    if let Some((history, note)) = change.history {
        tx.db
            .prepare_cached("UPDATE cells SET history = ?2 WHERE name = ?1")?
            .execute(params![name, serde_json::to_string(&history)?])?;
        if let Some(note) = note {
            activity::append(tx, &note.actor, &note.action, &note.entity, note.detail)?;
        }
    }
    Ok(())
}

pub(super) fn forget_cell(tx: &mut Tx<'_>, cell: &CellName) -> Result<()> {
    tx.db
        .execute("DELETE FROM cells WHERE name = ?1", [cell.to_string()])?;
    if let CellName::Agent(slug) = cell {
        tx.db
            .execute("DELETE FROM wakes WHERE agent = ?1", [slug.as_str()])?;
    }
    Ok(())
}

pub(super) fn cells(db: &Connection) -> Result<BTreeMap<CellName, CellRow>> {
    let mut statement = db.prepare_cached("SELECT name, wanted_up, history, since FROM cells")?;
    let rows = statement.query_map([], |r| {
        Ok((
            r.get::<_, String>(0)?,
            r.get::<_, i64>(1)?,
            r.get::<_, String>(2)?,
            r.get::<_, i64>(3)?,
        ))
    })?;
    rows.map(|row| {
        let (name, wish, history, since) = row?;
        Ok((
            parse(&name)?,
            CellRow {
                wish: Wish::of_number(wish),
                history: serde_json::from_str(&history)?,
                since: Timestamp(since),
            },
        ))
    })
    .collect()
}

pub(super) fn add_token(tx: &mut Tx<'_>, token: &TokenRow) -> Result<()> {
    tx.db.execute(
        "INSERT INTO tokens VALUES (?1,?2,?3,?4,?5)",
        params![
            token.hash,
            token.principal.to_string(),
            token.scope,
            tx.now.0,
            token.expires_at.map(|t| t.0)
        ],
    )?;
    let detail = json!({ "principal": token.principal, "scope": token.scope });
    activity::append(
        tx,
        &Principal::House,
        "credential.issue",
        &token.principal.to_string(),
        detail,
    )?;
    Ok(())
}

pub(super) fn revoke_tokens(
    tx: &mut Tx<'_>,
    principal: &Principal,
    keep: Option<&str>,
    overlap: Millis,
) -> Result<u64> {
    let ends = tx.now + overlap;
    let changed = tx.db.execute(
        "UPDATE tokens SET expires_at = ?2 WHERE principal = ?1 AND hash != ?3 AND (expires_at IS NULL OR expires_at > ?2)",
        params![principal.to_string(), ends.0, keep.unwrap_or("")],
    )?;
    tx.db
        .execute("DELETE FROM tokens WHERE expires_at <= ?1", [tx.now.0])?;
    if changed > 0 {
        let detail = json!({ "credentials": changed, "overlap_ms": overlap });
        activity::append(
            tx,
            &Principal::House,
            "credential.revoke",
            &principal.to_string(),
            detail,
        )?;
    }
    Ok(changed as u64)
}

pub(super) fn tokens(db: &Connection, now: Timestamp) -> Result<Vec<TokenRow>> {
    let mut statement = db.prepare_cached("SELECT hash, principal, scope, expires_at FROM tokens WHERE expires_at IS NULL OR expires_at > ?1")?;
    let rows = statement.query_map([now.0], |r| {
        Ok((
            r.get::<_, String>(0)?,
            r.get::<_, String>(1)?,
            r.get::<_, String>(2)?,
            r.get::<_, Option<i64>>(3)?,
        ))
    })?;
    rows.map(|row| {
        let (hash, principal, scope, expires) = row?;
        Ok(TokenRow {
            hash,
            principal: parse(&principal)?,
            scope,
            expires_at: expires.map(Timestamp),
        })
    })
    .collect()
}

pub(super) fn saga_begin(
    tx: &mut Tx<'_>,
    id: SagaId,
    kind: &str,
    subject: &str,
    steps: &[String],
) -> Result<()> {
    let state = serde_json::to_string(&saga::State::Doing(0))?;
    tx.db.execute(
        "INSERT INTO sagas VALUES (?1,?2,?3,?4,?5,1,?6)",
        params![
            id.to_string(),
            kind,
            subject,
            serde_json::to_string(steps)?,
            state,
            tx.now.0
        ],
    )?;
    let detail = json!({ "saga": id, "kind": kind, "steps": steps });
    activity::append(tx, &Principal::House, "saga.begin", subject, detail)?;
    Ok(())
}

pub(super) fn saga_event(tx: &mut Tx<'_>, id: SagaId, event: saga::Event) -> Result<saga::State> {
    let (state, steps, subject): (String, String, String) = tx
        .db
        .query_row(
            "SELECT state, steps, subject FROM sagas WHERE id = ?1",
            [id.to_string()],
            |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)),
        )
        .optional()?
        .ok_or_else(|| Error::NotFound {
            what: "saga",
            name: id.to_string(),
        })?;
    let state: saga::State = serde_json::from_str(&state)?;
    let names: Vec<String> = serde_json::from_str(&steps)?;
    let next = saga::step(state, event, u32::try_from(names.len()).unwrap_or(u32::MAX))
        .map_err(|e| Error::Row(e.to_string()))?;
    tx.db.execute(
        "INSERT INTO saga_log VALUES (?1, (SELECT count(*) FROM saga_log WHERE saga = ?1), ?2, ?3)",
        params![id.to_string(), serde_json::to_string(&event)?, tx.now.0],
    )?;
    tx.db.execute(
        "UPDATE sagas SET state = ?2, open = ?3 WHERE id = ?1",
        params![
            id.to_string(),
            serde_json::to_string(&next)?,
            !next.is_over() || matches!(next, saga::State::Stuck(_))
        ],
    )?;
    if next.is_over() {
        activity::append(
            tx,
            &Principal::House,
            "saga.end",
            &subject,
            json!({ "saga": id, "state": next }),
        )?;
    }
    Ok(next)
}

pub(super) fn open_sagas(db: &Connection) -> Result<Vec<SagaRow>> {
    let mut statement = db.prepare_cached(
        "SELECT id, kind, subject, steps, state FROM sagas WHERE open = 1 ORDER BY id",
    )?;
    let rows = statement.query_map([], |r| {
        Ok([
            r.get::<_, String>(0)?,
            r.get(1)?,
            r.get(2)?,
            r.get(3)?,
            r.get(4)?,
        ])
    })?;
    rows.map(|row| {
        let [id, kind, subject, steps, state] = row?;
        Ok(SagaRow {
            id: parse(&id)?,
            kind,
            subject,
            steps: serde_json::from_str(&steps)?,
            state: serde_json::from_str(&state)?,
        })
    })
    .collect()
}

pub(super) fn folded(db: &Connection) -> Result<u64> {
    let found = db
        .prepare_cached("SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'journal'")?
        .query_row([], |r| r.get(0))
        .optional()?;
    Ok(found.unwrap_or(0))
}

pub(super) fn fold(tx: &mut Tx<'_>, from: u64, to: u64, notes: &[Note]) -> Result<bool> {
    if folded(tx.db)? != from {
        return Ok(false);
    }
    tx.db
        .prepare_cached(
            "INSERT INTO meta VALUES ('journal', ?1) ON CONFLICT (key) DO UPDATE SET value = ?1",
        )?
        .execute([to.to_string()])?;
    for note in notes {
        activity::append(
            tx,
            &note.actor,
            &note.action,
            &note.entity,
            note.detail.clone(),
        )?;
    }
    Ok(true)
}

pub(super) fn note_wake(tx: &mut Tx<'_>, agent: &Slug, number: u64) -> Result<()> {
    tx.db.execute(
        "INSERT INTO wakes VALUES (?1, ?2) ON CONFLICT (agent) DO UPDATE SET number = max(number, ?2)",
        params![agent.as_str(), number],
    )?;
    activity::append(
        tx,
        &Principal::House,
        "wake.fire",
        &format!("agent:{agent}"),
        json!({ "number": number }),
    )?;
    Ok(())
}

pub(super) fn wakes(db: &Connection) -> Result<BTreeMap<Slug, u64>> {
    let mut statement = db.prepare_cached("SELECT agent, number FROM wakes")?;
    let rows = statement.query_map([], |r| Ok((r.get::<_, String>(0)?, r.get::<_, u64>(1)?)))?;
    rows.map(|row| {
        row.map_err(Error::from)
            .and_then(|(agent, n)| Ok((parse(&agent)?, n)))
    })
    .collect()
}

pub(super) fn retain(tx: &mut Tx<'_>, keep: Millis) -> Result<u64> {
    let before = (tx.now - keep).0;
    let over =
        "state IN ('done','unverified','failed','timed_out','cancelled') AND updated_at < ?1";
    let any: Option<i64> = tx
        .db
        .query_row(
            &format!("SELECT 1 FROM tasks WHERE {over} LIMIT 1"),
            [before],
            |r| r.get(0),
        )
        .optional()?;
    tx.db
        .execute("DELETE FROM idempotency WHERE at < ?1", [before])?;
    tx.db.execute(
        "DELETE FROM saga_log WHERE saga IN (SELECT id FROM sagas WHERE open = 0 AND at < ?1)",
        [before],
    )?;
    tx.db
        .execute("DELETE FROM sagas WHERE open = 0 AND at < ?1", [before])?;
    let runs_over = "state IN ('done','failed','cancelled') AND updated_at < ?1";
    tx.db.execute(
        &format!("DELETE FROM approvals WHERE workflow IN (SELECT number FROM workflow_runs WHERE {runs_over})"),
        [before],
    )?;
    tx.db.execute(
        &format!("DELETE FROM workflow_runs WHERE {runs_over}"),
        [before],
    )?;
    if any.is_none() {
        return Ok(0);
    }
    let belongings = [
        ("runs", "id"),
        ("reservations", "id"),
        ("approvals", "number"),
        ("outbox", "number"),
    ];
    for (table, column) in belongings {
        tx.db.execute(
            &format!("DELETE FROM {table} WHERE task IN (SELECT {column} FROM tasks WHERE {over})"),
            [before],
        )?;
    }
    tx.db.execute(
        &format!(
            "DELETE FROM budgets WHERE scope IN (SELECT 'task:' || id FROM tasks WHERE {over})"
        ),
        [before],
    )?;
    tx.db.execute("DELETE FROM budgets WHERE scope LIKE 'run:%' AND substr(scope, 5) NOT IN (SELECT id FROM runs)", [])?;
    let removed = tx
        .db
        .execute(&format!("DELETE FROM tasks WHERE {over}"), [before])?;
    activity::append(
        tx,
        &Principal::House,
        "store.retain",
        "house",
        json!({ "tasks": removed, "keep_ms": keep }),
    )?;
    Ok(removed as u64)
}

/// Value of a JSON text, for exports.
pub(super) fn json_or_text(text: String) -> Value {
    serde_json::from_str(&text).unwrap_or(Value::String(text))
}
