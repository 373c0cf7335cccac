//! Programs by name, and texts for the kernel.

use crate::{Error, Result};
use std::ffi::CString;
use std::path::{Path, PathBuf};

/// Most open files of a process in a cell, and how many it has in any case.
const OPEN_FILES: std::ops::RangeInclusive<u64> = 256..=4096;

/// Share of the host's table of open files that one cell can fill.
const TABLE_SHARE: u64 = 8;

/// Resource limits of every program in a cell: no core file, and open files.
///
/// The kernel has one table of open files for all (`fs.file-max`) and counts nobody's but by process, so each of the
/// `processes` of a cell has its part of an eighth of the table: at most 4,096, at least 256, and no more than this
/// process may have itself. Without `processes` the table is the cell's alone, as in a guest.
pub(crate) fn program_rlimits(processes: Option<u32>) -> Vec<(i32, u64)> {
    let files = match processes {
        Some(processes) => open_files_of_cell(processes),
        None => up_to_own(*OPEN_FILES.end()),
    };
    vec![(abbey_launch::CORE, 0), (abbey_launch::NOFILE, files)]
}

/// Most open files of each process of a cell on this host that may have this many, as [`program_rlimits`].
pub(crate) fn open_files_of_cell(processes: u32) -> u64 {
    let table = std::fs::read_to_string("/proc/sys/fs/file-max").ok();
    let table = table.and_then(|text| text.trim().parse().ok());
    up_to_own(open_files(processes, table))
}

/// This many open files, or as many as this process may have.
fn up_to_own(files: u64) -> u64 {
    let own = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    own.map_or(files, |own| own.min(files))
}

/// Most open files of each process of a cell that may have this many, where the host's table has this size.
fn open_files(processes: u32, table: Option<u64>) -> u64 {
    let share = table.map_or(u64::MAX, |table| {
        table / TABLE_SHARE / u64::from(processes.max(1))
    });
    share.clamp(*OPEN_FILES.start(), *OPEN_FILES.end())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processes_of_a_cell_share_an_eighth_of_the_table_of_files() {
        for (processes, table, files) in [
            (256, Some(2_466_170), 1204),
            (48, Some(2_466_170), 4096),
            (100_000, Some(2_466_170), 256),
            (256, Some(i64::MAX.unsigned_abs()), 4096),
            (0, Some(100_000), 4096),
            (256, None, 4096),
        ] {
            assert_eq!(open_files(processes, table), files, "{processes}");
        }
    }
}
