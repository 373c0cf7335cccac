//! The files of the repository, read once for every rule.

use std::fs;
use std::path::{Path, PathBuf};

/// A file of the repository.
pub(crate) struct Source {
    /// Path from the root of the repository, with `/`.
    pub(crate) path: String,
    /// Its text; none for files that aren't UTF-8.
    pub(crate) text: Option<String>,
    /// Size in bytes.
    pub(crate) size: u64,
}

impl Source {
    /// Whether the file is Rust code.
    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Name of the crate that the file belongs to, `xtask` or the top folder for files outside `crates/`.
    pub(crate) fn crate_name(&self) -> &str {
        let inside = self.path.strip_prefix("crates/").unwrap_or(&self.path);
        inside.split('/').next().unwrap_or_default()
    }
}

/// Reads a text file.
///
/// # Errors
/// Names the path when the file can't be read.
pub(crate) fn read_source_text(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|e| format!("`{}`: {e}", path.display()))
}

/// Reads every file below `top`, except build output and version control.
pub(crate) fn read_all_sources(top: &Path) -> Result<Vec<Source>, String> {
    let mut paths = Vec::new();
    list(top, &mut paths)?;
    paths.sort();
    let mut sources = Vec::new();
    for path in paths {
        let size = fs::metadata(&path).map_or(0, |m| m.len());
        let text = fs::read_to_string(&path).ok();
        let path = path
            .strip_prefix(top)
            .unwrap_or(&path)
            .display()
            .to_string();
        sources.push(Source { path, text, size });
    }
    Ok(sources)
}

fn list(dir: &Path, out: &mut Vec<PathBuf>) -> Result<(), String> {
    let entries = fs::read_dir(dir).map_err(|e| format!("`{}`: {e}", dir.display()))?;
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() && name != "target" && name != ".git" {
            list(&path, out)?;
        } else if path.is_file() {
            out.push(path);
        }
    }
    Ok(())
}
