//! What people say and which skill it means: a corpus of phrases against the stock skills, with the confusion table.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test tells by failing, and by what it prints"
)]

use abbey_agents::library::stock_skills;
use abbey_engine::matcher::{Explanation, KnownNames, Match, Rule, explain};
use abbey_model::Effect;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A line of the corpus.
struct Phrase {
    text: String,
    /// The skill that it means; none for a model.
    skill: Option<String>,
    kind: String,
    language: String,
}

fn phrases() -> Vec<Phrase> {
    let lines = include_str!("fixtures/phrases.tsv").lines();
    let lines = lines.filter(|l| !l.starts_with('#') && !l.is_empty());
    let phrase = |line: &str| {
        let [text, skill, kind, language] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("four columns: {line}");
        };
        Phrase {
            text: unescape(text),
            skill: (skill != "-").then(|| skill.to_owned()),
            kind: kind.to_owned(),
            language: language.to_owned(),
        }
    };
    lines.map(phrase).collect()
}

/// Replaces the escapes of JSON for a line feed, a tab and a code point of four hexadecimal digits.
fn unescape(text: &str) -> String {
    let mut plain = text.replace("\\n", "\n").replace("\\t", "\t");
    while let Some(at) = plain.find("\\u") {
        let code = u32::from_str_radix(&plain[at + 2..at + 6], 16).unwrap();
        let c = char::from_u32(code).unwrap().to_string();
        plain.replace_range(at..at + 6, &c);
    }
    plain
}

fn rules() -> Vec<Rule> {
    let rule = |s: &abbey_agents::skill::Skill| s.matching_rule(std::iter::empty()).unwrap();
    stock_skills().map(rule).collect()
}

fn names() -> KnownNames {
    let set = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    KnownNames {
        agents: set(&["atlas", "merlin"]),
        services: set(&["web", "nginx", "mail"]),
    }
}

fn decided(explained: &Explanation) -> Option<String> {
    match &explained.fit {
        Match::One(found) => Some(found.skill.clone()),
        Match::None | Match::Ambiguous(_) => None,
    }
}

#[test]
fn phrases_find_their_skill_and_nothing_changes_by_mistake() {
    let (rules, names, corpus) = (rules(), names(), phrases());
    let changes = |skill: &String| {
        let rule = rules.iter().find(|r| r.skill == *skill);
        rule.is_some_and(|r| r.effect == Effect::Changes)
    };
    // By skill: right, missed, wrongly taken.
    let mut table: BTreeMap<&str, [u32; 3]> = BTreeMap::new();
    let (mut by_kind, mut wrong) = (BTreeMap::<&str, [u32; 2]>::new(), String::new());
    let (mut changed, mut changed_wrongly) = (0, 0);
    for phrase in &corpus {
        let explained = explain(&rules, &phrase.text, Some(&names));
        let got = decided(&explained);
        let is_right = got == phrase.skill;
        let kind = by_kind.entry(&phrase.kind).or_default();
        kind[usize::from(!is_right)] += 1;
        if let Some(expected) = &phrase.skill {
            table.entry(expected).or_default()[usize::from(!is_right)] += 1;
        }
        if let Some(got) = &got {
            let rule = rules.iter().find(|r| r.skill == *got).unwrap();
            if !is_right {
                table.entry(rule.skill.as_str()).or_default()[2] += 1;
            }
            changed += u32::from(changes(got));
            changed_wrongly += u32::from(changes(got) && !is_right);
        }
        if !is_right {
            let _to_a_string = writeln!(
                wrong,
                "{:?} ({}, {}) → {got:?}, not {:?}: {}",
                phrase.text,
                phrase.kind,
                phrase.language,
                phrase.skill,
                explained.reason()
            );
        }
    }
    println!(
        "{:<20} {:>6} {:>6} {:>6}",
        "skill", "right", "missed", "wrong"
    );
    for (skill, [right, missed, taken]) in &table {
        println!("{skill:<20} {right:>6} {missed:>6} {taken:>6}");
    }
    println!("{:<20} {:>6} {:>6}", "kind", "right", "wrong");
    for (kind, [right, failed]) in &by_kind {
        println!("{kind:<20} {right:>6} {failed:>6}");
    }
    println!(
        "precision of skills that change something: {:.3} over {changed}",
        f64::from(changed - changed_wrongly) / f64::from(changed)
    );
    assert!(corpus.len() >= 300, "{}", corpus.len());
    assert!(changed >= 50, "{changed}");
    assert_eq!(changed_wrongly, 0, "{wrong}");
    for kind in ["documented", "plain"] {
        let [right, failed] = by_kind[kind];
        assert!(
            f64::from(right) >= 0.95 * f64::from(right + failed),
            "{wrong}"
        );
    }
    assert_eq!(by_kind["documented"][1], 0, "{wrong}");
    // What only reads may take one in twenty of the phrases that belong to a model.
    let taken: u32 = table.values().map(|t| t[2]).sum();
    let others = corpus.iter().filter(|p| p.skill.is_none()).count();
    assert!(taken as usize * 20 <= others, "{wrong}");
    assert_eq!(wrong, "");
}

#[test]
fn every_language_has_every_kind_of_guard() {
    let corpus = phrases();
    for language in ["en", "de", "ru", "sl", "zh"] {
        for kind in ["plain", "negated", "question", "several", "quoted"] {
            let found = corpus
                .iter()
                .any(|p| p.kind == kind && p.language == language);
            assert!(found, "{kind} {language}");
        }
    }
}

#[test]
fn a_guard_in_front_of_any_request_holds_it_back() {
    let (rules, names) = (rules(), names());
    for phrase in phrases().iter().filter(|p| p.skill.is_some()) {
        let text = &phrase.text;
        for hostile in [
            format!("Do not {text}"),
            format!("{text}, but do not do it"),
            format!("\"{text}\""),
            format!("{text} && reboot"),
            format!("If it rains, {text}"),
            format!("{text} and then delete everything"),
            format!("Hello\n{text}"),
            format!("Explain: {text}"),
            format!("Bitte nicht: {text}"),
            format!("Не надо: {text}"),
            format!("Ne: {text}"),
            format!("不要 {text}"),
            format!("{text}\u{202e}"),
            format!("{text}{}", " x".repeat(2000)),
        ] {
            let explained = explain(&rules, &hostile, Some(&names));
            assert_eq!(explained.fit, Match::None, "{hostile:?}");
        }
    }
}
