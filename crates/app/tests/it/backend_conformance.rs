//! The process and sandbox backends against the conformance suite, on the real kernel.

use abbey_cells::{Backend, CellProgram, CellSpec, Sandbox, ShimBackend};
use abbey_model::{
    Bytes, CellKind, CellName, ExitKind, Generation, Layer, Limits, Millis, Observed, Profile,
};
use abbey_testkit::args;
use abbey_testkit::conformance;
use abbey_testkit::hostd::Hostd;
use abbey_testkit::house::until;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

fn sleeper() -> (Hostd, ShimBackend, CellSpec) {
    let hostd = Hostd::start(env!("CARGO_BIN_EXE_abbey"));
    let cell = CellName::Service("sleeper".parse().unwrap());
    let uid = hostd.claim(&cell, 1);
    let group = hostd.config.group.clone();
    let backend = ShimBackend::new(&hostd.config.home, group.clone());
    let spec = CellSpec {
        kind: CellKind::Process,
        digest: "d1".into(),
        program: CellProgram::Path("/bin/sleep".into()),
        argv: vec!["sleep".into(), "600".into()],
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        cwd: PathBuf::from("/"),
        uid,
        limits: Limits {
            processes: 64,
            ..Limits::default()
        },
        waived: Default::default(),
        sandbox: None,
        microvm: None,
        container: None,
        network: None,
        forwards: Vec::new(),
        terminal: false,
        ready_within: None,
        run_dir: hostd.config.cell_records_dir().join(cell.to_string()),
        log_dir: hostd.config.home.join("logs").join(cell.to_string()),
        group,
        secrets: Vec::new(),
        asks_root: false,
        cell,
    };
    (hostd, backend, spec)
}

#[test]
fn process_backend_passes_the_conformance_suite() {
    let (_hostd, backend, spec) = sleeper();
    conformance::run_conformance_suite(&backend, &spec);
}

/// The same cell as a sandbox.
fn walled(spec: CellSpec) -> CellSpec {
    CellSpec {
        kind: CellKind::Sandbox,
        sandbox: Some(Sandbox {
            binds: Vec::new(),
            profile: Profile::Strict,
            tmp: Bytes(16 << 20),
        }),
        ..spec
    }
}

#[test]
fn sandbox_backend_passes_the_conformance_suite_and_reads_back_every_layer() {
    let (_hostd, backend, spec) = sleeper();
    let spec = walled(spec);
    conformance::run_conformance_suite(&backend, &spec);
    backend.start(&spec, Generation(3)).unwrap();
    let record = backend.record(&spec.cell).unwrap().unwrap();
    assert_eq!(record.layers, Layer::ALL.iter().copied().collect());
    backend.sweep(&spec.cell).unwrap();
}

#[test]
fn every_exit_has_a_cause_and_leaves_no_process() {
    let (hostd, backend, spec) = sleeper();
    let ended = |spec: &CellSpec, generation: u64| {
        let _may_fail_to_start = backend.start(spec, Generation(generation));
        until("it ended", || {
            matches!(backend.observe(&spec.cell).unwrap(), Observed::Exited(_))
        });
        let Observed::Exited(record) = backend.observe(&spec.cell).unwrap() else {
            panic!("it ended")
        };
        assert_eq!(record.generation, Generation(generation));
        backend.sweep(&spec.cell).unwrap();
        assert!(backend.list().unwrap().is_empty());
        record.exit
    };
    let shell = |script: &str| CellSpec {
        program: CellProgram::Path("/bin/sh".into()),
        argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
        ..spec.clone()
    };
    assert_eq!(ended(&shell("exit 3"), 1), ExitKind::Code { code: 3 });
    assert_eq!(
        ended(&shell("kill -11 $$"), 2),
        ExitKind::Signal { signal: 11 }
    );
    // Children that outlive the main process go with it.
    assert_eq!(
        ended(&shell("setsid sleep 600 & exit 0"), 3),
        ExitKind::Code { code: 0 }
    );
    // Never announces that it is ready.
    assert_eq!(
        ended(
            &CellSpec {
                terminal: false,
                ready_within: Some(Millis(300)),
                ..spec.clone()
            },
            4
        ),
        ExitKind::NotReady
    );
    // A missing program is a record, not a mystery.
    assert!(matches!(
        ended(
            &CellSpec {
                program: CellProgram::Path("/no/such".into()),
                ..spec.clone()
            },
            5
        ),
        ExitKind::SpawnFailed { .. }
    ));
    // Over its memory limit.
    let hungry = CellSpec {
        limits: Limits {
            memory: Bytes(32 << 20),
            ..spec.limits
        },
        ..shell("exec python3 -c 'x = bytearray(200 << 20)'")
    };
    assert_eq!(ended(&hungry, 6), ExitKind::OutOfMemory);
    // Ignores the request, from when it says so, and is killed.
    let said = hostd.path("said");
    std::fs::create_dir(&said).unwrap();
    std::fs::set_permissions(&said, std::fs::Permissions::from_mode(0o777)).unwrap();
    let ignores = said.join("ignores");
    let script = format!(
        "trap '' TERM; : > {}; while :; do sleep 0.1; done",
        ignores.display()
    );
    let stubborn = shell(&script);
    backend.start(&stubborn, Generation(7)).unwrap();
    until("it ignores the request", || ignores.exists());
    backend.stop(&stubborn.cell, Millis(200)).unwrap();
    until("it was killed", || {
        matches!(
            backend.observe(&stubborn.cell).unwrap(),
            Observed::Exited(_)
        )
    });
    let Observed::Exited(record) = backend.observe(&stubborn.cell).unwrap() else {
        panic!("it ended")
    };
    assert_eq!(record.exit, ExitKind::Killed);
    backend.sweep(&stubborn.cell).unwrap();
}

