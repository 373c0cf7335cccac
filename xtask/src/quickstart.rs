//! A fresh machine to a house that does real work, in one command.

use crate::run::{have, install, root, step};

/// Builds the release binaries and tells the example's story, leaving the house up.
pub(crate) fn quickstart() -> Result<(), String> {
    let mut needs = vec![("cc", "gcc"), ("git", "git")];
    // Only root makes networks; without, cells have loopback and the proxy.
    if have("sh", &["-c", "test \"$(id -u)\" = 0"]) {
        needs.push(("nft", "nftables"));
    }
    install(&needs)?;
    step(
        "build",
        "cargo",
        &["build", "--release", "-p", "abbey", "-p", "abbey-testkit"],
    )?;
    let story = root().join("examples/clawdie/try");
    step(
        "the house of four",
        &story.display().to_string(),
        &["--keep"],
    )
}
