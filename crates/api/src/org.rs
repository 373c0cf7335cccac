//! The org chart.

use crate::macros::{documents, operations};
use std::collections::BTreeMap;

documents! {
    /// The org chart, with what is declared beside it and what follows.
    OrgDoc {
        /// Always 1.
        version: u32,
        /// Everybody, a superior before those below.
        agents: Vec<OrgRow>,
        /// What follows from the edges.
        findings: Vec<String>,
    }
    /// One agent's place.
    OrgRow {
        /// Slug.
        name: String,
        /// What it is for.
        role: String,
        /// Who is above; the operator is above all.
        reports_to: Option<String>,
        /// Distance from the operator.
        depth: u32,
        /// Whom it may give work to.
        delegates_to: Vec<String>,
        /// Whom it may ask something.
        #[serde(default)]
        asks: Vec<String>,
        /// Whom its work can reach by being given on.
        reaches: Vec<String>,
        /// Declared relations by kind; no right comes of them.
        relations: BTreeMap<String, Vec<String>>,
    }
}

operations! {
    /// The org chart: `client.org()`.
    OrgClient {
        /// The org chart, and what follows from it.
        GET "/api/v1/org" show() -> json(OrgDoc);
    }
}
