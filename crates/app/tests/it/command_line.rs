//! The command line as a daily tool: what it prints, of whom it knows, and what it refuses.

use crate::{house, up};
use abbey_api::ServiceView;
use abbey_model::Presence;
use abbey_testkit::args;
use abbey_testkit::house::{House, kill, until};
use serde_json::Value;
use std::io::Write;
use std::process::Stdio;

const WEB: &str = "house: h\nservices:\n  web: { cell: process, command: [sh, -c, 'echo web is here; exec python3 -m http.server \"$0\"', \"{port}\"] }\nagents:\n  a: { cell: process }\n  b: { cell: process }\n";

#[test]
fn services_are_shown_where_agents_are() {
    let house = up(WEB);
    assert!(house.expect(0, "ps").contains("SERVICE"));
    assert_eq!(house.json(0, "status")["services"][0]["name"], "web");
    let why: ServiceView = house.document(0, "why web");
    assert_eq!(why.presence, Presence::Ready);
    assert_eq!(
        house.expect(0, "exec service/web -- echo inside"),
        "inside\n"
    );
    house.expect(3, "why nobody");
    for line in [
        "why service/none",
        "logs service/none",
        "exec service/none -- true",
    ] {
        let code = if line.starts_with("exec") { 125 } else { 3 };
        let told = house.expect_refusal(code, line);
        assert!(told.contains("there is no service `none`"), "{told}");
        assert!(told.contains("`abbey service list`"), "{told}");
    }
    for line in ["stop web", "stop service/web", "restart service/web"] {
        let told = house.expect_refusal(3, line);
        assert!(told.contains("`web` is a service"), "{told}");
    }
}

#[test]
fn logs_are_those_of_several_and_of_a_time() {
    let house = up(WEB);
    let all = house.expect(0, "logs --all --since 1h");
    for word in ["a is ready", "b is ready", "web is here"] {
        assert!(all.contains(word), "{word}: {all}");
    }
    let both = house.expect(0, "logs a service/web");
    assert!(both.contains("web is here") && !both.contains("b is ready"));
    assert_eq!(house.expect(0, "logs a --tail 1").lines().count(), 1);
    // A cell is shown once however often it is named, and alone it has no name before its lines.
    assert_eq!(house.expect(0, "logs a a"), house.expect(0, "logs a"));
    assert_eq!(
        house.expect(0, "logs web service/web web"),
        house.expect(0, "logs web")
    );
    assert_eq!(
        house.expect(0, "service logs web web"),
        house.expect(0, "logs service/web")
    );
    let told = house.expect_refusal(3, "stop nobody nobody");
    assert_eq!(told.matches("there is no agent").count(), 1, "{told}");
    // Which stream a program chose says nothing about how it does.
    assert!(!all.contains(" err ") && !all.contains(" out "), "{all}");
    assert!(
        house
            .expect_refusal(2, "logs a --since soon")
            .contains("like `90s`")
    );
}

#[test]
fn errors_are_documents_where_documents_are_asked_for() {
    let house = up(WEB);
    for (code, words) in [
        (3, &["why", "nobody", "--json"][..]),
        (2, &["plan", "-f", "none.yaml", "--json"]),
        (2, &["no-such-verb", "--json"]),
    ] {
        let document: Value = serde_json::from_str(&house.expect_refusal(code, words)).unwrap();
        assert_eq!(document["error"]["code"], code, "{document}");
        assert!(!document["error"]["text"].as_str().unwrap().is_empty());
    }
    let printed = house.json(0, args!("init {}", house.path("new").display().to_string()));
    assert!(
        printed["manifest"]
            .as_str()
            .unwrap()
            .ends_with("new/abbey.yaml")
    );
    assert!(house.json(0, "unit print --kind rcd")["files"][0]["text"].is_string());
}

#[test]
fn what_others_write_controls_no_terminal() {
    let house = up(WEB);
    let evil = "poem \x1b]0;owned\x07\u{9b}31m\u{202e}end";
    house.run(args!("task add {} --to a", evil));
    let shown = house.expect(0, "task list") + &house.expect(0, "task show 1");
    assert!(shown.contains("\\u{1b}]0;owned\\u{7}"), "{shown}");
    assert!(!shown.contains(['\x1b', '\x07', '\u{9b}', '\u{202e}']));
    let text = house.expect(0, "task show 1 --json");
    assert!(!text.contains(['\x1b', '\u{9b}', '\u{202e}']));
    let document: Value = serde_json::from_str(&text).unwrap();
    assert!(document.to_string().contains("owned"));
}

