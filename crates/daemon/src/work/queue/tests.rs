//! The work queue as a pure function of a file and the tasks: what it requests, and what becomes of its bytes.

use super::document::{Document, Place, QueueItem, Source, parse_document};
use super::edits::{Outcome, Shown, TextEdit, apply_edits, revise};
use super::merge::{Merge, QueueEdit, merge_items};
use super::text::{QueueEntry, TaskFields, normalize_text};
use abbey_model::{Priority, TaskState};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn task(number: u64, text: &str, state: TaskState) -> QueueEntry {
    QueueEntry {
        number,
        fields: TaskFields {
            priority: Priority::P2,
            assignee: None,
            text: normalize_text(text),
        },
        state,
        holder: None,
    }
}

fn parse(text: &str) -> Document {
    parse_document(&Source::new(text, &[]))
}

/// A house that only remembers tasks.
#[derive(Debug, Default, Clone)]
struct Tasks(BTreeMap<u64, QueueEntry>);

/// What came of a synchronisation.
#[derive(Debug)]
struct Synced {
    text: String,
    edits: Vec<TextEdit>,
    /// Numbers and texts of tasks that were added.
    added: Vec<(u64, String)>,
    changed: Vec<String>,
    conflicts: Vec<String>,
}

impl Tasks {
    fn of(tasks: &[QueueEntry]) -> Tasks {
        Tasks(tasks.iter().map(|t| (t.number, t.clone())).collect())
    }

    fn sync(&mut self, text: &str) -> Synced {
        self.sync_source(text, &[])
    }

    /// Applies what a file requests, and revises it; no line is a repetition.
    fn sync_source(&mut self, text: &str, undecoded: &[usize]) -> Synced {
        let source = Source::new(text, undecoded);
        let document = parse_document(&source);
        let Merge {
            edits,
            conflicts,
            kept,
        } = merge_items(&document, &self.0);
        let mut outcome = Outcome {
            kept,
            ..Outcome::default()
        };
        for (index, item) in document.items.iter().enumerate() {
            outcome.numbers.extend(item.number.map(|n| (index, n)));
        }
        let (mut added, mut changed) = (Vec::new(), Vec::new());
        for (index, edit) in edits {
            outcome.settled.insert(index);
            match edit {
                QueueEdit::Add(fields, _) | QueueEdit::Again(_, fields) => {
                    let number = self.0.keys().last().map_or(1, |n| n + 1);
                    let mut new = task(number, "", TaskState::Ready);
                    added.push((number, fields.text.clone()));
                    new.fields = fields;
                    self.0.insert(number, new);
                    outcome.numbers.insert(index, number);
                }
                QueueEdit::Edit(number, fields) => {
                    changed.push(format!("TASK-{number}: {}", fields.text));
                    self.0.get_mut(&number).unwrap().fields = fields;
                }
                QueueEdit::Cancel(number) => {
                    changed.push(format!("TASK-{number} cancelled"));
                    self.0.get_mut(&number).unwrap().state = TaskState::Cancelled;
                }
                QueueEdit::Retry(number) => {
                    changed.push(format!("TASK-{number} again"));
                    self.0.get_mut(&number).unwrap().state = TaskState::Ready;
                }
            }
        }
        let line = |index: usize| &document.items[index];
        outcome.settled.extend(conflicts.iter().map(|c| c.item));
        let conflicts = conflicts
            .iter()
            .map(|c| format!("{}: {}", line(c.item).line, c.why))
            .chain(
                document
                    .unclear
                    .iter()
                    .map(|u| format!("{}: {}", u.line, u.why)),
            )
            .collect();
        let (open, ended): (Vec<QueueEntry>, Vec<QueueEntry>) = self
            .0
            .values()
            .cloned()
            .partition(|t| !t.state.is_terminal());
        let ended = ended.into_iter().rev().take(50);
        let listed: Vec<QueueEntry> = open.into_iter().chain(ended).collect();
        let shown = Shown {
            house: "h",
            writer: "0a1b2c3d",
            newest: self.0.keys().last().copied().unwrap_or(0),
            tasks: &self.0,
            listed: &listed,
        };
        let edits = revise(&source, &document, &outcome, &shown);
        Synced {
            text: apply_edits(text, &edits),
            edits,
            added,
            changed,
            conflicts,
        }
    }
}

