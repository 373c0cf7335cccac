//! The work queue for people and for agents that work through files: evidence is verified by the house, and results count
//! wherever they were written (S2-10 to S2-15).

use crate::{house, up, with_model};
use abbey_testkit::args;
use abbey_testkit::house::{House, until};
use serde_json::{Value, json};
use std::path::PathBuf;

/// An agent without a program; the test does its work by hand.
const BY_HAND: &str = "house: hands\ndefaults: { cell: process }\nagents:\n  a: { template: orchestrator, files: {} }\n  b: { template: sysadmin, reports_to: a }\n";

fn workspace(house: &House, agent: &str) -> PathBuf {
    house.home().join("agents").join(agent).join("workspace")
}

fn task(house: &House, number: &str) -> Value {
    house.json(0, args!("task show {}", number))["task"].clone()
}

#[test]
fn a_result_file_completes_the_task_in_any_order_of_deletion() {
    let house = up(BY_HAND);
    let sh = |script: &str| house.expect(0, args!("exec a -- sh -c {}", script));
    house.expect(0, "task add 'Bake bread.' --to a");
    let active = workspace(&house, "a").join("work/TASK-1.active");
    until("the work lies there", || active.exists());
    let text = std::fs::read_to_string(&active).unwrap();
    assert!(
        text.contains("Bake bread.") && text.contains("completed/TASK-1.txt"),
        "{text}"
    );
    // As the original did: the one who works removes the file itself, before anybody saw the result.
    sh(
        "rm work/TASK-1.active; echo 'two loaves' > completed/new; mv completed/new completed/TASK-1.txt",
    );
    until("it is done", || task(&house, "TASK-1")["state"] == "done");
    let done = task(&house, "TASK-1");
    assert_eq!(
        done["result"],
        json!({ "text": "two loaves", "source": "command", "data": null })
    );
    assert_eq!(done["verified"], "none");
    until("the result file is archived", || {
        !workspace(&house, "a").join("completed/TASK-1.txt").exists()
    });
    // Once more is another piece of work: the old result does not count for it.
    house.expect(0, "task add 'Bake more.' --to a");
    until("the next lies there", || {
        workspace(&house, "a").join("work/TASK-2.active").exists()
    });
    // A result that was left while nobody looked is taken by the next boot.
    house.expect(0, "stop a");
    let left = workspace(&house, "a").join("completed/TASK-2.txt");
    std::fs::write(&left, "three loaves\n").unwrap();
    house.expect(0, "start a");
    until("it is done", || task(&house, "TASK-2")["state"] == "done");
    assert_eq!(task(&house, "TASK-2")["result"]["text"], "three loaves");
    assert!(!active.exists());
    // A link out of the cell is no result.
    house.expect(0, "task add 'Steal bread.' --to a");
    until("it lies there", || {
        workspace(&house, "a").join("work/TASK-3.active").exists()
    });
    sh("ln -s /etc/hostname completed/TASK-3.txt; echo x > completed/y");
    until("it has failed", || {
        task(&house, "TASK-3")["state"] == "failed"
    });
}

#[test]
fn a_program_works_through_files_and_its_failure_is_recorded() {
    let house = house();
    let program = house.path("baker");
    std::fs::write(
        &program,
        "#!/bin/sh\nn=$(basename \"$1\" .active)\ngrep -q stone \"$1\" && exit 3\nsed -n 2p \"$1\" > completed/$n.txt\n",
    )
    .unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    house.manifest(&BY_HAND.replace(
        "files: {}",
        &format!("files: {{ command: [{}] }}", program.display()),
    ));
    house.expect(0, "up");
    let done = house.json(0, "task add 'Bake bread.' --to a --wait");
    assert_eq!(done["task"]["result"]["text"], "Bake bread.");
    let failed = house.json(1, "task add 'Bake a stone.' --to a --wait");
    assert!(
        failed["task"]["failure"]
            .as_str()
            .unwrap()
            .contains("ended (exit status: 3)")
    );
}

