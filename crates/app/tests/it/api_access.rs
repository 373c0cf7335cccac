//! Access to the operator API and the agent API: credentials, leases, ETags, refusals, events, TLS.

use crate::{TWO, up, with_model};
use abbey_api::Api;
use abbey_testkit::args;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

/// Every documented route, with values for the parameters of its path.
pub(crate) fn routes() -> Vec<(Api, String, String)> {
    let mut all = Vec::new();
    for api in [Api::Operator, Api::Agent] {
        let document: Value = serde_json::from_str(&abbey_daemon::openapi(api)).unwrap();
        for (path, item) in document["paths"].as_object().unwrap() {
            let path = path
                .replace("{agent}", "sysadmin")
                .replace("{task}", "1")
                .replace("{run}", "run_0")
                .replace("{service}", "x")
                .replace("{fact}", "disks");
            for method in item.as_object().unwrap().keys() {
                all.push((api, method.to_uppercase(), path.clone()));
            }
        }
    }
    all
}

#[test]
fn each_api_refuses_missing_credentials_and_those_of_the_other_api() {
    let house = up(TWO);
    let (operator, agent) = (house.operator_token(), house.agent_token("sysadmin"));
    assert_eq!(
        house.operator_api("GET", "/healthz").token("").send().0,
        200
    );
    for (api, method, path) in routes() {
        // The credential of a delivery is its signature; `hooks.rs` tests that. The agent API describes itself to anybody.
        if path == "/healthz"
            || path == "/api/v1/down"
            || path.starts_with("/hooks/")
            || path.starts_with("/api/controlplane/")
            || (api == Api::Agent && path == "/openapi.json")
        {
            continue;
        }
        let send = |method: &str, token: &str| match api {
            Api::Operator => house.operator_api(method, &path).token(token).send(),
            Api::Agent => house.agent_api(method, &path).token(token).send(),
        };
        let (right, other) = match api {
            Api::Operator => (&operator, &agent),
            Api::Agent => (&agent, &operator),
        };
        let (none, wrong) = (send(&method, "nonsense"), send(&method, other));
        assert_eq!((none.0, wrong.0), (401, 403), "{method} {path}");
        assert!(
            none.1["type"]
                .as_str()
                .unwrap()
                .starts_with("urn:abbey:problem:"),
            "{path}"
        );
        // With the right credential every documented route is there.
        if method == "GET" && !path.contains("next") && !path.contains("events") {
            let right = send("GET", right);
            assert!(
                right.0 == 200
                    || right.1["detail"]
                        .as_str()
                        .is_some_and(|d| !d.contains("no route")),
                "{path}: {right:?}"
            );
        }
    }
    for path in ["/api/v1/nodes", "/api/v1/channels"] {
        let (status, _) = house.operator_api("GET", path).token(&operator).send();
        assert_eq!(status, 501, "{path} is refused by name");
    }
    for path in [
        "/api/v1/self/memory",
        "/v1/responses",
        "/v1/embeddings",
        "/v1/messages",
    ] {
        let (status, _) = house.agent_api("GET", path).token(&agent).send();
        assert_eq!(status, 501, "{path} is refused by name");
    }
    assert_eq!(
        house
            .operator_api("GET", "/api/v1/nothing")
            .token(&operator)
            .send()
            .0,
        404
    );
}

