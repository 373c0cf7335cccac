//! hostd that does not run, or runs and takes no calls: what commands say, and how it is replaced.

use abbey_cells::hostd::{
    FileEntry, FileName, HostdApi, HostdClient, HostdOperation, HostdState, hostd_state,
};
use abbey_testkit::args::Args;
use abbey_testkit::house::{House, kill, until};
use abbey_testkit::terminal::Typist;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::process::Stdio;
use std::time::Duration;

fn hostd_of(house: &House) -> i32 {
    HostdClient::new(&house.home()).hello().unwrap().pid
}

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// Exit code and standard error of a command.
fn said(house: &House, args: impl Into<Args>) -> (i32, String) {
    let out = house.run(args);
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    (out.status.code().unwrap(), text)
}

#[test]
fn commands_name_a_hostd_that_hangs_and_up_replaces_it() {
    let house = crate::up(crate::TWO);
    std::fs::write(house.path("note"), "x").unwrap();
    let agent = house.agent("abbot").pid;
    let pid = hostd_of(&house);
    signal(pid, Signal::STOP);
    for (code, command) in [
        (125, "exec abbot -- true"),
        (125, "run --timeout 60s -- true"),
        (0, "cp note abbot:"),
        (6, "plan"),
        (6, "backup house.tar"),
        (6, "agent rename sysadmin admin --now"),
    ] {
        let (found, text) = said(&house, command);
        let is_known = code != 0;
        assert!(
            found == code || !is_known && found != 0,
            "{found} {command}: {text}"
        );
        let process = format!("hostd (process {pid})");
        for part in [
            &process,
            "does not answer",
            "is stopped",
            "`abbey up`",
            "kill -9",
        ] {
            assert!(text.contains(part), "{part} in what {command} said: {text}");
        }
        assert!(!text.contains("starts the house"), "{command}: {text}");
    }
    let (code, text) = said(&house, "ps");
    assert!(code == 0 && text.contains("is stopped"), "{text}");

    let (code, text) = said(&house, "up --timeout 60s");
    assert_eq!(code, 0, "{text}");
    let replaced = format!("hostd (process {pid}) did not answer; it was killed");
    assert!(text.contains(&replaced), "{text}");
    assert_ne!(hostd_of(&house), pid);
    assert_eq!(house.agent("abbot").pid, agent, "the agent went on");
    house.expect(0, "exec abbot -- true");
    assert_eq!(said(&house, "ps"), (0, String::new()));
}

/// A control plane that is started beside a hostd that hangs replaces it as well.
#[test]
fn a_hostd_that_hangs_does_not_keep_the_control_plane_from_starting() {
    let house = crate::up(crate::TWO);
    let pid = hostd_of(&house);
    house.kill_control_plane();
    signal(pid, Signal::STOP);
    house.expect(0, "up");
    assert_ne!(hostd_of(&house), pid);
}

/// Each call has a process of its own: what hostd took goes on however long its own process takes no further calls.
#[test]
fn a_program_goes_on_while_hostd_takes_no_further_calls() {
    let house = crate::up(crate::TWO);
    let mut cat = house.command("exec abbot -- cat");
    let cat = cat.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut cat = cat.spawn().unwrap();
    let mut input = cat.stdin.take().unwrap();
    let mut output = BufReader::new(cat.stdout.take().unwrap());
    let mut echo = |text: &str| {
        input.write_all(text.as_bytes()).unwrap();
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, text);
    };
    echo("before\n");
    let pid = hostd_of(&house);
    signal(pid, Signal::STOP);
    house.expect_refusal(125, "exec abbot -- true");
    echo("meanwhile\n");
    signal(pid, Signal::CONT);
    echo("after\n");
    drop(input);
    assert_eq!(cat.wait().unwrap().code(), Some(0));
    assert_eq!(hostd_of(&house), pid);
}

