//! Work queues as documents of people: what the house does not understand stays byte for byte, and is reported where it may
//! have been meant as a task (S2-15).

use crate::up;
use abbey_testkit::args;
use abbey_testkit::house::{House, until};
use serde_json::{Value, json};

/// An agent without a program, and one whose skills need no model.
const HOUSE: &str = "house: q\ndefaults: { cell: process }\nagents:\n  a: { template: orchestrator, files: {} }\n  s: { template: sysadmin, reports_to: a }\n";

/// A house in which nothing is done, so that only files change.
fn idle() -> House {
    let house = up(HOUSE);
    house.expect(0, "stop a");
    house
}

fn write(house: &House, name: &str, content: impl AsRef<[u8]>) {
    std::fs::write(house.path(name), content).unwrap();
}

fn read(house: &House, name: &str) -> Vec<u8> {
    std::fs::read(house.path(name)).unwrap()
}

fn read_text(house: &House, name: &str) -> String {
    String::from_utf8(read(house, name)).unwrap()
}

fn titles(house: &House) -> Vec<String> {
    let tasks = house.json(0, "task list --limit 1000");
    let tasks = tasks["tasks"].as_array().unwrap().iter();
    let mut titles: Vec<String> = tasks
        .map(|t| t["title"].as_str().unwrap().to_owned())
        .collect();
    titles.sort_unstable();
    titles
}

/// The content without what the house adds: its comment, its own lines with what is indented below them, and the marks of a
/// line.
fn without_marks(content: &[u8]) -> Vec<u8> {
    let (mut out, mut in_own) = (Vec::new(), false);
    for line in content.split_inclusive(|b| *b == b'\n') {
        let find = |word: &[u8]| line.windows(word.len()).position(|w| w == word);
        let last = |word: &[u8]| line.windows(word.len()).rposition(|w| w == word);
        in_own &= line.starts_with(b"  ") || line.trim_ascii().is_empty();
        let is_own = find(b" abbey -->").is_some();
        if is_own || in_own || find(b"<!-- abbey ").is_some() {
            in_own |= is_own;
            continue;
        }
        let (Some(begin), Some(comment)) = (find(b"**TASK-"), last(b" <!-- ")) else {
            out.extend_from_slice(line);
            continue;
        };
        let attributes = begin + line[begin..].iter().position(|b| *b == b')').unwrap() + 2;
        let behind = comment
            + line[comment..]
                .windows(3)
                .position(|w| w == b"-->")
                .unwrap()
            + 3;
        out.extend_from_slice(&line[..begin]);
        out.extend_from_slice(&line[attributes..comment]);
        out.extend_from_slice(&line[behind..]);
    }
    out
}

/// Whether all lines of `before` are in `after`, in their order, with nothing between but blank lines and what the house
/// added.
#[track_caller]
fn assert_survives(before: &[u8], after: &[u8]) {
    let is = without_marks(after);
    let mut rest = is.split_inclusive(|b| *b == b'\n');
    for line in before.split_inclusive(|b| *b == b'\n') {
        // The house ends a last line that has no end.
        let same = |other: &[u8]| match line.ends_with(b"\n") {
            true => other == line,
            false => other.starts_with(line) && other[line.len()..].trim_ascii().is_empty(),
        };
        let found = rest.find(|other| same(other) || !other.trim_ascii().is_empty());
        assert!(
            found.is_some_and(same),
            "{}: {}",
            String::from_utf8_lossy(line),
            String::from_utf8_lossy(after)
        );
    }
    assert!(rest.all(|line| line.trim_ascii().is_empty()));
}

