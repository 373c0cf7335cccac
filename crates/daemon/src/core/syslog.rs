//! Messages for a syslog collector: RFC 5424, over datagrams, or over TCP with octet counts (RFC 6587).

use abbey_api::Time;
use abbey_model::{CheckpointLine, Timestamp};
use abbey_plan::SyslogAddress;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket, UnixDatagram};

/// Facility "log audit" (13), severity "notice" (5).
const PRIORITY: u8 = 13 * 8 + 5;

/// Sends one message for each line of a checkpoint file. A datagram is not acknowledged: what a collector loses is not
/// repeated.
///
/// # Errors
/// The system's error; some messages may have arrived.
pub(crate) async fn send(address: &SyslogAddress, lines: &[String]) -> io::Result<()> {
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy().into_owned();
    let messages = lines.iter().map(|line| format_message(&host, line));
    match address {
        SyslogAddress::Unix(path) => {
            let socket = UnixDatagram::unbound()?;
            socket.connect(path)?;
            for message in messages {
                socket.send(message.as_bytes()).await?;
            }
        }
        SyslogAddress::Udp(address) => {
            let to = tokio::net::lookup_host(address).await?.next();
            let to = to.ok_or_else(|| io::Error::other("the host has no address"))?;
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).await?;
            socket.connect(to).await?;
            for message in messages {
                socket.send(message.as_bytes()).await?;
            }
        }
        SyslogAddress::Tcp(address) => {
            let mut stream = TcpStream::connect(address).await?;
            for message in messages {
                let framed = format!("{} {message}", message.len());
                stream.write_all(framed.as_bytes()).await?;
            }
            // A collector closes once it has read to the end; one that died resets instead.
            stream.shutdown().await?;
            let mut nothing = [0; 64];
            while stream.read(&mut nothing).await? > 0 {}
        }
    }
    Ok(())
}

fn format_message(host: &str, line: &str) -> String {
    let at = serde_json::from_str::<CheckpointLine>(line).map_or(Timestamp(0), |l| l.at());
    // A name of at most 255 printable ASCII characters (RFC 5424, section 6.2.4), or none.
    let printable =
        !host.is_empty() && host.len() <= 255 && host.bytes().all(|b| b.is_ascii_graphic());
    let host = if printable { host } else { "-" };
    format!(
        "<{PRIORITY}>1 {} {host} abbey - checkpoint - {line}",
        Time(at)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_the_header_of_rfc_5424_and_the_line_as_it_is() {
        let line = r#"{"kind":"restored","seq":7,"hash":"ab","key":"cd","at":1700000000120}"#;
        let message = format_message("host", line);
        let header = "<109>1 2023-11-14T22:13:20.120Z host abbey - checkpoint - ";
        assert_eq!(message, format!("{header}{line}"));
        assert!(format_message("a b", line).contains("Z - abbey"));
    }
}
