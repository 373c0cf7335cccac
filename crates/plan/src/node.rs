//! YAML text as a tree that remembers where everything stood.
//!
//! Built from parser events rather than from a ready-made map, so that a duplicate key is seen
//! and both places can be named. Aliases are refused: a manifest has no use for them, and a few
//! lines of them can name a billion nodes.

use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use std::fmt;

/// Deepest nesting that is read.
const DEPTH_MAX: usize = 32;
/// Largest manifest that is read, bytes.
pub const MANIFEST_MAX: usize = 1 << 20;

/// One mistake in a manifest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// What is wrong and what to write instead.
    pub text: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "line {}, column {}: {}",
            self.line, self.column, self.text
        )
    }
}

/// A place in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Place {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

impl Place {
    fn of(span: Span) -> Place {
        Place {
            line: span.start.line(),
            column: span.start.col() + 1,
        }
    }
    /// A mistake at this place of the text.
    pub(crate) fn mistake(self, text: impl Into<String>) -> Mistake {
        Mistake {
            line: self.line,
            column: self.column,
            text: text.into(),
        }
    }
}

/// One node with its place.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// Text; `plain` when it stood without quotes and may mean a number, a boolean or null.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) place: Place,
    pub(crate) value: Node,
}

/// What became of a value that is to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Removal {
    /// It is not here.
    NotFound,
    /// It is here, and may only go with what it is in.
    Kept,
    /// It is gone.
    Done,
}

impl Node {
    /// Kind of the node in words, for messages: `a value`, `a list` or `a mapping`.
    pub(crate) fn describe(&self) -> &'static str {
        match &self.kind {
            Kind::Scalar { .. } => "a value",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a mapping",
        }
    }

    /// Whether the node is an unquoted null or nothing at all.
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.kind, Kind::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null"))
    }

    /// Value of a key, if the node is a mapping that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        match &self.kind {
            Kind::Map(entries) => entries.iter().find(|e| e.key == key).map(|e| &e.value),
            Kind::Scalar { .. } | Kind::List(_) => None,
        }
    }

    /// Entries of a mapping; empty for other nodes.
    pub(crate) fn entries(&self) -> &[Entry] {
        match &self.kind {
            Kind::Map(entries) => entries,
            Kind::Scalar { .. } | Kind::List(_) => &[],
        }
    }

    /// Items of a list; empty for other nodes.
    pub(crate) fn items(&self) -> &[Node] {
        match &self.kind {
            Kind::List(items) => items,
            Kind::Scalar { .. } | Kind::Map(_) => &[],
        }
    }

    /// Removes the innermost entry with a value at this line and column, or with its own key there, that `may` allows to go,
    /// given its path below `path`. An item of a list goes only with the entry of the list: a list without one of its items
    /// may grant more.
    pub(crate) fn remove_at(
        &mut self,
        at: (usize, usize),
        path: &mut Vec<String>,
        may: &dyn Fn(&[String]) -> bool,
    ) -> Removal {
        let is_at = |place: Place| (place.line, place.column) == at;
        let found = match &mut self.kind {
            Kind::Scalar { .. } => Removal::NotFound,
            Kind::List(items) => items
                .iter_mut()
                .map(|item| item.remove_at(at, path, may))
                .find(|found| *found != Removal::NotFound)
                .unwrap_or(Removal::NotFound),
            Kind::Map(entries) => {
                let mut found = Removal::NotFound;
                for n in 0..entries.len() {
                    path.push(entries[n].key.clone());
                    found = entries[n].value.remove_at(at, path, may);
                    if is_at(entries[n].place) && found == Removal::NotFound {
                        found = Removal::Kept;
                    }
                    let goes = found == Removal::Kept && may(path);
                    path.pop();
                    if goes {
                        entries.remove(n);
                        found = Removal::Done;
                    }
                    if found != Removal::NotFound {
                        break;
                    }
                }
                found
            }
        };
        match found {
            Removal::NotFound if is_at(self.place) => Removal::Kept,
            found => found,
        }
    }

    /// Text of a scalar; none for lists and mappings.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar { text, .. } => Some(text),
            Kind::List(_) | Kind::Map(_) => None,
        }
    }

    /// The JSON value that the YAML text means. Unquoted scalars are null, booleans or numbers where they can be;
    /// everything else is a string.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match &self.kind {
            Kind::Scalar { text, plain: true } => match text.as_str() {
                "" | "~" | "null" => serde_json::Value::Null,
                // Whole numbers stay whole; anything that is no JSON number is a text.
                text => match text.parse::<bool>() {
                    Ok(truth) => truth.into(),
                    Err(_) => serde_json::from_str::<serde_json::Number>(text)
                        .map_or_else(|_| text.into(), serde_json::Value::Number),
                },
            },
            Kind::Scalar { text, plain: false } => text.as_str().into(),
            Kind::List(items) => items.iter().map(Node::to_json).collect(),
            Kind::Map(entries) => entries
                .iter()
                .map(|e| (e.key.clone(), e.value.to_json()))
                .collect(),
        }
    }
}

