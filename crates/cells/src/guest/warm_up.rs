//! A microVM that waits for its instructions, as a template or started from one.

use super::channel::{Channel, ChannelPeer, StreamEnds};
use super::protocol::{GuestNotice, ShimNotice};
use super::setup;
use super::shim_link::{log_to_console, send_guest_notice};
use crate::Result;
use rustix::event::poll;

/// Warms up by a rehearsal and waits until the shim says that the instructions can be read. A template is saved here,
/// and microVMs started from it continue here.
pub(super) fn wait_for_instructions(channel: &mut Channel, rehearse: impl Fn() -> Result<()>) {
    let warm_up = || {
        // Without it the first program merely takes longer.
        if let Err(error) = rehearse() {
            log_to_console(&crate::error::error_chain(&error));
        }
    };
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
