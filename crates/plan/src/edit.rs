//! Small edits of a manifest's text that leave everything else, comments included, as it was.

use crate::node::{self, Kind, Mistake, Node};
use abbey_model::Slug;

/// Adds an agent at the end of the `agents` block.
///
/// # Errors
/// When the text is no manifest, the agent is there already, or the block is written in a style
/// that cannot be extended line by line.
pub fn add_agent(
    text: &str,
    slug: &Slug,
    template: Option<&str>,
    reports_to: Option<&str>,
) -> Result<String, Vec<Mistake>> {
    let root = node::read(text)?;
    let mut body = Vec::new();
    if let Some(template) = template {
        body.push(format!("template: {template}"));
    }
    if let Some(above) = reports_to {
        body.push(format!("reports_to: {above}"));
    }
    let entry = if body.is_empty() {
        format!("{slug}: {{}}")
    } else {
        format!("{slug}: {{ {} }}", body.join(", "))
    };
    let Some(agents) = root.get("agents").filter(|a| !a.is_null()) else {
        return Ok(format!("{}\nagents:\n  {entry}\n", text.trim_end()));
    };
    if let Some(there) = agents.entries().iter().find(|e| e.key == slug.as_str()) {
        return Err(vec![
            there
                .place
                .mistake(format!("agent `{slug}` is already here")),
        ]);
    }
    let (indent, _) = block(text, agents)?;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let at = end_of(text, agents, indent);
    lines.insert(at, format!("{}{entry}", " ".repeat(indent)));
    Ok(lines.join("\n") + "\n")
}

/// Takes an agent out.
///
/// # Errors
/// As [`add_agent`], and when there is no such agent.
pub fn remove_agent(text: &str, slug: &Slug) -> Result<String, Vec<Mistake>> {
    let root = node::read(text)?;
    let missing = || {
        vec![
            root.place
                .mistake(format!("there is no agent `{slug}` in the manifest")),
        ]
    };
    let agents = root.get("agents").ok_or_else(missing)?;
    let (indent, first_lines) = block(text, agents)?;
    let index = agents
        .entries()
        .iter()
        .position(|e| e.key == slug.as_str())
        .ok_or_else(missing)?;
    let start = first_lines[index] - 1;
    let end = first_lines
        .get(index + 1)
        .map_or_else(|| end_of(text, agents, indent), |line| line - 1);
    let kept = text
        .lines()
        .enumerate()
        .filter(|(i, _)| *i < start || *i >= end)
        .map(|(_, l)| l);
    Ok(kept.collect::<Vec<_>>().join("\n") + "\n")
}

/// Gives an agent another model; the rest of its entry stays.
///
/// # Errors
/// When there is no such agent, or its entry is written in a style that cannot be edited.
pub fn set_model(text: &str, slug: &Slug, model: &str) -> Result<String, Vec<Mistake>> {
    let root = node::read(text)?;
    let entry = root
        .get("agents")
        .and_then(|agents| agents.entries().iter().find(|e| e.key == slug.as_str()));
    let Some(entry) = entry else {
        let missing = format!("there is no agent `{slug}` in the manifest");
        return Err(vec![root.place.mistake(missing)]);
    };
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let odd = |why: &str| {
        let text = format!("{why}; write `model: {model}` for agent `{slug}` by hand");
        vec![entry.place.mistake(text)]
    };
    // Characters, as the places count them.
    let splice = |line: &mut String, from: usize, len: usize, new: &str| {
        let head: String = line.chars().take(from).collect();
        let tail: String = line.chars().skip(from + len).collect();
        *line = format!("{head}{new}{tail}");
    };
    let line_of = |n: usize| n.checked_sub(1).filter(|n| *n < text.lines().count());
    if let Some(old) = entry.value.get("model") {
        let written = old.text().unwrap_or_default();
        let at = line_of(old.place.line).ok_or_else(|| odd("its model is nowhere"))?;
        let line = &mut lines[at];
        let from = old.place.column - 1;
        let raw: String = line.chars().skip(from).collect();
        let len = written.chars().count();
        let len = match raw.chars().next() {
            Some('"' | '\'') => len + 2,
            _ => len,
        };
        let there: String = raw.chars().take(len).collect();
        if !there.contains(written) {
            return Err(odd("its model is written in an unusual way"));
        }
        splice(line, from, len, model);
    } else {
        match (&entry.value.kind, entry.value.is_null()) {
            (_, true) => {
                let at = line_of(entry.place.line).ok_or_else(|| odd("it is nowhere"))?;
                let end = format!("{slug}:");
                let from = lines[at]
                    .find(&end)
                    .ok_or_else(|| odd("its name is quoted"))?;
                lines[at].insert_str(from + end.len(), &format!(" {{ model: {model} }}"));
            }
            (Kind::Map(_), false) => {
                let at = line_of(entry.value.place.line).ok_or_else(|| odd("it is nowhere"))?;
                let from = entry.value.place.column - 1;
                let flow = lines[at].chars().nth(from) == Some('{');
                let rest = match entry.value.entries().is_empty() {
                    true => "",
                    false => ",",
                };
                match flow {
                    true => splice(
                        &mut lines[at],
                        from + 1,
                        0,
                        &format!(" model: {model}{rest}"),
                    ),
                    false => lines.insert(at, format!("{}model: {model}", " ".repeat(from))),
                }
            }
            _ => return Err(odd("its entry is no mapping")),
        }
    }
    let edited = lines.join("\n") + "\n";
    let found = node::read(&edited)?.get("agents").and_then(|a| {
        a.get(slug.as_str())?
            .get("model")?
            .text()
            .map(str::to_owned)
    });
    match found.as_deref() == Some(model) {
        true => Ok(edited),
        false => Err(odd("its entry could not be edited")),
    }
}

