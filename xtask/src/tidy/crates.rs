//! Which crate may depend on which, which outside crates are banned, and which licences are accepted.

use super::findings::Findings;
use super::sources::read_source_text;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Crates of the workspace and those of them that each may depend on.
const EDGES: &[(&str, &[&str])] = &[
    ("support", &[]),
    ("model", &[]),
    ("engine", &["model"]),
    ("plan", &["model", "engine", "words", "support"]),
    ("store", &["model", "engine", "support"]),
    ("launch", &[]),
    ("cells", &["model", "plan", "launch", "support"]),
    ("api", &["model", "support"]),
    ("agents", &["model", "engine", "api", "support"]),
    ("gateway", &["model", "support"]),
    ("services", &["support"]),
    ("words", &[]),
    ("import", &["engine", "model", "support"]),
    (
        "daemon",
        &[
            "model", "plan", "engine", "store", "cells", "agents", "services", "gateway", "api",
            "words", "support",
        ],
    ),
    // The entry functions of the roles are in `cells`, `agents` and `services`; `model` has the exit codes.
    (
        "app",
        &[
            "daemon", "api", "cells", "agents", "services", "import", "model", "support",
        ],
    ),
    (
        "testkit",
        &[
            "model", "plan", "engine", "store", "launch", "cells", "api", "agents", "gateway",
            "daemon", "support",
        ],
    ),
];
/// Crates that may depend on these outside crates only.
const OUTSIDE: &[(&str, &[&str])] = &[
    ("model", &["serde", "strum", "thiserror", "utoipa"]),
    ("launch", &["libc", "rustix"]),
];

/// Reports crates and dependencies between them that are not in the table of crates.
pub(super) fn check(top: &Path, findings: &mut Findings) -> Result<(), String> {
    let dir = top.join("crates");
    let present: BTreeSet<String> = fs::read_dir(&dir)
        .map_err(|e| e.to_string())?
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    let known: BTreeSet<String> = EDGES.iter().map(|(n, _)| (*n).to_owned()).collect();
    for name in present.symmetric_difference(&known) {
        findings.error(format!(
            "the crate `{name}` must be both under crates/ and in the table of xtask/src/tidy/crates.rs"
        ));
    }
    for (name, allowed) in EDGES.iter().filter(|(n, _)| present.contains(*n)) {
        let manifest = read_source_text(&dir.join(name).join("Cargo.toml"))?;
        for dependency in section(&manifest, "[dependencies]") {
            match dependency.strip_prefix("abbey-") {
                Some(inner) if !allowed.contains(&inner) => {
                    findings.error(format!("the crate `{name}` must not depend on `{inner}`"));
                }
                Some(_) => {}
                None => {
                    let only = OUTSIDE
                        .iter()
                        .find(|(n, _)| n == name)
                        .map(|(_, only)| *only);
                    if let Some(only) = only.filter(|only| !only.contains(&dependency.as_str())) {
                        findings.error(format!(
                            "the crate `{name}` may depend on {} only, not on `{dependency}`",
                            only.join(", ")
                        ));
                    }
                }
            }
        }
    }
    Ok(())
}

/// Names under a table of a manifest.
fn section(manifest: &str, name: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut inside = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.trim() == name;
        } else if inside && let Some((key, _)) = line.split_once(['.', ' ', '=']) {
            names.insert(key.trim().to_owned());
        }
    }
    names
}
