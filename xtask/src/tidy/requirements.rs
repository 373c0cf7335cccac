//! Every requirement and hazard has its line in `docs/requirements.md`, and every test named there exists.

use super::findings::Findings;
use super::sources::{Source, read};
use std::path::Path;

/// Requirements by system: its number and its last requirement.
const SYSTEMS: [(&str, u32); 5] = [("S1", 26), ("S2", 36), ("S3", 41), ("S4", 35), ("S5", 15)];
const HAZARDS: u32 = 38;
const FILE: &str = "docs/requirements.md";

pub(super) fn check(top: &Path, sources: &[Source], findings: &mut Findings) -> Result<(), String> {
    let text = read(&top.join(FILE))?;
    for (system, last) in SYSTEMS {
        for n in 1..=last {
            let id = format!("{system}-{n:02}");
            if !text.contains(&format!("| {id} |")) {
                findings.error(format!("{FILE}: no line for {id}"));
            }
        }
    }
    let table = text.split_once("## Hazards").map_or("", |(_, t)| t);
    for n in 1..=HAZARDS {
        let Some(row) = table.lines().find(|l| l.starts_with(&format!("| {n} |"))) else {
            findings.error(format!("{FILE}: no line for hazard {n}"));
            continue;
        };
        let tests = row.rsplit('|').nth(1).unwrap_or_default();
        for test in tests.split(',').map(|t| t.trim().trim_matches('`')) {
            if test != "–" && !exists(sources, test) {
                findings.error(format!(
                    "{FILE}: hazard {n} names the test `{test}`, which does not exist"
                ));
            }
        }
    }
    Ok(())
}

fn exists(sources: &[Source], test: &str) -> bool {
    let head = format!("fn {test}(");
    let code = sources
        .iter()
        .filter(|s| s.is_rust() && s.path.starts_with("crates/"));
    code.filter_map(|s| s.text.as_deref())
        .any(|t| t.contains(&head))
}
