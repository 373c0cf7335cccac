//! The client against a server that checks every body by the description of the API.

use super::*;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

/// What the description of the API says about bodies, as far as it is used here.
fn description() -> BTreeMap<String, Value> {
    serde_json::from_str(include_str!("description.json")).unwrap()
}

/// Where in the description a call is.
fn entry(method: &Method, path: &str) -> String {
    match path.strip_prefix("/drives/") {
        Some(_) => format!("{method} /drives/{{drive_id}}"),
        None => format!("{method} {path}"),
    }
}

fn every_call() -> Vec<FirecrackerCall> {
    let bucket = TokenBucket {
        size: 1 << 20,
        refill_time: 100,
    };
    let limit = RateLimiter {
        bandwidth: Some(bucket),
        ops: None,
    };
    let mut calls = configuration_calls(&CellSpec::sample(), true, Some(limit));
    for state in [VmState::Paused, VmState::Resumed] {
        calls.push(FirecrackerCall::State(Vm { state }));
    }
    for action_type in [ActionType::SendCtrlAltDel, ActionType::FlushMetrics] {
        calls.push(FirecrackerCall::Action(InstanceAction { action_type }));
    }
    calls.extend([
        FirecrackerCall::Create(SnapshotCreate {
            snapshot_type: SnapshotType::Full,
            snapshot_path: "/vm/run/devices".to_owned(),
            mem_file_path: "/vm/run/memory".to_owned(),
        }),
        FirecrackerCall::Load(SnapshotLoad {
            snapshot_path: "/vm/run/devices".to_owned(),
            mem_backend: MemoryBackend {
                backend_type: BackendType::File,
                backend_path: "/vm/run/memory".to_owned(),
            },
            resume_vm: false,
        }),
    ]);
    calls
}

#[test]
fn every_document_is_as_the_description_has_it() {
    let description = description();
    let mut used = std::collections::BTreeSet::new();
    for call in every_call() {
        let (method, path) = call.method_and_path();
        let entry = entry(&method, &path);
        let schema = description.get(&entry).unwrap_or_else(|| panic!("{entry}"));
        let body = call.body().unwrap();
        if let Err(error) = jsonschema::validate(schema, &body) {
            panic!("{entry}: {body}: {error}");
        }
        used.insert(entry);
    }
    assert_eq!(used.len(), description.len(), "every entry is used");
}

#[test]
fn a_machine_is_told_in_this_order() {
    let told: Vec<String> = configuration_calls(&CellSpec::sample(), true, None)
        .iter()
        .map(|c| {
            let (method, path) = c.method_and_path();
            format!("{method} {path} {}", c.body().unwrap())
        })
        .collect();
    insta::assert_snapshot!(told.join("\n"));
}

/// Plays Firecracker: checks every body against the description, and answers from a list of ill manners
/// first.
struct Fake {
    heard: Arc<Mutex<Vec<String>>>,
    socket: PathBuf,
    _dir: tempfile::TempDir,
}

#[derive(Clone, Copy, PartialEq)]
enum Manners {
    Good,
    /// The first calls find nobody.
    Late,
    /// It takes calls and never answers.
    Mute,
    /// It breaks off the first time.
    Breaks,
    /// It is another one.
    Other,
}

fn fake(manners: Manners) -> Fake {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("api.sock");
    let heard = Arc::new(Mutex::new(Vec::new()));
    let (path, said) = (socket.clone(), Arc::clone(&heard));
    if manners == Manners::Late {
        // A socket that nobody listens on any more.
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    }
    drop(std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            if manners == Manners::Late {
                tokio::time::sleep(Duration::from_millis(100)).await;
                std::fs::remove_file(&path).unwrap();
            }
            let listener = tokio::net::UnixListener::bind(&path).unwrap();
            let mut first = true;
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                if std::mem::take(&mut first) && manners == Manners::Breaks {
                    continue;
                }
                let said = Arc::clone(&said);
                let service = hyper::service::service_fn(move |request| {
                    answer(request, Arc::clone(&said), manners)
                });
                drop(tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                ));
            }
        });
    }));
    Fake {
        heard,
        socket,
        _dir: dir,
    }
}