#[test]
fn a_program_that_cannot_run_is_named_and_a_paused_cell_refuses_it() {
    let house = up(WEB);
    let missing = house.expect_refusal(127, "exec a -- no-such-program");
    assert!(
        missing.contains("`no-such-program` was not found"),
        "{missing}"
    );
    house.expect(0, "pause a");
    let paused = house.expect_refusal(125, "exec a -- true");
    assert!(paused.contains("abbey resume a"), "{paused}");
    house.expect(0, "resume a");
    house.expect(0, "exec a -- true");
}

#[test]
fn a_new_agent_has_its_model_and_is_ready() {
    let house = house();
    let path = house.manifest("house: h\nproviders:\n  p: { kind: openai, base_url: http://127.0.0.1:1/v1 }\ndefaults: { cell: process }\nagents:\n  a: {}\n");
    house.expect(0, "up");
    house.expect(0, "agent new b --template worker --model p/small");
    let b = house.agent("b");
    assert_eq!(
        (b.presence, b.model.as_deref()),
        (Presence::Ready, Some("p/small"))
    );
    assert!(std::fs::read_to_string(path).unwrap().contains("p/small"));
}

#[test]
fn a_service_that_does_not_answer_is_not_ready_unless_it_serves_no_port() {
    let manifest = |more: &str| {
        format!(
            "house: h\nservices:\n  deaf: {{ cell: process, command: [sleep, '3600']{more} }}\nagents: {{ a: {{ cell: process }} }}\n"
        )
    };
    let house = up(&manifest(", probe: none"));
    house.manifest(&manifest(""));
    house.expect(0, "up --no-wait");
    let deaf: ServiceView = house.document(0, "why deaf");
    assert_eq!(
        (deaf.presence, deaf.healthy),
        (Presence::WorkerOnly, Some(false))
    );
    let checks = house.json(0, "doctor");
    let checks = checks["checks"].as_array().unwrap();
    assert!(
        checks
            .iter()
            .any(|c| c["id"] == "service.deaf" && c["severity"] != "info")
    );
}

#[test]
fn an_agent_has_the_subnet_that_its_manifest_names_and_whoever_had_it_moves() {
    let manifest =
        |a: &str, b: &str| format!("house: h\nagents:\n  a: {{ {a} }}\n  b: {{ {b} }}\n");
    let house = up(&manifest("subnet: 10.77.7.0/24", ""));
    let address = |house: &House, name: &str| house.agent(name).address.unwrap_or_default();
    assert!(address(&house, "a").starts_with("10.77.7."));
    house.manifest(&manifest("subnet: 10.77.8.0/24", "subnet: 10.77.7.0/24"));
    house.expect(0, "up");
    assert!(address(&house, "a").starts_with("10.77.8."));
    assert!(address(&house, "b").starts_with("10.77.7."));
    for (wrong, why) in [
        ("10.99.0.0/24", "of `network.pool`"),
        ("10.77.7.0/24", "is also that of agent"),
    ] {
        house.manifest(&manifest(
            &format!("subnet: {wrong}"),
            "subnet: 10.77.7.0/24",
        ));
        assert!(house.expect(4, "plan").contains(why), "{wrong}");
        let _either = house.expect_refusal(4, "up");
    }
}

#[test]
fn what_was_refused_is_tried_again_at_once_when_it_is_asked_for() {
    let house = up(WEB);
    // Images of drives beside a cell without drives are refused by the privileged helper.
    let disks = house.home().join("agents/a/disks");
    std::fs::create_dir(&disks).unwrap();
    std::fs::write(disks.join("state.ext4"), "").unwrap();
    house.manifest(&WEB.replace(
        "  a: { cell: process }",
        "  a: { cell: process, terminal: true }",
    ));
    house.expect(0, "up --no-wait");
    until("the agent is given up for now", || {
        house.agent("a").presence == Presence::Degraded
    });
    std::fs::remove_dir_all(&disks).unwrap();
    house.expect(0, "up");
    assert_eq!(house.agent("a").presence, Presence::Ready);
}

