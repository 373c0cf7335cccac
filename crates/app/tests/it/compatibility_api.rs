//! Compatibility routes of an older control plane: their fields and status codes over the same state, and a shared secret
//! that is valid for nothing else (S4-03, S4-04).

use crate::up;
use serde_json::{Value, json};

const HOUSE: &str = "house: old
defaults: { cell: process }
budget: { tokens_per_day: 1000 }
agents:
  top: { template: orchestrator, budget: { share: 80% } }
  ops: { template: sysadmin, role: sysadmin, reports_to: top, budget: { share: 20% }, wake: { every: 24h } }
";

#[test]
fn compatibility_routes_keep_their_fields_and_status_codes() {
    let house = up(HOUSE);
    house.expect(0, "stop --all");
    let operator = house.operator_token();
    let get = |path: &str| house.operator_api("GET", path).token(&operator).send();
    let post = |path: &str, body: Value| {
        house
            .operator_api("POST", path)
            .token(&operator)
            .json(&body)
            .send()
    };
    let (status, state) = get("/api/controlplane/state");
    assert_eq!(status, 200);
    let ops = state["agents"]
        .as_array()
        .unwrap()
        .iter()
        .find(|a| a["id"] == "ops")
        .unwrap();
    assert_eq!(
        (&ops["role"], &ops["heartbeat_enabled"]),
        (&json!("sysadmin"), &json!(true))
    );
    assert_eq!(
        state["budget"],
        json!({ "daily_tokens": 1000, "spent_today": 0, "remaining": 1000, "hard_limit_exceeded": false, "allocation": { "top": 800, "ops": 200 } })
    );
    let body = json!({ "title": "show system stats", "assigned_to": "sysadmin", "priority": "high", "context": { "ticket": 7 } });
    let (status, made) = post("/api/controlplane/tasks", body.clone());
    assert_eq!(status, 201, "{made}");
    assert_eq!(
        (&made["task_id"], &made["status"], &made["assigned_to"]),
        (&json!("TASK-001"), &json!("pending"), &json!("ops"))
    );
    assert_eq!(made["context"], json!({ "ticket": 7 }));
    let keyed = |key: &str| {
        let headers = [("idempotency-key", key)];
        house
            .operator_api("POST", "/api/controlplane/tasks")
            .token(&operator)
            .json(&body)
            .headers(&headers)
            .send()
    };
    assert_eq!((keyed("k").0, keyed("k").0), (201, 200));
    for (wrong, why) in [
        (json!({ "title": "x" }), "`assigned_to` is missing"),
        (
            json!({ "title": "x", "agent_id": "ops" }),
            "use `assigned_to`",
        ),
        (
            json!({ "title": " ", "assigned_to": "ops" }),
            "`title` must not be empty",
        ),
    ] {
        let (status, told) = post("/api/controlplane/tasks", wrong);
        assert_eq!(status, 422, "{told}");
        assert!(told["detail"].as_str().unwrap().contains(why), "{told}");
    }
    assert_eq!(
        post(
            "/api/controlplane/tasks",
            json!({ "title": "x", "assigned_to": "nobody" })
        )
        .0,
        404
    );
    let (_, list) = get("/api/controlplane/tasks?role=sysadmin");
    assert_eq!(list["tasks"].as_array().unwrap().len(), 2);
    assert_eq!(
        get("/api/controlplane/tasks?role=top").1["tasks"],
        json!([])
    );
    // A yes is asked for by whoever holds the task, and waits in the one inbox.
    let agent = house.agent_token("ops");
    let (_, claim) = house
        .agent_api("POST", "/api/v1/self/tasks/TASK-1/claim")
        .token(&agent)
        .json(&json!({}))
        .send();
    let lease = claim["lease"]["token"].to_string();
    let ask = json!({ "event": "approval_request", "task_id": "TASK-001", "operation": "restart", "arguments": { "cell": "db" }, "reason": "it hangs" });
    let refused = post("/api/controlplane/activity", ask.clone());
    assert_eq!(refused.0, 403, "{refused:?}");
    let headers = [("abbey-lease", lease.as_str())];
    let asked = house
        .operator_api("POST", "/api/controlplane/activity")
        .token(&agent)
        .json(&ask)
        .headers(&headers)
        .send();
    assert_eq!(asked.0, 201, "{asked:?}");
    let (_, pending) = get("/api/controlplane/approvals?agent_id=ops");
    let one = &pending["pending"][0];
    assert_eq!(
        (&one["approval_id"], &one["task_id"], &one["operation"]),
        (&json!("APPR-001"), &json!("TASK-001"), &json!("restart"))
    );
    assert_eq!(
        get("/api/controlplane/approvals?agent_id=top").1["pending"],
        json!([])
    );
    let (status, _) = post(
        "/api/controlplane/activity",
        json!({ "event": "note", "text": "seen" }),
    );
    assert_eq!(status, 201);
    // An agent sees its own queue only, and gives no work here.
    let seen = house
        .operator_api("GET", "/api/controlplane/tasks?role=ops")
        .token(&house.agent_token("top"))
        .send();
    assert_eq!(seen.1["tasks"], json!([]));
    let given = house
        .operator_api("POST", "/api/controlplane/tasks")
        .token(&agent)
        .json(&body)
        .send();
    assert_eq!(given.0, 403);
    // Privileged operations: who may is said, and what one would do; an agent only within its work.
    let (status, all) = get("/api/controlplane/hostd");
    assert_eq!(status, 200);
    let restart = json!({ "operation": "cell-restart", "agents": ["ops"] });
    assert!(
        all["operations"].as_array().unwrap().contains(&restart),
        "{all}"
    );
    let hostd = |credential: &str, dry: bool| {
        let body =
            json!({ "operation": "cell-restart", "args": { "agent": "top" }, "dry_run": dry });
        house
            .operator_api("POST", "/api/controlplane/hostd")
            .token(credential)
            .json(&body)
            .send()
    };
    let (status, would) = hostd(&operator, true);
    assert!(
        status == 200
            && would["text"]
                .as_str()
                .unwrap()
                .contains("`top` is restarted"),
        "{would}"
    );
    let (status, told) = hostd(&house.agent_token("ops"), false);
    assert!(
        status == 403 && told.to_string().contains("no running task"),
        "{told}"
    );
    assert_eq!(
        post(
            "/api/controlplane/hostd",
            json!({ "operation": "format-disk" })
        )
        .0,
        404
    );
    assert_eq!(get("/api/controlplane/nothing").0, 404);
}

