//! Files of an agent on the operator's side: its charter beside the manifest, and the files of a bundle.

use crate::exit::{self, Failure};
use crate::manifest_file::manifest_failure;
use abbey_api::client::Client;
use abbey_api::{BundleBody, BundleFile};
use abbey_daemon::manifest;
use std::fs;
use std::io::Write;
use std::path::Path;

/// File in a bundle's directory that holds the manifest entry.
pub(crate) const ENTRY_FILE: &str = "agent.yaml";

/// Sends the files of a bundle to an agent through the operator API, except `SOUL.md`, whose text is part of the
/// manifest.
pub(crate) async fn send_bundle_files(
    client: &Client,
    agent: &str,
    files: Vec<BundleFile>,
) -> Result<(), Failure> {
    let files: Vec<BundleFile> = files.into_iter().filter(|f| f.path != "SOUL.md").collect();
    if files.is_empty() {
        return Ok(());
    }
    let body = BundleBody { files };
    let _stored = client.agents().import_bundle(agent, &body).await?;
    Ok(())
}

/// Writes the charter `text` of the agent `name` to the path that its entry in the `edited` manifest names,
/// relative to the manifest `file`; an existing file is not changed.
pub(crate) fn write_charter(
    file: &Path,
    edited: &str,
    name: &abbey_model::Slug,
    text: &str,
) -> Result<(), Failure> {
    let house = manifest::parse(edited).map_err(|m| manifest_failure(&m))?;
    let Some(manifest::Charter::File(path)) = house.agents.get(name).map(|a| &a.charter) else {
        return Ok(());
    };
    let base = file.parent().unwrap_or(Path::new("."));
    match base.join(path).exists() {
        true => Ok(()),
        false => create_file(&base.join(path), text),
    }
}

/// Creates a file with this text, and its parent directories. Fails with exit code 4 if the file exists.
pub(crate) fn create_file(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |e: std::io::Error| {
        Failure::plain(format!("cannot write `{}`: {e}", path.display())).with_code(exit::CONFLICT)
    };
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(failed)?;
    }
    let file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path);
    file.and_then(|mut f| f.write_all(text.as_bytes()))
        .map_err(failed)
}
