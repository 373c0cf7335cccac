//! The command `abbey-agent` of cells that share the host's file system.

use super::HostdConfig;
use crate::spec::AGENT_COMMAND;
use crate::sys::process::own_program_path;
use crate::{Error, Result};
use abbey_support::beneath::DirHandle;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Directory of the command below the house's directory.
pub const COMMANDS_OF_HOUSE: &str = "bin";

/// Puts the command `abbey-agent` into the house's directory of commands: a script that runs this binary, or a copy of
/// the binary where agents' users can't reach its path.
///
/// # Errors
/// If it cannot be written.
pub fn publish_agent_command(config: &HostdConfig) -> Result<()> {
    let place = config.home.join(COMMANDS_OF_HOUSE).join(AGENT_COMMAND);
    let failed = Error::file("write", &place);
    let own = own_program_path().map_err(Error::file("find", "/proc/self/exe"))?;
    let content = match own.to_str() {
        Some(path) if !config.privileged || is_reachable_by_all(&own) => script(path).into_bytes(),
        _ => fs::read("/proc/self/exe").map_err(Error::file("read", &own))?,
    };
    let owner = match config.privileged {
        true => (0, config.serve_uid),
        false => (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        ),
    };
    DirHandle::open_own(&config.home)
        .and_then(|home| home.ensure_dir(COMMANDS_OF_HOUSE, 0o755, owner))
        .and_then(|dir| dir.publish(AGENT_COMMAND, &content, 0o755, owner, false))
        .map_err(failed)
}

/// A script that runs the binary at `path` in the role `agent`.
fn script(path: &str) -> String {
    let quoted = path.replace('\'', "'\\''");
    format!("#!/bin/sh\nexec '{quoted}' role agent \"$@\"\n")
}

/// Whether every user may execute a file, and enter the directories above it.
fn is_reachable_by_all(path: &Path) -> bool {
    let has = |path: &Path, bits: u32| {
        fs::metadata(path).is_ok_and(|m| m.permissions().mode() & bits == bits)
    };
    has(path, 0o005) && path.ancestors().skip(1).all(|dir| has(dir, 0o001))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_quotes_stays_one_word_of_the_script() {
        assert_eq!(
            script("/o'p t/$x"),
            "#!/bin/sh\nexec '/o'\\''p t/$x' role agent \"$@\"\n"
        );
    }

    #[test]
    fn a_program_below_a_closed_directory_is_not_reachable() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("abbey");
        fs::write(&program, "").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let protect = |mode| {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
        };
        protect(0o700);
        assert!(!is_reachable_by_all(&program));
        protect(0o711);
        assert!(is_reachable_by_all(&program));
    }
}
