//! Renaming of agents: every row that names the agent follows in one transaction; the audit log, which is never
//! rewritten, gets an entry.
//!
//! Rows that tell what happened (authors of tasks, ends of runs in the audit log) are about the same agent, so they
//! take the new name too. The host follows afterwards: until then the renaming is pending.

use super::{audit_log, ledger, task_rows};
use crate::rows::{Query, Rows, params};
use crate::topic::Topic;
use crate::transaction::Tx;
use crate::{RenamedAgent, Result};
use abbey_engine::task::Phase;
use abbey_engine::workflow::Workflow;
use abbey_model::{CellName, Principal, Recipient, Scope, Slug};
use serde_json::json;

/// Columns that hold the slug of an agent and nothing else, as table and column.
const SLUG_COLUMNS: [(&str, &str); 9] = [
    ("tasks", "holder"),
    ("tasks", "assignee"),
    ("runs", "agent"),
    ("reservations", "agent"),
    ("approvals", "agent"),
    ("wakes", "agent"),
    ("escalations", "receiver"),
    ("sagas", "subject"),
    ("first_files", "agent"),
];
/// Columns that hold a [`Principal`] or, spelt the same, a [`Recipient`].
const PRINCIPAL_COLUMNS: [(&str, &str); 6] = [
    ("tasks", "author"),
    ("tokens", "principal"),
    ("outbox", "recipient"),
    ("documents", "author"),
    ("workflow_runs", "author"),
    ("approvals", "decided_by"),
];

/// Gives an agent another name in every row. The renaming is pending until [`finish`]. What an earlier agent of the
/// new name left in the tables that have one row for each agent goes.
pub(crate) fn rename(tx: &mut Tx<'_>, old: &Slug, new: &Slug, who: &Principal) -> Result<()> {
    forget_leftovers(tx, new)?;
    // Whoever drained it did that for the renaming.
    tx.execute(
        "DELETE FROM draining_agents WHERE agent = ?1",
        params![old.as_str()],
    )?;
    let replace = |(table, column): (&str, &str)| {
        format!("UPDATE {table} SET {column} = ?2 WHERE {column} = ?1")
    };
    for column in SLUG_COLUMNS {
        tx.execute(&replace(column), params![old.as_str(), new.as_str()])?;
    }
    let principal = |slug: &Slug| Principal::Agent(slug.clone()).to_string();
    for column in PRINCIPAL_COLUMNS {
        tx.execute(&replace(column), params![principal(old), principal(new)])?;
    }
    let cell = |slug: &Slug| CellName::Agent(slug.clone()).to_string();
    tx.execute(&replace(("cells", "name")), params![cell(old), cell(new)])?;
    ledger::rename_agent_accounts(tx, old, new)?;
    rename_schedules(tx, old, new)?;
    rename_in_tasks(tx, old, new)?;
    rename_in_workflows(tx, old, new)?;
    rename_in_reservations(tx, old, new)?;
    tx.execute(
        "INSERT INTO renamed_agents SELECT coalesce(max(seq), 0) + 1, ?1, ?2, ?3, 1 FROM renamed_agents",
        params![old.as_str(), new.as_str(), tx.now],
    )?;
    let detail = json!({ "from": old, "to": new });
    audit_log::append(tx, who, "agent.rename", &cell(new), detail)?;
    for topic in [
        Topic::Work,
        Topic::Cells,
        Topic::Schedules,
        Topic::Credentials,
    ] {
        tx.publish(topic);
    }
    Ok(())
}

/// Removes the rows of an agent that is in no plan from the tables that are keyed by agent.
fn forget_leftovers(tx: &mut Tx<'_>, agent: &Slug) -> Result<()> {
    let cell = CellName::Agent(agent.clone());
    super::cells::remove(tx, &cell)?;
    for table in ["schedules", "schedule_log"] {
        let sql = format!("DELETE FROM {table} WHERE name LIKE ?1");
        tx.execute(&sql, params![format!("{agent}/%")])?;
    }
    Ok(())
}

