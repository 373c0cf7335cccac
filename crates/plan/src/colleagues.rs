//! Decodes delegation, grants, relations, schedules and escalation.

use crate::decode::{Decoder, nearest, text};
use crate::house::{Agent, Does, Escalation, RELATIONS, Schedule, When};
use crate::key::{Key, live, must};
use crate::keys::NAMES;
use crate::node::Node;
use crate::shape::{self, Shape};
use crate::workflows::json;
use abbey_model::{Millis, Slug};
use std::collections::BTreeMap;

/// Keys of `escalation`.
pub(crate) const ESCALATION: Shape = Shape::Object(&[
    must(
        "to",
        Shape::Name,
        "The agent that decides about tasks without an eligible agent, or `operator`.",
    ),
    live(
        "within",
        Shape::Duration,
        "Time for that decision; without a limit when not given.",
    ),
    live(
        "then",
        Shape::Word(&["keep", "cancel"], &[]),
        "What happens to a task that nobody decided about in time: `keep` (the default) or `cancel`.",
    ),
]);

/// Keys of one grant of an agent.
pub(crate) const GRANT: &[Key] = &[
    live(
        "tokens",
        Shape::Integer(1, i64::MAX),
        "Most tokens of one subtask.",
    ),
    live(
        "skills",
        Shape::Set(&Shape::Text),
        "Skills that such work may use; any when not given.",
    ),
];

/// Kinds of relations between agents.
pub(crate) const RELATION_KINDS: &[Key] = &[
    live("lineage", NAMES, "Whom it descends from."),
    live("mentor", NAMES, "Who teaches it."),
    live("works_with", NAMES, "Whom it works with."),
    live("may_ask", NAMES, "Whom it may ask; a hint, and no right."),
];

/// Keys of one schedule of an agent.
pub(crate) const SCHEDULE: &[Key] = &[
    live(
        "cron",
        Shape::Text,
        "Minute, hour, day, month and weekday, for example `30 2 * * *`.",
    ),
    live("every", Shape::Duration, "Distance between two."),
    live("at", Shape::Text, "One instant, as `2026-12-01T10:00:00Z`."),
    live(
        "timezone",
        Shape::TimeZone,
        "Zone of `cron`; the budget's when not given.",
    ),
    live("task", Shape::Text, "What is to be done."),
    live(
        "skill",
        Shape::Name,
        "The skill that its agent runs, and is assigned by that: `checkpoint`, `report`, `service-status` or any other.",
    ),
    live("workflow", Shape::Name, "The workflow that starts."),
    live(
        "with",
        Shape::Dict(&Shape::Value),
        "Arguments of the skill, or input of the workflow.",
    ),
    live(
        "jitter",
        Shape::Duration,
        "Most that it is moved back, by chance.",
    ),
    live(
        "overlap",
        Shape::Word(&["skip", "queue", "replace"], &[]),
        "What happens when the previous one still runs; default `skip`.",
    ),
    live(
        "catch_up",
        Shape::Text,
        "How many missed ones fire: `skip`, `once` (the default), or a number.",
    ),
    live("timeout", Shape::Duration, "Time for one of them."),
];

/// Skills by name, and the versions that stand behind an `@`.
pub(crate) fn pinned(skills: Vec<String>) -> (Vec<String>, BTreeMap<String, String>) {
    let mut pins = BTreeMap::new();
    let name = |skill: String| match skill.split_once('@') {
        Some((name, version)) => {
            pins.insert(name.to_owned(), version.to_owned());
            name.to_owned()
        }
        None => skill,
    };
    (skills.into_iter().map(name).collect(), pins)
}

/// Skills of an agent, followed by those that its schedules name.
pub(crate) fn with_scheduled(
    mut skills: Vec<String>,
    schedules: &BTreeMap<Slug, Schedule>,
) -> Vec<String> {
    for schedule in schedules.values() {
        if let Does::Skill(skill, _) = &schedule.does
            && !skills.contains(skill)
        {
            skills.push(skill.clone());
        }
    }
    skills
}

