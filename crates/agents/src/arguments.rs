//! Arguments of skills: what comes from a text becomes a value of the type that the skill's JSON Schema declares.
//!
//! A slot of a pattern, `KEY=VALUE` on a command line and a form have texts only, and a manifest may have a number where
//! a skill takes a text. The type that the schema declares decides, as long as that leaves one reading.

use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Most references that are followed from one declaration, so that one that refers to itself ends.
const DEPTH_MAX: u32 = 8;
/// Declarations that are looked at for one argument, at most.
const LOOKED_AT_MAX: u32 = 1000;

/// The arguments with each value in the type that the schema declares for it.
///
/// A text becomes an integer, a number, a boolean or null if it is written like one in JSON and no text is allowed; for a
/// list or an object it must be their JSON. A number or a boolean becomes its text where only a text is allowed. Anything
/// else stays as it is, so that the check against the schema names it.
#[must_use]
pub fn convert_arguments(schema: &Value, args: BTreeMap<String, Value>) -> BTreeMap<String, Value> {
    let convert = |(name, value): (String, Value)| {
        let types = declared_types(schema, &name);
        let converted = match &value {
            Value::String(text) => value_of_text(text, &types),
            Value::Number(_) | Value::Bool(_) => text_of_value(&value, &types),
            _ => None,
        };
        (name, converted.unwrap_or(value))
    };
    args.into_iter().map(convert).collect()
}

/// The value that a text stands for where the types allow no text; none if it stands for no value of them.
fn value_of_text(text: &str, types: &BTreeSet<String>) -> Option<Value> {
    let allows = |name: &str| types.contains(name);
    if types.is_empty() || allows("string") {
        return None;
    }
    let trimmed = text.trim();
    if allows("integer") || allows("number") {
        // A slot for digits may begin with zeros, which JSON has not.
        if let Ok(whole) = trimmed.parse::<i64>() {
            return Some(Value::from(whole));
        }
        if let Ok(whole) = trimmed.parse::<u64>() {
            return Some(Value::from(whole));
        }
    }
    let value: Value = serde_json::from_str(trimmed).ok()?;
    let is_declared = match &value {
        Value::Null => allows("null"),
        Value::Bool(_) => allows("boolean"),
        // A whole number that is too long for an integer would lose digits.
        Value::Number(_) => allows("number") && trimmed.contains(['.', 'e', 'E']),
        Value::Array(_) => allows("array"),
        Value::Object(_) => allows("object"),
        Value::String(_) => false,
    };
    is_declared.then_some(value)
}

/// The text of a number or a boolean where nothing but a text is allowed.
fn text_of_value(value: &Value, types: &BTreeSet<String>) -> Option<Value> {
    let is_text = types.iter().all(|name| name == "string" || name == "null");
    (is_text && types.contains("string")).then(|| Value::String(value.to_string()))
}

/// Names of the JSON types that a schema allows for an argument; empty where it declares none.
fn declared_types(schema: &Value, name: &str) -> BTreeSet<String> {
    let mut types = BTreeSet::new();
    let declared = schema["properties"].get(name);
    let declared = declared.or_else(|| schema.get("additionalProperties"));
    if let Some(Value::Object(declared)) = declared {
        let mut left = LOOKED_AT_MAX;
        collect_types(schema, declared, &mut types, (0, &mut left));
    }
    types
}

/// Adds the types that a declaration allows, also by reference, as one of several, or by the values that it lists.
fn collect_types(
    root: &Value,
    declared: &Map<String, Value>,
    types: &mut BTreeSet<String>,
    (depth, left): (u32, &mut u32),
) {
    // Declarations that refer to themselves in many places would be looked at without end.
    let Some(fewer) = left.checked_sub(1) else {
        return;
    };
    *left = fewer;
    match declared.get("type") {
        Some(Value::String(name)) => drop(types.insert(name.clone())),
        Some(Value::Array(names)) => {
            types.extend(names.iter().filter_map(Value::as_str).map(str::to_owned));
        }
        _ => {
            let listed = declared.get("enum").and_then(Value::as_array);
            let listed = listed.into_iter().flatten().chain(declared.get("const"));
            types.extend(listed.map(|value| type_of(value).to_owned()));
            if depth == DEPTH_MAX {
                return;
            }
            let referred = declared.get("$ref").and_then(Value::as_str);
            let referred = referred.and_then(|at| root.pointer(at.strip_prefix('#')?));
            let several = ["anyOf", "oneOf", "allOf"].into_iter();
            let several = several.filter_map(|key| declared.get(key)?.as_array());
            let nested = several.flatten().chain(referred);
            for inner in nested.filter_map(Value::as_object) {
                collect_types(root, inner, types, (depth + 1, &mut *left));
            }
        }
    }
}