fn texts(items: &[QueueItem]) -> Vec<&str> {
    items.iter().map(|i| i.fields.text.as_str()).collect()
}

#[test]
fn what_people_write_is_understood() {
    let text = "# Ours\n\nSome prose.\n\n- not a task\n  - [ ] below a plain one\n- [ ] Bake bread\n- [ ] (p0, mason) Bake more\n  of it\n\n* [ ] (urgent) mend the oven\n\n```\n- [ ] in a block\n```\n> - [ ] quoted\n\n1. [ ] numbered\n2) [x] over\n- [X] TASK-7: (P3, -, retry) Sweep\n- [ ] TASK-003: theirs\n- [-] other\n- [1] a reference\n- [](https://bells.example) a link\n";
    let document = parse(text);
    let short: Vec<_> = document
        .items
        .iter()
        .map(|i| {
            let f = &i.fields;
            (
                i.line,
                i.number,
                f.priority,
                f.assignee.as_deref(),
                f.text.as_str(),
                i.state.as_deref(),
            )
        })
        .collect();
    assert_eq!(
        short,
        [
            (6, None, Priority::P2, None, "below a plain one", None),
            (7, None, Priority::P2, None, "Bake bread", None),
            (
                8,
                None,
                Priority::P0,
                Some("mason"),
                "Bake more\nof it",
                None
            ),
            (11, None, Priority::P2, None, "(urgent) mend the oven", None),
            (18, None, Priority::P2, None, "numbered", None),
            (20, Some(7), Priority::P3, None, "Sweep", Some("retry")),
            (21, None, Priority::P2, None, "TASK-003: theirs", None),
        ]
    );
    assert!(document.unclear.is_empty(), "{:?}", document.unclear);
}

#[test]
fn attributes_are_understood_or_reported_with_their_line() {
    for (line, why) in [
        ("(P9, nobody) Sweep", "`P9` is no priority"),
        ("(nobody, P1) Sweep", "`nobody` is no priority"),
        ("(P1 nobody) Sweep", "`P1 nobody` is no priority"),
        ("(P1, a, ready, now) Sweep", "more than a priority"),
        ("", "no text on its line"),
    ] {
        let document = parse(&format!("x\r\n\r\n- [ ] {line}\r\n"));
        assert!(document.items.is_empty(), "{line}");
        let unclear = &document.unclear[0];
        assert_eq!(unclear.line, 3);
        assert!(unclear.why.contains(why), "{}", unclear.why);
    }
    for (line, indent, why) in [
        ("- [] Sweep", "  ", "`[]` is no box"),
        ("12. [~] Sweep", "    ", "`[~]` is no box"),
        ("* [?]\tSweep", "  ", "`[?]` is no box"),
    ] {
        let document = parse(&format!("x\n\n{line}\n{indent}- [ ] Oil\n"));
        let unclear = &document.unclear[0];
        assert!(unclear.why.contains(why), "{}", unclear.why);
        // It is no task, so what is below it is not part of it.
        assert_eq!(texts(&document.items), ["Oil"], "{line}");
    }
    let document = parse("- [ ] (P2P mesh) and (P9)\n- [ ] (p3) low\n- [x] (P9) over\n");
    assert_eq!(texts(&document.items), ["(P2P mesh) and (P9)", "low"]);
}

/// Notes belong to people alone, whichever way their heading is written.
#[test]
fn notes_are_private() {
    for heading in [
        "## Notes",
        "## Notes ",
        "## Notes ##",
        "# notes",
        "Notes\n-----",
        "## Notes:",
    ] {
        for eol in ["\n", "\r\n", "\r"] {
            let text =
                format!("- [ ] Sweep\n\n{heading}\n\n- [ ] private\n\n# More\n\n- [ ] too\n");
            let text = text.replace('\n', eol);
            assert_eq!(texts(&parse(&text).items), ["Sweep"], "{text:?}");
            let mut tasks = Tasks::of(&[task(4, "of the house", TaskState::Ready)]);
            let synced = tasks.sync(&text);
            let notes = &text[text.find("otes").unwrap()..];
            assert!(synced.text.ends_with(notes), "{:?}", synced.text);
            assert!(synced.text.contains("**TASK-4**"), "{:?}", synced.text);
        }
    }
    let text = "- [ ] a\n\n### Notes\n\n- [ ] private\n\n## More\n\n- [ ] b\n";
    assert_eq!(texts(&parse(text).items), ["a", "b"]);
}

