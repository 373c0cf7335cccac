//! Skills of a house's own: their programs run in every kind of cell, their instructions and files reach a model, what
//! programs print is kept, and skills that other people wrote are taken as they are.

use crate::{house, up, with_model};
use abbey_testkit::args;
use abbey_testkit::container::{Image, pack_busybox_root};
use abbey_testkit::house::House;
use abbey_testkit::scripted::tool_call;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Writes a file below the house's directory of skills, or beside it, as a person does; scripts are executable.
pub(crate) fn write(house: &House, path: &str, text: &str) {
    let path = house.home().join("skills").join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    let mode = if path.extension().is_some_and(|e| e == "sh") {
        0o755
    } else {
        0o644
    };
    std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    for dir in path.ancestors().skip(1) {
        if dir == house.home() {
            break;
        }
        std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).unwrap();
    }
}

/// Directory of a skill, as a command names it.
fn dir(house: &House, skill: &str) -> String {
    let dir = house.home().join("skills").join(skill);
    dir.display().to_string()
}

/// Writes a skill with a program that runs for the task `please NAME`.
fn write_program(house: &House, dir: &str, script: &str) {
    let name = Path::new(dir).file_name().unwrap().to_str().unwrap();
    let text = format!(
        "---\nname: {name}\ndescription: Does {name}.\nmetadata:\n  abbey-match: '^please {name}$'\n  abbey-program: run.sh\n  abbey-risk: low\n---\n\nProse.\n"
    );
    write(house, &format!("{dir}/SKILL.md"), &text);
    write(
        house,
        &format!("{dir}/run.sh"),
        &format!("#!/bin/sh\nset -e\n{script}\n"),
    );
}

/// A program that reads a file beside it and writes into the workspace.
const RING: &str = "echo rang > rung.txt; echo \"{\\\"text\\\": \\\"$(cat \"$(dirname \"$0\")/tone.txt\")\\\", \\\"data\\\": {\\\"times\\\": 3}}\"";

fn write_ringing(house: &House, dir: &str) {
    write_program(house, dir, RING);
    write(house, &format!("{dir}/tone.txt"), "deep");
}

/// Runs the skill and checks that its program saw its own file and wrote into the workspace.
fn ring(house: &House) {
    let task = house.json(0, "task add 'please ringing' --wait")["task"].clone();
    assert_eq!(task["state"], "done", "{task}");
    assert_eq!(task["result"]["text"], "deep");
    assert_eq!(task["result"]["data"], json!({ "times": 3 }));
    assert_eq!(house.expect(0, "exec a -- cat rung.txt"), "rang\n");
}

/// Checks that the cell can change nothing in the directory of skills, whatever the modes of its files are.
fn is_read_only(house: &House) {
    let mount = house.expect(0, "exec a -- grep ' /agent/skills ' /proc/self/mounts");
    let options = mount.split(' ').nth(3).unwrap();
    let has = |option: &str| options.split(',').any(|o| o == option);
    assert!(has("ro") && has("nosuid") && has("nodev"), "{mount}");
}

#[test]
fn a_program_of_ones_own_runs_in_a_sandbox_that_cannot_change_it() {
    let house = house();
    house.manifest("house: own\nagents:\n  a: { template: worker, skills: [ringing] }\n");
    write_ringing(&house, "ringing");
    house.expect(0, args!("skill check {}", dir(&house, "ringing")));
    house.expect(0, "up");
    ring(&house);
    is_read_only(&house);
    // What a person changes is there at once.
    write(&house, "ringing/tone.txt", "deep\n");
    assert_eq!(
        house.expect(0, "exec a -- sh -c 'cat $ABBEY_SKILLS/ringing/tone.txt'"),
        "deep\n"
    );
}

#[test]
fn a_directory_that_is_no_skill_is_named_in_the_list() {
    let house = house();
    write(&house, "bad/SKILL.md", "no front matter\n");
    house.manifest("house: own\nagents:\n  a: { template: worker }\n");
    let told = |house: &House| {
        let listed = house.run("skill list");
        assert!(listed.status.success());
        String::from_utf8_lossy(&listed.stderr).into_owned()
    };
    assert!(
        told(&house).contains("`bad` is no valid skill"),
        "{}",
        told(&house)
    );
    house.expect(0, "up");
    assert!(
        told(&house).contains("`bad` is no valid skill"),
        "{}",
        told(&house)
    );
    let document = house.json(0, "skill list");
    assert_eq!(document["invalid"][0]["name"], "bad", "{document}");
}

