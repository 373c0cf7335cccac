//! Completion of names, by the completion function that the shell runs.

use crate::house;
use abbey_testkit::house::House;
use rustix::process::{Pid, Signal, kill_process};
use std::process::Command;

const NAMES: &str = "house: h
providers: { paid: { kind: openai, base_url: 'http://127.0.0.1:1/v1' } }
services: { web: { cell: process, command: [sleep, '3600'], probe: none } }
documents: { plan: { kind: log, writers: [merlin] } }
workflows: { study: { steps: { first: { task: Look., agent: merlin } } } }
agents:
  merlin: { cell: process, schedules: { morning: { every: 1h, task: Write. } } }
  morgan: { cell: process }
  gone: { cell: process }
";

/// What bash offers for the last word of a line, with the function that `abbey completions bash` defines.
fn offered(house: &House, line: &str) -> Vec<String> {
    let words: Vec<&str> = line.split(' ').collect();
    let quoted: Vec<String> = words.iter().map(|w| format!("'{w}'")).collect();
    let script = format!(
        "source <(abbey completions bash)
         COMP_WORDS=({}) COMP_CWORD={} COMP_TYPE=9
         _clap_complete_abbey abbey '{}' '{}'
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        quoted.join(" "),
        words.len() - 1,
        words.last().unwrap(),
        words.iter().rev().nth(1).unwrap(),
    );
    let abbey = house.command("ps");
    let mut bash = Command::new("bash");
    bash.args(["--norc", "-c", &script]).env_clear();
    bash.envs(abbey.get_envs().filter_map(|(k, v)| Some((k, v?))));
    let output = bash.current_dir(house.path("")).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!errors.contains("error"), "{line}: {errors}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|l| l.trim_end().to_owned())
        .filter(|l| !l.is_empty())
        .collect()
}

#[test]
fn bash_completes_the_names_that_a_house_has() {
    let house = house();
    house.manifest(NAMES);
    house.expect(0, "up");
    house.expect(0, "token new monitoring --scope metrics");
    house.expect(0, &["task", "add", "poem \x1b[31m", "--to", "merlin"]);
    house.expect(0, "workflow run study");
    house.expect(0, "agent rm gone");
    std::fs::write(house.path("key"), "k").unwrap();
    house.expect(0, "secret set paid-key --from-file key");
    for (line, names) in [
        ("abbey logs m", &["merlin", "morgan"][..]),
        ("abbey stop merlin mo", &["morgan"]),
        ("abbey logs s", &["service/web"]),
        ("abbey exec service/", &["service/web"]),
        ("abbey why w", &["web"]),
        ("abbey service restart w", &["web"]),
        ("abbey task show T", &["TASK-2", "TASK-1"]),
        ("abbey task add text --to mer", &["merlin"]),
        ("abbey schedule run m", &["merlin/morning"]),
        ("abbey workflow run s", &["study"]),
        ("abbey document show p", &["plan"]),
        ("abbey skill show system-s", &["system-stats"]),
        ("abbey token revoke m", &["monitoring"]),
        ("abbey secret rm p", &["paid-key"]),
        ("abbey agent new x --model p", &["paid/"]),
        ("abbey agent new x --template sysa", &["sysadmin"]),
        ("abbey agent new m", &[]),
        ("abbey agent restore g", &["gone"]),
        ("abbey workflow show W", &["WF-1"]),
        ("abbey workflow event news --run W", &["WF-1"]),
        ("abbey cp merl", &["merlin:"]),
        ("abbey cp ke", &["key"]),
        ("abbey cp key service/", &["service/web:"]),
        ("abbey wor", &["workflow"]),
    ] {
        assert_eq!(offered(&house, line), names, "{line}");
    }
    // Other shells get a description too, in which nothing controls the terminal.
    let fish = house
        .command(&["--", "abbey", "task", "show", "T"])
        .env("ABBEY_COMPLETE", "fish")
        .output();
    let fish = String::from_utf8(fish.unwrap().stdout).unwrap();
    assert!(
        fish.contains("TASK-1") && fish.contains("poem \\u{1b}") && !fish.contains('\x1b'),
        "{fish}"
    );
    assert!(
        house
            .expect(0, "completions zsh")
            .contains("#compdef abbey")
    );

    // A house that hangs or is down is not waited for: its manifest has names as well.
    let serve = Pid::from_raw(house.control_plane_pid()).unwrap();
    kill_process(serve, Signal::STOP).unwrap();
    let hangs = offered(&house, "abbey logs m");
    kill_process(serve, Signal::CONT).unwrap();
    assert_eq!(hangs, ["merlin", "morgan"]);
    house.expect(0, "down");
    assert_eq!(offered(&house, "abbey stop m"), ["merlin", "morgan"]);
    assert_eq!(offered(&house, "abbey schedule run m"), ["merlin/morning"]);
    std::fs::remove_file(house.path("abbey.yaml")).unwrap();
    assert_eq!(offered(&house, "abbey --home /nowhere stop m"), [""; 0]);
}
