//! Two days of work that a model directs: it delegates to a colleague whose name only its prompt says, the colleague follows
//! a skill of a public collection and runs its script, and on the next day remembers what it found.

use crate::{house, skills, with_model};
use abbey_testkit::args;
use abbey_testkit::house::House;
use abbey_testkit::turned_clock::{DAY, TurnedClock};
use serde_json::{Value, json};

/// A skill as public collections have it, with keys that are not the house's.
const SKILL: &str = "---\nname: counting-baskets\ndescription: Counts the baskets in stock. Use when somebody asks for their number.\nlicense: Complete terms in LICENSE.txt\nversion: 1.4.0\nhomepage: https://baskets.example\nallowed-tools: [Read, Bash]\nmetadata: {\"openclaw\":{\"emoji\":\"basket\",\"requires\":{\"bins\":[\"sh\"]}}}\n---\n\n# Counting baskets\n\n1. Never estimate: baskets are counted on the MULBERRY shelf.\n2. Run `scripts/count.sh`, and give it the name of the shelf.\n";

/// Writes the files of the skill; its script has no permission for execution, as it is often published.
fn write_skill(house: &House, baskets: u32) {
    skills::write(house, "counting-baskets/SKILL.md", SKILL);
    let script =
        "cat \"$(dirname \"$0\")/../stock.txt\" | { read n; echo \"$1 has $n baskets\"; }\n";
    skills::write(house, "counting-baskets/scripts/count.sh", script);
    let path = house
        .home()
        .join("skills/counting-baskets/scripts/count.sh");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(path, mode).unwrap();
    skills::write(house, "counting-baskets/stock.txt", &format!("{baskets}\n"));
}

/// A turn for one agent, with what it takes from the call: name, role of the message, pattern.
fn turn(of: &str, captures: &[(&str, &str, &str)], tool: &str, arguments: Value) -> Value {
    let captures = captures.iter();
    let captures: serde_json::Map<String, Value> = captures
        .map(|(name, role, pattern)| ((*name).to_owned(), json!([role, pattern])))
        .collect();
    let call = json!([{ "name": tool, "arguments": arguments }]);
    json!({ "when": of, "capture": captures, "tool_calls": call })
}

/// The turns of one day. Names, paths and numbers are what the prompt and the answers of tools say.
fn script(task: &str, more: &[(&str, &str, &str)], result: &str) -> Value {
    const BOSS: &str = "You are the agent `boss`";
    const WEAVER: &str = "Your role: weaver of baskets";
    let colleague = (
        "colleague",
        "system",
        r"- `([^`]+)`[^\n]*: weaver of baskets \([^\n]*you may delegate",
    );
    let skill = ("skill", "system", r"- ([a-z-]+): Counts the baskets");
    let shelf = ("shelf", "tool", r"on the ([A-Z]+) shelf");
    let path = ("path", "tool", r"Run `(scripts/[^`]+)`");
    let now = ("now", "tool", r"[A-Z]+ has (\d+) baskets");
    let found = ("found", "tool", r#""result":"([^"]+)""#);
    let script = json!({ "name": "{{skill}}", "path": "{{path}}", "args": ["{{shelf}}"] });
    let mut last = vec![now];
    last.extend(more);
    json!([
        turn(
            BOSS,
            &[colleague],
            "delegate",
            json!({ "to": "{{colleague}}", "task": task })
        ),
        turn(
            WEAVER,
            &[skill],
            "read_skill",
            json!({ "name": "{{skill}}" })
        ),
        turn(WEAVER, &[skill, path, shelf], "run_skill_script", script),
        turn(WEAVER, &last, "finish", json!({ "result": result })),
        turn(
            BOSS,
            &[found],
            "finish",
            json!({ "result": "The weaver says: {{found}}" })
        ),
    ])
}

/// Texts of the messages of one role in a call of the model.
fn texts(call: &Value, role: &str) -> String {
    let all = call["messages"].as_array().unwrap().iter();
    let content = |m: &Value| m["content"].as_str().unwrap_or_default().to_owned();
    let texts = all.filter(|m| m["role"] == role).map(content);
    texts.collect::<Vec<_>>().join("\n")
}

/// Gives the boss its task, and returns it and the calls that the model received, those of the boss first.
fn work(house: &House, turns: &Value, task: &str) -> (Value, Vec<Value>, Vec<Value>) {
    house.wait_for_model();
    house.script_model(turns);
    let done = house.json(0, args!("task add {} --to boss --wait", task));
    let calls: Vec<Value> = serde_json::from_str(&house.model_request("/requests", None)).unwrap();
    let is_boss = |call: &Value| texts(call, "system").contains("You are the agent `boss`");
    let (boss, weaver) = calls.into_iter().partition(is_boss);
    (done["task"].clone(), boss, weaver)
}

/// The first date in a text behind this word.
fn date_behind<'t>(text: &'t str, word: &str) -> &'t str {
    let (_, rest) = text
        .split_once(word)
        .unwrap_or_else(|| panic!("{word}: {text}"));
    let is_date = |part: &&str| part.len() == 10 && part.starts_with("20");
    rest.split_whitespace().find(is_date).unwrap()
}

