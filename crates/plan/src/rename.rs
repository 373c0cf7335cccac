//! Renaming of an agent in a manifest's text: its entry and every key that refers to it.

use crate::agent_values::taken_by_keyword;
use crate::edit::{insert, splice};
use crate::house::House;
use crate::key::Shape;
use crate::keys::MANIFEST;
use crate::node::{self, Kind, Mistake, Node, Place};
use abbey_model::Slug;
use std::collections::BTreeMap;

/// Manifest text in which an agent has another name: at its entry, and wherever a key names an agent. Its databases
/// and repositories keep their names, by `names` of their services, also those of services that it does not use, for which
/// `data` has the names, by service. Everything else, comments included, stays.
///
/// # Errors
/// When the text is not a manifest, has no such agent or one of the new name, the new name is a keyword, or a place is written in a style that
/// cannot be edited.
pub fn rename_agent(
    text: &str,
    old: &Slug,
    new: &Slug,
    data: &BTreeMap<Slug, String>,
) -> Result<String, Vec<Mistake>> {
    let house = crate::parse(text)?;
    let root = node::parse_yaml(text)?;
    let Some(agent) = house.agents.get(old) else {
        let missing = format!("there is no agent `{old}` in the manifest");
        return Err(vec![root.place.mistake(missing)]);
    };
    if let Some(other) = house.agents.get(new) {
        let place = Place {
            line: other.line,
            column: 1,
        };
        let taken = format!("agent `{new}` already exists in the manifest");
        return Err(vec![place.mistake(taken)]);
    }
    // Whoever may delegate to the agent could delegate to everybody, or to nobody, afterwards.
    if let Some(taken) = taken_by_keyword(new) {
        return Err(vec![root.place.mistake(taken)]);
    }
    let mut found = find_references(&root, old);
    // From the end of a line to its start, so that no edit moves a later place.
    found.sort_by_key(|r| std::cmp::Reverse((r.place.line, r.place.column)));
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for reference in found {
        replace_name(&mut lines, reference.place, old, new)?;
    }
    let mut edited = lines.join("\n") + "\n";
    for service in kept_data(&house, &agent.uses, old) {
        edited = keep_data_name(&edited, &service, new)?;
    }
    for (service, name) in data {
        edited = restore_data_name(&edited, service, new, name)?;
    }
    let renamed = node::parse_yaml(&edited)?;
    match find_references(&renamed, old).first() {
        None => Ok(edited),
        Some(left) => Err(vec![left.place.mistake(format!(
            "`{old}` could not be replaced here; write `{new}` by hand"
        ))]),
    }
}

/// A manifest text, and services with the name that it gives the data of an agent there.
pub type GivenNames = (String, Vec<(Slug, Slug)>);

/// Most agents that had one name, one after the other, and whose data is told apart by numbers.
const FREE_NAMES: u32 = 99;

/// A service and the name under which it holds an agent's data.
struct KeptData {
    service: Slug,
    name: String,
}

/// Manifest text in which a service names the data of an agent, as it did before the agent was removed or renamed. The text
/// stays as it is if there is no such service any more, or if it names that agent's data. It need not be valid before: without
/// the name, the data of two agents may have one.
///
/// # Errors
/// When the text is not YAML, or the service is written in a style that cannot be edited.
pub fn restore_data_name(
    text: &str,
    service: &Slug,
    agent: &Slug,
    name: &str,
) -> Result<String, Vec<Mistake>> {
    let root = node::parse_yaml(text)?;
    let services = root.get("services").map_or(&[][..], Node::entries);
    let known = services.iter().find(|e| e.key == service.as_str());
    let names = known.and_then(|known| known.value.get("names"));
    if known.is_none() || names.is_some_and(|names| names.get(agent.as_str()).is_some()) {
        return Ok(text.to_owned());
    }
    let kept = KeptData {
        service: service.clone(),
        name: name.to_owned(),
    };
    keep_data_name(text, &kept, agent)
}

