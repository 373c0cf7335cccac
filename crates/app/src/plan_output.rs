//! How a plan is printed.

use crate::output::{self, table};
use abbey_api::{PlanDoc, PlanStep};

pub(crate) fn print_plan(doc: &PlanDoc) {
    if doc.steps.is_empty() {
        output::line(&format!("generation {}: nothing to change", doc.generation));
    } else {
        output::line(&format!("generation {}", doc.generation));
        let row = |s: &PlanStep| {
            vec![
                s.id.to_string(),
                s.action.to_string(),
                s.resource.clone(),
                s.agent.clone(),
                s.detail.clone(),
            ]
        };
        table(
            &["STEP", "ACTION", "RESOURCE", "WHOSE", "DETAIL"],
            doc.steps.iter().map(row).collect(),
            "no steps",
        );
    }
    for note in &doc.notes {
        output::line(&format!(
            "{}: {}: {}",
            note.severity, note.subject, note.text
        ));
    }
}