#[test]
fn a_lost_helper_delays_no_agent_once_it_is_back() {
    let house = up(WEB);
    let helper = abbey_cells::hostd::HostdClient::new(&house.home());
    kill(abbey_cells::hostd::HostdApi::hello(&helper).unwrap().pid);
    kill(house.agent("a").pid.unwrap());
    house.expect(0, "up");
    assert_eq!(house.agent("a").presence, Presence::Ready);
}

#[test]
fn people_see_what_was_done_and_nouns_alone_list() {
    let house = up(WEB);
    until("hostd's steps are in the log", || {
        let whole = house.expect(0, "activity --all -n 200");
        whole.contains(" hostd.start ")
    });
    assert!(!house.expect(0, "activity -n 200").contains(" hostd.start "));
    // Details are text, not JSON.
    house.expect(0, "exec a -- true");
    let newest = house.expect(0, "activity -n 1");
    assert!(newest.contains("cell.exec agent-a argv: "), "{newest}");
    for noun in ["task", "budget", "service", "secret", "token"] {
        assert_eq!(
            house.expect(0, noun),
            house.expect(
                0,
                args!(
                    "{} {}",
                    noun,
                    if noun == "budget" { "show" } else { "list" }
                )
            )
        );
    }
    let shown = |zone: &str| {
        let output = house.command("logs a -n 1").env("TZ", zone).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    assert_ne!(shown("Asia/Tokyo")[..19], shown("UTC")[..19]);
    assert!(house.expect(0, "ps").contains("MiB"));
}

#[test]
fn a_service_that_answers_nowhere_is_reported_by_every_command_alike() {
    let house = house();
    let manifest = |more: &str| {
        format!(
            "house: h\nservices:\n  quiet: {{ cell: process, command: [sleep, '3600']{more} }}\n  away: {{ enabled: false, command: [sleep, '3600'] }}\nagents: {{ a: {{ cell: process }} }}\n"
        )
    };
    house.manifest(&manifest(""));
    let planned = house.expect(0, "plan");
    assert!(
        planned.contains("service:quiet: it names no port"),
        "{planned}"
    );
    let up = house.run("up");
    assert_eq!(up.status.code(), Some(0));
    let told = String::from_utf8(up.stderr).unwrap();
    // Nothing says that waiting longer helps.
    assert!(
        told.contains("note: service `quiet`: it runs and does not answer"),
        "{told}"
    );
    let shown = String::from_utf8(up.stdout).unwrap();
    assert!(
        shown.contains("SERVICE") && shown.contains("worker_only"),
        "{shown}"
    );
    assert!(house.expect(0, "ps").contains("worker_only"));
    assert!(house.expect(0, "report status").contains("quiet"));
    // One that is switched off is listed, and is not a service of the house.
    let listed = house.expect(0, "service list");
    assert!(
        listed.contains("away") && listed.contains("disabled"),
        "{listed}"
    );
    let listed = house.json(0, "service list");
    assert_eq!(listed["disabled"], serde_json::json!(["away"]));
    assert_eq!(listed["services"].as_array().unwrap().len(), 1);

    house.manifest(&manifest(", probe: none"));
    assert!(!house.expect(0, "plan").contains("names no port"));
    let up = house.run("up");
    assert!(!String::from_utf8_lossy(&up.stderr).contains("note:"));
    assert_eq!(house.json(0, "ps")["services"][0]["presence"], "ready");
}

#[test]
fn a_refused_edit_names_no_line_of_a_manifest_that_nobody_has() {
    let house = house();
    let path = house.manifest("house: h\ndefaults: { cell: process }\nagents:\n  a: {}\n  b: { reports_to: a }\n  c: { reports_to: b }\n");
    house.expect(0, "up");
    let before = std::fs::read_to_string(&path).unwrap();
    let refused = house.expect_refusal(2, "agent rm b");
    assert!(
        refused.contains("agent `b` cannot be removed: `agents.c.reports_to` names it"),
        "{refused}"
    );
    assert!(
        !refused.contains("line ") && refused.contains("nothing was changed"),
        "{refused}"
    );
    let refused = house.expect_refusal(2, "schedule add a/x --cron '61 * * * *' --task y");
    assert!(
        refused.contains("`61 * * * *` is no cron pattern") && !refused.contains("line "),
        "{refused}"
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), before);
    // Where the text is the operator's own, the line helps.
    house.manifest(
        "house: h\nagents:\n  a: { schedules: { s: { cron: '61 * * * *', task: x } } }\n",
    );
    assert!(house.expect_refusal(2, "plan").contains("line 6"));
}

