//! Everything that CI runs.

use crate::run::{have, install, root, step};
use crate::{firecracker, image, tidy};

/// Runs every check; `--stories` runs the examples' own stories as well.
pub(crate) fn check(args: &[&str]) -> Result<(), String> {
    install(&[
        ("cc", "gcc"),
        ("git", "git"),
        ("curl", "curl"),
        ("python3", "python3"),
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
    ])?;
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).map_err(|e| e.to_string())?;
    println!(
        "== lock file: {} packages",
        lock.lines().filter(|l| l.starts_with("name = ")).count()
    );
    step("format", "cargo", &["fmt", "--all", "--check"])?;
    tidy::tidy(false)?;
    step(
        "lint",
        "cargo",
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ],
    )?;
    // The binaries that the end-to-end tests start beside the one under test.
    step("build", "cargo", &["build", "--workspace", "--bins"])?;
    image::image()?;
    firecracker::firecracker();
    let skipped = root().join("target/skipped");
    let _of_a_run_before = std::fs::remove_dir_all(&skipped);
    if have("cargo", &["nextest", "--version"]) {
        step("test", "cargo", &["nextest", "run", "--workspace"])?;
    } else {
        step(
            "test",
            "cargo",
            &["test", "--workspace", "--", "--test-threads", "4"],
        )?;
    }
    let skipped: Vec<_> = std::fs::read_dir(&skipped)
        .into_iter()
        .flatten()
        .flatten()
        .collect();
    for reason in &skipped {
        let text = std::fs::read_to_string(reason.path()).unwrap_or_default();
        println!("== skipped: {}: {text}", reason.file_name().display());
    }
    println!("== tests that had to be skipped: {}", skipped.len());
    if args.contains(&"--stories") {
        stories()?;
    }
    println!("== all checks passed");
    Ok(())
}

/// The `try` of every example, on the release build that users have.
fn stories() -> Result<(), String> {
    step(
        "release build",
        "cargo",
        &["build", "--release", "-p", "abbey", "-p", "abbey-testkit"],
    )?;
    let examples = root().join("examples");
    let mut names: Vec<_> = std::fs::read_dir(&examples)
        .map_err(|e| e.to_string())?
        .flatten()
        .map(|e| e.path().join("try"))
        .filter(|p| p.exists())
        .collect();
    names.sort();
    // Root's houses make interfaces and rules: here in a network of their own.
    let root = have("sh", &["-c", "test \"$(id -u)\" = 0"]);
    for story in names {
        let story = story.display().to_string();
        let cells = match story.contains("fireclaw") {
            true => ["microvm", "sandbox"],
            false => ["sandbox", "process"],
        };
        for cell in cells {
            let begin = "ip link set lo up && exec \"$0\" --cell \"$1\"";
            match root {
                true => step("story", "unshare", &["-n", "sh", "-c", begin, &story, cell])?,
                false => step("story", &story, &["--cell", cell])?,
            }
        }
    }
    Ok(())
}

/// Renders snapshots anew; look at the difference before you keep it.
pub(crate) fn bless() -> Result<(), String> {
    println!("set INSTA_UPDATE=always for this one run, then read `git diff`");
    step(
        "bless",
        "env",
        &[
            "INSTA_UPDATE=always",
            "cargo",
            "test",
            "--workspace",
            "--lib",
            "--test",
            "it",
        ],
    )
}
