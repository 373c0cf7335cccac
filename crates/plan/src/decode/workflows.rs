//! Decodes workflows and checks them before they run: no cycle, no unknown step or value, matching types (S3-30).

use super::decoder::{Decoder, integer, suggest_similar, text, words};
use crate::keys::Agent;
use crate::node::{Entry, Kind, Node};
use crate::schedule::ScheduleAction;
use crate::shape;
use abbey_engine::workflow::{
    Comparison, Condition, InputField, StepAction, StepArguments, Undo, ValueSource, ValueType,
    Workflow, WorkflowStep,
};
use abbey_model::{Millis, Slug};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Longest pause before another attempt where none is given.
const RETRY_AFTER: Millis = Millis::from_secs(5);

const TYPES: &str = "text, number, boolean, list or object";

/// One workflow while it is read.
struct Reading<'a, 'b, 'c> {
    decoder: &'a mut Decoder<'b>,
    name: &'c Slug,
    agents: &'c BTreeMap<Slug, Agent>,
}

impl Reading<'_, '_, '_> {
    fn blame(&mut self, node: &Node, text: impl std::fmt::Display) {
        let text = format!("workflow `{}`: {text}", self.name);
        self.decoder.mistakes.push(node.place.mistake(text));
    }

    fn source(&mut self, node: &Node) -> ValueSource {
        let read = match &node.kind {
            Kind::Scalar { text, .. } if text.starts_with('$') => ValueSource::parse(text),
            _ => Ok(ValueSource::Literal(node.to_json())),
        };
        read.unwrap_or_else(|why| {
            self.blame(node, why);
            ValueSource::Literal(Value::Null)
        })
    }

    fn with(&mut self, node: Option<&Node>) -> StepArguments {
        let entries = node.map_or(&[][..], Node::entries);
        let one = |e: &Entry| (e.key.clone(), self.source(&e.value));
        entries.iter().map(one).collect()
    }

    fn agent(&mut self, node: &Node) -> Option<Slug> {
        let named = node.get("agent")?;
        let slug = named.text()?.parse::<Slug>().ok()?;
        if !self.agents.contains_key(&slug) {
            self.blame(named, format!("no agent `{slug}`"));
        }
        Some(slug)
    }

    fn skill(&mut self, node: &Node, agent: Option<&Slug>) -> Option<String> {
        let named = node.get("skill")?;
        let skill = named.text()?.to_owned();
        let has = |a: &Agent| a.skills.contains(&skill);
        let held = match agent.and_then(|a| self.agents.get(a)) {
            Some(agent) => has(agent),
            None => self.agents.values().any(has),
        };
        if !held {
            let why = match agent {
                Some(agent) => format!("agent `{agent}` does not have the skill `{skill}`"),
                None => format!("no agent has the skill `{skill}`"),
            };
            self.blame(named, why);
        }
        Some(skill)
    }

    fn act(&mut self, node: &Node, place: &Node) -> Option<StepAction> {
        let agent = self.agent(node);
        let millis = |key| {
            text(Some(node), key)
                .and_then(shape::parse_duration_ms)
                .map(Millis)
        };
        let given = [
            text(Some(node), "task").map(|t| StepAction::Task {
                agent: agent.clone(),
                text: t.to_owned(),
            }),
            self.skill(node, agent.as_ref())
                .map(|skill| StepAction::Skill {
                    agent: agent.clone(),
                    skill,
                }),
            text(Some(node), "approval").map(|ask| StepAction::Approval {
                ask: ask.to_owned(),
                silence: text(Some(node), "silence") == Some("approve"),
            }),
            text(Some(node), "event").and_then(|name| {
                Some(StepAction::Event {
                    name: name.parse().ok()?,
                })
            }),
            millis("pause").map(StepAction::Pause),
        ];
        let mut given = given.into_iter().flatten();
        let (Some(act), None) = (given.next(), given.next()) else {
            self.blame(
                place,
                "a step needs exactly one of `task`, `skill`, `approval`, `event` and `pause`",
            );
            return None;
        };
        if agent.is_some() && !matches!(act, StepAction::Task { .. } | StepAction::Skill { .. }) {
            self.blame(
                place,
                format!(
                    "`agent` goes with `task` and `skill`, not with `{}`",
                    act.kind()
                ),
            );
        }
        Some(act)
    }

    fn condition(&mut self, node: &Node) -> Option<Condition> {
        let value = self.source(node.get("value")?);
        let number = |key| node.get(key)?.to_json().as_f64();
        let given = [
            node.get("is").map(|n| Comparison::Is(n.to_json())),
            node.get("not").map(|n| Comparison::Not(n.to_json())),
            number("above").map(Comparison::Above),
            number("below").map(Comparison::Below),
        ];
        let mut given = given.into_iter().flatten();
        let (Some(test), None) = (given.next(), given.next()) else {
            self.blame(
                node,
                "a condition needs exactly one of `is`, `not`, `above NUMBER` and `below NUMBER`",
            );
            return None;
        };
        Some(Condition { value, test })
    }

    fn step(&mut self, node: &Node) -> Option<WorkflowStep> {
        let act = self.act(node, node)?;
        let value = Some(node);
        let millis = |key| {
            text(value, key)
                .and_then(shape::parse_duration_ms)
                .map(Millis)
        };
        let items = |key| node.get(key).map_or(&[][..], Node::items);
        let expects = node.get("expects").map_or(&[][..], Node::entries);
        let undo = node.get("undo").and_then(|undo| {
            let act = self.act(undo, undo)?;
            Some(Undo {
                act,
                with: self.with(undo.get("with")),
            })
        });
        let mut step = WorkflowStep {
            act,
            needs: items("needs")
                .iter()
                .filter_map(|n| n.text()?.parse().ok())
                .collect(),
            when: items("when")
                .iter()
                .filter_map(|n| self.condition(n))
                .collect(),
            each: node.get("each").map(|n| self.source(n)),
            with: self.with(node.get("with")),
            expects: expects
                .iter()
                .filter_map(|e| Some((e.key.clone(), e.value.text()?.parse().ok()?)))
                .collect(),
            within: millis("within"),
            retry: integer(value, "retry")
                .and_then(|n| u32::try_from(n).ok())
                .unwrap_or(0),
            retry_after: millis("retry_after").unwrap_or(RETRY_AFTER),
            tokens: integer(value, "tokens"),
            may_fail: text(value, "may_fail") == Some("true"),
            undo,
        };
        // Whose value is used comes before.
        let used: Vec<Slug> = sources(&step)
            .filter_map(|s| match s {
                ValueSource::Step(name, _) => Some(name.clone()),
                _ => None,
            })
            .collect();
        step.needs.extend(used);
        Some(step)
    }

    fn workflow(&mut self, node: &Node) -> Workflow {
        let input = node.get("input").map_or(&[][..], Node::entries);
        let field = |e: &Entry| {
            let of = text(Some(&e.value), "type")?.parse().ok()?;
            Some((
                e.key.clone(),
                InputField {
                    of,
                    default: e.value.get("default").map(Node::to_json),
                },
            ))
        };
        let steps = node.get("steps").map_or(&[][..], Node::entries);
        let steps = steps
            .iter()
            .filter_map(|e| Some((e.key.parse().ok()?, self.step(&e.value)?)));
        let steps = steps.collect();
        Workflow {
            input: input.iter().filter_map(field).collect(),
            steps,
            output: self.with(node.get("output")),
            within: text(Some(node), "within")
                .and_then(shape::parse_duration_ms)
                .map(Millis),
            on: words(Some(node), "on")
                .iter()
                .filter_map(|name| name.parse().ok())
                .collect(),
        }
    }

    /// What can be known before anything runs.
    fn check(&mut self, workflow: &Workflow, node: &Node) {
        for (name, field) in &workflow.input {
            if let Some(default) = field.default.as_ref().filter(|d| !field.of.fits(d)) {
                self.blame(
                    node,
                    format!(
                        "the default of `{name}` is {default}, which is no {}",
                        field.of
                    ),
                );
            }
        }
        if !workflow.on.is_empty()
            && let Some(why) = check_payload_input(workflow)
        {
            self.blame(node, format!("it is started by an event, but {why}"));
        }
        if workflow.steps.is_empty() {
            self.blame(node, "it has no step");
        }
        for (name, step) in &workflow.steps {
            let place = node
                .get("steps")
                .and_then(|s| s.get(name.as_str()))
                .unwrap_or(node);
            for need in step
                .needs
                .iter()
                .filter(|n| !workflow.steps.contains_key(*n))
            {
                self.blame(
                    place,
                    format!("step `{name}` needs the step `{need}`, which does not exist"),
                );
            }
            let undo = step.undo.iter().flat_map(|u| u.with.values());
            for source in sources(step).chain(undo) {
                if let Err(why) = value_type(workflow, source, Some(step)) {
                    self.blame(place, format!("step `{name}`: {why}"));
                }
            }
            for condition in &step.when {
                let number = matches!(condition.test, Comparison::Above(_) | Comparison::Below(_));
                if let (true, Ok(Some(of))) =
                    (number, value_type(workflow, &condition.value, Some(step)))
                    && of != ValueType::Number
                {
                    self.blame(
                        place,
                        format!(
                            "step `{name}`: {of} is compared with a number, but is not a number"
                        ),
                    );
                }
            }
            if let Some(each) = &step.each
                && let Ok(Some(of)) = value_type(workflow, each, None)
                && of != ValueType::List
            {
                self.blame(
                    place,
                    format!("step `{name}` runs for each item of a list, but its input is {of}"),
                );
            }
        }
        for (name, source) in &workflow.output {
            if let Err(why) = value_type(workflow, source, None) {
                self.blame(node, format!("output `{name}`: {why}"));
            }
        }
        if let Some(circle) = circle(workflow) {
            let names: Vec<&str> = circle.iter().map(Slug::as_str).collect();
            self.blame(
                node,
                format!("its steps wait for each other: {}", names.join(" → ")),
            );
        }
    }
}

