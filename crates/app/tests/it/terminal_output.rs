//! What people see on a terminal: colours where they are wanted, and lines that fit.

use crate::{house, up};
use abbey_testkit::args;
use abbey_testkit::args::Args;
use abbey_testkit::house::House;
use abbey_testkit::terminal::Typist;
use unicode_width::UnicodeWidthStr;

/// Names and texts as long as people make them, and wide characters.
const LONG: &str = "house: long
services:
  a-service-with-a-quite-long-name: { cell: process, command: [sleep, '3600'], probe: none }
budget: { tokens_per_day: 100000000 }
documents:
  the-plan-of-all-that-is-to-be: { kind: log, writers: [agent-with-a-name-nobody-types-2, b] }
agents:
  agent-with-a-name-nobody-types-2:
    cell: process
    role: Schreibt täglich den Bericht über das Wetter in 東京都千代田区 und der näheren Umgebung
    schedules:
      the-report-of-the-morning: { cron: '0 8 * * 1-5', task: Write the report. }
  b: { cell: process, reports_to: agent-with-a-name-nobody-types-2 }
workflows:
  a-workflow-with-a-long-name:
    steps: { first: { task: Look., agent: b } }
";

/// What a command shows on a terminal with this number of columns and these variables.
fn screen(
    house: &House,
    columns: u16,
    variables: &[(&str, &str)],
    args: impl Into<Args>,
) -> String {
    let mut command = house.command(args);
    command.envs(variables.iter().copied());
    Typist::start(&command, columns).screen()
}

/// The text without escape sequences that choose a colour or a weight.
fn visible(screen: &str) -> String {
    let mut parts = screen.split("\x1b[");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (sequence, rest) = part.split_once('m').unwrap_or_else(|| panic!("{part:?}"));
        assert!(sequence.chars().all(|c| c.is_ascii_digit() || c == ';'));
        text.push_str(rest);
    }
    text
}

fn without_spaces(text: &str) -> String {
    text.split_whitespace().collect()
}

