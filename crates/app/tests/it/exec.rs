//! Programs in cells: their streams, terminals, signals and ends; and files that are copied in and out.

use abbey_testkit::args;
use abbey_testkit::house::{kill, until};
use abbey_testkit::terminal::Typist;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::{Child, Stdio};

const CELLS: &str = "house: programs
services:
  web: { cell: process, command: [sleep, '3600'], probe: none }
  walled: { command: [sleep, '3600'], probe: none }
agents:
  plain: { cell: process }
  boxed: { cell: sandbox }
";

/// Process on the host with this command line.
fn find_process(command_line: &str) -> Option<i32> {
    let wanted = command_line.replace(' ', "\0") + "\0";
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let found = processes
        .map(|p| p.path())
        .find(|p| std::fs::read(p.join("cmdline")).is_ok_and(|found| found == wanted.as_bytes()));
    found?.file_name()?.to_str()?.parse().ok()
}

fn runs(command_line: &str) -> bool {
    find_process(command_line).is_some()
}

/// A time to sleep that no other test sleeps.
fn marked_sleep(number: usize) -> String {
    format!("sleep 3600.{}{number}", std::process::id())
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn input_of_any_size_arrives_whole_and_statuses_are_the_programs() {
    let house = crate::up(CELLS);
    let data: Vec<u8> = (0..3_000_000u32)
        .flat_map(u32::to_be_bytes)
        .take(3 << 20)
        .collect();
    for cell in ["plain", "boxed", "service/web", "service/walled"] {
        let mut cat = house.command(args!("exec {} -- sh -c 'cat; echo done >&2'", cell));
        cat.stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut cat = cat.spawn().unwrap();
        let (mut stdin, sent) = (cat.stdin.take().unwrap(), data.clone());
        let feeder = std::thread::spawn(move || stdin.write_all(&sent));
        let output = cat.wait_with_output().unwrap();
        feeder.join().unwrap().unwrap();
        assert!(
            output.stdout == data,
            "{cell}: {} bytes",
            output.stdout.len()
        );
        assert_eq!(
            (output.status.code(), &output.stderr[..]),
            (Some(0), &b"done\n"[..])
        );
        let status = |script: &str| {
            house
                .run(args!("exec {} -- sh -c {}", cell, script))
                .status
                .code()
        };
        assert_eq!(status("exit 42"), Some(42));
        assert_eq!(status("kill -TERM $$"), Some(143));
        // Who goes on in the background keeps nobody waiting.
        assert_eq!(status("sleep 30 & exit 3"), Some(3));
        let missing = house.expect_refusal(127, args!("exec {} -- no-such-program", cell));
        assert!(
            missing.contains("`no-such-program` was not found"),
            "{missing}"
        );
        let refused = house.expect_refusal(126, args!("exec {} -- /etc/passwd", cell));
        assert!(refused.contains("`/etc/passwd`"), "{refused}");
    }
}

#[test]
fn a_program_ends_with_its_caller_however_that_ends() {
    let house = crate::up(CELLS);
    for (n, (cell, by, code)) in [
        ("plain", Signal::INT, Some(130)),
        ("boxed", Signal::INT, Some(130)),
        ("boxed", Signal::TERM, Some(143)),
        ("boxed", Signal::HUP, Some(129)),
        ("plain", Signal::KILL, None),
        ("boxed", Signal::KILL, None),
        ("service/walled", Signal::KILL, None),
    ]
    .into_iter()
    .enumerate()
    {
        let sleep = marked_sleep(n);
        // It reads nothing of what it is fed, which must not hide that the caller is gone.
        let script = format!("echo begun; {sleep}; true");
        let mut child = house.command(args!("exec {} -- sh -c {}", cell, script));
        let mut child = child
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let _feeder = std::thread::spawn(move || while stdin.write_all(&[0; 65_536]).is_ok() {});
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        until("the program runs", || runs(&sleep));
        signal(&child, by);
        assert_eq!(child.wait().unwrap().code(), code, "{cell} {by:?}");
        until("the program has ended", || !runs(&sleep));
    }
}

#[test]
fn a_shell_on_a_terminal_has_its_size_its_keys_and_its_name() {
    let house = crate::up(CELLS);
    for cell in ["plain", "boxed", "service/walled"] {
        let typist = Typist::new(&house, args!("exec {} -- sh -i", cell));
        typist.types("echo on $(tty) with $TERM\n");
        typist.sees("on /dev/pts/");
        typist.sees("with vt220");
        typist.resize(33, 111);
        typist.types("until [ \"$(stty size)\" = '33 111' ]; do sleep 0.1; done; echo re''sized\n");
        typist.sees("resized");
        let sleep = marked_sleep(100);
        typist.types(&format!("{sleep}\n"));
        until("it sleeps", || runs(&sleep));
        typist.types("\u{3}");
        until("the key ended it", || !runs(&sleep));
        typist.types("echo still-$((40+2))\n");
        typist.sees("still-42");
        typist.types("exit 7\n");
        assert_eq!(typist.ends(), Some(7));
    }
    // With flags the same without a terminal here, and the end of the input ends a shell.
    let mut piped = house.command("exec -it boxed -- sh");
    let mut piped = piped
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    piped
        .stdin
        .take()
        .unwrap()
        .write_all(b"tty -s && echo on-a-terminal\n")
        .unwrap();
    let output = piped.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("on-a-terminal\r\n"));
    assert!(
        house
            .expect(0, "exec -t boxed -- tty")
            .starts_with("/dev/pts/")
    );
}

