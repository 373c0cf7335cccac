//! Warnings about workflows: what is allowed, but cannot do what its author meant.

use crate::decode::value_type;
use abbey_engine::workflow::{
    Comparison, Condition, StepAction, StepArguments, ValueSource, ValueType, Workflow,
    WorkflowStep,
};
use serde_json::Value;

/// Fields that the outcome of an approval has.
const APPROVAL_FIELDS: [&str; 3] = ["by", "note", "text"];

/// What is allowed in a workflow, but cannot do what its author meant; each a sentence that begins with its place.
pub fn workflow_warnings(workflow: &Workflow) -> Vec<String> {
    let mut warnings = Vec::new();
    for (name, step) in &workflow.steps {
        let mut warn = |text: String| warnings.push(format!("step `{name}`: {text}"));
        text_of(&step.act, "", workflow, &mut warn);
        literals_of(&step.with, "", workflow, &mut warn);
        if let Some(undo) = &step.undo {
            text_of(&undo.act, "undo: ", workflow, &mut warn);
            literals_of(&undo.with, "undo: ", workflow, &mut warn);
        }
        for condition in &step.when {
            condition_of(condition, workflow, step, &mut warn);
        }
        fields_of(step, &mut warn);
    }
    let mut warn = |text: String| warnings.push(format!("output: {text}"));
    literals_of(&workflow.output, "", workflow, &mut warn);
    warnings
}

/// Warns of references inside the text of a task or an approval, which is sent as it stands.
fn text_of(act: &StepAction, part: &str, workflow: &Workflow, warn: &mut impl FnMut(String)) {
    let (text, reader) = match act {
        StepAction::Task { text, .. } => (text, "the agent"),
        StepAction::Approval { ask, .. } => (ask, "the person who decides"),
        StepAction::Skill { .. } | StepAction::Event { .. } | StepAction::Pause(_) => return,
    };
    for reference in references(text) {
        let field = reference.rsplit('.').next().unwrap_or_default();
        let field = field.trim_start_matches('$');
        warn(format!(
            "{part}`{reference}` in the text of `{}` is no value: {reader} reads it as it stands; write `with: {{ {field}: {reference} }}`, which passes the value beside the text{}",
            act.kind(),
            undeclared(&reference, workflow),
        ));
    }
}

/// Warns of references inside longer literals, which only a whole value is.
fn literals_of(
    with: &StepArguments,
    part: &str,
    workflow: &Workflow,
    warn: &mut impl FnMut(String),
) {
    for (name, source) in with {
        let ValueSource::Literal(Value::String(text)) = source else {
            continue;
        };
        for reference in references(text) {
            warn(format!(
                "{part}`{reference}` inside the text of `{name}` is no value; a reference must be the whole value: write `with: {{ {name}: {reference} }}`{}",
                undeclared(&reference, workflow),
            ));
        }
    }
}

/// What else is wrong with a reference, as the end of a sentence.
fn undeclared(reference: &str, workflow: &Workflow) -> String {
    match ValueSource::parse(reference) {
        Ok(ValueSource::Input(name)) if !workflow.input.contains_key(&name) => {
            format!("; `{name}` is not declared as input either")
        }
        Ok(ValueSource::Step(step, _)) if !workflow.steps.contains_key(&step) => {
            format!("; there is no step `{step}` either")
        }
        _ => String::new(),
    }
}

/// Warns of conditions that are always the same.
fn condition_of(
    condition: &Condition,
    workflow: &Workflow,
    step: &WorkflowStep,
    warn: &mut impl FnMut(String),
) {
    if condition.value == ValueSource::Item {
        warn("`$item` has no value in `when`, which is decided once for the whole step; let the step before it make the list".to_owned());
        return;
    }
    let (Comparison::Is(other) | Comparison::Not(other)) = &condition.test else {
        return;
    };
    let known = value_type(workflow, &condition.value, Some(step));
    let is = ValueType::ALL.iter().find(|(_, t)| t.fits(other));
    if let (Ok(Some(of)), Some((other_name, other_type))) = (known, is)
        && of != *other_type
    {
        let of_each = match &condition.value {
            ValueSource::Step(name, _)
                if workflow.steps.get(name).is_some_and(|s| s.each.is_some()) =>
            {
                format!(", as step `{name}` runs for each item of a list")
            }
            _ => String::new(),
        };
        warn(format!(
            "a condition compares {of} with {other_name}, so the two are never equal{of_each}"
        ));
    }
}

