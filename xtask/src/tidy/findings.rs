//! What the rules of `tidy` found.

/// Findings of the rules.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Violations; one is enough to fail.
    pub(crate) errors: Vec<String>,
    /// Findings that are printed and don't fail the check.
    pub(crate) warnings: Vec<String>,
    /// Tables that are printed above the result.
    pub(crate) tables: Vec<String>,
}

impl Findings {
    /// Adds a violation, which fails the check.
    pub(crate) fn error(&mut self, text: impl Into<String>) {
        self.errors.push(text.into());
    }

    /// Adds a finding that is printed and does not fail the check.
    pub(crate) fn warning(&mut self, text: impl Into<String>) {
        self.warnings.push(text.into());
    }
}