#[test]
fn an_agent_acts_only_as_itself_and_under_its_own_lease() {
    // Nobody works here: the cells are stopped, and the test plays the agents.
    let house = up(TWO);
    house.expect(0, "stop --all");
    house.expect(0, "task add 'show system stats'");
    let (sysadmin, abbot) = (house.agent_token("sysadmin"), house.agent_token("abbot"));
    let (status, offer) = house
        .agent_api("GET", "/api/v1/self/next")
        .token(&sysadmin)
        .send();
    assert_eq!(
        (status, offer["skill"]["name"].as_str()),
        (200, Some("system-stats"))
    );
    let id = offer["task"].as_str().unwrap();
    // Not a candidate.
    assert_eq!(
        house
            .agent_api("POST", &format!("/api/v1/self/tasks/{id}/claim"))
            .token(&abbot)
            .json(&json!({}))
            .send()
            .0,
        403
    );
    // A claim from an older look is refused with the version now (S4-23).
    let (status, stale) = house
        .agent_api("POST", &format!("/api/v1/self/tasks/{id}/claim"))
        .token(&sysadmin)
        .json(&json!({ "revision": 1 }))
        .send();
    assert_eq!(
        (status, stale["current"].as_u64()),
        (409, offer["revision"].as_u64())
    );
    let (status, claim) = house
        .agent_api("POST", &format!("/api/v1/self/tasks/{id}/claim"))
        .token(&sysadmin)
        .json(&json!({ "revision": offer["revision"] }))
        .send();
    assert_eq!(status, 200);
    let token = claim["lease"]["token"].to_string();
    let complete = |who: &str, lease: &str| {
        let body = json!({ "text": "x", "source": "skill" });
        house
            .agent_api("POST", &format!("/api/v1/self/tasks/{id}/complete"))
            .token(who)
            .json(&body)
            .header("abbey-lease", lease)
            .send()
    };
    // Another agent with the right token, which is not told who holds the lease; the right agent with a wrong one, and none.
    let (status, told) = complete(&abbot, &token);
    assert_eq!((status, told["holder"].as_str()), (409, None));
    assert_eq!(complete(&sysadmin, "99").0, 409);
    assert_eq!(
        house
            .agent_api("POST", &format!("/api/v1/self/tasks/{id}/complete"))
            .token(&sysadmin)
            .json(&json!({ "text": "x", "source": "skill" }))
            .send()
            .0,
        422
    );
    // Facts are granted by the skill of a running task, and only those.
    assert_eq!(
        house
            .agent_api("POST", "/api/v1/self/facts/system")
            .token(&sysadmin)
            .json(&json!({}))
            .send()
            .0,
        200
    );
    assert_eq!(
        house
            .agent_api("POST", "/api/v1/self/facts/disks")
            .token(&sysadmin)
            .json(&json!({}))
            .send()
            .0,
        403
    );
    assert_eq!(
        house
            .agent_api("POST", "/api/v1/self/facts/system")
            .token(&abbot)
            .json(&json!({}))
            .send()
            .0,
        403
    );
    assert_eq!(complete(&sysadmin, &token).0, 200);
    // A second completion of the same right is refused.
    assert_eq!(complete(&sysadmin, &token).0, 409);
}

#[test]
fn bad_request_bodies_are_refused_with_a_reason_and_never_a_500() {
    let house = up(&with_model("  abbot: { template: orchestrator }\n"));
    let (operator, agent) = (house.operator_token(), house.agent_token("abbot"));
    let huge = "x".repeat(3 << 20);
    assert_eq!(
        house
            .operator_api("POST", "/api/v1/tasks")
            .token(&operator)
            .text(&huge)
            .send()
            .0,
        413
    );
    for body in [
        "",
        "[",
        "[]",
        "{\"text\":1}",
        "{\"text\":\"\"}",
        "{\"text\":\"x\",\"priority\":\"P7\"}",
        "{\"text\":\"x\",\"skill\":\"none\"}",
        "null",
        "\"\\u0000\"",
    ] {
        let (status, _) = house
            .operator_api("POST", "/api/v1/tasks")
            .token(&operator)
            .text(body)
            .send();
        assert!((400..500).contains(&status), "{body}: {status}");
    }
    for path in [
        "/api/v1/tasks/../x",
        "/api/v1/tasks/%00",
        "/api/v1/agents/'; DROP",
        "/api/v1/tasks?limit=x",
        "/api/v1/tasks?state=none",
        "/api/v1/runs/run_zz",
    ] {
        let (status, _) = house
            .operator_api("GET", &path.replace(' ', "%20"))
            .token(&operator)
            .send();
        assert!((400..500).contains(&status), "{path}: {status}");
    }
    // The gateway: no run, a foreign model, no messages.
    let call =
        |model: &str| json!({ "model": model, "messages": [{ "role": "user", "content": "x" }] });
    assert_eq!(
        house
            .agent_api("POST", "/v1/chat/completions")
            .token(&agent)
            .json(&call("scripted/scripted-1"))
            .send()
            .0,
        403,
        "no valid lease"
    );
    assert_eq!(
        house
            .agent_api("POST", "/v1/chat/completions")
            .token(&agent)
            .json(&call("other/model"))
            .send()
            .0,
        403
    );
    assert_eq!(
        house
            .agent_api("POST", "/v1/chat/completions")
            .token(&agent)
            .json(&json!({ "model": "scripted-1" }))
            .send()
            .0,
        400
    );
    assert_eq!(
        house.agent_api("GET", "/v1/models").token(&agent).send().1["data"][0]["id"],
        "scripted/scripted-1"
    );
    assert!(house.json(0, "activity verify")["ok"].as_bool().unwrap());
}

