//! The decoder of one manifest: its tree, the mistakes found so far, and how the parts read values from the tree.

use crate::node::{Mistake, Node};
use abbey_model::Slug;
use std::collections::BTreeSet;

pub(crate) struct Decoder<'a> {
    pub(crate) root: &'a Node,
    pub(crate) mistakes: &'a mut Vec<Mistake>,
}

impl Decoder<'_> {
    /// Reports a mistake at the place of a node, or at the start of the manifest without one.
    pub(crate) fn report_mistake(&mut self, node: Option<&Node>, text: impl Into<String>) {
        let place = node.map_or(self.root.place, |n| n.place);
        self.mistakes.push(place.mistake(text));
    }
}

/// Whether a credential may be sent to a URL: by TLS, or to a port of 127.0.0.1. A name before an `@` is no host.
pub(crate) fn takes_credential(url: &str) -> bool {
    let local = |rest: &str| {
        let port = rest.split('/').next().unwrap_or_default();
        port.parse::<u16>().is_ok()
    };
    url.starts_with("https://") || url.strip_prefix("http://127.0.0.1:").is_some_and(local)
}

/// What is wrong with a URL that has a user name or a password in it, which would be shown wherever the URL is; none
/// for any other. The URL is not repeated.
pub(crate) fn check_without_password(key: &str, url: &str, instead: &str) -> Result<(), String> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#', '\\']).next();
    match authority.is_some_and(|a| a.contains('@')) {
        false => Ok(()),
        true => Err(format!(
            "`{key}` has a user name or a password in it, which would be shown wherever the URL is; {instead}"
        )),
    }
}

// The shape check has already reported what does not parse; here such values are just absent.
/// Text of a key of a mapping; none when the key is absent or not a scalar.
pub(crate) fn text<'a>(node: Option<&'a Node>, key: &str) -> Option<&'a str> {
    node?.get(key)?.text()
}
/// Value of a key of a mapping as a slug; none when it is absent or not valid, which the check of shapes has reported.
pub(crate) fn slug(node: Option<&Node>, key: &str) -> Option<Slug> {
    text(node, key)?.parse().ok()
}
/// Value of a key of a mapping as a whole number; `_` between digits is ignored.
pub(crate) fn integer(node: Option<&Node>, key: &str) -> Option<u64> {
    text(node, key)?.replace('_', "").parse().ok()
}
/// Texts of the list under a key of a mapping; empty when it is absent.
pub(crate) fn words(node: Option<&Node>, key: &str) -> Vec<String> {
    let items = node.and_then(|n| n.get(key)).map_or(&[][..], Node::items);
    items
        .iter()
        .filter_map(|i| i.text().map(str::to_owned))
        .collect()
}
/// Slugs in the list under a key of a mapping; those that are not valid are left out.
pub(crate) fn names(node: Option<&Node>, key: &str) -> BTreeSet<Slug> {
    let words = words(node, key).into_iter();
    words.filter_map(|w| w.parse().ok()).collect()
}

/// Suggestion for a message about an unknown name: "; did you mean `NAME`?" when a known name is similar, else empty.
pub(crate) fn suggest_similar<'a>(wanted: &str, known: impl Iterator<Item = &'a str>) -> String {
    known
        .map(|name| (strsim::damerau_levenshtein(name, wanted), name))
        .min()
        .filter(|(distance, name)| *distance <= 2.max(name.len() / 3))
        .map_or_else(String::new, |(_, name)| format!("; did you mean `{name}`?"))
}
