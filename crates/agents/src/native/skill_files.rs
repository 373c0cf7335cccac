//! Files of skills in the cell: read by the agent API, or run where they are. A cell that has no mount of them gets a
//! copy for the time of one run.

use abbey_api::client::AgentClient;
use abbey_api::{SkillFileQuery, SkillTextDoc};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};
use tempfile::TempDir;

/// Begins the program of a skill whose files the cell has no mount of; its path in the skill's directory follows.
pub(super) const BY_API: &str = "skill-file:";

/// Directory of a skill's files in this cell.
pub(super) enum SkillDir {
    /// Mounted read-only.
    Mounted(PathBuf),
    /// A copy, removed when this is dropped.
    Copied(TempDir),
}

impl SkillDir {
    /// Path of the directory.
    pub(super) fn path(&self) -> &Path {
        match self {
            SkillDir::Mounted(path) => path,
            SkillDir::Copied(dir) => dir.path(),
        }
    }
}

/// Reads the instructions of a skill and the list of its files.
pub(super) async fn read_text(client: &AgentClient, skill: &str) -> Result<SkillTextDoc, String> {
    check_name(skill)?;
    let text = client.me().skill(skill).await;
    text.map_err(|e| e.to_string())
}

/// Reads a file of a skill by the agent API.
pub(super) async fn read_file(
    client: &AgentClient,
    skill: &str,
    path: &str,
) -> Result<Vec<u8>, String> {
    check_name(skill)?;
    let query = SkillFileQuery {
        path: path.to_owned(),
    };
    let file = client.me().skill_file(skill, &query).await;
    let file = file.map_err(|e| e.to_string())?;
    STANDARD
        .decode(file.base64)
        .map_err(|e| format!("`{path}`: {e}"))
}

/// Directory with the files of a skill: the mount if the cell has it, otherwise a copy in the agent's home.
pub(super) async fn open_dir(client: &AgentClient, skill: &str) -> Result<SkillDir, String> {
    let doc = read_text(client, skill).await?;
    match doc.directory.map(PathBuf::from).filter(|dir| dir.is_dir()) {
        Some(dir) => Ok(SkillDir::Mounted(dir)),
        None => copy(client, skill).await.map(SkillDir::Copied),
    }
}

/// Copies the files of a skill into a new directory.
async fn copy(client: &AgentClient, skill: &str) -> Result<TempDir, String> {
    let failed = |e: std::io::Error| format!("could not copy the files of skill `{skill}`: {e}");
    let home = std::env::var("HOME").map_err(|_| "the variable HOME is not set".to_owned())?;
    let dir = tempfile::Builder::new().prefix(".skill-").tempdir_in(home);
    let dir = dir.map_err(failed)?;
    for file in read_text(client, skill).await?.files {
        let path = plain_path(&file.path)?;
        let content = read_file(client, skill, &file.path).await?;
        let to = dir.path().join(path);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        let mode = if file.executable { 0o500 } else { 0o400 };
        let mut made = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&to)
            .map_err(failed)?;
        made.write_all(&content).map_err(failed)?;
    }
    Ok(dir)
}

/// A relative path without `..`.
pub(super) fn plain_path(path: &str) -> Result<&Path, String> {
    let relative = Path::new(path);
    let mut parts = relative.components();
    match parts.all(|c| matches!(c, Component::Normal(_))) && !path.is_empty() {
        true => Ok(relative),
        false => Err(format!("`{path}` is not a path in the skill's directory")),
    }
}

/// Checks a name that a model gave: it becomes a part of a path of the agent API.
fn check_name(skill: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    match skill.chars().all(plain) && !skill.is_empty() {
        true => Ok(()),
        false => Err(format!("`{skill}` is not the name of a skill")),
    }
}