#[test]
fn only_marks_change() {
    let text = "\u{feff}---\ntitle: x\nitems: y\n---\r\n# Week\r\n* [ ]  (P1) Sweep  \r\n   the yard\r\nlazy\n\n1. [ ] light\n\nEnd";
    let mut tasks = Tasks::default();
    let synced = tasks.sync(text);
    let (sweep, light) = (&tasks.0[&1].fields, &tasks.0[&2].fields);
    assert_eq!(sweep.text, "Sweep\n the yard\nlazy");
    let expected = format!(
        "\u{feff}---\ntitle: x\nitems: y\n---\r\n# Week\r\n* [ ]  **TASK-1** (P1, -, ready) Sweep <!-- {} ready -->  \r\n   the yard\r\nlazy\n\n1. [ ] **TASK-2** (P2, -, ready) light <!-- {} ready -->\n\nEnd\n\n<!-- abbey 2.0a1b2c3d. ",
        sweep.digest(),
        light.digest()
    );
    assert_eq!(
        &synced.text[..expected.len()],
        expected,
        "{:#?}",
        synced.text
    );
    assert_eq!(tasks.sync(&synced.text).edits, []);
}

/// Every edit of a line as the house wrote it, and what comes of it.
#[test]
fn each_edit_is_done_or_reported() {
    let before = || {
        Tasks::of(&[
            task(1, "bake", TaskState::Ready),
            task(2, "sweep", TaskState::Failed),
            task(3, "sing", TaskState::Running),
        ])
    };
    let written = before().sync("").text;
    for (from, to, changed, why, kept) in [
        ("bake", "bake", "", "", true),
        ("bake", "bake bread", "TASK-1: bake bread", "", true),
        (
            "(P2, -, ready)",
            "(P0, mason, ready)",
            "TASK-1: bake",
            "",
            true,
        ),
        (
            "(P2, -, ready)",
            "(P2, -, cancelled)",
            "TASK-1 cancelled",
            "",
            true,
        ),
        (
            "(P2, -, ready)",
            "(P7, -, ready)",
            "",
            "`P7` is no priority",
            true,
        ),
        (
            "- [ ] **TASK-1",
            "- [x] **TASK-1",
            "",
            "only the agent that holds",
            false,
        ),
        ("sing", "sing loud", "", "it is running", false),
        (
            "(P2, -, running)",
            "(P2, -, cancelled)",
            "TASK-3 cancelled",
            "",
            true,
        ),
        (
            "(P2, -, running)",
            "(P2, -, done)",
            "",
            "the only state that can be written here now is `cancelled`",
            false,
        ),
        (
            "(P2, -, failed)",
            "(P2, -, retry)",
            "TASK-2 again",
            "",
            false,
        ),
        (
            "- [x] **TASK-2",
            "- [ ] **TASK-2",
            "",
            "write `retry`",
            false,
        ),
        ("**TASK-1**", "**TASK-9**", "", "there is no TASK-9", true),
        ("**TASK-2**", "**TASK-1**", "", "is listed twice", true),
        ("# Work", "# Our work", "", "", true),
    ] {
        assert!(written.contains(from), "{written}");
        let edited = written.replacen(from, to, 1);
        let mut tasks = before();
        let synced = tasks.sync(&edited);
        assert_eq!(synced.changed.join(" "), changed, "{to}");
        let told = synced.conflicts.join(" ");
        assert!(
            told.contains(why) && told.is_empty() == why.is_empty(),
            "{to}: {told}"
        );
        assert_eq!(synced.text.contains(to), kept, "{to}: {}", synced.text);
        assert_eq!(tasks.sync(&synced.text).edits, [], "{to}");
    }
}

