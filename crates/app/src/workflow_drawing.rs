//! A workflow drawn as SVG: a column for each distance from the start.

use abbey_api::WorkflowView;
use abbey_api::{StepKind, StepState};
use std::collections::BTreeMap;
use svg::Document;
use svg::node::element::{Line, Rectangle, Text, Title};

/// One box of a drawing.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) kind: StepKind,
    pub(crate) needs: Vec<String>,
    pub(crate) state: Option<StepState>,
}

/// Draws a workflow run as SVG: one box for each step, coloured by its state.
pub(crate) fn draw_run(run: &WorkflowView) -> Document {
    let mut nodes: Vec<Node> = Vec::new();
    for step in &run.steps {
        // A step with several items has the state of its worst item.
        let rank = |state: StepState| match state {
            StepState::Failed => 3,
            StepState::Working | StepState::Waiting | StepState::Retry => 2,
            StepState::Done => 1,
            StepState::NotStarted | StepState::Skipped => 0,
        };
        match nodes.iter_mut().find(|n| n.name == step.step) {
            Some(node) => {
                if rank(step.state) > node.state.map_or(0, rank) {
                    node.state = Some(step.state);
                }
            }
            None => nodes.push(Node {
                name: step.step.clone(),
                kind: step.kind,
                needs: step.needs.clone(),
                state: Some(step.state),
            }),
        }
    }
    draw_steps(&format!("{} {}", run.id, run.workflow), nodes)
}

/// Draws steps as SVG: one box for each, in a column for its distance from the start, with lines from its
/// predecessors.
pub(crate) fn draw_steps(title: &str, nodes: Vec<Node>) -> Document {
    const BOX: (u32, u32) = (170, 44);
    const STEP: (u32, u32) = (230, 64);
    let mut column: BTreeMap<&str, u32> = BTreeMap::new();
    // The plan refuses cycles, so each pass places at least one more step.
    for _ in 0..nodes.len() {
        for node in &nodes {
            let before = node.needs.iter().filter_map(|n| column.get(n.as_str()));
            let at = before.max().map_or(0, |c| c + 1);
            column.insert(&node.name, at);
        }
    }
    let mut rows: BTreeMap<u32, u32> = BTreeMap::new();
    let mut places: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
    for node in &nodes {
        let at = column.get(node.name.as_str()).copied().unwrap_or(0);
        let row = rows.entry(at).or_insert(0);
        places.insert(&node.name, (20 + at * STEP.0, 20 + *row * STEP.1));
        *row += 1;
    }
    let width = 40 + rows.keys().max().map_or(0, |c| c * STEP.0) + BOX.0;
    let height = 20 + rows.values().max().copied().unwrap_or(1) * STEP.1;
    let mut drawing = Document::new()
        .set("viewBox", (0, 0, width, height))
        .set("font-family", "sans-serif")
        .add(Title::new(title));
    for node in &nodes {
        let Some(to) = places.get(node.name.as_str()) else {
            continue;
        };
        for from in node.needs.iter().filter_map(|n| places.get(n.as_str())) {
            let line = Line::new()
                .set("x1", from.0 + BOX.0)
                .set("y1", from.1 + BOX.1 / 2)
                .set("x2", to.0)
                .set("y2", to.1 + BOX.1 / 2)
                .set("stroke", "#888");
            drawing = drawing.add(line);
        }
    }
    for node in &nodes {
        let Some((x, y)) = places.get(node.name.as_str()).copied() else {
            continue;
        };
        let fill = match node.state {
            Some(StepState::Done) => "#dcefdc",
            Some(StepState::Failed) => "#f6d7d3",
            Some(StepState::Working | StepState::Waiting | StepState::Retry) => "#fdf0cc",
            _ => "#f4f1ea",
        };
        let label = |text: String, dy: u32, size: u32| {
            Text::new(text)
                .set("x", x + 10)
                .set("y", y + dy)
                .set("font-size", size)
        };
        let second = match &node.state {
            Some(state) => format!("{}, {state}", node.kind),
            None => node.kind.to_string(),
        };
        drawing = drawing
            .add(
                Rectangle::new()
                    .set("x", x)
                    .set("y", y)
                    .set("width", BOX.0)
                    .set("height", BOX.1)
                    .set("rx", 6)
                    .set("fill", fill)
                    .set("stroke", "#555"),
            )
            .add(label(node.name.clone(), 18, 14))
            .add(label(second, 35, 10));
    }
    drawing
}
