//! Small edits of a manifest's text that leave everything else, comments included, as it was.

use crate::node::{self, Entry, Kind, Mistake, Node};
use abbey_model::Slug;

/// Manifest text with one more agent at the end of the `agents` block; comments and formatting stay.
///
/// # Errors
/// When the text is not a manifest, the agent exists, or the block is written in a style that cannot be extended line
/// by line.
pub fn add_agent(
    text: &str,
    slug: &Slug,
    template: Option<&str>,
    reports_to: Option<&str>,
) -> Result<String, Vec<Mistake>> {
    let root = node::parse_yaml(text)?;
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
                .mistake(format!("agent `{slug}` already exists in the manifest")),
        ]);
    }
    if is_flow(text, agents) {
        return insert_into_flow(text, &root, &entry);
    }
    let (indent, _) = block(text, agents)?;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let at = end_of(text, agents, indent);
    lines.insert(at, format!("{}{entry}", " ".repeat(indent)));
    Ok(lines.join("\n") + "\n")
}

/// Whether a mapping is written between braces.
fn is_flow(text: &str, node: &Node) -> bool {
    let line = node
        .place
        .line
        .checked_sub(1)
        .and_then(|n| text.lines().nth(n));
    let first = line.and_then(|l| l.chars().nth(node.place.column - 1));
    matches!(node.kind, Kind::Map(_)) && first == Some('{')
}

/// Manifest text with one more entry in `agents`, which is written between braces. The entry is in one line.
fn insert_into_flow(text: &str, root: &Node, entry: &str) -> Result<String, Vec<Mistake>> {
    let agents = root.entries().iter().find(|e| e.key == "agents");
    let odd = |why: String| vec![root.place.mistake(why)];
    let agents = agents.ok_or_else(|| odd("there is no `agents`".to_owned()))?;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    insert(&mut lines, agents, entry).map_err(odd)?;
    Ok(lines.join("\n") + "\n")
}

/// An entry that is written over several lines, in one: values are in the notation of JSON, which is YAML as well.
fn in_one_line(slug: &Slug, value: &Node) -> String {
    match value.is_null() {
        true => format!("{slug}: {{}}"),
        false => format!("{slug}: {}", value.to_json()),
    }
}

/// Manifest text without an agent's entry.
///
/// # Errors
/// As [`add_agent`], and when there is no such agent.
pub fn remove_agent(text: &str, slug: &Slug) -> Result<String, Vec<Mistake>> {
    let root = node::parse_yaml(text)?;
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
    let mut kept = kept.collect::<Vec<_>>().join("\n") + "\n";
    // A service may name its data, which nothing else would take out.
    while let Some(cut) = cut_data_name(&kept, slug)? {
        kept = cut;
    }
    Ok(kept)
}

/// Takes the name of an agent's data out of the first service that has one; `None` if none has.
fn cut_data_name(text: &str, slug: &Slug) -> Result<Option<String>, Vec<Mistake>> {
    let root = node::parse_yaml(text)?;
    let services = root.get("services").map_or(&[][..], Node::entries);
    for service in services {
        let mut keys = service.value.entries().iter();
        let Some(names) = keys.find(|e| e.key == "names") else {
            continue;
        };
        match names.value.entries() {
            [only] if only.key == slug.as_str() => return cut(text, service, "names").map(Some),
            all if all.iter().any(|e| e.key == slug.as_str()) => {
                return cut(text, names, slug.as_str()).map(Some);
            }
            _ => {}
        }
    }
    Ok(None)
}

/// Whether an agent's entry in a manifest text has a value at this path of keys.
pub fn has_value_at(text: &str, slug: &Slug, path: &[&str]) -> bool {
    let Ok(root) = node::parse_yaml(text) else {
        return false;
    };
    let Ok(entry) = agent_of(&root, slug) else {
        return false;
    };
    let value = path
        .iter()
        .try_fold(&entry.value, |node, key| node.get(key));
    value.is_some()
}

