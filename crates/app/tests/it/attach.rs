//! Terminals: owned by the shim, with several viewers that attach and detach (S1-21).

use abbey_testkit::args;
use abbey_testkit::house::{House, until};
use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};

const HOUSE: &str = "house: terminals
services:
  shell: { cell: process, terminal: true, command: [sh, -i], probe: none }
  walled: { terminal: true, command: [sh, -i], probe: none }
  plain: { cell: process, command: [sleep, '3600'], probe: none }
agents:
  a: { template: orchestrator, terminal: true }
  b: { template: sysadmin, reports_to: a }
";

/// `abbey attach` with pipes instead of a terminal.
struct Viewer {
    child: Child,
    seen: Arc<Mutex<String>>,
}

impl Viewer {
    fn of(house: &House, name: &str) -> Viewer {
        let mut command = house.command(args!("attach {}", name));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        let seen = Arc::<Mutex<String>>::default();
        let shared = Arc::clone(&seen);
        std::thread::spawn(move || {
            let mut buffer = [0u8; 4096];
            while let Ok(n @ 1..) = out.read(&mut buffer) {
                shared
                    .lock()
                    .unwrap()
                    .push_str(&String::from_utf8_lossy(&buffer[..n]));
            }
        });
        Viewer { child, seen }
    }

    fn types(&mut self, text: &str) {
        self.child
            .stdin
            .as_mut()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
    }

    fn sees(&self, text: &str) {
        until(&format!("`{text}` is seen"), || {
            self.seen.lock().unwrap().contains(text)
        });
    }

    fn leaves(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }
}

#[test]
fn several_viewers_share_a_terminal_and_detach_without_ending_it() {
    let house = crate::up(HOUSE);
    for name in ["service/shell", "service/walled"] {
        let mut one = Viewer::of(&house, name);
        one.types("echo a$((40+2))b; tty -s && echo on-a-terminal\n");
        one.sees("a42b");
        one.sees("on-a-terminal");
        // The second sees what was there, and both see what either types.
        let mut two = Viewer::of(&house, name);
        two.sees("a42b");
        two.types("x=kept; echo from-$x-two\n");
        one.sees("from-kept-two");
        one.types("stty size\n");
        two.sees("24 80");
        // Who leaves takes nothing along.
        one.leaves();
        two.types("echo still-$x\n");
        two.sees("still-kept");
        two.leaves();
    }
    // It outlives the control plane, with all that was on it.
    house.kill_control_plane();
    house.expect(0, "up");
    let mut three = Viewer::of(&house, "service/shell");
    three.sees("still-kept");
    three.types("echo again-$x\n");
    three.sees("again-kept");
    // The end of the program is the end of the view.
    three.types("exit\n");
    let mut child = three.child;
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    // An agent on a terminal works as ever, and what it says is in its log and on the terminal.
    let view = Viewer::of(&house, "a");
    view.sees("a is ready in house terminals");
    view.leaves();
    assert!(
        house
            .expect(0, "logs a")
            .contains("a is ready in house terminals")
    );
    let said = house.expect_refusal(4, "attach b");
    assert!(said.contains("`terminal: true`"), "{said}");
    assert!(
        house
            .expect_refusal(4, "attach service/plain")
            .contains("`terminal: true`")
    );
    house.expect_refusal(3, "attach nobody");
}

/// Nothing can inject keys into the terminal of another: neither an ioctl from inside, nor malformed frames.
#[test]
fn invalid_frames_disconnect_only_the_viewer_that_sent_them() {
    let house = crate::up(HOUSE);
    let socket = house.home().join("run/operator.sock");
    let token = house.operator_token();
    for nonsense in [
        &b"zzzzzzzz"[..],
        &[b'd', 0xff, 0xff, 1, 2],
        &[b'r', 0, 1, 0],
        &[0; 64],
    ] {
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        let request = format!(
            "GET /api/v1/services/shell/attach HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nConnection: upgrade\r\nUpgrade: abbey-terminal\r\n\r\n",
            token.trim()
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut head = [0u8; 12];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(&head, b"HTTP/1.1 101");
        stream.write_all(nonsense).unwrap();
        let mut rest = Vec::new();
        let _closed = stream.read_to_end(&mut rest);
    }
    let mut viewer = Viewer::of(&house, "service/shell");
    viewer.types("echo well-$((1+1))\n");
    viewer.sees("well-2");
    viewer.leaves();
}