#[test]
fn a_task_is_done_only_after_its_evidence_is_verified() {
    let house = up(BY_HAND);
    let add = |evidence: &[&str], code: i32| {
        let mut args = vec![
            "task",
            "add",
            "Bake bread.",
            "--to",
            "a",
            "--wait",
            "--timeout",
            "60",
        ];
        evidence.iter().for_each(|e| args.extend(["--evidence", e]));
        house.json(code, &args)["task"].clone()
    };
    let sh = |script: &str| house.expect(0, args!("exec a -- sh -c {}", script));
    let left = |n: u32| {
        sh(&format!(
            "mkdir -p completed; echo done > completed/TASK-{n}.txt"
        ))
    };
    sh("echo rye > bread");
    left(1);
    let good = add(
        &["file:bread", "command:[\"grep\",\"-q\",\"rye\",\"bread\"]"],
        0,
    );
    assert_eq!(
        (&good["state"], &good["verified"]),
        (&json!("done"), &json!("evidence"))
    );
    // What cannot be tried is neither yes nor no.
    left(2);
    let unknown = add(&["command:[\"no-such-program\"]"], 1);
    assert_eq!(unknown["state"], "unverified");
    for wrong in ["file:/etc/passwd", "file:../x", "command:[]"] {
        house.expect_refusal(2, args!("task add x --evidence {}", wrong));
    }
    house.expect_refusal(2, "task add x --evidence 'trust me'");
}

/// Approval by another agent, with real runs of both; a denial returns the task with the reason.
#[test]
fn review_evidence_needs_the_reviewers_approval() {
    let house = up(&with_model(
        "  worker: { template: worker }\n  critic: { template: worker }\n",
    ));
    house.wait_for_model();
    let says = |accepted: bool, why: &str| json!({ "tool_calls": [{ "name": "finish", "arguments": { "result": why, "data": { "accepted": accepted } } }] });
    house.script_model(&json!([{ "text": "a draft" }, says(false, "there is no ending"), { "text": "with an ending" }, says(true, "good")]));
    let add = |reviewer: &str, code: i32| {
        let evidence = format!("review:{reviewer}");
        let args = [
            "task",
            "add",
            "Write the story",
            "--to",
            "worker",
            "--evidence",
            &evidence,
            "--wait",
        ];
        house.json(code, &args)["task"].clone()
    };
    let done = add("critic", 0);
    assert_eq!(
        (
            &done["verified"],
            &done["result"]["text"],
            &done["attempts"]
        ),
        (&json!("review"), &json!("with an ending"), &json!(2))
    );
    let runs = house.json(0, "task list --agent critic");
    assert_eq!(runs["tasks"].as_array().unwrap().len(), 2, "{runs}");
}

/// A review that can't take place is refused before anything is done and paid.
#[test]
fn evidence_by_an_agent_that_cannot_review_is_refused_at_intake() {
    let house = up(
        "house: h\nproviders: { dead: { kind: openai, base_url: 'http://127.0.0.1:1/v1' } }\ndefaults: { cell: process }\nbudget: { tokens_per_day: 1000000 }\nagents: { lead: { model: dead/x }, worker: { model: dead/x, reports_to: lead }, robot: { reports_to: lead } }\n",
    );
    for (code, to, reviewer, text) in [
        (
            3,
            "--to worker",
            "nobody",
            "there is no agent `nobody` to review the result",
        ),
        (
            2,
            "--to worker",
            "worker",
            "agent `worker` would do the task and cannot review it itself",
        ),
        (
            2,
            "--to worker",
            "robot",
            "agent `robot` has no model, so it cannot review the result",
        ),
        // Without a name only the top of the organization would do it.
        (
            2,
            "",
            "lead",
            "without an assignee only `lead` would do the task",
        ),
    ] {
        let mut args = vec!["task", "add", "Write the story"];
        args.extend(to.split_whitespace());
        let evidence = format!("review:{reviewer}");
        args.extend(["--evidence", evidence.as_str()]);
        let refused = house.expect_refusal(code, &args);
        assert!(refused.contains(text), "{refused}");
        assert!(refused.contains("`abbey ps` lists the agents"), "{refused}");
    }
    assert_eq!(house.json(0, "task list")["tasks"], json!([]));
}

/// An agent that waits for the answer cannot renew its lease, so the house extends it during verification.
#[test]
fn evidence_verification_can_outlast_a_lease() {
    let house = house();
    house.manifest(BY_HAND);
    house.start_control_plane("--lease-ms 1200");
    house.expect(0, "up");
    house.expect(
        0,
        "exec a -- sh -c 'mkdir -p completed; echo done > completed/TASK-1.txt'",
    );
    let slow = "command:[\"sleep\",\"4\"]";
    let doc = house.json(
        0,
        args!("task add 'Bake slowly.' --to a --evidence {} --wait", slow),
    );
    assert_eq!(
        (&doc["task"]["verified"], &doc["task"]["attempts"]),
        (&json!("evidence"), &json!(1))
    );
}

