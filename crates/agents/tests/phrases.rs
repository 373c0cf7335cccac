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
    stock_skills().map(|skill| skill.matching_rule()).collect()
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

/// What became of some phrases.
#[derive(Clone, Copy, Default)]
struct Outcomes {
    /// Phrases that mean a skill: it runs, another one does, it is offered to a model, nothing happens.
    meant: [u32; 4],
    /// Phrases for a model: a skill runs, some are offered, none is.
    for_model: [u32; 3],
}

impl Outcomes {
    fn add(&mut self, phrase: &Phrase, explained: &Explanation) {
        let (got, offered) = (decided(explained), explained.suggestions());
        match (&phrase.skill, got) {
            (Some(meant), Some(got)) => self.meant[usize::from(got != *meant)] += 1,
            (Some(meant), None) => self.meant[3 - usize::from(offered.contains(meant))] += 1,
            (None, Some(_)) => self.for_model[0] += 1,
            (None, None) => self.for_model[2 - usize::from(!offered.is_empty())] += 1,
        }
    }

    /// Part of the phrases that mean a skill which run it.
    fn recall(&self) -> f64 {
        f64::from(self.meant[0]) / f64::from(self.meant.iter().sum::<u32>())
    }
}

fn print_outcomes(title: &str, rows: &BTreeMap<&str, Outcomes>) {
    println!(
        "{title:<18} | {:>7} {:>7} {:>7} {:>9} | {:>7} {:>7} {:>9}",
        "matched", "another", "offered", "unmatched", "matched", "offered", "unmatched"
    );
    let mut all = Outcomes::default();
    let print = |name: &str, row: &Outcomes| {
        let ([a, b, c, d], [e, f, g]) = (row.meant, row.for_model);
        println!("{name:<18} | {a:>7} {b:>7} {c:>7} {d:>9} | {e:>7} {f:>7} {g:>9}");
    };
    for (name, row) in rows {
        print(name, row);
        for (sum, n) in all.meant.iter_mut().zip(row.meant) {
            *sum += n;
        }
        for (sum, n) in all.for_model.iter_mut().zip(row.for_model) {
            *sum += n;
        }
    }
    print("all", &all);
}

/// Prints the confusion table; `cargo xtask corpus` shows it.
#[test]
fn phrases_find_their_skill_and_nothing_changes_by_mistake() {
    let (rules, names, corpus) = (rules(), names(), phrases());
    let rule_of = |skill: &String| rules.iter().find(|r| r.skill == *skill).unwrap();
    let mut by_kind: BTreeMap<&str, Outcomes> = BTreeMap::new();
    let mut by_language: BTreeMap<&str, Outcomes> = BTreeMap::new();
    // Phrases that ran a skill which reads, and one which changes something: right, wrong.
    let (mut read, mut changed, mut wrong) = ([0, 0], [0, 0], String::new());
    for phrase in &corpus {
        let explained = explain(&rules, &phrase.text, Some(&names));
        by_kind
            .entry(&phrase.kind)
            .or_default()
            .add(phrase, &explained);
        by_language
            .entry(&phrase.language)
            .or_default()
            .add(phrase, &explained);
        let got = decided(&explained);
        let is_right = got == phrase.skill;
        if let Some(got) = &got {
            let counts = match rule_of(got).effect {
                Effect::Changes => &mut changed,
                Effect::Reads => &mut read,
            };
            counts[usize::from(!is_right)] += 1;
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
    let precision = |[right, wrong]: [u32; 2]| f64::from(right) / f64::from(right + wrong);
    println!("{} phrases against {} skills", corpus.len(), rules.len());
    println!(
        "{:<18} | {:<33} | phrases for a model",
        "", "phrases that mean a skill"
    );
    print_outcomes("kind", &by_kind);
    print_outcomes("language", &by_language);
    println!(
        "precision of skills that change something: {:.3} over {}",
        precision(changed),
        changed[0] + changed[1]
    );
    println!(
        "precision of skills that only read: {:.3} over {}",
        precision(read),
        read[0] + read[1]
    );
    for kind in ["documented", "plain"] {
        println!("recall on {kind} phrases: {:.3}", by_kind[kind].recall());
        assert!(by_kind[kind].recall() >= 0.95, "{wrong}");
    }
    assert!(corpus.len() >= 300, "{}", corpus.len());
    assert!(changed[0] >= 50, "{changed:?}");
    assert_eq!(changed[1], 0, "{wrong}");
    // What only reads may take one in twenty of the phrases that belong to a model.
    let others = corpus.iter().filter(|p| p.skill.is_none()).count();
    assert!(read[1] as usize * 20 <= others, "{wrong}");
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
