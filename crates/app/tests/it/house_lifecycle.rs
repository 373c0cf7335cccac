//! From a manifest to completed tasks, and down to nothing.

use crate::{TWO, house, up, with_model};
use abbey_testkit::args;
use abbey_testkit::house::until;

#[test]
fn a_skill_answers_a_question_without_a_model_call() {
    let house = up(TWO);
    let doc = house.json(0, "task add 'How much free disk space is there?' --wait");
    let task = &doc["task"];
    assert_eq!(
        (
            task["state"].as_str(),
            task["verified"].as_str(),
            task["assignee"].as_str()
        ),
        (Some("done"), Some("skill"), Some("sysadmin"))
    );
    assert_eq!(task["result"]["source"], "skill");
    assert!(task["result"]["text"].as_str().unwrap().contains("free of"));
    let run = &task["runs"][0];
    assert_eq!(
        (run["state"].as_str(), run["usage"]["source"].as_str()),
        (Some("succeeded"), Some("none"))
    );
    assert_eq!(run["session"].as_array().unwrap().len(), 2);
    assert_eq!(run["charter_hash"].as_str().unwrap().len(), 64);
    assert!(house.expect(0, "task why 1").contains("verified by: skill"));
}

#[test]
fn every_stock_host_skill_works_in_its_cell() {
    let house = up(&TWO.replace("template: sysadmin,", "template: sysadmin, skills: [disk-usage, system-stats, cell-status, service-status, log-search, backup-state],"));
    for (question, expect) in [
        ("show system stats", "processors"),
        ("show agent status", "sysadmin: ready"),
        ("show services status", "no service"),
        ("search the logs for \"is ready\"", "is ready in house two"),
        ("make a backup of the state", "state hash"),
    ] {
        let doc = house.json(0, args!("task add {} --wait", question));
        let text = doc["task"]["result"]["text"].as_str().unwrap_or_default();
        assert!(text.contains(expect), "{question}: {text}");
    }
}

#[test]
fn the_merge_skill_merges_a_branch_and_leaves_conflicts_alone() {
    let house = up(
        "house: g\ndefaults: { cell: process }\nagents:\n  git-admin: { template: git-admin }\n",
    );
    let script = "set -e; git init -q -b main demo; cd demo; git config user.name t; git config user.email t@abbey.invalid; \
        echo one > a; git add a; git commit -qm one; git checkout -qb topic; echo two > b; git add b; git commit -qm two; \
        git checkout -q main; echo three > c; git add c; git commit -qm three; git checkout -qb clash; echo four > a; git commit -qam four; \
        git checkout -q main; echo five > a; git commit -qam five";
    house.expect(0, args!("exec git-admin -- sh -c {}", script));
    let doc = house.json(0, "task add 'Merge branch topic into main in demo' --wait");
    assert_eq!(doc["task"]["result"]["data"]["merged"], true);
    let log = house.expect(0, "exec git-admin -- git -C demo log --oneline -1");
    assert!(log.contains("Merge branch 'topic' into main"), "{log}");
    assert!(
        house.expect(0, "exec git-admin -- ls demo").contains('b'),
        "the working tree follows"
    );
    let told = house.json(1, "task add 'merge clash into main in demo' --wait");
    assert!(
        told["task"]["failure"]
            .as_str()
            .unwrap()
            .contains("conflict in a")
    );
    let after = house.expect(0, "exec git-admin -- git -C demo log --oneline -1");
    assert_eq!(log, after, "the branch was not changed");
    house.expect(0, "task add 'tag release v1.0 on main in demo' --wait");
    assert!(
        house
            .expect(0, "exec git-admin -- git -C demo tag")
            .contains("v1.0")
    );
    assert!(
        house.json(1, "task add 'tag release v1.0 on main in demo' --wait")["task"]["failure"]
            .as_str()
            .unwrap()
            .contains("already exists")
    );
    // Arguments never reach a shell, and never become options.
    let hostile = "skill run git-merge source=--upload-pack=x target=main repository=demo";
    let told = house.expect_refusal(2, hostile);
    assert!(told.contains("are not valid for"), "{told}");
    let doc = house.json(0, "skill explain 'merge --upload-pack=x into main in demo'");
    assert!(doc["skill"].is_null(), "{doc}");
    // The only repository and its current branch need no name.
    house.expect(
        0,
        "exec git-admin -- git -C demo update-ref refs/pull/42/head topic",
    );
    let doc = house.json(0, "task add 'Merge PR #42 into main' --wait");
    assert_eq!(doc["task"]["result"]["data"]["merged"], false, "{doc}");
    house.expect(0, "task add 'Tag version v0.11.0' --wait");
    let tags = house.expect(0, "exec git-admin -- git -C demo tag");
    assert!(tags.contains("v0.11.0"), "{tags}");
}