#[test]
fn a_result_without_evidence_is_returned_with_the_reason() {
    let house = up(&with_model("  a: { template: orchestrator }\n"));
    house.wait_for_model();
    let write = json!({ "tool_calls": [{ "name": "write_file", "arguments": { "path": "report.md", "content": "all of it" } }] });
    house.script_model(&json!([{ "text": "It is finished." }, write, { "text": "Now it is." }]));
    let doc = house.json(
        0,
        "task add 'Write the report.' --to a --evidence file:report.md --wait",
    );
    let runs = doc["task"]["runs"].as_array().unwrap();
    let reasons: Vec<&Value> = runs.iter().map(|r| &r["reason"]).collect();
    assert_eq!(reasons, ["evidence_failed", "completed"]);
    assert_eq!(doc["task"]["verified"], "evidence");
    // One that never comes ends in a failure that says what is lacking.
    house.script_model(&json!([{ "text": "Done." }, { "text": "Done." }, { "text": "Done." }]));
    let doc = house.json(
        1,
        "task add 'Write another.' --to a --evidence file:other.md --wait",
    );
    assert_eq!(doc["task"]["state"], "failed");
    assert!(
        doc["task"]["failure"]
            .as_str()
            .unwrap()
            .contains("the file `other.md` does not exist")
    );
}

fn view(house: &House) -> String {
    std::fs::read_to_string(house.path("Q.md")).unwrap()
}