#[test]
fn what_people_write_around_tasks_stays() {
    let house = idle();
    let around = "# Week 48\n\nCall the baker before you touch the oven.  \nHe is **never** there on Mondays.\n\n- [ ] Sweep the yard\n- flour is in the third bin\n  - and salt in the fourth\n\n1. [ ] light the fire\n2. [ ] knead\n\n+ [ ] Oil the hinges  \n\n* [x] over before the house was there\n* [-] given up\n\n| who | what |\n|-----|------|\n| ana | bell |\n\n> nothing yet\n> - [ ] quoted\n\n```\n- [ ] this is an example and no work\n```\n\nSetext heading\n--------------\n\n* * *\n\nLast line without an end";
    let expected = [
        "Oil the hinges",
        "Sweep the yard",
        "knead",
        "light the fire",
    ];
    let crlf = format!("\u{feff}{}", around.replace('\n', "\r\n"));
    for (name, text) in [("lf.md", around), ("crlf.md", &crlf)] {
        write(&house, name, text);
        house.expect(0, args!("task sync {}", name));
        let after = read(&house, name);
        assert_survives(text.as_bytes(), &after);
        house.expect(0, args!("task sync {}", name));
        assert_eq!(after, read(&house, name), "a second one changed {name}");
    }
    assert_eq!(
        titles(&house),
        expected,
        "the same lines are the same tasks"
    );
    let first = read_text(&house, "lf.md");
    assert!(
        first.contains("+ [ ] **TASK-4** (P2, -, "),
        "the bullet stays: {first}"
    );
}

#[test]
fn notes_are_private_however_their_heading_is_written() {
    let house = idle();
    for (name, text) in [
        (
            "crlf.md",
            "# Queue\r\n\r\n- [ ] (P1, a) Sweep\r\n\r\n## Notes\r\n\r\n- [ ] ask Ana\r\nthe key is under the mat\r\n",
        ),
        (
            "blank.md",
            "- [ ] (P1, a) Oil\n\n## Notes \n\n- [ ] ask Bor\n",
        ),
        (
            "hashes.md",
            "- [ ] (P1, a) Wind\n\n## Notes ##\n\n- [ ] ask Cene\n",
        ),
        (
            "line.md",
            "- [ ] (P1, a) Dust\n\nNotes\n-----\n\n- [ ] ask Dana\n",
        ),
    ] {
        write(&house, name, text);
        house.expect(0, args!("task sync {}", name));
        let notes = &text[text.find("Notes").unwrap()..];
        assert!(read_text(&house, name).ends_with(notes), "{name}");
    }
    assert_eq!(titles(&house), ["Dust", "Oil", "Sweep", "Wind"]);
}

const THEIRS: &str = "# WORK QUEUE\n\n## P0 - CRITICAL\n\n### TASK-003: Repair the gate\n**Status:** READY\n**Assigned:** a\n**Created:** 2026-11-20\n\nThe lower hinge is broken. Take the long ladder.\n\n### TASK-004: Count the bells\n**Status:** COMPLETED\n\n## P2\n\n### TASK-005: How much free disk space is there?\n- **Status:** PENDING\n- **Priority:** P1\n\n### TASK-006: Paint the gate\n**Status:** IN_PROGRESS\n\n### TASK-007: Sing\n**Status:** READY\n**Owner:** ezra\n";

#[test]
fn a_queue_of_another_system_becomes_tasks() {
    let house = idle();
    write(&house, "WORK-QUEUE.md", THEIRS);
    let text = house.expect(4, "task sync WORK-QUEUE.md");
    for told in [
        "TASK-1 was added from TASK-003",
        "TASK-2 was added from TASK-005",
        "WORK-QUEUE.md:21: TASK-006 is IN_PROGRESS in the file",
        "WORK-QUEUE.md:24: there is no agent `ezra`",
    ] {
        assert!(text.contains(told), "{told}: {text}");
    }
    let gate = &house.json(0, "task show TASK-1")["task"];
    assert_eq!(
        (&gate["priority"], &gate["assignee"]),
        (&json!("P0"), &json!("a"))
    );
    assert_eq!(
        gate["title"],
        "Repair the gate\n**Created:** 2026-11-20\n\nThe lower hinge is broken. Take the long ladder."
    );
    until("a skill did the other", || {
        house.json(0, "task show TASK-2")["task"]["state"] == "done"
    });
    house.expect(4, "task sync WORK-QUEUE.md");
    let now = read_text(&house, "WORK-QUEUE.md");
    // But for the state of the one that is over, not a byte is another.
    let expected = THEIRS.replace("PENDING", "COMPLETE");
    assert_survives(expected.as_bytes(), now.as_bytes());
    // Cancelled in their words; people write the same for what they take back.
    write(
        &house,
        "WORK-QUEUE.md",
        now.replacen("**Status:** READY", "**Status:** CANCELLED", 1),
    );
    let text = house.expect(4, "task sync WORK-QUEUE.md");
    assert!(text.contains("TASK-1 was cancelled"), "{text}");
}

