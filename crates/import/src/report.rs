//! What an import found: agents, tasks, and a report for the operator.

use crate::imported_agent::ImportedAgent;
use abbey_model::Slug;
use std::collections::BTreeSet;

/// Entry of an import report.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReportEntry {
    /// Kind of entry.
    pub kind: ReportKind,
    /// File or key that it is about.
    pub place: String,
    /// Explanation for people.
    pub text: String,
}

/// Kind of an entry of an import report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReportKind {
    /// Imported with a change.
    Changed,
    /// Not imported.
    Left,
    /// Gives authority, so it is only imported when the operator allows it.
    Withheld,
    /// A secret was found.
    Secret,
    /// The house must have or allow it before the import can be applied.
    Obstacle,
    /// What the import means for the rest of the house.
    Note,
}

impl ReportKind {
    /// Name of the kind in reports and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            ReportKind::Changed => "changed",
            ReportKind::Left => "not imported",
            ReportKind::Withheld => "needs approval",
            ReportKind::Secret => "secret",
            ReportKind::Obstacle => "needed first",
            ReportKind::Note => "note",
        }
    }
}

/// Open task of the imported installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedTask {
    /// Name in the imported installation; a repeated import recognizes the task by it.
    pub was: String,
    /// Text of the task.
    pub text: String,
    /// Assignee.
    pub to: Option<Slug>,
    /// `P0` to `P3`.
    pub priority: &'static str,
}

/// Result of an import.
#[derive(Debug, Default)]
pub struct Import {
    /// Agents, in the order in which they are added.
    pub agents: Vec<ImportedAgent>,
    /// Open tasks.
    pub tasks: Vec<ImportedTask>,
    /// Report, sorted.
    pub findings: Vec<ReportEntry>,
    /// Places (files, and keys as `FILE: KEY`) that are carried over as they are. With the places of the report they cover
    /// the whole installation.
    pub carried: BTreeSet<String>,
}

impl Import {
    /// Adds an entry about `place` (a file or key) to the import report.
    pub fn add_report_entry(
        &mut self,
        kind: ReportKind,
        place: impl Into<String>,
        text: impl Into<String>,
    ) {
        self.findings.push(ReportEntry {
            kind,
            place: place.into(),
            text: text.into(),
        });
    }
}