async fn answer(
    request: Request<hyper::body::Incoming>,
    said: Arc<Mutex<Vec<String>>>,
    manners: Manners,
) -> std::result::Result<hyper::Response<Full<Bytes>>, Infallible> {
    if manners == Manners::Mute {
        std::future::pending::<()>().await;
    }
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let reply = |status: u16, text: String| {
        let built = hyper::Response::builder().status(status);
        Ok(built.body(Full::new(Bytes::from(text))).unwrap())
    };
    if method == Method::GET && path == "/" {
        let id = if manners == Manners::Other {
            "other"
        } else {
            "mine"
        };
        let info = serde_json::json!({ "id": id, "state": "Not started", "vmm_version": "1.10.0", "app_name": "Firecracker" });
        return reply(200, info.to_string());
    }
    let entry = entry(&method, &path);
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let fault = |why: &str| serde_json::json!({ "fault_message": why }).to_string();
    match description().get(&entry) {
        None => reply(400, fault("no such path")),
        Some(schema) if !jsonschema::is_valid(schema, &body) => reply(400, fault("no such body")),
        Some(_) if body["drive_id"] == "refused" => reply(400, fault("the file is not there")),
        Some(_) => {
            said.lock().unwrap().push(entry);
            reply(204, String::new())
        }
    }
}

fn client(fake: &Fake) -> FirecrackerClient {
    FirecrackerClient::new(&fake.socket, "mine")
}

#[test]
fn a_microvm_is_configured_started_snapshotted_and_restored() {
    let fake = fake(Manners::Good);
    let client = client(&fake);
    assert_eq!(
        client
            .wait_until_ready(Duration::from_secs(5))
            .unwrap()
            .state,
        "Not started"
    );
    client.run_calls(&every_call()).unwrap();
    let heard = fake.heard.lock().unwrap();
    assert_eq!(heard.len(), every_call().len());
    assert_eq!(
        heard.first().map(String::as_str),
        Some("PUT /machine-config")
    );
    assert_eq!(heard.last().map(String::as_str), Some("PUT /snapshot/load"));
}

#[test]
fn a_refusal_is_told_in_its_own_words_and_ends_the_start() {
    let fake = fake(Manners::Good);
    let client = client(&fake);
    client.wait_until_ready(Duration::from_secs(5)).unwrap();
    let mut calls = configuration_calls(&CellSpec::sample(), false, None);
    if let FirecrackerCall::Drive(drive) = &mut calls[3] {
        drive.drive_id = "refused".to_owned();
    }
    let told = client.run_calls(&calls).unwrap_err().to_string();
    assert!(told.contains("the file is not there"), "{told}");
    assert_eq!(fake.heard.lock().unwrap().len(), 3, "nothing after it");
}

#[test]
fn ready_is_who_answers_under_the_right_name() {
    let late = fake(Manners::Late);
    client(&late)
        .wait_until_ready(Duration::from_secs(5))
        .unwrap();
    let other = fake(Manners::Other);
    let told = client(&other)
        .wait_until_ready(Duration::from_secs(5))
        .unwrap_err();
    assert!(
        told.to_string().contains("`other` answers on this socket"),
        "{told}"
    );
    let mute = fake(Manners::Mute);
    let told = client(&mute)
        .wait_until_ready(Duration::from_millis(10))
        .unwrap_err();
    assert!(told.to_string().contains("no answer"), "{told}");
}

#[test]
fn only_what_may_be_repeated_is() {
    let breaks = fake(Manners::Breaks);
    // The first connection breaks off: once more for a description, and never for an action.
    client(&breaks).call(&every_call()[0]).unwrap();
    let breaks = fake(Manners::Breaks);
    let action = FirecrackerCall::Action(InstanceAction {
        action_type: ActionType::InstanceStart,
    });
    assert!(client(&breaks).call(&action).is_err());
}
