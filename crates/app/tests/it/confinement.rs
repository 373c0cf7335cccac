//! What an agent, or the control plane's user, gains by changing files and links below the house while root works
//! there: nothing. Each attack has a victim outside whose content, owner and mode must stay.

use abbey_cells::hostd::{Allocation, FileEntry, FileName, HostdApi, HostdOperation};
use abbey_cells::{Bind, BootOrigin, CellProgram, CellSpec, MicroVm, Sandbox};
use abbey_model::{Bytes, CellKind, CellName, Drives, Generation, Limits, Profile, Vmm};
use abbey_testkit::hostd::Hostd;
use abbey_testkit::house::{House, until};
use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn run() -> CellName {
    CellName::Run("r".parse().unwrap())
}

fn agent() -> CellName {
    CellName::Agent("a".parse().unwrap())
}

/// A directory of root's with one file, and what it is like.
struct Victim(PathBuf, Vec<(PathBuf, u32, u32, Vec<u8>)>);

impl Victim {
    fn new(dir: PathBuf) -> Victim {
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(dir.join("file"), "canary\n").unwrap();
        let state = Victim::state(&dir);
        Victim(dir, state)
    }

    fn state(dir: &Path) -> Vec<(PathBuf, u32, u32, Vec<u8>)> {
        let below = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
        let mut all: Vec<_> = below.chain([dir.to_owned()]).collect();
        all.sort();
        let described = all.into_iter().map(|p| {
            let meta = fs::symlink_metadata(&p).unwrap();
            let content = fs::read(&p).unwrap_or_default();
            (p, meta.mode(), meta.uid(), content)
        });
        described.collect()
    }

    fn assert_untouched(&self) {
        assert_eq!(Victim::state(&self.0), self.1);
    }
}

/// A shell as this user.
fn shell(uid: u32, script: &str, args: &[&Path]) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", script, "sh"])
        .args(args)
        .uid(uid)
        .gid(uid);
    command
}

/// A shell that runs until this is dropped.
struct Racer(Child);

impl Racer {
    fn start(uid: u32, script: &str, args: &[&Path]) -> Racer {
        let mut command = shell(uid, script, args);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Racer(command.spawn().unwrap())
    }

    fn end(&mut self) {
        let _ended_already = self.0.kill().and_then(|()| self.0.wait());
    }
}

impl Drop for Racer {
    fn drop(&mut self) {
        self.end();
    }
}

