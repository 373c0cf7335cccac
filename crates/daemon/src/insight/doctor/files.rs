//! Checks of the house's own files: owners and modes, and space for more.

use super::checks::Checks;
use crate::core::home::Home;
use crate::insight::disks::{INODES_LEAST, SPACE_LEAST};
use abbey_api::CheckSeverity;
use abbey_model::Bytes;
use std::path::Path;

/// Most files that one check names.
const NAMED_MAX: usize = 8;

/// Adds checks that there are space and inodes for the state.
pub(super) fn check_disk_space(home: &Home, checks: &mut Checks) {
    let stat = rustix::fs::statvfs(home.root()).ok();
    let free = stat.as_ref().map_or(0, |s| s.f_bavail * s.f_frsize);
    checks.add(
        "disk_space",
        free >= SPACE_LEAST,
        CheckSeverity::Fail,
        format!("{} are free for the state", Bytes(free).human()),
        &format!(
            "free some space on that file system; `du -xh --max-depth=3 {} | sort -h | tail` lists what takes most of it in the house",
            abbey_support::shell::shell_path(home.root())
        ),
    );
    // Some file systems make inodes as they are needed, and state no number.
    if let Some(stat) = stat.filter(|s| s.f_files > 0) {
        checks.add(
            "disk_inodes",
            stat.f_favail >= INODES_LEAST,
            CheckSeverity::Fail,
            format!("{} inodes are free for files of the house", stat.f_favail),
            "remove files on that file system: without inodes no cell starts and no file can be created, whatever space is free",
        );
    }
}

/// Adds a check that the home of the running control plane is where it was when that started.
pub(super) fn check_place(home: &Home, checks: &mut Checks) {
    let holder = abbey_cells::lock_file_holder(&home.lock_file());
    let of_another = holder.is_some_and(|pid| i64::from(pid) != i64::from(std::process::id()));
    if of_another || !home.root().is_dir() {
        checks.add(
            "home",
            false,
            CheckSeverity::Fail,
            format!(
                "the house runs with its files in `{}`, and they are there no more",
                home.root().display()
            ),
            "if its directory was renamed or moved, move it back, and the house goes on; to move a house, first stop it with `abbey down`",
        );
    }
}

/// Adds checks of the owners and modes of what belongs to the house itself.
pub(super) fn check_home_files(home: &Home, checks: &mut Checks) {
    let wrong = match home.wrong_entries() {
        Ok(wrong) => wrong,
        Err(error) => {
            checks.add(
                "files",
                false,
                CheckSeverity::Warn,
                format!("owners and modes could not be checked: {}", error.chain()),
                "run `abbey doctor` as the user who started the house",
            );
            return;
        }
    };
    let token = home.operator_token_file();
    let is_token = |path: &Path| home.root().join(path) == token;
    let credential = wrong.iter().find(|w| is_token(&w.path));
    checks.add(
        "operator_credential",
        credential.is_none() && token.exists(),
        CheckSeverity::Fail,
        match credential {
            Some(wrong) => format!("the operator's credential {}", wrong.why),
            None if token.exists() => "the operator's credential has mode 600".to_owned(),
            None => "the operator's credential is missing".to_owned(),
        },
        "`abbey doctor --fix` closes the file `operator.token`; `abbey up` makes a missing one",
    );
    let others: Vec<String> = wrong
        .iter()
        .filter(|w| !is_token(&w.path))
        .map(|w| match w.path.as_os_str().is_empty() {
            true => format!("`{}` {}", home.root().display(), w.why),
            false => format!("`{}` {}", w.path.display(), w.why),
        })
        .collect();
    let named = others.len().min(NAMED_MAX);
    let more = match others.len() - named {
        0 => String::new(),
        n => format!("; and {n} more"),
    };
    checks.add(
        "files",
        others.is_empty(),
        CheckSeverity::Fail,
        match others.is_empty() {
            true => "the house's own files have their owners and modes".to_owned(),
            false => format!("{}{more}", others[..named].join("; ")),
        },
        "`abbey doctor --fix` or `abbey up` repairs them; who was able to write there may have changed their content",
    );
}
