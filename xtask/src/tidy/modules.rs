//! Which folder of a crate may import which, and no import cycle of more than a few files.

use super::findings::Findings;
use crate::graph::{Graph, crate_root_files};
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// Most files of an import cycle.
const CYCLE_MAX: usize = 3;

/// Folders (or modules) of a crate from top to bottom: each may import those below it, and none above. The root file
/// is above all of them. A crate that is not here has no folders to order, but no large cycle either.
const LAYERS: &[(&str, &[&str])] = &[
    (
        "cells",
        &[
            "backend",
            "hostd",
            "shim",
            "container",
            "microvm",
            "network",
            "sandbox",
            "jail",
            "control",
            "guest",
            "program_stream",
            "copy",
            "files",
            "allocation",
            "external",
            "record",
            "spec",
            "sys",
            "crash",
            "error",
        ],
    ),
    (
        "daemon",
        &[
            "boot",
            "api_server",
            "insight",
            "planning",
            "work",
            "cells",
            "net",
            "core",
        ],
    ),
    (
        "gateway",
        &[
            "stack", "meter", "protocol", "words", "provider", "route", "usage", "refusal",
            "future",
        ],
    ),
    (
        "launch",
        &[
            "contained",
            "enter",
            "isolated",
            "isolated_child",
            "init",
            "landlock",
            "spawn",
            "system",
            "isolation",
        ],
    ),
    (
        "plan",
        &[
            "reference",
            "schema",
            "authority",
            "likeness",
            "planner",
            "named_ports",
            "check",
            "workflow_warnings",
            "service_access",
            "storage",
            "plan",
            "ownership",
            "rename",
            "edit",
            "boot",
            "reach",
            "allocate",
            "decode",
            "house",
            "keys",
            "settings",
            "shape",
            "key",
            "value",
            "schedule",
            "hook",
            "sink",
            "document",
            "agent_values",
            "service_kind",
            "origin",
            "node",
            "templates",
        ],
    ),
    (
        "services",
        &[
            "git",
            "postgres",
            "site",
            "tools",
            "door",
            "registry",
            "ask",
            "lost_data",
            "error",
        ],
    ),
    (
        "store",
        &[
            "sqlite",
            "storage",
            "driver",
            "disk",
            "ops",
            "clock",
            "chain",
            "document",
            "escalation",
            "transaction",
            "entropy",
            "rows",
            "reply",
            "topic",
            "types",
            "error",
        ],
    ),
];

/// Reports imports against the order of a crate's folders, and import cycles of more than three files.
pub(super) fn check(top: &Path, findings: &mut Findings) -> Result<(), String> {
    for graph in read_import_graphs(top)? {
        let layers = LAYERS
            .iter()
            .find(|(name, _)| *name == graph.name)
            .map(|(_, layers)| *layers);
        if let Some(layers) = layers {
            upward_edges(&graph, layers, findings);
        }
        let cycles = graph.cycles();
        for cycle in cycles.iter().filter(|c| c.len() > CYCLE_MAX) {
            findings.error(format!(
                "{}: an import cycle of {} files (at most {CYCLE_MAX} are allowed): {}",
                graph.name,
                cycle.len(),
                shown(cycle)
            ));
        }
        findings.tables.push(render_import_table(&graph));
    }
    Ok(())
}

/// Import graphs of every crate below `top`, with those of its programs and test targets.
pub(crate) fn read_import_graphs(top: &Path) -> Result<Vec<Graph>, String> {
    let mut dirs: Vec<_> = fs::read_dir(top.join("crates"))
        .map_err(|e| e.to_string())?
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.join("Cargo.toml").exists())
        .collect();
    dirs.sort();
    dirs.push(top.join("xtask"));
    let all = dirs.iter().flat_map(|d| crate_root_files(d));
    all.map(|(name, root)| Graph::read(&name, &root)).collect()
}

fn upward_edges(graph: &Graph, layers: &[&str], findings: &mut Findings) {
    let place = |folder: &str| layers.iter().position(|l| *l == folder);
    let mut unknown: Vec<&str> = graph.folders.iter().map(String::as_str).collect();
    unknown.sort_unstable();
    unknown.dedup();
    unknown.retain(|f| !f.is_empty() && place(f).is_none());
    if !unknown.is_empty() {
        findings.error(format!(
            "{}: not in the table of xtask/src/tidy/modules.rs: {}",
            graph.name,
            unknown.join(", ")
        ));
    }
    for (from, to) in graph.folder_edges().into_keys() {
        let upward = match (place(&from), place(&to)) {
            (Some(from), Some(to)) => to < from,
            // No module imports the root file.
            (Some(_), None) => to.is_empty(),
            _ => false,
        };
        if upward {
            findings.error(format!(
                "{}: `{from}` must not import `{}`, which is above it:\n{}",
                graph.name,
                if to.is_empty() { "the root file" } else { &to },
                imports(graph, &from, &to)
            ));
        }
    }
}

