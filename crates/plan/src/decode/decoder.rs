//! The decoder of one manifest: its tree, the mistakes found so far, and how the parts read values from the tree.

use crate::node::{Mistake, Node};
use abbey_model::Slug;
use std::collections::BTreeSet;

pub(crate) struct Decoder<'a> {
    pub(crate) root: &'a Node,
    pub(crate) mistakes: &'a mut Vec<Mistake>,
}

impl Decoder<'_> {
    pub(crate) fn blame(&mut self, node: Option<&Node>, text: impl Into<String>) {
        let place = node.map_or(self.root.place, |n| n.place);
        self.mistakes.push(place.mistake(text));
    }
}

// The shape check has already reported what does not parse; here such values are just absent.
pub(crate) fn text<'a>(node: Option<&'a Node>, key: &str) -> Option<&'a str> {
    node?.get(key)?.text()
}
pub(crate) fn slug(node: Option<&Node>, key: &str) -> Option<Slug> {
    text(node, key)?.parse().ok()
}
pub(crate) fn integer(node: Option<&Node>, key: &str) -> Option<u64> {
    text(node, key)?.replace('_', "").parse().ok()
}
pub(crate) fn words(node: Option<&Node>, key: &str) -> Vec<String> {
    let items = node.and_then(|n| n.get(key)).map_or(&[][..], Node::items);
    items
        .iter()
        .filter_map(|i| i.text().map(str::to_owned))
        .collect()
}
/// Names of a list.
pub(crate) fn names(node: Option<&Node>, key: &str) -> BTreeSet<Slug> {
    let words = words(node, key).into_iter();
    words.filter_map(|w| w.parse().ok()).collect()
}

/// "; did you mean …?", when something is near.
pub(crate) fn nearest<'a>(wanted: &str, known: impl Iterator<Item = &'a str>) -> String {
    known
        .map(|name| (strsim::damerau_levenshtein(name, wanted), name))
        .min()
        .filter(|(distance, name)| *distance <= 2.max(name.len() / 3))
        .map_or_else(String::new, |(_, name)| format!("; did you mean `{name}`?"))
}
