//! Repository rules that a program can check, one file per rule.

mod clock;
mod crates;
mod files;
mod findings;
mod language;
mod modules;
mod requirements;
mod sources;

use crate::run::repository_root;
use findings::Findings;
use std::path::{Path, PathBuf};

/// Checks every rule on this repository, prints the module tables and the findings, and fails when there is an error.
pub(crate) fn tidy() -> Result<(), String> {
    let findings = check(&repository_root())?;
    for table in &findings.tables {
        println!("{table}");
    }
    for warning in &findings.warnings {
        println!("tidy: warning: {warning}");
    }
    for error in &findings.errors {
        eprintln!("tidy: {error}");
    }
    match findings.errors.len() {
        0 => {
            println!("== tidy: no errors, {} warnings", findings.warnings.len());
            Ok(())
        }
        n => Err(format!("tidy found {n} errors")),
    }
}

/// Prints the import graph of every crate, or of one, of this repository or of another checkout.
pub(crate) fn graph(args: &[&str]) -> Result<(), String> {
    let (mut top, mut only) = (repository_root(), None);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match *arg {
            "--at" => top = PathBuf::from(args.next().ok_or("`--at` needs a directory")?),
            name => only = Some(name),
        }
    }
    let graphs = modules::read_import_graphs(&top)?;
    for graph in graphs
        .iter()
        .filter(|g| only.is_none_or(|name| g.name == name))
    {
        println!("{}", modules::render_import_table(graph));
    }
    Ok(())
}

/// Checks every rule on the repository whose root is `top`.
pub(crate) fn check(top: &Path) -> Result<Findings, String> {
    let mut findings = Findings::default();
    let sources = sources::read_all_sources(top)?;
    crates::check(top, &mut findings)?;
    modules::check(top, &mut findings)?;
    clock::check(&sources, &mut findings);
    language::check(&sources, &mut findings)?;
    files::check(&sources, &mut findings);
    requirements::check(top, &sources, &mut findings)?;
    Ok(findings)
}