#[test]
fn rotated_credentials_overlap_and_stale_etags_are_refused() {
    let house = up(TWO);
    let old = house.agent_token("sysadmin");
    house.expect(0, "agent rotate sysadmin");
    let new = house.agent_token("sysadmin");
    assert_ne!(old, new);
    assert_eq!(
        house.agent_api("GET", "/api/v1/self").token(&new).send().0,
        200
    );
    assert_eq!(
        house.agent_api("GET", "/api/v1/self").token(&old).send().0,
        200,
        "the old one ends after an overlap"
    );
    let operator = house.operator_token();
    house.json(8, "task add think --wait");
    let (status, told) = house
        .operator_api("POST", "/api/v1/tasks/1/cancel")
        .token(&operator)
        .header("if-match", "\"1\"")
        .send();
    assert_eq!(status, 412);
    let current = told["current"].as_u64().unwrap();
    assert_eq!(
        house
            .operator_api("POST", "/api/v1/tasks/1/cancel")
            .token(&operator)
            .header("if-match", &format!("\"{current}\""))
            .send()
            .0,
        200
    );
    let (_, manifest) = house
        .operator_api("GET", "/api/v1/generations/current")
        .token(&operator)
        .send();
    let body = json!({ "manifest": manifest["manifest"], "base_dir": manifest["base_dir"] });
    assert_eq!(
        house
            .operator_api("POST", "/api/v1/generations")
            .token(&operator)
            .json(&body)
            .header("if-match", "\"7\"")
            .send()
            .0,
        412
    );
}

#[test]
fn secrets_appear_only_in_their_own_files() {
    let house = crate::house();
    let canary = "canary-8d1f0a7be2-secret";
    std::fs::write(house.path("provider.key"), canary).unwrap();
    let manifest = with_model("  abbot: { template: orchestrator }\n")
        .replace("service: model,", "service: model, key: file:provider.key,");
    house.manifest(&manifest);
    house.expect(0, "up");
    let token = house.agent_token("abbot");
    // A careless operator and a careless agent.
    house.expect(
        0,
        args!(
            "task add {} --wait",
            format!("remember {canary} and {}", token.trim())
        ),
    );
    house
        .agent_api("POST", "/api/v1/self/activity")
        .token(&token)
        .json(&json!({ "text": format!("note {canary}") }))
        .send();
    house.expect(0, "exec abbot -- sh -c 'echo done'");
    let backup = house.path("b.tar");
    house.expect(0, args!("backup {}", backup.display().to_string()));
    let shown = [
        house.expect(0, "activity export"),
        house.expect(0, "logs abbot"),
        house.control_plane_log(),
        house.expect(0, "agent show abbot --effective"),
    ]
    .join("\n");
    for secret in [canary, token.trim(), house.operator_token().trim()] {
        assert!(!shown.contains(secret), "a secret is shown");
        let session =
            std::fs::read_to_string(house.home().join("agents/abbot/home/session.jsonl")).unwrap();
        assert!(!session.contains(secret), "a secret is in the session");
        // The journal holds what the file does not hold yet.
        let files = [
            backup.clone(),
            house.home().join("abbey.db"),
            house.home().join("abbey.db-wal"),
        ];
        for file in files {
            let bytes = std::fs::read(&file).unwrap();
            let found = bytes.windows(secret.len()).any(|w| w == secret.as_bytes());
            assert!(!found, "a secret is in {}", file.display());
        }
    }
    // Arguments and environments of every process of this house.
    let home = house.home().display().to_string();
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(argv) = std::fs::read(process.path().join("cmdline")) else {
            continue;
        };
        let argv = String::from_utf8_lossy(&argv).into_owned();
        if argv.contains(&home) || argv.contains("role\0") {
            assert!(
                !argv.contains(canary) && !argv.contains(token.trim()),
                "{argv}"
            );
        }
    }
}

