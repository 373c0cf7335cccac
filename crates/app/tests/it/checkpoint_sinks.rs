//! Signed heads of the audit log outside the house: in a file on another file system, at a syslog collector, at an HTTP
//! endpoint.

use crate::{TWO, house, up};
use abbey_testkit::args;
use abbey_testkit::house::{House, WITHIN, until};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

fn with_sinks(sinks: &str) -> String {
    format!("{TWO}checkpoint_sinks:\n{sinks}")
}

/// Lines of the checkpoint file in the house.
fn kept(house: &House) -> Vec<String> {
    let text = std::fs::read_to_string(house.home().join("hostd/checkpoints.jsonl")).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// Adds entries to the audit log and has its head signed.
fn sign_another_head(house: &House) {
    let before = kept(house).len();
    house.expect(0, "task add 'show system stats' --wait");
    house.expect(0, "activity export");
    assert!(kept(house).len() > before);
}

/// A directory in memory, which is another file system than the house's.
struct OtherFileSystem(PathBuf);

impl OtherFileSystem {
    fn new() -> OtherFileSystem {
        let dir = PathBuf::from(format!("/dev/shm/abbey-sink-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        OtherFileSystem(dir)
    }
}

impl Drop for OtherFileSystem {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

fn sink_check(house: &House) -> Value {
    let output = house.run("doctor --json");
    let doc: Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = doc["checks"].as_array().unwrap();
    let check = checks.iter().find(|c| c["id"] == "checkpoint_sinks");
    check.unwrap().clone()
}

#[test]
fn a_file_on_another_file_system_gets_every_signed_head_and_verifies_the_log() {
    let other = OtherFileSystem::new();
    let sink = other.0.join("heads.jsonl");
    let house = up(&with_sinks(&format!(
        "  disk: {{ file: {} }}\n",
        sink.display()
    )));
    assert_ne!(
        std::fs::metadata(&other.0).unwrap().dev(),
        std::fs::metadata(house.home()).unwrap().dev()
    );
    let lines = || -> Vec<String> {
        let text = std::fs::read_to_string(&sink).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    };
    sign_another_head(&house);
    until("the sink has every head", || lines() == kept(&house));
    assert_eq!(sink_check(&house)["state"], "ok");
    let reported = || house.json(0, "activity sinks")["sinks"][0].clone();
    let head: Value = serde_json::from_str(lines().last().unwrap()).unwrap();
    until("the report has it too", || {
        reported()["delivered"] == head["seq"] && reported()["missing"] == 0
    });
    if house.runs_as_root() {
        assert_eq!(std::fs::metadata(&sink).unwrap().uid(), 0);
    }

    // The disk is gone for a while: nothing stops, and `doctor` says what lacks.
    let away = other.0.with_extension("away");
    std::fs::rename(&other.0, &away).unwrap();
    sign_another_head(&house);
    until("the outage is reported", || {
        sink_check(&house)["state"] != "ok"
    });
    let text = sink_check(&house)["text"].as_str().unwrap().to_owned();
    assert!(
        text.contains("`disk` lacks") && text.contains("the oldest of 2"),
        "{text}"
    );
    let report = house.expect(7, "activity sinks");
    for part in ["disk", "are missing", "heads.jsonl"] {
        assert!(report.contains(part), "{part} in {report}");
    }
    sign_another_head(&house);
    std::fs::rename(&away, &other.0).unwrap();
    until("the rest is delivered in order", || lines() == kept(&house));

    // The end of the house is signed and delivered too.
    house.expect(0, "down");
    assert_eq!(lines(), kept(&house));
    house.expect(0, "up");
    let export = house.path("log.jsonl");
    std::fs::write(&export, house.expect(0, "activity export")).unwrap();
    let verify = |code| {
        let (export, sink) = (export.display().to_string(), sink.display().to_string());
        house.json(
            code,
            args!("activity verify {} --checkpoints {}", export, sink),
        )
    };
    assert_eq!(verify(0)["ok"], true);

    // Whoever rewrites database and hostd's file alike, as root can, is found with the sink's lines.
    let text = std::fs::read_to_string(&export).unwrap();
    let entries = text
        .lines()
        .filter(|l| !l.contains("\"kind\":\"checkpoint\""))
        .count();
    let forged: Vec<&str> = text
        .lines()
        .filter(|l| !l.contains("\"kind\":\"checkpoint\""))
        .take(entries / 2)
        .collect();
    std::fs::write(&export, forged.join("\n")).unwrap();
    let verdict = verify(1);
    assert!(
        verdict["why"].as_str().unwrap().contains("cut"),
        "{verdict}"
    );
}

#[test]
fn a_sink_that_another_user_could_replace_is_refused_before_anything_is_applied() {
    let house = house();
    if !house.runs_as_root() {
        return;
    }
    let open = house.path("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
    let sink = open.join("heads.jsonl");
    house.manifest(&with_sinks(&format!(
        "  disk: {{ file: {} }}\n",
        sink.display()
    )));
    let plan = house.run("plan");
    assert_eq!(plan.status.code(), Some(4));
    let told = house.expect_refusal(4, "up");
    assert!(
        told.contains("others than root can change the directory"),
        "{told}"
    );
    assert!(!sink.exists());
}

#[test]
fn a_syslog_collector_gets_every_signed_head() {
    let house = house();
    let path = house.path("collector");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(WITHIN)).unwrap();
    udp.set_read_timeout(Some(WITHIN)).unwrap();
    house.manifest(&with_sinks(&format!(
        "  local: {{ syslog: 'unix:{}' }}\n  far: {{ syslog: 'udp:{}' }}\n  stream: {{ syslog: 'tcp:{}' }}\n",
        path.display(),
        udp.local_addr().unwrap(),
        tcp.local_addr().unwrap()
    )));
    house.expect(0, "up");
    let first = kept(&house).remove(0);
    let is_first = |message: &[u8]| {
        let message = String::from_utf8_lossy(message).into_owned();
        assert!(message.starts_with("<109>1 20"), "{message}");
        assert!(
            message.ends_with(&format!(" abbey - checkpoint - {first}")),
            "{message}"
        );
    };
    let mut bytes = [0; 4096];
    let count = socket.recv(&mut bytes).unwrap();
    is_first(&bytes[..count]);
    let count = udp.recv(&mut bytes).unwrap();
    is_first(&bytes[..count]);
    let mut reader = BufReader::new(tcp.accept().unwrap().0);
    let mut length = Vec::new();
    reader.read_until(b' ', &mut length).unwrap();
    let length: usize = String::from_utf8(length).unwrap().trim().parse().unwrap();
    let mut message = vec![0; length];
    reader.read_exact(&mut message).unwrap();
    is_first(&message);
    drop(reader);
    until("every sink has everything", || {
        sink_check(&house)["state"] == "ok"
    });
}

/// Answers requests on a listener: bodies and credentials of those that were accepted, by an endpoint that answers 503
/// once first.
fn collect(listener: TcpListener) -> Arc<Mutex<(String, Vec<String>)>> {
    let seen = Arc::new(Mutex::new((String::new(), Vec::new())));
    let collected = Arc::clone(&seen);
    std::thread::spawn(move || {
        let mut refused = false;
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut head, mut length) = (String::new(), 0);
            loop {
                let start = head.len();
                if reader.read_line(&mut head).unwrap() == 0 || &head[start..] == "\r\n" {
                    break;
                }
                let line = head[start..].to_ascii_lowercase();
                if let Some(value) = line.strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let status = if refused {
                "204 No Content"
            } else {
                "503 Busy"
            };
            if refused {
                let mut seen = collected.lock().unwrap();
                seen.0 = head;
                let body = String::from_utf8(body).unwrap();
                seen.1.extend(body.lines().map(str::to_owned));
            }
            refused = true;
            let answer =
                format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
            // The house may have given up.
            let _gone = stream.write_all(answer.as_bytes());
        }
    });
    seen
}

#[test]
fn an_http_endpoint_that_was_down_gets_the_rest_in_order() {
    let house = house();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let key = house.path("sink.key");
    std::fs::write(&key, "s3cret-of-the-collector\n").unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    house.manifest(&with_sinks(&format!(
        "  web: {{ url: 'http://{address}/heads', token: 'file:{}' }}\n",
        key.display()
    )));
    house.expect(0, "up");
    until("the outage is reported", || {
        sink_check(&house)["state"] != "ok"
    });
    let text = sink_check(&house)["text"].as_str().unwrap().to_owned();
    assert!(
        text.contains("`web` lacks") && text.contains("cannot connect"),
        "{text}"
    );
    // Nothing waits for it, and what is remembered survives the end of the control plane.
    sign_another_head(&house);
    house.kill_control_plane();
    house.expect(0, "up");
    sign_another_head(&house);
    let seen = collect(TcpListener::bind(address).unwrap());
    until("the rest is delivered", || {
        sink_check(&house)["state"] == "ok"
    });
    sign_another_head(&house);
    until("what follows is delivered", || {
        seen.lock().unwrap().1 == kept(&house)
    });
    let head = seen.lock().unwrap().0.clone();
    assert!(head.starts_with("POST /heads "), "{head}");
    assert!(
        head.contains("authorization: Bearer s3cret-of-the-collector"),
        "{head}"
    );
    let sink = house.path("sink.jsonl");
    std::fs::write(&sink, seen.lock().unwrap().1.join("\n")).unwrap();
    verify_with(&house, &sink);
}

fn verify_with(house: &House, sink: &Path) {
    let export = house.path("log.jsonl");
    std::fs::write(&export, house.expect(0, "activity export")).unwrap();
    let (export, sink) = (export.display().to_string(), sink.display().to_string());
    house.expect(
        0,
        args!("activity verify {} --checkpoints {}", export, sink),
    );
}