/// Name of a value's type in a JSON Schema.
fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// The value as it is converted for an argument that is declared like this.
    fn converted(declared: &Value, value: Value) -> Value {
        let schema = json!({
            "type": "object", "properties": { "x": declared },
            "$defs": { "count": { "type": "integer" }, "self": { "$ref": "#/$defs/self" } },
        });
        let args = BTreeMap::from([("x".to_owned(), value)]);
        convert_arguments(&schema, args).remove("x").unwrap()
    }

    #[test]
    fn declarations_that_refer_to_themselves_many_times_end() {
        let again = vec![json!({ "$ref": "#/$defs/a" }); 1000];
        let schema = json!({
            "properties": { "x": { "$ref": "#/$defs/a" } },
            "$defs": { "a": { "anyOf": again } },
        });
        let args = BTreeMap::from([("x".to_owned(), json!("4"))]);
        assert_eq!(convert_arguments(&schema, args)["x"], json!("4"));
    }

    #[test]
    fn a_text_becomes_what_is_declared_where_that_is_unambiguous() {
        let of = |name: &str| json!({ "type": name });
        let table = [
            (of("integer"), "5", json!(5)),
            (of("integer"), "-7", json!(-7)),
            (of("integer"), " 007 ", json!(7)),
            (of("integer"), "18446744073709551615", json!(u64::MAX)),
            (of("integer"), "5.5", json!("5.5")),
            (
                of("integer"),
                "99999999999999999999",
                json!("99999999999999999999"),
            ),
            (of("integer"), "", json!("")),
            (of("integer"), "five", json!("five")),
            (of("integer"), "true", json!("true")),
            (of("number"), "5", json!(5)),
            (of("number"), "1.50", json!(1.5)),
            (of("number"), "1e3", json!(1000.0)),
            (of("number"), "NaN", json!("NaN")),
            (of("boolean"), "true", json!(true)),
            (of("boolean"), "false", json!(false)),
            (of("boolean"), "yes", json!("yes")),
            (of("boolean"), "1", json!("1")),
            (of("null"), "null", Value::Null),
            (of("array"), "[1,2]", json!([1, 2])),
            (of("array"), "1,2", json!("1,2")),
            (of("array"), "{}", json!("{}")),
            (of("object"), "{\"a\": 1}", json!({ "a": 1 })),
            (of("string"), "5", json!("5")),
            (of("string"), "[1]", json!("[1]")),
            (json!({}), "5", json!("5")),
            (json!(true), "5", json!("5")),
            (json!({ "type": ["integer", "null"] }), "null", Value::Null),
            (json!({ "type": ["integer", "null"] }), "4", json!(4)),
            // Both readings are allowed, so the text stays what it is.
            (json!({ "type": ["integer", "string"] }), "4", json!("4")),
            (json!({ "enum": [1, 2] }), "2", json!(2)),
            (json!({ "enum": ["1", "2"] }), "2", json!("2")),
            (json!({ "const": true }), "true", json!(true)),
            (
                json!({ "anyOf": [{ "type": "integer" }, { "type": "boolean" }] }),
                "true",
                json!(true),
            ),
            (
                json!({ "oneOf": [{ "type": "integer" }, { "type": "string" }] }),
                "4",
                json!("4"),
            ),
            (json!({ "$ref": "#/$defs/count" }), "4", json!(4)),
            (json!({ "$ref": "#/$defs/self" }), "4", json!("4")),
        ];
        for (declared, text, expected) in table {
            assert_eq!(
                converted(&declared, text.into()),
                expected,
                "{declared} {text:?}"
            );
        }
    }

    #[test]
    fn values_stay_what_they_are_but_for_scalars_where_a_text_is_declared() {
        let text = json!({ "type": "string" });
        for (value, expected) in [
            (json!(8080), json!("8080")),
            (json!(true), json!("true")),
            (json!([1]), json!([1])),
            (Value::Null, Value::Null),
        ] {
            assert_eq!(converted(&text, value), expected);
        }
        let either = json!({ "type": ["string", "integer"] });
        assert_eq!(converted(&either, json!(4)), json!(4));
        assert_eq!(converted(&json!({ "type": "boolean" }), json!(1)), json!(1));
    }

    #[test]
    fn arguments_that_are_not_declared_by_name_have_the_type_of_the_others() {
        let schema = json!({ "type": "object", "additionalProperties": { "type": "integer" } });
        let args = BTreeMap::from([("any".to_owned(), json!("3"))]);
        assert_eq!(convert_arguments(&schema, args)["any"], json!(3));
        let args = BTreeMap::from([("any".to_owned(), json!("3"))]);
        assert_eq!(
            convert_arguments(&json!({ "type": "object" }), args)["any"],
            json!("3")
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_value_comes_back_from_its_text_and_a_second_conversion_changes_nothing(
            number in any::<i64>(), flag in any::<bool>(), list in prop::collection::vec(any::<i32>(), 0..5),
            text in "\\PC{0,20}", name in prop::sample::select(vec!["integer", "number", "boolean", "array", "object", "string", "null"]),
        ) {
            for value in [json!(number), json!(flag), json!(list), json!({ "a": list }), Value::Null] {
                let declared = json!({ "type": type_of(&value) });
                prop_assert_eq!(converted(&declared, value.to_string().into()), value.clone());
                prop_assert_eq!(converted(&declared, value.clone()), value);
            }
            // A text that a skill takes as a text never changes.
            prop_assert_eq!(converted(&json!({ "type": "string" }), text.clone().into()), json!(text.clone()));
            let declared = json!({ "type": name });
            let once = converted(&declared, text.clone().into());
            prop_assert_eq!(converted(&declared, once.clone()), once.clone());
            prop_assert!(once == json!(text) || type_of(&once) == name || name == "number");
        }
    }
}