/// A skill whose arguments are of every type, and whose program prints what it got on standard input.
fn write_typed(house: &House) {
    let text = "---\nname: typed\ndescription: Takes some.\nmetadata:\n  abbey-match: 'take {n:number} of {what:text}'\n  abbey-program: run.sh\n  abbey-risk: low\n  abbey-effect: reads\n  abbey-args: '{\"type\":\"object\",\"additionalProperties\":false,\"properties\":{\"n\":{\"type\":\"integer\"},\"what\":{\"type\":\"string\"},\"flag\":{\"type\":\"boolean\"},\"list\":{\"type\":\"array\"}},\"required\":[\"n\"]}'\n---\n\nProse.\n";
    write(house, "typed/SKILL.md", text);
    write(house, "typed/run.sh", "#!/bin/sh\ncat\n");
}

#[test]
fn arguments_have_the_types_that_their_skill_declares_wherever_they_come_from() {
    let house = house();
    write_typed(&house);
    house.manifest("house: own\nagents:\n  a: { template: worker, skills: [typed] }\nworkflows:\n  w: { input: { l: { type: list }, version: { type: text } }, steps: { s: { skill: typed, agent: a, with: { n: 4, flag: true, list: $input.l, what: $input.version } } }, output: { got: $steps.s.text } }\n");
    house.expect(0, "up");
    let got = |doc: &Value| -> Value {
        serde_json::from_str(doc["task"]["result"]["text"].as_str().unwrap()).unwrap()
    };
    let done = house.json(0, args!("task add {} --wait", "take 5 of 3"));
    assert_eq!(got(&done), json!({ "n": 5, "what": "3" }), "{done}");
    let done = house.json(0, "skill run typed n=3 list=[1,2] flag=true what=7");
    let expected = json!({ "n": 3, "list": [1, 2], "flag": true, "what": "7" });
    assert_eq!(got(&done), expected);
    let refused = house.expect_refusal(2, "skill run typed n=three");
    assert!(refused.contains("is not of type"), "{refused}");
    let run = args!(
        "workflow run w version=1.0 {} --wait --timeout 600",
        "l=[\"x\"]"
    );
    let done = house.json(0, run);
    let text = done["run"]["output"]["got"].as_str().unwrap();
    let got: Value = serde_json::from_str(text).unwrap();
    let expected = json!({ "n": 4, "flag": true, "list": ["x"], "what": "1.0" });
    assert_eq!(got, expected, "{done}");
    house.expect(
        0,
        "schedule add a/daily --every 24h --skill typed --with n=3 --with what=8",
    );
}

#[test]
fn a_program_outside_the_directory_of_skills_runs_from_a_copy() {
    let house = house();
    house.manifest("house: own\nagents:\n  a: { template: worker, skills: [ringing] }\n");
    write_ringing(&house, "../elsewhere/ringing");
    write(
        &house,
        "library.yaml",
        "skills:\n  ringing: { path: ../elsewhere/ringing }\n",
    );
    house.expect(0, "up");
    ring(&house);
    let left = house.expect(0, "exec a -- sh -c 'ls -A $HOME'");
    assert!(!left.contains(".skill-"), "{left}");
}

#[test]
fn a_program_of_ones_own_runs_in_a_container() {
    let house = house();
    let image = Image::import(&pack_busybox_root(&house.path("")));
    house.manifest(&format!(
        "house: own\nagents:\n  a: {{ template: worker, cell: container, image: {}, skills: [ringing], limits: {{ memory: 128MiB, cpus: 0.5, processes: 32 }} }}\n",
        image.name()
    ));
    write_ringing(&house, "ringing");
    house.expect(0, "up");
    ring(&house);
    house.expect(0, "exec a -- abbey-agent self");
    is_read_only(&house);
    house.expect(0, "down");
}