/// Manifest text in which an agent that comes back has a name of its own in each service that gives its usual one to the data of
/// another agent by now, and those services with the names. The text need not be valid before.
///
/// # Errors
/// As [`restore_data_name`].
pub fn give_free_data_names(text: &str, agent: &Slug) -> Result<GivenNames, Vec<Mistake>> {
    let root = node::parse_yaml(text)?;
    let agents = root.get("agents").map_or(&[][..], Node::entries);
    let (mut edited, mut given) = (text.to_owned(), Vec::new());
    for entry in root.get("services").map_or(&[][..], Node::entries) {
        let kind = entry.value.get("kind").and_then(Node::text);
        // Names of databases have no hyphens, and something before the name of an agent.
        let usual = match kind {
            Some("postgres") => agent.postgres_name().replace('_', "-"),
            Some("git" | "site") => agent.to_string(),
            _ => continue,
        };
        let names = entry.value.get("names").map_or(&[][..], Node::entries);
        let taken = |name: &str| names.iter().any(|e| e.value.text() == Some(name));
        let own = names.iter().any(|e| e.key == agent.as_str());
        if own || !taken(&usual) {
            continue;
        }
        let free = (2..=FREE_NAMES).map(|n| format!("{agent}-{n}"));
        let mut free = free.filter(|name| !taken(name) && !agents.iter().any(|a| a.key == *name));
        let name = free.find_map(|name| name.parse::<Slug>().ok());
        let (Some(name), Ok(service)) = (name, entry.key.parse::<Slug>()) else {
            continue;
        };
        edited = restore_data_name(&edited, &service, agent, name.as_str())?;
        given.push((service, name));
    }
    Ok((edited, given))
}

/// The data of an agent in services that name it by the agent's name.
fn kept_data(
    house: &House,
    uses: &std::collections::BTreeSet<Slug>,
    agent: &Slug,
) -> Vec<KeptData> {
    let services = uses.iter().filter_map(|s| house.services.get(s));
    let services = services.filter(|s| s.kind.has_consumers() && !s.names.contains_key(agent));
    let kept = services.map(|service| KeptData {
        service: service.slug.clone(),
        name: service.name_for(agent).replace('_', "-"),
    });
    kept.collect()
}

/// Adds `names: { AGENT: NAME }` to a service.
fn keep_data_name(text: &str, kept: &KeptData, agent: &Slug) -> Result<String, Vec<Mistake>> {
    let root = node::parse_yaml(text)?;
    let services = root.get("services").map_or(&[][..], Node::entries);
    let KeptData { service, name } = kept;
    let by_hand = |place: Place, why: &str| {
        vec![place.mistake(format!(
            "{why}; write `names: {{ {agent}: {name} }}` for service `{service}` by hand, and repeat the command"
        ))]
    };
    let Some(entry) = services.iter().find(|e| e.key == service.as_str()) else {
        return Err(by_hand(root.place, "the service is not found"));
    };
    if name.parse::<Slug>().is_err() {
        return Err(by_hand(entry.place, "the name of its data is too long"));
    }
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let names = entry.value.entries().iter().find(|e| e.key == "names");
    let inserted = match names {
        Some(names) => insert(&mut lines, names, &format!("{agent}: {name}")),
        None => insert(&mut lines, entry, &format!("names: {{ {agent}: {name} }}")),
    };
    inserted.map_err(|why| by_hand(entry.place, &why))?;
    let edited = lines.join("\n") + "\n";
    node::parse_yaml(&edited).map(|_| edited)
}

/// Keys of a manifest text that name an agent, its own entry included, such as `agents.lead.delegates_to`, each once and in
/// the order of the text; none if the text is not a manifest.
pub fn references(text: &str, agent: &Slug) -> Vec<String> {
    let found = node::parse_yaml(text).map(|root| find_references(&root, agent));
    let mut found = found.unwrap_or_default();
    found.sort_by_key(|r| (r.place.line, r.place.column));
    let mut keys: Vec<String> = Vec::new();
    for reference in found {
        if !keys.contains(&reference.key) {
            keys.push(reference.key);
        }
    }
    keys
}

/// A place at which a manifest names an agent.
struct Reference {
    place: Place,
    /// Key that names it, from the root, with dots.
    key: String,
}

fn find_references(root: &Node, agent: &Slug) -> Vec<Reference> {
    let mut search = Search {
        agent: agent.as_str(),
        path: Vec::new(),
        found: Vec::new(),
    };
    search.visit(&MANIFEST, root);
    search.found
}

/// Search for the places that name an agent.
struct Search<'t> {
    agent: &'t str,
    /// Keys from the root to the node that is visited.
    path: Vec<String>,
    found: Vec<Reference>,
}