#[test]
fn event_stream_resumes_after_the_last_event_id() {
    let house = up(TWO);
    let operator = house.operator_token();
    let head = house.json(0, "activity verify")["entries"]
        .as_u64()
        .unwrap();
    let mut stream = UnixStream::connect(house.home().join("run/operator.sock")).unwrap();
    let request = format!(
        "GET /api/v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {operator}\r\nlast-event-id: {}\r\n\r\n",
        head - 2
    );
    stream.write_all(request.as_bytes()).unwrap();
    stream
        .set_read_timeout(Some(abbey_testkit::house::WITHIN))
        .unwrap();
    house.expect(0, "task add 'show system stats'");
    let mut text = String::new();
    let mut buffer = [0u8; 4096];
    while !text.contains(&format!("id: {}", head + 1)) {
        let n = stream.read(&mut buffer).expect("events arrive");
        text.push_str(&String::from_utf8_lossy(&buffer[..n]));
    }
    let ids: Vec<u64> = text
        .lines()
        .filter_map(|l| l.strip_prefix("id: ")?.trim().parse().ok())
        .collect();
    assert_eq!(
        ids[..3],
        [head - 1, head, head + 1],
        "nothing is missed and nothing comes twice"
    );
}

#[test]
fn operator_api_serves_tls_when_the_manifest_says_so() {
    let house = crate::house();
    let made = std::process::Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
            "-keyout",
            "key.pem",
            "-out",
            "cert.pem",
        ])
        .current_dir(house.path(""))
        .output()
        .unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let path = house.manifest(TWO);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(
        &path,
        text.replace(
            "address: 127.0.0.1:0",
            "address: 127.0.0.1:0, tls_certificate: cert.pem, tls_key: key.pem",
        ),
    )
    .unwrap();
    // What is missing is missed by the plan.
    let (key, away) = (house.path("key.pem"), house.path("away.pem"));
    std::fs::rename(&key, &away).unwrap();
    let planned = house.expect(4, "plan");
    assert!(
        planned.contains("the key `key.pem` cannot be read"),
        "{planned}"
    );
    let _same = house.expect_refusal(4, "up");
    std::fs::rename(&away, &key).unwrap();
    // The control plane is an ordinary user: hostd reads a key that is root's alone, also at the next start.
    assert_eq!(
        std::fs::metadata(&key).unwrap().permissions().mode() & 0o077,
        0
    );
    house.expect(0, "up");
    house.expect(0, "down");
    house.expect(0, "up");
    let doc = house.expect(0, "ps --json");
    assert!(doc.contains("ready"), "the operator's socket needs no TLS");
    let announced: Value =
        serde_json::from_slice(&std::fs::read(house.home().join("run/serve.json")).unwrap())
            .unwrap();
    assert_eq!(announced["tls"], true);
    let port = announced["address"]
        .as_str()
        .unwrap()
        .rsplit(':')
        .next()
        .unwrap()
        .to_owned();
    let curl = |url: &str| {
        let output = std::process::Command::new("curl")
            .args([
                "-s",
                "--cacert",
                &house.path("cert.pem").display().to_string(),
                "-H",
                &format!("authorization: Bearer {}", house.operator_token()),
                url,
            ])
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(curl(&format!("https://localhost:{port}/api/v1/house")).contains("\"house\":\"two\""));
    assert_eq!(
        curl(&format!("http://localhost:{port}/api/v1/house")),
        "",
        "no plain answer on a TLS door"
    );
}

