//! Front matter of a `SKILL.md`: the six keys of the Agent Skills specification are strict, and keys of other tools are
//! reported as warnings, since skills that other people wrote have them.

use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// Longest name, characters.
const NAME_MAX: usize = 64;
/// Longest description, characters.
const DESCRIPTION_MAX: usize = 1024;
/// Longest note of compatibility, characters.
const COMPATIBILITY_MAX: usize = 500;
/// Keys of the specification.
const KEYS: [&str; 6] = [
    "name",
    "description",
    "license",
    "compatibility",
    "metadata",
    "allowed-tools",
];
/// Keys of `metadata` that Abbey defines.
const OWN_KEYS: [&str; 6] = [
    "abbey-match",
    "abbey-args",
    "abbey-program",
    "abbey-grants",
    "abbey-risk",
    "abbey-effect",
];

/// What the front matter of a skill says.
#[derive(Debug, Default)]
pub(crate) struct FrontMatter {
    /// Name of the skill.
    pub(crate) name: String,
    /// What it does and when to use it.
    pub(crate) description: String,
    /// Scalars of `metadata`, as they are written.
    pub(crate) metadata: BTreeMap<String, String>,
    /// Search words of `metadata`.
    pub(crate) tags: Vec<String>,
}

/// The scalars that are read as they are written: `version: 1.10` is the text `1.10`, not a number.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Scalars {
    version: Option<String>,
    #[serde(rename = "abbey-match")]
    patterns: Option<String>,
    #[serde(rename = "abbey-args")]
    args: Option<String>,
    #[serde(rename = "abbey-program")]
    program: Option<String>,
    #[serde(rename = "abbey-grants")]
    grants: Option<String>,
    #[serde(rename = "abbey-risk")]
    risk: Option<String>,
    #[serde(rename = "abbey-effect")]
    effect: Option<String>,
}

/// Texts as they are written, also those that YAML could read as something else: `name: yes`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Written {
    name: Option<String>,
    description: Option<String>,
    license: Option<String>,
    compatibility: Option<String>,
    metadata: Option<Scalars>,
}

/// Splits the text of a `SKILL.md` into its front matter, including the first line of `---`, and its body. A byte-order
/// mark, line ends of Windows and blanks after `---` are no part of either.
///
/// # Errors
/// A sentence that says what is missing.
pub(crate) fn split_front_matter(text: &str) -> Result<(String, String), String> {
    let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n");
    let is_fence = |line: &str| line.trim_end() == "---";
    let mut lines = text.split_inclusive('\n');
    let Some(first) = lines.next().filter(|line| is_fence(line)) else {
        return Err(
            "line 1: `SKILL.md` must begin with YAML front matter between two lines of `---`"
                .to_owned(),
        );
    };
    // The first line stays, so that the parser counts lines as the file does.
    let mut front = "---\n".to_owned();
    let mut end = first.len();
    for line in lines {
        end += line.len();
        if is_fence(line) {
            let body = text.get(end..).unwrap_or_default();
            return Ok((front, body.to_owned()));
        }
        front.push_str(line);
    }
    Err(format!(
        "line {}: the front matter that begins in line 1 has no second line of `---`",
        text.lines().count()
    ))
}