/// Reads the renamings that the host has not followed yet, oldest first.
pub(crate) fn list_pending(rows: &dyn Rows) -> Result<Vec<RenamedAgent>> {
    let sql = "SELECT seq, old, new FROM renamed_agents WHERE pending = 1 ORDER BY seq";
    rows.all(sql, params![], |c| {
        Ok(RenamedAgent {
            seq: c.get()?,
            old: c.parse()?,
            new: c.parse()?,
        })
    })
}

/// Records that the host has followed a renaming.
pub(crate) fn finish(tx: &mut Tx<'_>, seq: u64) -> Result<()> {
    let sql = "UPDATE renamed_agents SET pending = 0 WHERE seq = ?1";
    tx.execute(sql, params![seq])?;
    tx.publish(Topic::Cells);
    Ok(())
}

/// Schedules are named `AGENT/SCHEDULE`.
fn rename_schedules(tx: &mut Tx<'_>, old: &Slug, new: &Slug) -> Result<()> {
    for table in ["schedules", "schedule_log"] {
        let sql = format!(
            "UPDATE {table} SET name = ?2 || substr(name, length(?1) + 1) WHERE name LIKE ?1 || '/%'"
        );
        tx.execute(&sql, params![old.as_str(), new.as_str()])?;
    }
    Ok(())
}

/// Renames an agent in the documents of tasks: candidates, the lease, the chain of delegation and the recipient.
fn rename_in_tasks(tx: &mut Tx<'_>, old: &Slug, new: &Slug) -> Result<()> {
    let put = |slug: &mut Slug| {
        if slug == old {
            slug.clone_from(new);
        }
    };
    // A slug has no character that is special to LIKE.
    let condition = "phase LIKE ?1 OR link LIKE ?1";
    for mut task in task_rows::list_where(tx.rows, condition, params![format!("%{old}%")])? {
        match &mut task.phase {
            Phase::Ready { candidates } => candidates.iter_mut().for_each(put),
            Phase::Running { lease } => put(&mut lease.holder),
            _ => {}
        }
        if let Some(link) = &mut task.link {
            link.chain.iter_mut().for_each(put);
            if let Recipient::Agent(agent) = &mut link.deliver {
                put(agent);
            }
        }
        let link = task.link.as_ref().map(serde_json::to_string).transpose()?;
        tx.execute(
            "UPDATE tasks SET phase = ?2, link = ?3 WHERE number = ?1",
            params![task.number, serde_json::to_string(&task.phase)?, link],
        )?;
    }
    Ok(())
}

/// Renames an agent in the workflows of runs that have not ended.
fn rename_in_workflows(tx: &mut Tx<'_>, old: &Slug, new: &Slug) -> Result<()> {
    let sql = "SELECT number, definition FROM workflow_runs WHERE state IN ('running', 'undoing')";
    let open: Vec<(u64, Workflow)> = tx.rows.all(sql, params![], |c| Ok((c.get()?, c.json()?)))?;
    for (number, mut workflow) in open {
        if workflow.rename_agent(old, new) {
            tx.execute(
                "UPDATE workflow_runs SET definition = ?2 WHERE number = ?1",
                params![number, serde_json::to_string(&workflow)?],
            )?;
        }
    }
    Ok(())
}

/// Renames an agent among the budgets that a reservation is charged to.
fn rename_in_reservations(tx: &mut Tx<'_>, old: &Slug, new: &Slug) -> Result<()> {
    let open: Vec<(String, Vec<Scope>)> =
        tx.rows
            .all("SELECT id, scopes FROM reservations", params![], |c| {
                Ok((c.get()?, c.json()?))
            })?;
    for (id, mut scopes) in open {
        let mut changed = false;
        for scope in &mut scopes {
            if matches!(scope, Scope::Agent(agent) if agent == old) {
                *scope = Scope::Agent(new.clone());
                changed = true;
            }
        }
        if changed {
            tx.execute(
                "UPDATE reservations SET scopes = ?2 WHERE id = ?1",
                params![id, serde_json::to_string(&scopes)?],
            )?;
        }
    }
    Ok(())
}
