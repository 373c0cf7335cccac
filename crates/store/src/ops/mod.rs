//! The operations of the store, one file per noun, over the row interface alone: no database is named here.
//!
//! A write takes the open [`Tx`](crate::transaction::Tx), runs the engine's state machine, stores the outcome, and
//! logs it to the audit log, all in that transaction. A read takes [`Rows`](crate::rows::Rows).

pub(crate) mod approval_rows;
pub(crate) mod approvals;
pub(crate) mod audit_log;
pub(crate) mod budget_changes;
pub(crate) mod cells;
pub(crate) mod counts;
pub(crate) mod credentials;
pub(crate) mod delegation;
pub(crate) mod documents;
pub(crate) mod draining;
pub(crate) mod escalations;
pub(crate) mod first_files;
pub(crate) mod generations;
pub(crate) mod hooks;
pub(crate) mod hostd_journal;
pub(crate) mod leases;
pub(crate) mod ledger;
pub(crate) mod limit_overrides;
pub(crate) mod outbox;
pub(crate) mod provider_health;
pub(crate) mod renames;
pub(crate) mod retention;
pub(crate) mod runs;
pub(crate) mod sagas;
pub(crate) mod schedules;
pub(crate) mod task_rows;
pub(crate) mod tasks;
pub(crate) mod transitions;
pub(crate) mod waits;
pub(crate) mod wakes;
pub(crate) mod workflows;

/// States in which a task is over, as a list for `IN (…)`.
pub(crate) const TERMINAL_STATES: &str = "'done', 'unverified', 'failed', 'timed_out', 'cancelled'";

#[cfg(test)]
mod tests {
    use abbey_model::TaskState;

    #[test]
    fn the_list_of_terminal_states_is_the_models() {
        let listed: Vec<&str> = super::TERMINAL_STATES
            .split(", ")
            .map(|s| s.trim_matches('\''))
            .collect();
        for state in TaskState::ALL {
            assert_eq!(
                listed.contains(&state.name()),
                state.is_terminal(),
                "{state}"
            );
        }
    }

    /// What only one database understands stays out of the operations: see [`crate::rows`].
    #[test]
    fn operations_use_only_portable_sql() {
        let refused = [
            "rusqlite",
            "json_each",
            "json_extract",
            "OR IGNORE",
            "OR REPLACE",
            "PRAGMA",
            "rowid",
            "AUTOINCREMENT",
            "strftime",
            "AS INTEGER",
            " GLOB ",
            "instr(",
            "ifnull(",
            "total_changes",
            "sqlite_",
            "= max(",
            "= min(",
        ];
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ops");
        let mut files = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.ends_with("mod.rs") {
                continue;
            }
            files += 1;
            let text = std::fs::read_to_string(&path).unwrap();
            for word in refused {
                assert!(!text.contains(word), "{}: `{word}`", path.display());
            }
        }
        assert!(files > 15, "only {files} files of operations were read");
    }
}
