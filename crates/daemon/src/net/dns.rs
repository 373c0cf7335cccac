//! Names for cells that may go everywhere: their questions are carried to the name servers of this
//! host, and to nobody else. A question is carried as it is; what its answer leads to is the
//! firewall's business. Cells that may not go out get no answer here.

use crate::core::error::Result;
use crate::core::listen::{HEAD_WITHIN, listen_unix};
use crate::core::runtime::Runtime;
use crate::net::egress::{policy_of, preface};
use crate::net::state::NetState;
use abbey_model::Egress;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket, UnixStream};

/// Longest wait for one name server.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// Least time between two questions of one connection.
const PACE: Duration = Duration::from_millis(5);
/// Longest message over UDP that is taken (RFC 6891 says what is common).
const DATAGRAM_MAX: usize = 4096;
/// Shortest message: a header (RFC 1035, 4.1.1).
const HEADER: usize = 12;

/// Listens for shims.
pub(crate) fn open(net: &Arc<NetState>) -> Result<()> {
    let path = net.core.home.names_socket();
    let shared = Arc::clone(net);
    listen_unix(&net.core.rt, path, move |stream| {
        attend(Arc::clone(&shared), stream)
    })
}

async fn attend(net: Arc<NetState>, mut stream: UnixStream) {
    let whose = net.core.rt.timeout(HEAD_WITHIN, preface(&mut stream)).await;
    let Ok(Some(cell)) = whose else { return };
    loop {
        let read = net.core.rt.timeout(HEAD_WITHIN, framed(&mut stream)).await;
        let Ok(Some(question)) = read else { return };
        if policy_of(&net, &cell).0 != Egress::Full {
            return;
        }
        let mut answer = None;
        for server in servers() {
            answer = ask(&net.core.rt, server, &question).await;
            if answer.is_some() {
                break;
            }
        }
        // Without an answer the caller sees its connection close and says that it failed.
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

/// One message with its length in front (RFC 1035, 4.2.2).
async fn framed(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<Vec<u8>> {
    let length = usize::from(stream.read_u16().await.ok()?);
    if length < HEADER {
        return None;
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await.ok()?;
    Some(message)
}

/// Name servers of this host.
fn servers() -> Vec<SocketAddr> {
    let text = std::fs::read("/etc/resolv.conf").unwrap_or_default();
    let Ok(config) = resolv_conf::Config::parse(text) else {
        return Vec::new();
    };
    let address = |server: &resolv_conf::ScopedIp| Some(SocketAddr::new(server.into(), 53));
    config.nameservers.iter().filter_map(address).collect()
}

/// Asks one server: by datagram, and by connection when the answer is longer than that.
async fn ask(rt: &Runtime, server: SocketAddr, question: &[u8]) -> Option<Vec<u8>> {
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
            // Somebody else's answer is passed over; ours has the number of the question.
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
        framed(&mut stream).await
    };
    rt.timeout(ANSWER_WITHIN, exchange).await.ok()?
}