#[test]
fn a_model_directs_colleagues_that_use_skills_and_remember_yesterday() {
    let mut house = house();
    let mut clock = TurnedClock::new(&house.path(""));
    house.variables = clock.variables();
    // Nothing in the script can know them.
    let chance = std::process::id();
    let (weaver, smith) = (format!("agent-w{chance:x}"), format!("agent-s{chance:x}"));
    let (first, second) = (1000 + chance % 1000, 3000 + chance % 1000);
    write_skill(&house, first);
    house.manifest(&with_model(&format!(
        "  boss: {{ template: orchestrator, delegates_to: all }}\n  {smith}: {{ template: worker, role: smith of nails, reports_to: boss }}\n  {weaver}: {{ template: worker, role: weaver of baskets, reports_to: boss, cell: sandbox, skills: [counting-baskets], tools: {{ allow: all }} }}\n"
    )));
    house.expect(0, "up");

    let turns = script(
        "How many baskets have we got?",
        &[],
        "There are {{now}} baskets.",
    );
    let (task, boss, colleague) = work(&house, &turns, "Report the stock of baskets");
    let said = format!("There are {first} baskets.");
    assert_eq!(
        task["result"]["text"],
        format!("The weaver says: {said}"),
        "{task}"
    );
    assert!(!turns.to_string().contains(&weaver));
    // The prompt said who does what, so the task went to the right one of two.
    assert!(texts(&boss[0], "system").contains(&format!("- `{smith}`: smith of nails")));
    let subtask = house.json(0, "task show TASK-2")["task"].clone();
    assert_eq!(
        (subtask["assignee"].as_str(), &subtask["author"]),
        (Some(weaver.as_str()), &json!("agent:boss"))
    );
    // What it found came back into the conversation of the boss.
    assert!(texts(&boss[1], "tool").contains(&said), "{}", boss[1]);
    // The prompt of the colleague has the description of the skill; its text and its program come by tools.
    assert_eq!((boss.len(), colleague.len()), (2, 3));
    let before = colleague[0].to_string();
    assert!(
        before.contains("Counts the baskets") && !before.contains("MULBERRY"),
        "{before}"
    );
    assert!(texts(&colleague[1], "tool").contains("Never estimate"));
    let counted = texts(&colleague[2], "tool");
    assert!(
        counted.contains(&format!("MULBERRY has {first} baskets")),
        "{counted}"
    );
    // Nobody remembers anything on the first day.
    assert!(!texts(&colleague[0], "user").contains("recent-work"));

    // The next day.
    house.expect(0, "down");
    clock.turn(DAY);
    write_skill(&house, second);
    house.expect(0, "up");
    let turns = script(
        "How many baskets have we got, and how many did we have yesterday?",
        &[("before", "user", r"-> done: There are (\d+) baskets")],
        "Yesterday there were {{before}} baskets, today {{now}}.",
    );
    let (task, boss, colleague) = work(&house, &turns, "Compare the stock with yesterday's");
    let said = format!("Yesterday there were {first} baskets, today {second}.");
    assert_eq!(
        task["result"]["text"],
        format!("The weaver says: {said}"),
        "{task}"
    );
    let recalled = texts(&colleague[0], "user");
    let today = texts(&colleague[0], "system");
    let (then, now) = (
        date_behind(&recalled, "\"recent-work\""),
        date_behind(&today, "It is "),
    );
    assert!(then < now, "{then} {now}");
    assert!(
        recalled.contains("[tool calls: finish 1, read_skill 1, run_skill_script 1]"),
        "{recalled}"
    );
    assert!(
        texts(&boss[0], "user").contains(&format!("The weaver says: There are {first} baskets.")),
        "{}",
        boss[0]
    );

    // The operator reads all of it.
    let of_boss = house.expect(0, "task show TASK-3 --transcript");
    let of_weaver = house.expect(0, "task show TASK-4 --transcript");
    assert!(
        of_boss.contains(&format!("\"to\":\"{weaver}\"")) && of_boss.contains(&said),
        "{of_boss}"
    );
    for part in [
        "calls: read_skill {",
        "Never estimate",
        "calls: run_skill_script {",
        &format!("MULBERRY has {second} baskets"),
        &format!("result: {said}"),
    ] {
        assert!(of_weaver.contains(part), "{part}: {of_weaver}");
    }
}