/// Header of one entry of a tar archive.
fn header(path: &str, kind: tar::EntryType, size: u64) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path(path).unwrap();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o666);
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn file(path: &str, text: &str) -> Vec<u8> {
    let mut bytes = header(path, tar::EntryType::Regular, text.len() as u64);
    bytes.extend_from_slice(text.as_bytes());
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// An archive whose second entry is sent once `swap` has replaced the directory of the first.
#[test]
fn a_directory_that_becomes_a_link_while_files_are_staged_leads_nowhere() {
    let hostd = Hostd::start(env!("CARGO_BIN_EXE_abbey"));
    let uid = hostd.claim(&run(), 1).unwrap();
    let victim = Victim::new(hostd.path("victim"));
    let dir = hostd.config.home.join("runs/r");
    let (reader, mut writer) = std::io::pipe().unwrap();
    let client = hostd.client.clone();
    let staging = std::thread::spawn(move || {
        client.call(HostdOperation::Stage { owner: run() }, &[reader.as_fd()])
    });
    writer
        .write_all(&header("d/", tar::EntryType::Directory, 0))
        .unwrap();
    until("the first entry is there", || dir.join("d").exists());
    let swap = "cd \"$1\" && rmdir d && ln -s \"$2\" d";
    assert!(
        shell(uid, swap, &[&dir, &victim.0])
            .status()
            .unwrap()
            .success()
    );
    let _refused_already = writer.write_all(&file("d/new", "planted"));
    let _refused_already = writer.write_all(&[0; 1024]);
    drop(writer);
    let ended = staging.join().unwrap();
    victim.assert_untouched();
    assert!(ended.is_err(), "{ended:?}");
}

/// A process of the owner's that swaps every name between a directory and a link as fast as it can, while hostd stages,
/// collects, prepares, reads, packs and discards: for a minute, or ABBEY_FUZZ_SECONDS.
#[test]
fn a_racing_agent_gains_nothing() {
    let seconds = std::env::var("ABBEY_FUZZ_SECONDS")
        .ok()
        .and_then(|s| s.parse().ok());
    let hostd = Hostd::start(env!("CARGO_BIN_EXE_abbey"));
    let victim = Victim::new(hostd.path("victim"));
    // What the owner must not see is readable for everybody, below a directory that nobody may enter.
    let closed = hostd.path("closed");
    fs::create_dir(&closed).unwrap();
    fs::write(closed.join("f"), "hidden canary").unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    let (run_uid, uid) = (
        hostd.claim(&run(), 1).unwrap(),
        hostd.claim(&agent(), 2).unwrap(),
    );
    let home = hostd.config.home.clone();
    let script = "cd \"$1\" || exit 1
while :; do
  for name in d memory services shared; do
    mv -T $name aside 2>/dev/null; ln -s \"$2\" $name 2>/dev/null; mv -T $name gone 2>/dev/null
    ln -s \"$3\" $name 2>/dev/null; rm -f $name gone 2>/dev/null; mv -T aside $name 2>/dev/null
  done
done 2>/dev/null";
    let places = [
        (run_uid, home.join("runs/r")),
        (uid, home.join("agents/a/workspace")),
        (uid, home.join("agents/a/home")),
    ];
    let race =
        |(uid, place): &(u32, PathBuf)| Racer::start(*uid, script, &[place, &victim.0, &closed]);
    let mut racers: Vec<Racer> = places.iter().map(race).collect();
    let entries: Vec<u8> = [
        header("d/", tar::EntryType::Directory, 0),
        (0..40)
            .flat_map(|n| file(&format!("d/f{n}"), "planted"))
            .collect(),
        file("d/file", "overwritten"),
        vec![0; 1024],
    ]
    .concat();
    let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(60));
    let (mut staged, mut rounds) = (0, 0);
    while Instant::now() < end {
        rounds += 1;
        let (reader, mut writer) = std::io::pipe().unwrap();
        let bytes = entries.clone();
        let sender = std::thread::spawn(move || writer.write_all(&bytes).is_ok());
        let stage = HostdOperation::Stage { owner: run() };
        staged += u32::from(hostd.client.call(stage, &[reader.as_fd()]).is_ok());
        drop(reader);
        let _refused_midway = sender.join();
        let content = || "from the house".to_owned();
        let names = [
            FileName::Charter,
            FileName::Token,
            FileName::Shared("s".parse().unwrap()),
            FileName::Credential("d".parse().unwrap()),
            FileName::Heartbeat,
        ];
        let files = names.into_iter().map(|name| FileEntry {
            name,
            content: content(),
        });
        let _lost_the_race = hostd.client.call(
            HostdOperation::Prepare {
                owner: agent(),
                files: files.collect(),
            },
            &[],
        );
        for packed in [
            HostdOperation::Collect {
                owner: run(),
                paths: vec!["d".into(), "d/f".into(), "d/file".into()],
            },
            HostdOperation::Pack {
                owner: Some("a".parse().unwrap()),
                services: false,
            },
        ] {
            let (mut reader, writer) = std::io::pipe().unwrap();
            let taking = std::thread::spawn(move || {
                let mut bytes = Vec::new();
                reader.read_to_end(&mut bytes).map(|_| bytes).unwrap()
            });
            let _lost_the_race = hostd.client.call(packed, &[writer.as_fd()]);
            drop(writer);
            let bytes = taking.join().unwrap();
            let holds = |text: &[u8]| bytes.windows(text.len()).any(|w| w == text);
            assert!(!holds(b"canary"), "a file from outside was packed");
        }
        // Its last command may still be under way.
        racers[0].end();
        until("the files are gone", || {
            let discarded = HostdOperation::Discard { owner: run() };
            hostd.client.call(discarded, &[]).is_ok()
        });
        hostd.claim(&run(), 1);
        racers[0] = race(&places[0]);
        victim.assert_untouched();
    }
    drop(racers);
    println!("{rounds} rounds, staged whole in {staged}");
    victim.assert_untouched();
    assert!(fs::read_dir(&closed).unwrap().count() == 1);
}