#[test]
fn commands_say_that_hostd_does_not_run_before_they_wait() {
    let house = crate::up(crate::TWO);
    kill(hostd_of(&house));
    let (code, text) = said(&house, "ps");
    assert_eq!((code, text.lines().count()), (0, 1), "{text}");
    for part in ["hostd", "does not run", "`abbey up` starts it"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    house.json(0, "ps");
    let (code, text) = said(&house, "restart abbot");
    assert_eq!(code, 7, "{text}");
    let first = text.lines().next().unwrap();
    assert!(first.contains("does not run"), "{text}");
    let why = text.lines().find(|l| l.starts_with("agent `abbot` is"));
    let why = why.unwrap_or_else(|| panic!("no reason in {text}"));
    for part in [
        "does not run, so that it could not",
        "`abbey up` starts it again",
    ] {
        assert!(why.contains(part), "{part} in {why}");
    }
    house.expect(0, "up");
    until("the agent runs again", || {
        house.agent("abbot").pid.is_some()
    });
}

/// A message has a verb phrase for each operation, never its name in the protocol.
#[test]
fn messages_say_what_hostd_could_not_do_in_words() {
    let client = HostdClient::new(std::path::Path::new("/nonexistent"));
    let mut phrases = Vec::new();
    for operation in [
        HostdOperation::Hello {},
        HostdOperation::Owners {},
        HostdOperation::Archives {},
        HostdOperation::Observe {
            container_images: Default::default(),
            sizes_of: Default::default(),
        },
        HostdOperation::KeepCheckpoints {
            checkpoints: Vec::new(),
        },
        HostdOperation::Firewall {
            confirm_within: abbey_model::Millis(1),
        },
        HostdOperation::Sweep {
            cell: "agent-a".parse().unwrap(),
        },
    ] {
        let error = client.call(operation.clone(), &[]).unwrap_err().to_string();
        let phrase = format!("could not {};", operation.phrase());
        assert!(error.contains(&phrase), "{error}");
        assert_ne!(operation.phrase(), operation.summary().0);
        phrases.push(operation.phrase());
    }
    assert!(phrases.contains(&"list owners") && phrases.contains(&"inspect the host"));
}

/// The message of a hostd that could not start is not put before itself.
#[test]
fn a_failed_start_of_hostd_is_reported_once() {
    let house = crate::up(crate::TWO);
    house.expect(0, "down");
    let lock = std::fs::File::open(house.home().join("hostd/hostd.lock")).unwrap();
    lock.lock().unwrap();
    let (code, text) = said(&house, "up");
    assert_ne!(code, 0, "{text}");
    assert!(text.contains("another hostd of this house"), "{text}");
    assert_eq!(text.matches("hostd could not start").count(), 1, "{text}");
}

/// A process that runs and accepts nothing is waited for a little longer than one that a signal stopped.
#[test]
fn a_process_that_accepts_no_calls_is_named() {
    let house = crate::house();
    let home = house.home();
    std::fs::create_dir_all(home.join("run")).unwrap();
    let _never_accepts = UnixListener::bind(home.join("run/hostd.sock")).unwrap();
    let own = i32::try_from(std::process::id()).unwrap();
    let within = Duration::from_millis(50);
    assert_eq!(hostd_state(&home, within), HostdState::Silent(Some(own)));
    // More than a socket holds, and little.
    for files in [0, 64] {
        let operation = HostdOperation::Prepare {
            owner: "agent-a".parse().unwrap(),
            files: vec![
                FileEntry {
                    name: FileName::Memory,
                    content: "x".repeat(60 << 10),
                };
                files
            ],
        };
        let error = HostdClient::new(&home).call(operation, &[]);
        let error = error.unwrap_err().to_string();
        let process = format!("hostd (process {own}) does not answer, so that it could not write");
        assert!(error.contains(&process), "{error}");
        assert!(error.contains(&format!("kill -9 {own}")), "{error}");
    }
}

/// Connects until the queue of the socket is full. What was connected stays in it when the caller leaves.
pub(crate) fn fill_queue(socket: &std::path::Path) {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let address = SocketAddrUnix::new(socket).unwrap();
    loop {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
        let stream = rustix::net::socket_with(family, kind, flags, None).unwrap();
        match rustix::net::connect(&stream, &address) {
            Ok(()) => {}
            Err(rustix::io::Errno::AGAIN) => return,
            Err(e) => panic!("{e}"),
        }
    }
}

/// No connection says whose process it is, so the lock does.
#[test]
fn a_stopped_hostd_whose_queue_is_full_is_named_and_replaced() {
    let house = crate::up(crate::TWO);
    let agent = house.agent("abbot").pid;
    let pid = hostd_of(&house);
    signal(pid, Signal::STOP);
    fill_queue(&house.home().join("run/hostd.sock"));
    let process = format!("hostd (process {pid})");
    for (code, command) in [(0, "ps"), (125, "exec abbot -- true")] {
        let (found, text) = said(&house, command);
        assert_eq!(found, code, "{text}");
        for part in [&process, "is stopped"] {
            assert!(text.contains(part), "{part} in what {command} said: {text}");
        }
    }
    let (code, text) = said(&house, "up --timeout 60s");
    assert_eq!(code, 0, "{text}");
    let replaced = format!("{process} did not answer; it was killed");
    assert!(text.contains(&replaced), "{text}");
    assert_ne!(hostd_of(&house), pid);
    assert_eq!(house.agent("abbot").pid, agent, "the agent went on");
    house.expect(0, "exec abbot -- true");
}

/// A notice that hostd does not answer is for who waits for it, and not for who sees a program or follows a log.
#[test]
fn what_a_command_shows_is_not_disturbed_by_a_hostd_that_hangs() {
    let house = crate::up(crate::TWO);
    let pid = hostd_of(&house);
    let shell = Typist::new(
        &house,
        &[
            "exec",
            "-it",
            "abbot",
            "--",
            "sh",
            "-c",
            "echo begun; read x; echo over",
        ],
    );
    shell.sees("begun");
    let mut logs = house.command("logs abbot --follow");
    let logs = logs.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut logs = logs.spawn().unwrap();
    let mut lines = BufReader::new(logs.stdout.take().unwrap());
    lines.read_line(&mut String::new()).unwrap();
    signal(pid, Signal::STOP);
    // It takes longer than the two would look at hostd.
    house.expect_refusal(125, "exec abbot -- true");
    shell.types("\n");
    shell.sees("over");
    let screen = shell.screen();
    assert!(!screen.contains("does not answer"), "{screen}");
    logs.kill().unwrap();
    let left = logs.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&left.stderr), "");
    signal(pid, Signal::CONT);
}

