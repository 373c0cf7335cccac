//! End of a cell: the request to stop, kills, reaping, and the exit record.

use super::Shim;
use super::log::AROUND;
use super::phase::PhaseEvent;
use super::session::GuestSession;
use crate::crash;
use crate::guest::ShimNotice;
use crate::record::{now, write_json_without_sync};
use crate::sys::cgroup::ControlGroups;
use abbey_model::{Bytes, CellUsage, ExitKind, ExitRecord, Millis};
use rustix::process::{Pid, Signal, WaitOptions};
use std::fs;
use std::time::{Duration, Instant};

/// Time for the last words of a guest to be taken by whoever reads them.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(30);

impl Shim {
    /// Begins to stop the cell: the program gets `grace` to end, then it is killed.
    pub(super) fn handle_stop_request(&mut self, grace: Millis) {
        self.apply_event(PhaseEvent::StopRequested {
            now: Instant::now(),
            grace: grace.to_std(),
            terminal: self.spec.terminal,
            guest: self.session.is_some(),
        });
    }

    /// Asks the program to end: by a notice to its guest, or by `SIGTERM`.
    pub(super) fn ask_program_to_end(&mut self, grace: Duration) {
        if let Some(session) = &mut self.session {
            // The agent first, then its guest, then the program around it, then force.
            let within_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX) * 6 / 10;
            session.send_notice(&ShimNotice::Stop { within_ms });
        } else if self.channel.is_some() {
            // The first process of an isolated cell passes the signal on.
            let _gone_already = rustix::process::pidfd_send_signal(&self.child.pidfd, Signal::TERM);
        } else if let Some(group) = Pid::from_raw(self.child.pid) {
            // The whole group, as the child may be a launcher of something else.
            let _gone_already = rustix::process::kill_process_group(group, Signal::TERM);
        }
    }

    /// Kills every process of the cell.
    pub(super) fn kill_cell(&self) {
        let _gone_already = rustix::process::pidfd_send_signal(&self.child.pidfd, Signal::KILL);
        if let Some(groups) = &self.groups {
            let _survivors_are_reported_later = groups.kill_all(Duration::from_secs(5));
        } else {
            self.kill_descendants();
        }
    }

    /// Without control groups: we are the reaper of every orphan below us, so children found here
    /// until none is left are all there were.
    fn kill_descendants(&self) {
        let me = std::process::id();
        for _ in 0..200 {
            let listed =
                fs::read_to_string(format!("/proc/{me}/task/{me}/children")).unwrap_or_default();
            let pids: Vec<Pid> = listed
                .split_whitespace()
                .filter_map(|p| Pid::from_raw(p.parse().ok()?))
                .collect();
            if pids.is_empty() {
                return;
            }
            for pid in pids {
                let _gone_already = rustix::process::kill_process(pid, Signal::KILL);
            }
            while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Collects ended children of the shim; the end of the main one changes the phase of the cell.
    pub(super) fn reap_children(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if pid.as_raw_nonzero().get() != self.child.pid {
                continue;
            }
            let ran_out = |groups: &Option<ControlGroups>| {
                groups
                    .as_ref()
                    .is_some_and(ControlGroups::ran_out_of_memory)
            };
            let own = (status.exit_status(), status.terminating_signal());
            // When the first process itself was killed, all went with it and it said nothing.
            let told = self
                .channel
                .as_ref()
                .and_then(abbey_launch::IsolatedChild::read_exit_status);
            let ended = told.map_or(own, |raw| {
                use std::os::unix::process::ExitStatusExt;
                let status = std::process::ExitStatus::from_raw(raw);
                (status.code(), status.signal())
            });
            let stop_requested = self.phase.stop_requested();
            let timed_out = self.phase.stop_timed_out();
            if let Some(session) = self.session.as_mut().filter(|_| !timed_out) {
                // Its last words came before its end.
                let _heard = session.process_messages();
                let sealed = session
                    .finished_template()
                    .is_some_and(|t| t.seal().is_ok());
                let event = match sealed {
                    true => {
                        crash::point("template.sealed");
                        PhaseEvent::TemplateSealed
                    }
                    false => PhaseEvent::GuestEnded(session.exit_kind(stop_requested, ended.0)),
                };
                self.apply_event(event);
                continue;
            }
            self.apply_event(PhaseEvent::ProgramEnded(match ended {
                (_, Some(9)) if ran_out(&self.groups) => ExitKind::OutOfMemory,
                (Some(code), _) => ExitKind::Code { code },
                (None, Some(signal)) => ExitKind::Signal { signal },
                (None, None) => ExitKind::Lost,
            }));
        }
    }

    /// Kills what is left, writes remaining output, and removes the control groups. The exit record comes last: it
    /// means that no process of the cell is left.
    pub(super) fn finish_cell(&mut self, exit: ExitKind) {
        if let Some(session) = &mut self.session {
            // What the program said last is in pipes of ours.
            let (outputs, _) = session.process_messages();
            let outputs = outputs.into_iter().map(|(name, fd)| (name, Some(fd)));
            self.output.extend(outputs);
        }
        // Whoever reads slowly gets all of it, for a while.
        let until = Instant::now() + LAST_WORDS_WITHIN;
        while self
            .session
            .as_mut()
            .is_some_and(GuestSession::drain_output)
            && Instant::now() < until
        {
            self.copy_output_to_log(false);
            std::thread::sleep(Duration::from_millis(1));
        }
        if let Some(session) = &mut self.session {
            session.finish_file_transfers();
            if session.were_drives_unmounted() == Some(false) {
                let text = b"abbey: a drive could not be taken off whole\n";
                self.log.append(AROUND, text, now());
            }
        }
        // The kernel reports that nothing is left, also of what was made below.
        let is_empty = self.groups.as_ref().and_then(ControlGroups::are_empty);
        if is_empty != Some(true) {
            self.kill_cell();
        }
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
        self.copy_output_to_log(false);
        self.log.flush(now());
        let spent = CellUsage {
            cpu_us: abbey_launch::children_cpu_us(),
            memory_peak: self
                .groups
                .as_ref()
                .map_or(Bytes(0), ControlGroups::memory_peak),
        };
        if let Some(groups) = &self.groups {
            // A group of version 1 that somebody is in, whom the one of version 2 does not have, can't be removed.
            if groups.remove().is_err() {
                self.kill_cell();
                let _swept_by_the_house = groups.remove();
            }
        }
        if self.spec.container.is_some() {
            let groups =
                ControlGroups::find_existing(&self.spec.group, &self.spec.cell.to_string());
            let _swept_by_the_house = groups.remove();
        }
        crash::point("shim.ended");
        let record = ExitRecord {
            generation: self.generation,
            exit,
            ended_at: now(),
            spent: Some(spent),
        };
        let _disk_full = write_json_without_sync(&self.spec.run_dir.join("exit.json"), &record);
        let _gone_already = fs::remove_file(self.spec.run_dir.join("control.sock"));
    }
}