#[test]
fn a_day_too_short_for_one_run_is_warned_of() {
    let house = house();
    house.manifest("house: h\nbudget: { minutes_per_day: 20 }\nagents:\n  a: { budget: { minutes_per_day: 5 } }\n  b: { budget: { minutes_per_day: 5 }, tools: { wall: 5m } }\n  c: { tools: { wall: 1h } }\n");
    let planned = house.expect(0, "plan");
    for line in [
        "agent:a: no task of it ever starts: its `budget.minutes_per_day` is shorter than a run may take (15 min, `tools.wall`)",
        "agent:c: no task of it ever starts: `budget.minutes_per_day` of the house is shorter than a run may take (60 min, `tools.wall`)",
    ] {
        assert!(planned.contains(line), "{planned}");
    }
    assert_eq!(planned.matches("ever starts").count(), 2, "{planned}");
}

#[test]
fn what_concerns_several_is_said_once_and_half_a_price_is_no_price() {
    let house = house();
    house.manifest("house: h\nproviders:\n  p: { kind: openai, base_url: 'http://127.0.0.1:1/v1', input_usd_per_mtok: 1 }\ndefaults: { cell: process, model: p/x }\nagents: { a: {}, b: {}, c: {} }\n");
    let planned = house.expect(0, "plan");
    let line = "warning: agent:a, agent:b, agent:c: has a model and no budget on any level";
    assert_eq!(
        planned.matches("no budget on any level").count(),
        1,
        "{planned}"
    );
    assert!(planned.contains(line), "{planned}");
    assert!(
        planned.contains("provider:p: only one of `input_usd_per_mtok`"),
        "{planned}"
    );
    house.expect(0, "up");
    assert!(
        house
            .expect(0, "report who spent most today")
            .contains("oken")
    );
    assert!(house.expect(0, "doctor").contains("no schedules"));
}

/// A file that can't be read to its end is refused where a file is named: nothing waits for a FIFO that nobody writes.
#[test]
fn files_that_cannot_be_read_to_an_end_are_refused() {
    let house =
        up("house: h\ndefaults: { cell: process }\ndocuments:\n  notes: {}\nagents:\n  a: {}\n");
    let make_fifo = |name: &str| {
        let path = house.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).unwrap();
        path.display().to_string()
    };
    let (fifo, skill) = (make_fifo("fifo"), make_fifo("skills/odd/SKILL.md"));
    let skill = skill.strip_suffix("/SKILL.md").unwrap();
    for args in [
        args!("plan -f {}", fifo),
        args!("up -f {}", fifo),
        args!("skill check {}", skill),
        args!("backup verify {}", fifo),
        args!("activity verify {}", fifo),
        args!("task import {}", fifo),
        args!("task sync {}", fifo),
        args!("secret set key --from-file {}", fifo),
        args!("document write notes --file {}", fifo),
    ] {
        let shown = format!("{args:?}");
        let output = house.run(args);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{shown}");
        assert!(
            text.contains("it is a FIFO, not a regular file"),
            "{shown}: {text}"
        );
    }
    // Handed over on purpose, a pipe is a file like others.
    let mut command = house.command(args!("document write notes --file /dev/stdin"));
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"by pipe").unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(house.expect(0, "document show notes"), "by pipe\n");
}

