//! Processes that cannot be mistaken for others with the same number (hazards 9 to 11).

use abbey_model::ProcessIdentity;
use std::fs;
use std::sync::OnceLock;

/// Identity of this boot of the host.
pub fn boot_id() -> &'static str {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(|| {
        fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map_or_else(|_| "unknown".to_owned(), |t| t.trim().to_owned())
    })
}

/// Start time of a process in clock ticks since boot; none when it is gone or a zombie.
fn start_ticks(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in brackets and may hold anything, so count from the last bracket.
    let after = stat.rsplit_once(')')?.1;
    let mut fields = after.split_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    // Field 22 of the line; the state was field 3.
    fields.nth(18)?.parse().ok()
}

/// Identity of a running process.
pub fn identify(pid: i32) -> Option<ProcessIdentity> {
    Some(ProcessIdentity {
        pid,
        start_ticks: start_ticks(pid)?,
        boot_id: boot_id().to_owned(),
    })
}

/// Whether exactly this process runs.
pub fn is_alive(identity: &ProcessIdentity) -> bool {
    identity.boot_id == boot_id() && start_ticks(identity.pid) == Some(identity.start_ticks)
}

/// Kills exactly this process, if it still runs.
pub(crate) fn kill(identity: &ProcessIdentity) {
    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
    let Some(pid) = Pid::from_raw(identity.pid) else {
        return;
    };
    // The handle first, the check after: the number cannot change its meaning in between.
    if let Ok(handle) = pidfd_open(pid, PidfdFlags::empty())
        && is_alive(identity)
    {
        let _gone_already = pidfd_send_signal(&handle, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_number_is_another_process() {
        let me = identify(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(is_alive(&me));
        let reused = ProcessIdentity {
            start_ticks: me.start_ticks + 1,
            ..me.clone()
        };
        assert!(!is_alive(&reused));
        let rebooted = ProcessIdentity {
            boot_id: "other".into(),
            ..me
        };
        assert!(!is_alive(&rebooted));
    }
}
