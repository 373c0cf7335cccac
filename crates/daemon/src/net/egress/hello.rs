//! Checks the first bytes of a tunnel: the server name in the TLS ClientHello must be the requested
//! host.

use super::policy::Denied;
use tokio_rustls::rustls::server::Acceptor;

/// Longest ClientHello that is examined, bytes; larger ones are refused.
const HELLO_MAX: usize = 32 << 10;
/// Content type of a TLS record that begins a handshake (RFC 8446, 5.1).
const HANDSHAKE: u8 = 22;

/// Result of examining the bytes received so far.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HelloVerdict {
    /// More bytes are needed to decide.
    Wait,
    /// The connection may continue.
    Pass,
}

/// Examines all bytes that the client has sent so far. On port 443 only TLS is allowed, and TLS is
/// allowed only for the requested host.
///
/// # Errors
/// `no_tls` or `other_name` when the connection must be closed.
pub(crate) fn check_client_hello(
    said: &[u8],
    host: &str,
    port: u16,
) -> Result<HelloVerdict, Denied> {
    let Some(first) = said.first() else {
        return Ok(HelloVerdict::Wait);
    };
    if *first != HANDSHAKE {
        return match port {
            443 => Err(Denied::new("no_tls", "only TLS goes to port 443")),
            _ => Ok(HelloVerdict::Pass),
        };
    }
    // An address has no name to compare with.
    if host.parse::<std::net::Ipv4Addr>().is_ok() {
        return Ok(HelloVerdict::Pass);
    }
    let broken = || Denied::new("no_tls", "the beginning of TLS is not understood");
    let mut acceptor = Acceptor::default();
    let mut rest = said;
    while !rest.is_empty() {
        if acceptor.read_tls(&mut rest).map_err(|_| broken())? == 0 {
            break;
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let host = host.strip_suffix('.').unwrap_or(host);
                let named = accepted.client_hello().server_name().map(str::to_owned);
                return match named {
                    Some(name) if name.eq_ignore_ascii_case(host) => Ok(HelloVerdict::Pass),
                    Some(name) => Err(Denied::new(
                        "other_name",
                        format!(
                            "the proxy request names {host}, but the TLS handshake names {name}"
                        ),
                    )),
                    None => Err(Denied::new(
                        "other_name",
                        format!(
                            "the proxy request names {host}, but the TLS handshake has no server name"
                        ),
                    )),
                };
            }
            Ok(None) => {}
            Err(_) => return Err(broken()),
        }
    }
    match said.len() < HELLO_MAX {
        true => Ok(HelloVerdict::Wait),
        false => Err(broken()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio_rustls::rustls::pki_types::ServerName;
    use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore};

    /// What a real client says first.
    fn hello(name: &str) -> Vec<u8> {
        let config = ClientConfig::builder()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut said = Vec::new();
        client.write_tls(&mut said).unwrap();
        said
    }

    #[test]
    fn tls_passes_under_the_name_that_was_asked_for() {
        let said = hello("api.example.org");
        assert_eq!(
            check_client_hello(&said, "API.example.org.", 443),
            Ok(HelloVerdict::Pass)
        );
        let other = check_client_hello(&said, "front.example.org", 443).unwrap_err();
        assert_eq!(other.code, "other_name");
        // In pieces as small as they come.
        for end in 1..said.len() - 1 {
            assert_eq!(
                check_client_hello(&said[..end], "api.example.org", 443),
                Ok(HelloVerdict::Wait),
                "{end}"
            );
        }
        let nameless = hello("203.0.113.5");
        assert_eq!(
            check_client_hello(&nameless, "api.example.org", 443)
                .unwrap_err()
                .code,
            "other_name"
        );
        assert_eq!(
            check_client_hello(&nameless, "203.0.113.5", 443),
            Ok(HelloVerdict::Pass)
        );
    }

    #[test]
    fn nothing_but_tls_goes_to_the_port_of_https() {
        assert_eq!(
            check_client_hello(b"GET / HTTP/1.1", "a.org", 443)
                .unwrap_err()
                .code,
            "no_tls"
        );
        assert_eq!(
            check_client_hello(b"SSH-2.0", "a.org", 22),
            Ok(HelloVerdict::Pass)
        );
        assert_eq!(check_client_hello(b"", "a.org", 22), Ok(HelloVerdict::Wait));
        assert_eq!(
            check_client_hello(&[22; 64], "a.org", 443)
                .unwrap_err()
                .code,
            "no_tls"
        );
    }
}
