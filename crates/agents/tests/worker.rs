//! The worker with a driver that exists only here, over an agent API that exists only here: the lease loop knows nothing
//! of the native runtime, and a second runtime needs nothing but a `Driver`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use abbey_agents::runtime::{Assignment, Driver, Events, TurnEnd};
use abbey_agents::worker;
use abbey_api::Problem;
use abbey_api::client::{AgentClient, Endpoint};
use abbey_model::{EndReason, FaultKind, ResultSource, Secret};
use axum::extract::State;
use axum::http::{Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

/// What the control plane was asked, and how it answers.
#[derive(Default)]
struct ControlPlane {
    /// Tasks that are still to be offered.
    offers: Mutex<VecDeque<u64>>,
    /// Method-less log of requests: path, lease header and body.
    requests: Mutex<Vec<(String, Option<String>, Value)>>,
    /// Answers of `renew`, in order: refused with that kind, or granted; granted when none is left.
    renewals: Mutex<VecDeque<Option<FaultKind>>>,
    /// Times that a reported end is answered with 503 before it is accepted.
    unavailable: Mutex<u32>,
    ended: Notify,
}

/// Time to live of every lease, in milliseconds; it is renewed at a third of that.
const LEASE_MS: i64 = 300;

fn problem(kind: FaultKind) -> Response {
    let problem = Problem::new(kind, "refused");
    let status = StatusCode::from_u16(problem.status).unwrap();
    let media_type = [(header::CONTENT_TYPE, "application/problem+json")];
    (status, media_type, serde_json::to_string(&problem).unwrap()).into_response()
}

/// Document of a task, as the operations that end a run answer with it.
fn ended_task() -> Value {
    let at = "2026-11-28T01:57:14.374Z";
    json!({ "version": 1, "task": {
        "id": "task_1", "number": "TASK-1", "title": "count to three", "state": "done", "assignee": "atlas",
        "priority": "P2", "author": "operator", "attempts": 1, "verified": "none", "waiting_for": null, "skill": null,
        "result": null, "failure": null, "trace": "0", "link": null, "runs": [], "revision": 2, "created_at": at,
        "updated_at": at,
    } })
}

async fn answer(
    State(plane): State<Arc<ControlPlane>>,
    request: Request<axum::body::Body>,
) -> Response {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let lease = head.headers.get("abbey-lease");
    let lease = lease.map(|v| v.to_str().unwrap().to_owned());
    let lease_doc = json!({ "token": 7, "ttl_ms": LEASE_MS });
    let verb = path.rsplit('/').next().unwrap().to_owned();
    if !matches!(verb.as_str(), "self" | "next") {
        plane.requests.lock().unwrap().push((path, lease, body));
    }
    match verb.as_str() {
        "self" => Json(json!({
            "version": 1, "agent": "atlas", "display_name": "Atlas", "role": "", "house": "test", "snapshot": 1,
            "budget": [], "tasks": [], "model": null, "charter_hash": "", "policy": {}, "config": 3,
        }))
        .into_response(),
        "next" => {
            let next = plane.offers.lock().unwrap().pop_front();
            let Some(number) = next else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                return StatusCode::NO_CONTENT.into_response();
            };
            Json(json!({
                "version": 1, "task": format!("task_{number}"), "number": format!("TASK-{number}"),
                "text": "count to three", "revision": number, "snapshot": 1, "skill": null, "args": {}, "model": null,
                "policy": {}, "charter_hash": "",
            }))
            .into_response()
        }
        "claim" => Json(json!({
            "version": 1, "task": "task_id", "run": "run_id", "lease": lease_doc,
        }))
        .into_response(),
        "renew" => match plane.renewals.lock().unwrap().pop_front() {
            None | Some(None) => Json(lease_doc).into_response(),
            Some(Some(kind)) => problem(kind),
        },
        _ => {
            let mut unavailable = plane.unavailable.lock().unwrap();
            if *unavailable > 0 {
                *unavailable -= 1;
                return problem(FaultKind::Unavailable);
            }
            plane.ended.notify_one();
            Json(ended_task()).into_response()
        }
    }
}

impl ControlPlane {
    async fn start(self) -> (Arc<ControlPlane>, Arc<AgentClient>) {
        let plane = Arc::new(self);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let app = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&plane));
        drop(tokio::spawn(async { axum::serve(listener, app).await }));
        let client = AgentClient::new(Endpoint::Tcp(address), Some(Secret::new("token")));
        (plane, Arc::new(client))
    }

    /// Requests to an operation, as lease header and body.
    fn requests(&self, verb: &str) -> Vec<(Option<String>, Value)> {
        let requests = self.requests.lock().unwrap();
        requests
            .iter()
            .filter(|(path, ..)| path.ends_with(verb))
            .map(|(_, lease, body)| (lease.clone(), body.clone()))
            .collect()
    }
}

/// A driver whose runtime is a script of turn ends.
struct ScriptedDriver {
    script: VecDeque<(Duration, TurnEnd)>,
    log: Arc<Mutex<Vec<String>>>,
    cancelled: Arc<Notify>,
}

impl ScriptedDriver {
    fn log(&self, text: String) {
        self.log.lock().unwrap().push(text);
    }
}

impl Driver for ScriptedDriver {
    fn begin(&mut self, assignment: &Assignment, events: &Events) {
        events.session_start(10);
        self.log(format!("begin {}", assignment.offer.number));
    }

    async fn submit_turn(&mut self, assignment: &Assignment, events: &Events) -> TurnEnd {
        events.receipts(1);
        let (time, end) = self.script.pop_front().expect("a turn too many");
        tokio::time::sleep(time).await;
        self.log(format!("did {}", assignment.offer.text));
        end
    }