impl Search<'_> {
    fn record(&mut self, place: Place) {
        let key = self.path.join(".");
        self.found.push(Reference { place, key });
    }

    /// Collects the places at which a node of this shape names the agent.
    fn visit(&mut self, shape: &Shape, node: &Node) {
        let agent = self.agent;
        let named = |node: &Node| node.text() == Some(agent);
        match shape {
            Shape::Agent if named(node) => self.record(node.place),
            Shape::Delegates => {
                let words = match &node.kind {
                    Kind::List(items) => items.iter().collect(),
                    Kind::Scalar { .. } | Kind::Map(_) => vec![node],
                };
                let without =
                    |word: &Node| word.text().and_then(|t| t.strip_prefix('-')) == Some(agent);
                for word in words.into_iter().filter(|w| named(w) || without(w)) {
                    self.record(word.place);
                }
            }
            Shape::List(inner) | Shape::Set(inner) => {
                for item in node.items() {
                    self.visit(inner, item);
                }
            }
            Shape::Map(inner) | Shape::Dict(inner) | Shape::ByAgent(inner) => {
                for entry in node.entries() {
                    self.path.push(entry.key.clone());
                    if matches!(shape, Shape::ByAgent(_)) && entry.key == agent {
                        self.record(entry.place);
                    }
                    self.visit(inner, &entry.value);
                    self.path.pop();
                }
            }
            Shape::Object(_) | Shape::Section(_) | Shape::Defaults(_) => {
                for key in shape.keys() {
                    if let Some(value) = node.get(key.name) {
                        self.path.push(key.name.to_owned());
                        self.visit(&key.shape, value);
                        self.path.pop();
                    }
                }
            }
            _ => {}
        }
    }
}

/// Replaces the name that is written at a place, quoted or not, with or without a minus in front.
fn replace_name(
    lines: &mut [String],
    place: Place,
    old: &Slug,
    new: &Slug,
) -> Result<(), Vec<Mistake>> {
    let line = place.line.checked_sub(1).and_then(|n| lines.get_mut(n));
    let replaced = line.is_some_and(|line| {
        let mut from = place.column - 1;
        let mut rest = line.chars().skip(from).peekable();
        for mark in ['\'', '"', '-'] {
            if rest.next_if_eq(&mark).is_some() {
                from += 1;
            }
        }
        let len = old.as_str().chars().count();
        let there: String = rest.take(len).collect();
        let found = there == old.as_str();
        if found {
            splice(line, from, len, new.as_str());
        }
        found
    });
    match replaced {
        true => Ok(()),
        false => Err(vec![place.mistake(format!(
            "`{old}` is written in an unusual way; write `{new}` by hand"
        ))]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_follows_and_the_rest_stays() {
        let before = r#"version: 1
house: h
# old is the first here
escalation: { to: old }
services:
  db: { kind: postgres, slot: db } # its data stays
  git:
    kind: git
    names:
      other: elsewhere
  pages: { kind: site, cell: process }
agents:
  other:
    reports_to: old
    delegates_to: [all, -old]
    uses: [git]
  "old": { uses: [db, git], model: local/old }
  older: { reports_to: 'old', delegates_to: [old, other], grants: { old: { tokens: 5 } } }
providers:
  local: { kind: openai, base_url: "http://127.0.0.1:1/v1" }
documents:
  notes: { writer: old, readers: [other, old] }
"#;
        let slug = |name: &str| name.parse::<Slug>().unwrap();
        let unused = BTreeMap::from([(slug("pages"), "older-yet".to_owned())]);
        let none = BTreeMap::new();
        let after = rename_agent(before, &slug("old"), &slug("young"), &unused).unwrap();
        insta::assert_snapshot!(after);
        let house = crate::parse(&after).unwrap();
        let (db, git) = (&house.services[&slug("db")], &house.services[&slug("git")]);
        assert_eq!(db.name_for(&slug("young")), "ab_old");
        assert_eq!(git.name_for(&slug("young")), "old");
        let again = rename_agent(&after, &slug("young"), &slug("old"), &none).unwrap();
        let house = crate::parse(&again).unwrap();
        assert_eq!(house.services[&slug("db")].name_for(&slug("old")), "ab_old");
        let keys = references(before, &slug("old"));
        assert_eq!(
            keys,
            [
                "escalation.to",
                "agents.other.reports_to",
                "agents.other.delegates_to",
                "agents.old",
                "agents.older.reports_to",
                "agents.older.delegates_to",
                "agents.older.grants.old",
                "documents.notes.writer",
                "documents.notes.readers",
            ]
        );
        for (from, to) in [
            ("nobody", "x"),
            ("old", "other"),
            ("old", "all"),
            ("old", "none"),
            ("old", "operator"),
        ] {
            assert!(rename_agent(before, &slug(from), &slug(to), &none).is_err());
        }
    }
}
