//! Files and directories that a command line names: one exit code if they are missing, and commands to copy that a shell reads
//! as they are meant.

use crate::{house, up};
use abbey_testkit::args;
use abbey_testkit::args::Args;
use abbey_testkit::house::House;
use std::collections::BTreeSet;

const HOUSE: &str = "house: h\ndocuments:\n  plan: { writer: a }\nagents:\n  a: { cell: process }\n  b: { cell: process, reports_to: a }\n";

/// Every command that reads a path of this host, with a path that is not there.
const READERS: &[&str] = &[
    "up -f absent",
    "plan -f absent",
    "reload a -f absent",
    "agent new c -f absent",
    "agent rm b -f absent",
    "agent rename b c -f absent",
    "agent clone b c -f absent",
    "agent move b --to a -f absent",
    "schedule add a/x --every 1h --task x -f absent",
    "schedule rm a/x -f absent",
    "service disable db -f absent",
    "service enable db -f absent",
    "workflow check -f absent",
    "import env absent",
    "import openclaw absent",
    "import hermes absent",
    "import paperclip absent",
    "import fireclaw absent",
    "import bundle absent",
    "import bundle . -f absent",
    "cp absent a:",
    "cp a:SOUL.md absent/below",
    "run --in absent -- true",
    "task import absent",
    "task import absent.md",
    "task sync absent/queue.md",
    "document write plan --file absent",
    "skill check absent",
    "secret set s --from-file absent",
    "image import absent",
    "activity verify absent",
    "activity verify abbey.yaml --checkpoints absent",
    "backup verify absent",
    "backup absent/backup.tar",
    "backup new.tar --passphrase-file absent",
    "restore absent",
    "restore abbey.yaml --passphrase-file absent",
];

/// One that needs an agent that was removed.
const RESTORE: &str = "agent restore b -f absent";

/// Beginnings of commands with such an argument that read nothing there: they make it, or write files into it.
const WRITERS: [&str; 3] = ["init", "export", "unit "];

#[test]
fn a_path_that_is_missing_is_wrong_usage_of_every_command() {
    let house = up(HOUSE);
    for line in READERS {
        let told = house.expect_refusal(2, *line);
        assert!(told.contains("absent"), "{line}: {told}");
        assert!(told.contains("No such file or directory"), "{line}: {told}");
        let document = house.expect_refusal(2, Args::from(*line).with_json());
        let document: serde_json::Value = serde_json::from_str(&document).unwrap();
        assert_eq!(document["error"]["code"], 2, "{line}");
    }
    house.expect(0, "agent rm b --now");
    house.expect_refusal(2, RESTORE);
    // What is there and of another kind is no better.
    for line in [
        "plan -f .",
        "task import .",
        "skill check abbey.yaml",
        "activity verify .",
        "backup verify .",
        "backup abbey.yaml/backup.tar",
        "document write plan --file .",
        "secret set s --from-file .",
        "image import .",
    ] {
        house.expect_refusal(2, line);
    }
    // Paths in a cell are of the house.
    house.expect_refusal(3, "cp a:absent .");
}