fn spec(hostd: &Hostd, cell: CellName, kind: CellKind) -> CellSpec {
    let owners = hostd.client.owners().unwrap();
    let uid = owners[&cell].uid;
    let sandbox = Sandbox {
        binds: Vec::new(),
        profile: Profile::Strict,
        tmp: Bytes(1 << 20),
    };
    CellSpec {
        kind,
        digest: "d".into(),
        program: CellProgram::Path("/bin/cat".into()),
        argv: vec!["cat".into(), "f".into()],
        env: Vec::new(),
        cwd: PathBuf::from("/"),
        uid,
        limits: Limits::default(),
        waived: [abbey_model::Layer::Limits].into_iter().collect(),
        sandbox: (kind == CellKind::Sandbox).then_some(sandbox),
        microvm: None,
        container: None,
        network: None,
        forwards: Vec::new(),
        terminal: false,
        ready_within: None,
        run_dir: PathBuf::from("/x"),
        log_dir: PathBuf::from("/x"),
        group: "g".into(),
        secrets: Vec::new(),
        asks_root: false,
        cell,
    }
}

fn start(hostd: &Hostd, spec: CellSpec) -> Result<(), String> {
    let spec = Box::new(spec);
    let started = HostdOperation::Start {
        generation: Generation(1),
        spec,
    };
    hostd
        .client
        .call(started, &[])
        .map(drop)
        .map_err(|e| e.to_string())
}