#[test]
fn a_program_of_ones_own_runs_in_a_microvm() {
    let house = house();
    house.install_default_image();
    house.manifest("house: own\ndefaults: { cell: microvm, limits: { memory: 256MiB }, drives: { state: 16MiB, workspace: 32MiB, scratch: 64MiB } }\nagents:\n  a: { template: worker, skills: [ringing] }\n");
    write_ringing(&house, "ringing");
    house.expect(0, "up");
    ring(&house);
    house.expect(0, "exec a -- abbey-agent self");
    house.expect(0, "down");
}

#[test]
fn a_model_reads_the_instructions_and_files_of_a_skill_and_runs_its_script() {
    let house = up(&with_model("  a: { template: worker }\n"));
    let public = "---\nname: closing-time\ndescription: How to close the house for the night.\nversion: 1.4.0\nallowed-tools: [Read, Bash]\nmetadata: { openclaw: { emoji: moon } }\n---\n\nFirst bar the MULBERRY gate. Then follow references/lamps.md.\n";
    write(&house, "closing-time/SKILL.md", public);
    write(
        &house,
        "closing-time/references/lamps.md",
        "Put out the QUINCE lamp.\n",
    );
    // As it is often published: without a permission bit for execution.
    write(
        &house,
        "closing-time/scripts/count.sh",
        "echo \"MEDLAR $1 $(cat)\"; pwd\n",
    );
    let script = house.home().join("skills/closing-time/scripts/count.sh");
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o644)).unwrap();
    // A new skill is not in force before `up`, and the list says so.
    house.expect_refusal(3, "skill show closing-time");
    let list = house.json(0, "skill list");
    assert_eq!(list["changed"], json!(["closing-time"]));
    house.manifest(&with_model(
        "  a: { template: worker, cell: sandbox, skills: [closing-time], tools: { allow: [search_skills, run_skill_script, read_file, finish] } }\n  b: { template: worker, reports_to: a, skills: [closing-time] }\n  c: { template: worker, reports_to: a }\n",
    ));
    house.expect(0, "up");
    house.wait_for_model();
    assert_eq!(house.json(0, "skill list")["changed"], json!([]));
    let told = |to: &str, turns: Value| {
        house.script_model(&turns);
        let task = house.json(
            0,
            args!(
                "task add 'Close the house for the night' --to {} --wait",
                to
            ),
        );
        assert_eq!(task["task"]["state"], "done", "{task}");
        house.model_request("/newest", None)
    };
    let closing = |more: Value| {
        let mut args = json!({ "name": "closing-time" });
        args.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        args
    };
    let prompt = told(
        "a",
        json!([
            tool_call("list_skills", json!({})),
            tool_call("read_skill", closing(json!({}))),
            tool_call("read_skill_file", closing(json!({ "path": "references/lamps.md" }))),
            tool_call("read_file", json!({ "path": "/agent/skills/closing-time/references/lamps.md" })),
            tool_call("run_skill_script", closing(json!({ "path": "scripts/count.sh", "args": ["$HOME; rm"], "input": "3" }))),
            tool_call("read_skill_file", closing(json!({ "path": "../../../abbey.db" }))),
            tool_call("read_skill", json!({ "name": "disk-usage" })),
            { "text": "closed" },
        ]),
    );
    for said in [
        "closing-time: How to close the house",
        "read its instructions with `read_skill`",
        "First bar the MULBERRY gate.",
        "references/lamps.md (",
        "QUINCE",
        "MEDLAR $HOME; rm 3",
        "is not a path in the skill's directory",
        "has no skill `disk-usage`",
    ] {
        assert!(prompt.contains(said), "{said}: {prompt}");
    }
    assert_eq!(prompt.matches("QUINCE").count(), 2);
    // Programs are granted by name, and who has no skills is offered no tools for them.
    let tools = told(
        "b",
        json!([tool_call("run_skill_script", closing(json!({ "path": "scripts/count.sh" }))), { "text": "closed" }]),
    );
    assert!(
        tools.contains("the tool `run_skill_script` is not granted") && !tools.contains("MEDLAR")
    );
    assert!(tools.contains("read_skill"));
    let tools = told("c", json!([{ "text": "closed" }]));
    assert!(!tools.contains("read_skill"), "{tools}");
}

