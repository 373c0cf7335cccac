//! The resolved manifest: every key with its effective value and where it comes from, and what differs between two.
//!
//! Generic over the definitions of the keys: nothing here names one.

use crate::key::{Effect, Key, Shape};
use crate::node::{Kind, Node, Place};
use crate::origin::Origin;
use crate::shape;
use abbey_model::{Authority, CellKind, Slug, Tool};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Effective value of one key.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Path of the key below its agent, service or house: `limits.memory`.
    pub path: String,
    /// Origin of the value.
    pub origin: Origin,
    value: Value,
    key: &'static Key,
    /// It only takes effect through others that inherit it.
    inert: bool,
}

impl Setting {
    /// The value as text for people, in the notation of the manifest.
    pub fn text(&self) -> String {
        match &self.value {
            Value::Null => self.key.unset.to_owned(),
            value => display(&self.key.shape, value),
        }
    }

    fn effect_in(&self, cell: Option<CellKind>) -> Effect {
        match self.inert {
            true => Effect::None,
            false => self.key.effect_in(cell),
        }
    }
}

/// A key whose effective value differs between two plans.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyChange {
    /// Path of the key below its agent, service or house: `limits.memory`.
    pub key: String,
    /// Value before; none where there was none.
    pub old: Option<String>,
    /// Value after; none where there is none.
    pub new: Option<String>,
    /// Effect of the change on what runs.
    pub effect: Effect,
    /// Text that stands for an absent value in output for people.
    #[serde(skip)]
    pub(crate) unset: &'static str,
}

impl std::fmt::Display for KeyChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let old = self.old.as_deref().unwrap_or(self.unset);
        let new = self.new.as_deref().unwrap_or(self.unset);
        write!(f, "{}: {old} → {new}", self.key)?;
        match self.effect {
            Effect::None => f.write_str(" (no effect on what runs)"),
            Effect::Live | Effect::Restart => Ok(()),
        }
    }
}

/// Every effective value of a house, agent or service, in the order of the key definitions.
#[derive(Debug, Clone, Default)]
pub struct Settings(Vec<Setting>);

impl Settings {
    /// Every effective value, in the order of the key definitions.
    pub fn iter(&self) -> impl Iterator<Item = &Setting> {
        self.0.iter()
    }

    /// Whether the manifest or a template sets a key whose path starts with `prefix`.
    pub(crate) fn is_set(&self, prefix: &str) -> bool {
        let mut all = self.0.iter().filter(|s| s.path.starts_with(prefix));
        all.any(|s| s.origin != Origin::BuiltIn)
    }

    /// Replaces the value at a path by one that was computed from several keys; its origin as well if one is given.
    pub(crate) fn set(&mut self, path: &str, value: Value, origin: Option<Origin>) {
        if let Some(setting) = self.0.iter_mut().find(|s| s.path == path) {
            setting.value = value;
            setting.origin = origin.unwrap_or_else(|| setting.origin.clone());
        }
    }

    /// Value of the key with this path; none if it has none.
    pub(crate) fn value(&self, path: &str) -> Option<&Value> {
        self.0.iter().find(|s| s.path == path).map(|s| &s.value)
    }

    fn by_path(&self) -> BTreeMap<&str, &Setting> {
        let given = self.0.iter().filter(|s| !s.value.is_null());
        given.map(|s| (s.path.as_str(), s)).collect()
    }

    /// Keys whose value differs from `old`, in the order of the definitions, then those that exist only in `old`. Their
    /// effect is that in a cell of kind `cell`.
    pub(crate) fn changes(&self, old: &Settings, cell: Option<CellKind>) -> Vec<KeyChange> {
        let (before, after) = (old.by_path(), self.by_path());
        let gone = old
            .0
            .iter()
            .filter(|s| !after.contains_key(s.path.as_str()));
        let mut seen = BTreeSet::new();
        let mut changes = Vec::new();
        for setting in self.0.iter().chain(gone) {
            let path = setting.path.as_str();
            let (old, new) = (before.get(path), after.get(path));
            if old.map(|s| &s.value) == new.map(|s| &s.value) || !seen.insert(path) {
                continue;
            }
            changes.push(KeyChange {
                key: setting.path.clone(),
                old: old.map(|s| s.text()),
                new: new.map(|s| s.text()),
                effect: setting.effect_in(cell),
                unset: setting.key.unset,
            });
        }
        changes
    }