/// Every value that a step uses before it is done.
fn sources(step: &WorkflowStep) -> impl Iterator<Item = &ValueSource> {
    let when = step.when.iter().map(|c| &c.value);
    step.with.values().chain(when).chain(&step.each)
}

/// What type a value has, where that is known.
///
/// # Errors
/// Why there is no such value.
pub(crate) fn value_type(
    workflow: &Workflow,
    source: &ValueSource,
    user: Option<&WorkflowStep>,
) -> Result<Option<ValueType>, String> {
    match source {
        ValueSource::Literal(value) => Ok(ValueType::ALL
            .iter()
            .map(|(_, t)| *t)
            .find(|t| t.fits(value))),
        ValueSource::Input(name) => match workflow.input.get(name) {
            Some(field) => Ok(Some(field.of)),
            None => Err(format!("`$input.{name}` is not declared as input")),
        },
        ValueSource::Item => match user.is_some_and(|s| s.each.is_some()) {
            true => Ok(None),
            false => Err("`$item` means something only in a step with `each`".to_owned()),
        },
        ValueSource::Step(name, field) => {
            let step = workflow
                .steps
                .get(name)
                .ok_or_else(|| format!("`$steps.{name}.{field}`: there is no step `{name}`"))?;
            let usual = match &step.act {
                StepAction::Task { .. } | StepAction::Skill { .. } => &["text"][..],
                StepAction::Approval { .. } => &["by", "note", "text"],
                StepAction::Event { .. } | StepAction::Pause(_) => &[],
            };
            let of = match step.expects.get(field) {
                Some(of) => *of,
                None if usual.contains(&field.as_str()) => ValueType::Text,
                None => {
                    return Err(format!(
                        "`$steps.{name}.{field}`: step `{name}` gives no `{field}`; say it in its `expects`, as {TYPES}"
                    ));
                }
            };
            // Of a step that runs for each of a list, the list of them.
            Ok(Some(if step.each.is_some() {
                ValueType::List
            } else {
                of
            }))
        }
    }
}

