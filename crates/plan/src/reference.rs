//! The definitions of the manifest's keys as a list, and as the text of `docs/reference/manifest.md`.

use crate::key::{Effect, Key, Shape};
use crate::keys::MANIFEST;
use abbey_model::CellKind;
use std::fmt::Write;

/// Definition of a manifest key, as the reference shows it.
#[derive(Debug, Clone)]
pub struct Definition {
    /// Path in the manifest; `NAME` stands for a name that the manifest chooses, `[]` for an item of a list.
    pub path: String,
    /// Description of its valid values.
    pub value: String,
    /// Value where none is given, as the manifest writes it.
    pub default: Option<&'static str>,
    /// Whether it must be given.
    pub required: bool,
    /// What a changed value does to what runs, by kind of cell.
    effect: Effect,
    cells: &'static [CellKind],
    elsewhere: Effect,
    /// Whether `defaults` may set it for all agents.
    pub inherited: bool,
    /// Documentation.
    pub doc: String,
}

impl Definition {
    /// Effect that a change of this key has in a cell of this kind.
    pub fn effect_in(&self, cell: CellKind) -> Effect {
        match self.cells.is_empty() || self.cells.contains(&cell) {
            true => self.effect,
            false => self.elsewhere,
        }
    }

    fn effects(&self) -> String {
        if self.cells.is_empty() {
            return self.effect.name().to_owned();
        }
        let cells: Vec<String> = self.cells.iter().map(|c| format!("`{c}`")).collect();
        let (effect, elsewhere) = (self.effect.name(), self.elsewhere.name());
        format!("{effect} in {}; else {elsewhere}", cells.join(", "))
    }
}

/// Definition of every manifest key that holds a value, nested ones with their full path, in the order of declaration.
pub fn definitions() -> Vec<Definition> {
    let mut all = Vec::new();
    collect(&MANIFEST, "", false, &mut all);
    all
}

fn collect(shape: &Shape, path: &str, in_defaults: bool, all: &mut Vec<Definition>) {
    for key in shape.keys() {
        let path = match path {
            "" => key.name.to_owned(),
            above => format!("{above}.{}", key.name),
        };
        let in_defaults = in_defaults || matches!(key.shape, Shape::Defaults(_));
        collect_key(key, &key.shape, &path, in_defaults, all);
    }
}

fn collect_key(
    key: &'static Key,
    shape: &Shape,
    path: &str,
    in_defaults: bool,
    all: &mut Vec<Definition>,
) {
    match shape {
        Shape::Object(_) | Shape::Section(_) | Shape::Defaults(_) => {
            collect(shape, path, in_defaults, all);
        }
        Shape::Map(inner) | Shape::ByAgent(inner) | Shape::Dict(inner) => {
            collect_key(key, inner, &format!("{path}.NAME"), in_defaults, all);
        }
        Shape::List(inner) if matches!(inner, Shape::Object(_)) => {
            collect_key(key, inner, &format!("{path}[]"), in_defaults, all);
        }
        leaf => all.push(Definition {
            path: path.to_owned(),
            value: leaf.notation(),
            default: key.default.filter(|_| !in_defaults),
            required: key.required,
            effect: key.effect,
            cells: key.cells,
            elsewhere: key.elsewhere,
            inherited: key.inherited,
            doc: key.text(),
        }),
    }
}

/// Renders `docs/reference/manifest.md` from the definitions of the keys.
pub fn reference() -> String {
    let mut text = String::from(
        "# Manifest reference\n\n\
         Generated from the definitions in `crates/plan/src/keys`; do not edit. `abbey plan --schema` prints the same \
         as a JSON Schema for editors.\n\n\
         *Effect* says what a changed value does to what runs: **restart** restarts the cell, **live** takes effect \
         while everything goes on running, **none** is recorded only. `abbey plan` names every changed key with its \
         value before and after, and its effect. `NAME` stands for a name that the manifest chooses.\n",
    );
    section(&mut text, &MANIFEST, "");
    text
}

/// One table for a mapping, then those below it.
fn section(text: &mut String, shape: &Shape, path: &str) {
    let inner = |key: &'static Key| -> Option<(&'static Shape, String)> {
        let name = match path {
            "" => key.name.to_owned(),
            above => format!("{above}.{}", key.name),
        };
        match &key.shape {
            Shape::Map(inner) | Shape::ByAgent(inner) | Shape::Dict(inner)
                if inner.keys().next().is_some() =>
            {
                Some((inner, format!("{name}.NAME")))
            }
            Shape::List(inner) if inner.keys().next().is_some() => {
                Some((inner, format!("{name}[]")))
            }
            own if own.keys().next().is_some() => Some((own, name)),
            _ => None,
        }
    };
    let keys: Vec<&'static Key> = shape.keys().collect();
    let leaves: Vec<&&Key> = keys.iter().filter(|k| inner(k).is_none()).collect();
    if !leaves.is_empty() {
        text.push_str(
            "\n| Key | Value | Default | Effect | Meaning |\n| --- | --- | --- | --- | --- |\n",
        );
        let mut all = Vec::new();
        for key in leaves {
            collect_key(key, &key.shape, key.name, false, &mut all);
        }
        for key in all {
            let default = match (key.required, key.default) {
                (true, _) => "required".to_owned(),
                (false, Some(default)) => format!("`{default}`"),
                (false, None) => "–".to_owned(),
            };
            let cells = |text: &str| text.replace('|', "\\|");
            let _ = writeln!(
                text,
                "| `{}` | {} | {default} | {} | {} |",
                key.path,
                cells(&key.value),
                key.effects(),
                cells(&key.doc)
            );
        }
    }
    for key in keys {
        let Some((shape, path)) = inner(key) else {
            continue;
        };
        let _ = write!(text, "\n## `{path}`\n\n{}\n", key.text());
        if matches!(key.shape, Shape::Defaults(_)) {
            let names: Vec<String> = shape.keys().map(|k| format!("`{}`", k.name)).collect();
            let _ = write!(
                text,
                "\nKeys: {}, as in [`agents.NAME`](#agentsname). An agent's own value comes first, then that of \
                 `defaults`, its template's, and the built-in one. A change takes effect on the agents that inherit \
                 the value.\n",
                names.join(", ")
            );
            continue;
        }
        section(text, shape, &path);
    }
}
