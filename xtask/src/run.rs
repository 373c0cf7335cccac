//! Runs other programs and prints what they do.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// Path of the root of this repository.
pub(crate) fn repository_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
        .to_owned()
}

/// Runs a program, prints its command line and how long it took.
///
/// # Errors
/// When it can't be started or fails.
pub(crate) fn run_step(title: &str, program: &str, args: &[&str]) -> Result<(), String> {
    println!("== {title}: {program} {}", args.join(" "));
    let start = Instant::now();
    let status = Command::new(program)
        .args(args)
        .current_dir(repository_root())
        .status()
        .map_err(|e| format!("`{program}` can't be started: {e}"))?;
    println!("== {title}: {:.1} s", start.elapsed().as_secs_f32());
    if status.success() {
        Ok(())
    } else {
        Err(format!("{title} failed ({status})"))
    }
}

/// Whether a program is installed: it can be run and succeeds.
pub(crate) fn program_succeeds(program: &str, args: &[&str]) -> bool {
    Command::new(program)
        .args(args)
        .output()
        .is_ok_and(|o| o.status.success())
}

/// Installs with apt the Debian packages of programs that are missing.
///
/// # Errors
/// Names the packages when they can't be installed here.
pub(crate) fn install_packages(needs: &[(&str, &str)]) -> Result<(), String> {
    let missing: Vec<&str> = needs
        .iter()
        .filter(|(program, _)| !program_succeeds("sh", &["-c", &format!("command -v {program}")]))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let remedy = format!(
        "install these packages and run this again: {}",
        missing.join(" ")
    );
    if !program_succeeds("sh", &["-c", "command -v apt-get && test \"$(id -u)\" = 0"]) {
        return Err(remedy);
    }
    run_step("package lists", "apt-get", &["update", "-qq"])?;
    let args: Vec<&str> = ["install", "-y", "-qq", "--no-install-recommends"]
        .into_iter()
        .chain(missing)
        .collect();
    run_step("packages", "apt-get", &args).map_err(|_| remedy)
}
