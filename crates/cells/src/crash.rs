//! What only tests of debug builds see: places at which a test ends the process that comes by, as `kill -9` would, in
//! front of and behind every side effect of hostd and of shims, and what a test brings. Without a debug build nothing
//! of it is there.

/// Every place of hostd's calls and of shims.
pub const POINTS: [&str; 20] = [
    "hostd.claim",
    "hostd.claimed",
    "hostd.prepare",
    "hostd.prepared",
    "hostd.firewall",
    "hostd.ruled",
    "hostd.fired",
    "hostd.archive",
    "hostd.archived",
    "hostd.released",
    "hostd.sweep",
    "hostd.killed",
    "shim.claimed",
    "shim.intent",
    "shim.groups",
    "shim.connected",
    "shim.isolated",
    "shim.running",
    "shim.reported",
    "shim.ended",
];

/// Places that only a microVM comes by.
pub const MACHINE_POINTS: [&str; 6] = [
    "drive.made",
    "machine.prepared",
    "machine.ended",
    "template.waits",
    "template.sealed",
    "machine.begun",
];

/// Places that only a cell on file systems of its own comes by.
pub const DISK_POINTS: [&str; 3] = ["disk.made", "disk.filled", "disk.published"];

/// Variable with the name of one place and a file: `NAME@PATH`. The first who comes by removes the
/// file and is ended; later ones go on.
pub const VARIABLE: &str = "ABBEY_CRASH_AT";

/// After the name of a place: who comes by is not ended but stopped, as by `SIGSTOP`, and the file gets the ending
/// [`HELD`] and the process id as its text. The test decides what happens meanwhile.
pub const HOLD: &str = "+hold";
/// Ending of the file of a place that holds, once somebody is held there.
pub const HELD: &str = ".held";

/// Variable by which a test brings a Firecracker, also where its guests will not get far.
pub const FIRECRACKER: &str = "ABBEY_FIRECRACKER";

/// Environment variables with which a test controls crash points and Firecracker, to pass on to hostd. Empty in
/// release builds.
pub(crate) fn test_environment() -> Vec<(&'static str, std::ffi::OsString)> {
    #[cfg(debug_assertions)]
    {
        let names = [VARIABLE, FIRECRACKER].into_iter();
        names
            .filter_map(|n| Some((n, std::env::var_os(n)?)))
            .collect()
    }
    #[cfg(not(debug_assertions))]
    {
        Vec::new()
    }
}

/// Says that the caller comes by.
#[cfg_attr(
    not(debug_assertions),
    expect(unused_variables, reason = "only tests ask")
)]
/// Crash point `name`: kills this process with `SIGKILL` if a test selected it by `ABBEY_CRASH_AT`. Does nothing in
/// release builds.
pub fn point(name: &str) {
    #[cfg(debug_assertions)]
    {
        let Ok(wanted) = std::env::var(VARIABLE) else {
            return;
        };
        let Some((place, file)) = wanted.split_once('@') else {
            return;
        };
        let me = rustix::process::getpid();
        if let Some(place) = place.strip_suffix(HOLD) {
            let held = format!("{file}{HELD}");
            if place == name && std::fs::rename(file, &held).is_ok() {
                let _a_test_would_wait = std::fs::write(held, me.to_string());
                let _cannot_fail = rustix::process::kill_process(me, rustix::process::Signal::STOP);
            }
            return;
        }
        if place == name && std::fs::remove_file(file).is_ok() {
            let _cannot_fail = rustix::process::kill_process(me, rustix::process::Signal::KILL);
        }
    }
}