/// Reads front matter as [`split_front_matter`] returns it. Adds what is wrong to `mistakes`, and what Abbey ignores to
/// `warnings`.
pub(crate) fn read_front_matter(
    front: &str,
    mistakes: &mut Vec<String>,
    warnings: &mut Vec<String>,
) -> FrontMatter {
    let parse = |front: &str| serde_saphyr::from_str::<BTreeMap<String, Value>>(front);
    let quoted = quote_bare_texts(front);
    let (front, keys) = match (parse(front), parse(&quoted)) {
        (Ok(keys), _) => (front, keys),
        (Err(_), Ok(keys)) => {
            warnings.push(
                "a text with a colon or brackets must stand between quotes; it is read as if it did"
                    .to_owned(),
            );
            (quoted.as_str(), keys)
        }
        (Err(e), Err(_)) => {
            mistakes.push(format!("the front matter is not valid: {e}"));
            return FrontMatter::default();
        }
    };
    let written: Written = serde_saphyr::from_str(front).unwrap_or_default();
    let mut read = FrontMatter::default();
    let mut required = |key: &str, written: Option<String>| {
        let text = text_of(&keys, key, written, mistakes);
        if text.is_none() && keys.get(key).is_none_or(Value::is_null) {
            mistakes.push(format!("the key `{key}` is missing"));
        }
        text
    };
    let name = required("name", written.name);
    let description = required("description", written.description);
    if let Some(name) = name {
        if !is_legal_name(&name) {
            mistakes.push(format!(
                "`name`: `{name}` must be lower-case letters, digits and single hyphens between them, at most {NAME_MAX} characters"
            ));
        }
        read.name = name;
    }
    if let Some(text) = description {
        if text.trim().is_empty() || text.chars().count() > DESCRIPTION_MAX {
            mistakes.push(format!(
                "`description` must have 1 to {DESCRIPTION_MAX} characters"
            ));
        }
        read.description = text;
    }
    text_of(&keys, "license", written.license, mistakes);
    if let Some(text) = text_of(&keys, "compatibility", written.compatibility, mistakes)
        && (text.trim().is_empty() || text.chars().count() > COMPATIBILITY_MAX)
    {
        mistakes.push(format!(
            "`compatibility` must have 1 to {COMPATIBILITY_MAX} characters"
        ));
    }
    match keys.get("allowed-tools") {
        None | Some(Value::Null | Value::String(_)) => {}
        Some(Value::Array(tools)) if tools.iter().all(Value::is_string) => warnings.push(
            "`allowed-tools` is a list; the specification has a text with blanks between the names"
                .to_owned(),
        ),
        Some(_) => mistakes.push("`allowed-tools` must be a text of names".to_owned()),
    }
    for key in keys.keys().filter(|key| !KEYS.contains(&key.as_str())) {
        warnings.push(format!("the key `{key}` is not known and is ignored"));
    }
    match keys.get("metadata") {
        None | Some(Value::Null) => {}
        Some(Value::Object(metadata)) => {
            for (key, value) in metadata {
                read_metadata(key, value, &mut read, mistakes, warnings);
            }
            let scalars = written.metadata.unwrap_or_default();
            let exact = [
                ("version", scalars.version),
                ("abbey-match", scalars.patterns),
                ("abbey-args", scalars.args),
                ("abbey-program", scalars.program),
                ("abbey-effect", scalars.effect),
                ("abbey-grants", scalars.grants),
                ("abbey-risk", scalars.risk),
            ];
            for (key, text) in exact {
                if let Some(text) = text {
                    read.metadata.insert(key.to_owned(), text);
                }
            }
        }
        Some(_) => mistakes.push("`metadata` must be a mapping of names to texts".to_owned()),
    }
    read
}

/// Front matter in which each text of one line that YAML reads as something else stands between quotes: one with `: ` in
/// it, as in `description: Use when: …`, or one in brackets that is no list, as in `argument-hint: [file] [mode]`. Both are
/// common in published skills.
fn quote_bare_texts(front: &str) -> String {
    let quote = |line: &str| -> Option<String> {
        let (key, text) = line.split_once(": ")?;
        let text = text.trim();
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let bare = text.starts_with(|c: char| c.is_alphanumeric());
        let count = |c: char| text.chars().filter(|other| *other == c).count();
        let is_closed = count('[') == count(']') && count('{') == count('}');
        let in_brackets = text.starts_with(['[', '{']) && is_closed;
        let is_mistake = (bare && text.contains(": "))
            || (in_brackets && serde_saphyr::from_str::<Value>(text).is_err());
        (is_mistake && !key.is_empty() && key.chars().all(plain))
            .then(|| format!("{key}: {}\n", Value::from(text)))
    };
    let lines = front.split_inclusive('\n');
    lines
        .map(|line| quote(line).unwrap_or_else(|| line.to_owned()))
        .collect()
}

/// Adds one key of `metadata`.
fn read_metadata(
    key: &str,
    value: &Value,
    read: &mut FrontMatter,
    mistakes: &mut Vec<String>,
    warnings: &mut Vec<String>,
) {
    let own = key.starts_with("abbey-");
    if own && !OWN_KEYS.contains(&key) {
        mistakes.push(format!(
            "metadata `{key}` is not known; the keys are {}",
            OWN_KEYS.join(", ")
        ));
        return;
    }
    let words = |text: &str| -> Vec<String> {
        let words = text.split([' ', ',', '\n']).filter(|word| !word.is_empty());
        words.map(str::to_lowercase).collect()
    };
    match value {
        Value::String(text) if key == "tags" => read.tags = words(text),
        Value::Array(tags) if key == "tags" => {
            let tags = tags.iter().filter_map(Value::as_str);
            read.tags = tags.flat_map(words).collect();
        }
        Value::String(text) => drop(read.metadata.insert(key.to_owned(), text.clone())),
        Value::Number(_) | Value::Bool(_) if !own => {
            read.metadata.insert(key.to_owned(), value.to_string());
        }
        Value::Null => {}
        _ if own => mistakes.push(format!("metadata `{key}` must be a text")),
        _ => warnings.push(format!("metadata `{key}` is no text and is ignored")),
    }
}