fn imports(graph: &Graph, from: &str, to: &str) -> String {
    let between = graph
        .edges
        .iter()
        .filter(|(a, b)| graph.folders[*a] == from && graph.folders[*b] == to);
    let lines: Vec<String> = between
        .map(|(a, b)| {
            format!(
                "    {} imports {}",
                graph.files[*a].display(),
                graph.files[*b].display()
            )
        })
        .collect();
    lines.join("\n")
}

fn shown(cycle: &[&Path]) -> String {
    let names: Vec<String> = cycle.iter().map(|p| p.display().to_string()).collect();
    names.join(", ")
}

/// Text of a crate's imports between folders (number of pairs of files) and of its largest cycle.
pub(crate) fn render_import_table(graph: &Graph) -> String {
    let mut text = format!(
        "== modules of {}: {} files, {} imports",
        graph.name,
        graph.files.len(),
        graph.edges.len()
    );
    let edges = graph.folder_edges();
    let mut from_before = "";
    for ((from, to), number) in edges.iter().filter(|((f, _), _)| !f.is_empty()) {
        if from != from_before {
            let _ = write!(text, "\n   {from} →");
            from_before = from;
        }
        let _ = write!(
            text,
            " {}:{number}",
            if to.is_empty() { "(root)" } else { to }
        );
    }
    match graph.cycles().first() {
        Some(cycle) => {
            let _ = write!(
                text,
                "\n   largest cycle: {} files: {}",
                cycle.len(),
                shown(cycle)
            );
        }
        None => text.push_str("\n   no cycle"),
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small crate with the folders of `daemon`, whose `core` has this text.
    fn planted(core: &str, work: &str) -> Vec<String> {
        let top = tempfile::tempdir().expect("a directory");
        let write = |path: &str, text: &str| {
            let path = top.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, text).expect("a file");
        };
        write("xtask/src/main.rs", "fn main() {}");
        write("crates/daemon/Cargo.toml", "");
        write(
            "crates/daemon/src/lib.rs",
            "mod core; mod work; pub use work::Work;",
        );
        write("crates/daemon/src/core/mod.rs", core);
        write("crates/daemon/src/work/mod.rs", work);
        for name in ["a", "b", "c", "d"] {
            let next = char::from(name.as_bytes()[0] + 1);
            write(
                &format!("crates/daemon/src/work/{name}.rs"),
                &format!("pub fn {name}() {{ super::{next}::{next}(); }}"),
            );
        }
        write(
            "crates/daemon/src/work/e.rs",
            "pub fn e() { format!(\"{}\", crate::work::a::a()); }",
        );
        let mut findings = Findings::default();
        check(top.path(), &mut findings).expect("a graph");
        findings.errors
    }

    #[test]
    fn a_planted_back_edge_is_an_error() {
        let work = "pub struct Work; use crate::core::Clock;";
        assert_eq!(planted("pub struct Clock;", work), [""; 0]);
        for back in [
            "use crate::work::Work;",
            "use super::work;",
            "fn f() { let w = crate::Work; }",
            "fn f() { assert!(crate::work::Work == 1); }",
        ] {
            let errors = planted(&format!("pub struct Clock; {back}"), work);
            assert_eq!(errors.len(), 1, "{back}: {errors:?}");
            assert!(
                errors[0].contains("`core` must not import `work`"),
                "{errors:?}"
            );
        }
        assert_eq!(
            planted(
                "pub struct Clock; #[cfg(test)] mod tests { use crate::work::Work; }",
                work
            ),
            [""; 0]
        );
    }

    #[test]
    fn a_cycle_of_more_than_three_files_is_an_error() {
        let errors = planted(
            "pub struct Clock;",
            "pub struct Work; mod a; mod b; mod c; mod d; mod e;",
        );
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(
            errors[0].contains("an import cycle of 5 files"),
            "{errors:?}"
        );
    }
}
