//! Hook deliveries: authenticated by their signature, accepted once, as a task, a workflow run or an event; the outcome is
//! posted back; one trace covers it all (S3-25, S3-31, S3-33).

use crate::{house, with_model};
use abbey_model::TaskState;
use abbey_testkit::args;
use abbey_testkit::house::{House, own_network, until};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

/// Requests that the forge received: path, credential, body.
type Posts = Arc<Mutex<Vec<(String, String, Value)>>>;

/// API of a forge that answers with these statuses, and then with 201.
fn forge(mut answers: VecDeque<u16>) -> (u16, Posts) {
    own_network();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let posts = Posts::default();
    let kept = Arc::clone(&posts);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            serve(stream, &kept, answers.pop_front().unwrap_or(201));
        }
    });
    (port, posts)
}

fn serve(mut stream: TcpStream, posts: &Posts, status: u16) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut path, mut credential, mut length) = (String::new(), String::new(), 0);
    let mut line = String::new();
    while reader.read_line(&mut line).unwrap() > 2 {
        let lower = line.to_ascii_lowercase();
        if let Some(rest) = line.strip_prefix("POST ") {
            path = rest.split(' ').next().unwrap().to_owned();
        } else if lower.starts_with("authorization: ") {
            line["authorization: ".len()..]
                .trim()
                .clone_into(&mut credential);
        } else if let Some(rest) = lower.strip_prefix("content-length: ") {
            length = rest.trim().parse().unwrap();
        }
        line.clear();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let body = serde_json::from_slice(&body).unwrap();
    posts.lock().unwrap().push((path, credential, body));
    let head = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
}

