//! Files that make an agent who it is: packed without credentials, and brought to another agent.

use crate::cells::exec;
use crate::core::error::{Error, Result};
use crate::core::state::CoreState;
use crate::core::{hostd, runtime};
use abbey_api::{BundleFile, Problem};
use abbey_cells::hostd::{FileEntry, FileName, HostdOperation, NoteName};
use abbey_model::{CellName, FaultKind, IDENTITY_FILES, Redactor, Slug};
use std::io::Read;
use std::os::fd::AsFd;
use std::sync::Arc;

/// Longest file of a bundle, bytes, and most of all together.
const FILE_MAX: u64 = 64 << 10;
const BUNDLE_MAX: usize = 2 << 20;
/// Most of them that are brought at once; together they fit a request.
const AT_ONCE: usize = 8;

/// Whether a path below the workspace goes along.
fn goes_along(path: &std::path::Path) -> bool {
    let note =
        |name: &std::ffi::OsStr| NoteName::try_from(name.to_string_lossy().into_owned()).is_ok();
    let parts: Vec<&std::ffi::OsStr> = path.iter().collect();
    match parts.as_slice() {
        [one] => IDENTITY_FILES.iter().any(|name| name == one),
        [dir, name] => *dir == "memory" && note(name),
        _ => false,
    }
}

/// Packs the files of an agent that make it who it is; returns them with what was left out, and why.
///
/// # Errors
/// If hostd cannot read the agent's files.
pub(crate) async fn pack(core: &CoreState, slug: Slug) -> Result<(Vec<BundleFile>, Vec<String>)> {
    let (out, to) = exec::create_pipe()?;
    let hostd = Arc::clone(&core.hostd);
    let owner = slug.clone();
    let packing = runtime::run_blocking(move || {
        let asked = HostdOperation::Pack {
            owner: Some(owner),
            services: false,
        };
        hostd.call(asked, &[to.as_fd()])
    });
    let workspace = format!("agents/{slug}/workspace");
    let reading = runtime::run_blocking(move || unpack(std::fs::File::from(out), &workspace));
    let lost = |e: tokio::task::JoinError| Problem::new(FaultKind::Internal, e.to_string());
    let (files, mut left_out) = reading.await.map_err(lost)??;
    packing.await.map_err(lost)??;
    let redactor = Redactor::new([]);
    let clean = files.into_iter().map(|mut file| {
        let cleaned = redactor.clean(&file.text).into_owned();
        if cleaned != file.text {
            left_out.push(format!(
                "{}: text that looks like a credential is removed from it",
                file.path
            ));
            file.text = cleaned;
        }
        file
    });
    let files = clean.collect();
    Ok((files, left_out))
}

/// Takes what goes along out of an archive of all that an agent has.
fn unpack(archive: impl Read, workspace: &str) -> Result<(Vec<BundleFile>, Vec<String>)> {
    let broken = |e| Error::file("read", "the agent's files")(e);
    let (mut files, mut left_out, mut sum) = (Vec::new(), Vec::new(), 0);
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries().map_err(broken)? {
        let entry = entry.map_err(broken)?;
        let path = entry.path().map_err(broken)?.into_owned();
        let Ok(path) = path.strip_prefix(workspace) else {
            continue;
        };
        if !entry.header().entry_type().is_file() || !goes_along(path) {
            continue;
        }
        let path = path.display().to_string();
        let mut text = String::new();
        let size = entry.size();
        let read = entry.take(FILE_MAX + 1).read_to_string(&mut text);
        sum += text.len();
        let why = match read {
            Err(_) => Some("it is no text"),
            Ok(_) if size > FILE_MAX => Some("it is larger than 64 KiB"),
            Ok(_) if sum > BUNDLE_MAX => Some("the bundle would be larger than 2 MiB"),
            Ok(_) => None,
        };
        match why {
            Some(why) => left_out.push(format!("{path}: {why}")),
            None if text.is_empty() => {}
            None => files.push(BundleFile { path, text }),
        }
    }
    files.sort_by(|a: &BundleFile, b| a.path.cmp(&b.path));
    // A later entry of one name counts, as in every archive.
    files.reverse();
    files.dedup_by(|a, b| a.path == b.path);
    files.reverse();
    Ok((files, left_out))
}

fn file_name(path: &str) -> Result<FileName> {
    let wrong = |why: &str| Problem::new(FaultKind::Invalid, format!("`{path}`: {why}"));
    Ok(match path {
        "USER.md" => FileName::User,
        "IDENTITY.md" => FileName::Identity,
        "AGENTS.md" => FileName::BroughtRules,
        "MEMORY.md" => FileName::BroughtMemory,
        "HEARTBEAT.md" => FileName::BroughtHeartbeat,
        "SOUL.md" => {
            return Err(
                wrong("a charter is set in the manifest and cannot be imported as a file").into(),
            );
        }
        other => match other.strip_prefix("memory/") {
            Some(note) => FileName::Note(NoteName::try_from(note.to_owned()).map_err(wrong)?),
            None => return Err(wrong("a bundle cannot contain this file").into()),
        },
    })
}

/// Writes files that make an agent who it is into its workspace.
///
/// # Errors
/// If they are too large or none of those, or hostd cannot write them.
pub(crate) async fn bring(core: &CoreState, slug: &Slug, files: &[BundleFile]) -> Result<()> {
    let sum: usize = files.iter().map(|f| f.text.len()).sum();
    let large = files.iter().find(|f| f.text.len() as u64 > FILE_MAX);
    if sum > BUNDLE_MAX || large.is_some() {
        let text = "a bundle has at most 2 MiB, and each of its files 64 KiB";
        return Err(Problem::new(FaultKind::TooLarge, text).into());
    }
    let mut entries = Vec::new();
    for file in files {
        entries.push(FileEntry {
            name: file_name(&file.path)?,
            content: file.text.clone(),
        });
    }
    for some in entries.chunks(AT_ONCE) {
        let owner = CellName::Agent(slug.clone());
        let files = some.to_vec();
        hostd::run_operation(&core.hostd, HostdOperation::Prepare { owner, files }).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_makes_an_agent_goes_along() {
        for path in ["SOUL.md", "memory/2026-11-26.md"] {
            assert!(goes_along(std::path::Path::new(path)), "{path}");
        }
        for path in [
            "secrets.txt",
            "memory/.hidden.md",
            "memory/a/b.md",
            "memory/x.txt",
            "../SOUL.md",
            "src/SOUL.md",
        ] {
            assert!(!goes_along(std::path::Path::new(path)), "{path}");
        }
        assert!(file_name("SOUL.md").is_err() && file_name("memory/../x.md").is_err());
    }
}
