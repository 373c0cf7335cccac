//! A document of another installation whose keys are accounted for: each is carried over or reported.

use crate::names::one_line;
use crate::skips::Skips;
use crate::{Import, ReportKind};
use serde_json::Value;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

/// Parts of the names of keys that hold secrets.
const SECRET_KEYS: [&str; 7] = [
    "token",
    "secret",
    "password",
    "passwd",
    "apikey",
    "api_key",
    "private_key",
];
/// Names of keys by which an element of a list is known, in this order.
const LABELS: [&str; 4] = ["name", "id", "key", "slug"];
static NULL: Value = Value::Null;

/// Document with a record of the keys that were read.
#[derive(Debug)]
pub(crate) struct Document<'s> {
    place: String,
    root: Value,
    /// Paths that were read or reported; true if they count as carried over.
    used: RefCell<BTreeMap<String, bool>>,
    /// Paths below which something was looked for: what is below them is reported by itself.
    opened: RefCell<BTreeSet<String>>,
    skips: &'s Skips,
}

/// Key of a document with its value; null where the document has none.
#[derive(Debug, Clone)]
pub(crate) struct Key<'d> {
    document: &'d Document<'d>,
    path: String,
    value: &'d Value,
}

impl<'s> Document<'s> {
    /// Document of the file that reports call `place`.
    pub(crate) fn new(place: &str, root: Value, skips: &'s Skips) -> Document<'s> {
        Document {
            place: place.to_owned(),
            root,
            used: RefCell::default(),
            opened: RefCell::default(),
            skips,
        }
    }

    /// The whole document.
    pub(crate) fn root(&self) -> Key<'_> {
        Key {
            document: self,
            path: String::new(),
            value: &self.root,
        }
    }

    /// Whether a key was read or reported, or is part of what was.
    pub(crate) fn is_used(&self, key: &Key<'_>) -> bool {
        self.used.borrow().contains_key(&key.path)
    }

    /// Place of a path of keys in reports.
    fn place_of(&self, path: &str) -> String {
        match path.is_empty() {
            true => self.place.clone(),
            false => format!("{}: {path}", self.place),
        }
    }

    /// Reports every key that was neither read nor reported, with the reason that `why` has for its path. A part in which
    /// nothing was looked for is reported as one; secrets in it are reported by their keys.
    pub(crate) fn report_rest(&self, import: &mut Import, why: impl Fn(&str) -> &'static str) {
        let mut rest = Vec::new();
        self.collect_rest(&self.root, "", &mut rest);
        // Keys of one mapping that are left for one reason are one entry.
        let mut entries: Vec<(String, Vec<String>, &'static str)> = Vec::new();
        for path in rest {
            let why = why(&path);
            let (above, key) = path.rsplit_once('.').unwrap_or(("", &path));
            match entries.last_mut() {
                Some((same, keys, reason))
                    if same == above && *reason == why && !above.is_empty() =>
                {
                    keys.push(key.to_owned());
                }
                _ => entries.push((above.to_owned(), vec![key.to_owned()], why)),
            }
        }
        for (above, keys, why) in entries {
            let path = match (above.as_str(), keys.as_slice()) {
                ("", keys) => keys.concat(),
                (above, [key]) => format!("{above}.{key}"),
                (above, keys) => format!("{above}.{{{}}}", keys.join(",")),
            };
            import.add_report_entry(ReportKind::Left, self.place_of(&path), why);
        }
        let mut secrets = Vec::new();
        collect_secrets(&self.root, "", &mut secrets);
        let used = self.used.borrow();
        for path in secrets.iter().filter(|path| used.get(*path) != Some(&true)) {
            import.add_report_entry(
                ReportKind::Secret,
                self.place_of(path),
                "a secret in a configuration file, which is not imported: remove it there once nothing needs it, and create a new one",
            );
        }
        let carried = used.iter().filter(|(_, carried)| **carried);
        import
            .carried
            .extend(carried.map(|(path, _)| self.place_of(path)));
    }

    /// Adds the unread keys below `path` to `rest`; returns whether some key there was read.
    fn collect_rest(&self, value: &Value, path: &str, rest: &mut Vec<String>) -> bool {
        let known = self.used.borrow().contains_key(path);
        let says_nothing = match value {
            Value::Null => true,
            Value::Array(items) => items.is_empty(),
            Value::Object(map) => map.is_empty() && !path.is_empty(),
            _ => false,
        };
        if known || says_nothing || self.skips.hides(&self.place_of(path)) {
            return true;
        }
        let mut own = Vec::new();
        let mut some = false;
        for (below, value) in children(value, path) {
            some |= self.collect_rest(value, &below, &mut own) && !value.is_null();
        }
        let opened = self.opened.borrow().contains(path);
        match some || (opened && !own.is_empty()) {
            true => rest.append(&mut own),
            false => rest.push(path.to_owned()),
        }
        some
    }
}

/// Paths and values one level below a value.
fn children<'v>(value: &'v Value, path: &str) -> Vec<(String, &'v Value)> {
    match value {
        Value::Object(map) => map.iter().map(|(k, v)| (join(path, k), v)).collect(),
        Value::Array(items) => labels(items)
            .into_iter()
            .zip(items)
            .map(|(label, item)| (format!("{path}[{label}]"), item))
            .collect(),
        _ => Vec::new(),
    }
}

