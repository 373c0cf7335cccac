//! `abbey org`: the org chart as text, as a document, and drawn.

use crate::connect::operator_client;
use crate::exit::{self, Outcome};
use crate::output;
use abbey_api::{OrgDoc, OrgRow};
use abbey_daemon::Home;
use svg::Document;
use svg::node::element::{Line, Rectangle, Text, Title};

/// Width and height of a box, in units of the drawing.
const BOX: (u32, u32) = (180, 44);

const STEP: (u32, u32) = (210, 64);

/// `abbey org`: prints the org chart as text, as JSON, or with `draw` as SVG.
pub(crate) async fn cmd_org(home: &Home, json: bool, draw: bool) -> Outcome {
    let client = operator_client(home)?;
    let doc = client.org().show().await?;
    match (draw, json) {
        (true, _) => output::print_line(&draw_chart(&doc).to_string()),
        (false, true) => output::print_json(&doc),
        (false, false) => print_chart(&doc),
    }
    Ok(exit::OK)
}

fn list(names: &[String]) -> String {
    match names {
        [] => "nobody".to_owned(),
        names => names.join(", "),
    }
}

fn print_chart(doc: &OrgDoc) {
    output::print_line("operator");
    for row in &doc.agents {
        let indent = "  ".repeat(usize::try_from(row.depth).unwrap_or(0));
        let rights = list(&row.delegates_to);
        let line = format!("{} ({}), may delegate to {rights}", row.name, row.role);
        output::print_hanging(&indent, line);
        let indent = indent + "  ";
        if !row.asks.is_empty() {
            output::print_hanging(&indent, format!("may ask {}", list(&row.asks)));
        }
        for (kind, names) in &row.relations {
            output::print_hanging(&indent, format!("{kind}: {}", list(names)));
        }
    }
    for finding in &doc.findings {
        output::print_hanging("note: ", finding.to_string());
    }
}

/// Draws one box for each agent, indented by its depth, with a line to the agent to which it reports.
fn draw_chart(doc: &OrgDoc) -> Document {
    let operator = OrgRow {
        name: "operator".to_owned(),
        role: "the human in charge".to_owned(),
        reports_to: None,
        depth: 0,
        delegates_to: Vec::new(),
        asks: Vec::new(),
        reaches: Vec::new(),
        relations: Default::default(),
    };
    let rows: Vec<&OrgRow> = std::iter::once(&operator).chain(&doc.agents).collect();
    let at = |n: usize| {
        let n32 = u32::try_from(n).unwrap_or(0);
        (20 + rows[n].depth * STEP.0 / 3, 20 + n32 * STEP.1)
    };
    let deepest = rows.iter().map(|r| r.depth).max().unwrap_or(0);
    let height = u32::try_from(rows.len()).unwrap_or(1) * STEP.1 + 20;
    let width = 40 + deepest * STEP.0 / 3 + BOX.0 + 260;
    let mut drawing = Document::new()
        .set("viewBox", (0, 0, width, height))
        .set("font-family", "sans-serif")
        .add(Title::new("The org chart of the house"));
    for (n, row) in rows.iter().enumerate().skip(1) {
        let above = row.reports_to.as_deref().unwrap_or("operator");
        let parent = rows.iter().position(|r| r.name == above).unwrap_or(0);
        let ((px, py), (x, y)) = (at(parent), at(n));
        let corner = (px + 12, y + BOX.1 / 2);
        let line = |from: (u32, u32), to: (u32, u32)| {
            Line::new()
                .set("x1", from.0)
                .set("y1", from.1)
                .set("x2", to.0)
                .set("y2", to.1)
                .set("stroke", "#888")
        };
        drawing = drawing
            .add(line((px + 12, py + BOX.1), corner))
            .add(line(corner, (x, y + BOX.1 / 2)));
    }
    for (n, row) in rows.iter().enumerate() {
        let (x, y) = at(n);
        let label = |text: String, dx: u32, dy: u32, size: u32| {
            Text::new(text)
                .set("x", x + dx)
                .set("y", y + dy)
                .set("font-size", size)
        };
        drawing = drawing
            .add(
                Rectangle::new()
                    .set("x", x)
                    .set("y", y)
                    .set("width", BOX.0)
                    .set("height", BOX.1)
                    .set("rx", 6)
                    .set("fill", "#f4f1ea")
                    .set("stroke", "#555"),
            )
            .add(label(row.name.clone(), 10, 18, 14))
            .add(label(row.role.clone(), 10, 35, 10));
        if !row.delegates_to.is_empty() {
            let text = format!("→ {}", row.delegates_to.join(", "));
            drawing = drawing.add(label(text, BOX.0 + 10, 26, 10));
        }
    }
    drawing
}