#[test]
fn every_list_fits_80_and_40_columns_and_loses_nothing() {
    let house = up(LONG);
    let task = "Beschreibe 東京都千代田区 und die Umgebung so genau, dass es auf keine Zeile eines Terminals passt";
    house.run(&["task", "add", task, "--to", "b"]);
    house.expect(
        0,
        &[
            "token",
            "new",
            "a-token-with-a-name-for-watching",
            "--scope",
            "metrics",
        ],
    );
    house.run(&["workflow", "run", "a-workflow-with-a-long-name"]);
    // What a plan would show, too.
    let name = "agent-with-a-name-nobody-types-2";
    house.manifest(
        &LONG
            .replace("100000000", "2000000000")
            .replace("Schreibt", "Verfasst")
            .replace("  b: {", "  c: {")
            .replace("types-2, b]", "types-2, c]")
            .replace("agent: b", "agent: c"),
    );
    let lists = [
        ("ps", name),
        ("budget", name),
        ("plan", name),
        ("doctor", "service.a-service-with-a-quite-long-name"),
        ("task list", "TASK-1"),
        ("task show 1", "TASK-1"),
        ("task why 1", "TASK-1"),
        ("service list", "a-service-with-a-quite-long-name"),
        ("schedule list", "the-report-of-the-morning"),
        ("document list", "the-plan-of-all-that-is-to-be"),
        ("workflow list", "a-workflow-with-a-long-name"),
        ("token list", "a-token-with-a-name-for-watching"),
        ("skill list", "system-stats"),
        ("template list", "sysadmin"),
        ("agent show b --effective", "reports_to"),
        ("report", "metrics"),
        ("report status", ""),
        ("report tokens", ""),
        ("approvals", "no requests"),
        ("secret list", "no secrets"),
        ("image list", "no images"),
        ("org", name),
        ("activity", "generation"),
        ("activity sinks", "no checkpoint sinks"),
        ("logs --all", name),
        ("why b", "b is"),
        ("--help", "completions"),
        ("task add --help", "--idempotency-key"),
    ];
    let mut wrong = String::new();
    for columns in [80, 40] {
        for (line, shown) in lists {
            let screen = visible(&screen(&house, columns, &[], line));
            let fits = screen.lines().all(|row| row.width() <= columns.into());
            if !fits || !without_spaces(&screen).contains(&without_spaces(shown)) {
                wrong.push_str(&format!("--- {line} at {columns}\n{screen}\n"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// What people read has local times and units; what programs read is in the documents of `--json`.
#[test]
fn text_output_has_no_values_of_machines() {
    let house = up("house: h
providers: { p: { kind: openai, base_url: 'http://127.0.0.1:1/v1', input_usd_per_mtok: 1, output_usd_per_mtok: 1 } }
budget: { usd_per_day: 2.5, tokens_per_day: 1250000 }
agents: { a: { cell: process, skills: [system-stats], schedules: { x: { every: 90m, task: Look. } } } }
");
    house.expect(0, "token new phone --scope read --expires 1h");
    let is_raw = |text: &str| {
        let numbers = text.split(|c: char| !c.is_ascii_digit());
        let mut long = numbers.filter(|n| n.len() > 10);
        let instants = text
            .split_whitespace()
            .filter(|w| w.contains("T") && w.contains("00Z"));
        long.next().is_some() || instants.count() > 0
    };
    for line in [
        "activity -n 1000",
        "budget show",
        "budget report",
        "skill list",
    ] {
        let text = house.expect(0, line);
        let raw = text.lines().filter(|l| is_raw(l)).collect::<Vec<_>>();
        assert!(raw.is_empty(), "{line}: {raw:?}");
    }
    let shown = house.expect(0, "activity -n 1000");
    let token = shown.lines().find(|l| l.contains("phone")).unwrap();
    assert!(
        token.contains(", expires: 20") || token.contains(" expires: 20"),
        "{token}"
    );
    let budget = house.expect(0, "budget show");
    for part in ["money", "$2.50", "1,250,000"] {
        assert!(budget.contains(part), "{part} in {budget}");
    }
    // A search finds what the words tell apart: those that most skills have count for nothing.
    let found = |query: &str| -> Vec<String> {
        let doc = house.json(0, &["skill", "search", query]);
        let skills = doc["skills"].as_array().unwrap().iter();
        skills
            .map(|s| s["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let disks = found("disk");
    assert!(
        disks.contains(&"disk-usage".to_owned()) && disks.len() < 6,
        "{disks:?}"
    );
    assert_eq!(found("show the disk usage, please")[0], "disk-usage");
    for query in ["and", "s"] {
        house.expect_refusal(3, &["skill", "search", query]);
    }
    let schedules = house.expect(0, "schedule list");
    assert!(schedules.contains("every 90 min"), "{schedules}");
    let skill = house.expect(0, "skill show system-stats");
    assert!(
        skill.starts_with("system-stats") && !skill.contains("{\""),
        "{skill}"
    );
    assert!(skill.contains("  risk: low\n"), "{skill}");
    assert_eq!(
        house.json(0, "skill show system-stats")["name"],
        "system-stats"
    );
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let house = up("house: h\nagents: { a: { cell: process } }\n");
    let colored = |variables: &[(&str, &str)], line: &str| {
        screen(&house, 80, variables, line).contains('\x1b')
    };
    for line in ["ps", "doctor", "why nobody", "--help", "nonsense", "unit"] {
        assert!(colored(&[], line), "{line}");
        assert!(!colored(&[("NO_COLOR", "1")], line), "{line}");
        assert!(colored(&[("NO_COLOR", "")], line), "{line}");
        assert!(!colored(&[("TERM", "dumb")], line), "{line}");
        assert!(!colored(&[], &format!("--color never {line}")), "{line}");
        assert!(
            colored(&[("NO_COLOR", "1")], &format!("--color=always {line}")),
            "{line}"
        );
    }
    assert!(!colored(&[], "ps --json"));
    assert!(!colored(
        &[("CLICOLOR_FORCE", "1")],
        "ps --json --color always"
    ));
    // A file and a pipe have colours only where they are asked for.
    assert!(!house.expect(0, "ps").contains('\x1b'));
    assert!(house.expect(0, "ps --color always").contains('\x1b'));
    let forced = house
        .command("ps")
        .env("CLICOLOR_FORCE", "1")
        .output()
        .unwrap();
    assert!(forced.stdout.contains(&0x1b));
    // Colours say nothing that the words do not.
    let (with, without) = (
        screen(&house, 80, &[], "doctor"),
        screen(&house, 80, &[("NO_COLOR", "1")], "doctor"),
    );
    let ids = |text: &str| -> Vec<String> {
        let words = text.lines().filter_map(|l| l.split(':').next());
        words.map(str::to_owned).collect()
    };
    assert_eq!(ids(&visible(&with)), ids(&without));
}

/// A screen with its escape sequences made visible.
fn shown(screen: &str) -> String {
    screen.replace('\x1b', "␛")
}

#[test]
fn screens_of_80_columns_are_as_recorded() {
    let house = house();
    insta::assert_snapshot!("help_in_colour", shown(&screen(&house, 80, &[], "--help")));
    insta::assert_snapshot!(
        "help_without_colour",
        shown(&screen(&house, 80, &[("NO_COLOR", "1")], "--help"))
    );
    let two =
        "house: two\nagents:\n  ada: { cell: process }\n  bob: { cell: process, role: cook }\n";
    house.manifest(two);
    house.expect(0, "up");
    house.manifest(
        &two.replace("  ada: { cell: process }\n", "")
            .replace("cook", "gardener"),
    );
    // A long word in what is free text does not turn the table into records.
    let model = "p/a-model-with-a-name-that-is-longer-than-the-column";
    let providers = "providers: { p: { kind: openai, base_url: 'http://127.0.0.1:1/v1' } }\n";
    let with_model = two.replace("cook", &format!("cook, model: {model}"));
    let other = house.path("long.yaml");
    std::fs::write(&other, format!("version: 1\n{with_model}{providers}")).unwrap();
    let plan = args!("plan -f {}", other.display().to_string());
    let long = visible(&screen(&house, 80, &[], plan));
    assert!(long.contains("STEP  ACTION"), "{long}");
    assert!(without_spaces(&long).contains(model), "{long}");
    assert!(long.lines().all(|l| l.width() <= 80), "{long}");
    insta::assert_snapshot!("plan_in_colour", shown(&screen(&house, 80, &[], "plan")));
    insta::assert_snapshot!(
        "plan_without_colour",
        shown(&screen(&house, 80, &[("NO_COLOR", "1")], "plan"))
    );
    insta::assert_snapshot!(
        "plan_of_40_columns",
        shown(&screen(&house, 40, &[("NO_COLOR", "1")], "plan"))
    );
}

/// A list that was cut off by a full disk must not pass for a whole one.
#[test]
fn what_cannot_be_written_fails_the_command() {
    let house = up("house: h\nagents: { ana: { cell: process } }\n");
    let full = || std::fs::File::options().write(true).open("/dev/full");
    for (args, code) in [
        ("ps", 1),
        ("ps --json", 1),
        ("activity export", 1),
        ("task list", 1),
        ("plan --schema", 1),
        ("--help", 1),
        ("completions bash", 1),
        ("exec ana -- seq 5", 125),
        ("exec ana -- seq 100000", 125),
        ("task show TASK-9", 3),
    ] {
        let output = house.command(args).stdout(full().unwrap()).output();
        let output = output.unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args}: {told}");
        let named = told.contains("No space left on device");
        assert_eq!(named, code != 3, "{args}: {told}");
    }
}

/// A reader that has had enough is no failure, and ends what would print on for ever.
#[test]
fn a_reader_that_goes_away_ends_the_command() {
    use std::io::{BufRead, BufReader};
    let house = up("house: h\nagents: { ana: { cell: process } }\n");
    for args in ["ps --watch", "ps --watch --json", "activity export"] {
        let mut command = house.command(args);
        let mut child = command.stdout(std::process::Stdio::piped()).spawn();
        let child = child.as_mut().unwrap();
        let mut first = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut first).unwrap();
        drop(out);
        assert!(child.wait().unwrap().success(), "{args}");
    }
}
