//! Every check of the repository: `./check`, `./check --stories` (what CI runs), `./check --long`.

use crate::live_imports::live_imports;
use crate::run::{install_packages, program_succeeds, repository_root, run_step};
use crate::tools::{install_tool, validate_openapi};
use crate::{firecracker, image, tidy};
use std::fs;
use std::path::Path;
use std::time::Instant;

/// Programs that checks and tests start, and the Debian packages that have them.
const NEEDS: &[(&str, &str)] = &[
    ("cc", "gcc"),
    ("git", "git"),
    ("curl", "curl"),
    ("python3", "python3"),
    ("pip3", "python3-pip"),
    ("pgrep", "procps"),
    ("openssl", "openssl"),
    ("setpriv", "util-linux"),
    ("mount", "mount"),
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("podman", "podman"),
    ("runc", "runc"),
    ("newuidmap", "uidmap"),
    ("busybox", "busybox-static"),
    ("systemd-analyze", "systemd"),
    ("shellcheck", "shellcheck"),
    ("pg_ctlcluster", "postgresql"),
    ("promtool", "prometheus"),
];
/// Tests that need the release build, and an image of their own; nextest's default profile leaves them out.
const EMULATED_HOSTS: &str = "emulated_hosts::";
/// Tests that run for hours in `--long`, and what makes them long.
const LONG: [(&str, &str, &str); 4] = [
    (
        "kill -9 at 10,000 random moments",
        "ABBEY_KILL_POINTS=10000",
        "test(/kill_recovery/)",
    ),
    (
        "a long story through 200 kills",
        "ABBEY_STORY_KILLS=200",
        "test(/long_run_under_kills/)",
    ),
    (
        "50 random walks over manifests",
        "ABBEY_WALKS=50",
        "test(/convergence::any_manifest/)",
    ),
    (
        "an hour of malformed calls to hostd",
        "ABBEY_FUZZ_SECONDS=3600",
        "test(/hostd_fuzz/)",
    ),
];

/// Runs all checks of the repository in order, and fails at the first that fails. `--stories` also runs the stories of
/// the examples and tests on emulated hosts, `--long` only what takes hours.
pub(crate) fn check(args: &[&str]) -> Result<(), String> {
    let start = Instant::now();
    let known = ["--stories", "--long"];
    if let Some(arg) = args.iter().find(|a| !known.contains(*a)) {
        return Err(format!(
            "unknown option `{arg}`; usage: ./check [--stories | --long]"
        ));
    }
    install_packages(NEEDS)?;
    // A full disk fails tests and stories in ways that look like faults of theirs.
    run_step("disk", "df", &["-h", "."])?;
    if args.contains(&"--long") {
        long()?;
    } else {
        sources()?;
        tests()?;
        if args.contains(&"--stories") {
            stories()?;
        }
    }
    println!(
        "== all checks passed in {:.0} s",
        start.elapsed().as_secs_f32()
    );
    Ok(())
}

/// Checks that do not run Abbey.
fn sources() -> Result<(), String> {
    let lock =
        fs::read_to_string(repository_root().join("Cargo.lock")).map_err(|e| e.to_string())?;
    let packages = lock.lines().filter(|l| l.starts_with("name = ")).count();
    println!("== lock file: {packages} packages");
    run_step("format", "cargo", &["fmt", "--all", "--check"])?;
    tidy::tidy()?;
    validate_openapi(&[
        "docs/reference/openapi-operator.json",
        "docs/reference/openapi-agent.json",
    ])?;
    dependencies()?;
    let lint = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ];
    run_step("lint, benches included", "cargo", &lint)?;
    // What the queue is compared with has dependencies of its own.
    let peer = [
        "check",
        "--quiet",
        "--locked",
        "--manifest-path",
        "bench/queue/peer/Cargo.toml",
        "--target-dir",
        "target/peer",
    ];
    run_step("bench of the queue's peer", "cargo", &peer)
}

