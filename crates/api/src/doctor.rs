//! Checks of the house and of its host.

use crate::macros::{documents, operations};
use abbey_model::words;

words! {
    /// How serious a failed check is; `info` where it passed.
    CheckSeverity {
        /// Nothing to do.
        Info = "info",
        /// Something works less well than it should.
        Warn = "warn",
        /// Something doesn't work.
        Fail = "fail",
    }
}

words! {
    /// Result of a check.
    CheckState {
        /// It passed.
        Ok = "ok",
        /// It needs attention.
        Attention = "attention",
        /// It failed.
        Failed = "failed",
    }
}

documents! {
    /// `abbey doctor`.
    DoctorDoc {
        /// Always 1.
        version: u32,
        /// Every check.
        checks: Vec<CheckView>,
        /// Ids of the checks that failed before and pass now.
        #[serde(default)]
        fixed: Vec<String>,
    }
    /// A check and its result.
    CheckView {
        /// Stable name of the check.
        id: String,
        /// How serious a failure is; `info` where the check passed.
        severity: CheckSeverity,
        /// Result.
        state: CheckState,
        /// What was checked and found.
        text: String,
        /// What to do next.
        remedy: Option<String>,
    }
}

operations! {
    /// Checks: `client.doctor()`.
    DoctorClient {
        /// Runs every check.
        GET "/api/v1/doctor" check() -> json(DoctorDoc);
        /// Fixes what can be fixed without losing anything, and runs every check again.
        POST "/api/v1/doctor" fix() -> json(DoctorDoc);
    }
}