#[test]
fn a_blocked_task_names_the_command_that_unblocks_it() {
    let house = up(TWO);
    house.expect(0, "stop --all");
    house.expect(0, "task add 'show system stats' --to sysadmin");
    let sysadmin = house.agent_token("sysadmin");
    let (_, offer) = house
        .agent_api("GET", "/api/v1/self/next")
        .token(&sysadmin)
        .send();
    let id = offer["task"].as_str().unwrap();
    let (status, claim) = house
        .agent_api("POST", &format!("/api/v1/self/tasks/{id}/claim"))
        .token(&sysadmin)
        .json(&json!({ "revision": offer["revision"] }))
        .send();
    assert_eq!(status, 200, "{claim}");
    let (status, blocked) = house
        .agent_api("POST", &format!("/api/v1/self/tasks/{id}/block"))
        .token(&sysadmin)
        .header("abbey-lease", &claim["lease"]["token"].to_string())
        .json(&json!({ "on": "the operator", "why": "plug in the disk" }))
        .send();
    assert_eq!(status, 200, "{blocked}");
    let why = house.expect(0, "task why TASK-1");
    assert!(
        why.contains("plug in the disk; then `abbey task unblock TASK-1`"),
        "{why}"
    );
    house.expect(0, "task unblock TASK-1");
    let state = house.task("TASK-1").state;
    assert_eq!(state, abbey_model::TaskState::Ready);
    house.expect_refusal(4, "task unblock TASK-1");
    house.expect_refusal(3, "task unblock TASK-99");
}

#[test]
fn tokens_that_a_runtime_counted_are_shown_where_they_differ_from_those_metered() {
    let house = up(TWO);
    house.expect(0, "stop --all");
    house.expect(0, "task add 'show system stats' --to sysadmin");
    let sysadmin = house.agent_token("sysadmin");
    let send = |method: &str, path: &str| house.agent_api(method, path).token(&sysadmin);
    let (_, offer) = send("GET", "/api/v1/self/next").send();
    let task = format!("/api/v1/self/tasks/{}", offer["task"].as_str().unwrap());
    let (status, claim) = send("POST", &format!("{task}/claim"))
        .json(&json!({ "revision": offer["revision"] }))
        .send();
    assert_eq!(status, 200, "{claim}");
    let lease = claim["lease"]["token"].to_string();
    let report = |facts: Value| {
        send("POST", &format!("{task}/renew"))
            .header("abbey-lease", &lease)
            .json(&json!({ "facts": facts }))
            .send()
    };
    let counted = json!({ "input": 70, "output": 7, "cached": 0 });
    let (status, renewed) = report(json!({ "reported_usage": counted }));
    assert_eq!(status, 200, "{renewed}");
    // A report without the count leaves it as it was; numbers that are none are refused.
    assert_eq!(report(json!({ "receipts": 1 })).0, 200);
    for odd in [
        json!({ "input": -1, "output": 0, "cached": 0 }),
        json!({}),
        json!("70"),
    ] {
        assert_eq!(report(json!({ "reported_usage": odd })).0, 422, "{odd}");
    }
    let shown = house.expect(0, "task show TASK-1");
    assert!(shown.contains("(the runtime counted 70 + 7)"), "{shown}");
}

/// A caller with a credential, whose body stops to arrive, does not keep its place.
#[test]
fn a_body_that_makes_no_progress_ends_with_408() {
    let house = up(TWO);
    let token = house.operator_token();
    let begin = |socket: std::path::PathBuf, path: &str, begun: &str| {
        let mut stream = UnixStream::connect(socket).unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: abbey\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{begun}"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    let socket = house.home().join("run/operator.sock");
    let slow = [
        begin(socket.clone(), "/api/v1/tasks", "{\"text\""),
        begin(socket.clone(), "/api/v1/generations", ""),
        begin(socket, "/api/v1/agents/a/exec", "{"),
    ];
    for mut stream in slow {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }
    // What takes long on an upgraded connection is no body.
    house.expect(
        0,
        args!("exec sysadmin -- sh -c {}", "cat >/dev/null; echo read"),
    );
}