/// Warns of fields that an outcome never has.
fn fields_of(step: &WorkflowStep, warn: &mut impl FnMut(String)) {
    let given: &[&str] = match step.act {
        StepAction::Approval { .. } => &APPROVAL_FIELDS,
        StepAction::Pause(_) => &[],
        StepAction::Task { .. } | StepAction::Skill { .. } | StepAction::Event { .. } => return,
    };
    for (field, of) in &step.expects {
        let kind = step.act.kind();
        if !given.contains(&field.as_str()) {
            warn(format!(
                "it expects `{field}`, which `{kind}` never gives, so it always fails"
            ));
        } else if *of != ValueType::Text {
            warn(format!(
                "it expects `{field}` as {of}, and `{kind}` gives text, so it always fails"
            ));
        }
    }
}

/// References to values that occur in a text: `$input.FIELD`, `$steps.STEP.FIELD`, `$item`. Other uses of `$`, such as
/// prices and variables of a shell, are none.
fn references(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices('$') {
        let rest = &text[at + 1..];
        let ends = |c: char| !(c.is_alphanumeric() || matches!(c, '_' | '-' | '.'));
        let path = &rest[..rest.find(ends).unwrap_or(rest.len())];
        // The full stop of a sentence is no part of it.
        let reference = format!("${}", path.trim_end_matches(['.', '-']));
        let meant = ["input.", "steps.", "item"]
            .iter()
            .any(|start| path.starts_with(start));
        let whole = match ValueSource::parse(&reference) {
            Ok(ValueSource::Literal(_)) | Err(_) => false,
            Ok(ValueSource::Input(_) | ValueSource::Step(..) | ValueSource::Item) => true,
        };
        if meant && whole && !text[..at].ends_with('$') && !found.contains(&reference) {
            found.push(reference);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_references_are_found() {
        let of = references;
        assert_eq!(
            of("Greet $input.city, then $steps.a-b.words. $item!"),
            ["$input.city", "$steps.a-b.words", "$item"]
        );
        assert_eq!(of("Is ($input.city) $input.city?"), ["$input.city"]);
        for plain in [
            "costs $5",
            "$HOME/x",
            "$items",
            "$$input.a",
            "$input.",
            "a$",
            "",
        ] {
            assert!(of(plain).is_empty(), "{plain}");
        }
    }

    #[test]
    fn each_warning_names_what_to_write() {
        let manifest = r#"version: 1
house: h
agents: { a: { template: worker } }
workflows:
  greet:
    input: { city: { type: text }, names: { type: list } }
    steps:
      say: { task: "Greet $input.city and $input.town", agent: a, with: { hint: "in $input.city" } }
      ask: { approval: "Greet $input.city?", needs: [say], expects: { by: text, sum: number } }
      all: { task: Greet, each: $input.names, when: [{ value: $item, is: x }], agent: a }
      end: { task: End, when: [{ value: $steps.all.text, is: x }], agent: a, undo: { task: "Undo $steps.no.text", agent: a } }
    output: { said: "It was $steps.say.text" }
"#;
        let house = crate::parse(manifest).unwrap();
        let warnings = workflow_warnings(house.workflows.values().next().unwrap());
        let expected = [
            "step `all`: `$item` has no value in `when`",
            "step `ask`: `$input.city` in the text of `approval` is no value",
            "step `ask`: it expects `sum`, which `approval` never gives",
            "step `end`: `$steps.no.text` in the text of `task` is no value",
            "step `end`: a condition compares list with text",
            "step `say`: `$input.city` in the text of `task` is no value",
            "step `say`: `$input.town` in the text of `task` is no value",
            "step `say`: `$input.city` inside the text of `hint` is no value",
            "output: `$steps.say.text` inside the text of `said` is no value",
        ];
        for text in expected {
            let found = warnings
                .iter()
                .any(|w| w.replace(": undo: ", ": ").starts_with(text));
            assert!(found, "{text}: {warnings:#?}");
        }
        assert_eq!(warnings.len(), expected.len(), "{warnings:#?}");
        let town = warnings.iter().find(|w| w.contains("$input.town"));
        assert!(town.is_some_and(|w| w.contains("not declared as input either")));
    }
}