#[test]
fn model_calls_are_reserved_metered_and_charged_on_every_level() {
    let house = up(&with_model("  abbot: { template: orchestrator }\n"));
    let doc = house.json(0, "task add 'explain monasteries' --wait");
    let run = &doc["task"]["runs"][0];
    assert_eq!(
        (
            run["configured_model"].as_str(),
            run["effective_model"].as_str(),
            run["actual_model"].as_str()
        ),
        (
            Some("scripted/scripted-1"),
            Some("scripted/scripted-1"),
            Some("scripted-1-0613")
        )
    );
    let (input, output) = (
        run["usage"]["input"].as_u64().unwrap(),
        run["usage"]["output"].as_u64().unwrap(),
    );
    assert!(input > 0 && output > 0);
    assert_eq!(
        run["cost_nano_usd"].as_u64().unwrap(),
        input * 1000 + output * 2000
    );
    assert_eq!(run["prompt_hash"].as_str().unwrap().len(), 64);
    let budgets = house.json(0, "budget report");
    for scope in [
        "house",
        "agent:abbot",
        &format!("task:{}", doc["task"]["id"].as_str().unwrap()),
        &format!("run:{}", run["id"].as_str().unwrap()),
    ] {
        let found = budgets["scopes"]
            .as_array()
            .unwrap()
            .iter()
            .find(|s| s["scope"] == scope && s["metric"] == "tokens")
            .unwrap();
        assert_eq!(
            (found["spent"].as_u64(), found["reserved"].as_u64()),
            (Some(input + output), Some(0)),
            "{scope}"
        );
    }
    assert!(house.json(0, "activity verify")["ok"].as_bool().unwrap());
}