/// Text of a key, as it is written; a list or a mapping is a mistake.
fn text_of(
    keys: &BTreeMap<String, Value>,
    key: &str,
    written: Option<String>,
    mistakes: &mut Vec<String>,
) -> Option<String> {
    match keys.get(key) {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Array(_) | Value::Object(_)) => {
            mistakes.push(format!("`{key}` must be a text"));
            None
        }
        Some(value) => Some(written.unwrap_or_else(|| value.to_string())),
    }
}

/// Source: Agent Skills specification, "name field".
fn is_legal_name(name: &str) -> bool {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let hyphens = name.starts_with('-') || name.ends_with('-') || name.contains("--");
    !name.is_empty() && name.len() <= NAME_MAX && name.bytes().all(legal) && !hyphens
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (FrontMatter, Vec<String>, Vec<String>) {
        let (mut mistakes, mut warnings) = (Vec::new(), Vec::new());
        let front = match split_front_matter(text) {
            Ok((front, _)) => read_front_matter(&front, &mut mistakes, &mut warnings),
            Err(why) => {
                mistakes.push(why);
                FrontMatter::default()
            }
        };
        (front, mistakes, warnings)
    }

    #[test]
    fn keys_of_other_tools_are_warnings() {
        let text = "---\nname: tides\ndescription: d\nversion: 1.4.0\nplatforms: [linux]\nallowed-tools: [Read]\nmetadata:\n  openclaw: {requires: {bins: [jq]}}\n  version: 1.10\n  tags: [Sea, water]\n---\n";
        let (front, mistakes, warnings) = read(text);
        assert!(mistakes.is_empty(), "{mistakes:?}");
        assert_eq!(warnings.len(), 4, "{warnings:?}");
        assert_eq!(front.metadata["version"], "1.10");
        assert_eq!(front.tags, ["sea", "water"]);
    }

    #[test]
    fn hints_in_brackets_and_texts_with_colons_are_repaired() {
        let text = "---\nname: tides\ndescription: Use when: always\nargument-hint: [file] [mode]\nmetadata:\n  tags: [Sea,\n    water]\n---\n";
        let (front, mistakes, warnings) = read(text);
        assert!(mistakes.is_empty(), "{mistakes:?}");
        assert_eq!(front.description, "Use when: always");
        assert_eq!(front.tags, ["sea", "water"]);
        assert!(warnings[0].contains("brackets"), "{warnings:?}");
        // A list stays one.
        let (_, mistakes, warnings) =
            read("---\nname: tides\ndescription: d\nargument-hint: [file]\n---\n");
        assert!(mistakes.is_empty());
        assert_eq!(
            warnings,
            ["the key `argument-hint` is not known and is ignored"]
        );
    }

    #[test]
    fn line_ends_and_marks_of_other_systems_are_no_mistakes() {
        let plain = "---\nname: tides\ndescription: d\n---\n\nBody.\n";
        let (_, body) = split_front_matter(plain).unwrap();
        assert_eq!(body, "\nBody.\n");
        for text in [
            plain.replace('\n', "\r\n"),
            format!("\u{feff}{plain}"),
            plain.replace("---\n", "---  \n"),
        ] {
            let (front, mistakes, _) = read(&text);
            assert!(mistakes.is_empty(), "{text:?}: {mistakes:?}");
            assert_eq!(front.name, "tides");
            assert_eq!(split_front_matter(&text).unwrap().1, body);
        }
        assert!(read("---\nname: tides\ndescription: d\n---").1.is_empty());
    }

    #[test]
    fn values_of_the_specification_are_strict() {
        for name in ["-lead", "trail-", "two--hyphens", "Upper", "''", "[a]"] {
            let text = format!("---\nname: {name}\ndescription: d\n---\n");
            assert_eq!(read(&text).1.len(), 1, "{name}");
        }
        let long = "x".repeat(COMPATIBILITY_MAX + 1);
        let text = format!("---\nname: a\ndescription: d\ncompatibility: {long}\n---\n");
        assert_eq!(read(&text).1.len(), 1);
        let (front, mistakes, _) = read("---\nname: yes\ndescription: 1.10\n---\n");
        assert_eq!(
            (front.name.as_str(), front.description.as_str()),
            ("yes", "1.10")
        );
        assert!(mistakes.is_empty(), "{mistakes:?}");
        assert_eq!(
            read("---\nname: a\n---\n").1,
            ["the key `description` is missing"]
        );
    }

    #[test]
    fn lines_are_those_of_the_file() {
        let text = "---\nname: lines\ndescription: d\nmetadata:\n  a: b\n a: c\n---\n\nText.\n";
        let (_, mistakes, _) = read(text);
        assert!(mistakes[0].contains("line 6"), "{mistakes:?}");
        let (_, mistakes, _) = read("---\nname: open\n");
        assert!(mistakes[0].starts_with("line 2"), "{mistakes:?}");
    }
}
