//! Front matter of skills as public collections have it: it loads, or says why not.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use abbey_agents::skill::parse_skill;

#[test]
fn public_skills_load_or_say_why() {
    let text = include_str!("fixtures/public-skills.txt");
    let mut count = 0;
    for entry in text.split("\n== ").skip(1) {
        let (head, front) = entry.split_once('\n').unwrap();
        let (name, expected) = head.split_once(": ").unwrap();
        let skill = format!("---\n{front}\n---\n\n# Bees\n");
        let outcome = match parse_skill(name, &skill, None) {
            Ok(skill) => format!("ok {}", skill.warnings.len()),
            Err(invalid) => format!("refused {}", invalid.mistakes.join("; ")),
        };
        let as_expected = match expected.strip_prefix("refused ") {
            Some(words) => outcome.starts_with("refused ") && outcome.contains(words),
            None => outcome == expected,
        };
        assert!(
            as_expected,
            "{name}: expected {expected}, but it is {outcome}"
        );
        count += 1;
    }
    assert!(count >= 40, "only {count} skills");
}
