//! Compares what a result claims to have done with what the run's tools did, by kind.
//!
//! The comparison knows English sentences in the first person only. It flags a run; it neither changes nor proves a
//! result. What proves one is declared evidence.

use super::parts::on_one_line;
use abbey_model::Tool;
use regex::Regex;
use std::collections::BTreeSet;
use std::sync::LazyLock;

/// Most claims that are reported of one run, and the longest one in characters.
const CLAIMS_MAX: usize = 8;
const CLAIM_MAX: usize = 80;

/// Kind of a deed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Deed {
    /// A file, note or document was written.
    File,
    /// A program ran, in the cell or at a tool server; it may have done anything but delegate.
    Command,
    /// A subtask was delegated.
    Delegation,
    /// Somebody was sent something.
    Message,
}

use Deed::{Command, Delegation, File, Message};

/// Claims by their verb, and the deeds any of which stands behind them. Tools for files can't delete or move one.
static CLAIMS: LazyLock<Vec<(Regex, &'static [Deed])>> = LazyLock::new(|| {
    const TABLE: [(&str, &[Deed]); 6] = [
        (
            "wrote|written|saved|created|edited|updated|modified|rewrote|rewritten|recorded",
            &[File, Command],
        ),
        (
            "deleted|removed|moved|renamed|copied|cleaned up",
            &[File, Command],
        ),
        (
            "ran|executed|installed|uninstalled|restarted|started|stopped|merged|deployed|committed|pushed|compiled|rebooted|downloaded|uploaded",
            &[Command],
        ),
        ("delegated|assigned", &[Delegation]),
        (
            "sent|emailed|e-mailed|mailed|notified|informed|messaged|posted|published|asked",
            &[Message, Command],
        ),
        ("told", &[Message, Command, Delegation]),
    ];
    let adverbs = "(?:(?:also|then|already|just|now|successfully|subsequently|finally)\\s+)*";
    let sentence = |verbs: &str| {
        // "I wrote", "I have also written", "I've sent", and "I checked the list and deleted".
        format!(
            r"(?i)\b(?:I|we)(?:\s+have|['’]ve)?\s+{adverbs}(?:[a-z-]+ed\s+(?:[\w'’-]+\s+){{0,5}}and\s+{adverbs})?(?:{verbs})\b[^.;!?\n]*"
        )
    };
    let compiled = TABLE
        .iter()
        .filter_map(|(verbs, deeds)| Some((Regex::new(&sentence(verbs)).ok()?, *deeds)));
    // An order to another agent that is only written down.
    let order = Regex::new(r"(?im)^\W*delegate(?:\s+(?:to\s+)?[\w-]+)?\s*:[^\n]*").ok();
    compiled
        .chain(order.map(|r| (r, &[Delegation] as &[Deed])))
        .collect()
});

/// Tool calls of a run that were carried out.
#[derive(Debug, Default)]
pub(super) struct Receipts {
    /// Tool calls in all, also refused ones.
    pub(super) count: u32,
    deeds: BTreeSet<Deed>,
}

impl Receipts {
    /// Counts a tool call; only one that did what was requested is a deed.
    pub(super) fn record(&mut self, tool: &str, arguments: &str, ok: bool) {
        self.count = self.count.saturating_add(1);
        if !ok {
            return;
        }
        let action = serde_json::from_str::<serde_json::Value>(arguments).unwrap_or_default();
        let action = action["action"].as_str().unwrap_or_default();
        match tool.parse::<Tool>() {
            Ok(Tool::WriteFile | Tool::EditFile) => self.deeds.extend([File]),
            Ok(Tool::Memory) if action == "save" => self.deeds.extend([File]),
            Ok(Tool::Document) if matches!(action, "write" | "append") => {
                self.deeds.extend([File, Message]);
            }
            Ok(Tool::Shell | Tool::RunSkillScript) => self.deeds.extend([Command]),
            Ok(Tool::Delegate) => self.deeds.extend([Delegation, Message]),
            Ok(Tool::Ask | Tool::Approval) => self.deeds.extend([Message]),
            // Tools of tool servers; what they do is not known here.
            Err(_) if tool.contains("__") => self.deeds.extend([Command]),
            _ => {}
        }
    }

    /// Claims of a result behind which there is no deed of their kind.
    pub(super) fn unsupported_claims(&self, result: &str) -> Vec<String> {
        let mut found: Vec<(usize, String)> = Vec::new();
        for (claim, deeds) in CLAIMS.iter() {
            if deeds.iter().any(|deed| self.deeds.contains(deed)) {
                continue;
            }
            let matches = claim.find_iter(result).take(CLAIMS_MAX);
            found.extend(matches.map(|m| (m.start(), on_one_line(m.as_str(), CLAIM_MAX))));
        }
        found.sort();
        found.dedup_by_key(|(at, _)| *at);
        found
            .into_iter()
            .map(|(_, text)| text)
            .take(CLAIMS_MAX)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tool, arguments, and whether it did what was requested.
    type Call = (&'static str, &'static str, bool);

    fn after(calls: &[Call], result: &str) -> Vec<String> {
        let mut receipts = Receipts::default();
        for (tool, arguments, ok) in calls {
            receipts.record(tool, arguments, *ok);
        }
        receipts.unsupported_claims(result)
    }

    #[test]
    fn a_claim_needs_a_deed_of_its_kind() {
        let read = ("read_file", "{}", true);
        let wrote = ("write_file", "{}", true);
        let asked = ("ask", "{}", true);
        let delegated = ("delegate", "{}", true);
        let ran = ("shell", "{}", true);
        let table: [(&[Call], &str, usize); 16] = [
            (
                &[read],
                "I deleted the old letters and I sent the new ones.",
                2,
            ),
            (&[wrote], "I created the note.", 0),
            (&[wrote], "I wrote the note. I have also sent it to Bor.", 1),
            (&[("write_file", "{}", false)], "I've written the note.", 1),
            (
                &[wrote, asked],
                "I wrote the note. I have also sent it to Bor.",
                0,
            ),
            (
                &[ran],
                "I ran the tests and I deleted the cache. I emailed Bor.",
                0,
            ),
            (&[asked], "I delegated it to Bor.", 1),
            (&[delegated], "I delegated it to Bor.", 0),
            (&[ran], "I delegated it to Bor.", 1),
            (&[], "DELEGATE webster: fix the site", 1),
            (&[], "DELEGATE: webster fix the site", 1),
            (
                &[("memory", r#"{"action":"list"}"#, true)],
                "I saved it.",
                1,
            ),
            (
                &[("memory", r#"{"action":"save"}"#, true)],
                "I saved it.",
                0,
            ),
            (&[("git__push", "{}", true)], "I pushed the branch.", 0),
            (
                &[],
                "I have not sent anything; I did not run it. Somebody else deleted it.",
                0,
            ),
            (&[read], "I checked the list and deleted two rows.", 1),
        ];
        for (calls, result, claims) in table {
            let found = after(calls, result);
            assert_eq!(found.len(), claims, "{calls:?}: {result}: {found:?}");
        }
        assert_eq!(
            after(&[read], "Done.\nI deleted the old\tletters. Yes."),
            ["I deleted the old letters"]
        );
    }
}
