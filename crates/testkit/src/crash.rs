//! Houses whose process exits at a named crash point, once.

use crate::house::House;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

impl House {
    /// A house whose processes exit at this crash point once it is armed, and the file that
    /// [`arm_crash_point`] arms it with.
    ///
    /// # Panics
    /// If no directory can be created.
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

/// Arms a crash point: the next process that reaches it removes this file and exits.
///
/// # Panics
/// If the file cannot be written.
pub fn arm_crash_point(armed: &Path) {
    fs::write(armed, "").expect("a file");
    fs::set_permissions(armed, Permissions::from_mode(0o666)).expect("permissions");
}
