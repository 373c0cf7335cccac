//! A network outside of the house, with servers that answer every connection and record it.

use crate::house::own_network;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::process::Command;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};

/// Ports on which every address of the outside answers.
const PORTS: [u16; 4] = [22, 80, 443, 5432];

/// What every name of the outside leads to.
const NAMED: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

/// A connection to a server of the outside network.
#[derive(Debug, Clone)]
pub struct Visit {
    /// Address and port of the server.
    pub at: String,
    /// Address of the client.
    pub from: String,
    /// First bytes that the client sent.
    pub said: Vec<u8>,
}

/// The outside network; it exists as long as the test's process.
#[derive(Debug)]
pub struct Outside {
    visits: Arc<Mutex<Vec<Visit>>>,
}

/// Runs `ip` with these arguments in the caller's network.
///
/// # Panics
/// If it fails.
pub fn ip(args: &str) {
    let done = Command::new("ip")
        .args(args.split(' '))
        .output()
        .expect("ip");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "ip {args}: {said}");
}

impl Outside {
    /// Creates the outside network with servers at these addresses, and connects the caller's
    /// network to it by a default route; the caller's address is 203.0.113.1.
    ///
    /// # Panics
    /// If it fails, for example without root.
    pub fn connect(addresses: &[&'static str]) -> Outside {
        own_network();
        ip("link add near type veth peer name far");
        let (tell, told) = channel();
        let (go, gone) = channel::<()>();
        let visits = Arc::<Mutex<Vec<Visit>>>::default();
        let (seen, addresses) = (Arc::clone(&visits), addresses.to_vec());
        std::thread::spawn(move || {
            own_network();
            let me = rustix::thread::gettid().as_raw_nonzero().get();
            tell.send(me).expect("the test");
            gone.recv().expect("the test");
            ip("addr add 203.0.113.2/24 dev far");
            for address in &addresses {
                ip(&format!("addr add {address} dev far"));
            }
            ip("link set far up");
            for address in addresses {
                for port in PORTS {
                    let listener = TcpListener::bind((address, port)).expect("a listener");
                    let seen = Arc::clone(&seen);
                    std::thread::spawn(move || {
                        serve(&format!("{address}:{port}"), &listener, &seen)
                    });
                }
                let names = UdpSocket::bind((address, 53)).expect("a socket");
                std::thread::spawn(move || resolve(&names));
            }
            tell.send(0).expect("the test");
        });
        let thread = told.recv().expect("the outside");
        ip(&format!("link set far netns {thread}"));
        ip("addr add 203.0.113.1/24 dev near");
        ip("link set near up");
        ip("route add default via 203.0.113.2");
        go.send(()).expect("the outside");
        told.recv().expect("the outside");
        Outside { visits }
    }

    /// Every recorded connection to one server.
    pub fn visits_to(&self, at: &str) -> Vec<Visit> {
        let visits = self.visits.lock().unwrap_or_else(PoisonError::into_inner);
        visits.iter().filter(|v| v.at == at).cloned().collect()
    }
}

fn serve(at: &str, listener: &TcpListener, seen: &Mutex<Vec<Visit>>) {
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let peer = stream.peer_addr();
        let from = peer.map_or_else(|_| String::new(), |a| a.ip().to_string());
        // One of those protocols in which the server speaks first.
        if at.ends_with(":22") {
            let _gone = stream.write_all(b"SSH-2.0-outside\r\n");
        }
        let mut said = vec![0u8; 4096];
        let n = stream.read(&mut said).unwrap_or(0);
        said.truncate(n);
        let body = format!("outside {at}\n");
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        // On record before the caller can know.
        let at = at.to_owned();
        let mut visits = seen.lock().unwrap_or_else(PoisonError::into_inner);
        visits.push(Visit { at, from, said });
        drop(visits);
        let _gone = stream.write_all(answer.as_bytes());
    }
}

/// Answers every question for an address with [`NAMED`]: the question again, marked as an answer,
/// with one record behind it (RFC 1035).
fn resolve(socket: &UdpSocket) {
    let mut question = [0u8; 512];
    while let Ok((n, from)) = socket.recv_from(&mut question) {
        let mut answer = question[..n].to_vec();
        // Whatever else the question carried is left out: its name ends with an empty label.
        let end = (12..n).find(|i| answer[*i] == 0).map(|i| i + 5);
        if let Some(end) = end.filter(|e| *e <= n) {
            answer.truncate(end);
            let for_address = answer[end - 4..end - 2] == [0, 1];
            answer[2..4].copy_from_slice(&[0x81, 0x80]);
            answer[6..12].copy_from_slice(&[0, u8::from(for_address), 0, 0, 0, 0]);
            if for_address {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                answer.extend(NAMED.octets());
            }
        }
        let _gone = socket.send_to(&answer, from);
    }
}