/// Licences, bans, sources, advisories, and dependencies that nothing uses.
fn dependencies() -> Result<(), String> {
    let deny = install_tool("cargo-deny")?;
    run_step(
        "licences, bans, sources",
        &deny,
        &["--locked", "check", "licenses", "bans", "sources"],
    )?;
    // The database of advisories is a git repository; a host without a way to it has to do without.
    let database = "https://github.com/RustSec/advisory-db";
    let reachable = program_succeeds("timeout", &["20", "git", "ls-remote", "--heads", database]);
    let cached = std::env::home_dir()
        .is_some_and(|h| h.join(".cargo/advisory-dbs").join("advisory-db").exists());
    match (reachable, cached) {
        (true, _) => run_step("advisories", &deny, &["--locked", "check", "advisories"])?,
        (false, true) => run_step(
            "advisories",
            &deny,
            &["--locked", "check", "--disable-fetch", "advisories"],
        )?,
        (false, false) => println!("== advisories: skipped, {database} can't be reached from here"),
    }
    run_step("unused dependencies", &install_tool("cargo-shear")?, &[])
}

/// Builds the tests and the binaries that the end-to-end tests start beside the one under test. Both at once: tests ask for more
/// features of what they depend on, and binaries alone would be built a second time with these.
fn build() -> Result<(), String> {
    let args = ["build", "--workspace", "--bins", "--tests"];
    run_step("build", "cargo", &args)
}

fn tests() -> Result<(), String> {
    build()?;
    image::build_images(false)?;
    firecracker::firecracker();
    let skipped = repository_root().join("target/skipped");
    let _of_an_earlier_run = fs::remove_dir_all(&skipped);
    if program_succeeds("cargo", &["nextest", "--version"]) {
        // Most tests wait for processes more than they compute.
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        let threads = (processors + processors.div_ceil(2)).to_string();
        let args = ["nextest", "run", "--workspace", "--test-threads", &threads];
        run_step("test", "cargo", &args)?;
    } else {
        run_step(
            "test",
            "cargo",
            &[
                "test",
                "--workspace",
                "--",
                "--test-threads",
                "4",
                "--skip",
                EMULATED_HOSTS,
            ],
        )?;
    }
    print_skipped(&skipped);
    Ok(())
}

/// Tests that had to be skipped on this host leave their reason in a file.
fn print_skipped(dir: &Path) {
    let reasons: Vec<_> = fs::read_dir(dir).into_iter().flatten().flatten().collect();
    for reason in &reasons {
        let text = fs::read_to_string(reason.path()).unwrap_or_default();
        println!("== skipped: {}: {text}", reason.file_name().display());
    }
    println!("== tests that had to be skipped: {}", reasons.len());
}

fn long() -> Result<(), String> {
    build()?;
    let conformance = ["xtask/api-conformance", "--seconds", "3600"];
    run_step(
        "an hour of requests to every route",
        "python3",
        &conformance,
    )?;
    for (title, variable, filter) in LONG {
        run_step(
            title,
            "env",
            &[
                variable,
                "cargo",
                "nextest",
                "run",
                "--workspace",
                "--profile",
                "long",
                "-E",
                filter,
            ],
        )?;
    }
    live_imports()?;
    release_build()?;
    simulated_seeds(1000)?;
    planted_faults()
}

/// Tests on hosts that are emulated whole, after the release build.
fn emulated_hosts() -> Result<(), String> {
    // Most time of an emulated host would go into code that is not optimized.
    image::build_images(true)?;
    let programs = repository_root().join("target/release");
    let programs = format!("ABBEY_PROGRAMS={}", programs.display());
    let hosts = [
        &programs,
        "cargo",
        "test",
        "--workspace",
        "--test",
        "it",
        "--",
        "--test-threads",
        "1",
        EMULATED_HOSTS,
    ];
    run_step("emulated hosts", "env", &hosts)
}

