//! Imports of homes that the packages of other systems made here, not of files written for a test.

use crate::run::{repository_root, run_step};

/// Installs the packages, lets them make their homes, and runs the tests that import these.
pub(crate) fn live_imports() -> Result<(), String> {
    let place = repository_root().join("target/live-homes");
    let place = place.display().to_string();
    run_step("build", "cargo", &["build", "--workspace", "--bins"])?;
    run_step(
        "homes of OpenClaw and Hermes",
        "python3",
        &["xtask/live-homes", &place],
    )?;
    let homes = format!("ABBEY_LIVE_HOMES={place}/homes");
    let tests = ["test", "--quiet", "-p", "abbey-import", "-p", "abbey"];
    let tests = [&[&homes, "cargo"], &tests[..]].concat();
    let filter = ["--tests", "live_homes", "--", "--nocapture"];
    run_step(
        "imports of live homes",
        "env",
        &[&tests[..], &filter].concat(),
    )
}