#[test]
fn a_task_that_is_done_is_done_again_as_another_one() {
    let mut tasks = Tasks::of(&[task(7, "bake", TaskState::Done)]);
    let written = tasks.sync("").text;
    let edited = written.replacen("(P2, -, done) bake", "(P1, -, retry) bake rye", 1);
    let synced = tasks.sync(&edited);
    assert!(
        synced.conflicts.is_empty() && synced.changed.is_empty(),
        "{synced:?}"
    );
    assert_eq!(synced.added, [(8, "bake rye".to_owned())]);
    assert_eq!(tasks.0[&7].state, TaskState::Done);
    assert!(
        synced
            .text
            .contains("- [ ] **TASK-8** (P1, -, ready) bake rye")
    );
    assert!(!synced.text.contains("TASK-7"), "{}", synced.text);
    assert_eq!(tasks.sync(&synced.text).edits, []);
    // A stray word is told what it can be.
    let refused = tasks.sync(&written.replacen("done) bake", "nearly) bake", 1));
    assert_eq!(refused.added, []);
    assert!(
        refused.conflicts[0].contains("now is `retry`"),
        "{refused:?}"
    );
}

/// The house's side moved on: a line that nobody edited is only old; one that was edited is reported.
#[test]
fn an_old_line_is_no_request() {
    let written = Tasks::of(&[task(1, "bake", TaskState::Ready)])
        .sync("")
        .text;
    let moved = || Tasks::of(&[task(1, "bake rye", TaskState::Done)]);
    let synced = moved().sync(&written);
    assert!(
        synced.conflicts.is_empty() && synced.changed.is_empty(),
        "{synced:?}"
    );
    assert!(
        synced
            .text
            .contains("- [x] **TASK-1** (P2, -, done) bake rye <!--")
    );
    let synced = moved().sync(&written.replace("bake", "bake wheat"));
    assert!(
        synced.conflicts[0].contains("in the file and in the house"),
        "{synced:?}"
    );
    assert!(synced.text.contains(") bake rye <!--"));
    // Without the comment it may be another system's number.
    let foreign = "- [ ] **TASK-1** (P2, -, cancelled) bake wheat\n";
    let mut tasks = Tasks::of(&[task(1, "bake rye", TaskState::Ready)]);
    let synced = tasks.sync(foreign);
    assert!(synced.text.contains(foreign), "{}", synced.text);
    assert!(
        synced.conflicts[0].contains("comment at the end"),
        "{synced:?}"
    );
    assert_eq!(tasks.0[&1].state, TaskState::Ready);
}

#[test]
fn ended_tasks_leave_only_by_the_houses_own_lines() {
    let mut tasks = Tasks::default();
    let many: String = (0..60).map(|n| format!("- [ ] mine {n}\n")).collect();
    let text = tasks.sync(&many).text;
    for n in 61..=120 {
        tasks
            .0
            .insert(n, task(n, &format!("theirs {n}"), TaskState::Ready));
    }
    let text = tasks.sync(&text).text;
    assert_eq!(text.matches("**TASK-").count(), 120);
    tasks.0.values_mut().for_each(|t| t.state = TaskState::Done);
    let text = tasks.sync(&text).text;
    assert_eq!(text.matches(") mine ").count(), 60, "{text}");
    assert_eq!(text.matches(") theirs ").count(), 50, "{text}");
    assert!(!text.contains("TASK-61") && text.contains("TASK-120"));
    // What people clear away stays away; what is open comes back.
    tasks.0.insert(121, task(121, "open", TaskState::Ready));
    let text = tasks.sync(&text).text;
    let cleared: String = text
        .split_inclusive('\n')
        .filter(|l| !l.contains("**TASK-"))
        .collect();
    let text = tasks.sync(&cleared).text;
    assert!(text.contains("**TASK-121**"), "{text}");
    assert_eq!(text.matches("**TASK-").count(), 1, "{text}");
    // Records that the house deleted: its own lines go, those of people stay.
    let mut forgetful = Tasks::default();
    let text = "- [x] **TASK-1** (P2, -, done) mine <!-- 12345678 done -->\n- [x] **TASK-2** (P2, -, done) own <!-- DIGEST done abbey -->\n";
    let text = text.replace("DIGEST", &task(2, "own", TaskState::Done).fields.digest());
    let synced = forgetful.sync(&text);
    assert_eq!(synced.text, text.split_inclusive('\n').next().unwrap());
    assert!(synced.conflicts.is_empty());
}

