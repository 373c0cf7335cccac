//! What running a skill does to the world.

use crate::words;

words! {
    /// What running a skill does: a skill that changes something runs only for a request that is beyond doubt.
    Effect {
        /// It reads and reports.
        Reads = "reads",
        /// It changes something in a workspace, in the house or outside.
        Changes = "changes",
    }
}
