//! Programs by name, and texts for the kernel.

use crate::{Error, Result};
use std::ffi::CString;
use std::path::{Path, PathBuf};

/// Most open files of a program in a cell.
const OPEN_FILES: u64 = 4096;

/// Resource limits of every program in a cell: no core file, and 4,096 open files, or as many as this process may have if
/// that is less.
pub(crate) fn program_rlimits() -> Vec<(i32, u64)> {
    let own = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let files = own.map_or(OPEN_FILES, |own| own.min(OPEN_FILES));
    vec![(abbey_launch::CORE, 0), (abbey_launch::NOFILE, files)]
}

/// Where programs of the host are looked for.
pub(crate) const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Whether a program with this name is in the host's system `PATH`.
pub(crate) fn is_installed(program: &str) -> bool {
    find_program(program, SYSTEM_PATH, Path::new("/")).is_some()
}

/// Path of the program `name`: relative to `cwd` if it contains a slash, else the first match in the directories of
/// `search` (a `PATH`).
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

/// Converts arguments to C strings.
///
/// # Errors
/// As [`c_string`].
pub(crate) fn c_arguments(argv: &[String]) -> Result<Vec<CString>> {
    argv.iter().map(|a| c_string(a.as_bytes())).collect()
}

/// Converts environment variables to C strings `NAME=VALUE`.
///
/// # Errors
/// As [`c_string`].
pub(crate) fn c_environment(env: &[(String, String)]) -> Result<Vec<CString>> {
    let entry = |(name, value): &(String, String)| c_string(format!("{name}={value}").as_bytes());
    env.iter().map(entry).collect()
}

/// Converts bytes to a C string.
///
/// # Errors
/// [`Error::Record`] if they contain a NUL byte.
pub(crate) fn c_string(bytes: &[u8]) -> Result<CString> {
    CString::new(bytes).map_err(|_| Error::Record {
        path: PathBuf::from("cell specification"),
        why: "a text contains a NUL byte".to_owned(),
    })
}
