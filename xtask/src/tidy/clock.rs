//! Clocks, timers, randomness and tasks of `daemon` and `store` go through one seam, so that a test can control them.

use super::findings::Findings;
use super::sources::Source;

/// Crates that are held to the rule.
const CRATES: &[&str] = &["daemon", "store"];
/// The seam itself: files that may call these.
const SEAM: &[&str] = &[
    "crates/store/src/clock.rs",
    "crates/store/src/entropy.rs",
    "crates/daemon/src/core/clock.rs",
    "crates/daemon/src/core/runtime.rs",
];
/// Calls that only the seam may make.
const CALLS: &[&str] = &[
    "SystemTime::now",
    "Instant::now",
    "Timestamp::now",
    "Zoned::now",
    "tokio::time::",
    "tokio::spawn",
    "task::spawn",
    "spawn_blocking",
    "thread::spawn",
    "thread::sleep",
    "getrandom::",
    "Uuid::now_v7",
    "Uuid::new_v4",
];

/// Reports calls of clocks, timers, randomness and task spawning in `daemon` and `store` outside the files that may
/// make them.
pub(super) fn check(sources: &[Source], findings: &mut Findings) {
    for source in sources
        .iter()
        .filter(|s| s.is_rust() && CRATES.contains(&s.crate_name()))
    {
        let text = source.text.as_deref().unwrap_or_default();
        let tests = !source.path.contains("/src/") || source.path.ends_with("tests.rs");
        if tests || SEAM.contains(&source.path.as_str()) {
            continue;
        }
        for (line, call) in calls(text) {
            findings.error(format!(
                "{}:{line}: `{call}` outside the clock and task seam ({})",
                source.path,
                SEAM.join(", ")
            ));
        }
    }
}

/// Lines with such a call, up to the tests at the end of the file.
fn calls(text: &str) -> Vec<(usize, &'static str)> {
    let code = text.lines().enumerate();
    let code = code.take_while(|(_, line)| line.trim() != "#[cfg(test)]");
    code.filter(|(_, line)| !line.trim_start().starts_with("//"))
        .flat_map(|(n, line)| {
            let found = CALLS.iter().filter(move |call| line.contains(**call));
            found.map(move |call| (n + 1, *call))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_outside_the_seam_are_errors_and_tests_are_free() {
        let text = "fn wait() {\n    // tokio::spawn in a comment\n    tokio::time::sleep(x);\n}\n#[cfg(test)]\nmod tests { fn t() { tokio::spawn(x); } }\n";
        assert_eq!(calls(text), [(3, "tokio::time::")]);
        let source = |path: &str| Source {
            path: path.to_owned(),
            text: Some(text.to_owned()),
            size: 0,
        };
        let sources = [
            source("crates/daemon/src/work/wait.rs"),
            source("crates/store/src/clock.rs"),
            source("crates/daemon/src/work/wait_tests.rs"),
            source("crates/app/src/wait.rs"),
        ];
        let mut findings = Findings::default();
        check(&sources, &mut findings);
        assert_eq!(findings.errors.len(), 1, "{:?}", findings.errors);
        assert!(findings.errors[0].starts_with("crates/daemon/src/work/wait.rs:3:"));
    }
}