const THEIRS: &str = "# WORK QUEUE\n\n## P0 - CRITICAL\n\n### TASK-003: Repair the gate\n**Status:** READY\n**Assigned:** @Mason\n**Created:** 2026-11-20\n\nThe lower hinge is broken.\n\n- [ ] long ladder\n\n### TASK-004: Count the bells\n**Status:** COMPLETED\n\n- [ ] not work\n\n## P2\n\n### ✅ TASK-005 — Oil the hinges\n- Status: pending\n- Priority: high\n\n### TASK-006: Paint\nStatus: IN_PROGRESS\n\n### TASK-007: Dig\nStatus: perhaps\n\n### TASK-008: Plain\n\n- [ ] a step\n";

#[test]
fn entries_of_the_other_system_become_tasks() {
    let mut tasks = Tasks::default();
    let synced = tasks.sync(THEIRS);
    let fields: Vec<_> = tasks
        .0
        .values()
        .map(|t| {
            (
                t.fields.priority,
                t.fields.assignee.as_deref(),
                t.fields.text.as_str(),
            )
        })
        .collect();
    assert_eq!(
        fields,
        [
            (
                Priority::P0,
                Some("mason"),
                "Repair the gate\n**Created:** 2026-11-20\n\nThe lower hinge is broken.\n\n- [ ] long ladder"
            ),
            (Priority::P1, None, "Oil the hinges"),
            (Priority::P2, None, "a step"),
        ]
    );
    for told in [
        "25: TASK-006 is IN_PROGRESS in the file",
        "28: the status `perhaps` of TASK-007",
        "31: TASK-008 has no line such as",
    ] {
        let found = synced.conflicts.iter().any(|c| c.starts_with(told));
        assert!(found, "{told}: {:#?}", synced.conflicts);
    }
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let now = lines(&synced.text);
    assert!(now[5].starts_with("<!-- abbey TASK-1 "), "{}", synced.text);
    assert_eq!(now[6], "**Status:** READY");
    assert_eq!(tasks.sync(&synced.text).edits, []);
    // Its state comes into the file, and only there.
    tasks.0.get_mut(&1).unwrap().state = TaskState::Running;
    tasks.0.get_mut(&2).unwrap().state = TaskState::Done;
    let synced = tasks.sync(&synced.text);
    assert!(
        synced
            .text
            .contains("**Status:** IN_PROGRESS\n**Assigned:** @Mason\n"),
        "{}",
        synced.text
    );
    assert!(
        synced
            .text
            .contains("- Status: COMPLETE\n- Priority: high\n")
    );
    assert!(synced.changed.is_empty());
    assert_eq!(tasks.sync(&synced.text).edits, []);
    // People change it there.
    let edited = synced
        .text
        .replace("COMPLETE\n", "PENDING\n")
        .replace("IN_PROGRESS\n**Ass", "CANCELLED\n**Ass");
    let mut again = tasks.clone();
    let synced_again = again.sync(&edited);
    assert_eq!(synced_again.changed, ["TASK-1 cancelled"]);
    // What is done stays done, and a task like it takes its place.
    assert_eq!(synced_again.added, [(4, "Oil the hinges".to_owned())]);
    assert!(synced_again.text.contains("<!-- abbey TASK-4 "));
    assert!(!synced_again.text.contains("TASK-2 "));
    assert_eq!(again.0[&2].state, TaskState::Done);
    assert_eq!(again.sync(&synced_again.text).edits, []);
    tasks.0.get_mut(&2).unwrap().state = TaskState::Failed;
    let text = tasks.sync(&synced.text).text;
    let changed = tasks
        .sync(&text.replace("Status: FAILED", "Status: PENDING"))
        .changed;
    assert_eq!(changed, ["TASK-2 again"]);
    let text = tasks.sync(&text).text;
    let synced = tasks.sync(&text.replace("Oil the hinges", "Oil all hinges"));
    assert_eq!(synced.changed, ["TASK-2: Oil all hinges"]);
    assert_eq!(tasks.sync(&synced.text).edits, []);
}

