//! Every requirement and hazard has its line in `docs/requirements.md`, and every test named as a proof there or in
//! `SPECIFICATION.md` exists.

use super::findings::Findings;
use super::sources::{Source, read_source_text};
use std::path::Path;

/// Requirements by system: its number and its last requirement.
const SYSTEMS: [(&str, u32); 5] = [("S1", 26), ("S2", 36), ("S3", 41), ("S4", 35), ("S5", 15)];
const HAZARDS: u32 = 38;
const REQUIREMENTS: &str = "docs/requirements.md";
const SPECIFICATION: &str = "SPECIFICATION.md";

/// Reports requirements and hazards without a line in `docs/requirements.md`, and proofs there or in `SPECIFICATION.md`
/// that do not exist.
pub(super) fn check(top: &Path, sources: &[Source], findings: &mut Findings) -> Result<(), String> {
    let requirements = read_source_text(&top.join(REQUIREMENTS))?;
    for (system, last) in SYSTEMS {
        for n in 1..=last {
            let id = format!("{system}-{n:02}");
            if !requirements.contains(&format!("| {id} |")) {
                findings.error(format!("{REQUIREMENTS}: no line for {id}"));
            }
        }
    }
    let table = requirements.split_once("## Hazards").map_or("", |(_, t)| t);
    for n in 1..=HAZARDS {
        let Some(row) = table.lines().find(|l| l.starts_with(&format!("| {n} |"))) else {
            findings.error(format!("{REQUIREMENTS}: no line for hazard {n}"));
            continue;
        };
        for test in last_cell(row)
            .split(',')
            .map(|t| t.trim().trim_matches('`'))
        {
            if test != "–" && !has_test(sources, "", test) {
                findings.error(format!(
                    "{REQUIREMENTS}: hazard {n} names the test `{test}`, which does not exist"
                ));
            }
        }
    }
    let specification = read_source_text(&top.join(SPECIFICATION))?;
    let promises = specification.split("\n## ").next().unwrap_or_default();
    for row in promises.lines().filter(|l| l.starts_with("| ")).skip(1) {
        let proofs: Vec<&str> = last_cell(row).split('`').skip(1).step_by(2).collect();
        if proofs.is_empty() {
            findings.error(format!("{SPECIFICATION}: a promise without a proof: {row}"));
        }
        for proof in proofs.into_iter().filter(|p| !exists(sources, p)) {
            findings.error(format!(
                "{SPECIFICATION}: names the proof `{proof}`, which does not exist"
            ));
        }
    }
    Ok(())
}

fn last_cell(row: &str) -> &str {
    row.trim_end()
        .trim_end_matches('|')
        .rsplit('|')
        .next()
        .unwrap_or_default()
}

/// Whether there is a file `name.rs`, or a test `name::test`.
fn exists(sources: &[Source], proof: &str) -> bool {
    match proof.split_once("::") {
        Some((file, test)) => has_test(sources, &format!("/{file}.rs"), test),
        None => sources
            .iter()
            .any(|s| s.path.ends_with(&format!("/{proof}"))),
    }
}

/// Whether a file whose path ends like this has that function.
fn has_test(sources: &[Source], end: &str, test: &str) -> bool {
    let head = format!("fn {test}(");
    sources
        .iter()
        .filter(|s| s.is_rust() && s.path.starts_with("crates/") && s.path.ends_with(end))
        .filter_map(|s| s.text.as_deref())
        .any(|text| text.contains(&head))
}