/// Lines of an agent's entry in a manifest text, without their indentation.
///
/// # Errors
/// As [`remove_agent`].
pub fn agent_entry(text: &str, slug: &Slug) -> Result<Vec<String>, Vec<Mistake>> {
    let root = node::parse_yaml(text)?;
    let entry = agent_of(&root, slug)?;
    let agents = root.get("agents").unwrap_or(&root);
    if is_flow(text, agents) {
        return Ok(vec![in_one_line(slug, &entry.value)]);
    }
    let (indent, first_lines) = block(text, agents)?;
    let start = entry.place.line - 1;
    let next = first_lines.iter().find(|line| **line > entry.place.line);
    let end = next.map_or_else(|| end_of(text, agents, indent), |line| line - 1);
    let lines = text.lines().skip(start).take(end - start);
    let mut lines: Vec<String> = lines.map(|l| l.chars().skip(indent).collect()).collect();
    // What is said in front of the next agent is about that one.
    let rest = |l: &String| l.trim().is_empty() || (l.starts_with('#') && !l.starts_with(' '));
    while lines.len() > 1 && lines.last().is_some_and(rest) {
        lines.pop();
    }
    Ok(lines)
}

/// Manifest text with one more agent, whose entry has the given lines.
///
/// # Errors
/// As [`add_agent`], and when the lines are not an entry.
pub fn add_entry(text: &str, slug: &Slug, lines: &[String]) -> Result<String, Vec<Mistake>> {
    let root = node::parse_yaml(text)?;
    let agents = root.get("agents").filter(|a| !a.is_null());
    if let Some(there) = agents.and_then(|a| a.entries().iter().find(|e| e.key == slug.as_str())) {
        let text = format!("agent `{slug}` already exists in the manifest");
        return Err(vec![there.place.mistake(text)]);
    }
    let (first, rest) = lines.split_first().unzip();
    let named = first.and_then(|l: &String| l.split_once(':'));
    let Some((_, after)) = named else {
        return Err(vec![root.place.mistake("an entry begins with a name")]);
    };
    let mut own = vec![format!("{slug}:{after}")];
    own.extend(rest.unwrap_or_default().iter().cloned());
    if agents.is_some_and(|agents| is_flow(text, agents)) {
        let written = node::parse_yaml(&own.join("\n"))?;
        let [entry] = written.entries() else {
            let text = "the lines hold more than one entry";
            return Err(vec![written.place.mistake(text)]);
        };
        return insert_into_flow(text, &root, &in_one_line(slug, &entry.value));
    }
    let (indent, at, mut all) = match agents {
        Some(agents) => {
            let (indent, _) = block(text, agents)?;
            (indent, end_of(text, agents, indent), text.to_owned())
        }
        None => {
            let all = format!("{}\nagents:\n", text.trim_end());
            (2, all.lines().count(), all)
        }
    };
    let mut edited: Vec<String> = all.lines().map(str::to_owned).collect();
    let shifted = own.iter().map(|l| match l.is_empty() {
        true => String::new(),
        false => format!("{}{l}", " ".repeat(indent)),
    });
    edited.splice(at..at, shifted);
    all = edited.join("\n") + "\n";
    let found = node::parse_yaml(&all)?;
    let entry = agent_of(&found, slug)?;
    // The lines may be a stranger's: whatever stands beside the entry would be an agent of its own.
    let count = |root: &Node| root.get("agents").map_or(0, |a| a.entries().len());
    match count(&found) == count(&root) + 1 {
        true => Ok(all),
        false => Err(vec![
            entry.place.mistake("the lines hold more than one entry"),
        ]),
    }
}

/// Manifest text in which a key of an agent's entry has this scalar value; everything else stays.
///
/// # Errors
/// When there is no such agent, or its entry is written in a style that cannot be edited.
pub fn set_key(text: &str, slug: &Slug, key: &str, value: &str) -> Result<String, Vec<Mistake>> {
    set_in(text, AGENT, slug, (key, value))
}

/// Manifest text in which a service is part of the house, or is declared and not part of it; everything else stays.
///
/// # Errors
/// As [`set_key`], for a service.
pub fn enable_service(text: &str, slug: &Slug, enabled: bool) -> Result<String, Vec<Mistake>> {
    let root = node::parse_yaml(text)?;
    let entry = entry_of(&root, SERVICE, slug)?;
    match (entry.value.get("enabled"), enabled) {
        // It is without the key.
        (None, true) => Ok(text.to_owned()),
        (_, enabled) => set_in(text, SERVICE, slug, ("enabled", &enabled.to_string())),
    }
}

/// What an entry is, and the key below which the manifest has all of them.
type EntryKind = (&'static str, &'static str);

const AGENT: EntryKind = ("agent", "agents");
const SERVICE: EntryKind = ("service", "services");

