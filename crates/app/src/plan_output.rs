//! How a plan is printed.

use crate::exit::{self, Failure};
use crate::output::{self, draw_table, text_or_dash};
use crate::table::Table;
use crate::text::{Text, Tone};
use abbey_api::{PlanChange, PlanDoc, PlanNote, PlanSeverity, PlanStep};

/// Prints the steps of a plan, the manifest keys that change with their old and new values, and the notes, on
/// standard output.
pub(crate) fn print_plan(doc: &PlanDoc) {
    if doc.steps.is_empty() {
        output::print_line(&format!("generation {}: nothing to change", doc.generation));
    } else {
        output::print_line(&format!("generation {}", doc.generation));
        let row = |s: &PlanStep| {
            vec![
                Text::from(s.id.to_string()),
                Text::from(s.action),
                Text::from(&s.resource),
                Text::from(&s.agent),
                Text::from(&s.detail),
            ]
        };
        let head = ["STEP", "ACTION", "RESOURCE", "OWNER", "DETAIL"];
        let table = Table::new(&head, doc.steps.iter().map(row).collect());
        draw_table(&table.break_words_in(&["DETAIL"]));
        print_changes(doc);
        for (step, removed) in doc.removals() {
            let label = match doc.applied {
                true => format!("removed by step {}: ", step.id),
                false => format!("step {} requires consent: ", step.id),
            };
            let step = Text::toned(Tone::Bad, &label);
            output::print_hanging(step, removed);
        }
        if doc.requires_consent && !doc.applied {
            output::print_hanging(
                "",
                "`abbey up` asks for this consent on a terminal; elsewhere `abbey up --yes` gives it",
            );
        }
    }
    // What is to be said of several is said once.
    let mut said: Vec<(&PlanNote, Vec<&str>)> = Vec::new();
    for note in &doc.notes {
        let same =
            |(n, _): &&mut (&PlanNote, _)| n.severity == note.severity && n.text == note.text;
        match said.iter_mut().find(same) {
            Some((_, subjects)) => subjects.push(&note.subject),
            None => said.push((note, vec![&note.subject])),
        }
    }
    for (note, subjects) in said {
        let first = Text::from(note.severity).and(Tone::Plain, ": ");
        output::print_hanging(first, format!("{}: {}", subjects.join(", "), note.text));
    }
}

/// The failure that a plan with fatal notes is, with exit code 4; none for a plan that can be carried out.
pub(crate) fn refusal(doc: &PlanDoc) -> Option<Failure> {
    let fatal = doc
        .notes
        .iter()
        .filter(|n| n.severity == PlanSeverity::Fatal);
    let details: Vec<String> = fatal
        .map(|n| format!("{}: {}", n.subject, n.text))
        .collect();
    let failure = Failure::plain(
        "the plan cannot be carried out, for the reasons listed; nothing was changed",
    )
    .with_code(exit::CONFLICT);
    (!details.is_empty()).then(|| failure.with_details(details))
}

/// Prints each key whose effective value changes; prints nothing if none does.
fn print_changes(doc: &PlanDoc) {
    let row = |step: &PlanStep, change: &PlanChange| {
        vec![
            step.id.to_string(),
            change.key.clone(),
            text_or_dash(change.old.as_ref()),
            text_or_dash(change.new.as_ref()),
            change.effect.to_string(),
        ]
    };
    let changes = doc
        .steps
        .iter()
        .flat_map(|s| s.changes.iter().map(move |c| row(s, c)));
    let rows: Vec<Vec<String>> = changes.collect();
    if !rows.is_empty() {
        output::print_text(&Text::toned(Tone::Heading, "changed keys"));
        let table = Table::new(&["STEP", "KEY", "OLD", "NEW", "EFFECT"], rows);
        draw_table(&table.break_words_in(&["OLD", "NEW"]));
    }
}