/// The `try` of every example, on the release build that users have.
fn stories() -> Result<(), String> {
    run_step("disk", "df", &["-h", "."])?;
    release_build()?;
    simulated_seeds(20)?;
    planted_faults()?;
    emulated_hosts()?;
    let mut names: Vec<_> = fs::read_dir(repository_root().join("examples"))
        .map_err(|e| e.to_string())?
        .flatten()
        .map(|e| e.path().join("try"))
        .filter(|p| p.exists())
        .collect();
    names.sort();
    // Houses of root make interfaces and firewall rules: here in a network of their own.
    let root = program_succeeds("sh", &["-c", "test \"$(id -u)\" = 0"]);
    for story in names {
        let story = story.display().to_string();
        let cells = match story.contains("fireclaw") {
            true => ["microvm", "sandbox"],
            false => ["sandbox", "process"],
        };
        for cell in cells {
            let begin = "ip link set lo up && exec \"$0\" --cell \"$1\"";
            match root {
                true => run_step("story", "unshare", &["-n", "sh", "-c", begin, &story, cell])?,
                false => run_step("story", &story, &["--cell", cell])?,
            }
        }
    }
    Ok(())
}

/// Builds for releases what users have, and the programs of the test kit.
fn release_build() -> Result<(), String> {
    run_step(
        "release build",
        "cargo",
        &["build", "--release", "-p", "abbey", "-p", "abbey-testkit"],
    )
}

/// Simulates weeks of a house; see `abbey_testkit::simulate`. A week takes five times as long without optimization.
pub(crate) fn simulate(args: &[&str]) -> Result<(), String> {
    release_build()?;
    simulated_weeks(args)
}

/// Weeks into which a fault is planted that must be found, with a seed that finds it.
const PLANTED: [(&str, &str); 3] = [
    ("missing-wakeup", "1"),
    ("lost-release", "1"),
    ("early-midnight", "4"),
];

/// Simulates weeks with planted faults, after the release build.
fn planted_faults() -> Result<(), String> {
    for (fault, seed) in PLANTED {
        simulated_weeks(&["--seed", seed, "--days", "7", "--fault", fault])?;
    }
    Ok(())
}

/// Simulates a week from each seed from 1 to `seeds`, on all processors at once, after the release build.
fn simulated_seeds(seeds: usize) -> Result<(), String> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let each = seeds.div_ceil(processors).max(1);
    let part = |before: usize| {
        let (seed, count) = (before + 1, each.min(seeds - before));
        let (seed, count) = (seed.to_string(), count.to_string());
        simulated_weeks(&["--seed", &seed, "--seeds", &count, "--days", "7"])
    };
    std::thread::scope(|scope| {
        let parts = (0..seeds).step_by(each);
        let parts: Vec<_> = parts
            .map(|before| scope.spawn(move || part(before)))
            .collect();
        let panicked = |_| "a thread of the simulation panicked".to_owned();
        let ended = parts.into_iter().map(|p| p.join().map_err(panicked)?);
        ended.collect()
    })
}

/// As [`simulate`], after the release build.
fn simulated_weeks(args: &[&str]) -> Result<(), String> {
    let program = repository_root().join("target/release/abbey-simulate");
    run_step("simulated weeks", &program.display().to_string(), args)
}

/// Prints which skill each phrase of the corpus finds, as a confusion table, and fails below the limits.
pub(crate) fn corpus() -> Result<(), String> {
    let test = "phrases_find_their_skill_and_nothing_changes_by_mistake";
    let args = ["test", "--quiet", "-p", "abbey-agents", "--test", "phrases"];
    let args = [&args[..], &[test, "--", "--nocapture"]].concat();
    run_step("corpus of phrases", "cargo", &args)
}

/// Runs all tests with snapshot updates enabled, so that every snapshot file is written again.
pub(crate) fn bless() -> Result<(), String> {
    println!("read `git diff` before you commit what this changes");
    let tests = [
        "INSTA_UPDATE=always",
        "cargo",
        "test",
        "--workspace",
        "--lib",
        "--test",
        "it",
    ];
    run_step("bless", "env", &tests)
}