/// As [`set_key`], for any kind of entry.
fn set_in(
    text: &str,
    kind: EntryKind,
    slug: &Slug,
    (key, value): (&str, &str),
) -> Result<String, Vec<Mistake>> {
    let root = node::parse_yaml(text)?;
    let entry = entry_of(&root, kind, slug)?;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let odd = |why: &str| {
        let text = format!(
            "{why}; write `{key}: {value}` for {} `{slug}` by hand",
            kind.0
        );
        vec![entry.place.mistake(text)]
    };
    match entry.value.get(key) {
        Some(old) => {
            let written = old.text().unwrap_or_default();
            let line = old.place.line.checked_sub(1).and_then(|n| lines.get_mut(n));
            let line = line.ok_or_else(|| odd("it is nowhere"))?;
            let from = old.place.column - 1;
            let raw: String = line.chars().skip(from).collect();
            let len = written.chars().count();
            let len = match raw.chars().next() {
                Some('"' | '\'') => len + 2,
                _ => len,
            };
            let there: String = raw.chars().take(len).collect();
            if !there.contains(written) {
                return Err(odd("it is written in an unusual way"));
            }
            splice(line, from, len, value);
        }
        None => insert(&mut lines, entry, &format!("{key}: {value}")).map_err(|why| odd(&why))?,
    }
    let edited = lines.join("\n") + "\n";
    let found = node::parse_yaml(&edited)?;
    let found = entry_of(&found, kind, slug)?.value.get(key);
    match found.and_then(Node::text) == Some(value) {
        true => Ok(edited),
        false => Err(odd("its entry could not be edited")),
    }
}

/// Manifest text without a key of an agent's entry; unchanged when the key is absent.
///
/// # Errors
/// As [`set_key`].
pub fn remove_key(text: &str, slug: &Slug, key: &str) -> Result<String, Vec<Mistake>> {
    let root = node::parse_yaml(text)?;
    let entry = agent_of(&root, slug)?;
    match entry.value.get(key) {
        None => Ok(text.to_owned()),
        Some(_) => cut(text, entry, key),
    }
}

/// Manifest text with one more schedule of an agent; `action` is its mapping in one line, with braces.
///
/// # Errors
/// As [`set_key`], and when the agent has a schedule of that name.
pub fn add_schedule(
    text: &str,
    slug: &Slug,
    name: &Slug,
    action: &str,
) -> Result<String, Vec<Mistake>> {
    let root = node::parse_yaml(text)?;
    let entry = agent_of(&root, slug)?;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let schedules = entry.value.entries().iter().find(|e| e.key == "schedules");
    let odd = |why: String| {
        let text =
            format!("{why}; write `{name}: {action}` below `schedules` of agent `{slug}` by hand");
        vec![entry.place.mistake(text)]
    };
    match schedules {
        Some(there) if there.value.get(name.as_str()).is_some() => {
            let text = format!("agent `{slug}` already has a schedule `{name}`");
            return Err(vec![there.place.mistake(text)]);
        }
        Some(there) => insert(&mut lines, there, &format!("{name}: {action}")).map_err(odd)?,
        None => {
            let piece = format!("schedules: {{ {name}: {action} }}");
            insert(&mut lines, entry, &piece).map_err(odd)?;
        }
    }
    let edited = lines.join("\n") + "\n";
    let found = node::parse_yaml(&edited)?;
    let there = agent_of(&found, slug)?.value.get("schedules");
    match there.is_some_and(|s| s.get(name.as_str()).is_some()) {
        true => Ok(edited),
        false => Err(odd("its entry could not be edited".to_owned())),
    }
}

/// Manifest text without a schedule of an agent.
///
/// # Errors
/// As [`set_key`], and when there is no such schedule.
pub fn remove_schedule(text: &str, slug: &Slug, name: &Slug) -> Result<String, Vec<Mistake>> {
    let root = node::parse_yaml(text)?;
    let entry = agent_of(&root, slug)?;
    let schedules = entry.value.entries().iter().find(|e| e.key == "schedules");
    let schedules = schedules.filter(|s| s.value.get(name.as_str()).is_some());
    let Some(schedules) = schedules else {
        let text = format!("agent `{slug}` has no schedule `{name}`");
        return Err(vec![entry.place.mistake(text)]);
    };
    match schedules.value.entries().len() {
        1 => cut(text, entry, "schedules"),
        _ => cut(text, schedules, name.as_str()),
    }
}

pub(crate) fn agent_of<'a>(root: &'a Node, slug: &Slug) -> Result<&'a Entry, Vec<Mistake>> {
    entry_of(root, AGENT, slug)
}