#[test]
fn a_line_that_is_not_understood_is_reported_and_stays() {
    let house = idle();
    let text = "# Queue\n\n- [ ] (P9, ezra) Sweep the yard\n- [ ] (P1, a) Oil the hinges\n- [ ] (P1, ezra) Wind the clock\n\n1. [ ] (a) Knead\n2. [] Dust\n3. [ ]\n4. [-] given up\n5. [~] Ring\n";
    write(&house, "Q.md", text);
    for _ in 0..2 {
        let told = house.expect(4, "task sync Q.md");
        assert!(
            told.contains("Q.md:3: `(P9, ezra)` is not understood: `P9` is no priority"),
            "{told}"
        );
        assert!(told.contains("Q.md:5: there is no agent `ezra`"), "{told}");
        for line in [
            "Q.md:7: `(a)` is not understood: a priority is missing; write `(P2, a)`",
            "Q.md:8: `[]` is no box; write `[ ]`",
            "Q.md:9: the box has no text on its line",
            "Q.md:11: `[~]` is no box",
        ] {
            assert!(told.contains(line), "{line}: {told}");
        }
        assert!(!told.contains("Q.md:10:"), "{told}");
        assert_survives(
            text.as_bytes(),
            &without_attributes(&read_text(&house, "Q.md")),
        );
    }
    assert_eq!(titles(&house), ["Oil the hinges"]);
    assert!(
        !house.path("Q.md.conflicts").exists(),
        "nothing was overwritten, so nothing is copied"
    );
}

/// The attributes of the task that was taken, as they were written.
fn without_attributes(text: &str) -> Vec<u8> {
    let begin = text.find("**TASK-1**").unwrap();
    let end = begin + text[begin..].find("Oil").unwrap();
    let line_end = end + text[end..].find('\n').unwrap();
    format!(
        "{}(P1, a) Oil the hinges{}",
        &text[..begin],
        &text[line_end..]
    )
    .into_bytes()
}

#[test]
fn bytes_that_are_no_text_stay_and_do_not_end_the_watch() {
    let house = idle();
    write(&house, "Q.md", "- [ ] (P1, a) Sweep\n");
    let mut watcher = house
        .command("task sync Q.md --watch")
        .stdout(std::fs::File::create(house.path("watcher.log")).unwrap())
        .spawn()
        .unwrap();
    until("it is taken", || titles(&house) == ["Sweep"]);
    until("it is marked", || {
        read_text(&house, "Q.md").contains("**TASK-1**")
    });
    let mut content = read(&house, "Q.md");
    let odd = b"caf\xe9\n\n- [ ] (P1, a) caf\xe9\n- [ ] (P1, a) Oil\n";
    content.extend_from_slice(b"\n");
    content.extend_from_slice(odd);
    write(&house, "Q.md", &content);
    until("what can be read is taken", || {
        titles(&house) == ["Oil", "Sweep"]
    });
    until("it is marked", || {
        let now = read(&house, "Q.md");
        now.windows(10).any(|w| w == b"**TASK-2**")
    });
    let now = read(&house, "Q.md");
    let kept = &odd[..odd.len() - b"- [ ] (P1, a) Oil\n".len()];
    assert!(now.windows(kept.len()).any(|w| w == kept));
    until("it is told", || {
        read_text(&house, "watcher.log").contains("not UTF-8")
    });
    assert!(watcher.try_wait().unwrap().is_none());
    watcher.kill().unwrap();
    watcher.wait().unwrap();
    let told = house.expect(4, "task sync Q.md");
    let line = now
        .split(|b| *b == b'\n')
        .position(|l| l == b"- [ ] (P1, a) caf\xe9");
    let expected = format!("line {} has bytes that are not UTF-8", line.unwrap() + 1);
    assert!(told.contains(&expected), "{told}");
    let log = read_text(&house, "watcher.log");
    assert_eq!(log.matches("not UTF-8").count(), 1, "{log}");
}