/// Steps that wait for each other.
fn circle(workflow: &Workflow) -> Option<Vec<Slug>> {
    let mut settled: BTreeSet<&Slug> = BTreeSet::new();
    for start in workflow.steps.keys() {
        let mut path: Vec<&Slug> = vec![start];
        while let Some(at) = path.last().copied() {
            let needs = workflow.steps.get(at).map(|s| &s.needs);
            let next = needs.into_iter().flatten().find(|n| !settled.contains(n));
            match next {
                Some(next) => {
                    if let Some(from) = path.iter().position(|p| *p == next) {
                        let mut names: Vec<Slug> =
                            path[from..].iter().map(|s| (*s).clone()).collect();
                        names.push(next.clone());
                        names.reverse();
                        return Some(names);
                    }
                    path.push(next);
                }
                None => {
                    settled.insert(at);
                    path.pop();
                }
            }
        }
    }
    None
}

impl Decoder<'_> {
    /// Decodes the workflows of the manifest and reports mistakes in each, and in the schedules that start them.
    pub(crate) fn decode_workflows(
        &mut self,
        agents: &BTreeMap<Slug, Agent>,
    ) -> BTreeMap<Slug, Workflow> {
        let root = self.root;
        let mut workflows = BTreeMap::new();
        for entry in root.get("workflows").map_or(&[][..], Node::entries) {
            let Ok(name) = entry.key.parse::<Slug>() else {
                continue;
            };
            let mut reading = Reading {
                decoder: self,
                name: &name,
                agents,
            };
            let workflow = reading.workflow(&entry.value);
            reading.check(&workflow, &entry.value);
            workflows.insert(name, workflow);
        }
        self.scheduled(agents, &workflows);
        workflows
    }

    /// Workflows that schedules start are there, and take what they are given.
    fn scheduled(&mut self, agents: &BTreeMap<Slug, Agent>, workflows: &BTreeMap<Slug, Workflow>) {
        for agent in agents.values() {
            for (name, schedule) in &agent.schedules {
                let ScheduleAction::Workflow(workflow, with) = &schedule.action else {
                    continue;
                };
                let place = self.root.get("agents").and_then(|n| {
                    n.get(agent.slug.as_str())?
                        .get("schedules")?
                        .get(name.as_str())
                });
                let place = place.unwrap_or(self.root).place;
                let wrong = match workflows.get(workflow) {
                    None => {
                        let known =
                            suggest_similar(workflow.as_str(), workflows.keys().map(Slug::as_str));
                        vec![format!("no workflow `{workflow}`{known}")]
                    }
                    Some(found) => found.validate_input(with.clone()).err().unwrap_or_default(),
                };
                for why in wrong {
                    let text = format!("schedule `{name}` of `{}`: {why}", agent.slug);
                    self.mistakes.push(place.mistake(text));
                }
            }
        }
    }
}

/// Checks that an event or webhook can start a workflow: an input `payload` must be an object, and every other input
/// needs a default. A workflow without `payload` starts without the data. Returns the reason when it cannot start.
pub(crate) fn check_payload_input(workflow: &Workflow) -> Option<String> {
    match workflow.input.get("payload") {
        Some(field) if field.of != ValueType::Object => {
            return Some("then its input `payload` is an object".to_owned());
        }
        Some(_) | None => {}
    }
    let without = |(name, field): (&String, &InputField)| {
        (name != "payload" && field.default.is_none())
            .then(|| format!("then its input `{name}` needs a default"))
    };
    workflow.input.iter().find_map(without)
}
