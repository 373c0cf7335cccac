//! Set-user-ID and set-group-ID programs of an image.

use super::image::below;
use crate::guest::SETUID_PROGRAMS;
use crate::{Error, Result};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Set-user-ID and set-group-ID bits of a file.
const SETUID_BITS: u32 = 0o6000;

/// Takes the set-user-ID and set-group-ID bits from every file below `root` but [`SETUID_PROGRAMS`].
///
/// # Errors
/// If a directory cannot be read or a mode not be changed.
pub(super) fn remove_setuid_bits(root: &Path) -> Result<()> {
    for name in below(root, Path::new(""))? {
        let path = root.join(&name);
        let found = fs::symlink_metadata(&path).map_err(Error::file("examine", &path))?;
        let mode = found.permissions().mode() & 0o7777;
        let kept = name
            .file_name()
            .is_some_and(|n| SETUID_PROGRAMS.iter().any(|k| n == *k));
        if found.is_file() && mode & SETUID_BITS != 0 && !kept {
            let plain = Permissions::from_mode(mode & !SETUID_BITS);
            fs::set_permissions(&path, plain).map_err(Error::file("set the mode of", &path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_programs_of_rootless_podman_keep_the_set_user_id_bit() {
        let root = tempfile::tempdir().unwrap();
        let bin = root.path().join("usr/bin");
        fs::create_dir_all(&bin).unwrap();
        for (name, mode) in [
            ("su", 0o4755),
            ("wall", 0o2755),
            ("newuidmap", 0o4755),
            ("ls", 0o755),
        ] {
            fs::write(bin.join(name), "").unwrap();
            fs::set_permissions(bin.join(name), Permissions::from_mode(mode)).unwrap();
        }
        std::os::unix::fs::symlink("/nowhere", bin.join("link")).unwrap();
        remove_setuid_bits(root.path()).unwrap();
        let mode = |name: &str| fs::metadata(bin.join(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!(
            ["su", "wall", "newuidmap", "ls"].map(mode),
            [0o755, 0o755, 0o4755, 0o755]
        );
    }
}