#[test]
fn a_list_that_is_written_again_is_reported_as_what_it_is() {
    let house = up(HOUSE);
    let week = "# Every week\n\n- [ ] How much free disk space is there?\n";
    let sync = || {
        write(&house, "Q.md", week);
        house.json(0, "task sync Q.md")
    };
    assert_eq!(sync()["done"], json!(["TASK-1 was added"]));
    until("it is done", || {
        house.json(0, "task show TASK-1")["task"]["state"] == "done"
    });
    let again = sync();
    assert_eq!(again["done"], json!([]));
    let known = again["known"][0].as_str().unwrap();
    assert!(
        known.contains("TASK-1 was added before and is done; write `retry`"),
        "{known}"
    );
    assert_eq!(titles(&house).len(), 1);
    assert!(read_text(&house, "Q.md").contains("- [x] **TASK-1** (P2, -, done) How much"));
    // Behind the house's comment it is new work.
    let mut text = read_text(&house, "Q.md");
    text.push_str("\n- [ ] How much free disk space is there?\n");
    write(&house, "Q.md", text);
    let added = house.json(0, "task sync Q.md");
    assert_eq!(added["done"], json!(["TASK-2 was added"]));
}

#[test]
fn lines_of_the_house_come_back_until_their_task_is_over() {
    let house = idle();
    write(&house, "Q.md", "# Ours\n\nProse.\n");
    house.expect(0, "task add --to a 'Wind the clock'");
    house.expect(0, "task sync Q.md");
    let text = read_text(&house, "Q.md");
    assert!(
        text.starts_with("# Ours\n\nProse.\n\n<!-- abbey 1."),
        "{text}"
    );
    assert!(text.contains("- [ ] **TASK-1** (P2, a, ready) Wind the clock <!-- "));
    let without = |text: &str| -> String {
        let lines = text.split_inclusive('\n');
        lines.filter(|l| !l.contains("**TASK-1**")).collect()
    };
    write(&house, "Q.md", without(&text));
    house.expect(0, "task sync Q.md");
    assert!(read_text(&house, "Q.md").contains("**TASK-1**"));
    house.expect(0, "task cancel TASK-1");
    house.expect(0, "task sync Q.md");
    let text = read_text(&house, "Q.md");
    assert!(
        text.contains("- [x] **TASK-1** (P2, a, cancelled)"),
        "{text}"
    );
    write(&house, "Q.md", without(&text));
    house.expect(0, "task sync Q.md");
    assert!(!read_text(&house, "Q.md").contains("**TASK-1**"));
}

const PARTS: &[&str] = &[
    "# Heading {n}\n",
    "### TASK-{n}: Mend it\n",
    "Line with two blanks  \nand its end {n}.\n",
    "- a plain point {n}\n",
    "{n}. a numbered point\n",
    "{n}) [ ] numbered work {n}\n",
    "- [ ] work {n}\n",
    "- [x] work that is over {n}\n",
    "* [ ] starred work {n}\n",
    "    - [ ] indented far {n}\n",
    "> quoted {n}\n> - [ ] quoted work {n}\n",
    "```sh\n- [ ] code {n}\n# comment\n```\n",
    "<!-- remark {n} -->\n",
    "<!-- open {n}\n",
    "---\n",
    "\\- [ ] escaped {n}\n",
    "Šmarnica 鐘 🔔 {n}\n",
    "trailing tab {n}\t\n",
    "- [ ] work {n} <!-- mine -->\n",
    "**Status:** READY {n}\n",
    "caf\u{0}{n}\n",
    "- [ ] caf\u{0}{n}\n",
];

