//! The org chart.

use crate::macros::{documents, operations};
use std::collections::BTreeMap;

documents! {
    /// The org chart, with the declared relations and what follows from them.
    OrgDoc {
        /// Always 1.
        version: u32,
        /// Agents; a superior comes before those that report to it.
        agents: Vec<OrgRow>,
        /// Findings about delegation, as single points of failure.
        findings: Vec<String>,
    }
    /// An agent in the org chart.
    OrgRow {
        /// Slug of the agent.
        name: String,
        /// Role, as the manifest describes it.
        role: String,
        /// Agent that it reports to; the operator is above all.
        reports_to: Option<String>,
        /// Distance from the operator.
        depth: u32,
        /// Agents that it may delegate to.
        delegates_to: Vec<String>,
        /// Agents that it may ask.
        #[serde(default)]
        asks: Vec<String>,
        /// Agents that its work can reach by delegation.
        reaches: Vec<String>,
        /// Declared relations by kind; they give no rights.
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