#[test]
fn markdown_queue_merges_edits_by_people_with_task_changes() {
    let house = up(BY_HAND);
    let (queue, file) = (house.path("Q.md"), "Q.md");
    std::fs::write(&queue, "# Ours\n\n- [ ] (P0, a) Bake bread\n  and much of it\n- [ ] How much free disk space is there?\n- [ ] (P1, nobody) Sing\n").unwrap();
    let text = house.expect(4, args!("task sync {}", file));
    assert!(
        text.contains("TASK-1 was added") && text.contains("TASK-2 was added"),
        "{text}"
    );
    assert!(
        text.contains("Q.md:6: there is no agent `nobody`"),
        "{text}"
    );
    let kept = std::fs::read_to_string(house.path("Q.md.before")).unwrap();
    assert!(kept.starts_with("# Ours"));
    assert!(
        view(&house).contains("\n- [ ] (P1, nobody) Sing\n"),
        "nothing that was written is lost: {}",
        view(&house)
    );
    let corrected = view(&house).replace("- [ ] (P1, nobody) Sing\n", "");
    std::fs::write(&queue, corrected).unwrap();
    until("one runs by hand, one is done by a skill", || {
        task(&house, "TASK-1")["state"] == "running" && task(&house, "TASK-2")["state"] == "done"
    });
    house.expect(0, args!("task sync {}", file));
    let now = view(&house);
    assert!(
        now.contains("- [ ] **TASK-1** (P0, a, running) Bake bread <!-- "),
        "{now}"
    );
    assert!(now.contains("\n  and much of it\n"), "{now}");
    assert!(
        now.contains("- [x] **TASK-2** (P2, -, done) How much free disk space"),
        "{now}"
    );
    // Nothing happened: the file is left as it is.
    let before = std::fs::metadata(&queue).unwrap().modified().unwrap();
    house.expect(0, args!("task sync {}", file));
    assert_eq!(
        std::fs::metadata(&queue).unwrap().modified().unwrap(),
        before
    );
    // Edited while the house works: what waits is changed, what runs is not, and both are told.
    house.expect(0, "stop a");
    house.expect(0, "task add 'Sweep the yard' --to a --priority P3");
    house.expect(0, args!("task sync {}", file));
    let edited = view(&house)
        .replace(
            "(P3, a, ready) Sweep the yard",
            "(P1, a, ready) Sweep the whole yard",
        )
        .replace("- [x] **TASK-2**", "- [ ] **TASK-2**")
        + "\n## Notes\n\n- [ ] not work, only a note\n";
    std::fs::write(&queue, edited).unwrap();
    let text = house.expect(4, args!("task sync {}", file));
    assert!(text.contains("TASK-3 was changed"), "{text}");
    assert!(text.contains("TASK-2: it is done"), "{text}");
    let changed = task(&house, "TASK-3");
    assert_eq!(
        (&changed["title"], &changed["priority"]),
        (&json!("Sweep the whole yard"), &json!("P1"))
    );
    assert!(view(&house).ends_with("## Notes\n\n- [ ] not work, only a note\n"));
    assert_eq!(
        house.json(0, "task list")["tasks"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
    // Both sides changed the same: the house's stays, and what was written is kept.
    let mine = view(&house).replace("Sweep the whole yard", "Sweep nothing");
    let theirs = view(&house).replace("Sweep the whole yard", "Sweep all");
    std::fs::write(house.path("theirs.md"), theirs).unwrap();
    house.expect(0, "task import theirs.md");
    std::fs::write(&queue, mine).unwrap();
    let text = house.expect(4, args!("task sync {}", file));
    assert!(
        text.contains("it was changed in the file and in the house"),
        "{text}"
    );
    assert!(view(&house).contains("Sweep all"));
    let conflicts = std::fs::read_to_string(house.path("Q.md.conflicts")).unwrap();
    assert!(conflicts.contains("Sweep nothing"));
    // Cancelled by a word in the line.
    std::fs::write(
        &queue,
        view(&house).replace("(P1, a, ready)", "(P1, a, cancelled)"),
    )
    .unwrap();
    house.expect(0, args!("task sync {}", file));
    assert_eq!(task(&house, "TASK-3")["state"], "cancelled");
    assert!(house.expect(0, "task export --markdown").contains("TASK-3"));
}

/// Copies of the file are for whom the file is, and none is left that nobody has open.
#[test]
fn copies_of_the_queue_file_are_as_private_as_it_and_do_not_pile_up() {
    use std::os::unix::fs::PermissionsExt;
    let house =
        up("house: q\ndefaults: { cell: process }\nagents:\n  a: { template: orchestrator }\n");
    let path = |name: &str| house.path(&format!("queue/{name}"));
    std::fs::create_dir(path("")).unwrap();
    std::fs::write(path("Q.md"), "- [ ] (P1, a) first\n").unwrap();
    std::fs::set_permissions(path("Q.md"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let names = || {
        let entries = std::fs::read_dir(path("")).unwrap();
        let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    };
    let q = path("Q.md").display().to_string();
    house.expect(0, args!("task sync {}", q));
    assert_eq!(names(), ["Q.md", "Q.md.before"]);
    for name in names() {
        let mode = std::fs::metadata(path(&name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    // An editor that has it open keeps it until it closes it, and what it writes is applied.
    let append = std::fs::OpenOptions::new().append(true).open(&q).unwrap();
    house.expect(0, "task add --to a second");
    house.expect(0, args!("task sync {}", q));
    assert_eq!(names().len(), 3, "{:?}", names());
    std::io::Write::write_all(&mut &append, b"- [ ] (P1, a) third\n").unwrap();
    drop(append);
    house.expect(0, args!("task sync {}", q));
    assert_eq!(names(), ["Q.md", "Q.md.before"]);
    let text = std::fs::read_to_string(&q).unwrap();
    for title in ["first", "second", "third"] {
        assert_eq!(text.matches(&format!(") {title} ")).count(), 1, "{text}");
    }
}

/// What was refused goes into a file beside the queue; whoever may write there can't lead it elsewhere.
#[test]
fn refused_edits_are_written_through_no_link() {
    let house = up(
        "house: q\ndefaults: { cell: process }\nagents:\n  a: { template: orchestrator, files: {} }\n",
    );
    house.expect(0, "stop a");
    house.expect(0, "task add --to a 'Sweep the yard'");
    house.expect(0, "task sync Q.md");
    let mine = view(&house).replace("Sweep the yard", "Sweep nothing");
    house.expect(0, "task cancel TASK-1");
    std::fs::write(house.path("Q.md"), mine).unwrap();
    std::fs::write(house.path("elsewhere"), "").unwrap();
    std::os::unix::fs::symlink("elsewhere", house.path("Q.md.conflicts")).unwrap();
    let text = house.expect_refusal(1, "task sync Q.md");
    assert!(text.contains("Q.md.conflicts"), "{text}");
    assert_eq!(std::fs::read(house.path("elsewhere")).unwrap(), b"");
    std::fs::remove_file(house.path("Q.md.conflicts")).unwrap();
    house.expect(4, "task sync Q.md");
    let kept = std::fs::read_to_string(house.path("Q.md.conflicts")).unwrap();
    assert!(kept.contains("Sweep nothing"), "{kept}");
}

/// A synchronisation may be killed between the change in the house and the change in the file; a line that is written
/// again later is a new task.
#[test]
fn a_queue_line_is_one_task_until_it_is_rewritten() {
    let house = up(
        "house: q
defaults: { cell: process }
agents:
  a: { template: sysadmin }
workflows:
  many: { input: { q: { type: list } }, steps: { each: { skill: system-stats, agent: a, each: $input.q } } }
",
    );
    let line = "- [ ] show system stats\n";
    let write = |text: &str| std::fs::write(house.path("Q.md"), text).unwrap();
    let mine = || {
        let tasks = house.json(0, "task list --limit 1000");
        let tasks = tasks["tasks"].as_array().unwrap().iter();
        tasks.filter(|t| t["link"].is_null()).count()
    };
    write(line);
    // Taken, and the file never written.
    house.expect(0, "task import Q.md");
    house.expect(0, "task sync Q.md");
    assert_eq!(mine(), 1);
    // Many pieces of other work come and go; none of them is in the file, and none hides what is.
    let list: Vec<u32> = (0..60).collect();
    let input = format!("q={}", json!(list));
    house.expect(0, args!("workflow run many {} --wait --timeout 120", input));
    house.expect(0, "task sync Q.md");
    assert!(view(&house).contains("**TASK-1**"), "{}", view(&house));
    assert_eq!(view(&house).matches("TASK-").count(), 1);
    write(&format!("{}{line}", view(&house)));
    house.expect(0, "task sync Q.md");
    assert_eq!(mine(), 2, "written again, it is new work");
    // As is one that is done, where a person asks for it again.
    until("the second is done", || {
        house.expect(0, "task sync Q.md");
        view(&house).matches(", done) show system stats").count() == 2
    });
    let again = view(&house).replacen(", done) show", ", retry) show", 1);
    write(&again);
    house.expect(0, "task sync Q.md");
    assert_eq!(mine(), 3);
    assert!(!view(&house).contains(", retry)"), "{}", view(&house));
    house.expect(0, "task sync Q.md");
    write(&again);
    house.expect(0, "task sync Q.md");
    assert_eq!(mine(), 3, "the same edit of an old copy is the same task");
}

#[test]
fn concurrent_queue_edits_and_kills_lose_and_double_nothing() {
    let house = up(
        "house: q\ndefaults: { cell: process }\nagents:\n  a: { template: orchestrator, files: {} }\n",
    );
    house.expect(0, "stop a");
    house.expect(0, "task sync Q.md");
    let mut watcher = house
        .command("task sync Q.md --watch")
        .stdout(std::process::Stdio::null())
        .stderr(std::fs::File::create(house.path("watcher.log")).unwrap())
        .spawn()
        .unwrap();
    let append = |text: &str| {
        use std::io::Write;
        let opened = std::fs::OpenOptions::new()
            .append(true)
            .open(house.path("Q.md"));
        opened.unwrap().write_all(text.as_bytes()).unwrap();
    };
    append("- [ ] (P1, a) first\n");
    until("the watcher took it", || {
        view(&house).contains("**TASK-1** (P1, a, ready) first")
    });
    // A second one syncs by hand while the first looks on; the house dies in between.
    for n in 0..5 {
        append(&format!("- [ ] (P1, a) number {n}\n"));
        if n % 2 == 1 {
            house.kill_control_plane();
            house.expect(0, "up --no-wait");
        }
        house.expect(0, "task sync Q.md");
    }
    house.expect(0, "task cancel TASK-1");
    until("what happened in the house comes into the file", || {
        let told = std::fs::read_to_string(house.path("watcher.log")).unwrap();
        assert!(watcher.try_wait().unwrap().is_none(), "it ended: {told}");
        view(&house).contains("- [x] **TASK-1** (P1, a, cancelled)")
    });
    // What was written into a file that was being exchanged comes as well, a little later.
    let wanted = [
        "first", "number 0", "number 1", "number 2", "number 3", "number 4",
    ];
    let titles = || {
        let tasks = house.json(0, "task list");
        let tasks = tasks["tasks"].as_array().unwrap().iter();
        let mut titles: Vec<String> = tasks
            .map(|t| t["title"].as_str().unwrap().to_owned())
            .collect();
        titles.sort_unstable();
        titles
    };
    until("all of it is work", || titles() == wanted);
    until("each has one line", || {
        let once = |title: &&str| view(&house).matches(&format!(") {title} <!--")).count() == 1;
        wanted.iter().all(once)
    });
    watcher.kill().unwrap();
    watcher.wait().unwrap();
}
