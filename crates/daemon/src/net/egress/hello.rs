//! The first words of a TLS client: whom it means to talk to.

use super::policy::Denied;
use tokio_rustls::rustls::server::Acceptor;

/// Longest beginning that is looked at, bytes; larger ones are no honest client's.
const HELLO_MAX: usize = 32 << 10;
/// Content type of a TLS record that begins a handshake (RFC 8446, 5.1).
const HANDSHAKE: u8 = 22;

/// What is known after so many bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// More bytes are needed.
    Wait,
    /// It may pass.
    Pass,
}

/// Looks at everything that the client has said so far. On the port of HTTPS only TLS passes, and
/// TLS passes only under the name that was asked for.
pub(crate) fn judge(said: &[u8], host: &str, port: u16) -> Result<Verdict, Denied> {
    let Some(first) = said.first() else {
        return Ok(Verdict::Wait);
    };
    if *first != HANDSHAKE {
        return match port {
            443 => Err(Denied::new("no_tls", "only TLS goes to port 443")),
            _ => Ok(Verdict::Pass),
        };
    }
    // An address has no name to compare with.
    if host.parse::<std::net::Ipv4Addr>().is_ok() {
        return Ok(Verdict::Pass);
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
                    Some(name) if name.eq_ignore_ascii_case(host) => Ok(Verdict::Pass),
                    Some(name) => Err(Denied::new(
                        "other_name",
                        format!("{host} was asked for, and TLS began for {name}"),
                    )),
                    None => Err(Denied::new(
                        "other_name",
                        format!("{host} was asked for, and TLS began without a name"),
                    )),
                };
            }
            Ok(None) => {}
            Err(_) => return Err(broken()),
        }
    }
    match said.len() < HELLO_MAX {
        true => Ok(Verdict::Wait),
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
        assert_eq!(judge(&said, "API.example.org.", 443), Ok(Verdict::Pass));
        let other = judge(&said, "front.example.org", 443).unwrap_err();
        assert_eq!(other.code, "other_name");
        // In pieces as small as they come.
        for end in 1..said.len() - 1 {
            assert_eq!(
                judge(&said[..end], "api.example.org", 443),
                Ok(Verdict::Wait),
                "{end}"
            );
        }
        let nameless = hello("203.0.113.5");
        assert_eq!(
            judge(&nameless, "api.example.org", 443).unwrap_err().code,
            "other_name"
        );
        assert_eq!(judge(&nameless, "203.0.113.5", 443), Ok(Verdict::Pass));
    }

    #[test]
    fn nothing_but_tls_goes_to_the_port_of_https() {
        assert_eq!(
            judge(b"GET / HTTP/1.1", "a.org", 443).unwrap_err().code,
            "no_tls"
        );
        assert_eq!(judge(b"SSH-2.0", "a.org", 22), Ok(Verdict::Pass));
        assert_eq!(judge(b"", "a.org", 22), Ok(Verdict::Wait));
        assert_eq!(judge(&[22; 64], "a.org", 443).unwrap_err().code, "no_tls");
    }
}
