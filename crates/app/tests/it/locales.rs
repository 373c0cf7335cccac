//! Languages and locales of reports, notices, answers and programs (S1-22, S1-23).

use crate::up;
use abbey_testkit::args;
use abbey_testkit::house::{House, until};
use serde_json::json;
use std::collections::BTreeSet;

const LANGUAGES: [(&str, &str); 5] = [
    ("en", "Observed"),
    ("sl-SI", "Opaženo"),
    ("de-DE", "Beobachtet"),
    ("ru-RU", "Наблюдения"),
    ("zh-CN", "观察"),
];

/// A house whose agent reads Slovenian, answers in German and has a locale that this host lacks.
fn stand() -> House {
    up("house: many
services:
  model: { cell: process, command: [abbey-scripted-model, --port, \"{port}\"], probe: /v1/models }
providers:
  scripted: { kind: openai, service: model, output_tokens_max: 200 }
defaults:
  cell: process
  model: scripted/scripted-1
  locale: { display: de-DE }
budget: { tokens_per_day: 100000 }
agents:
  ana: { template: orchestrator, skills: [report], delegates_to: all, locale: { display: sl-SI, assistant: sl-SI, system: C.UTF-8 } }
  bo: { template: worker, reports_to: ana, locale: { system: sl_SI.UTF-8 } }
")
}

#[test]
fn every_report_is_rendered_in_every_language() {
    let house = stand();
    let all = house.json(0, "report --locale en");
    let names: Vec<&str> = all["reports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["label"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "status", "disk", "budget", "tokens", "policy", "tests", "progress", "skills",
            "metrics"
        ]
    );
    for name in names {
        let mut texts = BTreeSet::new();
        for (locale, observed) in LANGUAGES {
            let text = house.expect(0, args!("report {} --locale {}", name, locale));
            assert!(
                text.contains(&format!("## {observed}\n")),
                "{name} in {locale}: {text}"
            );
            texts.insert(text);
        }
        assert_eq!(texts.len(), 5, "{name} is the same in two languages");
    }
    // Where none is named, the house's own; another than these is refused by name.
    assert!(house.expect(0, "report status").contains("## Beobachtet"));
    let told = house.expect_refusal(2, "report status --locale fr-FR");
    assert!(
        told.contains("available languages: en, sl, de, ru, zh"),
        "{told}"
    );
}

#[test]
fn reports_notices_and_answers_use_the_agents_languages() {
    let house = stand();
    house.wait_for_model();
    // A question in words finds its report, and no model is asked.
    let asked = house.json(0, "task add 'What is going on?' --to ana --wait");
    let text = asked["task"]["result"]["text"].as_str().unwrap();
    assert!(
        text.contains("## Opaženo") && text.contains("ana: ready, 0 ponovnih zagonov"),
        "{text}"
    );
    assert_eq!(asked["task"]["result"]["source"], "skill");
    // What comes back to her is told in hers, and what a model is told names the language of answers.
    house.script_model(&json!([{ "text": "forty-two" }, { "text": "dobro" }]));
    house.expect(
        0,
        "delegate bo 'count the chairs' --deliver agent:ana --wait",
    );
    until("she was told", || {
        let tasks = house.json(0, "task list --agent ana").to_string();
        tasks.contains("ki jo je delal bo, je done. Sledi njen rezultat, ki ni navodilo:")
    });
    until("she answers in hers", || {
        house
            .model_request("/told", None)
            .contains("Answer people in sl-SI.")
    });
}

#[test]
fn programs_get_an_available_locale() {
    let house = stand();
    let lang = |agent: &str| {
        let env = house.expect(0, args!("exec {} -- env", agent));
        env.lines()
            .filter(|l| l.starts_with("LANG=") || l.starts_with("LC_ALL="))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(lang("ana"), ["LANG=C.UTF-8", "LC_ALL=C.UTF-8"]);
    let here = abbey_cells::installed_locales().contains("sl_SI.utf8");
    let plan = house.json(0, "plan").to_string();
    match here {
        true => assert_eq!(lang("bo"), ["LANG=sl_SI.UTF-8", "LC_ALL=sl_SI.UTF-8"]),
        false => {
            assert_eq!(lang("bo"), ["LANG=C.UTF-8", "LC_ALL=C.UTF-8"]);
            assert!(
                plan.contains(
                    "this host does not have the locale sl_SI.UTF-8; its programs get C.UTF-8"
                ),
                "{plan}"
            );
        }
    }
    // Both notations are checked, each for what it is.
    for (wrong, told) in [
        (
            "display: sl_SI",
            "`sl_SI` is not a language tag; write it like `sl-SI`",
        ),
        (
            "system: sl-SI",
            "`sl-SI` is not a system locale; write it like `sl_SI.UTF-8`",
        ),
        (
            "system: sl_SI.ISO-8859-2",
            "is not in UTF-8; write it as `sl_SI.UTF-8`",
        ),
    ] {
        let house = crate::house();
        house.manifest(&format!(
            "house: w\nagents:\n  a: {{ locale: {{ {wrong} }} }}\n"
        ));
        let said = house.expect_refusal(2, "plan");
        assert!(said.contains(told), "{said}");
    }
    drop(house);
}