/// A signature by an independent implementation.
fn signature(key: &str, text: &str, how: &str) -> String {
    let program = "import sys,hmac,hashlib,base64\nkey=sys.argv[1]\nkey=base64.b64decode(key[6:]) if key.startswith('whsec_') else key.encode()\nmac=hmac.new(key,sys.stdin.buffer.read(),hashlib.sha256)\nprint(mac.hexdigest() if sys.argv[2]=='hex' else base64.b64encode(mac.digest()).decode())";
    let mut child = Command::new("python3")
        .args(["-c", program, key, how])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let out = child.wait_with_output().unwrap();
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

fn deliver(house: &House, hook: &str, headers: &[(&str, &str)], body: &Value) -> (u16, Value) {
    let request = house.operator_api("POST", &format!("/hooks/{hook}"));
    request.headers(headers).text(&body.to_string()).send()
}

fn from_forge(house: &House, event: &str, key: &str, body: &Value) -> (u16, Value) {
    let signature = format!("sha256={}", signature(key, &body.to_string(), "hex"));
    let headers = [
        ("x-github-event", event),
        ("x-hub-signature-256", signature.as_str()),
    ];
    deliver(house, "forge", &headers, body)
}

fn standard(house: &House, hook: &str, id: &str, body: &Value) -> (u16, Value) {
    let key = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let now = std::time::SystemTime::now();
    let now = now.duration_since(std::time::UNIX_EPOCH).unwrap();
    let now = now.as_secs().to_string();
    let signature = signature(key, &format!("{id}.{now}.{body}"), "base64");
    let signature = format!("v1,{signature}");
    let headers = [
        ("webhook-id", id),
        ("webhook-timestamp", now.as_str()),
        ("webhook-signature", signature.as_str()),
    ];
    deliver(house, hook, &headers, body)
}

fn up(forge: u16) -> House {
    let house = house();
    house.manifest(&with_model(&format!(
        "  a: {{ template: orchestrator }}
  b: {{ template: sysadmin, reports_to: a }}
hooks:
  forge: {{ kind: github, secret: \"file:forge.key\", agent: a, api: \"http://127.0.0.1:{forge}/api/v1/\", token: \"file:forge.token\" }}
  pushed: {{ kind: standard, secret: \"file:other.key\", workflow: look }}
  told: {{ kind: standard, secret: \"file:other.key\", event: news }}
  deploy: {{ kind: github, secret: \"file:forge.key\", workflow: look }}
  chosen: {{ kind: github, secret: \"file:forge.key\", workflow: look, on: [push, release.published] }}
workflows:
  look: {{ input: {{ payload: {{ type: object }} }}, steps: {{ see: {{ skill: system-stats, agent: b }}, think: {{ task: Say what came., agent: a, with: {{ it: $input.payload }} }} }} }}
  late: {{ steps: {{ wait: {{ event: news, within: 1h }} }} }}
"
    )));
    for (name, text) in [
        ("forge.key", "It's a Secret to Everybody"),
        ("forge.token", "token-of-the-forge"),
        ("other.key", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
    ] {
        std::fs::write(house.path(name), text).unwrap();
    }
    house.expect(0, "up");
    house.wait_for_model();
    house
}

#[test]
fn a_forge_issue_becomes_one_task_and_its_outcome_is_posted_back() {
    // The first report meets a forge that is not well, and comes again.
    let (port, posts) = forge(VecDeque::from([503]));
    let house = up(port);
    let key = "It's a Secret to Everybody";
    let title = "run: show system stats";
    let pull = json!({ "action": "opened", "number": 7, "repository": { "full_name": "monks/bread" },
        "pull_request": { "number": 7, "title": title, "body": "`id`; $(id)", "html_url": "https://git.example.org/monks/bread/pulls/7",
            "user": { "login": "baker" }, "head": { "sha": "0123456789abcdef0123456789abcdef01234567" } } });

    let (status, told) = from_forge(&house, "pull_request", "another key", &pull);
    assert_eq!(status, 401, "{told}");
    let (status, _) = deliver(&house, "forge", &[], &pull);
    assert_eq!(status, 401);
    let (status, told) = deliver(&house, "none", &[], &pull);
    assert_eq!(status, 404, "{told}");
    assert_eq!(house.json(0, "task list")["tasks"], json!([]));

    house.script_model(&json!([{ "text": "It is good bread." }]));
    let (status, made) = from_forge(&house, "pull_request", key, &pull);
    assert_eq!((status, &made["new"]), (202, &Value::Bool(true)), "{made}");
    let task = made["task"].as_str().unwrap();
    let (status, again) = from_forge(&house, "pull_request", key, &pull);
    assert_eq!((status, &again["new"]), (202, &Value::Bool(false)));
    assert_eq!(again["task"], task);
    let (status, heard) = from_forge(&house, "push", key, &json!({ "ref": "refs/heads/main" }));
    assert_eq!((status, &heard["heard"]), (202, &Value::Bool(true)));
    let why = heard["ignored"].as_str().unwrap();
    assert!(why.contains("`pull_request` (opened"), "{why}");

    until("the comment and the status are there", || {
        posts.lock().unwrap().len() >= 3
    });
    let shown = house.json(0, args!("task show {}", task));
    let shown = &shown["task"];
    assert_eq!(shown["link"]["data"]["title"], title, "words are data");
    assert!(shown["skill"].is_null(), "no word of it was matched");
    assert_eq!(shown["assignee"], "a");
    let posts = posts.lock().unwrap().clone();
    let [refused, comment, status] = &posts[..] else {
        panic!("{posts:?}");
    };
    assert_eq!(refused.2, comment.2);
    assert_eq!(comment.0, "/api/v1/repos/monks/bread/issues/7/comments");
    assert_eq!(comment.1, "token token-of-the-forge");
    let text = comment.2["body"].as_str().unwrap();
    assert!(text.contains("It is good bread."), "{text}");
    assert_eq!(
        status.0,
        "/api/v1/repos/monks/bread/statuses/0123456789abcdef0123456789abcdef01234567"
    );
    assert_eq!(status.2["state"], "success");
    for secret in ["token-of-the-forge", "a Secret to Everybody"] {
        assert!(!house.control_plane_log().contains(secret));
    }
}

#[test]
fn a_ping_of_a_forge_starts_nothing() {
    let house = up(1);
    let body = json!({ "zen": "Keep it logically awesome.", "hook_id": 7 });
    let send = |event: &str| {
        let signature = signature("It's a Secret to Everybody", &body.to_string(), "hex");
        let signature = format!("sha256={signature}");
        let headers = [
            ("x-github-event", event),
            ("x-hub-signature-256", &signature),
        ];
        deliver(&house, "deploy", &headers, &body)
    };
    let (status, told) = send("ping");
    assert_eq!((status, &told["heard"]), (202, &json!(true)), "{told}");
    assert!(told["run"].is_null(), "{told}");
    let (status, told) = send("push");
    assert_eq!((status, &told["run"]), (202, &json!("WF-1")), "{told}");
}

#[test]
fn a_hook_starts_only_on_the_events_that_it_names() {
    let house = up(1);
    let send = |event: &str, body: &Value| {
        let signature = signature("It's a Secret to Everybody", &body.to_string(), "hex");
        let signature = format!("sha256={signature}");
        let headers = [
            ("x-github-event", event),
            ("x-hub-signature-256", &signature),
        ];
        let (status, told) = deliver(&house, "chosen", &headers, body);
        assert_eq!(status, 202, "{told}");
        told
    };
    for (event, body, starts) in [
        ("star", json!({ "action": "created" }), false),
        ("release", json!({ "action": "deleted" }), false),
        ("release", json!({ "action": "published" }), true),
        ("push", json!({ "ref": "refs/heads/main" }), true),
        ("push.published", json!({}), false),
        ("", json!({ "action": "push" }), false),
    ] {
        let told = send(event, &body);
        assert_eq!(told["run"].is_string(), starts, "{event} {body}: {told}");
        let ignored = told["ignored"].as_str().unwrap_or_default();
        assert_eq!(ignored.contains("`on` of the hook"), !starts, "{told}");
    }
    for (hook, part) in [
        (
            "kind: github, secret: 'env:X', event: e, on: []",
            "`on` names no event",
        ),
        (
            "kind: standard, secret: 'env:X', event: e, on: [push]",
            "only for hooks of kind",
        ),
        (
            "kind: github, secret: 'env:X', event: e, on: ['a b']",
            "is not the name of an event",
        ),
    ] {
        house.manifest(&format!(
            "house: h\nagents: {{ a: {{}} }}\nhooks: {{ x: {{ {hook} }} }}\n"
        ));
        let refused = house.expect_refusal(2, "plan");
        assert!(refused.contains(part), "{refused}");
    }
}

#[test]
fn a_hook_delivery_starts_a_workflow_under_one_trace() {
    let (port, _) = forge(VecDeque::new());
    let house = up(port);
    let body = json!({ "bread": "rye" });
    let (status, made) = standard(&house, "pushed", "msg_1", &body);
    assert_eq!(status, 202, "{made}");
    let (_, again) = standard(&house, "pushed", "msg_1", &body);
    assert_eq!(made, again);
    let run = made["run"].as_str().unwrap().to_owned();
    until("it is done", || {
        house.json(0, args!("workflow show {}", run))["run"]["state"] == "done"
    });
    let shown = house.json(0, args!("workflow show {}", run));
    assert_eq!(shown["run"]["input"]["payload"], body);
    let trace = shown["run"]["trace"].as_str().unwrap();
    assert!(trace.len() == 32 && trace.bytes().all(|b| b.is_ascii_hexdigit()));
    let tasks = house.json(0, "task list");
    let tasks = tasks["tasks"].as_array().unwrap();
    assert_eq!(tasks.len(), 2);
    assert!(tasks.iter().all(|t| t["trace"] == trace), "{tasks:?}");
    // The provider gets the same one.
    let sent = house.model_request("/traceparent", None);
    assert!(sent.to_string().contains(&format!("00-{trace}-")), "{sent}");
    let other = house.json(0, "task add 'show system stats' --wait");
    assert_ne!(other["task"]["trace"], trace);

    let waiting = house.json(0, "workflow run late");
    let waiting = waiting["run"]["id"].as_str().unwrap();
    let (status, heard) = standard(&house, "told", "msg_2", &json!({ "n": 1 }));
    assert_eq!((status, &heard["told"]), (202, &json!([waiting])));
    until("it is done", || {
        house.json(0, args!("workflow show {}", waiting))["run"]["state"] == "done"
    });
}

/// Hooks of OpenClaw: their fields and status codes, their own credential, and payloads are data.
#[test]
fn openclaw_hooks_keep_their_status_codes_and_treat_payloads_as_data() {
    let house = house();
    house.manifest(&with_model(
        "  a: { template: orchestrator }
  b: { template: sysadmin, reports_to: a }
  c: { template: worker, reports_to: a }
hooks:
  claw: { kind: openclaw, secret: \"file:claw.key\", agent: a, agents: [b] }
",
    ));
    std::fs::write(house.path("claw.key"), "a-long-credential-of-hooks").unwrap();
    house.expect(0, "up");
    house.wait_for_model();
    let bearer = [("authorization", "Bearer a-long-credential-of-hooks")];
    let call = |path: &str, headers: &[(&str, &str)], body: &str| {
        let request = house.operator_api("POST", path);
        request.headers(headers).text(body).send()
    };
    let message = r#"{"message":"run: show system stats; `id` \"quoted\"","name":"Mail","deliver":false,"model":"x","timeoutSeconds":60}"#;
    for (path, headers, body, status) in [
        ("/hooks/agent", &[][..], message, 401),
        (
            "/hooks/agent",
            &[("authorization", "Bearer wrong")][..],
            message,
            401,
        ),
        (
            "/hooks/agent?token=a-long-credential-of-hooks",
            &bearer[..],
            message,
            400,
        ),
        ("/hooks/agent", &bearer[..], "{}", 400),
        ("/hooks/agent", &bearer[..], "{\"message\":\"  \"}", 400),
        ("/hooks/agent", &bearer[..], "not json", 400),
        (
            "/hooks/agent",
            &bearer[..],
            r#"{"message":"x","agentId":"c"}"#,
            400,
        ),
        ("/hooks/wake", &bearer[..], "{}", 400),
    ] {
        let (got, told) = call(path, headers, body);
        assert_eq!(
            (got, &told["ok"]),
            (status, &Value::Bool(false)),
            "{path} {body}: {told}"
        );
    }
    let large = format!("{{\"message\":\"{}\"}}", "x".repeat(300 << 10));
    assert_eq!(call("/hooks/agent", &bearer, &large).0, 413);
    assert_eq!(house.json(0, "task list")["tasks"], json!([]));
    let keyed = [bearer[0], ("idempotency-key", "mail-1")];
    let (status, taken) = call("/hooks/agent", &keyed, message);
    assert_eq!((status, &taken["ok"]), (202, &Value::Bool(true)), "{taken}");
    assert_eq!(taken["ignored"], json!(["deliver", "model"]));
    assert_eq!(
        call("/hooks/agent", &keyed, message).1["runId"],
        taken["runId"]
    );
    let task = taken["runId"].as_str().unwrap();
    house.wait_for_task(task, TaskState::Done);
    let shown = &house.json(0, args!("task show {}", task))["task"];
    assert!(
        shown["skill"].is_null(),
        "no word of it was matched: {shown}"
    );
    assert!(
        shown["link"]["data"]["message"]
            .as_str()
            .unwrap()
            .contains("\"quoted\"")
    );
    assert_eq!(
        (&shown["priority"], &shown["assignee"]),
        (&json!("P1"), &json!("a"))
    );
    let (status, named) = call(
        "/hooks/agent",
        &[("x-openclaw-token", "a-long-credential-of-hooks")],
        r#"{"message":"x","agentId":"b"}"#,
    );
    assert_eq!(status, 202, "{named}");
    // What is not understood is named, and the spelling of the scheme does not matter.
    let (status, taken) = call(
        "/hooks/agent",
        &[("authorization", "bearer a-long-credential-of-hooks")],
        r#"{"message":"x","to":"room","sessionKey":"s","wakeMode":"now","timeoutSeconds":0,"new":1,"channel":null}"#,
    );
    assert_eq!(
        (status, &taken["ignored"]),
        (202, &json!(["new", "sessionKey", "timeoutSeconds", "to"])),
        "{taken}"
    );
    // Its results are read with the credential of the hook, and only they are.
    let read = |task: &str, headers: &[(&str, &str)]| {
        let request = house.operator_api("GET", &format!("/hooks/agent/tasks/{task}"));
        request.headers(headers).send()
    };
    let (status, result) = read(task, &bearer);
    assert_eq!(
        (status, &result["state"], &result["ended"]),
        (200, &json!("done"), &json!(true)),
        "{result}"
    );
    assert!(result["result"]["text"].is_string(), "{result}");
    let mine = house.json(0, "task add 'show system stats' --to b");
    let mine = mine["task"]["number"].as_str().unwrap();
    assert_eq!(read(mine, &bearer).0, 404);
    assert_eq!(read("TASK-999", &bearer).0, 404);
    assert_eq!(read(task, &[("authorization", "Bearer wrong")]).0, 401);
    assert_eq!(read(task, &[]).0, 401);
    let (status, woken) = call(
        "/hooks/wake",
        &bearer,
        r#"{"text":"mail came","mode":"next-heartbeat"}"#,
    );
    assert_eq!(
        (status, &woken["ignored"]),
        (200, &json!(["mode"])),
        "{woken}"
    );
    // Whoever has the credential cannot flood the house.
    let flooded = (0..2000).any(|_| call("/hooks/agent", &keyed, message).0 == 429);
    assert!(flooded);
    // Where its holder is trusted, a message is work like any other: a skill answers, and no model is asked.
    let manifest = std::fs::read_to_string(house.path("abbey.yaml")).unwrap();
    let manifest = manifest.replace("kind: openclaw,", "kind: openclaw, trusted: true,");
    let manifest = manifest.replace("  claw:", "  claws:");
    std::fs::write(house.path("abbey.yaml"), manifest).unwrap();
    house.expect(0, "up");
    let (_, taken) = call(
        "/hooks/agent",
        &bearer,
        r#"{"message":"show system stats","agentId":"b"}"#,
    );
    let task = taken["runId"].as_str().unwrap();
    until("it is done", || {
        house.json(0, args!("task show {}", task))["task"]["skill"] == "system-stats"
    });
}

/// The head of a delivery of 1.9 MB with these headers, and the beginning of its body.
fn begin_delivery(address: &str, hook: &str, headers: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!(
        "POST /hooks/{hook} HTTP/1.1\r\nhost: x\r\ncontent-length: 1900000\r\n{headers}\r\n{{\"a\": \""
    );
    // A refusal may come before the end of this.
    let _refused = stream.write_all(head.as_bytes());
    stream
}

fn status_line(stream: TcpStream) -> String {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line.trim().to_owned()
}

/// Whoever has no secret is refused before a body is read, and bodies that never end hold up nobody.
#[test]
fn unfinished_deliveries_hold_up_nobody() {
    let (port, _posts) = forge(VecDeque::new());
    let house = up(port);
    let announced = std::fs::read_to_string(house.home().join("run/serve.json")).unwrap();
    let announced: Value = serde_json::from_str(&announced).unwrap();
    let address = announced["address"].as_str().unwrap();
    let unknown = begin_delivery(address, "nobody", "");
    assert_eq!(status_line(unknown), "HTTP/1.1 404 Not Found");
    let unsigned = begin_delivery(address, "forge", "");
    assert_eq!(status_line(unsigned), "HTTP/1.1 401 Unauthorized");
    let forged = "x-hub-signature-256: sha256=00\r\n";
    let open: Vec<TcpStream> = (0..300)
        .map(|_| begin_delivery(address, "forge", forged))
        .collect();
    until("the house answers meanwhile", || {
        let (status, _) = house.operator_api("GET", "/healthz").send();
        status == 200
    });
    // They keep no place from a delivery that is whole.
    for n in 0..20 {
        let _another = begin_delivery(address, "forge", forged);
        let issue = json!({ "zen": "Keep it logically awesome.", "n": n });
        let (status, told) = from_forge(&house, "ping", "It's a Secret to Everybody", &issue);
        assert_eq!(status, 202, "{told}");
    }
    let mut refused: BTreeMap<String, usize> = BTreeMap::new();
    for stream in open {
        *refused.entry(status_line(stream)).or_default() += 1;
    }
    let late = refused["HTTP/1.1 408 Request Timeout"];
    let busy = refused["HTTP/1.1 503 Service Unavailable"];
    assert!(late <= 16 && late + busy == 300, "{refused:?}");
}

/// GitHub, Gitea and Forgejo send a form where the hook was set up so; a workflow needs no `payload`.
#[test]
fn a_delivery_as_a_form_is_taken_by_its_signature() {
    let house = house();
    house.manifest(&with_model(
        "  a: { template: orchestrator }
  b: { template: sysadmin, reports_to: a }
hooks:
  forge: { kind: github, secret: \"file:forge.key\", agent: a }
  tea: { kind: gitea, secret: \"file:forge.key\", workflow: look }
  claw: { kind: openclaw, secret: \"file:claw.key\", agent: a, agents: [all, -b] }
workflows:
  look: { steps: { see: { skill: system-stats, agent: b } } }
",
    ));
    std::fs::write(house.path("forge.key"), "a key of the forge").unwrap();
    std::fs::write(house.path("claw.key"), "a-long-credential-of-hooks").unwrap();
    house.expect(0, "up");
    let issue = json!({ "action": "opened", "repository": { "full_name": "monks/bread" },
        "issue": { "number": 3, "title": "It creaks & sticks = 100 %", "body": "b", "user": { "login": "u" } } });
    let encoded: String = issue
        .to_string()
        .bytes()
        .map(|b| format!("%{b:02X}"))
        .collect();
    let form = format!("payload={encoded}");
    let deliver = |hook: &str, header: &str, signature: &str| {
        let headers = [
            ("content-type", "application/x-www-form-urlencoded"),
            ("x-github-event", "issues"),
            (header, signature),
        ];
        let request = house.operator_api("POST", &format!("/hooks/{hook}"));
        request.headers(&headers).text(&form).send()
    };
    let of_form = signature("a key of the forge", &form, "hex");
    let github = format!("sha256={of_form}");
    let (status, made) = deliver("forge", "x-hub-signature-256", &github);
    assert_eq!(status, 202, "{made}");
    let task = made["task"].as_str().unwrap();
    let shown = &house.json(0, args!("task show {}", task))["task"];
    assert_eq!(shown["link"]["data"]["title"], "It creaks & sticks = 100 %");
    assert!(
        shown["title"]
            .as_str()
            .unwrap()
            .contains("#3 of monks/bread")
    );
    let (_, again) = deliver("forge", "x-hub-signature-256", &github);
    assert_eq!(
        (&again["task"], &again["new"]),
        (&json!(task), &json!(false))
    );
    let other = format!("sha256={}", signature("another key", &form, "hex"));
    assert_eq!(deliver("forge", "x-hub-signature-256", &other).0, 401);
    // The secret of the hook is the credential for the result.
    let bearer = [("authorization", "bearer a key of the forge")];
    let request = house.operator_api("GET", &format!("/hooks/forge/tasks/{task}"));
    assert_eq!(request.headers(&bearer).send().0, 200);
    let request = house.operator_api("GET", &format!("/hooks/tea/tasks/{task}"));
    assert_eq!(request.headers(&bearer).send().0, 404);
    // Gitea and Forgejo sign the payload.
    let of_payload = signature("a key of the forge", &issue.to_string(), "hex");
    let (status, begun) = deliver("tea", "x-forgejo-signature", &of_payload);
    assert_eq!(status, 202, "{begun}");
    assert!(begun["run"].is_string(), "{begun}");
    let call = |body: &str| {
        let bearer = [("authorization", "Bearer a-long-credential-of-hooks")];
        let request = house.operator_api("POST", "/hooks/agent");
        request.headers(&bearer).text(body).send()
    };
    assert_eq!(call(r#"{"message":"x","agentId":"a"}"#).0, 202);
    assert_eq!(call(r#"{"message":"x","agentId":"b"}"#).0, 400);
    assert_eq!(call(r#"{"message":"x","agentId":"nobody"}"#).0, 400);
}

/// Whoever makes a hook of a name that was used before does not read what came by the earlier one.
#[test]
fn a_hook_that_was_made_again_shows_no_earlier_results() {
    let house = house();
    let agents = "  a: { template: orchestrator }\n";
    let hooks = "hooks:\n  claw: { kind: openclaw, secret: \"file:claw.key\", agent: a }\n";
    let apply = |hooks: &str| {
        house.manifest(&with_model(&format!("{agents}{hooks}")));
        house.expect(0, "up --yes");
    };
    let call = |method: &str, path: &str, key: &str| {
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str())];
        let request = house.operator_api(method, path).headers(&headers);
        match method {
            "POST" => request.text(r#"{"message":"x"}"#).send(),
            _ => request.send(),
        }
    };
    let keys = ["a-long-credential-of-hooks", "another-long-credential"];
    std::fs::write(house.path("claw.key"), keys[0]).unwrap();
    apply(hooks);
    assert_eq!(call("POST", "/hooks/agent", keys[0]).0, 202);
    let first = "/hooks/claw/tasks/TASK-1";
    assert_eq!(call("GET", first, keys[0]).0, 200);
    // The same hook with another secret is the same hook.
    std::fs::write(house.path("claw.key"), keys[1]).unwrap();
    apply(hooks);
    assert_eq!(call("GET", first, keys[1]).0, 200);
    apply("");
    apply(hooks);
    let (status, refused) = call("GET", first, keys[1]);
    assert_eq!(status, 404, "{refused}");
    assert_eq!(call("POST", "/hooks/agent", keys[1]).0, 202);
    assert_eq!(call("GET", "/hooks/claw/tasks/TASK-2", keys[1]).0, 200);
}
