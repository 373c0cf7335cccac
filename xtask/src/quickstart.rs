//! A fresh machine to a house that does real work, in one command.

use crate::run::{install, root, step};

/// Builds the release binaries and tells the example's story, leaving the house up.
pub(crate) fn quickstart() -> Result<(), String> {
    install(&[("cc", "gcc"), ("git", "git")])?;
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
