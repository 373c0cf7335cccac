//! A microVM that waits for its instructions, as a template or started from one.

use super::channel::{Channel, ChannelPeer, StreamEnds};
use super::program::launch_as_guest_user;
use super::protocol::{GuestConfig, GuestNotice, ShimNotice};
use super::setup;
use super::shim_link::{log_to_console, send_guest_notice};
use crate::sys::cgroup::ControlGroups;
use crate::{Error, Result};
use rustix::event::poll;
use rustix::process::{Pid, WaitOptions};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Warms up and waits until the shim says that the instructions can be read. A template is saved here, and microVMs
/// started from it continue here.
pub(super) fn wait_for_instructions(channel: &mut Channel) {
    #[derive(Default)]
    struct Waiting {
        warm: bool,
        begin: bool,
    }
    impl ChannelPeer for Waiting {
        fn notice(&mut self, text: &[u8]) {
            match serde_json::from_slice(text) {
                Ok(ShimNotice::Warm {}) => self.warm = true,
                // Whoever is to stop before it began has nothing to stop.
                Ok(ShimNotice::Stop { .. }) => setup::reboot(),
                Ok(ShimNotice::Begin {}) => self.begin = true,
                Ok(ShimNotice::Clock { .. } | ShimNotice::HangUp {}) | Err(_) => {}
            }
        }
        fn accept(&mut self, _header: &[u8]) -> Option<StreamEnds> {
            None
        }
    }
    warm_up();
    send_guest_notice(channel, &GuestNotice::Waiting {});
    let mut orders = Waiting::default();
    while !orders.begin {
        let mut fds = Vec::new();
        channel.add_poll_fds(&mut fds);
        let _interrupted = poll(&mut fds, None);
        drop(fds);
        if channel.transfer(&mut orders).is_err() {
            setup::reboot();
        }
        if std::mem::take(&mut orders.warm) {
            warm_up();
            send_guest_notice(channel, &GuestNotice::Warm {});
        }
    }
}

/// Does once what will be done when it begins: takes instructions, and runs a program as the ordinary user.
fn warm_up() {
    let run = || -> Result<()> {
        let _none_yet = setup::read_config();
        let told = GuestConfig::sample().and_then(|c| serde_json::to_vec(&c).ok());
        if let Some(sample) = told.and_then(|t| serde_json::from_slice(&t).ok()) {
            setup::set_identity(&sample)?;
            setup::mount_drives_and_write_files(&sample)?;
        }
        let groups = ControlGroups::create("abbey", "warm", &abbey_model::Limits::default())?;
        let open = || {
            let null = fs::File::options().read(true).write(true).open("/dev/null");
            null.map(OwnedFd::from)
                .map_err(Error::file("open", "/dev/null"))
        };
        let fds = vec![open()?, open()?, open()?, open()?];
        let argv = ["sh", "-c", "exec \"$@\"", "sh", "sh", "-c", "true | cat"].map(str::to_owned);
        let env = [("PATH".to_owned(), "/usr/bin:/bin".to_owned())];
        let child = launch_as_guest_user(&argv, &env, Path::new("/"), &groups, fds, false)?;
        let _status = rustix::process::waitpid(Pid::from_raw(child.pid), WaitOptions::empty());
        groups.remove()
    };
    // Without it the first program merely takes longer.
    if let Err(error) = run() {
        log_to_console(&crate::error::error_chain(&error));
    }
}
