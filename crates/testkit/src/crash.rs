//! Houses whose processes are ended at a named crash point, once.

use crate::house::House;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

impl House {
    /// A house with a crash point, and the file by which [`arm`] arms it.
    ///
    /// # Panics
    /// When no directory can be made.
    pub fn with_crash_point(abbey: &str, point: &str) -> (House, PathBuf) {
        let mut house = House::new(abbey);
        // Processes of several users look for the file and remove it.
        let open = house.path("open");
        fs::create_dir(&open).expect("a directory");
        fs::set_permissions(&open, Permissions::from_mode(0o777)).expect("permissions");
        let armed = open.join("armed");
        house.crash_at = Some(format!("{point}@{}", armed.display()));
        (house, armed)
    }
}

/// Arms a crash point: the next process that passes it is ended and removes the file.
///
/// # Panics
/// When the file cannot be written.
pub fn arm(armed: &Path) {
    fs::write(armed, "").expect("a file");
    fs::set_permissions(armed, Permissions::from_mode(0o666)).expect("permissions");
}