/// What a manifest names as a charter is a file of its directory, whatever takes its place meanwhile.
#[test]
fn charters_are_regular_files_of_the_directory_of_the_manifest() {
    let house = house();
    let charter = house.path("charter.md");
    house
        .manifest("house: h\ndefaults: { cell: process }\nagents:\n  a: { charter: charter.md }\n");
    std::os::unix::fs::symlink("/etc/passwd", &charter).unwrap();
    let refused = house.expect_refusal(2, "plan");
    assert!(
        refused.contains("it is not in the directory of the manifest"),
        "{refused}"
    );
    std::fs::remove_file(&charter).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mkfifoat(rustix::fs::CWD, &charter, mode).unwrap();
    let refused = house.expect_refusal(2, "plan");
    assert!(refused.contains("not a regular file"), "{refused}");
    std::fs::remove_file(&charter).unwrap();
    std::fs::File::create(&charter)
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    let refused = house.expect_refusal(2, "plan");
    assert!(refused.contains("longer than 65536 bytes"), "{refused}");
    std::fs::write(house.path("other.md"), "You count.").unwrap();
    std::fs::remove_file(&charter).unwrap();
    std::os::unix::fs::symlink("other.md", &charter).unwrap();
    house.expect(0, "plan");
}

/// Exit codes of verbs that run programs, copy, print logs and plan, as the table in `docs/guide/troubleshooting.md` has
/// them. Those of `exec` and `run` are the program's, and 125 to 127 are failures of their own.
#[test]
fn exit_codes_are_those_of_the_table() {
    let house = house();
    house.manifest("house: codes\nagents: { a: {}, off: {} }\n");
    let mut wrong = String::new();
    let mut check = |why: &str, rows: &[(&str, i32)]| {
        for (line, code) in rows {
            let words: Vec<&str> = line.split(' ').map(|w| w.trim_matches('_')).collect();
            let words: Vec<String> = words.iter().map(|w| w.replace('_', " ")).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let output = house.run(&words[..]);
            if output.status.code() != Some(*code) {
                let said = String::from_utf8_lossy(&output.stderr);
                let got = output.status.code();
                wrong.push_str(&format!("{why}: `{line}` has {got:?}, not {code}: {said}"));
            }
        }
    };
    let usage = [
        ("run --nonsense -- true", 2),
        ("exec --nonsense a -- true", 2),
        ("cp --nonsense x y", 2),
        ("logs --nonsense", 2),
        ("plan --nonsense", 2),
        ("run", 2),
        ("exec a", 2),
        ("cp x", 2),
        ("cp x y", 2),
        ("logs a --since yesterday", 2),
        ("run --timeout never -- true", 2),
        ("plan -f nowhere.yaml", 2),
        ("cp no-such-file a:x", 2),
        ("run --in no-such-file -- true", 2),
    ];
    check("a house that is down", &usage);
    check(
        "no control plane",
        &[
            ("exec a -- true", 125),
            ("run -- true", 125),
            ("cp a:x y", 6),
            ("logs a", 6),
            ("ps", 6),
            ("plan", 0),
        ],
    );
    house.expect(0, "up");
    house.expect(0, "stop off");
    check("a house that is up", &usage);
    std::fs::write(house.path("file"), "text").unwrap();
    check(
        "not found",
        &[
            ("exec nobody -- true", 125),
            ("exec a -- no-such-program", 127),
            ("exec a -- /etc/passwd", 126),
            ("run -- no-such-program", 127),
            ("cp nobody:x y", 3),
            ("cp file nobody:x", 3),
            ("cp a:no-such-file y", 3),
            ("logs nobody", 3),
        ],
    );
    check(
        "refused",
        &[
            ("exec off -- true", 125),
            ("run --processes 0 -- true", 125),
            ("cp file off:x", 4),
            ("cp file a:/etc/x", 1),
        ],
    );
    check(
        "the program's own",
        &[
            ("exec a -- sh -c exit_7", 7),
            ("exec a -- sh -c kill_-9_$$", 137),
            ("run -- sh -c exit_7", 7),
            ("run -- true", 0),
            ("run --timeout 1s -- sleep 60", 124),
            ("cp file a:x", 0),
            ("cp a:x y", 0),
            ("logs a", 0),
            ("plan", 0),
        ],
    );
    house.manifest("house: codes\nagents: { a: { reports_to: nobody } }\n");
    check("a wrong manifest", &[("plan", 2)]);
    house.manifest("house: codes\nservices: { w: { command: [w], port: 7070 }, v: { command: [v], port: 7070 } }\nagents: { a: { uses: [w, v] } }\n");
    check("a plan that cannot be applied", &[("plan", 4)]);
    assert!(wrong.is_empty(), "{wrong}");
}