#[test]
fn what_a_program_prints_is_kept_however_it_is_printed() {
    let house = house();
    house.manifest("house: own\nagents:\n  a: { template: worker, cell: process, skills: [twelve, counted, loud, starter] }\n");
    write_program(&house, "twelve", "echo 12");
    write_program(&house, "counted", "echo '{\"count\": 3}'");
    write_program(
        &house,
        "loud",
        "seq 1 60000 >&2; seq 1 300000; echo built > built.txt; echo finished",
    );
    // Longer than any test: whoever waits for it fails.
    write_program(&house, "starter", "sleep 600 & echo $! > pid; echo started");
    house.expect(0, "up");
    let result = |name: &str| {
        let task = house.json(0, args!("task add {} --wait", format!("please {name}")));
        assert_eq!(task["task"]["state"], "done", "{task}");
        task["task"]["result"].clone()
    };
    assert_eq!(result("twelve")["text"], "12");
    let counted = result("counted");
    assert_eq!(
        (&counted["text"], &counted["data"]),
        (&json!("{\"count\": 3}"), &json!({ "count": 3 }))
    );
    let loud = result("loud")["text"].as_str().unwrap().to_owned();
    assert!(loud.starts_with("1\n2\n3\n") && loud.ends_with("300000\nfinished"));
    assert!(loud.contains(" bytes left out]\n") && loud.len() <= 1 << 20);
    assert_eq!(house.expect(0, "exec a -- cat built.txt"), "built\n");
    let begun = Instant::now();
    assert_eq!(result("starter")["text"], "started");
    assert!(begun.elapsed() < Duration::from_secs(300));
    house.expect(0, "exec a -- sh -c 'kill $(cat pid)'");
}

#[test]
fn skills_are_added_to_those_of_the_template() {
    let house = up(
        "house: own\ndefaults: { cell: process }\nagents:\n  a: { template: coder, skills: [+disk-usage] }\n",
    );
    let skills = |name: &str| {
        let shown = house.json(0, args!("skill show {}", name));
        shown["agents"].clone()
    };
    assert_eq!(skills("git-merge"), json!(["a"]));
    assert_eq!(skills("disk-usage"), json!(["a"]));
    assert_eq!(house.json(0, "plan")["steps"], json!([]));
    house.manifest("house: own\ndefaults: { cell: process }\nagents:\n  a: { template: coder, skills: [+disk-usage, report] }\n");
    let told = house.expect_refusal(2, "plan");
    assert!(told.contains("adds to the template's"), "{told}");
}

#[test]
fn skills_are_read_without_a_house_and_say_what_is_wrong() {
    let house = house();
    write_ringing(&house, "ringing");
    for (command, name) in [
        ("skill list", "disk-usage"),
        ("skill list", "ringing"),
        ("skill show ringing", "ringing"),
        ("skill search disk", "disk-usage"),
    ] {
        let shown = house.json(0, command).to_string();
        assert!(shown.contains(name), "{command}: {shown}");
    }
    house.expect_refusal(3, "skill show none");
    write(
        &house,
        "lines/SKILL.md",
        "---\r\nname: lines\r\ndescription: d\r\nmetadata:\r\n  a: b\r\n a: c\r\n---\r\n",
    );
    let told = house.expect_refusal(1, args!("skill check {}", dir(&house, "lines")));
    assert!(told.contains("line 6"), "{told}");
    write(
        &house,
        "keys/SKILL.md",
        "\u{feff}--- \nname: keys\ndescription: d\nplatforms: [linux]\n---",
    );
    let checked = house.json(0, args!("skill check {}", dir(&house, "keys")));
    assert_eq!(
        checked["warnings"],
        json!(["the key `platforms` is not known and is ignored"])
    );
    house.manifest("house: own\nagents:\n  a: { template: worker, schedules: { s: { cron: '0 3 * * *', skill: checkpoint, with: { kep: '5' } } } }\n");
    let told = house.expect(4, "plan");
    assert!(told.contains("its arguments are keep"), "{told}");
}
