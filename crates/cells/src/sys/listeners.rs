//! Listening TCP sockets of this network, and which processes have them.

use super::process::process_tree;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4};

/// A listening TCP socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listener {
    /// Address at which it listens.
    pub(crate) address: IpAddr,
    /// Port at which it listens.
    pub(crate) port: u16,
    /// User that made it.
    pub(crate) uid: u32,
    /// Number by which `/proc/PID/fd` names it.
    pub(crate) inode: u64,
}

impl Listener {
    /// Whether it accepts connections to 127.0.0.1.
    pub(crate) fn accepts_loopback(&self) -> bool {
        let address = self.address.to_canonical();
        address.is_unspecified() || address == IpAddr::V4(Ipv4Addr::LOCALHOST)
    }
}

/// Every listening TCP socket of the network of this process.
///
/// # Errors
/// If `/proc/net/tcp` cannot be read.
pub(crate) fn tcp_listeners() -> io::Result<Vec<Listener>> {
    let four = fs::read_to_string("/proc/net/tcp")?;
    // A kernel without IPv6 has no such file.
    let six = fs::read_to_string("/proc/net/tcp6").unwrap_or_default();
    Ok(four.lines().chain(six.lines()).filter_map(parse).collect())
}

/// A line of `/proc/net/tcp` or `tcp6`, if its socket listens. Source: proc_net_tcp.rst of the kernel.
fn parse(line: &str) -> Option<Listener> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, local, _, "0A", _, _, _, uid, _, inode, ..] = fields[..] else {
        return None;
    };
    let (address, port) = local.rsplit_once(':')?;
    let mut bytes = Vec::new();
    // Words in the byte order of this processor.
    for word in address.as_bytes().chunks(8) {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let address = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(four) => Ipv4Addr::from(four).into(),
        Err(_) => Ipv6Addr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?).into(),
    };
    Some(Listener {
        address,
        port: u16::from_str_radix(port, 16).ok()?,
        uid: uid.parse().ok()?,
        inode: inode.parse().ok()?,
    })
}

/// Numbers of the sockets that a process has open.
///
/// # Errors
/// If this process may not know, or there is none any more.
pub(crate) fn socket_inodes(pid: i32) -> io::Result<BTreeSet<u64>> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.flatten();
    let inode = |target: std::path::PathBuf| {
        let text = target.to_str()?.strip_prefix("socket:[")?;
        text.strip_suffix(']')?.parse().ok()
    };
    Ok(descriptors
        .filter_map(|d| inode(fs::read_link(d.path()).ok()?))
        .collect())
}

/// Whether what listens at an address on loopback belongs to a process below this one, in the same network. Processes
/// of another user than this are told by their user, others by their descriptors. True where that cannot be known.
pub fn descendants_listen(pid: i32, at: SocketAddrV4) -> bool {
    let Ok(listeners) = tcp_listeners() else {
        return true;
    };
    let descendants = process_tree(pid).split_off(1);
    let here = |l: &Listener| l.port == at.port() && l.accepts_loopback();
    let listeners: Vec<Listener> = listeners.into_iter().filter(here).collect();
    let me = rustix::process::geteuid().as_raw();
    let mut inodes = BTreeSet::new();
    for pid in &descendants {
        match effective_uid(*pid) {
            Some(user) if user != me && listeners.iter().any(|l| l.uid == user) => return true,
            Some(user) if user == me => match socket_inodes(*pid) {
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return true,
                found => inodes.extend(found.unwrap_or_default()),
            },
            _ => {}
        }
    }
    descendants.is_empty() || listeners.iter().any(|l| inodes.contains(&l.inode))
}

/// Effective user of a process; none if there is no such process.
fn effective_uid(pid: i32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("Uid:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_listener_is_found_with_its_address_and_its_process() {
        for (address, loopback) in [
            ("127.0.0.1:0", true),
            ("0.0.0.0:0", true),
            ("127.0.0.7:0", false),
        ] {
            let socket = TcpListener::bind(address).unwrap();
            let at = socket.local_addr().unwrap();
            let all = tcp_listeners().unwrap();
            let found = all
                .iter()
                .find(|l| (l.address, l.port) == (at.ip(), at.port()));
            let found = found.unwrap();
            assert_eq!(found.accepts_loopback(), loopback, "{address}");
            let me = i32::try_from(std::process::id()).unwrap();
            assert!(socket_inodes(me).unwrap().contains(&found.inode));
            assert_eq!(effective_uid(me), Some(found.uid));
        }
    }
}