/// Indentation of a block of names, and the line of each name.
fn block(text: &str, node: &Node) -> Result<(usize, Vec<usize>), Vec<Mistake>> {
    let Kind::Map(entries) = &node.kind else {
        return Err(vec![node.place.mistake("`agents` is not a mapping")]);
    };
    let columns: Vec<usize> = entries.iter().map(|e| e.place.column - 1).collect();
    let lines: Vec<usize> = entries.iter().map(|e| e.place.line).collect();
    let own_lines = entries.iter().zip(&columns).all(|(e, column)| {
        text.lines()
            .nth(e.place.line - 1)
            .is_some_and(|l| l.len() >= *column && l.chars().take(*column).all(|c| c == ' '))
    });
    match columns.first() {
        Some(indent) if own_lines && columns.iter().all(|c| c == indent) && *indent > 0 => {
            Ok((*indent, lines))
        }
        _ => Err(vec![node.place.mistake(
            "`agents` is written on one line; put each agent on a line of its own first",
        )]),
    }
}

/// Number of lines up to the end of a block: everything that is indented at least as far.
fn end_of(text: &str, node: &Node, indent: usize) -> usize {
    let last = node
        .entries()
        .last()
        .map_or(node.place.line, |e| e.place.line);
    let mut end = last;
    for (i, line) in text.lines().enumerate().skip(last) {
        let depth = line.len() - line.trim_start().len();
        if !line.trim().is_empty() && depth < indent {
            break;
        }
        if !line.trim().is_empty() && depth >= indent {
            end = i + 1;
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "version: 1\nhouse: h\ndefaults: { cell: process }\nagents:\n  a:\n    role: x # why\n  b: {}\n# end\nbudget: {}\n";

    #[test]
    fn a_model_is_set_in_every_style() {
        let slug: Slug = "a".parse().unwrap();
        let set = |entry: &str| {
            let text = format!("version: 1\nagents:\n{entry}  b: {{}} # other\n");
            let edited = set_model(&text, &slug, "p/new:1").unwrap();
            assert!(edited.ends_with("  b: {} # other\n"), "{edited}");
            edited
                .lines()
                .skip(2)
                .take_while(|l| !l.contains("b:"))
                .map(|l| format!("{l}|"))
                .collect::<String>()
        };
        assert_eq!(set("  a:\n"), "  a: { model: p/new:1 }|");
        assert_eq!(set("  a: {}\n"), "  a: { model: p/new:1}|");
        assert_eq!(
            set("  a: { role: x }\n"),
            "  a: { model: p/new:1, role: x }|"
        );
        assert_eq!(
            set("  a: { model: p/old, role: x }\n"),
            "  a: { model: p/new:1, role: x }|"
        );
        assert_eq!(set("  a: { model: 'p/old' }\n"), "  a: { model: p/new:1 }|");
        assert_eq!(
            set("  a:\n    role: x # why\n"),
            "  a:|    model: p/new:1|    role: x # why|"
        );
        assert_eq!(
            set("  a:\n    role: x\n    model: p/old # it\n"),
            "  a:|    role: x|    model: p/new:1 # it|"
        );
        assert!(set_model("version: 1\nagents: { b: {} }\n", &slug, "p/m").is_err());
    }

    #[test]
    fn adding_and_removing_leave_the_rest_alone() {
        let c: Slug = "c".parse().unwrap();
        let more = add_agent(TEXT, &c, Some("worker"), Some("a")).unwrap();
        assert!(
            more.contains("  b: {}\n  c: { template: worker, reports_to: a }\n"),
            "{more}"
        );
        assert!(crate::parse(&more).is_ok());
        assert_eq!(remove_agent(&more, &c).unwrap(), TEXT);
        let less = remove_agent(TEXT, &"a".parse().unwrap()).unwrap();
        assert!(!less.contains("role: x") && less.contains("  b: {}"));
        assert!(add_agent(TEXT, &"a".parse().unwrap(), None, None).is_err());
        assert!(add_agent("version: 1\nagents: { a: {} }\n", &c, None, None).is_err());
    }
}
