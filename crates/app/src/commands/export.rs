//! `abbey export`: writes an agent's bundle into a directory.

use crate::agent_files::{ENTRY_FILE, create_file};
use crate::connect::operator_client;
use crate::exit::{self, Failure, Outcome};
use crate::output::{self, print_message};
use abbey_api::EntryQuery;
use abbey_daemon::Home;
use clap::Args;
use std::fs;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Name of the agent.
    pub(crate) agent: String,
    /// Directory to write; it must not exist yet.
    pub(crate) to: PathBuf,
}

/// `abbey export`: writes the bundle of an agent (manifest entry, charter and identity files, no credentials) into
/// a new directory. Exit code 4 if it exists.
pub(crate) async fn cmd_export(home: &Home, json: bool, args: &ExportArgs) -> Outcome {
    let client = operator_client(home)?;
    let entry = client
        .agents()
        .entry(&args.agent, &EntryQuery::default())
        .await?;
    let bundle = client.agents().export_bundle(&args.agent).await?;
    if args.to.exists() {
        let text = format!("`{}` exists; choose a new directory", args.to.display());
        return Err(Failure::plain(text).with_code(exit::CONFLICT));
    }
    // Written beside and renamed, so that a partial bundle never has the final name.
    let new = args.to.with_extension("new");
    let _left_by_a_crash = fs::remove_dir_all(&new);
    let lines = entry
        .entry
        .iter()
        .filter(|line| !abbey_daemon::manifest::is_import_record(line));
    let lines: Vec<&str> = lines.map(String::as_str).collect();
    create_file(&new.join(ENTRY_FILE), &(lines.join("\n") + "\n"))?;
    for file in &bundle.files {
        create_file(&new.join(&file.path), &file.text)?;
    }
    if !bundle.files.iter().any(|f| f.path == "SOUL.md") {
        create_file(&new.join("SOUL.md"), &entry.charter)?;
    }
    fs::rename(&new, &args.to)
        .map_err(|e| Failure::plain(format!("cannot create `{}`: {e}", args.to.display())))?;
    for left in &bundle.left_out {
        print_message(&format!("left out: {left}"));
    }
    match json {
        true => output::print_json(&bundle),
        false => print_message(&format!(
            "agent `{}` is exported to {}: manifest entry, charter and {} more files, without credentials",
            args.agent,
            args.to.display(),
            bundle.files.iter().filter(|f| f.path != "SOUL.md").count()
        )),
    }
    Ok(exit::OK)
}