fn entry_of<'a>(
    root: &'a Node,
    (what, all): EntryKind,
    slug: &Slug,
) -> Result<&'a Entry, Vec<Mistake>> {
    let entries = root.get(all).map_or(&[][..], Node::entries);
    let found = entries.iter().find(|e| e.key == slug.as_str());
    found.ok_or_else(|| {
        let missing = format!("there is no {what} `{slug}` in the manifest");
        vec![root.place.mistake(missing)]
    })
}

/// Puts something in the place of some characters of a line; characters are what places count.
pub(crate) fn splice(line: &mut String, from: usize, len: usize, new: &str) {
    let head: String = line.chars().take(from).collect();
    let tail: String = line.chars().skip(from + len).collect();
    *line = format!("{head}{new}{tail}");
}

/// Puts `key: value` in front of what a mapping holds.
pub(crate) fn insert(lines: &mut Vec<String>, entry: &Entry, piece: &str) -> Result<(), String> {
    let index = |n: usize| n.checked_sub(1).filter(|n| *n < lines.len());
    match (&entry.value.kind, entry.value.is_null()) {
        (_, true) => {
            let at = index(entry.place.line).ok_or("it is nowhere")?;
            let end = format!("{}:", entry.key);
            let from = lines[at].find(&end).ok_or("its name is quoted")?;
            lines[at].insert_str(from + end.len(), &format!(" {{ {piece} }}"));
        }
        (Kind::Map(inside), false) => {
            let at = index(entry.value.place.line).ok_or("it is nowhere")?;
            let from = entry.value.place.column - 1;
            let rest = if inside.is_empty() { "" } else { "," };
            match lines[at].chars().nth(from) == Some('{') {
                true => splice(&mut lines[at], from + 1, 0, &format!(" {piece}{rest}")),
                false => lines.insert(at, format!("{}{piece}", " ".repeat(from))),
            }
        }
        _ => return Err("its entry is no mapping".to_owned()),
    }
    Ok(())
}

/// Takes `key` out of a mapping, in whichever style that is written.
fn cut(text: &str, entry: &Entry, key: &str) -> Result<String, Vec<Mistake>> {
    let inside = entry.value.entries();
    let odd = |why: &str| {
        let text = format!("{why}; remove `{key}` from `{}` by hand", entry.key);
        vec![entry.place.mistake(text)]
    };
    let at = inside.iter().position(|e| e.key == key);
    let at = at.ok_or_else(|| odd("it is not there"))?;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let place = inside[at].place;
    let own = lines.get(entry.value.place.line - 1);
    let flow = own.and_then(|l| l.chars().nth(entry.value.place.column - 1)) == Some('{');
    if flow {
        let end = flow_end(&lines, &inside[at].value).ok_or_else(|| odd("its end is not found"))?;
        if end.0 != place.line {
            return Err(odd("it goes over several lines"));
        }
        let line = &mut lines[place.line - 1];
        let (mut from, mut to) = (place.column - 1, end.1);
        let chars: Vec<char> = line.chars().collect();
        // The comma behind it goes too, or the one before where it was the last.
        let behind = chars[to..].iter().take_while(|c| **c == ' ').count();
        match chars.get(to + behind) {
            Some(',') => {
                to += behind + 1;
                to += chars[to..].iter().take_while(|c| **c == ' ').count();
            }
            _ => {
                to -= chars[from..to]
                    .iter()
                    .rev()
                    .take_while(|c| **c == ' ')
                    .count();
                let before = chars[..from]
                    .iter()
                    .rev()
                    .take_while(|c| **c == ' ')
                    .count();
                if from > before && chars[from - before - 1] == ',' {
                    from -= before + 1;
                }
            }
        }
        splice(line, from, to - from, "");
    } else {
        let start = place.line - 1;
        let depth = place.column - 1;
        let deeper = |l: &String| l.trim().is_empty() || l.len() - l.trim_start().len() > depth;
        let mut end = start + 1;
        while lines.get(end).is_some_and(&deeper) {
            end += 1;
        }
        // Empty lines behind it are not its own.
        while end > start + 1 && lines[end - 1].trim().is_empty() {
            end -= 1;
        }
        lines.drain(start..end);
    }
    let edited = lines.join("\n") + "\n";
    node::parse_yaml(&edited).map(|_| edited)
}