/// Any document survives two synchronisations, and the second changes nothing. The pure function has a test of its own with
/// many more; this one goes through the files.
#[test]
fn any_document_survives() {
    let house = idle();
    let mut random = 48u64;
    let mut next = |below: usize| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(random >> 33).unwrap() % below
    };
    for number in 0..12 {
        let parts: Vec<String> = (0..3 + next(11))
            .map(|i| PARTS[next(PARTS.len())].replace("{n}", &(number * 100 + i).to_string()))
            .collect();
        let mut text = parts.join(["\n", ""][number % 2]);
        if number % 4 == 3 {
            text = text.replace('\n', "\r\n");
        }
        // A letter in Latin-1.
        let bytes: Vec<u8> = text
            .bytes()
            .map(|b| if b == 0 { 0xe9 } else { b })
            .collect();
        let name = format!("q{number}.md");
        write(&house, &name, &bytes);
        let sync = || {
            let output = house.command(args!("task sync {}", name)).output().unwrap();
            assert!(matches!(output.status.code(), Some(0 | 4)), "{output:?}");
            read(&house, &name)
        };
        let after = sync();
        assert_survives(&bytes, &after);
        assert_eq!(after, sync(), "document {number}");
    }
    let others = ["code", "quoted", "escaped", "work that is over", "caf"];
    let of_others: Vec<Value> = titles(&house)
        .into_iter()
        .filter(|t| others.iter().any(|w| t.starts_with(w)))
        .map(Value::from)
        .collect();
    assert_eq!(of_others, Vec::<Value>::new());
}

/// The numbers of another house's file are those of other tasks here.
#[test]
fn the_file_of_another_house_is_neither_applied_nor_changed() {
    let (one, two) = (idle(), idle());
    one.expect(0, "task add 'Paint the fence' --to a");
    one.expect(0, "task add 'Mow the lawn' --to a");
    one.expect(0, "task sync WORK-QUEUE.md");
    let copy = read_text(&one, "WORK-QUEUE.md");
    two.expect(0, "task add 'Something else' --to a");
    write(&two, "WORK-QUEUE.md", &copy);
    let told = two.expect(4, "task sync WORK-QUEUE.md");
    assert!(
        told.starts_with("WORK-QUEUE.md:3: this is the work queue of another house"),
        "{told}"
    );
    assert_eq!(two.expect(4, "task import WORK-QUEUE.md"), told);
    assert_eq!(read_text(&two, "WORK-QUEUE.md"), copy);
    assert_eq!(titles(&two), ["Something else"]);
    // Without the comment it is still no line of this house.
    let bare: String = copy
        .lines()
        .filter(|l| !l.starts_with("<!-- "))
        .fold(String::new(), |text, line| text + line + "\n");
    write(&two, "WORK-QUEUE.md", &bare);
    let told = two.expect(4, "task sync WORK-QUEUE.md");
    assert!(told.contains("which has other words here"), "{told}");
    assert!(read_text(&two, "WORK-QUEUE.md").contains("Paint the fence"));
    assert_eq!(titles(&two), ["Something else"]);
    // Its tasks are added without their numbers.
    let plain = bare.replace("**TASK-1** ", "").replace("**TASK-2** ", "");
    write(&two, "WORK-QUEUE.md", &plain);
    two.expect(0, "task sync WORK-QUEUE.md");
    assert_eq!(
        titles(&two),
        ["Mow the lawn", "Paint the fence", "Something else"]
    );
}
