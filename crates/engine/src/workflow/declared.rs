//! Workflows as they are declared: steps, what each needs, and what flows between them.
//!
//! A value is passed whole, as data: it never becomes part of a text, a command or a name.

use abbey_model::{Millis, Slug};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

/// Type of a value in a workflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueType {
    /// Text.
    Text,
    /// A number.
    Number,
    /// True or false.
    Boolean,
    /// A list.
    List,
    /// A mapping.
    Object,
}

impl ValueType {
    /// Every type with its name.
    pub const ALL: [(&'static str, ValueType); 5] = [
        ("text", ValueType::Text),
        ("number", ValueType::Number),
        ("boolean", ValueType::Boolean),
        ("list", ValueType::List),
        ("object", ValueType::Object),
    ];

    /// Name of the type in the manifest.
    pub fn name(self) -> &'static str {
        ValueType::ALL
            .iter()
            .find(|(_, t)| *t == self)
            .map_or("", |(n, _)| n)
    }

    /// Whether a JSON value is of this type.
    pub fn fits(self, value: &Json) -> bool {
        match self {
            ValueType::Text => value.is_string(),
            ValueType::Number => value.is_number(),
            ValueType::Boolean => value.is_boolean(),
            ValueType::List => value.is_array(),
            ValueType::Object => value.is_object(),
        }
    }

    /// The value that a text stands for where a value of this type is declared: its JSON, as a command line or a form
    /// has it. None if it stands for no such value, and for a text, which stays what it is.
    fn value_of_text(self, text: &str) -> Option<Json> {
        let text = text.trim();
        let value: Json = serde_json::from_str(text).ok()?;
        // A whole number that is too long would lose digits.
        let is_cut = value.is_f64() && !text.contains(['.', 'e', 'E']);
        (self != ValueType::Text && self.fits(&value) && !is_cut).then_some(value)
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ValueType {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let found = ValueType::ALL.iter().find(|(name, _)| *name == text);
        found
            .map(|(_, t)| *t)
            .ok_or_else(|| format!("`{text}` is not text, number, boolean, list or object"))
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueSource {
    /// A constant.
    Literal(Json),
    /// A field of the workflow's input.
    Input(String),
    /// A field of a step's output: of a step that runs for each item of a list, the list of that field.
    Step(Slug, String),
    /// The list item for which the step runs.
    Item,
}

impl ValueSource {
    /// Parses `$input.FIELD`, `$steps.STEP.FIELD` or `$item`. Any other text is a literal; `$$` at its start stands for
    /// `$`.
    ///
    /// # Errors
    /// Why a text that starts with `$` is none of these.
    pub fn parse(text: &str) -> Result<ValueSource, String> {
        let Some(path) = text.strip_prefix('$') else {
            return Ok(ValueSource::Literal(text.into()));
        };
        if path.starts_with('$') {
            return Ok(ValueSource::Literal(path.into()));
        }
        let wrong = || {
            format!(
                "`{text}` is not `$input.FIELD`, `$steps.STEP.FIELD` or `$item`; a text that begins with `$` is written with two"
            )
        };
        let parts: Vec<&str> = path.split('.').collect();
        match parts.as_slice() {
            ["item"] => Ok(ValueSource::Item),
            ["input", field] if !field.is_empty() => Ok(ValueSource::Input((*field).to_owned())),
            ["steps", step, field] if !field.is_empty() => {
                let step = step.parse().map_err(|_| wrong())?;
                Ok(ValueSource::Step(step, (*field).to_owned()))
            }
            _ => Err(wrong()),
        }
    }
}

/// Arguments of a step by name.
pub type StepArguments = BTreeMap<String, ValueSource>;

/// Comparison of a value in a condition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Comparison {
    /// The value equals this one.
    Is(Json),
    /// The value differs from this one.
    Not(Json),
    /// The value is a number above this one.
    Above(f64),
    /// The value is a number below this one.
    Below(f64),
}

/// Condition of a step: it runs only when the comparison is true.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Condition {
    /// Value that is compared.
    pub value: ValueSource,
    /// Comparison that decides.
    pub test: Comparison,
}

impl Condition {
    /// Whether the condition is true for a value.
    pub fn holds(&self, value: &Json) -> bool {
        match &self.test {
            Comparison::Is(other) => value == other,
            Comparison::Not(other) => value != other,
            Comparison::Above(bound) => value.as_f64().is_some_and(|v| v > *bound),
            Comparison::Below(bound) => value.as_f64().is_some_and(|v| v < *bound),
        }
    }
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepAction {
    /// An agent does a task in words.
    Task {
        /// Agent that does it; any eligible agent when absent.
        agent: Option<Slug>,
        /// Text of the task, as the manifest gives it.
        text: String,
    },
    /// A skill's program runs, without a model.
    Skill {
        /// Where; with any agent that has it when absent.
        agent: Option<Slug>,
        /// Name of the skill.
        skill: String,
    },
    /// The step waits for a person's approval.
    Approval {
        /// Question to the person.
        ask: String,
        /// Whether the step counts as approved when no decision is made in time.
        silence: bool,
    },
    /// The step waits for an outside event.
    Event {
        /// Name of the event.
        name: Slug,
    },
    /// The step waits for this time.
    Pause(Millis),
}

impl StepAction {
    /// Key of the action in the manifest: `task`, `skill`, `approval`, `event` or `pause`.
    pub fn kind(&self) -> &'static str {
        match self {
            StepAction::Task { .. } => "task",
            StepAction::Skill { .. } => "skill",
            StepAction::Approval { .. } => "approval",
            StepAction::Event { .. } => "event",
            StepAction::Pause(_) => "pause",
        }
    }
}

/// Action that undoes a finished step when the run fails or is cancelled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Undo {
    /// Action that is done.
    pub act: StepAction,
    /// Arguments of the action.
    pub with: StepArguments,
}