impl Decoder<'_> {
    pub(crate) fn schedules(&mut self, node: Option<&Node>) -> BTreeMap<Slug, Schedule> {
        let mut schedules = BTreeMap::new();
        for entry in node.map_or(&[][..], Node::entries) {
            let value = Some(&entry.value);
            let Ok(name) = entry.key.parse::<Slug>() else {
                continue;
            };
            let mut blame = |key: &str, text: String| {
                let at = entry.value.get(key).map_or(entry.place, |n| n.place);
                self.mistakes
                    .push(at.mistake(format!("schedule `{name}`: {text}")));
            };
            let millis = |key| text(value, key).and_then(shape::duration_ms).map(Millis);
            let written = [
                text(value, "cron").map(|t| When::Cron(t.to_owned())),
                millis("every").map(When::Every),
                text(value, "at").map(|t| When::At(t.to_owned())),
            ];
            let mut given = written.into_iter().flatten();
            let (Some(when), None) = (given.next(), given.next()) else {
                blame(
                    "",
                    "needs exactly one of `cron`, `every` and `at`".to_owned(),
                );
                continue;
            };
            match &when {
                When::Cron(text) if text.split_whitespace().count() != 5 => blame(
                    "cron",
                    format!(
                        "`{text}` does not have the five fields minute, hour, day, month, weekday"
                    ),
                ),
                When::Every(every) if every.0 < 1000 => {
                    blame("every", "is at least a second".to_owned());
                }
                When::At(_) | When::Cron(_) | When::Every(_) => {}
            }
            let catch_up = text(value, "catch_up").unwrap_or("once").to_owned();
            let number = catch_up
                .parse::<u32>()
                .is_ok_and(|n| (1..=1000).contains(&n));
            if !number && !["skip", "once"].contains(&catch_up.as_str()) {
                let text = format!("`{catch_up}` is not `skip`, `once` or a number up to 1000");
                blame("catch_up", text);
            }
            let workflow = text(value, "workflow").and_then(|w| w.parse::<Slug>().ok());
            let with = entry.value.get("with").map_or(&[][..], Node::entries);
            let does = match (text(value, "task"), text(value, "skill"), workflow) {
                (Some(task), None, None) => Does::Task(task.to_owned()),
                (None, Some(skill), None) => {
                    let args = with.iter().map(|e| {
                        let value = match json(&e.value) {
                            serde_json::Value::String(text) => text,
                            other => other.to_string(),
                        };
                        (e.key.clone(), value)
                    });
                    Does::Skill(skill.to_owned(), args.collect())
                }
                (None, None, Some(workflow)) => {
                    let with = with.iter().map(|e| (e.key.clone(), json(&e.value)));
                    Does::Workflow(workflow, with.collect())
                }
                _ => {
                    blame(
                        "",
                        "needs exactly one of `task`, `skill` and `workflow`".to_owned(),
                    );
                    continue;
                }
            };
            let schedule = Schedule {
                when,
                timezone: text(value, "timezone").map(str::to_owned),
                does,
                jitter: millis("jitter").unwrap_or(Millis(0)),
                overlap: text(value, "overlap").unwrap_or("skip").to_owned(),
                catch_up,
                timeout: millis("timeout"),
            };
            schedules.insert(name, schedule);
        }
        schedules
    }

    /// Reports colleagues that are no agents of this house.
    pub(crate) fn check_colleagues(&mut self, agents: &BTreeMap<Slug, Agent>) {
        let entries = self.root.get("agents").map_or(&[][..], Node::entries);
        for entry in entries {
            let mut named: Vec<(&Node, String)> = Vec::new();
            for node in ["delegates_to", "asks"]
                .iter()
                .filter_map(|k| entry.value.get(k))
            {
                let words = node.text().map(|_| node).into_iter().chain(node.items());
                named.extend(words.filter_map(|n| {
                    let word = n.text()?.trim_start_matches('-').to_owned();
                    (word != "all" && word != "none").then_some((n, word))
                }));
            }
            if let Some(node) = entry.value.get("grants") {
                named.extend(node.entries().iter().map(|e| (&e.value, e.key.clone())));
            }
            for kind in RELATIONS {
                let node = entry.value.get("relations").and_then(|n| n.get(kind));
                let items = node.map_or(&[][..], Node::items);
                named.extend(items.iter().filter_map(|n| Some((n, n.text()?.to_owned()))));
            }
            for (node, name) in named {
                if !agents.keys().any(|a| a.as_str() == name) {
                    let known = nearest(&name, agents.keys().map(Slug::as_str));
                    self.mistakes
                        .push(node.place.mistake(format!("no agent `{name}`{known}")));
                }
            }
        }
    }
}

impl Decoder<'_> {
    /// What happens to tasks without an eligible agent (S4-24).
    pub(crate) fn escalation(&mut self, agents: &BTreeMap<Slug, Agent>) -> Option<Escalation> {
        let node = self.root.get("escalation");
        let to = text(node, "to")?;
        let agent: Option<Slug> = match to {
            "operator" => None,
            name => name.parse().ok(),
        };
        if let Some(agent) = &agent {
            let at = node.and_then(|n| n.get("to"));
            match agents.get(agent) {
                None => {
                    let known = nearest(agent.as_str(), agents.keys().map(Slug::as_str));
                    self.blame(at, format!("no agent `{agent}`{known}"));
                }
                Some(a) if a.model.is_none() && a.files.is_none() => {
                    let text =
                        format!("`{agent}` has no model, so it cannot decide about anything");
                    self.blame(at, text);
                }
                Some(_) => {}
            }
        }
        let within = text(node, "within").and_then(shape::duration_ms);
        if text(node, "then") == Some("cancel") && within.is_none() {
            let text = "`then: cancel` needs `within`: a time after which";
            self.blame(node, text);
        }
        Some(Escalation {
            to: agent,
            within: within.map(Millis),
            cancels: text(node, "then") == Some("cancel"),
        })
    }
}
