//! Matches questions in words to the report that answers them, so that no model is asked (S4-31).

use regex::{Regex, RegexBuilder};
use std::sync::OnceLock;

/// Distance, in thousandths of the question, below which two reports are equally near.
const AMBIGUITY: usize = 120;

/// Regular expressions of questions, by report.
const QUESTIONS: [(&str, &[&str]); 9] = [
    (
        "status",
        &[
            r"(what is|what's) (going on|happening|the (status|state)( of (the house|things|everything))?)",
            r"how (is|are) (it|things|everything|everybody|the (house|agents?|wizards?))( going| doing)?",
            r"(who|which agents?) (is|are) (up|down|dead|alive|working|busy|idle)",
            r"what (is|are|do) (waiting|we wait)( for( me| us)?)?",
        ],
    ),
    (
        "disk",
        &[
            r"how (full|big) (is|are) (the |our )?(disks?|volumes?|file ?systems?)",
            r"how much (disk )?(space|room) is (left|free)( on (the |our )?(disks?|volumes?))?",
            r"(is|are) (the |our )?(disks?|volumes?) (getting )?full",
            r"(disk|free) (usage|space)",
        ],
    ),
    (
        "budget",
        &[
            r"how much (budget|money) (is|do we have) left( today)?",
            r"(what|how much) (did|have) (we|they|it) (spent?|used?|cost)( so far)?( today)?( of (the |our )?budgets?)?",
            r"(are|is) (we|the budgets?|any budgets?) (within|above|over|used up|exhausted)( (the )?(budget|limits?))?",
        ],
    ),
    (
        "tokens",
        &[
            r"how many tokens (did|have|were|was) .*(use|used|take|taken|spend|spent)",
            r"how many tokens (were|was) (used|taken|spent)",
            r"(which|what) (agents?|models?) (uses?|used|takes?|took) (the )?(most )?tokens",
            r"tokens? (usage|by agent|by model)",
            r"(who|which (agent|model)) (has |have )?(spent|spends|used|uses) (the )?most( tokens| money)?( today)?",
        ],
    ),
    (
        "policy",
        &[
            r"(who|which agents?) (may|can|is allowed to) (do|reach|run|delegate|write|use) .*",
            r"what (may|can|is) .* (do|allowed to do|reach|run)",
            r"what (stands|is) open",
        ],
    ),
    (
        "tests",
        &[
            r"(do|did|are|were) (all )?(the )?(tests?|checks?) (pass|passed|good|fine|green)",
            r"(what|which) (tests?|checks?) (fail|failed|are failing)",
            r"(is|are) (the )?(results?|work|house) (verified|proved|healthy|sound)",
        ],
    ),
    (
        "progress",
        &[
            r"what (was|has been|got|did (we|they)|have (we|they)) (done|do|finished?|completed?|achieved?)( today| yesterday| since yesterday)?",
            r"how (much|far) (is|are|have) (we|they|work|done)( come| along| done)?( today)?",
            r"(any|what) progress( is there)?( today)?",
        ],
    ),
    (
        "skills",
        &[
            r"(what|how much) do (the |our )?skills? cost",
            r"(which|what) skills? (costs?|is|are) (the )?(most|more|expensive|slow|too much)( .*)?",
        ],
    ),
    (
        "metrics",
        &[
            r"(do|are) we (meet|meeting|reach|reaching|hitting) (the |our )?(targets?|goals?|aims?)",
            r"(what|how) (is|are|was|were) (the |our )?(uptime|completion( rate)?|metrics?|numbers)( today)?",
            r"how often did (we|i|somebody|anybody|a person) (have to )?(step in|intervene)",
        ],
    ),
];

/// Reports with the compiled expressions of their questions.
fn question_rules() -> &'static [(&'static str, Vec<Regex>)] {
    static RULES: OnceLock<Vec<(&'static str, Vec<Regex>)>> = OnceLock::new();
    RULES.get_or_init(|| {
        let compile = |text: &&str| RegexBuilder::new(text).case_insensitive(true).build();
        let rule = |(name, patterns): &(&'static str, &[&str])| {
            // The test compiles each of them.
            (
                *name,
                patterns
                    .iter()
                    .map(compile)
                    .filter_map(Result::ok)
                    .collect(),
            )
        };
        QUESTIONS.iter().map(rule).collect()
    })
}

/// Name of the report that answers a question; `None` if no report or more than one matches.
pub(crate) fn report_for_question(text: &str) -> Option<String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let text = words.join(" ");
    let share = |pattern: &Regex| {
        let found = pattern.find(&text).filter(|m| !m.is_empty())?;
        Some(found.len() * 1000 / text.len())
    };
    let best = |(name, patterns): &(&'static str, Vec<Regex>)| {
        Some((patterns.iter().filter_map(share).max()?, *name))
    };
    let mut found: Vec<(usize, &str)> = question_rules().iter().filter_map(best).collect();
    found.sort_by_key(|(share, _)| std::cmp::Reverse(*share));
    match found.as_slice() {
        [(_, one)] => Some((*one).to_owned()),
        [(best, name), (next, _), ..] if *best >= next + AMBIGUITY => Some((*name).to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_find_their_report_and_other_words_none() {
        for ((_, compiled), (name, patterns)) in question_rules().iter().zip(QUESTIONS) {
            assert_eq!(
                compiled.len(),
                patterns.len(),
                "every pattern of {name} compiles"
            );
        }
        for (question, report) in [
            ("How full are the disks?", "disk"),
            ("how much space is left", "disk"),
            ("What is going on?", "status"),
            ("how are things going", "status"),
            ("what did we spend today?", "budget"),
            ("Which agent used the most tokens?", "tokens"),
            ("who spent most today", "tokens"),
            ("which agent has used the most today?", "tokens"),
            ("who may reach the internet?", "policy"),
            ("did all checks pass?", "tests"),
            ("what was done today?", "progress"),
            ("How many tokens were used today?", "tokens"),
            ("How is the house doing?", "status"),
            ("Which skill costs most", "skills"),
            ("what do skills cost", "skills"),
            ("do we meet our targets?", "metrics"),
        ] {
            assert_eq!(
                report_for_question(question).as_deref(),
                Some(report),
                "{question}"
            );
        }
        for other in [
            "write a poem about disks in autumn",
            "delete everything",
            "",
            "space opera",
        ] {
            assert_eq!(report_for_question(other), None, "{other}");
        }
    }
}
