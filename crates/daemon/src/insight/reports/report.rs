//! Builder of a report.

use abbey_api::{Finding, FindingKind, Observation, ReportDoc, Time, VERSION};
use abbey_model::Timestamp;
use abbey_words::{Language, Text};
use std::collections::BTreeMap;

/// Observations, interpretation and notes of a report, not yet rendered in a language.
#[derive(Default)]
pub(crate) struct Report {
    observed: Vec<(Text, Text, BTreeMap<String, u64>)>,
    findings: Vec<(FindingKind, Text)>,
    notes: Vec<(FindingKind, Text)>,
}

impl Report {
    /// Adds an observation: a label and its value.
    pub(crate) fn observe(&mut self, label: Text, value: Text) {
        self.observed.push((label, value, BTreeMap::new()));
    }
    /// As [`Report::observe`], with the numbers of the value for programs; each name ends with its unit.
    pub(crate) fn observe_amounts(&mut self, label: Text, value: Text, amounts: &[(&str, u64)]) {
        let amounts = amounts.iter().map(|(name, n)| ((*name).to_owned(), *n));
        self.observed.push((label, value, amounts.collect()));
    }
    /// Adds a finding to the interpretation.
    pub(crate) fn interpret(&mut self, severity: FindingKind, text: Text) {
        self.findings.push((severity, text));
    }
    /// Adds a note for the operator.
    pub(crate) fn recommend(&mut self, kind: FindingKind, text: Text) {
        self.notes.push((kind, text));
    }
    /// Renders all texts in a language and returns the report document; adds a finding if nothing
    /// was observed or nothing is unusual.
    pub(crate) fn render(mut self, name: &str, at: Timestamp, language: Language) -> ReportDoc {
        if self.observed.is_empty() {
            self.interpret(FindingKind::Error, Text::new("nothing-observed"));
        } else if self.findings.is_empty() {
            self.interpret(FindingKind::Info, Text::new("nothing-unusual"));
        }
        let finding = |(kind, text): &(FindingKind, Text)| Finding {
            kind: *kind,
            text: language.render(text),
        };
        let observation =
            |(label, value, amounts): &(Text, Text, BTreeMap<String, u64>)| Observation {
                label: language.render(label),
                value: language.render(value),
                amounts: amounts.clone(),
            };
        ReportDoc {
            version: VERSION,
            name: name.to_owned(),
            at: Time(at),
            language: language.tag().to_owned(),
            observed: self.observed.iter().map(observation).collect(),
            interpretation: self.findings.iter().map(finding).collect(),
            notes: self.notes.iter().map(finding).collect(),
        }
    }
}

/// A number as a text that is the same in every language.
pub(crate) fn plain_number(n: impl ToString) -> Text {
    Text::plain(n.to_string())
}