    async fn cancel(&mut self, assignment: &Assignment) {
        self.log(format!("cancel {}", assignment.run));
        self.cancelled.notify_one();
    }

    fn accepted(&mut self, assignment: &Assignment) {
        self.log(format!("accepted {}", assignment.offer.number));
    }
}

fn driver(script: impl IntoIterator<Item = (Duration, TurnEnd)>) -> ScriptedDriver {
    ScriptedDriver {
        script: script.into_iter().collect(),
        log: Arc::default(),
        cancelled: Arc::default(),
    }
}

fn completed(text: &str) -> TurnEnd {
    TurnEnd::Completed {
        text: text.to_owned(),
        source: ResultSource::Command,
        data: json!({ "count": 3 }),
    }
}

/// Works until something happens.
async fn work_until(client: Arc<AgentClient>, mut driver: ScriptedDriver, happened: &Notify) {
    tokio::select! {
        _ = worker::run_worker(client, &mut driver) => unreachable!("the worker has no end"),
        () = happened.notified() => {}
    }
}

#[tokio::test]
async fn a_driver_completes_tasks_through_the_worker() {
    let plane = ControlPlane {
        offers: Mutex::new(VecDeque::from([1, 2])),
        ..ControlPlane::default()
    };
    let (plane, client) = plane.start().await;
    let failed = TurnEnd::Failed {
        reason: EndReason::AgentError,
        text: "no".to_owned(),
    };
    let driver = driver([
        (Duration::ZERO, completed("three")),
        (Duration::ZERO, failed),
    ]);
    let log = Arc::clone(&driver.log);
    let ended = async {
        plane.ended.notified().await;
        plane.ended.notified().await;
    };
    let both = Notify::new();
    tokio::join!(work_until(client, driver, &both), async {
        ended.await;
        // The answer must reach the worker before it is stopped.
        tokio::time::sleep(Duration::from_millis(100)).await;
        both.notify_one();
    });
    assert_eq!(
        *log.lock().unwrap(),
        [
            "begin TASK-1",
            "did count to three",
            "accepted TASK-1",
            "begin TASK-2",
            "did count to three",
            "accepted TASK-2"
        ]
    );
    assert_eq!(plane.requests("claim")[1].1["revision"], 2);
    // What was known at the beginning is reported before the turn.
    let renewals = plane.requests("renew");
    assert_eq!(renewals[0].1["facts"], json!({ "session_start": 10 }));
    let (lease, body) = plane.requests("complete").remove(0);
    assert_eq!(lease.as_deref(), Some("7"));
    assert_eq!(
        body,
        json!({
            "text": "three", "source": "command", "data": { "count": 3 },
            "facts": { "session_start": 10, "receipts": 1 },
        })
    );
    assert_eq!(plane.requests("fail")[0].1["reason"], "agent_error");
}

#[tokio::test]
async fn a_long_turn_keeps_its_lease_and_reports_events_on_the_way() {
    let plane = ControlPlane {
        offers: Mutex::new(VecDeque::from([1])),
        ..ControlPlane::default()
    };
    let (plane, client) = plane.start().await;
    let driver = driver([(Duration::from_millis(700), completed("late"))]);
    work_until(client, driver, &plane.ended).await;
    let renewals = plane.requests("renew");
    assert!(renewals.len() >= 3, "{renewals:?}");
    assert_eq!(
        renewals[1].1["facts"],
        json!({ "session_start": 10, "receipts": 1 })
    );
}

#[tokio::test]
async fn a_lost_lease_cancels_the_turn_and_reports_nothing() {
    let plane = ControlPlane {
        offers: Mutex::new(VecDeque::from([1])),
        renewals: Mutex::new(VecDeque::from([None, Some(FaultKind::Conflict)])),
        ..ControlPlane::default()
    };
    let (plane, client) = plane.start().await;
    let driver = driver([(Duration::from_secs(60), completed("never"))]);
    let (log, cancelled) = (Arc::clone(&driver.log), Arc::clone(&driver.cancelled));
    work_until(client, driver, &cancelled).await;
    assert_eq!(*log.lock().unwrap(), ["begin TASK-1", "cancel run_id"]);
    assert!(plane.requests("complete").is_empty() && plane.requests("fail").is_empty());
}

#[tokio::test]
async fn a_result_is_reported_again_until_the_control_plane_accepts_it() {
    let plane = ControlPlane {
        offers: Mutex::new(VecDeque::from([1])),
        unavailable: Mutex::new(2),
        ..ControlPlane::default()
    };
    let (plane, client) = plane.start().await;
    work_until(
        client,
        driver([(Duration::ZERO, completed("three"))]),
        &plane.ended,
    )
    .await;
    assert_eq!(plane.requests("complete").len(), 3);
}

#[tokio::test]
async fn a_turn_that_awaits_an_approval_reports_no_end() {
    let plane = ControlPlane {
        offers: Mutex::new(VecDeque::from([1, 2])),
        ..ControlPlane::default()
    };
    let (plane, client) = plane.start().await;
    let waits = TurnEnd::AwaitsApproval {
        text: "requested approval APPR-1".to_owned(),
    };
    let driver = driver([
        (Duration::ZERO, waits),
        (Duration::ZERO, completed("three")),
    ]);
    work_until(client, driver, &plane.ended).await;
    assert_eq!(plane.requests("complete").len(), 1);
    assert!(plane.requests("fail").is_empty());
}
