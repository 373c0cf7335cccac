//! Matching as a whole: whole requests, guards, names, explanations, and bounds for any text.

use super::*;
use proptest::prelude::*;

fn rule(name: &str, effect: Effect, patterns: &[&str]) -> Rule {
    let patterns = patterns.iter().map(|p| Pattern::compile(p).unwrap());
    Rule {
        effect,
        ..Rule::new(name, patterns.collect()).found_by(name)
    }
}

fn rules() -> Vec<Rule> {
    vec![
        rule(
            "disk-usage",
            Effect::Reads,
            &["(how much )?(free )?disk (space|usage)( is (there|free|left))?"],
        ),
        rule(
            "git-merge",
            Effect::Changes,
            &["merge (the )?(branch )?{source:branch} into {target:branch} in {repository:path}"],
        ),
        rule(
            "service-restart",
            Effect::Changes,
            &["restart (the )?service {service}"],
        ),
        rule(
            "log-search",
            Effect::Reads,
            &[
                "search the logs for {query:text}",
                "search the logs for {query:quoted}",
            ],
        ),
    ]
}

fn names() -> KnownNames {
    KnownNames {
        agents: BTreeSet::new(),
        services: ["web".to_owned(), "never".to_owned()].into(),
    }
}

fn decided(text: &str) -> Option<String> {
    match explain(&rules(), text, Some(&names())).fit {
        Match::One(found) => Some(found.skill),
        _ => None,
    }
}

#[test]
fn words_that_can_be_anything_run_no_skill_that_changes_something() {
    let patterns = [
        "close the gate( of {place:text})?",
        "close the gate named {place:quoted}",
        "zapri vrata( (?P<place>.+))?",
        "merge {source:branch} into main",
    ];
    let changing = [rule("gate", Effect::Changes, &patterns)];
    let reading = [rule("gate", Effect::Reads, &patterns)];
    let runs = |rules: &[Rule], text: &str| matches!(explain(rules, text, None).fit, Match::One(_));
    for text in [
        "close the gate",
        "zapri vrata",
        "close the gate named \"koper tomorrow\"",
        "merge fix-2 into main",
        "merge topic into main",
    ] {
        assert!(runs(&changing, text), "{text}");
    }
    for text in [
        "close the gate of koper",
        "close the gate of koper someday",
        "close the gate of koper & open piran",
        "close the gate of koper would be wrong",
        "zapri vrata jutri",
        "zapri vrata čez eno uro",
        "merge tomorrow into main",
    ] {
        assert!(!runs(&changing, text), "{text}");
    }
    assert!(runs(&reading, "close the gate of koper"));
    let held = explain(&changing, "close the gate of koper", None);
    assert!(
        held.reason().contains("takes any words"),
        "{}",
        held.reason()
    );
    assert_eq!(held.suggestions(), ["gate"]);
}

#[test]
fn a_request_finds_its_skill_with_arguments() {
    let explained = explain(&rules(), "How much free disk space is there?", None);
    assert!(
        matches!(&explained.fit, Match::One(c) if c.skill == "disk-usage" && c.score == SCORE_MAX)
    );
    let Match::One(c) = explain(&rules(), "Merge branch topic into main in demo", None).fit else {
        panic!()
    };
    assert_eq!(
        (&c.args["source"], &c.args["repository"]),
        (&"topic".into(), &"demo".into())
    );
}

#[test]
fn nothing_is_guessed() {
    for text in [
        "",
        "write a poem about winter",
        "write about disk space",
        "Do not restart the service web",
        "Should we restart service web",
        "restart service web?",
        "Okay, restart service web?",
        "restart service web if it hangs",
        "restart service mail",
        "restart service web; reboot",
        &format!("restart service web{}", " ".repeat(TEXT_MAX)),
        "Search the logs for errors and write a poem",
    ] {
        assert_eq!(decided(text), None, "{text}");
    }
    assert_eq!(
        decided("Restart the service WEB, please").as_deref(),
        Some("service-restart")
    );
    // A name is no negation.
    assert_eq!(
        decided("restart service never").as_deref(),
        Some("service-restart")
    );
    assert_eq!(
        decided("Search the logs for \"do not restart\"").as_deref(),
        Some("log-search")
    );
    let twice = [
        rules().remove(0),
        rule("df", Effect::Reads, &["disk space"]),
    ];
    assert!(matches!(explain(&twice, "disk space", None).fit, Match::Ambiguous(c) if c.len() == 2));
}

