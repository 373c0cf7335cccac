//! Reports in their three parts.

use crate::connect::{client, segment};
use crate::exit::{self, Failure};
use crate::output;
use abbey_api::{ReportDoc, ReportsDoc};
use abbey_daemon::Home;

pub(crate) async fn run(home: &Home, json: bool, name: Option<&str>) -> Result<u8, Failure> {
    let client = client(home)?;
    let Some(name) = name else {
        let doc: ReportsDoc = client.get("/api/v1/reports").await?;
        match json {
            true => output::json(&doc),
            false => doc
                .reports
                .iter()
                .for_each(|r| output::line(&format!("{:<10} {}", r.label, r.value))),
        }
        return Ok(exit::OK);
    };
    let doc: ReportDoc = client
        .get(&format!("/api/v1/reports/{}", segment(name)))
        .await?;
    if json {
        output::json(&doc);
        return Ok(exit::OK);
    }
    output::line(&format!("{} at {}", doc.name, doc.at));
    output::line("Observed");
    for seen in &doc.observed {
        output::line(&format!("  {}: {}", seen.label, seen.value));
    }
    output::line("Interpretation");
    for finding in &doc.interpretation {
        output::line(&format!("  [{}] {}", finding.kind, finding.text));
    }
    if !doc.notes.is_empty() {
        output::line("Operator notes");
        for note in &doc.notes {
            output::line(&format!("  [{}] {}", note.kind, note.text));
        }
    }
    Ok(exit::OK)
}