    /// Values by path: those whose change restarts a cell of this kind, or every value without a kind.
    pub(crate) fn values(&self, restart_in: Option<CellKind>) -> Map<String, Value> {
        let counts = |s: &&Setting| match restart_in {
            Some(cell) => s.effect_in(Some(cell)) == Effect::Restart,
            None => true,
        };
        let all = self.by_path().into_values().filter(counts);
        all.map(|s| (s.path.clone(), s.value.clone())).collect()
    }
}

/// One place from which values are taken.
#[derive(Clone, Copy)]
pub(crate) struct Layer<'a> {
    pub(crate) node: &'a Node,
    /// Whether it is `defaults`.
    pub(crate) defaults: bool,
}

impl Layer<'_> {
    fn origin(self, node: &Node) -> Origin {
        match self.defaults {
            true => Origin::Defaults(node.place.line),
            false => Origin::Manifest(node.place.line),
        }
    }
}

/// Values that are neither written nor defaults of a definition, by path.
pub(crate) type Given = BTreeMap<&'static str, (Value, Origin)>;

/// Resolves the effective value of every key: from the first layer that has it, else from `given`, else its default.
/// Returns the values as one JSON object, and as settings with their origins.
pub(crate) fn resolve(
    keys: impl Iterator<Item = &'static Key>,
    layers: &[Layer<'_>],
    given: Given,
) -> (Value, Settings) {
    let mut resolver = Resolver {
        given,
        settings: Vec::new(),
    };
    let level = Level {
        path: "",
        nested: false,
        written_only: false,
        taken_from: None,
    };
    let value = resolver.object(keys, layers, level);
    (value, Settings(resolver.settings))
}

struct Resolver {
    given: Given,
    settings: Vec<Setting>,
}

#[derive(Clone, Copy)]
struct Level<'a> {
    path: &'a str,
    /// Whether it is below a key; then `defaults` counts if it counted for that key.
    nested: bool,
    /// Whether only what is written counts, and no default: inside `defaults`.
    written_only: bool,
    /// Where an object that is taken as a whole was found.
    taken_from: Option<&'a Origin>,
}