#[test]
fn the_detach_key_leaves_the_program_running_and_a_lost_terminal_does_not() {
    let house = crate::up(CELLS);
    let sleep = marked_sleep(200);
    let typist = Typist::new(
        &house,
        args!("exec boxed -- {}", "sh").with(&["-c", &sleep]),
    );
    until("it runs", || runs(&sleep));
    typist.types("\u{1d}");
    typist.sees("detached; the program keeps running");
    assert_eq!(typist.ends(), Some(0));
    assert!(runs(&sleep));
    kill(find_process(&sleep).unwrap());
    until("it was ended", || !runs(&sleep));

    let sleep = marked_sleep(201);
    let typist = Typist::new(
        &house,
        args!("exec boxed -- {}", "sh").with(&["-c", &sleep]),
    );
    until("it runs", || runs(&sleep));
    signal(&typist.child, Signal::KILL);
    until("it ended with its terminal", || !runs(&sleep));
}

#[test]
fn files_are_copied_into_cells_and_out_of_them() {
    let house = crate::up(CELLS);
    let data: Vec<u8> = (0..500_000u32).flat_map(u32::to_be_bytes).collect();
    std::fs::write(house.path("in.bin"), &data).unwrap();
    let tree = house.path("tree");
    std::fs::create_dir_all(tree.join("below")).unwrap();
    std::fs::write(tree.join("below/run.sh"), "#!/bin/sh\necho works\n").unwrap();
    std::fs::set_permissions(
        tree.join("below/run.sh"),
        std::fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    symlink("below", tree.join("link")).unwrap();
    for (n, cell) in ["plain", "boxed", "service/web", "service/walled"]
        .into_iter()
        .enumerate()
    {
        house.expect(0, args!("cp in.bin {}:there.bin", cell));
        let back = format!("back-{n}.bin");
        let document = house.json(0, args!("cp {}:there.bin {}", cell, back));
        assert_eq!(
            (&document["files"], &document["bytes"]),
            (&1.into(), &2_000_000.into())
        );
        assert!(std::fs::read(house.path(&back)).unwrap() == data);
        // A directory: under its own name into one that exists, with its user's owner.
        house.expect(0, args!("cp tree {}:", cell));
        let script = "tree/link/run.sh && test $(stat -c %u tree/below/run.sh) = $(id -u) && ln -s /etc tree/door && { mkfifo tree/pipe 2>/dev/null; true; }";
        assert_eq!(
            house.expect(0, args!("exec {} -- sh -c {}", cell, script)),
            "works\n"
        );
        // Out of a cell come files, and links that lead to what is copied.
        let out = house.path(&format!("out-{n}"));
        let output = house.run(args!("cp {}:tree {}", cell, out.display()));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        assert!(said.contains("door` was left out"), "{said}");
        assert!(!said.contains("link` was left out"), "{said}");
        // Isolated cells cannot make pipes.
        let made = ["plain", "service/web"].contains(&cell);
        assert_eq!(said.contains("pipe` was left out"), made, "{said}");
        assert_eq!(
            std::fs::metadata(out.join("below/run.sh")).unwrap().mode() & 0o777,
            0o755
        );
        assert!(std::fs::symlink_metadata(out.join("door")).is_err());
        let link = std::fs::read_link(out.join("link")).unwrap();
        assert_eq!(link, std::path::Path::new("below"));
        let again = format!("again-{n}");
        let document = house.json(0, args!("cp {}:tree {}", cell, again));
        let left_out = document["left_out"].to_string();
        assert!(left_out.contains("tree/door` was left out"), "{left_out}");
        // What can't be read is named, and everything else is copied. Who is root in a cell of its own reads all.
        let closed = "mkdir tree/closed && chmod 0 tree/closed && ! ls tree/closed 2>/dev/null";
        let is_closed = house
            .run(args!("exec {} -- sh -c {}", cell, closed))
            .status
            .success();
        if is_closed {
            let part = format!("part-{n}");
            let told = house.expect_refusal(1, args!("cp {}:tree {}", cell, part));
            assert!(told.contains("tree/closed`: Permission denied"), "{told}");
            assert!(house.path(&part).join("below/run.sh").exists());
        }
        let missing = house.expect_refusal(3, args!("cp {}:no/such .", cell));
        assert!(missing.contains("No such file"), "{missing}");
        let refused = house.expect_refusal(3, args!("cp in.bin {}:no/such/place", cell));
        assert!(refused.contains("`no/such`"), "{refused}");
    }
    house.expect_refusal(2, "cp no-such-file plain:");
    house.expect_refusal(2, "cp plain:there.bin no/such/place");
    house.expect_refusal(2, "cp in.bin out.bin");
    house.expect_refusal(2, "cp plain:there.bin boxed:");
}

#[test]
fn a_program_that_is_not_there_is_an_error_document_with_json() {
    let house = crate::up(CELLS);
    for cell in ["plain", "boxed"] {
        let output = house.run(args!("--json exec {} -- nosuchcmd", cell));
        assert_eq!(output.status.code(), Some(127), "{cell}");
        let document: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
        let text = "`nosuchcmd` was not found in the cell";
        assert_eq!(document["error"]["text"], text, "{cell}");
        assert_eq!(document["error"]["code"], 127, "{cell}");
        let plain = house.expect_refusal(127, args!("exec {} -- nosuchcmd", cell));
        assert_eq!(plain, format!("abbey: {text}\n"), "{cell}");
    }
}
