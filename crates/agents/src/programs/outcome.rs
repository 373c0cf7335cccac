//! How a program of a stock skill ends, and how it requests an approval.

use serde_json::Value;

/// Result of a program: text for people and data for programs, or why it failed.
pub(super) type Outcome = Result<(String, Value), String>;

/// Field of `data` by which a program requests an approval: `{"why": …}` describes what it would do.
pub(crate) const ASK: &str = "approval";
/// Exit status of a program that requests an approval. Source: `EX_TEMPFAIL` of sysexits(3).
pub(crate) const ASKS: i32 = 75;
/// Environment variable that names the approval under which a program runs.
pub(crate) const APPROVED: &str = "ABBEY_APPROVED";
