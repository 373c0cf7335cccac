//! Decodes the schedules of an agent.

use super::decoder::{Decoder, text};
use crate::node::Node;
use crate::schedule::{Schedule, ScheduleAction, ScheduleTrigger};
use crate::shape;
use abbey_model::{Millis, Slug};
use std::collections::BTreeMap;

impl Decoder<'_> {
    /// Decodes the schedules of one agent and reports mistakes in each.
    pub(crate) fn decode_schedules(&mut self, node: Option<&Node>) -> BTreeMap<Slug, Schedule> {
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
            let millis = |key| {
                text(value, key)
                    .and_then(shape::parse_duration_ms)
                    .map(Millis)
            };
            let keys = ["cron", "every", "at"];
            if keys.iter().filter(|k| entry.value.get(k).is_some()).count() != 1 {
                blame(
                    "",
                    "needs exactly one of `cron`, `every` and `at`".to_owned(),
                );
                continue;
            }
            let written = [
                text(value, "cron").map(|t| ScheduleTrigger::Cron(t.to_owned())),
                millis("every").map(ScheduleTrigger::Every),
                text(value, "at").map(|t| ScheduleTrigger::At(t.to_owned())),
            ];
            // A value of another shape has been reported.
            let Some(trigger) = written.into_iter().flatten().next() else {
                continue;
            };
            match &trigger {
                ScheduleTrigger::Cron(text) if text.split_whitespace().count() != 5 => blame(
                    "cron",
                    format!(
                        "`{text}` does not have the five fields minute, hour, day, month, weekday"
                    ),
                ),
                ScheduleTrigger::Cron(text) => {
                    if let Err(why) = abbey_engine::timetable::parse_cron(text) {
                        blame("cron", why);
                    }
                }
                ScheduleTrigger::Every(every) if every.0 < 1000 => {
                    blame("every", "must be at least 1 second".to_owned());
                }
                ScheduleTrigger::At(text) => {
                    if let Err(why) = abbey_engine::timetable::parse_instant(text) {
                        blame("at", why);
                    }
                }
                ScheduleTrigger::Every(_) => {}
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
            let action = match (text(value, "task"), text(value, "skill"), workflow) {
                (Some(task), None, None) => ScheduleAction::Task(task.to_owned()),
                (None, Some(skill), None) => {
                    let args = with.iter().map(|e| (e.key.clone(), e.value.to_json()));
                    ScheduleAction::Skill(skill.to_owned(), args.collect())
                }
                (None, None, Some(workflow)) => {
                    let with = with.iter().map(|e| (e.key.clone(), e.value.to_json()));
                    ScheduleAction::Workflow(workflow, with.collect())
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
                trigger,
                timezone: text(value, "timezone").map(str::to_owned),
                action,
                jitter: millis("jitter").unwrap_or(Millis(0)),
                overlap: text(value, "overlap").unwrap_or("skip").to_owned(),
                catch_up,
                timeout: millis("timeout"),
            };
            schedules.insert(name, schedule);
        }
        schedules
    }
}
