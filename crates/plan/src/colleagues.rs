//! What an agent is to others, and work that comes by itself, out of the manifest's text.

use crate::decode::{Decoder, integer, nearest, text, words};
use crate::house::{Agent, Does, Escalation, RELATIONS, Schedule, When};
use crate::node::{Entry, Node};
use crate::shape;
use crate::workflows::json;
use abbey_model::{Authority, Grant, Grants, Millis, Slug};
use std::collections::BTreeMap;

pub(crate) fn delegates(node: Option<&Node>) -> Authority {
    let mut authority = Authority::default();
    let word = node.and_then(Node::text);
    let items = node.map_or(&[][..], Node::items);
    for word in word.into_iter().chain(items.iter().filter_map(Node::text)) {
        // The shape has looked at it.
        let _known = authority.add(word);
    }
    authority
}
pub(crate) fn grants(node: Option<&Node>) -> Grants {
    let entries = node.map_or(&[][..], Node::entries);
    let grant = |entry: &Entry| {
        let value = Some(&entry.value);
        let grant = Grant {
            tokens: integer(value, "tokens"),
            skills: words(value, "skills").into_iter().collect(),
        };
        Some((entry.key.parse().ok()?, grant))
    };
    entries.iter().filter_map(grant).collect()
}
pub(crate) fn relations(node: Option<&Node>) -> BTreeMap<&'static str, Vec<Slug>> {
    let names = |kind: &&'static str| {
        let names = words(node, kind);
        let names: Vec<Slug> = names.iter().filter_map(|n| n.parse().ok()).collect();
        (!names.is_empty()).then_some((*kind, names))
    };
    RELATIONS.iter().filter_map(names).collect()
}

/// Skills of an agent, those that its schedules name included, after all others.
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
                blame("", "says one of `cron`, `every` and `at`".to_owned());
                continue;
            };
            match &when {
                When::Cron(text) if text.split_whitespace().count() != 5 => blame(
                    "cron",
                    format!("`{text}` has not the five fields minute, hour, day, month, weekday"),
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
                    blame("", "says one of `task`, `skill` and `workflow`".to_owned());
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

    /// Everybody who is named as a colleague lives here.
    pub(crate) fn colleagues(&mut self, agents: &BTreeMap<Slug, Agent>) {
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
    /// Where work goes that nobody fits (S4-24).
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
