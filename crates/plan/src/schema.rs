//! The manifest's table as a JSON Schema, for editors.
//!
//! Source: JSON Schema, draft 2020-12.

use crate::shape::{Field, Shape};
use crate::table::MANIFEST;
use abbey_model::Tool;
use serde_json::{Map, Value, json};

const NAME_PATTERN: &str = "^[a-z][a-z0-9]*(-[a-z0-9]+)*$";

/// The schema of `abbey.yaml`.
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
        Shape::Text | Shape::Path | Shape::TimeZone => json!({ "type": "string", "minLength": 1 }),
        Shape::Name => json!({ "type": "string", "pattern": NAME_PATTERN, "maxLength": 32 }),
        Shape::Integer(least, most) => {
            json!({ "type": "integer", "minimum": least, "maximum": most })
        }
        Shape::Number(most) => json!({ "type": "number", "exclusiveMinimum": 0, "maximum": most }),
        Shape::Boolean => json!({ "type": "boolean" }),
        Shape::Bytes => json!({ "type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB|TiB)$" }),
        Shape::Duration => json!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$" }),
        Shape::Percent => json!({ "type": "string", "pattern": "^[0-9]{1,3}%$" }),
        Shape::PortRange => json!({ "type": "string", "pattern": "^[0-9]+-[0-9]+$" }),
        Shape::Network => json!({ "type": "string", "pattern": "^[0-9.]+/[0-9]+$" }),
        Shape::Socket => json!({ "type": "string", "pattern": ":[0-9]+$" }),
        Shape::Model => json!({ "type": "string", "pattern": "^[a-z][a-z0-9-]*/.+$" }),
        Shape::Secret => json!({ "type": "string", "pattern": "^(env|file|credential):.+$" }),
        Shape::Word(words, _) => json!({ "enum": words }),
        Shape::List(inner) => json!({ "type": "array", "items": shape(inner) }),
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
        Shape::Map(inner) => json!({
            "type": "object",
            "propertyNames": { "pattern": NAME_PATTERN, "maxLength": 32 },
            "additionalProperties": shape(inner),
        }),
        Shape::Object(fields) => object(fields),
    }
}

fn object(fields: &[Field]) -> Value {
    let mut properties = Map::new();
    for field in fields {
        let mut value = shape(&field.shape);
        if let Value::Object(map) = &mut value {
            map.insert("description".into(), field.doc.into());
        }
        properties.insert(field.name.into(), value);
    }
    let required: Vec<&str> = fields
        .iter()
        .filter(|f| f.required)
        .map(|f| f.name)
        .collect();
    let mut out =
        json!({ "type": "object", "additionalProperties": false, "properties": properties });
    if !required.is_empty() {
        out["required"] = json!(required);
    }
    out
}