#[test]
fn applying_is_idempotent_and_safe_when_concurrent() {
    let house = house();
    house.manifest(TWO);
    let all: Vec<_> = (0..3)
        .map(|_| {
            house
                .command("up --json")
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for child in all {
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    house.expect(0, "task add 'show system stats' --wait");
    let before = house.json(0, "ps");
    house.expect(0, "up");
    let plan = house.json(0, "plan");
    assert_eq!(
        (
            plan["generation"].as_u64(),
            plan["steps"].as_array().map(Vec::len)
        ),
        (Some(1), Some(0))
    );
    let after = house.json(0, "ps");
    for (a, b) in before["agents"]
        .as_array()
        .unwrap()
        .iter()
        .zip(after["agents"].as_array().unwrap())
    {
        assert_eq!(
            (&a["pid"], &a["generation"]),
            (&b["pid"], &b["generation"]),
            "nothing was restarted"
        );
    }
}

#[test]
fn down_leaves_no_process_cgroup_socket_or_lock() {
    let house = up(TWO);
    let group = {
        let ps = house.json(0, "ps");
        let pid = ps["agents"][0]["pid"].as_i64().unwrap();
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        text.lines()
            .find_map(|l| Some(l.split_once("/abbey-")?.1.split('/').next()?.to_owned()))
            .unwrap()
    };
    let cgroups = || {
        let found = std::process::Command::new("find")
            .args([
                "/sys/fs/cgroup",
                "-maxdepth",
                "3",
                "-name",
                &format!("abbey-{group}"),
            ])
            .output()
            .unwrap();
        String::from_utf8_lossy(&found.stdout).lines().count()
    };
    assert!(cgroups() > 0);
    house.expect(0, "down");
    assert_eq!(cgroups(), 0);
    let left: Vec<_> = std::fs::read_dir(house.home().join("run"))
        .unwrap()
        .flatten()
        .map(|e| e.file_name())
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let home = house.home().display().to_string();
    until("no process of the house is left", || {
        let found = std::process::Command::new("pgrep")
            .args(["-f", &home])
            .output()
            .unwrap();
        found.stdout.is_empty()
    });
    // Down again is no failure and starts nothing, and everything comes back.
    let log = std::fs::read(house.home().join("logs/serve.log")).unwrap();
    house.expect(0, "down");
    assert_eq!(
        std::fs::read(house.home().join("logs/serve.log")).unwrap(),
        log
    );
    house.expect(0, "up");
    house.expect(0, "task add 'show system stats' --wait");
}

/// What stops a house must not need its database.
#[test]
fn down_stops_the_cells_of_a_house_whose_database_is_damaged() {
    let house = up(TWO);
    let running: Vec<i64> = {
        let ps = house.json(0, "ps");
        let agents = ps["agents"].as_array().unwrap();
        agents.iter().map(|a| a["pid"].as_i64().unwrap()).collect()
    };
    let runs = |pid: &i64| std::path::Path::new(&format!("/proc/{pid}")).exists();
    let hostd = abbey_cells::hostd::HostdClient::new(&house.home());
    house.kill_control_plane();
    abbey_testkit::house::kill(abbey_cells::hostd::HostdApi::hello(&hostd).unwrap().pid);
    assert!(running.iter().all(runs));
    let files = ["abbey.db", "abbey.db-wal"].map(|name| house.home().join(name));
    let whole = files.each_ref().map(|file| std::fs::read(file).unwrap());
    for file in &files {
        std::fs::write(file, [b'x'; 8192]).unwrap();
    }
    let text = house.expect_refusal(1, "down");
    assert!(text.contains("damaged"), "{text}");
    until("the cells are stopped", || !running.iter().any(runs));
    for (file, content) in files.iter().zip(whole) {
        std::fs::write(file, content).unwrap();
    }
    house.expect(0, "up");
    house.expect(0, "task add 'show system stats' --wait");
}

#[test]
fn a_manifest_that_is_a_link_is_written_where_it_leads() {
    let house = up(TWO);
    let real = house.path("real.yaml");
    let link = house.path("abbey.yaml");
    std::fs::rename(&link, &real).unwrap();
    std::os::unix::fs::symlink("real.yaml", &link).unwrap();
    house.expect(0, "agent new third --template sysadmin");
    assert!(
        std::fs::symlink_metadata(&link)
            .unwrap()
            .file_type()
            .is_symlink()
    );
    assert!(std::fs::read_to_string(&real).unwrap().contains("third"));
}

#[test]
fn a_manifest_keeps_the_line_ends_of_its_editor() {
    let house = up(TWO);
    let file = house.path("abbey.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace('\n', "\r\n")).unwrap();
    house.expect(0, "agent new third --template sysadmin");
    house.expect(0, "agent rm third");
    let edited = std::fs::read_to_string(&file).unwrap();
    assert_eq!(edited, text.replace('\n', "\r\n"));
}

#[test]
fn a_home_may_be_given_with_dots_in_its_path() {
    let house = house();
    house.manifest(&TWO.replace("cell: process", "cell: sandbox"));
    let name = house.home().file_name().unwrap().to_owned();
    let dotted = house.home().join("..").join(name);
    let home = dotted.display();
    house.expect(0, args!("--home {} up", home));
    house.expect(0, args!("--home {} exec sysadmin -- true", home));
    house.expect(0, args!("--home {} down", home));
}

/// What nobody listens to is explained by the state of the house, not by the name of a socket.
#[test]
fn commands_say_that_the_house_is_down_and_what_to_type() {
    let house = up(TWO);
    house.expect(0, "down");
    let home = house.home().display().to_string();
    for command in [
        "ps",
        "activity",
        "report",
        "task list",
        "why abbot",
        "logs abbot",
        "budget show",
        "start abbot",
        "agent show abbot",
        "service list",
    ] {
        let said = house.expect_refusal(6, command);
        let down = format!("the house in `{home}` is down");
        for part in [&down[..], "`abbey up` starts it"] {
            assert!(said.contains(part), "{part} in what {command} said: {said}");
        }
        for part in ["No such file", "hostd", "operator.sock"] {
            assert!(
                !said.contains(part),
                "{part} in what {command} said: {said}"
            );
        }
    }
    house.expect(0, "up");
    house.kill_control_plane();
    let said = house.expect_refusal(6, "ps");
    for part in [
        "does not run",
        "go on without it",
        "`abbey up` starts it again",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    house.expect(0, "up");
}

/// Another house in its place would be taken for the one that runs, and `down` there would end the cells of that one.
#[test]
fn no_house_begins_where_one_that_runs_was_moved_away() {
    let house = up(TWO);
    let agent = house.agent("abbot").pid;
    let (home, away) = (house.home(), house.path("away"));
    std::fs::rename(&home, &away).unwrap();
    let refusal = house.expect_refusal(4, "up");
    assert!(refusal.contains("moved away meanwhile"), "{refusal}");
    assert!(!home.exists());
    std::fs::rename(&away, &home).unwrap();
    assert_eq!(house.agent("abbot").pid, agent);
    house.expect(0, "up");
}

#[test]
fn no_house_begins_where_a_restore_was_interrupted() {
    let house = house();
    house.manifest(TWO);
    std::fs::create_dir_all(house.home().join(".restore-x")).unwrap();
    let refusal = house.expect_refusal(4, "up");
    let (_, way) = refusal.split_once("to begin another one, `").unwrap();
    let (way, _) = way.split_once('`').unwrap();
    let done = std::process::Command::new("sh").args(["-c", way]).status();
    assert!(done.unwrap().success(), "{refusal}");
    house.expect(0, "up");
}
