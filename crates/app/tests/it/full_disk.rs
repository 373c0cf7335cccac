//! A house without space on its disk, without inodes, or without descriptors: every verb answers within its deadline,
//! nothing hangs, and once there are some again everything goes on without a restart.

use abbey_testkit::args;
use abbey_testkit::args::Args;
use abbey_testkit::house::{House, until};
use std::cell::Cell;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Spare descriptors that the control plane has left at least.
const SPARE_LEAST: usize = 4;

/// Longest time for any verb to answer, on a loaded machine too; `up` waits for 90 seconds.
const DEADLINE: Duration = Duration::from_secs(120);

const HOUSE: &str = "house: full\ndefaults: { cell: process, waive: [limits] }\nagents:\n  a: { template: sysadmin }\n  b: { template: sysadmin }\nservices:\n  web: { cell: process, command: [sleep, '600'], probe: none }\n";

/// What the house runs out of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exhausted {
    /// Blocks of the file system of the home.
    Space,
    /// Inodes of that file system.
    Inodes,
    /// Descriptors of the control plane.
    Descriptors,
}

/// A small file system, taken away at the end, with all that the control plane may open.
pub(crate) struct Disk {
    at: PathBuf,
    /// What the control plane may open while it has nothing left.
    files: Cell<Option<usize>>,
}

