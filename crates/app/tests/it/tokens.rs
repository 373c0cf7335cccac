//! Named tokens of the operator API: scopes, attribution, expiry, revocation.

use crate::{TWO, up};
use abbey_api::Api;
use abbey_model::{AccessScope, AccessScopes};
use abbey_testkit::args;
use abbey_testkit::house::{House, until};
use serde_json::{Value, json};

/// Creates a token with scopes, and returns its text.
fn new_token(house: &House, name: &str, scopes: &str) -> String {
    let printed = house.expect(0, args!("token new {} --scope {}", name, scopes));
    printed.lines().next().unwrap_or_default().to_owned()
}

/// The scope that each documented route of the operator API declares: `METHOD path scope`.
fn declared() -> Vec<(String, String, AccessScope)> {
    let document: Value = serde_json::from_str(&abbey_daemon::openapi(Api::Operator)).unwrap();
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let scope = operation["security"][0]["bearer"][0].as_str();
            if let Some(scope) = scope {
                all.push((method.to_uppercase(), path.clone(), scope.parse().unwrap()));
            }
        }
    }
    all
}

#[test]
fn each_route_declares_the_scope_that_it_requires() {
    let lines = declared().into_iter();
    let lines: Vec<String> = lines.map(|(m, p, s)| format!("{s} {m} {p}")).collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn every_route_refuses_tokens_without_its_scope_and_names_it() {
    let house = up(TWO);
    let tokens: Vec<(AccessScopes, String)> = AccessScope::ALL
        .iter()
        .map(|scope| {
            let text = new_token(&house, &format!("only-{scope}"), scope.name());
            (scope.name().parse().unwrap(), text)
        })
        .collect();
    for (method, template, required) in declared() {
        let path = template
            .replace("{agent}", "sysadmin")
            .replace("{task}", "1");
        for (scopes, token) in &tokens {
            let permitted = scopes.permit(required);
            // A change would be carried out and a stream would not end; other tests show those.
            let ends = method == "GET" && !path.ends_with("/attach") && !path.ends_with("/events");
            if permitted && !ends {
                continue;
            }
            let (status, body) = house.operator_api(&method, &path).token(token).send();
            let what = format!("{method} {path} with `{scopes}`: {status} {body}");
            match permitted {
                true => assert!(![401, 403].contains(&status), "{what}"),
                false => {
                    assert_eq!(status, 403, "{what}");
                    let detail = body["detail"].as_str().unwrap();
                    assert!(detail.contains(&format!("needs `{required}`")), "{what}");
                }
            }
        }
    }
}

#[test]
fn a_refusal_names_the_missing_scope_in_its_challenge() {
    let house = up(TWO);
    let token = new_token(&house, "board", "read");
    for path in ["/api/v1/tasks", "/api/controlplane/tasks"] {
        let challenge = |token: &str| {
            let request = house.operator_api("POST", path).token(token);
            let response = request.json(&json!({})).exchange().unwrap();
            let header = response.headers().get("www-authenticate");
            let header = header.and_then(|h| h.to_str().ok()).map(str::to_owned);
            (response.status().as_u16(), header.unwrap_or_default())
        };
        let (status, header) = challenge(&token);
        assert_eq!(status, 403, "{path}");
        assert!(
            header.contains("error=\"insufficient_scope\", scope=\"tasks\""),
            "{path}: {header}"
        );
        let (status, header) = challenge("nonsense");
        assert_eq!((status, header.as_str()), (401, "Bearer realm=\"abbey\""));
    }
}

#[test]
fn a_restored_house_has_no_named_tokens() {
    let house = up(TWO);
    let token = new_token(&house, "ci", "admin");
    let copy = house.path("copy.tar");
    house.expect(0, args!("backup {}", copy.display()));
    house.expect(0, "token revoke ci");
    house.expect(0, "down");
    std::fs::rename(house.home(), house.path("old-home")).unwrap();
    house.expect(0, args!("restore {}", copy.display()));
    house.expect(0, "up");
    assert_eq!(house.json(0, "token list")["tokens"], json!([]));
    let call = house.operator_api("GET", "/api/v1/agents").token(&token);
    assert_eq!(call.send().0, 401);
}

#[test]
fn a_token_acts_as_itself_in_the_audit_log_and_a_person_by_name() {
    let house = up(TWO);
    let ci = new_token(&house, "ci", "tasks");
    let printed: Value = house.json(0, "token new phone --scope tasks,approve --person ana");
    let phone = printed["secret"].as_str().unwrap().to_owned();
    assert_eq!(printed["token"]["principal"], "person:ana");
    let add = |token: &str, key: &str| {
        house
            .operator_api("POST", "/api/v1/tasks")
            .token(token)
            .header("idempotency-key", key)
            .json(&json!({ "text": "show system stats", "to": "sysadmin" }))
            .send()
    };
    let (status, first) = add(&ci, "k");
    assert_eq!(status, 201, "{first}");
    // A key belongs to its caller: the same key of somebody else is another request.
    assert_eq!(add(&ci, "k").0, 200);
    let (status, second) = add(&phone, "k");
    assert_eq!(status, 201, "{second}");
    let (status, cancelled) = house
        .operator_api("POST", "/api/v1/tasks/TASK-2/cancel")
        .token(&phone)
        .send();
    assert!(status == 200 || status == 409, "{cancelled}");
    let actors: Vec<Value> = house
        .audit_entries("task.add")
        .iter()
        .map(|e| e["actor"].clone())
        .collect();
    assert_eq!(actors, [json!("token:ci"), json!("person:ana")]);
    let issued = house.audit_entries("credential.issue");
    let named = issued.iter().filter(|e| e["actor"] == "operator");
    let named: Vec<&Value> = named.map(|e| &e["entity"]).collect();
    assert_eq!(named, [&json!("token:ci"), &json!("token:phone")]);
    // The text of a token is in its own answer and nowhere else.
    for secret in [&ci, &phone] {
        assert!(secret.starts_with("abbey_op_"), "{secret}");
        assert!(!house.expect(0, "activity").contains(secret.as_str()));
        assert!(
            !house
                .expect(0, "token list --json")
                .contains(secret.as_str())
        );
        assert!(!house.control_plane_log().contains(secret.as_str()));
    }
}

#[test]
fn a_token_is_listed_with_its_use_and_ends_when_it_is_revoked() {
    let house = up(TWO);
    assert!(house.expect(0, "token list").contains("no tokens"));
    let token = new_token(&house, "board", "read");
    let call = || {
        house
            .operator_api("GET", "/api/v1/agents")
            .token(&token)
            .send()
            .0
    };
    let listed = || house.json(0, "token list")["tokens"][0].clone();
    assert_eq!(listed()["last_used_at"], Value::Null);
    assert_eq!(call(), 200);
    until("its use is recorded", || {
        !listed()["last_used_at"].is_null()
    });
    // It survives a restart of the control plane.
    house.kill_control_plane();
    house.expect(0, "up");
    assert_eq!(call(), 200);
    let taken = house.expect_refusal(4, "token new board --scope admin");
    assert!(taken.contains("a token `board` already exists"), "{taken}");
    house.expect(0, "token revoke board");
    assert_eq!(call(), 401);
    let unknown = house.expect_refusal(3, "token revoke board");
    assert!(unknown.contains("there is no token `board`"), "{unknown}");
    assert_eq!(
        house.audit_entries("credential.revoke").last().unwrap()["entity"],
        "token:board"
    );
}

#[test]
fn an_expired_token_is_refused_and_stays_listed() {
    let house = up(TWO);
    let printed = house.expect(0, "token new brief --scope read --expires 1s");
    let token = printed.lines().next().unwrap_or_default();
    until("it has expired", || {
        let (status, body) = house
            .operator_api("GET", "/api/v1/agents")
            .token(token)
            .send();
        assert!(status == 200 || status == 401, "{status} {body}");
        status == 401
    });
    assert_eq!(house.json(0, "token list")["tokens"][0]["expired"], true);
}

#[test]
fn a_token_cannot_widen_its_scopes_and_odd_requests_are_refused() {
    let house = up(TWO);
    let admin = new_token(&house, "root", "admin");
    let create = |token: &str, body: &Value| {
        house
            .operator_api("POST", "/api/v1/tokens")
            .token(token)
            .json(body)
            .send()
    };
    let body = json!({ "name": "more", "scopes": ["admin"] });
    for scopes in [
        "read",
        "metrics",
        "tasks",
        "approve",
        "read,tasks,approve,metrics",
    ] {
        let name = format!("t-{}", scopes.replace(',', "-"));
        let token = new_token(&house, &name, scopes);
        assert_eq!(create(&token, &body).0, 403, "{scopes}");
        let list = house.operator_api("GET", "/api/v1/tokens").token(&token);
        assert_eq!(list.send().0, 403, "{scopes}");
    }
    for odd in [
        json!({ "name": "x", "scopes": [] }),
        json!({ "name": "No Name", "scopes": ["read"] }),
        json!({ "name": "x\n", "scopes": ["read"] }),
        json!({ "name": "x", "scopes": ["root"] }),
        json!({ "name": "x", "scopes": ["read"], "expires_in_s": 0 }),
        json!({ "name": "x", "scopes": ["read"], "expires_in_s": u64::MAX }),
        json!({ "name": "x", "scopes": ["read"], "person": "../ana" }),
        json!({ "name": "x", "scopes": ["read"], "extra": 1 }),
    ] {
        let (status, problem) = create(&admin, &odd);
        assert_eq!(status, 422, "{odd}: {problem}");
    }
    let (status, made) = create(&admin, &body);
    assert_eq!(
        (status, &made["token"]["principal"]),
        (201, &json!("token:more"))
    );
    let entries = house.audit_entries("credential.issue");
    assert_eq!(entries.last().unwrap()["actor"], "token:root");
    // Without a control plane there is nothing that could issue one.
    let alone = crate::house();
    alone.expect_refusal(6, "token new x --scope read");
    house.expect_refusal(2, "token new x --scope everything");
    house.expect_refusal(2, "token new x");
    house.expect_refusal(2, "token new x --scope read --expires soon");
}