enum Open {
    List(Place, Vec<Node>),
    Map(Place, Vec<Entry>, Option<(String, Place)>),
}

/// Parses one YAML document into a tree with places.
///
/// # Errors
/// The first syntax error, or every duplicate key.
pub(crate) fn parse_yaml(text: &str) -> Result<Node, Vec<Mistake>> {
    let start = Place { line: 1, column: 1 };
    if text.len() > MANIFEST_MAX {
        return Err(vec![start.mistake(format!(
            "the manifest is larger than {MANIFEST_MAX} bytes"
        ))]);
    }
    let mut stack: Vec<Open> = Vec::new();
    let mut root: Option<Node> = None;
    let mut mistakes = Vec::new();
    for item in Parser::new_from_str(text) {
        let (event, span) = item.map_err(|e| {
            let place = Place {
                line: e.marker().line(),
                column: e.marker().col() + 1,
            };
            vec![place.mistake(format!("not valid YAML: {}", e.info()))]
        })?;
        let place = Place::of(span);
        let finished = match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => None,
            Event::DocumentStart(_) => {
                if root.is_some() {
                    return Err(vec![
                        place.mistake("one manifest is one YAML document; remove the second"),
                    ]);
                }
                None
            }
            Event::Alias(_) => {
                return Err(vec![
                    place.mistake("YAML aliases are not used here; write the value out"),
                ]);
            }
            Event::Scalar(text, style, ..) => {
                let plain = style == ScalarStyle::Plain;
                Some(Node {
                    place,
                    kind: Kind::Scalar {
                        text: text.into_owned(),
                        plain,
                    },
                })
            }
            Event::SequenceStart(..) => {
                stack.push(Open::List(place, Vec::new()));
                None
            }
            Event::MappingStart(..) => {
                stack.push(Open::Map(place, Vec::new(), None));
                None
            }
            Event::SequenceEnd | Event::MappingEnd => match stack.pop() {
                Some(Open::List(place, items)) => Some(Node {
                    place,
                    kind: Kind::List(items),
                }),
                Some(Open::Map(place, entries, _)) => Some(Node {
                    place,
                    kind: Kind::Map(entries),
                }),
                None => None,
            },
        };
        if stack.len() > DEPTH_MAX {
            return Err(vec![
                place.mistake(format!("nested more than {DEPTH_MAX} levels deep")),
            ]);
        }
        let Some(node) = finished else { continue };
        match stack.last_mut() {
            None => root = Some(node),
            Some(Open::List(_, items)) => items.push(node),
            Some(Open::Map(_, entries, key @ None)) => match node.kind {
                Kind::Scalar { text, .. } => {
                    if let Some(first) = entries.iter().find(|e| e.key == text) {
                        mistakes.push(node.place.mistake(format!(
                            "the key `{text}` is a duplicate; the first is on line {}",
                            first.place.line
                        )));
                    }
                    *key = Some((text, node.place));
                }
                Kind::List(_) | Kind::Map(_) => {
                    return Err(vec![node.place.mistake("a key must be a plain word")]);
                }
            },
            Some(Open::Map(_, entries, key)) => {
                if let Some((key, place)) = key.take() {
                    entries.push(Entry {
                        key,
                        place,
                        value: node,
                    });
                }
            }
        }
    }
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    root.ok_or_else(|| {
        vec![start.mistake("the manifest is empty; `abbey init` writes one to start from")]
    })
}
