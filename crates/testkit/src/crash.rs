//! Houses whose process exits at a named crash point, once.

use crate::house::{House, until};
use abbey_cells::crash::HELD;
use rustix::process::{Pid, Signal, kill_process};
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

/// Waits until a process is stopped at a crash point that holds, and returns its process id.
///
/// # Panics
/// If nobody comes by in time.
pub fn wait_until_held(armed: &Path) -> i32 {
    let held = PathBuf::from(format!("{}{HELD}", armed.display()));
    let mut pid = 0;
    until("a process is held at the place", || {
        let text = fs::read_to_string(&held).unwrap_or_default();
        pid = text.parse().unwrap_or(0);
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        state.starts_with('T')
    });
    pid
}

/// Lets a process that is held go on.
///
/// # Panics
/// If there is no such process.
pub fn let_go(pid: i32) {
    let pid = Pid::from_raw(pid).expect("a pid");
    kill_process(pid, Signal::CONT).expect("it goes on");
}
