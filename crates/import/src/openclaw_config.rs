//! The configuration of an OpenClaw instance with the files that it includes. Source: its guide `gateway/config-secrets-env`
//! of version 2026.9 (read 2026-11): a path or a list of paths relative to the file, merged in order, and below the keys beside it.

use crate::parsing::{Notation, parse};
use crate::source::SourceDir;
use crate::{Error, Import, Result};
use serde_json::Value;
use std::path::{Component, Path};

/// Key whose value names the files to include.
const INCLUDE: &str = "$include";
/// Deepest inclusion, as in OpenClaw.
const DEPTH_MAX: u8 = 10;

/// Reads a configuration file with all that it includes; none if it does not exist.
///
/// # Errors
/// With file and line, if one of the files is not JSON5; and if an included file is missing or outside of the directory.
pub(crate) fn read(source: &SourceDir, import: &mut Import, file: &str) -> Result<Option<Value>> {
    let Some(text) = source.read_text(file)? else {
        return Ok(None);
    };
    source.account(file);
    let value = parse(Notation::Json5, &source.path.join(file), &text)?;
    resolve(source, import, (file, DEPTH_MAX), value).map(Some)
}

fn resolve(
    source: &SourceDir,
    import: &mut Import,
    (file, depth): (&str, u8),
    value: Value,
) -> Result<Value> {
    match value {
        Value::Array(items) => {
            let items = items.into_iter();
            items
                .map(|item| resolve(source, import, (file, depth), item))
                .collect()
        }
        Value::Object(mut map) => {
            let wanted = map.shift_remove(INCLUDE);
            let mut whole = Value::Null;
            for path in included_paths(wanted.as_ref()) {
                merge(
                    &mut whole,
                    read_included(source, import, (file, depth), path)?,
                );
            }
            let mut own = serde_json::Map::new();
            for (key, value) in map {
                own.insert(key, resolve(source, import, (file, depth), value)?);
            }
            match (wanted, own.is_empty()) {
                (None, _) => Ok(Value::Object(own)),
                (Some(_), true) => Ok(whole),
                (Some(_), false) => {
                    merge(&mut whole, Value::Object(own));
                    Ok(whole)
                }
            }
        }
        other => Ok(other),
    }
}

fn included_paths(wanted: Option<&Value>) -> Vec<&str> {
    match wanted {
        Some(Value::String(path)) => vec![path],
        Some(Value::Array(paths)) => paths.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn read_included(
    source: &SourceDir,
    import: &mut Import,
    (file, depth): (&str, u8),
    wanted: &str,
) -> Result<Value> {
    let mistake = |why: &str| Error::Mistake {
        path: source.path.join(file),
        line: line_with(source, file, wanted),
        why: format!("it includes `{}`, {why}", crate::names::one_line(wanted)),
    };
    if !source.may_include() {
        return Err(mistake("and includes more files than an installation has"));
    }
    if depth == 0 {
        return Err(mistake("which is included too deeply, or by itself"));
    }
    let path = below(&source.path, file, wanted);
    let path = path.ok_or_else(|| {
        mistake("which is outside of this directory: copy it here, and include the copy")
    })?;
    if source.skips.hides(&path) {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    let text = source.read_text(&path)?;
    let text = text.ok_or_else(|| mistake("which is missing"))?;
    source.account(&path);
    import.carried.insert(path.clone());
    let value = parse(Notation::Json5, &source.path.join(&path), &text)?;
    resolve(source, import, (&path, depth - 1), value)
}

/// First line of a file that has this text.
fn line_with(source: &SourceDir, file: &str, text: &str) -> Option<u64> {
    let content = source.read_text(file).ok().flatten()?;
    let at = content.lines().position(|line| line.contains(text))?;
    u64::try_from(at + 1).ok()
}

/// Path of an included file below the directory; none if it leads out.
fn below(root: &Path, file: &str, wanted: &str) -> Option<String> {
    let wanted = Path::new(wanted);
    let from = Path::new(file).parent().unwrap_or(Path::new(""));
    let path = match wanted.is_absolute() {
        true => wanted.strip_prefix(root).ok()?.to_owned(),
        false => from.join(wanted),
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                parts.pop()?;
            }
            Component::Normal(name) => parts.push(name.to_str()?),
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

/// Merges `over` into `under`: mappings by key, lists one after the other, and other values by replacement.
fn merge(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                match under.get_mut(&key) {
                    Some(there) => merge(there, value),
                    None => {
                        under.insert(key, value);
                    }
                }
            }
        }
        (Value::Array(under), Value::Array(over)) => under.extend(over),
        (under, over) => *under = over,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn included_parts_are_merged_below_the_keys_beside_them() {
        let mut whole = json!({ "a": { "b": 1, "c": [1] }, "d": 1 });
        merge(&mut whole, json!({ "a": { "b": 2, "c": [2] }, "e": 3 }));
        assert_eq!(
            whole,
            json!({ "a": { "b": 2, "c": [1, 2] }, "d": 1, "e": 3 })
        );
    }

    #[test]
    fn a_path_stays_below_the_directory() {
        let root = Path::new("/claw");
        assert_eq!(
            below(root, "parts/a.json5", "../b.json5").as_deref(),
            Some("b.json5")
        );
        assert_eq!(
            below(root, "a", "/claw/parts/c").as_deref(),
            Some("parts/c")
        );
        assert_eq!(below(root, "a", "../etc/passwd"), None);
        assert_eq!(below(root, "a", "/etc/passwd"), None);
    }

    /// What reading the configuration `a` fails with.
    fn refusal(files: &[(&str, String)]) -> String {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(dir.path().join(name), content).unwrap();
        }
        let source = SourceDir::open(dir.path(), &[]).unwrap();
        let read = read(&source, &mut Import::default(), "a");
        read.expect_err("it includes too much").to_string()
    }

    #[test]
    fn files_that_include_each_other_end_the_import() {
        let text = refusal(&[
            ("a", r#"{ "$include": "b" }"#.to_owned()),
            ("b", r#"{ "$include": "a" }"#.to_owned()),
        ]);
        assert!(text.contains("included too deeply, or by itself"), "{text}");
    }

    #[test]
    fn files_that_include_many_in_each_part_end_the_import() {
        let many = |name: &str| {
            format!(
                r#"{{ "$include": [{}] }}"#,
                [format!("\"{name}\"").as_str(); 9].join(",")
            )
        };
        let text = refusal(&[("a", many("b")), ("b", many("c")), ("c", "{}".to_owned())]);
        assert!(
            text.contains("more files than an installation has"),
            "{text}"
        );
    }
}