/// A step of a workflow, as the manifest declares it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkflowStep {
    /// Action of the step.
    pub act: StepAction,
    /// Steps that must be finished first, including those whose output the step uses.
    pub needs: BTreeSet<Slug>,
    /// Conditions; the step is skipped unless all are true.
    pub when: Vec<Condition>,
    /// List for each item of which the step runs once.
    pub each: Option<ValueSource>,
    /// Arguments of the action.
    pub with: StepArguments,
    /// Fields that its result must have, with their types.
    pub expects: BTreeMap<String, ValueType>,
    /// Most time for one attempt.
    pub within: Option<Millis>,
    /// Number of attempts after the first.
    pub retry: u32,
    /// Pause before another attempt.
    pub retry_after: Millis,
    /// Most tokens of one attempt.
    pub tokens: Option<u64>,
    /// Whether the run continues when the step fails.
    pub may_fail: bool,
    /// Action that undoes the step when the run fails later or is cancelled.
    pub undo: Option<Undo>,
}

/// Input field of a workflow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InputField {
    /// Type of the field.
    pub of: ValueType,
    /// Value when none is given; without a default the field is required.
    pub default: Option<Json>,
}

/// A workflow, as the manifest declares it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Workflow {
    /// Input fields by name.
    pub input: BTreeMap<String, InputField>,
    /// Steps by name.
    pub steps: BTreeMap<Slug, WorkflowStep>,
    /// Output values by name.
    pub output: StepArguments,
    /// Most time for a whole run.
    pub within: Option<Millis>,
    /// Events that start a run; the data of the event is the input `payload`.
    pub on: BTreeSet<Slug>,
}

impl Workflow {
    /// Replaces the name of an agent in every action; whether there was one.
    pub fn rename_agent(&mut self, old: &Slug, new: &Slug) -> bool {
        let acts = self.steps.values_mut().flat_map(|step| {
            let undo = step.undo.as_mut().map(|undo| &mut undo.act);
            std::iter::once(&mut step.act).chain(undo)
        });
        let mut changed = false;
        for act in acts {
            if let StepAction::Task { agent, .. } | StepAction::Skill { agent, .. } = act
                && agent.as_ref() == Some(old)
            {
                *agent = Some(new.clone());
                changed = true;
            }
        }
        changed
    }

    /// Checks an input against the declared fields and fills in their defaults.
    ///
    /// # Errors
    /// A message for every field that is missing, unknown or of another type.
    pub fn validate_input(
        &self,
        mut given: BTreeMap<String, Json>,
    ) -> Result<BTreeMap<String, Json>, Vec<String>> {
        let mut wrong: Vec<String> = given
            .keys()
            .filter(|name| !self.input.contains_key(*name))
            .map(|name| format!("`{name}` is not a declared input"))
            .collect();
        for (name, field) in &self.input {
            if let Some(Json::String(text)) = given.get(name)
                && let Some(value) = field.of.value_of_text(text)
            {
                given.insert(name.clone(), value);
            }
            match (given.get(name), &field.default) {
                (Some(value), _) if field.of.fits(value) => {}
                (Some(_), _) => wrong.push(format!("`{name}` is a {}", field.of)),
                (None, Some(default)) => drop(given.insert(name.clone(), default.clone())),
                (None, None) => wrong.push(format!("`{name}` is missing, a {}", field.of)),
            }
        }
        match wrong.is_empty() {
            true => Ok(given),
            false => Err(wrong),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_whole_and_anything_else_is_itself() {
        let of = |text| ValueSource::parse(text).unwrap();
        assert_eq!(of("$input.a"), ValueSource::Input("a".into()));
        assert_eq!(
            of("$steps.build.file"),
            ValueSource::Step("build".parse().unwrap(), "file".into())
        );
        assert_eq!(of("$item"), ValueSource::Item);
        assert_eq!(
            of("costs $input.a"),
            ValueSource::Literal("costs $input.a".into())
        );
        assert_eq!(of("$$5"), ValueSource::Literal("$5".into()));
        for wrong in [
            "$",
            "$input",
            "$input.",
            "$steps.a",
            "$steps.A.b",
            "$env.HOME",
        ] {
            assert!(
                ValueSource::parse(wrong).unwrap_err().contains(wrong),
                "{wrong}"
            );
        }
    }

    #[test]
    fn an_input_is_checked_whole() {
        let field = |of, default| InputField { of, default };
        let workflow = Workflow {
            input: BTreeMap::from([
                ("n".to_owned(), field(ValueType::Number, Some(3.into()))),
                ("t".to_owned(), field(ValueType::Text, None)),
            ]),
            steps: BTreeMap::new(),
            output: BTreeMap::new(),
            within: None,
            on: BTreeSet::new(),
        };
        let given = |pairs: &[(&str, Json)]| {
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), v.clone()))
                .collect()
        };
        let full = workflow
            .validate_input(given(&[("t", "x".into())]))
            .unwrap();
        assert_eq!(full["n"], Json::from(3));
        let wrong = workflow
            .validate_input(given(&[("n", "x".into()), ("z", Json::Null)]))
            .unwrap_err();
        assert_eq!(
            wrong,
            [
                "`z` is not a declared input",
                "`n` is a number",
                "`t` is missing, a text"
            ]
        );
    }
}