#[test]
fn unreadable_entries_are_left_with_their_line() {
    let text = "- [ ] Sweep\n- [ ] caf\u{fffd}\n\ncaf\u{fffd}\n";
    let undecoded: Vec<usize> = text.match_indices('\u{fffd}').map(|(at, _)| at).collect();
    let synced = Tasks::default().sync_source(text, &undecoded);
    assert_eq!(synced.added.len(), 1);
    assert_eq!(synced.conflicts.len(), 1);
    assert!(synced.conflicts[0].starts_with("2: line 2 has bytes that are not UTF-8"));
    assert!(synced.text.contains("\n- [ ] caf\u{fffd}\n\ncaf\u{fffd}\n"));
}

/// Parts of documents; `§` becomes a number.
const PARTS: &[&str] = &[
    "# Heading §",
    "## Part § ##",
    "### TASK-§: Mend it",
    "### TASK-00§: Mend it\n**Status:** READY\n**Owner:** f\n\nwords §",
    "#### TASK-§: Done\nStatus: ✅ COMPLETED\n\n- [ ] step",
    "<!-- abbey TASK-§ 12345678 12345678 ready -->",
    "<!-- abbey §. Old. -->",
    "Some words §, *and* more.",
    "Line with two blanks  \nand its end §.",
    "- a plain point §",
    "* another point §\n  with a second line",
    "§. a numbered point",
    "§) [ ] numbered work §",
    "- [ ] work §",
    "- [ ] (P1, f) work §\n  more\n\n  - [ ] below",
    "- [ ] (P9, nobody) work §",
    "- [x] work that is over §",
    "* [ ] starred work §",
    "+ [ ] crossed work §",
    "- - [ ] nested §",
    "- [ ]",
    "- [ ] ",
    "- [ ]\tTASK-§ tab",
    "    - [ ] indented far §",
    "> quoted §\n> - [ ] quoted work §",
    "```sh\n- [ ] code §\n# comment\n```",
    "~~~\nopen fence §",
    "<!-- open comment §",
    "<script>\n- [ ] §",
    "| a§ | b |\n|---|---|\n| 1 | 2 |",
    "<details><summary>more §</summary>\n\nhidden\n\n</details>",
    "[link§]: https://bells.example/§",
    "---",
    "---\nkey: §\n---",
    "Title §\n=======",
    "Sub §\n---",
    "## Notes",
    "### Notes\n- [ ] private §",
    "\\- [ ] escaped §",
    "- [] no box §",
    "Šmarnica 鐘 🔔 §",
    "\ttabbed §",
    "trailing tab §\t",
    "- [ ] work § <!-- mine -->",
    "- [ ] **TASK-§** (P2, -, ready) copied <!-- 12345678 ready -->",
    "- [x] **TASK-§** (P2, -, done) copied <!-- 12345678 done abbey -->",
    "**Status:** READY §",
    "\u{fffd} §",
    "- [ ] \u{fffd} §",
    "",
];

fn documents() -> impl Strategy<Value = String> {
    let part = (0..PARTS.len(), 0..4u8, 1..12u32).prop_map(|(part, eol, n)| {
        let part = PARTS[part].replace('§', &n.to_string());
        (part, ["\n", "\r\n", "\r", "\n\n"][usize::from(eol)])
    });
    let odd = "[ -~\\n\\r\\t#*<>()\\[\\]`-]{0,40}".prop_map(|text| (text, "\n"));
    let parts = prop::collection::vec(prop_oneof![6 => part, 1 => odd], 0..14);
    (parts, any::<bool>(), any::<bool>()).prop_map(|(parts, mark, end)| {
        let mut text = if mark {
            "\u{feff}".to_owned()
        } else {
            String::new()
        };
        for (part, eol) in parts {
            text.push_str(&part.replace('\n', if eol == "\n\n" { "\n" } else { eol }));
            text.push_str(eol);
        }
        if end {
            text.truncate(text.trim_end().len());
        }
        text
    })
}

fn undecoded(text: &str) -> Vec<usize> {
    text.match_indices('\u{fffd}').map(|(at, _)| at).collect()
}

