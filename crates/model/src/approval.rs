//! States of approvals. The rules between them are in `abbey-engine`.

use crate::words::words;

words! {
    /// State of an approval.
    ApprovalState {
        /// Nobody has decided.
        Pending = "pending",
        /// Approved, and not used yet.
        Approved = "approved",
        /// Denied.
        Denied = "denied",
        /// To be requested again, differently.
        Revise = "revise",
        /// Approved, and used.
        Used = "used",
        /// The task ended before the approval was decided or used.
        Lapsed = "lapsed",
        /// Approved, and not used in time.
        Expired = "expired",
    }
}
