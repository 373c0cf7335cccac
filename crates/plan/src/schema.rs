//! The definitions of the manifest's keys as a JSON Schema, for editors.
//!
//! Source: JSON Schema, draft 2020-12.

use crate::key::{Key, Shape};
use crate::keys::MANIFEST;
use abbey_model::Tool;
use serde_json::{Map, Value, json};

const NAME_PATTERN: &str = "^[a-z][a-z0-9]*(-[a-z0-9]+)*$";

/// JSON Schema of `abbey.yaml`, from the definitions of the keys.
pub fn json_schema() -> Value {
    let mut schema = shape(&MANIFEST);
    if let Value::Object(map) = &mut schema {
        map.insert(
            "$schema".into(),
            "https://json-schema.org/draft/2020-12/schema".into(),
        );
        map.insert("title".into(), "abbey.yaml".into());
    }
    schema
}

fn shape(shape_of: &Shape) -> Value {
    match shape_of {
        Shape::Text | Shape::Path | Shape::TimeZone | Shape::Language | Shape::SystemLocale => {
            json!({ "type": "string", "minLength": 1 })
        }
        Shape::Name | Shape::Agent => {
            json!({ "type": "string", "pattern": NAME_PATTERN, "maxLength": 32 })
        }
        Shape::Integer(least, most) => {
            json!({ "type": "integer", "minimum": least, "maximum": most })
        }
        Shape::Number(most) => json!({ "type": "number", "exclusiveMinimum": 0, "maximum": most }),
        Shape::Boolean => json!({ "type": "boolean" }),
        Shape::Bytes => json!({ "type": "string", "pattern": "^[0-9]+(B|[KMGT](iB)?)$" }),
        Shape::Duration => json!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$" }),
        Shape::Percent => json!({ "type": "string", "pattern": "^[0-9]{1,3}%$" }),
        Shape::PortRange => json!({ "type": "string", "pattern": "^[0-9]+-[0-9]+$" }),
        Shape::Network => json!({ "type": "string", "pattern": "^[0-9.]+/[0-9]+$" }),
        Shape::Socket => json!({ "type": "string", "pattern": ":[0-9]+$" }),
        Shape::Model => json!({ "type": "string", "pattern": "^[a-z][a-z0-9-]*/.+$" }),
        Shape::Secret => json!({ "type": "string", "pattern": "^(env|file|credential):.+$" }),
        Shape::Word(words, _) => json!({ "enum": words }),
        Shape::List(inner) => json!({ "type": "array", "items": shape(inner) }),
        Shape::Set(inner) => {
            json!({ "type": "array", "items": shape(inner), "uniqueItems": true })
        }
        Shape::Tools => {
            let tools: Vec<&str> = Tool::ALL.iter().map(|t| t.name()).collect();
            json!({ "oneOf": [
                { "const": "all" },
                { "type": "array", "items": { "enum": tools } },
            ] })
        }
        Shape::Egress => json!({ "oneOf": [
            { "enum": ["none", "full"] },
            { "type": "array", "items": { "type": "string", "pattern": ".+:[0-9]+$" } },
        ] }),
        Shape::Delegates => json!({ "oneOf": [
            { "type": "string" },
            { "type": "array", "items": { "type": "string", "pattern": "^(all|-?[a-z][a-z0-9-]*)$" } },
        ] }),
        Shape::Value => json!({}),
        Shape::Dict(inner) => json!({
            "type": "object",
            "propertyNames": { "pattern": "^[A-Za-z0-9_-]{1,64}$" },
            "additionalProperties": shape(inner),
        }),
        Shape::Map(inner) | Shape::ByAgent(inner) => json!({
            "type": "object",
            "propertyNames": { "pattern": NAME_PATTERN, "maxLength": 32 },
            "additionalProperties": shape(inner),
        }),
        Shape::Object(_) | Shape::Section(_) | Shape::Defaults(_) => object(shape_of),
    }
}

/// A default as its type in JSON.
fn default(key: &Key) -> Option<Value> {
    let text = key.default?;
    Some(match key.shape {
        Shape::Integer(..) | Shape::Number(_) | Shape::Boolean => {
            serde_json::from_str(text).unwrap_or_else(|_| text.into())
        }
        _ => text.into(),
    })
}

fn object(shape_of: &Shape) -> Value {
    let mut properties = Map::new();
    for key in shape_of.keys() {
        let mut value = shape(&key.shape);
        if let Value::Object(map) = &mut value {
            map.insert("description".into(), key.text().into());
            map.extend(default(key).map(|d| ("default".to_owned(), d)));
        }
        properties.insert(key.name.into(), value);
    }
    let required = shape_of.keys().filter(|k| k.required);
    let required: Vec<&str> = required.map(|k| k.name).collect();
    let mut out =
        json!({ "type": "object", "additionalProperties": false, "properties": properties });
    if !required.is_empty() {
        out["required"] = json!(required);
    }
    out
}