#[test]
fn a_log_is_followed_over_a_restart_of_the_control_plane() {
    let house = crate::up(crate::TWO);
    let mut logs = house.command("logs abbot --follow");
    let logs = logs.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut logs = logs.spawn().unwrap();
    let mut lines = BufReader::new(logs.stdout.take().unwrap());
    let mut notes = BufReader::new(logs.stderr.take().unwrap());
    let mut first = String::new();
    lines.read_line(&mut first).unwrap();
    house.kill_control_plane();
    let mut note = String::new();
    notes.read_line(&mut note).unwrap();
    assert!(note.contains("does not answer"), "{note}");
    house.expect(0, "up");
    // What it prints at its start is new.
    house.expect(0, "restart abbot");
    let mut next = String::new();
    lines.read_line(&mut next).unwrap();
    assert!(!next.is_empty() && next != first, "{next}");
    logs.kill().unwrap();
    logs.wait().unwrap();
}

/// What the first agent's call waits for, and every later one, ends with hostd.
#[test]
fn agents_that_a_killed_hostd_could_not_prepare_name_the_cause() {
    let (house, armed) = House::with_crash_point(env!("CARGO_BIN_EXE_abbey"), "hostd.prepare+hold");
    house.manifest(crate::TWO);
    abbey_testkit::crash::arm_crash_point(&armed);
    let mut up = house.command("up --timeout 5s");
    let up = up.stdout(Stdio::piped()).stderr(Stdio::piped());
    let up = up.spawn().unwrap();
    let call = abbey_testkit::crash::wait_until_held(&armed);
    kill(hostd_of(&house));
    kill(call);
    let output = up.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_ne!(output.status.code(), Some(0), "{text}");
    assert!(!text.contains("/key`"), "{text}");
    for agent in ["abbot", "sysadmin"] {
        let is_named = |line: &str| line.contains(agent) && line.contains("hostd");
        assert!(text.lines().any(is_named), "{agent} in {text}");
    }
}