/// Line, from 1, and column, from 0, behind a value that is written between braces.
fn flow_end(lines: &[String], value: &Node) -> Option<(usize, usize)> {
    let (mut depth, mut quote) = (0u32, None);
    let first = value.place.line;
    for (n, line) in lines.iter().enumerate().skip(first - 1) {
        let skip = if n + 1 == first {
            value.place.column - 1
        } else {
            0
        };
        let mut escaped = false;
        for (column, c) in line.chars().enumerate().skip(skip) {
            match (quote, c) {
                (Some('"'), '\\') if !escaped => {
                    escaped = true;
                    continue;
                }
                (Some(q), c) if c == q && !escaped => quote = None,
                (Some(_), _) => {}
                (None, '"' | '\'') => quote = Some(c),
                (None, '{' | '[') => depth += 1,
                (None, '}' | ']') if depth == 0 => return Some((n + 1, column)),
                (None, '}' | ']') => depth -= 1,
                (None, ',') if depth == 0 => return Some((n + 1, column)),
                _ => {}
            }
            escaped = false;
        }
    }
    None
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
            let edited = set_key(&text, &slug, "model", "p/new:1").unwrap();
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
        assert!(set_key("version: 1\nagents: { b: {} }\n", &slug, "model", "p/m").is_err());
    }

    #[test]
    fn agents_between_braces_get_another_one() {
        let slug: Slug = "new".parse().unwrap();
        let lines = [
            "x:",
            "  name: \"A, b: {c}\"",
            "  drives: { workspace: 16MiB }",
        ]
        .map(str::to_owned);
        for text in [
            "house: h\nagents: {}\n",
            "house: h\nagents: { a: { role: x }, b: {} } # ours\n",
            "house: h\nagents: {\n  a: { role: x },\n}\nbudget: {}\n",
            "{ \"house\": \"h\", \"agents\": { \"a\": {} } }\n",
        ] {
            let edited = add_entry(text, &slug, &lines).unwrap();
            let (old, new) = (
                node::parse_yaml(text).unwrap(),
                node::parse_yaml(&edited).unwrap(),
            );
            let agents = |root: &Node| root.get("agents").unwrap().to_json();
            let mut found = agents(&new);
            let added = found.as_object_mut().unwrap().shift_remove("new").unwrap();
            assert_eq!(found, agents(&old), "{edited}");
            assert_eq!(
                added,
                serde_json::json!({ "name": "A, b: {c}", "drives": { "workspace": "16MiB" } })
            );
            let entry = agent_entry(&edited, &slug).unwrap();
            assert_eq!(entry.len(), 1, "{entry:?}");
            assert!(add_entry(&edited, &slug, &lines).is_err());
            add_agent(text, &slug, Some("worker"), None).unwrap();
        }
        let two = ["x: {}", "y: {}"].map(str::to_owned);
        assert!(add_entry("agents: {}\n", &slug, &two).is_err());
    }

    #[test]
    fn schedules_come_and_go_in_every_style_and_the_rest_stays() {
        let (a, n): (Slug, Slug) = ("a".parse().unwrap(), "n".parse().unwrap());
        let action = "{ every: 1h, task: \"Say: \\\"hello, you\\\" {now}\" }";
        for entry in [
            "  a:\n",
            "  a: {}\n",
            "  a: { role: x }\n",
            "  a: { role: x, schedules: { m: { every: 2h, task: t } } } # why\n",
            "  a: { schedules: { m: { every: 2h, task: 'it''s, {so}' } }, role: x }\n",
            "  a:\n    role: x # why\n    schedules:\n      # one\n      m: { every: 2h, task: t }\n      o:\n        every: 3h\n        task: t\n\n",
            "  a:\n    schedules: { m: { every: 2h, task: t } }\n    role: x\n",
        ] {
            let text = format!("version: 1\nagents:\n{entry}  b: {{}} # other\n");
            let more = add_schedule(&text, &a, &n, action).unwrap();
            let there = node::parse_yaml(&more).unwrap();
            let there = agent_of(&there, &a)
                .unwrap()
                .value
                .get("schedules")
                .unwrap();
            assert_eq!(
                there.get("n").unwrap().get("task").unwrap().text(),
                Some("Say: \"hello, you\" {now}")
            );
            assert!(
                add_schedule(&more, &a, &n, action).is_err(),
                "twice is told"
            );
            let less = remove_schedule(&more, &a, &n).unwrap();
            assert!(less.ends_with("  b: {} # other\n"), "{less}");
            let plain = |t: &str| format!("{:?}", strip(&node::parse_yaml(t).unwrap()));
            let before = plain(&text);
            // An agent that had nothing at all has an empty entry now.
            assert!(plain(&less) == before || entry == "  a:\n", "{less}");
            assert!(remove_schedule(&less, &a, &n).is_err());
        }
    }

    /// A tree without its places.
    fn strip(node: &Node) -> serde_json::Value {
        match &node.kind {
            Kind::Scalar { text, .. } => text.clone().into(),
            Kind::List(items) => items.iter().map(strip).collect(),
            Kind::Map(entries) => {
                let pair = |e: &Entry| (e.key.clone(), strip(&e.value));
                serde_json::Value::Object(entries.iter().map(pair).collect())
            }
        }
    }

    #[test]
    fn a_service_is_disabled_and_enabled_in_place() {
        let web: Slug = "web".parse().unwrap();
        let text = "services:\n  web: { port: 80 } # site\nagents: {}\n";
        let off = enable_service(text, &web, false).unwrap();
        assert_eq!(
            off,
            "services:\n  web: { enabled: false, port: 80 } # site\nagents: {}\n"
        );
        assert_eq!(enable_service(&off, &web, false).unwrap(), off);
        let on = enable_service(&off, &web, true).unwrap();
        assert_eq!(on, off.replace("false", "true"));
        assert_eq!(enable_service(text, &web, true).unwrap(), text);
        let none = enable_service(text, &"other".parse().unwrap(), true).unwrap_err();
        assert!(
            none[0].text.contains("no service `other`"),
            "{}",
            none[0].text
        );
    }

    #[test]
    fn a_key_is_set_and_taken_out() {
        let a: Slug = "a".parse().unwrap();
        let text = "agents:\n  a: { role: x, reports_to: b }\n  b: {}\n";
        let moved = set_key(text, &a, "reports_to", "c").unwrap();
        assert_eq!(moved, "agents:\n  a: { role: x, reports_to: c }\n  b: {}\n");
        let top = remove_key(&moved, &a, "reports_to").unwrap();
        assert_eq!(top, "agents:\n  a: { role: x }\n  b: {}\n");
        assert_eq!(remove_key(&top, &a, "reports_to").unwrap(), top);
        let block = "agents:\n  a:\n    reports_to: b\n    role: x\n  b: {}\n";
        assert_eq!(
            remove_key(block, &a, "reports_to").unwrap(),
            "agents:\n  a:\n    role: x\n  b: {}\n"
        );
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
        assert_eq!(
            add_agent("version: 1\nagents: { a: {} }\n", &c, None, None).unwrap(),
            "version: 1\nagents: { c: {}, a: {} }\n"
        );
    }

    #[test]
    fn one_entry_brings_no_other_along() {
        let slug: Slug = "guest".parse().unwrap();
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        for text in ["version: 1\nagents:\n  own: {}\n", "version: 1\n"] {
            let one = lines("guest:\n  name: Guest");
            assert!(add_entry(text, &slug, &one).is_ok());
            let two = lines("guest:\n  name: Guest\nother: { cell: process }");
            let refused = add_entry(text, &slug, &two).unwrap_err();
            assert!(refused[0].text.contains("more than one entry"));
        }
    }

    #[test]
    fn an_entry_is_taken_and_put_in_under_another_name() {
        let (a, b, c): (Slug, Slug, Slug) = (
            "a".parse().unwrap(),
            "b".parse().unwrap(),
            "c".parse().unwrap(),
        );
        let entry = agent_entry(TEXT, &a).unwrap();
        assert_eq!(entry, ["a:", "  role: x # why"]);
        assert_eq!(agent_entry(TEXT, &b).unwrap(), ["b: {}"]);
        let more = add_entry(TEXT, &c, &entry).unwrap();
        assert!(
            more.contains("  b: {}\n  c:\n    role: x # why\n# end\n"),
            "{more}"
        );
        assert_eq!(agent_entry(&more, &c).unwrap(), ["c:", "  role: x # why"]);
        let none = add_entry("version: 1\nhouse: h\n", &c, &entry).unwrap();
        assert_eq!(
            none,
            "version: 1\nhouse: h\nagents:\n  c:\n    role: x # why\n"
        );
        assert!(add_entry(TEXT, &b, &entry).is_err());
        assert!(add_entry(TEXT, &c, &["- no".to_owned()]).is_err());
    }
}
