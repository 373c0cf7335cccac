//! From a fresh machine to a house that does real work, in one command.

use crate::run::{install_packages, program_succeeds, repository_root, run_step};
use std::path::Path;

/// Folder of `target` for the profile `quick`.
const PROFILE: &str = "quick";

/// Builds the binaries and runs the story of the example; the house stays up.
pub(crate) fn quickstart() -> Result<(), String> {
    let is_root = program_succeeds("sh", &["-c", "test \"$(id -u)\" = 0"]);
    let mut needs = vec![("cc", "gcc"), ("git", "git")];
    // Only root makes networks; without, cells have loopback and the proxy.
    if is_root {
        needs.push(("nft", "nftables"));
    }
    println!("== quickstart, three steps:");
    println!(
        "   1. install with apt what is missing of: {}",
        packages(&needs)
    );
    println!(
        "   2. build Abbey in {} (a few minutes on two processors, once)",
        repository_root().join("target").display()
    );
    println!("   3. start a house of four agents, give it work, and leave it running");
    if is_root {
        println!(
            "   You are root: the house gets users, interfaces and a firewall table of its own, and its helper runs as root."
        );
    }
    println!("== step 1 of 3: packages");
    install_packages(&needs)?;
    println!("== step 2 of 3: build");
    run_step(
        "build",
        "cargo",
        &[
            "build",
            "--profile",
            PROFILE,
            "-p",
            "abbey",
            "-p",
            "abbey-testkit",
        ],
    )?;
    println!("== step 3 of 3: the house");
    let story = repository_root()
        .join("examples/clawdie/try")
        .display()
        .to_string();
    run_step(
        "the house of four",
        "env",
        &[&format!("ABBEY_PROFILE={PROFILE}"), &story, "--keep"],
    )?;
    what_next(&repository_root().join("target").join(PROFILE));
    Ok(())
}

fn packages(needs: &[(&str, &str)]) -> String {
    let names: Vec<&str> = needs.iter().map(|(_, package)| *package).collect();
    names.join(", ")
}

/// Commands that work as they are printed.
fn what_next(programs: &Path) {
    let home = "/var/lib/abbey-quickstart";
    let home = match program_succeeds("sh", &["-c", "test \"$(id -u)\" = 0"]) {
        true => home.to_owned(),
        false => "${XDG_STATE_HOME:-$HOME/.local/state}/abbey-quickstart".to_owned(),
    };
    println!("== The house is up and stays up until you stop it. In this shell:");
    println!(
        "   export PATH=\"{}:$PATH\" ABBEY_HOME=\"{home}\"",
        programs.display()
    );
    println!("   abbey ps");
    println!("   abbey task add \"How much free disk space is there?\" --wait");
    println!("   abbey down        # stops everything; the state stays in $ABBEY_HOME");
}
