//! Running one more program inside a cell that is up: `abbey exec`.

use crate::cgroup::Groups;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::ffi::CString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What to run and as whom. Passed in a private file, never in arguments.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EnterSpec {
    /// Program and arguments; a name without a slash is looked up in `PATH` of `env`.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Working directory.
    pub cwd: PathBuf,
    /// User of the cell.
    pub uid: Option<u32>,
    /// Its control groups.
    pub groups: Vec<PathBuf>,
}

/// Becomes the program; comes back only with the exit status that says why it could not:
/// 126 cannot be executed, 127 not found, 125 anything else.
pub fn enter(file: &Path) -> (i32, String) {
    let run = || -> Result<std::result::Result<(), (i32, String)>> {
        let bytes = fs::read(file).map_err(Error::file("read", file))?;
        fs::remove_file(file).map_err(Error::file("remove", file))?;
        let spec: EnterSpec = serde_json::from_slice(&bytes).map_err(|e| Error::Record {
            path: file.into(),
            why: e.to_string(),
        })?;
        let search = spec
            .env
            .iter()
            .find(|(k, _)| k == "PATH")
            .map_or("", |(_, v)| v.as_str());
        let name = spec.argv.first().map_or("", String::as_str);
        let Some(path) = find_program(name, search, &spec.cwd) else {
            return Ok(Err((
                127,
                format!("`{name}` was not found in the cell's PATH ({search})"),
            )));
        };
        let launch = abbey_launch::Spec {
            program: abbey_launch::Program::Path(text(path.as_os_str().as_encoded_bytes())?, None),
            argv: spec
                .argv
                .iter()
                .map(|a| text(a.as_bytes()))
                .collect::<Result<_>>()?,
            env: spec
                .env
                .iter()
                .map(|(k, v)| text(format!("{k}={v}").as_bytes()))
                .collect::<Result<_>>()?,
            cwd: text(spec.cwd.as_os_str().as_encoded_bytes())?,
            user: spec.uid,
            cgroups: Groups::at(spec.groups).entrances()?,
            rlimits: vec![(abbey_launch::CORE, 0)],
            fds: standard_streams().map_err(Error::file("copy", "standard streams"))?,
            new_session: true,
            dies_with_parent: true,
        };
        let error = abbey_launch::replace(&launch);
        let code = match error.source.kind() {
            io::ErrorKind::NotFound => 127,
            io::ErrorKind::PermissionDenied => 126,
            _ => 125,
        };
        Ok(Err((code, format!("`{name}`: {error}: {}", error.source))))
    };
    match run() {
        Ok(Ok(())) => (0, String::new()),
        Ok(Err(told)) => told,
        Err(e) => (125, e.to_string()),
    }
}

fn standard_streams() -> io::Result<Vec<std::os::fd::OwnedFd>> {
    use std::os::fd::AsFd;
    Ok(vec![
        io::stdin().as_fd().try_clone_to_owned()?,
        io::stdout().as_fd().try_clone_to_owned()?,
        io::stderr().as_fd().try_clone_to_owned()?,
    ])
}

/// Finds a program the way a shell would, with the cell's own `PATH`.
pub(crate) fn find_program(name: &str, search: &str, cwd: &Path) -> Option<PathBuf> {
    if name.is_empty() {
        return None;
    }
    if name.contains('/') {
        let path = cwd.join(name);
        return path.exists().then_some(path);
    }
    search
        .split(':')
        .filter(|d| d.starts_with('/'))
        .map(|d| Path::new(d).join(name))
        .find(|p| p.is_file())
}

pub(crate) fn text(bytes: &[u8]) -> Result<CString> {
    CString::new(bytes).map_err(|_| Error::Record {
        path: PathBuf::from("cell specification"),
        why: "a text holds a NUL byte".to_owned(),
    })
}
