//! Single commands in fresh cells (`abbey run`).

use abbey_testkit::args;
use abbey_testkit::house::{House, until};
use abbey_testkit::outside::Outside;
use std::process::Stdio;

const ONE: &str =
    "house: runs\ndefaults: { cell: sandbox }\nagents:\n  a: { template: orchestrator }\n";

fn up() -> House {
    crate::up(ONE)
}

fn rules() -> String {
    let listed = std::process::Command::new("/usr/sbin/nft")
        .args(["list", "ruleset"])
        .output();
    String::from_utf8(listed.unwrap().stdout).unwrap()
}

/// No command left anything: no files, cells, control groups, allocations, rules or interfaces.
fn nothing_left(house: &House) {
    let list = |dir: &str| {
        let entries = std::fs::read_dir(house.home().join(dir)).unwrap();
        let names = entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
        names
            .filter(|n| n.starts_with('r') && n != "removed")
            .collect::<Vec<_>>()
    };
    for dir in ["runs", "run/cells", "logs"] {
        assert_eq!(list(dir), Vec::<String>::new(), "{dir}");
    }
    let claims = std::fs::read_to_string(house.home().join("hostd/claims.json")).unwrap();
    assert!(!claims.contains("\"run-"), "{claims}");
    assert!(!rules().contains("10.77.255."), "{}", rules());
}

#[test]
fn run_uses_a_fresh_cell_and_removes_it() {
    let house = up();
    let script =
        "import os;sum(range(10**6));print(os.getuid(),os.getcwd(),os.path.exists('/home'))";
    let said = house.expect(0, args!("--json run -- python3 -c {}", script));
    let json: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(json["stdout"], "1000 /work False\n", "{json}");
    assert_eq!(json["layers"].as_array().unwrap().len(), 13, "{json}");
    assert!(json["usage"]["cpu_us"].as_u64().unwrap() > 1000, "{json}");
    assert!(
        json["usage"]["memory_peak_bytes"].as_u64().unwrap() > 100_000,
        "{json}"
    );
    // Its status is the caller's, as container tools have it.
    assert_eq!(house.expect(7, "run -- sh -c 'echo out; exit 7'"), "out\n");
    assert!(
        house
            .expect_refusal(127, "run -- no-such-program")
            .contains("not found")
    );
    assert!(house.expect_refusal(126, "run -- /etc").contains("denied"));
    house.expect(143, "run -- sh -c 'kill -TERM $$'");
    assert!(
        house
            .expect_refusal(124, "run --timeout 300ms -- sleep 60")
            .contains("exceeded its time limit")
    );
    let bomb = "x='a'*300_000_000";
    let said = house.expect_refusal(137, args!("run --memory 48MiB -- python3 -c {}", bomb));
    assert!(said.contains("memory"), "{said}");
    // Bad wishes are refused before anything is made.
    for (args, rule) in [
        (["--cell", "moon"], "unknown cell kind `moon`"),
        (["--egress", "nowhere"], "names no port"),
        (["--memory", "1KiB"], "4 MiB"),
        (["--profile", "none"], "unknown profile `none`"),
        (["--waive", "gravity"], "unknown layer `gravity`"),
    ] {
        let mut all = vec!["run"];
        all.extend(args);
        all.extend(["--", "true"]);
        let said = house.expect_refusal(125, &all);
        assert!(said.contains(rule), "{args:?}: {said}");
    }
    assert!(
        house
            .expect_refusal(2, "run --out ../x -- true")
            .contains("must be a path inside the working directory")
    );
    assert!(
        house
            .expect_refusal(2, "run --memory much -- true")
            .contains("invalid size `much`")
    );
    let few = house.expect_refusal(125, "run --processes 0 -- true");
    assert!(few.contains("`processes` must be at least 8"), "{few}");
    nothing_left(&house);
}

#[test]
fn run_copies_files_in_and_out() {
    let house = up();
    std::fs::write(house.path("in.txt"), "hello\n").unwrap();
    std::fs::create_dir_all(house.path("tree/below")).unwrap();
    std::fs::write(house.path("tree/below/leaf"), "leaf").unwrap();
    let script = "tr a-z A-Z < in.txt > out.txt && mkdir -p made && cp tree/below/leaf made/ && ln -s /etc/hostname made/link && echo done";
    let said = house.expect(
        0,
        args!(
            "run --in in.txt --in tree --out out.txt --out made -- sh -c {}",
            script
        ),
    );
    assert_eq!(said, "done\n");
    assert_eq!(
        std::fs::read_to_string(house.path("out.txt")).unwrap(),
        "HELLO\n"
    );
    assert_eq!(
        std::fs::read_to_string(house.path("made/leaf")).unwrap(),
        "leaf"
    );
    assert!(
        !house.path("made/link").exists(),
        "links stay where they are"
    );
    // A link in the place of a file, or of its directory, leads nowhere.
    for script in ["ln -s /etc/hostname out.txt", "ln -s /etc made && true"] {
        let said = house.expect_refusal(
            125,
            args!("run --out out.txt --out made/passwd -- sh -c {}", script),
        );
        assert!(said.contains("could not take along"), "{said}");
    }
    assert!(
        house
            .expect_refusal(2, "run --in absent -- true")
            .contains("cannot copy")
    );
    nothing_left(&house);
}

