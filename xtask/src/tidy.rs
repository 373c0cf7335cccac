//! Rules of the house that a machine can check.

use crate::run::root;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Which rooms a room may depend on; the design in one table.
const ROOMS: &[(&str, &[&str])] = &[
    ("support", &[]),
    ("model", &[]),
    ("engine", &["model"]),
    ("plan", &["support", "model", "engine", "words"]),
    ("store", &["support", "model", "engine"]),
    ("launch", &[]),
    ("cells", &["support", "model", "plan", "launch"]),
    ("api", &["support", "model"]),
    ("agents", &["support", "model", "api"]),
    ("gateway", &["support", "model"]),
    ("services", &["support"]),
    ("words", &[]),
    ("import", &["model"]),
    (
        "daemon",
        &[
            "support", "model", "plan", "engine", "store", "cells", "agents", "services",
            "gateway", "api", "words",
        ],
    ),
    // The entry functions of the roles live in `cells`, `agents` and `services`; `model` has the exit kinds; what is
    // imported becomes a manifest before anybody else sees it.
    (
        "app",
        &[
            "support", "daemon", "api", "cells", "agents", "services", "import", "model",
        ],
    ),
    (
        "testkit",
        &[
            "support", "model", "plan", "engine", "store", "launch", "cells", "api", "agents",
            "daemon",
        ],
    ),
];
/// Outside crates that a room is held to.
const OUTSIDE: &[(&str, &[&str])] = &[
    ("model", &["serde", "thiserror"]),
    ("launch", &["libc", "rustix"]),
];
/// Rooms that may hold `unsafe`.
const UNSAFE: &[&str] = &["launch"];
/// Longest file of code, lines: told from the first, refused from the second.
const LINES: (usize, usize) = (600, 800);
/// Crates that would bring a second crypto provider or a second way to do a thing.
const BANNED: &[&str] = &[
    "openssl",
    "openssl-sys",
    "native-tls",
    "aws-lc-rs",
    "aws-lc-sys",
    "chrono",
    "serde_yaml",
    "async-std",
];
/// Names of the example's agents, which must not leak into behaviour.
const INSTANCE_NAMES: &[&str] = &["clawdie", "ezra", "allegro", "atomizer"];
/// Words that do not belong into a repository.
const WORDS: &[&str] = &["todo!(", "unimplemented!(", "FIXME", "XXX"];

/// Runs every rule and tells every breach.
pub(crate) fn tidy() -> Result<(), String> {
    let mut breaches = Vec::new();
    dependencies(&mut breaches)?;
    sources(&mut breaches)?;
    licences(&mut breaches)?;
    requirements(&mut breaches)?;
    if breaches.is_empty() {
        println!("== tidy: fine");
        return Ok(());
    }
    for breach in &breaches {
        eprintln!("tidy: {breach}");
    }
    Err(format!("{} breaches of the house's rules", breaches.len()))
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|e| format!("`{}`: {e}", path.display()))
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

fn dependencies(breaches: &mut Vec<String>) -> Result<(), String> {
    let dir = root().join("crates");
    let rooms: BTreeSet<String> = fs::read_dir(&dir)
        .map_err(|e| e.to_string())?
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    let known: BTreeSet<String> = ROOMS.iter().map(|(n, _)| (*n).to_owned()).collect();
    for room in rooms.symmetric_difference(&known) {
        breaches.push(format!(
            "the room `{room}` is not both in the table of xtask and under crates/"
        ));
    }
    for (room, allowed) in ROOMS {
        let manifest = read(&dir.join(room).join("Cargo.toml"))?;
        let names = section(&manifest, "[dependencies]");
        for inner in names.iter().filter_map(|n| n.strip_prefix("abbey-")) {
            if !allowed.contains(&inner) {
                breaches.push(format!("`{room}` must not depend on `{inner}`"));
            }
        }
        if let Some((_, outside)) = OUTSIDE.iter().find(|(n, _)| n == room) {
            for outer in names
                .iter()
                .filter(|n| !n.starts_with("abbey-") && !outside.contains(&n.as_str()))
            {
                breaches.push(format!(
                    "`{room}` takes only {}, not `{outer}`",
                    outside.join(" and ")
                ));
            }
        }
    }
    let lock = read(&root().join("Cargo.lock"))?;
    for banned in BANNED {
        if lock.contains(&format!("name = \"{banned}\"\n")) {
            breaches.push(format!("the lock file holds `{banned}`"));
        }
    }
    Ok(())
}

fn files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && name != "target" && name != ".git" {
            files(&path, out);
        } else if path.is_file() {
            out.push(path);
        }
    }
}