/// hostd is no deputy: it lends a cell neither a directory nor a file that the cell's user can't reach.
#[test]
fn hostd_lends_a_cell_no_path_that_its_user_cannot_reach() {
    let hostd = Hostd::start(env!("CARGO_BIN_EXE_abbey"));
    hostd.claim(&run(), 1);
    let uid = hostd.claim(&agent(), 2).unwrap();
    let closed = hostd.path("closed");
    fs::create_dir(&closed).unwrap();
    fs::write(closed.join("f"), "hidden canary").unwrap();
    fs::set_permissions(closed.join("f"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    // Working directory and program, of a cell and of a further program in it.
    let mut inside = spec(&hostd, run(), CellKind::Process);
    inside.cwd.clone_from(&closed);
    let why = start(&hostd, inside).unwrap_err();
    assert!(why.contains("enter the working directory"), "{why}");
    let _swept = hostd
        .client
        .call(HostdOperation::Sweep { cell: run() }, &[]);
    let mut program = spec(&hostd, run(), CellKind::Process);
    program.program = CellProgram::Path(closed.join("f"));
    let why = start(&hostd, program).unwrap_err();
    assert!(why.contains("execute the program"), "{why}");
    let _swept = hostd
        .client
        .call(HostdOperation::Sweep { cell: run() }, &[]);
    let bound = |cell: CellName, source: PathBuf| {
        let mut spec = spec(&hostd, cell, CellKind::Sandbox);
        let bind = Bind {
            source,
            path: "/x".into(),
            writable: false,
        };
        spec.sandbox.as_mut().unwrap().binds.push(bind);
        start(&hostd, spec).unwrap_err()
    };
    let why = bound(run(), closed.join("f"));
    assert!(
        why.contains("is not a program that everybody may run"),
        "{why}"
    );
    // A parent that is a link, and a directory in which the link can be put later.
    let lent = hostd.path("lent");
    fs::create_dir(&lent).unwrap();
    symlink(&closed, lent.join("link")).unwrap();
    let why = bound(run(), lent.join("link/f"));
    assert!(
        why.contains("is not a program that everybody may run"),
        "{why}"
    );
    fs::copy("/bin/true", lent.join("true")).unwrap();
    for (owner, mode) in [(hostd.config.serve_uid, 0o755), (uid, 0o755), (0, 0o777)] {
        chown(&lent, Some(owner), Some(0)).unwrap();
        fs::set_permissions(&lent, fs::Permissions::from_mode(mode)).unwrap();
        let why = bound(run(), lent.join("true"));
        assert!(why.contains("a user of this house can change"), "{why}");
    }
    // Its own files, of which it made one a link, or what is below a directory of its own.
    let own = hostd.config.home.join("agents/a");
    symlink(closed.join("f"), own.join("workspace/SOUL.md")).unwrap();
    let why = bound(agent(), own.join("workspace/SOUL.md"));
    assert!(why.contains("could not mount"), "{why}");
    for below in ["home/x", "workspace/memory/x", "drives", ""] {
        let why = bound(agent(), own.join(below));
        assert!(why.contains("cannot be mounted"), "{below}: {why}");
    }
    // Drives and disks are made by root beside the files, where only an agent can't put a link.
    let mut microvm = spec(&hostd, run(), CellKind::Microvm);
    let size = Bytes(16 << 20);
    microvm.microvm = Some(MicroVm {
        image: "base".into(),
        vmm: Vmm::default(),
        drives: Some(Drives {
            state: size,
            workspace: size,
            scratch: size,
        }),
        origin: BootOrigin::default(),
        brings: false,
        take: Vec::new(),
        images: PathBuf::new(),
        files: PathBuf::new(),
    });
    let why = start(&hostd, microvm).unwrap_err();
    assert!(why.contains("cannot have drives"), "{why}");
    let sizes = abbey_cells::hostd::Disks {
        state: Bytes(16 << 20),
        workspace: Bytes(16 << 20),
    };
    let disks = Allocation {
        disks: Some(sizes),
        ..hostd.client.owners().unwrap()[&run()].clone()
    };
    let allocate = HostdOperation::Allocate {
        owner: run(),
        allocation: disks,
    };
    let why = hostd.client.call(allocate, &[]).unwrap_err().to_string();
    assert!(why.contains("cannot have disks"), "{why}");
}

/// What is staged, moved or brought back must be at rest.
#[test]
fn files_of_a_running_cell_are_neither_staged_nor_moved() {
    let hostd = Hostd::start(env!("CARGO_BIN_EXE_abbey"));
    hostd.claim(&run(), 1);
    hostd.claim(&agent(), 2);
    for cell in [run(), agent()] {
        let mut sleeper = spec(&hostd, cell, CellKind::Process);
        sleeper.program = CellProgram::Path("/bin/sleep".into());
        sleeper.argv = vec!["sleep".into(), "600".into()];
        start(&hostd, sleeper).unwrap();
    }
    let (reader, _writer) = std::io::pipe().unwrap();
    let stamp = || "2026-11-26T00-00-00-000Z".to_owned();
    for refused in [
        HostdOperation::Stage { owner: run() },
        HostdOperation::Discard { owner: run() },
        HostdOperation::Archive {
            owner: agent(),
            stamp: stamp(),
        },
        HostdOperation::Restore {
            owner: agent(),
            stamp: stamp(),
        },
    ] {
        let why = hostd
            .client
            .call(refused, &[reader.as_fd()])
            .unwrap_err()
            .to_string();
        assert!(why.contains("still has a running cell"), "{why}");
    }
    for cell in [run(), agent()] {
        hostd
            .client
            .call(HostdOperation::Sweep { cell }, &[])
            .unwrap();
    }
}

/// The directory of archives is root's, or it isn't used: what the control plane's user prepared there would be brought
/// back as an agent's files.
#[test]
fn archives_that_others_prepared_are_not_used() {
    let hostd = Hostd::start(env!("CARGO_BIN_EXE_abbey"));
    hostd.claim(&agent(), 2);
    let removed = hostd.config.home.join("removed");
    let serve = hostd.config.serve_uid;
    let planted = shell(
        serve,
        "mkdir -p \"$1/a-2026-11-26T00-00-00-000Z/home\"",
        &[&removed],
    );
    assert!({ planted }.status().unwrap().success());
    let archive = HostdOperation::Archive {
        owner: agent(),
        stamp: "s".into(),
    };
    let why = hostd.client.call(archive, &[]).unwrap_err().to_string();
    assert!(why.contains("belongs to user"), "{why}");
    assert!(hostd.config.home.join("agents/a/home").exists());
}

/// A house of root's that is down.
fn stopped() -> (House, u32) {
    let house = crate::up(crate::TWO);
    house.expect(0, "down");
    let serve = fs::metadata(house.home().join("abbey.db")).unwrap().uid();
    assert_ne!(serve, 0);
    (house, serve)
}

/// Replaces a file of the control plane's by a link, as the control plane's user can.
fn replace(house: &House, serve: u32, path: &str, target: &Path) {
    let path = house.home().join(path);
    let script = "rm -rf \"$1\" && ln -s \"$2\" \"$1\"";
    assert!(
        shell(serve, script, &[&path, target])
            .status()
            .unwrap()
            .success()
    );
}

#[test]
fn root_follows_no_link_that_the_control_plane_s_user_made() {
    let (house, serve) = stopped();
    let victim = Victim::new(house.path("victim"));
    for (path, target) in [
        ("run/serve.lock", victim.0.join("file")),
        ("abbey.db", victim.0.join("file")),
        ("signing.key", victim.0.join("file")),
        ("operator.token", victim.0.join("file")),
        ("backups", victim.0.clone()),
        ("egress", victim.0.clone()),
    ] {
        let kept = house.path("kept");
        let path_in = house.home().join(path);
        if path_in.exists() {
            fs::rename(&path_in, &kept).unwrap();
        }
        replace(&house, serve, path, &target);
        for verb in ["plan", "up", "ps", "doctor"] {
            house.run(verb);
            victim.assert_untouched();
        }
        let refused = house.run("up");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            !refused.status.success() && said.contains(path.rsplit('/').next().unwrap()),
            "{path}: {said}"
        );
        fs::remove_file(&path_in).unwrap();
        if kept.exists() {
            fs::rename(&kept, &path_in).unwrap();
        }
    }
    house.expect(0, "plan");
    house.expect(0, "up");
    victim.assert_untouched();
}

/// What the control plane's user puts in the place of a file that root reads holds no command up.
#[test]
fn root_waits_for_nothing_that_the_control_plane_s_user_put_there() {
    let (house, serve) = stopped();
    for path in [
        "operator.token",
        "signing.key",
        "abbey.db",
        "run/serve.lock",
        "run/serve.json",
        "run/alive",
        "consent.json",
        "agents/sysadmin/token",
    ] {
        let (path_in, kept) = (house.home().join(path), house.path("kept"));
        let existed = path_in.exists();
        if existed {
            fs::rename(&path_in, &kept).unwrap();
        }
        let put = shell(serve, "mkfifo -m 666 \"$1\"", &[&path_in]).status();
        if put.unwrap().success() {
            for verb in ["plan", "doctor", "ps", "up"] {
                let abbey = house.command(verb);
                let mut command = Command::new("timeout");
                command.arg("60").arg(abbey.get_program());
                command.args(abbey.get_args()).env_clear();
                let env = abbey.get_envs().filter_map(|(k, v)| Some((k, v?)));
                command.envs(env).current_dir(house.path(""));
                let ended = command.output().unwrap();
                assert_ne!(ended.status.code(), Some(124), "{verb} waits for {path}");
            }
            house.run("down");
            let _replaced = fs::remove_file(&path_in);
        }
        if existed {
            fs::rename(&kept, &path_in).unwrap();
        }
    }
    house.expect(0, "up");
}

/// A credential goes to whom it belongs, and to nobody who put a socket in the place of the house's.
#[test]
fn a_credential_is_sent_only_to_its_owner() {
    let (house, serve) = stopped();
    let socket = house.home().join("run/operator.sock");
    let stranger = serve + 7;
    let heard = house.path("heard");
    fs::write(&heard, "").unwrap();
    chown(&heard, Some(stranger), None).unwrap();
    let place = house.path("place");
    fs::create_dir(&place).unwrap();
    chown(&place, Some(stranger), None).unwrap();
    let listen = "exec python3 -c 'import socket,sys\ns=socket.socket(socket.AF_UNIX)\ns.bind(sys.argv[1])\ns.listen()\nwhile True:\n  c,_=s.accept()\n  open(sys.argv[2],\"ab\").write(c.recv(65536))\n  c.close()' \"$1\" \"$2\"";
    let theirs = place.join("s");
    let _listener = Racer::start(stranger, listen, &[&theirs, &heard]);
    until("it listens", || theirs.exists());
    fs::rename(&theirs, &socket).unwrap();
    let token = house.operator_token();
    let said = house.run("ps");
    assert!(!said.status.success());
    let heard = fs::read_to_string(&heard).unwrap();
    assert!(!heard.contains(token.trim()), "{heard}");
}

#[test]
fn a_home_of_another_user_is_refused_and_not_changed() {
    let house = crate::house();
    house.manifest(crate::TWO);
    fs::create_dir(house.home()).unwrap();
    chown(house.home(), Some(4242), Some(4242)).unwrap();
    for verb in ["up", "plan"] {
        let output = house.run(verb);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            verb == "plan" || !output.status.success() && said.contains("belongs to user 4242"),
            "{verb}: {said}"
        );
        assert_eq!(fs::read_dir(house.home()).unwrap().count(), 0, "{verb}");
    }
}