impl Disk {
    pub(crate) fn mount(at: PathBuf, options: &str) -> Disk {
        fs::create_dir(&at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "abbey-test"])
            .arg(&at)
            .status();
        assert!(mounted.unwrap().success(), "these tests are run by root");
        let files = Cell::new(None);
        Disk { at, files }
    }

    /// Takes what is left; also what others freed since.
    fn exhaust(&self, what: Exhausted, house: &House) {
        match what {
            Exhausted::Space => {
                use std::io::Write;
                let _none_yet = fs::remove_file(self.at.join("filler"));
                let mut file = fs::File::create(self.at.join("filler")).unwrap();
                for size in [1 << 20, 4096, 1] {
                    let bytes = vec![b'x'; size];
                    while file.write_all(&bytes).is_ok() {}
                }
            }
            Exhausted::Inodes => {
                let dir = self.at.join("fillers");
                let _exists = fs::create_dir(&dir);
                let taken = fs::read_dir(&dir).map_or(0, Iterator::count);
                let mut names = taken..;
                while names
                    .next()
                    .is_some_and(|n| fs::File::create_new(dir.join(n.to_string())).is_ok())
                {
                }
            }
            // Those that it has open already, and hardly more: the limit is the first number that is free. It stays, so that what
            // is closed for a moment can be opened again.
            Exhausted::Descriptors if self.files.get().is_none() => {
                let pid = house.control_plane_pid();
                let files = PathBuf::from(format!("/proc/{pid}/fd"));
                // Spare ones beyond a limit that is lower than when they were opened would be of no use to it.
                let mut spare = 0;
                let mut numbers = 3..1000;
                let free = numbers.find(|n: &usize| {
                    let opened = fs::read_link(files.join(n.to_string())).ok();
                    spare += usize::from(opened.as_deref() == Some(Path::new("/dev/null")));
                    opened.is_none() && spare >= SPARE_LEAST
                });
                self.files.set(free);
                assert!(limit_files(pid, free.unwrap()));
            }
            Exhausted::Descriptors => {}
        }
    }

    fn free(&self, what: Exhausted, house: &House) {
        match what {
            Exhausted::Space => fs::remove_file(self.at.join("filler")).unwrap(),
            Exhausted::Inodes => fs::remove_dir_all(self.at.join("fillers")).unwrap(),
            Exhausted::Descriptors => {
                self.files.set(None);
                assert!(limit_files(house.control_plane_pid(), 4096));
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Without its home nobody could take the house down, and it would run on.
        let mut down = Command::new(env!("CARGO_BIN_EXE_abbey"));
        let _not_up = down.arg("--home").arg(&self.at).arg("down").output();
        let _busy = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

/// Limits the number of files that a process may open, for now, as its own user: root may not everywhere. False if it has
/// ended.
fn limit_files(pid: i32, files: usize) -> bool {
    let limit = format!("--nofile={files}:");
    let Ok(user) = fs::metadata(format!("/proc/{pid}")) else {
        return false;
    };
    let (uid, gid) = (user.uid().to_string(), user.gid().to_string());
    let status = Command::new("setpriv")
        .args(["--reuid", &uid, "--regid", &gid, "--clear-groups"])
        .args(["prlimit", &limit, "--pid", &pid.to_string()])
        .status();
    status.unwrap().success()
}

/// Runs a verb; gives its exit code, none if it missed the deadline, and what it said.
fn answer(house: &House, args: Args) -> (Option<i32>, Duration, String) {
    let begun = Instant::now();
    let mut command = house.command(args);
    let out = house.path("answer");
    let file = fs::File::create(&out).unwrap();
    command
        .stdout(Stdio::from(file.try_clone().unwrap()))
        .stderr(Stdio::from(file));
    let mut child = command.spawn().unwrap();
    let (sent, ended) = std::sync::mpsc::channel();
    let pid = i32::try_from(child.id()).unwrap();
    let waiting = std::thread::spawn(move || {
        let _nobody_waits = sent.send(child.wait().unwrap().code());
    });
    let code = match ended.recv_timeout(DEADLINE) {
        Ok(code) => code,
        Err(_) => {
            abbey_testkit::house::kill(pid);
            None
        }
    };
    waiting.join().unwrap();
    let said = fs::read(&out).unwrap_or_default();
    (
        code,
        begun.elapsed(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

fn verbs(manifest: &Path, archive: &Path) -> Vec<Args> {
    let mut all: Vec<Args> = [
        "ps",
        "plan",
        "up",
        "doctor",
        "why a",
        "logs a -n 5",
        "exec a -- true",
        "run -- true",
        "task add --to a say",
        "task list",
        "agent rotate a",
        "agent show a",
        "pause a",
        "resume a",
        "restart a",
        "stop b",
        "start b",
        "restart web",
        "report status",
        "activity verify",
        "budget",
        "agent new c --template sysadmin",
        "template save a other",
        "template save a saved --replace",
        "agent new e --template saved",
    ]
    .map(Args::from)
    .to_vec();
    all.push(args!("up -f {} --yes", manifest.display().to_string()));
    all.push(args!("backup {}", archive.display().to_string()));
    all
}

#[test]
fn every_verb_answers_on_a_full_disk_and_all_recovers() {
    every_verb_answers_and_all_recovers(Exhausted::Space);
}

/// With a little left, SQLite calls the lack of space a failure of the disk.
#[test]
fn a_nearly_full_disk_is_not_taken_for_a_damaged_database() {
    let house = crate::house();
    let disk = Disk::mount(house.home(), "size=24m,mode=755");
    house.manifest(HOUSE);
    house.expect(0, "up");
    house.expect(0, "down");
    for left in [0, 4, 8, 16, 32, 64] {
        disk.exhaust(Exhausted::Space, &house);
        let filler = disk.at.join("filler");
        let size = fs::metadata(&filler).unwrap().len();
        let file = fs::OpenOptions::new().write(true).open(&filler).unwrap();
        file.set_len(size.saturating_sub(left << 10)).unwrap();
        let (code, _, said) = answer(&house, "up".into());
        assert!(!said.contains("damaged"), "{left} KiB: {code:?}: {said}");
        let (_, _, ended) = answer(&house, "down".into());
        assert!(!ended.contains("damaged"), "{left} KiB: {ended}");
    }
    disk.free(Exhausted::Space, &house);
    house.expect(0, "up");
    house.expect(0, "activity verify");
}

/// Files are copied onto drives before they go, so there must be space for both.
#[test]
fn files_move_onto_drives_only_where_there_is_space_for_both() {
    let house = crate::house();
    let disk = Disk::mount(house.home(), "size=96m,mode=755");
    let manifest =
        |drives: &str| format!("house: full\nagents:\n  a: {{ cell: sandbox{drives} }}\n");
    house.manifest(&manifest(""));
    house.expect(0, "up");
    house.expect(
        0,
        "exec a -- sh -c 'head -c 50M /dev/urandom > big; sha256sum big > sum'",
    );
    house.manifest(&manifest(", drives: { state: 16MiB, workspace: 128MiB }"));
    for command in ["plan", "up"] {
        refuses(&house, command, "cannot move onto its drives");
    }
    house.expect(0, "exec a -- sha256sum -c sum");
    let resize = |size: &str| {
        let status = Command::new("mount")
            .args(["-o", &format!("remount,size={size}")])
            .arg(&disk.at)
            .status();
        assert!(status.unwrap().success());
    };
    // Enough for a copy of the files, and not for all that the drives promise.
    resize("128m");
    for command in ["plan", "up"] {
        refuses(&house, command, "`drives` can take");
    }
    resize("192m");
    house.expect(0, "up");
    house.expect(0, "exec a -- sha256sum -c sum");
    // The drive has its space: what fills the disk takes none of it, and no file loses what was in it.
    fs::write(
        house.home().join("others"),
        vec![1; usize::try_from(free_space(&disk.at) - (1 << 20)).unwrap()],
    )
    .unwrap();
    house.expect(
        0,
        "exec a -- sh -c 'head -c 60M /dev/urandom > more; sha256sum big more > sum; sync'",
    );
    house.expect(0, "restart a");
    house.expect(0, "exec a -- sha256sum -c sum");
}

/// A house that has never run, too.
#[test]
fn drives_that_promise_more_than_there_is_are_refused_before_the_first_start() {
    let house = crate::house();
    let _disk = Disk::mount(house.home(), "size=96m,mode=755");
    house.manifest("house: full\nagents:\n  a: { cell: sandbox, drives: { state: 16MiB, workspace: 128MiB } }\n");
    for command in ["plan", "up"] {
        refuses(&house, command, "`drives` can take 144.0 MiB more");
    }
    house.manifest("house: full\nagents:\n  a: { cell: sandbox, drives: { state: 16MiB, workspace: 32MiB } }\n");
    house.expect(0, "up");
}

/// Requires that a command is refused with exit code 4, and that it prints this part.
fn refuses(house: &House, command: &str, part: &str) {
    let said = house.run(command);
    let text = [said.stdout, said.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert_eq!(said.status.code(), Some(4), "{text}");
    assert!(text.contains(part), "{part}: {text}");
}

fn free_space(at: &Path) -> u64 {
    let stat = rustix::fs::statvfs(at).unwrap();
    stat.f_bavail * stat.f_frsize
}

#[test]
fn every_verb_answers_without_inodes_and_all_recovers() {
    every_verb_answers_and_all_recovers(Exhausted::Inodes);
}

#[test]
fn every_verb_answers_without_descriptors_and_all_recovers() {
    every_verb_answers_and_all_recovers(Exhausted::Descriptors);
}

fn every_verb_answers_and_all_recovers(what: Exhausted) {
    let house = crate::house();
    let options = match what {
        Exhausted::Space => "size=24m,mode=755",
        Exhausted::Inodes | Exhausted::Descriptors => "size=64m,nr_inodes=2000,mode=755",
    };
    let disk = Disk::mount(house.home(), options);
    house.manifest(HOUSE);
    house.expect(0, "up");
    house.expect(0, "task add --to a before");
    house.expect(0, "template save a saved");
    let other = house.path("other.yaml");
    let text = fs::read_to_string(house.path("abbey.yaml")).unwrap();
    fs::write(&other, text.replace("  b: {", "  d: {")).unwrap();
    if what == Exhausted::Space {
        end_and_clean_what_fills_the_disk(&house, &disk);
    }
    let serve = house.control_plane_pid();
    disk.exhaust(what, &house);
    println!("verb without {what:?} | exit code | seconds | first line");
    let mut late = Vec::new();
    for verb in verbs(&other, &disk.at.join("backup.tar")) {
        let name = verb.0.join(" ");
        let (code, took, said) = answer(&house, verb);
        // What could not be written down was not begun.
        if what == Exhausted::Space && name == "restart a" {
            let fleet = house.json(0, "ps");
            assert!(fleet["agents"][0]["pid"].is_number(), "{fleet}");
        }
        let first = said
            .lines()
            .find(|l| !l.trim().is_empty())
            .unwrap_or_default();
        let shown = code.map_or("none".to_owned(), |c| c.to_string());
        println!(
            "{name:.60} | {shown} | {:.1} | {first:.100}",
            took.as_secs_f32()
        );
        if code.is_none() || said.contains("panicked") {
            late.push(name);
        }
        // Others may have freed a little meanwhile.
        disk.exhaust(what, &house);
    }
    assert!(
        late.is_empty(),
        "no answer from {late:?}\n{}",
        house.control_plane_log()
    );
    disk.free(what, &house);
    house.expect(
        0,
        args!(
            "up -f {} --yes",
            house.path("abbey.yaml").display().to_string()
        ),
    );
    assert_eq!(
        house.control_plane_pid(),
        serve,
        "the control plane was not restarted"
    );
    for agent in ["a", "b"] {
        house.wait_until_up(agent);
        house.expect(0, args!("exec {} -- true", agent));
    }
    until("the service is up again", || {
        house.json(0, "ps").to_string().contains("web")
    });
    house.expect(0, "task add --to a after");
    house.expect(0, "activity verify");
    house.expect(0, "restart a");
    house.wait_until_up("a");
    // And down, when there is nothing left again. Cells are stopped over a connection to hostd, so without a descriptor it
    // says that it goes on, and it does once there are some.
    disk.exhaust(what, &house);
    let (code, _, said) = answer(&house, "down".into());
    let stops = what == Exhausted::Descriptors && code == Some(124);
    assert!(code == Some(0) || stops, "{code:?}: {said}");
    if what != Exhausted::Descriptors {
        disk.free(what, &house);
    }
    if stops {
        // It may have had what it needs, and have ended, since the command gave up.
        let _ended = limit_files(serve, 4096);
        house.expect(0, "down");
    }
    house.expect(0, "up");
    house.expect(0, "activity verify");
    house.expect(0, "down");
}

fn kill_hostd(house: &House) {
    let hostd = abbey_cells::hostd::listening_process(&house.home());
    abbey_testkit::house::kill(hostd.unwrap());
}

/// Ending and pausing an agent, cleaning up in its cell, adopting the house and ending it need no space.
fn end_and_clean_what_fills_the_disk(house: &House, disk: &Disk) {
    house.wait_until_up("a");
    let fills = "dd if=/dev/zero of=big bs=64k";
    let fill = || {
        let (_, _, said) = answer(house, args!("exec a -- sh -c {}", fills));
        assert!(said.contains("No space left"), "{said}");
        disk.exhaust(Exhausted::Space, house);
    };
    fill();
    let succeeds = |verb: &str| {
        let (code, _, said) = answer(house, verb.into());
        println!("{verb} | {code:?} | {said:.100}");
        assert_eq!(code, Some(0), "{verb}: {said}");
    };
    for verb in ["pause a", "resume a", "stop a"] {
        succeeds(verb);
        disk.exhaust(Exhausted::Space, house);
    }
    // A start does need space; the agent has it once there is some.
    disk.free(Exhausted::Space, house);
    house.expect(0, "start a");
    disk.exhaust(Exhausted::Space, house);
    succeeds("exec a -- rm big");
    fill();
    house.kill_control_plane();
    succeeds("up");
    disk.exhaust(Exhausted::Space, house);
    // So does a hostd that was killed, alone and with the control plane.
    kill_hostd(house);
    succeeds("up");
    disk.exhaust(Exhausted::Space, house);
    kill_hostd(house);
    house.kill_control_plane();
    succeeds("down");
    disk.exhaust(Exhausted::Space, house);
    // A start needs space, and says where.
    let (code, _, said) = answer(house, "up".into());
    let at = format!(
        "free space or inodes on the file system of `{}`",
        house.home().display()
    );
    assert!(code == Some(0) || said.contains(&at), "{code:?}: {said}");
    disk.free(Exhausted::Space, house);
    house.expect(0, "up");
    house.expect(0, "exec a -- rm big");
}

/// Without inodes there is space, and nothing works: the checks, the reports and the reason of a start say so.
#[test]
fn missing_inodes_are_named_by_doctor_reports_and_why() {
    let house = crate::house();
    let disk = Disk::mount(house.home(), "size=128m,nr_inodes=2000,mode=755");
    house.manifest(HOUSE);
    house.expect(0, "up");
    let checked = |id: &str| {
        let output = house.run("doctor --json");
        let doc: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let checks = doc["checks"].as_array().unwrap();
        checks.iter().find(|c| c["id"] == id).unwrap().clone()
    };
    assert_eq!(checked("disk_inodes")["state"], "ok");
    let calm = house.json(0, "report status");
    assert!(!calm.to_string().contains("inodes"), "{calm}");
    disk.exhaust(Exhausted::Inodes, &house);
    assert_eq!(checked("disk_inodes")["state"], "failed");
    assert_eq!(checked("disk_space")["state"], "ok");
    // The file system of the home is in the report, although it is no device.
    let report = house.json(0, "report disk");
    let mount = disk.at.display().to_string();
    let observed = report["observed"].as_array().unwrap();
    let ours = observed.iter().find(|o| o["label"] == mount.as_str());
    let ours = ours.unwrap_or_else(|| panic!("{mount} in {report}"));
    assert_eq!(ours["amounts"]["total_inodes"], 2000, "{ours}");
    for name in ["disk", "status"] {
        let report = house.expect(0, args!("report {}", name));
        let line = report.lines().find(|l| l.contains("of its inodes left"));
        let line = line.unwrap_or_else(|| panic!("no inodes in {report}"));
        assert!(line.contains(&mount), "{line}");
    }
    // A cell that ends cannot be started again.
    abbey_testkit::house::kill(house.agent("a").pid.unwrap());
    until("the cause is known", || {
        disk.exhaust(Exhausted::Inodes, &house);
        house.expect(0, "why a").contains("No space left on device")
    });
    disk.free(Exhausted::Inodes, &house);
    house.wait_until_up("a");
}

const SITE: &str = "house: site\ndefaults: { cell: process, waive: [limits] }\nservices:\n  web: { kind: site, grace: 7d, cell: process }\nagents:\n  ada: { uses: [web] }\n";

#[test]
fn a_copy_that_does_not_fit_leaves_nothing_and_is_made_once_there_is_room() {
    let house = crate::house();
    let disk = Disk::mount(house.home(), "size=96m,mode=755");
    house.manifest(SITE);
    house.expect(0, "up");
    let data = house.home().join("services/web/data/ada");
    until("it has its site", || {
        house.audit_entries("service.open").len() == 1
    });
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join("film"), vec![b'x'; 32 << 20]).unwrap();
    let filler = disk.at.join("filler");
    fs::write(&filler, vec![b'x'; 30 << 20]).unwrap();
    house.manifest(&SITE.replace("{ uses: [web] }", "{}"));
    let said = house.expect_refusal(7, "up --yes --timeout 5s");
    for part in [
        "`web` is not as planned yet",
        "must stay free beside the copy",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let backups = house.home().join("services/web/backups");
    assert_eq!(fs::read_dir(&backups).unwrap().count(), 0);
    fs::remove_file(&filler).unwrap();
    until("the copy is made", || {
        house.audit_entries("service.close").len() == 1
    });
    let copies = fs::read_dir(&backups).unwrap();
    let copies: Vec<PathBuf> = copies.map(|e| e.unwrap().path()).collect();
    assert_eq!(copies.len(), 1, "{copies:?}");
    assert_eq!(
        fs::metadata(copies[0].join("film")).unwrap().len(),
        32 << 20
    );
}