fn sources(breaches: &mut Vec<String>) -> Result<(), String> {
    let top = root();
    let mut all = Vec::new();
    files(&top, &mut all);
    for path in all {
        let shown = path
            .strip_prefix(&top)
            .unwrap_or(&path)
            .display()
            .to_string();
        let size = fs::metadata(&path).map_or(0, |m| m.len());
        if size > 512 << 10 && !shown.ends_with("Cargo.lock") {
            breaches.push(format!("{shown}: {size} bytes is a stray large file"));
            continue;
        }
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        if !shown.starts_with("xtask/") {
            for word in WORDS
                .iter()
                .filter(|w| shown.ends_with(".rs") && text.contains(**w))
            {
                breaches.push(format!("{shown}: holds `{word}`"));
            }
            let free = shown.starts_with("examples/")
                || shown.ends_with("/examples.rs")
                || shown.starts_with("docs/")
                || shown.ends_with(".md")
                || shown.contains("/templates/")
                || shown.contains("/tests/");
            for name in INSTANCE_NAMES
                .iter()
                .filter(|n| !free && shown.ends_with(".rs") && text.to_lowercase().contains(**n))
            {
                // The list of examples has to name its folders.
                let lines: Vec<&str> = text
                    .lines()
                    .filter(|l| l.to_lowercase().contains(name) && !l.contains("examples/"))
                    .collect();
                if !lines.is_empty() {
                    breaches.push(format!(
                        "{shown}: the name `{name}` of one house leaks into behaviour"
                    ));
                }
            }
        }
        if !shown.ends_with(".rs") {
            continue;
        }
        let lines = text.lines().count();
        if lines > LINES.1 {
            breaches.push(format!("{shown}: {lines} lines; one file, one idea"));
        } else if lines > LINES.0 {
            println!("tidy: {shown} has {lines} lines; think of splitting it");
        }
        if shown.contains("/src/") && !text.starts_with("//!") {
            breaches.push(format!(
                "{shown}: does not begin with what it is for (`//!`)"
            ));
        }
        let room = shown
            .strip_prefix("crates/")
            .and_then(|s| s.split('/').next())
            .unwrap_or_default();
        if text.contains("unsafe {") && !UNSAFE.contains(&room) && !shown.starts_with("xtask/") {
            breaches.push(format!("{shown}: `unsafe` outside {}", UNSAFE.join(", ")));
        }
    }
    Ok(())
}

/// Licences of everything in the lock file, from the registry's own manifests.
fn licences(breaches: &mut Vec<String>) -> Result<(), String> {
    const GOOD: &[&str] = &[
        "MIT",
        "MIT-0",
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "ISC",
        "Zlib",
        "Unlicense",
        "CC0-1.0",
        "0BSD",
        "Unicode-3.0",
        "MPL-2.0",
        "CDLA-Permissive-2.0",
        "BSL-1.0",
        "Apache-2.0 WITH LLVM-exception",
    ];
    let output = std::process::Command::new("cargo")
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(root())
        .output()
        .map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    // One key of a machine's own output; a JSON parser would be this tool's only dependency.
    let mut bad = BTreeSet::new();
    for part in text.split("\"license\":").skip(1) {
        let Some(licence) = part.strip_prefix('"').and_then(|p| p.split('"').next()) else {
            continue;
        };
        let offered = licence
            .split(" OR ")
            .flat_map(|l| l.split('/'))
            .map(|l| l.trim().trim_matches(['(', ')']));
        let good = |l: &str| {
            GOOD.contains(&l)
                || l.split(" AND ")
                    .all(|each| GOOD.contains(&each.trim_matches(['(', ')'])))
        };
        if !offered.into_iter().any(good) {
            bad.insert(licence.to_owned());
        }
    }
    breaches.extend(
        bad.into_iter()
            .map(|l| format!("a dependency has the licence `{l}`, which is not on the list")),
    );
    Ok(())
}

/// Each requirement has its one line.
fn requirements(breaches: &mut Vec<String>) -> Result<(), String> {
    let text = read(&root().join("docs/requirements.md"))?;
    let systems = [("S1", 26), ("S2", 36), ("S3", 41), ("S4", 35), ("S5", 15)];
    for (system, last) in systems {
        for n in 1..=last {
            let id = format!("{system}-{n:02}");
            if !text.contains(&format!("| {id} |")) {
                breaches.push(format!("docs/requirements.md has no line for {id}"));
            }
        }
    }
    hazards(&text, breaches)
}

/// Every hazard has a line, and every test that it names is there.
fn hazards(text: &str, breaches: &mut Vec<String>) -> Result<(), String> {
    let table = text.split_once("## Hazards").map_or("", |(_, t)| t);
    let (mut all, mut sources) = (Vec::new(), String::new());
    files(&root().join("crates"), &mut all);
    for path in all
        .iter()
        .filter(|p| p.extension().is_some_and(|e| e == "rs"))
    {
        sources.push_str(&read(path)?);
    }
    for n in 1..=38 {
        let Some(row) = table.lines().find(|l| l.starts_with(&format!("| {n} |"))) else {
            breaches.push(format!("docs/requirements.md has no line for hazard {n}"));
            continue;
        };
        let tests = row.rsplit('|').nth(1).unwrap_or_default();
        for test in tests.split(',').map(|t| t.trim().trim_matches('`')) {
            if test != "–" && !sources.contains(&format!("fn {test}(")) {
                breaches.push(format!("hazard {n} names a test that is not there: {test}"));
            }
        }
    }
    Ok(())
}
