//! Content words of texts, for search and routing: lower case, without stop words, reduced to their stems.
//!
//! The rules are crude and the same for every caller, so that a search, a suggestion and the choice of an agent agree.

use std::collections::BTreeSet;
use std::sync::LazyLock;

/// Most terms that are taken from one text; the rest is ignored.
const TERMS_MAX: usize = 600;

/// Words that say nothing about the subject of a text, and verbs that every request may have.
const STOP: &str = "a about after again agent agents all also am an and another any are as at be been before being but by can could \
    create did do does doing done each every few find for from general get gets give gives go goes had has have \
    having he help her here him his how i if in into is it its just keep keeps kindly let like made make makes \
    making many may me more most much must my need needs new no not now of off on one only or other our out over own \
    please put puts run runs running she should show shows so some such take takes task tasks tell tells than that \
    the their them then there these they this those to too under up us use used uses using very want wants was we \
    were what when where which while who why will with without work worker works would write writes you your der die \
    das den dem des ein eine einen einem und oder ist sind im ins mit von für auf zu bitte wie je se na za ali ki s \
    z v prosim и в на с по для или это как";

/// The stop words, as a set.
static STOP_WORDS: LazyLock<BTreeSet<&str>> = LazyLock::new(|| STOP.split_whitespace().collect());

/// A content word: as it is written, in lower case, and its stem, by which words are compared.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Term {
    /// Stem, by which terms are compared.
    pub stem: String,
    /// Word as it is written, in lower case.
    pub word: String,
}

/// Whether a character is written without blanks between words.
const fn is_ideographic(c: char) -> bool {
    matches!(c, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}')
}

/// Content words of a text in their order, each stem once.
pub fn terms_of(text: &str) -> Vec<Term> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for word in text.split(|c: char| !c.is_alphanumeric()) {
        if word.is_empty() || found.len() >= TERMS_MAX {
            continue;
        }
        let word = word.to_lowercase();
        let mut add = |word: String| {
            let stem = stem(&word);
            if !STOP_WORDS.contains(word.as_str()) && seen.insert(stem.clone()) {
                found.push(Term { stem, word });
            }
        };
        if word.chars().any(is_ideographic) {
            // Pairs of characters stand for words where no blanks do.
            let all: Vec<char> = word.chars().collect();
            all.windows(2).for_each(|pair| add(pair.iter().collect()));
        } else {
            add(word);
        }
    }
    found
}

/// Stems of the content words of a text.
pub fn stems_of(text: &str) -> BTreeSet<String> {
    terms_of(text).into_iter().map(|t| t.stem).collect()
}

/// Stem of a word in lower case. English endings are removed; of longer words in other alphabets the beginning counts.
fn stem(word: &str) -> String {
    if !word.is_ascii() {
        return word.chars().take(6).collect();
    }
    let mut stem = word;
    if let Some(rest) = stem.strip_suffix("ies").filter(|r| r.len() >= 2) {
        return format!("{rest}y");
    }
    if let Some(rest) = stem.strip_suffix("es").filter(|r| {
        ["s", "x", "z", "ch", "sh"]
            .iter()
            .any(|end| r.ends_with(end))
            && r.len() >= 3
    }) {
        stem = rest;
    } else if let Some(rest) = stem
        .strip_suffix('s')
        .filter(|r| r.len() >= 3 && !["s", "u", "i"].iter().any(|end| r.ends_with(end)))
    {
        stem = rest;
    }
    let has_vowel = |part: &str| part.contains(['a', 'e', 'i', 'o', 'u', 'y']);
    for ending in ["ing", "ed", "er", "or"] {
        if let Some(rest) = stem.strip_suffix(ending)
            && rest.len() >= 3
            && has_vowel(rest)
        {
            stem = rest;
            break;
        }
    }
    let bytes = stem.as_bytes();
    if let [.., a, b] = bytes
        && a == b
        && !matches!(b, b'l' | b's' | b'z')
        && bytes.len() >= 4
    {
        stem = &stem[..stem.len() - 1];
    }
    let trimmed = stem.strip_suffix('e').filter(|r| r.len() >= 3);
    trimmed.unwrap_or(stem).to_owned()
}

/// Words of a query but those that most of the known texts have: they tell none from another. `known` holds the stems of each
/// text; fewer than four texts make nothing common.
pub fn distinctive_terms<'a>(
    query: &str,
    known: impl Iterator<Item = &'a BTreeSet<String>> + Clone,
) -> Vec<Term> {
    let mut terms = terms_of(query);
    let total = known.clone().count();
    terms.retain(|term| {
        let having = known
            .clone()
            .filter(|stems| has_term(stems, &term.stem))
            .count();
        total < 4 || having * 2 <= total
    });
    terms
}

/// Whether one of the stems is this one, or begins with it if it has four letters or more.
pub fn has_term(stems: &BTreeSet<String>, stem: &str) -> bool {
    let from = stems.range::<str, _>((std::ops::Bound::Included(stem), std::ops::Bound::Unbounded));
    let is_beginning = stem.chars().count() >= 4;
    from.take(1)
        .any(|s| s == stem || is_beginning && s.starts_with(stem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inflected_words_have_one_stem() {
        for (a, b) in [
            ("meshing", "mesh"),
            ("searches", "search"),
            ("audits", "auditor"),
            ("queries", "query"),
            ("tagged", "tag"),
            ("merging", "merge"),
            ("databases", "database"),
            ("programmer", "program"),
            ("checker", "checks"),
            ("writer", "writes"),
        ] {
            assert_eq!(stem(a), stem(b), "{a} {b}");
        }
        for word in ["bus", "status", "glass", "this"] {
            assert_eq!(stem(word), word);
        }
    }

    #[test]
    fn stop_words_are_no_terms_and_scripts_without_blanks_have_some() {
        let words = |text| {
            terms_of(text)
                .into_iter()
                .map(|t| t.word)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            words("Please do the task for me, and check the disks"),
            ["check", "disks"]
        );
        assert_eq!(words("检查磁盘"), ["检查", "查磁", "磁盘"]);
        assert!(words("  ...  ").is_empty());
    }
}
