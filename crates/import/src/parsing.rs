//! Reads JSON, JSON5 and YAML of other installations. A mistake has its file and line; no message quotes the text, which
//! may hold a secret. A key that occurs twice is a mistake: one of its values would be lost.

use crate::{Error, Result};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;
use std::path::Path;

/// Notation of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notation {
    /// JSON.
    Json,
    /// JSON with comments, as OpenClaw reads its configuration.
    Json5,
    /// YAML. The number of lines in front of it in its file is added to the lines of mistakes.
    Yaml {
        /// Lines of the file before the document.
        lines_before: u64,
    },
}

/// Deepest nesting of lists and mappings.
const DEPTH_MAX: u8 = 100;
/// Beginning of the message about a repeated key; what follows is the key.
const REPEATED: &str = "repeated key ";

/// Parses a document of `file`.
///
/// # Errors
/// With file and line, when the text does not have the notation or holds a key twice.
pub(crate) fn parse(notation: Notation, file: &Path, text: &str) -> Result<Value> {
    let mistake = |line: Option<u64>, message: &str, name: &str| Error::Mistake {
        path: file.to_owned(),
        line,
        why: match message.split_once(REPEATED) {
            Some((_, rest)) => {
                let key: String = rest.chars().take_while(|c| *c != '`').take(80).collect();
                format!("the key `{key}` occurs twice; remove one of them")
            }
            None => format!("it is not valid {name}"),
        },
    };
    match notation {
        Notation::Json => {
            let mut deserializer = serde_json::Deserializer::from_str(text);
            let value = Whole(DEPTH_MAX).deserialize(&mut deserializer);
            let value = value.and_then(|v| deserializer.end().map(|()| v));
            value.map_err(|e| {
                let line = u64::try_from(e.line()).ok().filter(|l| *l > 0);
                mistake(line, &e.to_string(), "JSON")
            })
        }
        Notation::Json5 => json5::from_str::<Strict>(text).map(|v| v.0).map_err(|e| {
            let message = e.to_string();
            let line = match message.split_once(REPEATED) {
                // The position is that of the whole mapping.
                Some((_, key)) => line_of_last(text, key.split('`').next().unwrap_or_default()),
                None => e.position().and_then(|p| u64::try_from(p.line + 1).ok()),
            };
            mistake(line, &message, "JSON5")
        }),
        Notation::Yaml { lines_before } => serde_saphyr::from_str::<Strict>(text)
            .map(|v| v.0)
            .map_err(|e| {
                let line = e.location().map(|l| l.line() + lines_before);
                let message = match e.without_snippet() {
                    serde_saphyr::Error::DuplicateMappingKey { key, .. } => {
                        format!("{REPEATED}{}`", key.as_deref().unwrap_or_default())
                    }
                    _ => String::new(),
                };
                mistake(line, &message, "YAML")
            }),
    }
}

/// Line on which `key` occurs last.
fn line_of_last(text: &str, key: &str) -> Option<u64> {
    let line = text
        .lines()
        .enumerate()
        .filter(|(_, l)| l.contains(key))
        .last()?
        .0;
    u64::try_from(line + 1).ok()
}

/// Value without repeated keys.
struct Strict(Value);

impl<'de> serde::Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Strict, D::Error> {
        Whole(DEPTH_MAX).deserialize(deserializer).map(Strict)
    }
}

/// Reads a value whose lists and mappings are nested at most this deep: what reads the value later calls itself as often.
struct Whole(u8);

impl Whole {
    fn inner<E: serde::de::Error>(&self) -> std::result::Result<Whole, E> {
        let depth = self.0.checked_sub(1);
        depth
            .map(Whole)
            .ok_or_else(|| E::custom("it is nested too deeply"))
    }
}

impl<'de> DeserializeSeed<'de> for Whole {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> std::result::Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Whole {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> std::result::Result<Value, D::Error> {
        from.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> std::result::Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<Value, A::Error> {
        let (mut all, depth) = (Vec::new(), self.inner()?.0);
        while let Some(item) = items.next_element_seed(Whole(depth))? {
            all.push(item);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> std::result::Result<Value, A::Error> {
        let (mut all, depth) = (Map::new(), self.inner()?.0);
        while let Some(key) = entries.next_key::<String>()? {
            if all.contains_key(&key) {
                return Err(A::Error::custom(format!("{REPEATED}{key}`")));
            }
            all.insert(key, entries.next_value_seed(Whole(depth))?);
        }
        Ok(Value::Object(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_nesting_is_a_mistake() {
        for notation in [
            Notation::Json,
            Notation::Json5,
            Notation::Yaml { lines_before: 0 },
        ] {
            for open in ["[", "{a:", "{\"a\":"] {
                assert!(parse(notation, Path::new("f"), &open.repeat(200_000)).is_err());
            }
        }
    }

    fn mistake(notation: Notation, text: &str) -> String {
        parse(notation, Path::new("f"), text)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn mistakes_have_a_line_and_quote_nothing() {
        let yaml = Notation::Yaml { lines_before: 0 };
        for (notation, text, line) in [
            (Notation::Json, "{\n \"a\": sk-secret\n}", "f:2: "),
            (Notation::Json, "{ \"a\": 1 }\n sk-secret", "f:2: "),
            (Notation::Json5, "{\n a: 1,\n b sk-secret }", "f:3: "),
            (yaml, "a: 1\nb: [sk-secret\n", "f:"),
            (yaml, "a: 'sk-secret\n", "f:"),
            (
                Notation::Yaml { lines_before: 4 },
                "a: sk-secret\na: 1",
                "f:6: ",
            ),
        ] {
            let told = mistake(notation, text);
            assert!(
                told.starts_with(line) && !told.contains("sk-secret"),
                "{told}"
            );
        }
    }

    #[test]
    fn a_key_that_occurs_twice_is_a_mistake_in_every_notation() {
        for (notation, text) in [
            (Notation::Json, "{ \"a\": 1,\n\"a\": 2 }"),
            (Notation::Json5, "{ a: 1,\n a: 2 }"),
            (Notation::Yaml { lines_before: 0 }, "a: 1\na: 2\n"),
        ] {
            let told = mistake(notation, text);
            assert!(told.starts_with("f:2: the key `a` occurs twice"), "{told}");
        }
    }
}
