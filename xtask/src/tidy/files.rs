//! Size and head of each file, `unsafe` code, placeholders, and names of example agents in code.

use super::findings::Findings;
use super::sources::Source;

/// Crates that may hold `unsafe` code.
const UNSAFE: &[&str] = &["launch"];
/// Lines of a source file: more than the first is a warning, more than the second an error.
const LINES: (usize, usize) = (600, 800);
/// Largest file of the repository, bytes; lock files excepted.
const SIZE_MAX: u64 = 512 << 10;
/// Agents of the examples. Code must not know them.
const INSTANCE_NAMES: &[&str] = &["clawdie", "ezra", "allegro", "atomizer"];
/// Marks of unfinished work.
const PLACEHOLDERS: &[&str] = &["todo!(", "unimplemented!(", "FIXME", "XXX:"];

/// Reports source files that are too long or lack a head comment, large files, `unsafe` code outside `launch`,
/// placeholders, and names of example agents in code.
pub(super) fn check(sources: &[Source], findings: &mut Findings) {
    for source in sources {
        let path = &source.path;
        if source.size > SIZE_MAX && !path.ends_with("Cargo.lock") {
            findings.error(format!(
                "{path}: {} bytes; at most {SIZE_MAX} are allowed",
                source.size
            ));
            continue;
        }
        let Some(text) = source.text.as_deref().filter(|_| source.is_rust()) else {
            continue;
        };
        lines(path, text, findings);
        if path.contains("/src/") && !text.starts_with("//!") {
            findings.error(format!("{path}: does not begin with its purpose (`//!`)"));
        }
        if path.starts_with("xtask/") {
            continue;
        }
        for mark in PLACEHOLDERS.iter().filter(|m| text.contains(**m)) {
            findings.error(format!("{path}: contains `{mark}`"));
        }
        if text.contains("unsafe {") && !UNSAFE.contains(&source.crate_name()) {
            findings.error(format!(
                "{path}: `unsafe` outside the crate {}",
                UNSAFE.join(", ")
            ));
        }
        instance_names(path, text, findings);
    }
}

fn lines(path: &str, text: &str, findings: &mut Findings) {
    let lines = text.lines().count();
    if lines > LINES.1 {
        findings.error(format!(
            "{path}: {lines} lines; at most {} are allowed",
            LINES.1
        ));
    } else if lines > LINES.0 {
        findings.warning(format!("{path}: {lines} lines; consider splitting it"));
    }
}

fn instance_names(path: &str, text: &str, findings: &mut Findings) {
    let may_know = path.starts_with("examples/")
        || path.starts_with("docs/")
        || path.ends_with("/examples.rs")
        || path.contains("/templates/")
        || path.contains("/tests/");
    if may_know {
        return;
    }
    for name in INSTANCE_NAMES {
        // What copies or lists examples has to name them.
        let used = |line: &str| {
            line.to_lowercase().contains(name) && !line.to_lowercase().contains("example")
        };
        if text.lines().any(used) {
            findings.error(format!(
                "{path}: contains `{name}`, the name of an agent of an example"
            ));
        }
    }
}