#[test]
fn a_damaged_record_is_reported_not_treated_as_missing() {
    let (_hostd, backend, spec) = sleeper();
    std::fs::create_dir_all(&spec.run_dir).unwrap();
    std::fs::write(spec.run_dir.join("shim.json"), "{").unwrap();
    assert!(
        backend
            .observe(&spec.cell)
            .unwrap_err()
            .to_string()
            .contains("is damaged")
    );
}

/// An agent with drives fills those and not the disk of the host; its files survive, grow with the manifest, are in a
/// backup, and are not mounted on the host.
#[test]
fn an_agent_that_fills_its_disk_affects_only_itself() {
    const SIZED: &str = "house: sized\ndefaults: { cell: sandbox }\nagents:\n  a: { template: sysadmin, drives: { state: 16MiB, workspace: 32MiB } }\n  b: { template: sysadmin }\n";
    let house = crate::house();
    let shell =
        |agent: &str, script: &str| house.expect(0, args!("exec {} -- sh -c {}", agent, script));
    let plain = SIZED.replace(", drives: { state: 16MiB, workspace: 32MiB }", "");
    house.manifest(&plain);
    house.expect(0, "up");
    shell(
        "a",
        "echo before > $HOME/kept; echo work > /agent/workspace/kept",
    );
    // What was there comes along.
    house.manifest(SIZED);
    house.expect(0, "up");
    assert_eq!(
        shell("a", "cat $HOME/kept /agent/workspace/kept"),
        "before\nwork\n"
    );
    house.expect(0, "task add 'show system stats' --to a --wait");
    let mounted = || std::fs::read_to_string("/proc/mounts").unwrap();
    assert!(!mounted().contains(&house.home().display().to_string()));
    for place in ["$HOME", "/agent/workspace"] {
        let script = format!(
            "{{ head -c 64M /dev/zero > {place}/fill; truncate -s 1P {place}/sparse; }} 2>&1; true"
        );
        let told = shell("a", &script);
        assert!(told.contains("No space left"), "{place}: {told}");
        shell("a", &format!("rm -f {place}/fill {place}/sparse"));
    }
    // Neither can it have more files than its own file system takes.
    let many = "cd /agent/workspace; seq -f d%.0f 1 100000 | xargs mkdir 2>/dev/null; n=$(ls | grep -c '^d[0-9]'); test $n -gt 100 && test $n -lt 100000 && rm -r d*";
    shell("a", many);
    shell("b", "echo well > $HOME/x");
    // The charter is still the house's.
    assert!(
        !house
            .run("exec a -- rm -f /agent/workspace/SOUL.md")
            .status
            .success()
    );
    let archive = house.path("backup.tar").display().to_string();
    house.expect(0, args!("backup {}", archive));
    let listed = std::process::Command::new("tar")
        .args(["-xOf", &archive, "agents/a/workspace/kept"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&listed.stdout), "work\n");
    // Larger at its next boot, and the same files.
    house.manifest(&SIZED.replace("32MiB", "48MiB"));
    house.expect(0, "up");
    let blocks = shell("a", "df -m /agent/workspace | tail -1 | awk '{print $2}'");
    assert!(blocks.trim().parse::<u32>().unwrap() > 36, "{blocks}");
    assert_eq!(shell("a", "cat /agent/workspace/kept"), "work\n");
    // Without them it would not have its files.
    house.manifest(&plain);
    let why = house.expect_refusal(4, "up");
    assert!(
        why.contains("its files are on the file systems of its sandbox"),
        "{why}"
    );
    house.expect(0, "down");
    let devices = std::process::Command::new("losetup")
        .args(["-a"])
        .output()
        .unwrap();
    let devices = String::from_utf8_lossy(&devices.stdout).into_owned();
    assert!(
        !devices.contains(&house.home().display().to_string()),
        "{devices}"
    );
}
