//! Reports in words, in the languages of the house.

use crate::macros::{documents, operations, queries};
use crate::time::Time;
use abbey_model::words;
use std::collections::BTreeMap;

words! {
    /// How serious a finding is, or whether it is a remark or a recommended action.
    FindingKind {
        /// Worth knowing.
        Info = "info",
        /// Needs attention.
        Warn = "warn",
        /// Something is wrong.
        Error = "error",
        /// A remark for the operator.
        Note = "note",
        /// An action that the operator might take.
        Action = "action",
    }
}

documents! {
    /// A report.
    ReportDoc {
        /// Always 1.
        version: u32,
        /// Name of the report.
        name: String,
        /// When it was made.
        at: Time,
        /// Language of its texts.
        language: String,
        /// What was observed; empty when the probe failed.
        observed: Vec<Observation>,
        /// What the observations mean, without advice.
        interpretation: Vec<Finding>,
        /// What an operator might do.
        notes: Vec<Finding>,
    }
    /// Reports that can be made.
    ReportsDoc {
        /// Always 1.
        version: u32,
        /// Reports, with what each is about.
        reports: Vec<Observation>,
    }
    /// An observation.
    Observation {
        /// What was observed.
        label: String,
        /// Its value.
        value: String,
        /// Numbers of the value for programs, each in the unit that its name ends with, such as `total_bytes`.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        amounts: BTreeMap<String, u64>,
    }
    /// A finding, or advice.
    Finding {
        /// How serious it is, or what kind of advice.
        kind: FindingKind,
        /// The finding.
        text: String,
    }
}

queries! {
    /// Which reports, and in which language.
    ReportsQuery {
        /// Language tag; the house's own language when not given.
        locale: Option<String>,
        /// A question in words; only the report that answers it is listed.
        q: Option<String>,
    }
    /// In which language.
    ReportQuery {
        /// Language tag; the house's own language when not given.
        locale: Option<String>,
    }
}

operations! {
    /// Reports: `client.reports()`.
    ReportsClient {
        /// Every report.
        GET "/api/v1/reports" list() [query ReportsQuery] -> json(ReportsDoc);
        /// One report: what was observed, what it means, what an operator might do.
        GET "/api/v1/reports/{report}" show(report) [query ReportQuery] -> json(ReportDoc);
    }
}
