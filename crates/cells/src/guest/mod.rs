//! The first process of a microVM: gets it ready, runs the one program that it is for, and does for
//! the house what the shim cannot do from outside. It talks over one port that only root can open; the
//! program runs as an ordinary user.
//!
//! One thread, one `poll`, and a process of its own for each request, as hostd does it.

pub(crate) mod channel;
mod program;
mod protocol;
mod request;
mod serve;
mod setuid;
mod setup;
mod shim_link;
mod warm_up;

pub use program::OWN_IN_GUEST;
pub use protocol::GuestRequest;
pub(crate) use protocol::{
    CONTAINER_CONFIG, GuestConfig, GuestNotice, GuestReply, GuestStream, ShimNotice,
};
pub use serve::run_guest;
pub(crate) use setuid::SETUID_PROGRAMS;
pub(crate) use setup::CLOCK_OFF_MAX;