proptest! {
    /// Whatever people wrote is in the file after a synchronisation, but for marks of tasks; a second one changes nothing.
    #[test]
    fn any_document_survives(text in documents(), states in prop::collection::vec(0..TaskState::ALL.len(), 24)) {
        let mut tasks = Tasks::of(&[
            task(2, "of the house", TaskState::Ready),
            task(5, "(P9) odd\n\n    - [ ] text\n```", TaskState::Running),
            task(7, "over", TaskState::Done),
            // Numbers of new tasks are none that the parts name.
            task(30, "newest", TaskState::Done),
        ]);
        let document = parse_document(&Source::new(&text, &undecoded(&text)));
        // Bytes that are the house's: boxes, numbers and attributes, comments, statuses, and the house's comment.
        let mut ours: Vec<std::ops::Range<usize>> = Vec::new();
        for item in &document.items {
            match &item.place {
                Place::Line(p) => {
                    ours.extend([p.tick.clone(), p.head.clone(), p.comment.clone()]);
                    let own = item.mark.as_ref().is_some_and(|m| m.own);
                    let known = item.number.is_some_and(|n| tasks.0.contains_key(&n));
                    if item.mark.is_some() && item.number.is_some() && (own || known) {
                        // A line that the house wrote: its text follows the house's.
                        ours.extend([p.first.clone(), p.rest.clone()]);
                        ours.extend(p.whole.clone().filter(|_| own));
                    }
                }
                Place::Heading(p) => ours.extend([p.status.clone(), p.comment.clone()]),
            }
        }
        ours.extend(document.header.iter().map(|(range, _)| range.clone()));
        let synced = tasks.sync_source(&text, &undecoded(&text));
        for edit in &synced.edits {
            let inside = ours.iter().any(|r| r.start <= edit.range.start && edit.range.end <= r.end);
            prop_assert!(edit.range.is_empty() || inside, "{edit:?} of {text:?}");
        }
        let named = document.items.iter().any(|i| i.number == Some(2));
        prop_assert!(named || synced.text.contains("**TASK-2**"), "{text:?}");
        let second = tasks.sync_source(&synced.text, &undecoded(&synced.text));
        prop_assert_eq!(&second.edits, &[], "{:?}\n{:?}", text, synced.text);
        prop_assert!(second.added.is_empty() && second.changed.is_empty(), "{second:?}");
        // Whatever becomes of the tasks, nothing is added twice, and the file comes to rest.
        for (task, state) in tasks.0.values_mut().zip(&states) {
            task.state = TaskState::ALL[*state];
        }
        let third = tasks.sync_source(&synced.text, &undecoded(&synced.text));
        prop_assert!(third.added.is_empty() && third.changed.is_empty(), "{third:?}");
        let fourth = tasks.sync_source(&third.text, &undecoded(&third.text));
        prop_assert_eq!(&fourth.edits, &[]);
    }

    /// Whatever a task says comes back from the file as it went in, and nothing next to it changes.
    #[test]
    fn every_text_comes_back(
        texts in prop::collection::vec("[ -~äé\n\r`#*<>()\\[\\]-]{1,80}", 1..6),
        owner in prop::option::of("[a-z]{1,8}"),
    ) {
        let texts = texts.iter().map(|t| normalize_text(t)).filter(|t| !t.is_empty());
        let entries: Vec<QueueEntry> = texts.enumerate().map(|(i, text)| {
            let state = if i % 2 == 0 { TaskState::Ready } else { TaskState::Done };
            let mut entry = task(i as u64 + 1, &text, state);
            entry.fields.assignee = owner.clone();
            entry
        }).collect();
        let document = parse(&Tasks::of(&entries).sync("").text);
        prop_assert_eq!(document.header.unwrap().1, entries.len() as u64);
        prop_assert_eq!(document.items.len(), entries.len());
        for entry in &entries {
            let item = document.items.iter().find(|i| i.number == Some(entry.number)).unwrap();
            prop_assert_eq!(&item.fields, &entry.fields);
            prop_assert_eq!(&item.mark.as_ref().unwrap().state, entry.state.name());
            prop_assert_eq!(item.ticked, entry.state.is_terminal());
        }
    }
}
