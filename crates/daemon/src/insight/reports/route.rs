//! Matches questions in words to the report that answers them, so that no model is asked (S4-31).

use abbey_engine::matcher::{self, Rule};
use std::sync::OnceLock;

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
            r"how many tokens (did|have) .*(use|used|take|taken|spend|spent)",
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

fn question_rules() -> &'static [Rule] {
    static RULES: OnceLock<Vec<Rule>> = OnceLock::new();
    RULES.get_or_init(|| {
        let rule = |(name, patterns): &(&str, &[&str])| {
            let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
            // The test compiles each of them.
            Rule::new(name, &patterns).ok()
        };
        QUESTIONS.iter().filter_map(rule).collect()
    })
}

/// Name of the report that answers a question; `None` if no report or more than one matches.
pub(crate) fn report_for_question(text: &str) -> Option<String> {
    let mut found = matcher::score_skills(question_rules(), text);
    found.retain(|c| c.score >= matcher::THRESHOLD);
    found.sort_by_key(|c| std::cmp::Reverse(c.score));
    match found.as_slice() {
        [one] => Some(one.skill.clone()),
        [best, next, ..] if best.score >= next.score + matcher::AMBIGUITY => {
            Some(best.skill.clone())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_find_their_report_and_other_words_none() {
        assert_eq!(
            question_rules().len(),
            QUESTIONS.len(),
            "every pattern compiles"
        );
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
