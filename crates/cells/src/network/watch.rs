//! Notices of the kernel about changes of interfaces, addresses, routes, forwarding and firewall rules, by whomever.

use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// Groups of rtnetlink(7): `RTNLGRP_LINK`, `RTNLGRP_IPV4_IFADDR`, `RTNLGRP_IPV4_ROUTE`, `RTNLGRP_IPV4_NETCONF`.
const ROUTE_GROUPS: [u32; 4] = [1, 5, 7, 24];
/// Group of netfilter's netlink: `NFNLGRP_NFTABLES`.
const RULE_GROUPS: [u32; 1] = [7];

/// Subscription to notices of the kernel about the network of this process.
pub(crate) struct NetworkWatch {
    sockets: [Socket; 2],
}

impl NetworkWatch {
    /// Subscribes.
    ///
    /// # Errors
    /// The system's error.
    pub(crate) fn open() -> io::Result<NetworkWatch> {
        Ok(NetworkWatch {
            sockets: [
                subscribe(NETLINK_ROUTE, &ROUTE_GROUPS)?,
                subscribe(NETLINK_NETFILTER, &RULE_GROUPS)?,
            ],
        })
    }

    /// Descriptors that are readable when something changed.
    pub(crate) fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.sockets[0].as_fd(), self.sockets[1].as_fd()]
    }

    /// Discards what has arrived, and returns whether that was anything: whoever is woken compares everything. Lost notices
    /// were notices as well.
    pub(crate) fn drain(&self) -> bool {
        let mut buffer = [0u8; 8192];
        let mut arrived = false;
        for socket in &self.sockets {
            loop {
                match rustix::io::read(socket, &mut buffer) {
                    Ok(_) | Err(Errno::NOBUFS) => arrived = true,
                    Err(Errno::INTR) => {}
                    Err(_) => break,
                }
            }
        }
        arrived
    }
}

fn subscribe(protocol: isize, groups: &[u32]) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    for group in groups {
        socket.add_membership(*group)?;
    }
    socket.set_non_blocking(true)?;
    Ok(socket)
}