#[test]
fn the_explanation_says_what_held_a_skill_back_and_suggests_it() {
    for (text, score, guard) in [
        ("restart service web?", HELD_BACK, "question"),
        ("Don't restart service web", 160, "negation"),
    ] {
        let explained = explain(&rules(), text, Some(&names()));
        let best = &explained.considered[0];
        assert_eq!(
            (best.skill.as_str(), best.score),
            ("service-restart", score)
        );
        assert_eq!(best.held_back_by[0].guard.name(), guard);
        assert!(best.reason().contains(guard), "{}", best.reason());
        assert_eq!(explained.suggestions(), ["service-restart"]);
    }
    let explained = explain(&rules(), "restart service mail", Some(&names()));
    assert!(
        explained.reason().contains("no service `mail`"),
        "{}",
        explained.reason()
    );
    let explained = explain(&rules(), "a poem on disk space", None);
    assert_eq!(explained.suggestions(), ["disk-usage"]);
    assert!(
        explained.reason().contains("words disk"),
        "{}",
        explained.reason()
    );
    assert_eq!(
        explain(&rules(), "compose a riddle", None).reason(),
        "no skill matches"
    );
}

#[test]
fn a_skill_is_named_by_its_name() {
    let named = |text: &str| match explain(&rules(), text, None).fit {
        Match::One(c) if c.score >= SCORE_MAX => Some((c.skill, c.args.len())),
        _ => None,
    };
    assert_eq!(named("disk-usage"), Some(("disk-usage".to_owned(), 0)));
    assert_eq!(
        named("Please run the skill git-merge source=a target=b"),
        Some(("git-merge".to_owned(), 2))
    );
    assert_eq!(
        named("Run skill no-such-skill"),
        Some(("no-such-skill".to_owned(), 0))
    );
    for other in [
        "poem",
        "run skill disk-usage and sing",
        "do not run skill disk-usage",
        "run skill ../x",
        "why run skill disk-usage",
    ] {
        assert_eq!(named(other), None, "{other}");
    }
}

#[test]
fn a_pattern_may_have_courtesies_of_its_own() {
    let rules = [rule(
        "bell",
        Effect::Changes,
        &["please ring {times:number} times now"],
    )];
    let found = explain(&rules, "Please ring 3 times now!", None).fit;
    assert!(matches!(found, Match::One(c) if c.args["times"] == "3"));
}

#[test]
fn the_time_is_bounded_whatever_the_text() {
    let rules = rules();
    let texts = [
        "a ".repeat(200_000),
        "restart ".repeat(50_000),
        "\"' ".repeat(100_000),
        "和重".repeat(100_000),
        "=".repeat(1 << 20),
    ];
    for text in texts {
        let explained = explain(&rules, &text, Some(&names()));
        assert!(explained.request.len() <= TEXT_MAX);
    }
}

proptest! {
    #[test]
    fn any_text_is_explained_the_same_way_twice(text in any::<String>()) {
        let (rules, names) = (rules(), names());
        let explained = explain(&rules, &text, Some(&names));
        prop_assert_eq!(&explained, &explain(&rules, &text, Some(&names)));
        let _is_text = explained.reason();
    }

    #[test]
    fn a_guard_anywhere_holds_back_what_changes(
        before in "[a-zа-я\u{4e00}-\u{4e10} ,.]{0,20}",
        guard in prop::sample::select(vec!["not", "don't", "nicht", "не", "nikar", "不要", "if", "falls", "если", "če", "如果"]),
        after in "[a-z ]{0,20}",
    ) {
        let text = format!("{before} {guard} {after} web");
        let loose = [rule("service-restart", Effect::Changes, &["(?P<any>.*) {service}"])];
        let explained = explain(&loose, &text, Some(&names()));
        prop_assert_eq!(&explained.fit, &Match::None, "{}", text);
    }
}
