//! Both documents describe the routes that are served, and the client calls them.

use super::*;
use serde_json::Value;
use std::collections::BTreeSet;

/// Operations that the client doesn't call, as others do: deliveries, older clients, model libraries, tools.
const FOR_OTHERS: [&str; 6] = [
    "controlplane_",
    "hooks_",
    "models_",
    "house_metrics",
    "house_health",
    "house_openapi",
];

fn document(api: Api) -> Value {
    serde_json::from_str(&openapi(api)).unwrap()
}

fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            all.push((method.to_uppercase(), path.clone(), operation.clone()));
        }
    }
    all
}

fn names(operation: &Value, place: &str) -> BTreeSet<String> {
    let all = operation["parameters"].as_array().into_iter().flatten();
    let there = all.filter(|p| p["in"] == place);
    there
        .map(|p| p["name"].as_str().unwrap().to_owned())
        .collect()
}

fn schema_name(content: &Value) -> Option<String> {
    let schema = &content["application/json"]["schema"];
    let named = schema["$ref"].as_str()?;
    Some(named.rsplit('/').next()?.to_owned())
}

#[test]
fn the_client_and_the_documents_agree() {
    for api in [Api::Operator, Api::Agent] {
        let document = document(api);
        let documented = operations(&document);
        for called in api.operations() {
            let what = format!("{} {}", called.method, called.path);
            let found = documented
                .iter()
                .find(|(m, p, _)| m == called.method && p == called.path);
            let (_, _, operation) = found.unwrap_or_else(|| panic!("no route for {what}"));
            let query: BTreeSet<String> = (called.query)().into_iter().map(|p| p.name).collect();
            assert_eq!(names(operation, "query"), query, "query of {what}");
            let sent = names(operation, "header");
            assert!(
                called.headers.iter().all(|h| sent.contains(*h)),
                "headers of {what}: {sent:?}"
            );
            let body = called.body.map(|b| (b.name)().into_owned());
            let described = schema_name(&operation["requestBody"]["content"]);
            if body.as_deref() != Some("Value") {
                assert_eq!(described, body, "body of {what}");
            }
            let answer = called.answer.map(|b| (b.name)().into_owned());
            let success = ["200", "201"].map(|status| &operation["responses"][status]);
            let success = success.into_iter().find(|r| !r.is_null());
            let described = success.and_then(|r| schema_name(&r["content"]));
            if let (Some(answer), Some(described)) = (answer, described) {
                assert_eq!(described, answer, "answer of {what}");
            }
        }
        for (method, path, operation) in &documented {
            let id = operation["operationId"].as_str().unwrap();
            let called = api
                .operations()
                .any(|o| o.method == method && o.path == path);
            let others = FOR_OTHERS.iter().any(|p| id.starts_with(p));
            assert!(
                called != others,
                "{id} ({method} {path}): by the client {called}, by others {others}"
            );
        }
    }
}

#[test]
fn operation_ids_are_there_once_and_refusals_are_problems() {
    for api in [Api::Operator, Api::Agent] {
        let document = document(api);
        let all = operations(&document);
        let ids: BTreeSet<&str> = all
            .iter()
            .filter_map(|(_, _, o)| o["operationId"].as_str())
            .collect();
        assert_eq!(ids.len(), all.len());
        for (method, path, operation) in &all {
            for name in path
                .split('/')
                .filter_map(|s| s.strip_prefix('{')?.strip_suffix('}'))
            {
                assert!(
                    names(operation, "path").contains(name),
                    "{method} {path}: {name}"
                );
            }
            for (status, response) in operation["responses"].as_object().unwrap() {
                if status.starts_with('4') || status.starts_with('5') {
                    let problem =
                        &response["content"]["application/problem+json"]["schema"]["$ref"];
                    assert_eq!(
                        problem, "#/components/schemas/Problem",
                        "{method} {path} {status}"
                    );
                }
            }
        }
    }
}

#[test]
fn every_reference_leads_somewhere() {
    fn walk(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                if let Some(to) = map.get("$ref").and_then(Value::as_str) {
                    found.insert(to.to_owned());
                }
                map.values().for_each(|v| walk(v, found));
            }
            Value::Array(all) => all.iter().for_each(|v| walk(v, found)),
            _ => {}
        }
    }
    for api in [Api::Operator, Api::Agent] {
        let document = document(api);
        let mut found = BTreeSet::new();
        walk(&document, &mut found);
        for to in found {
            let at = document.pointer(to.strip_prefix('#').unwrap());
            assert!(at.is_some(), "{to}");
        }
    }
}

/// `ABBEY_UPDATE_DOCS=1` writes the documents anew.
#[test]
fn the_reference_is_current() {
    for (api, name) in [(Api::Operator, "operator"), (Api::Agent, "agent")] {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference");
        let path = format!("{root}/openapi-{name}.json");
        let text = openapi(api) + "\n";
        if std::env::var_os("ABBEY_UPDATE_DOCS").is_some() {
            std::fs::create_dir_all(root).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        let stored = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            stored == text,
            "{path} is not current; run this test with ABBEY_UPDATE_DOCS=1"
        );
    }
}