impl Resolver {
    fn object(
        &mut self,
        keys: impl Iterator<Item = &'static Key>,
        layers: &[Layer<'_>],
        level: Level<'_>,
    ) -> Value {
        let mut object = Map::new();
        for key in keys {
            let path = match level.path {
                "" => key.name.to_owned(),
                above => format!("{above}.{}", key.name),
            };
            let found: Vec<(Layer<'_>, &Node)> = layers
                .iter()
                .filter(|l| !l.defaults || level.nested || key.inherited)
                .filter_map(|l| Some((*l, l.node.get(key.name)?)))
                .collect();
            if level.written_only && found.is_empty() {
                continue;
            }
            let below = Level {
                path: &path,
                nested: true,
                ..level
            };
            let value = self.value(key, &key.shape, &found, below);
            object.insert(key.name.to_owned(), value);
        }
        Value::Object(object)
    }

    fn value(
        &mut self,
        key: &'static Key,
        shape: &Shape,
        found: &[(Layer<'_>, &Node)],
        level: Level<'_>,
    ) -> Value {
        match shape {
            Shape::Section(_) | Shape::Defaults(_) => {
                let count = if key.whole { 1 } else { found.len() };
                let layers: Vec<Layer<'_>> = found
                    .iter()
                    .take(count)
                    .map(|(layer, node)| Layer {
                        node,
                        defaults: layer.defaults,
                    })
                    .collect();
                let origin = found.first().map(|(layer, node)| layer.origin(node));
                let level = Level {
                    written_only: level.written_only || matches!(shape, Shape::Defaults(_)),
                    taken_from: origin.as_ref().filter(|_| key.whole),
                    ..level
                };
                self.object(shape.keys(), &layers, level)
            }
            Shape::Object(_) => match found.first() {
                Some((layer, node)) => {
                    let layer = Layer {
                        node,
                        defaults: layer.defaults,
                    };
                    self.present(key, layer, level, |resolver| {
                        resolver.object(shape.keys(), &[layer], level)
                    })
                }
                None => self.leaf(key, level, Value::Null, Origin::BuiltIn),
            },
            Shape::Map(inner) | Shape::ByAgent(inner) | Shape::Dict(inner) => {
                let Some((layer, node)) = found.first().filter(|(_, n)| !n.entries().is_empty())
                else {
                    return self.leaf(key, level, Value::Null, Origin::BuiltIn);
                };
                let mut map = Map::new();
                for entry in node.entries() {
                    if matches!(shape, Shape::Map(_) | Shape::ByAgent(_))
                        && entry.key.parse::<Slug>().is_err()
                    {
                        continue;
                    }
                    let path = format!("{}.{}", level.path, entry.key);
                    let level = Level {
                        path: &path,
                        ..level
                    };
                    let layer = Layer {
                        node: &entry.value,
                        defaults: layer.defaults,
                    };
                    let value = match &**inner {
                        Shape::Object(_) | Shape::Section(_) => {
                            self.present(key, layer, level, |resolver| {
                                resolver.object(inner.keys(), &[layer], level)
                            })
                        }
                        leaf => match canonical(leaf, &entry.value) {
                            Some(value) => self.leaf(key, level, value, layer.origin(&entry.value)),
                            None => continue,
                        },
                    };
                    map.insert(entry.key.clone(), value);
                }
                Value::Object(map)
            }
            scalar => {
                let written = found
                    .iter()
                    .find_map(|(layer, node)| Some((canonical(scalar, node)?, layer.origin(node))));
                let given = || self.given.get(level.path).cloned();
                let default = || {
                    let origin = level.taken_from.cloned().unwrap_or(Origin::BuiltIn);
                    let text = key.default.filter(|_| !level.written_only)?;
                    Some((canonical(scalar, &Node::plain(text))?, origin))
                };
                let (value, origin) = written
                    .or_else(given)
                    .or_else(default)
                    .unwrap_or((Value::Null, Origin::BuiltIn));
                self.leaf(key, level, value, origin)
            }
        }
    }

    /// Resolves an object that is there; one without any value leaves a mark.
    fn present(
        &mut self,
        key: &'static Key,
        layer: Layer<'_>,
        level: Level<'_>,
        resolve: impl FnOnce(&mut Resolver) -> Value,
    ) -> Value {
        let first = self.settings.len();
        let value = resolve(self);
        let empty = self.settings.iter().skip(first).all(|s| s.value.is_null());
        if empty {
            let mark = Value::Object(Map::new());
            self.leaf(key, level, mark, layer.origin(layer.node));
        }
        value
    }

    fn leaf(&mut self, key: &'static Key, level: Level<'_>, value: Value, origin: Origin) -> Value {
        self.settings.push(Setting {
            path: level.path.to_owned(),
            origin,
            value: value.clone(),
            key,
            inert: level.written_only,
        });
        value
    }
}

/// The canonical form of what is written: amounts as numbers of their base unit, sets sorted, words as they are.
/// None where it does not fit, which the checker reports.
fn canonical(shape: &Shape, node: &Node) -> Option<Value> {
    let text = node.text();
    let all = |inner: &Shape| -> Vec<Value> {
        let items = node.items().iter();
        items.filter_map(|item| canonical(inner, item)).collect()
    };
    let sorted = |mut values: Vec<Value>| -> Value {
        values.sort_by_key(Value::to_string);
        values.dedup();
        Value::Array(values)
    };
    Some(match shape {
        Shape::List(inner) => Value::Array(all(inner)),
        Shape::Set(inner) => sorted(all(inner)),
        Shape::Tools => match text {
            Some("all") => canonical_tools(Tool::ALL.iter().copied()),
            Some(_) => return None,
            None => canonical_tools(node.items().iter().filter_map(|i| i.text()?.parse().ok())),
        },
        Shape::Egress => match text {
            Some(word @ ("none" | "full")) => word.into(),
            Some(_) => return None,
            None => sorted(all(&Shape::Text)),
        },
        Shape::Delegates => {
            let mut authority = Authority::default();
            for word in text
                .into_iter()
                .chain(node.items().iter().filter_map(Node::text))
            {
                authority.add(word).ok()?;
            }
            authority.to_string().into()
        }
        Shape::Value => node.to_json(),
        Shape::Map(_)
        | Shape::ByAgent(_)
        | Shape::Dict(_)
        | Shape::Object(_)
        | Shape::Section(_)
        | Shape::Defaults(_) => node.to_json(),
        scalar => {
            let text = text?;
            scalar.accepts(text).ok()?;
            match scalar {
                Shape::Integer(..) => text.replace('_', "").parse::<i64>().ok()?.into(),
                Shape::Number(_) => text.parse::<f64>().ok()?.into(),
                Shape::Boolean => (text == "true").into(),
                Shape::Bytes => shape::parse_bytes(text)?.into(),
                Shape::Duration => shape::parse_duration_ms(text)?.into(),
                Shape::Percent => shape::parse_percent(text)?.into(),
                Shape::Language => abbey_words::normalize_language_tag(text).ok()?.into(),
                _ => text.into(),
            }
        }
    })
}

/// Names of tools as the canonical JSON value of a key: a sorted list without duplicates.
pub(crate) fn canonical_tools(tools: impl IntoIterator<Item = Tool>) -> Value {
    let tools: BTreeSet<Tool> = tools.into_iter().collect();
    tools.iter().map(|t| Value::from(t.name())).collect()
}

/// A canonical value as people read it, in the notation of the manifest.
pub(crate) fn display(shape: &Shape, value: &Value) -> String {
    match (shape, value) {
        (_, Value::Null) => "none".to_owned(),
        (_, Value::Array(items)) if items.is_empty() => "none".to_owned(),
        (Shape::Bytes, value) => scaled(value, &["B", "KiB", "MiB", "GiB", "TiB"], &[1 << 10; 4]),
        (Shape::Duration, value) => scaled(value, &["ms", "s", "m", "h", "d"], &[1000, 60, 60, 24]),
        (Shape::Percent, value) => format!("{value}%"),
        (_, Value::String(text)) => text.clone(),
        (_, Value::Number(number)) => number.to_string().trim_end_matches(".0").to_owned(),
        (_, Value::Array(items)) => {
            let texts = items.iter().map(|item| display(&Shape::Value, item));
            texts.collect::<Vec<_>>().join(", ")
        }
        (Shape::Path, Value::Object(stock)) => {
            let name = stock.get("stock").and_then(Value::as_str);
            format!("stock charter `{}`", name.unwrap_or_default())
        }
        (_, other) => other.to_string(),
    }
}

/// A number with the largest unit in which it is whole.
fn scaled(value: &Value, units: &[&str], steps: &[u64]) -> String {
    let mut number = value.as_u64().unwrap_or_default();
    let mut unit = 0;
    while number > 0
        && let Some(step) = steps.get(unit)
        && number.is_multiple_of(*step)
    {
        number /= step;
        unit += 1;
    }
    format!("{number}{}", units.get(unit).unwrap_or(&""))
}

impl Node {
    /// A text without quotes, as a definition writes its default.
    fn plain(text: &str) -> Node {
        Node {
            place: Place::default(),
            kind: Kind::Scalar {
                text: text.to_owned(),
                plain: true,
            },
        }
    }
}