#[test]
fn shared_secret_is_opt_in_and_limited_to_compatibility_routes() {
    let house = up(HOUSE);
    let secret = "a-secret-that-all-of-them-know";
    let with = |path: &str| house.operator_api("GET", path).token(secret).send().0;
    assert_eq!(with("/api/controlplane/state"), 401, "off by default");
    std::fs::write(house.path("shared.key"), secret).unwrap();
    house.manifest(&format!(
        "{HOUSE}compatibility: {{ controlplane_secret: \"file:shared.key\" }}\n"
    ));
    let plan = house.json(0, "plan");
    let warned = plan["notes"]
        .as_array()
        .unwrap()
        .iter()
        .any(|n| n["subject"] == "compatibility" && n["severity"] == "warning");
    assert!(warned, "{plan}");
    house.expect(0, "up");
    assert_eq!(with("/api/controlplane/state"), 200);
    // Nobody's name stands for what it adds.
    let body = json!({ "title": "show system stats", "assigned_to": "ops" });
    let made = house
        .operator_api("POST", "/api/controlplane/tasks")
        .token(secret)
        .json(&body)
        .send();
    assert_eq!(made.0, 201, "{made:?}");
    assert_eq!(house.json(0, "task show 1")["task"]["author"], "house");
    for path in ["/api/v1/agents", "/api/v1/tasks", "/metrics"] {
        assert_eq!(with(path), 401, "{path}");
    }
    assert_eq!(
        house
            .agent_api("GET", "/api/v1/self")
            .token(secret)
            .send()
            .0,
        401
    );
    assert!(!house.control_plane_log().contains(secret));
}