/// The reference names each argument that is a path, so that a new one is not forgotten here.
#[test]
fn every_argument_that_is_a_path_is_tried() {
    let house = house();
    let reference = house.expect(0, "man --markdown");
    let mut verb = String::new();
    let mut taking = BTreeSet::new();
    for line in reference.lines() {
        if let Some(title) = line.trim_start_matches('#').strip_prefix(" abbey ") {
            verb = title.trim().to_owned();
        }
        let is_path = ["<FILE>", "<DIR>", "<PATH>", "<FROM>", "<SOURCE>", "<TO>"];
        let is_path = is_path.iter().any(|name| line.contains(name));
        if line.starts_with("- `") && is_path && !line.contains("--home") {
            taking.insert(verb.clone());
        }
    }
    assert!(taking.len() > 20, "{taking:?}");
    let tried = |verb: &str| {
        let is_of = |line: &&str| line.starts_with(&format!("{verb} "));
        let writes = WRITERS.iter().any(|writer| verb.starts_with(writer));
        writes || READERS.iter().chain([&RESTORE]).any(is_of)
    };
    let missing: Vec<&String> = taking.iter().filter(|verb| !tried(verb)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// The command in a text: from `abbey` to the end of the line, or to the backtick behind it.
fn command_in(text: &str) -> Args {
    let (_, command) = text.split_once("abbey ").unwrap();
    let command = command.lines().next().unwrap();
    let command = command.split('`').next().unwrap();
    Args::from(command)
}

#[test]
fn printed_commands_can_be_copied_whatever_the_path_is() {
    let house = house();
    let name = "My House! $(id) it's";
    let output = house.run(args!("init {}", name));
    let told = String::from_utf8(output.stderr).unwrap();
    let (_, next) = told.split_once("next: ").unwrap();
    let command = command_in(next);
    assert_eq!(command.0, ["up", "-f", &format!("{name}/abbey.yaml")]);
    // The command works as it is printed; planning is enough.
    let plan: Vec<&str> = command.0.iter().skip(1).map(String::as_str).collect();
    house.expect(0, Args::from("plan").with(&plan));
}

#[test]
fn a_mistake_in_the_manifest_is_shown_with_its_age_until_it_is_corrected() {
    let house = up(HOUSE);
    let quiet = |house: &House| {
        let shown = String::from_utf8(house.run("ps").stderr).unwrap();
        assert!(!shown.contains("cannot be applied"), "{shown}");
        assert!(!house.expect(0, "doctor").contains("manifest_file"));
    };
    quiet(&house);
    house.manifest(&format!("{HOUSE}bogus: 1\n"));
    house.expect_refusal(2, "up");
    let output = house.run("ps");
    assert_eq!(output.status.code(), Some(0));
    let told = String::from_utf8(output.stderr).unwrap();
    for part in [
        "abbey.yaml",
        "unknown key `bogus`",
        "last changed",
        " ago, at 20",
        "abbey plan -f",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    house.expect_refusal(2, command_in(&told));
    let document = house.json(0, "doctor");
    let checks = document["checks"].as_array().unwrap();
    let check = checks.iter().find(|c| c["id"] == "manifest_file").unwrap();
    assert_eq!(check["state"], "attention");
    assert!(check["text"].as_str().unwrap().contains(" ago, at 20"));
    house.manifest(HOUSE);
    quiet(&house);
}

/// Whoever deletes the manifest is told, and gets it back from the house, whether that is up or down.
#[test]
fn a_manifest_file_that_is_gone_is_noticed_and_printed_from_the_house() {
    let text = format!("# Ours \u{26a0}\u{fe0f}\u{200b}.\n{HOUSE}\n\n");
    let house = up(&text);
    house.expect_refusal(2, "plan --in-force -f abbey.yaml");
    std::fs::remove_file(house.path("abbey.yaml")).unwrap();
    let told = String::from_utf8(house.run("ps").stderr).unwrap();
    for part in ["abbey.yaml` from", "does not exist any more"] {
        let part = part.replace("` from", "`, from which");
        assert!(told.contains(&part), "{part}: {told}");
    }
    let printed = house.expect(0, command_in(&told));
    assert!(printed.ends_with(&text), "{printed}");
    let text = printed;
    let document = house.json(0, "doctor");
    let checks = document["checks"].as_array().unwrap();
    assert!(
        checks.iter().any(|c| c["id"] == "manifest_file"),
        "{document}"
    );
    house.expect(0, "down");
    assert_eq!(house.expect(0, "plan --in-force"), text);
    assert_eq!(house.json(0, "plan --in-force")["manifest"], text);
    let new = crate::house();
    new.expect_refusal(3, "plan --in-force");
}