/// Files with holes come back whole, links as `cp` has them, and nothing that others may write to.
#[test]
fn run_returns_sparse_files_links_and_safe_modes() {
    use std::os::unix::fs::MetadataExt;
    let house = up();
    let script = "umask 0; truncate -s 10M whole; dd if=/dev/zero of=tail bs=1M count=1 seek=9 2>&-; echo end >> tail; \
        mkdir -p d/e; truncate -s 1M d/e/hole; ln -s e/hole d/in; ln -s ../x d/out; echo t > d/token; chmod 777 d/token";
    let ran = house.run(args!(
        "run --out whole --out tail --out d -- sh -c {}",
        script
    ));
    let told = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert_eq!(ran.status.code(), Some(0), "{told}");
    let size = |name: &str| std::fs::metadata(house.path(name)).unwrap().len();
    assert_eq!((size("whole"), size("tail")), (10 << 20, (10 << 20) + 4));
    assert_eq!((size("d/e/hole"), size("d/in")), (1 << 20, 1 << 20));
    assert!(
        told.contains("`d/out` was left out: it is a link"),
        "{told}"
    );
    for name in ["whole", "d", "d/e/hole", "d/token"] {
        let mode = std::fs::metadata(house.path(name)).unwrap().mode();
        assert_eq!(mode & 0o022, 0, "{name} {mode:o}");
    }
    std::fs::create_dir(house.path("in")).unwrap();
    let sparse = std::fs::File::create(house.path("in/sparse")).unwrap();
    sparse.set_len(1 << 20).unwrap();
    let seen = house.expect(0, "run --in in -- stat -c %s in/sparse");
    assert_eq!(seen, "1048576\n");
    let told = house.expect_refusal(125, "run --out vast -- truncate -s 1T vast");
    assert!(told.contains("the rest being holes"), "{told}");
    nothing_left(&house);
}

/// A command reaches what its arguments allow: nothing, listed names through the proxy, or every public address.
#[test]
fn run_reaches_only_its_allowed_destinations() {
    let _outside = Outside::connect(&["198.51.100.7", "192.168.77.7"]);
    let house = up();
    let connect = |egress: &str, to: &str| {
        let script = format!(
            "import socket,errno\ns=socket.socket();s.settimeout(5)\nr=s.connect_ex(('{to}',80))\nprint(errno.errorcode.get(r,'ok'))"
        );
        let args = ["run", "--egress", egress, "--", "python3", "-c", &script];
        house.expect(0, &args).trim().to_owned()
    };
    assert_eq!(connect("none", "198.51.100.7"), "ENETUNREACH");
    assert_eq!(connect("full", "198.51.100.7"), "ok");
    assert_eq!(connect("full", "192.168.77.7"), "ECONNREFUSED");
    assert_eq!(connect("198.51.100.7:80", "198.51.100.7"), "ok");
    let fetch = "import urllib.request as u;print(u.urlopen('http://198.51.100.7/').read())";
    let by_proxy = [
        "run",
        "--egress",
        "198.51.100.7:80",
        "--",
        "python3",
        "-c",
        fetch,
    ];
    assert!(
        house
            .expect(0, &by_proxy)
            .contains("outside 198.51.100.7:80")
    );
    nothing_left(&house);
}

/// Many commands at once, a caller that disconnects, and a control plane that is killed meanwhile.
#[test]
fn run_leaves_nothing_however_it_ends() {
    let house = up();
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..8)
            .map(|n| {
                let house = &house;
                scope.spawn(move || house.expect(0, args!("run -- echo {}", n.to_string())))
            })
            .collect();
        for (n, run) in runs.into_iter().enumerate() {
            assert_eq!(run.join().unwrap(), format!("{n}\n"));
        }
    });
    nothing_left(&house);
    let running = || {
        let cells = std::fs::read_dir(house.home().join("run/cells")).unwrap();
        cells.flatten().any(|c| {
            c.file_name().to_string_lossy().starts_with("run-")
                && c.path().join("control.sock").exists()
        })
    };
    let begin = || {
        let mut command = house.command("run --egress full -- sleep 600");
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until("the command runs", running);
        child
    };
    let mut caller = begin();
    caller.kill().unwrap();
    caller.wait().unwrap();
    until("a command without a caller is ended", || !running());
    until("its files are gone", || {
        std::fs::read_dir(house.home().join("runs"))
            .unwrap()
            .count()
            == 0
            && !rules().contains("10.77.255.")
    });
    nothing_left(&house);
    let mut caller = begin();
    house.kill_control_plane();
    caller.wait().unwrap();
    house.expect(0, "up");
    until("what a crash left is taken away", || {
        !running()
            && std::fs::read_dir(house.home().join("runs"))
                .unwrap()
                .count()
                == 0
    });
    nothing_left(&house);
    assert_eq!(house.expect(0, "run -- echo again"), "again\n");
}

#[test]
fn an_unprivileged_user_can_run_commands() {
    let house = House::run_by_user(env!("CARGO_BIN_EXE_abbey"), 5124);
    house.manifest(&ONE.replace("cell: sandbox", "cell: sandbox, waive: [limits]"));
    house.expect(0, "up");
    let args = [
        "run",
        "--waive",
        "limits",
        "--",
        "sh",
        "-c",
        "id -u; cat /proc/net/dev | wc -l",
    ];
    assert_eq!(house.expect(0, &args), "1000\n3\n");
    // What the manifest accepts for everything is accepted for commands.
    assert_eq!(house.expect(0, "run -- id -u"), "1000\n");
}