/// An agent's own files can degrade only that agent, and what the house needs there it makes again.
#[test]
fn what_an_agent_does_to_its_files_holds_up_no_change_of_the_manifest() {
    let agents = "house: files\ndefaults: { cell: sandbox, waive: [limits] }\nagents:\n  bad: { template: sysadmin }\n";
    let house = crate::up(agents);
    let victim = Victim::new(house.path("victim"));
    let script = "cd /work 2>/dev/null; cd ~/../workspace 2>/dev/null || cd \"$ABBEY_WORKSPACE\" || exit 9
rm -rf memory HEARTBEAT.md MEMORY.md shared; ln -s /etc memory; ln -s /etc/passwd HEARTBEAT.md; mkfifo MEMORY.md; mkdir -p AGENTS.md/x
cd ~ && rm -rf token services && mkdir token && ln -s / services && mkdir -p $(seq -s/ 1 300)";
    house.run(abbey_testkit::args!("exec bad -- sh -c {}", script));
    let workspace = house.home().join("agents/bad/workspace");
    assert!(
        fs::symlink_metadata(workspace.join("memory"))
            .unwrap()
            .is_symlink(),
        "the attack works"
    );
    house.manifest(&format!("{agents}  good: {{ template: sysadmin }}\n"));
    house.expect(0, "up");
    house.expect(0, "exec good -- true");
    house.expect(0, "agent rotate bad");
    house.expect(0, "backup files.tar");
    assert!(workspace.join("memory").is_dir());
    victim.assert_untouched();
    house.manifest(&agents.replace("bad:", "good:"));
    house.expect(0, "up --yes");
    house.expect(0, "exec good -- true");
}