fn join(path: &str, key: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'$');
    let key = match !key.is_empty() && key.bytes().all(plain) {
        true => key.to_owned(),
        false => format!("\"{}\"", one_line(key)),
    };
    match path.is_empty() {
        true => key,
        false => format!("{path}.{key}"),
    }
}

/// Names of the elements of a list in paths: their own, or their numbers from 0 where those are not unique.
fn labels(items: &[Value]) -> Vec<String> {
    let own: Vec<Option<String>> = items
        .iter()
        .map(|item| {
            let name = LABELS.iter().find_map(|l| item.get(*l)?.as_str());
            name.map(one_line).filter(|n| !n.is_empty())
        })
        .collect();
    let mut counts: BTreeMap<&String, usize> = BTreeMap::new();
    for name in own.iter().flatten() {
        *counts.entry(name).or_default() += 1;
    }
    let unique = |name: &String| counts.get(name) == Some(&1);
    let numbered = own.iter().enumerate().map(|(n, name)| match name {
        Some(name) if unique(name) => name.clone(),
        _ => n.to_string(),
    });
    numbered.collect()
}

/// Adds the paths of the secrets in a value to `found`.
fn collect_secrets(value: &Value, path: &str, found: &mut Vec<String>) {
    for (below, value) in children(value, path) {
        collect_secrets(value, &below, found);
    }
    let name = path.rsplit('.').next().unwrap_or_default().to_lowercase();
    let named = SECRET_KEYS.iter().any(|s| name.contains(s));
    let text = value.as_str().unwrap_or_default();
    if named && !text.is_empty() && !text.starts_with("${") {
        found.push(path.to_owned());
    }
}

impl<'d> Key<'d> {
    /// Value of a key of this mapping; null if there is none, or the operator skips it.
    pub(crate) fn get(&self, key: &str) -> Key<'d> {
        let value = self.value.get(key).unwrap_or(&NULL);
        self.child(join(&self.path, key), value)
    }

    fn child(&self, path: String, value: &'d Value) -> Key<'d> {
        self.document.opened.borrow_mut().insert(self.path.clone());
        let skipped = !value.is_null() && self.document.skips.hides(&self.document.place_of(&path));
        Key {
            document: self.document,
            path,
            value: if skipped { &NULL } else { value },
        }
    }

    /// Elements of a list, without those that the operator skips; empty if it is none.
    pub(crate) fn elements(&self) -> Vec<Key<'d>> {
        let all = self.value.as_array().is_some();
        let all = all.then(|| children(self.value, &self.path));
        self.children_of(all)
    }

    /// Keys of a mapping with their values, without those that the operator skips; empty if it is none.
    pub(crate) fn entries(&self) -> Vec<(&'d str, Key<'d>)> {
        let map = self.value.as_object().into_iter().flatten();
        map.map(|(key, value)| (key.as_str(), self.child(join(&self.path, key), value)))
            .filter(|(_, key)| key.is_set())
            .collect()
    }

    fn children_of(&self, all: Option<Vec<(String, &'d Value)>>) -> Vec<Key<'d>> {
        let all = all.into_iter().flatten();
        all.map(|(path, value)| self.child(path, value))
            .filter(Key::is_set)
            .collect()
    }

    /// Whether there is a value other than null.
    pub(crate) fn is_set(&self) -> bool {
        !self.value.is_null()
    }

    /// Whether this is a mapping.
    pub(crate) fn is_map(&self) -> bool {
        self.value.is_object()
    }

    /// Whether this is a list.
    pub(crate) fn is_list(&self) -> bool {
        self.value.is_array()
    }

    /// Its text, which is not blank; it counts as carried over.
    pub(crate) fn text(&self) -> Option<&'d str> {
        let text = self.value.as_str()?;
        self.mark();
        Some(text).filter(|t| !t.trim().is_empty())
    }

    /// Its number; it counts as carried over.
    pub(crate) fn number(&self) -> Option<u64> {
        let number = self.value.as_u64()?;
        self.mark();
        Some(number)
    }

    /// Whether it is this truth value; then it counts as carried over.
    pub(crate) fn is(&self, truth: bool) -> bool {
        let is = self.value.as_bool() == Some(truth);
        if is {
            self.mark();
        }
        is
    }

    /// Its value, which counts neither as carried over nor as reported.
    pub(crate) fn peek(&self) -> &'d Value {
        self.value
    }

    /// Counts it, with all that is below it, as carried over.
    pub(crate) fn mark(&self) {
        if self.is_set() {
            let mut used = self.document.used.borrow_mut();
            used.entry(self.path.clone()).or_insert(true);
        }
    }

    /// Its place in reports.
    pub(crate) fn place(&self) -> String {
        self.document.place_of(&self.path)
    }

    /// Reports it, with all that is below it.
    pub(crate) fn report(&self, import: &mut Import, kind: ReportKind, why: impl Into<String>) {
        let mut used = self.document.used.borrow_mut();
        // What is below it was read for this report only: keys, then elements.
        for (first, behind) in [('.', '/'), ('[', '\\')] {
            let below = format!("{}{first}", self.path)..format!("{}{behind}", self.path);
            let below: Vec<String> = used.range(below).map(|(path, _)| path.clone()).collect();
            for path in below {
                used.remove(&path);
            }
        }
        used.insert(self.path.clone(), false);
        import.add_report_entry(kind, self.place(), why);
    }

    /// Reports it as not imported, if it is there.
    pub(crate) fn leave(&self, import: &mut Import, why: impl Into<String>) {
        if self.is_set() {
            self.report(import, ReportKind::Left, why);
        }
    }
}
