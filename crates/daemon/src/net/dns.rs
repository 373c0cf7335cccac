//! DNS for cells with `egress: full`: forwards their queries unchanged to the host's name servers.
//! What a cell may connect to is decided by the firewall, not here. Other cells get no answer.

use crate::core::accepted::Accepted;
use crate::core::error::Result;
use crate::core::listen::{Callers, ConnectionPlace, HEAD_WITHIN, listen_unix};
use crate::core::runtime::Runtime;
use crate::net::egress::{egress_policy_of, read_cell_name};
use crate::net::state::NetState;
use abbey_model::Egress;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket, UnixStream};

/// Longest wait for the answer of one name server.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// Least time between two queries on one connection.
const PACE: Duration = Duration::from_millis(5);
/// Largest UDP answer that is read (common EDNS size, RFC 6891).
const DATAGRAM_MAX: usize = 4096;
/// Length of a DNS header, the shortest message (RFC 1035, 4.1.1).
const HEADER: usize = 12;

/// Listens on the DNS socket, on which shims forward the queries of their cells, and serves each
/// connection.
pub(crate) fn listen_for_dns(net: &Arc<NetState>) -> Result<()> {
    let path = net.core.home.dns_socket();
    let shared = Arc::clone(net);
    listen_unix(
        &net.core.rt,
        (path, Callers::Others),
        move |stream, place| serve_dns_connection(Arc::clone(&shared), stream, place),
    )
}

/// Answers the queries of one cell's connection until it closes or the cell may not use DNS.
async fn serve_dns_connection(
    net: Arc<NetState>,
    mut stream: Accepted<UnixStream>,
    place: Arc<ConnectionPlace>,
) {
    // Each shim holds the connections of its cell within a limit, so none is closed for another.
    let _kept = place.begin_request();
    let whose = net
        .core
        .rt
        .timeout(HEAD_WITHIN, read_cell_name(&mut stream))
        .await;
    let Ok(Some(cell)) = whose else { return };
    loop {
        let read = net
            .core
            .rt
            .timeout(HEAD_WITHIN, read_message(&mut stream))
            .await;
        let Ok(Some(question)) = read else { return };
        if egress_policy_of(&net, &cell).0 != Egress::Full {
            return;
        }
        let mut answer = None;
        for server in host_name_servers() {
            answer = query_name_server(&net.core.rt, server, &question).await;
            if answer.is_some() {
                break;
            }
        }
        // Without an answer the connection is closed, which the cell's resolver reports as a failure.
        let Some(answer) = answer else { return };
        let Ok(length) = u16::try_from(answer.len()) else {
            return;
        };
        let sent = async {
            stream.write_all(&length.to_be_bytes()).await?;
            stream.write_all(&answer).await
        };
        if sent.await.is_err() {
            return;
        }
        net.core.rt.sleep(PACE).await;
    }
}

/// Reads one DNS message with its length prefix (RFC 1035, 4.2.2).
async fn read_message(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<Vec<u8>> {
    let length = usize::from(stream.read_u16().await.ok()?);
    if length < HEADER {
        return None;
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await.ok()?;
    Some(message)
}

/// Name servers of the host's `/etc/resolv.conf`.
fn host_name_servers() -> Vec<SocketAddr> {
    let text = std::fs::read("/etc/resolv.conf").unwrap_or_default();
    let Ok(config) = resolv_conf::Config::parse(text) else {
        return Vec::new();
    };
    let address = |server: &resolv_conf::ScopedIp| Some(SocketAddr::new(server.into(), 53));
    config.nameservers.iter().filter_map(address).collect()
}

/// Sends a query to one name server by UDP, and again by TCP if the answer is truncated.
async fn query_name_server(rt: &Runtime, server: SocketAddr, question: &[u8]) -> Option<Vec<u8>> {
    let exchange = async {
        let local = match server {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        };
        let socket = UdpSocket::bind((local, 0)).await.ok()?;
        socket.connect(server).await.ok()?;
        socket.send(question).await.ok()?;
        let mut answer = vec![0; DATAGRAM_MAX];
        loop {
            let length = socket.recv(&mut answer).await.ok()?;
            // Ignore answers whose transaction id is not that of the query.
            if length >= HEADER && answer[..2] == question[..2] {
                answer.truncate(length);
                break;
            }
        }
        let truncated = answer[2] & 0x02 != 0;
        if !truncated {
            return Some(answer);
        }
        let mut stream = TcpStream::connect(server).await.ok()?;
        let length = u16::try_from(question.len()).ok()?;
        stream.write_all(&length.to_be_bytes()).await.ok()?;
        stream.write_all(question).await.ok()?;
        read_message(&mut stream).await
    };
    rt.timeout(ANSWER_WITHIN, exchange).await.ok()?
}
