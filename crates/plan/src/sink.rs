//! Checkpoint sinks: where signed heads of the audit log go besides hostd's file.

use abbey_model::SecretRef;
use std::path::PathBuf;

/// Destination of signed heads of the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckpointSink {
    /// A file to which hostd appends; an absolute path.
    File(PathBuf),
    /// A collector of RFC 5424 messages.
    Syslog(SyslogAddress),
    /// An HTTP endpoint.
    Http {
        /// Absolute URL that takes JSON Lines by `POST`.
        url: String,
        /// Reference to the bearer credential.
        token: Option<SecretRef>,
    },
}

/// Address of a syslog collector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyslogAddress {
    /// Path of a datagram socket.
    Unix(PathBuf),
    /// Host and port, one datagram for each message.
    Udp(String),
    /// Host and port, a stream of messages with octet counts.
    Tcp(String),
}

impl CheckpointSink {
    /// The destination as the manifest names it; a sink with another target is another sink.
    pub fn target(&self) -> String {
        match self {
            CheckpointSink::File(path) => format!("file:{}", path.display()),
            CheckpointSink::Syslog(SyslogAddress::Unix(path)) => {
                format!("syslog:unix:{}", path.display())
            }
            CheckpointSink::Syslog(SyslogAddress::Udp(address)) => format!("syslog:udp:{address}"),
            CheckpointSink::Syslog(SyslogAddress::Tcp(address)) => format!("syslog:tcp:{address}"),
            CheckpointSink::Http { url, .. } => url.clone(),
        }
    }
}

impl std::str::FromStr for SyslogAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<SyslogAddress, String> {
        let host_and_port = |address: &str| {
            let (host, port) = address.rsplit_once(':')?;
            let good = !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p != 0);
            good.then(|| address.to_owned())
        };
        let parsed = match text.split_once(':') {
            Some(("unix", path)) if path.starts_with('/') => Some(SyslogAddress::Unix(path.into())),
            Some(("udp", address)) => host_and_port(address).map(SyslogAddress::Udp),
            Some(("tcp", address)) => host_and_port(address).map(SyslogAddress::Tcp),
            _ => None,
        };
        parsed.ok_or_else(|| {
            format!("`{text}` is not the address of a syslog collector; write `unix:/dev/log`, `udp:HOST:PORT` or `tcp:HOST:PORT`")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_collectors_name_how_and_where() {
        let parse = |text: &str| text.parse::<SyslogAddress>();
        assert_eq!(
            parse("unix:/dev/log"),
            Ok(SyslogAddress::Unix("/dev/log".into()))
        );
        assert_eq!(
            parse("udp:[::1]:514"),
            Ok(SyslogAddress::Udp("[::1]:514".into()))
        );
        for wrong in [
            "",
            "/dev/log",
            "unix:log",
            "tcp:host",
            "tcp::514",
            "tcp:host:0",
            "tls:host:1",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        for (sink, why) in [
            ("{ file: heads.jsonl }", "absolute"),
            ("{ file: /mnt/../etc/x }", "absolute"),
            ("{ file: /a, url: 'https://b' }", "exactly one"),
            ("{ token: 'env:X', file: /a }", "belongs to `url`"),
            ("{ url: 'ftp://b' }", "https://"),
            ("{ url: 'https://a:pw@b' }", "password"),
            ("{ url: 'https://a@b/x' }", "user name"),
            ("{ url: 'http://b.example', token: 'env:X' }", "credential"),
            (
                "{ url: 'http://127.0.0.1:80@b.example/', token: 'env:X' }",
                "credential",
            ),
            ("{ syslog: here }", "not the address"),
        ] {
            let manifest = format!(
                "version: 1\nhouse: h\nagents: {{ a: {{}} }}\ncheckpoint_sinks: {{ one: {sink} }}\n"
            );
            let told = crate::parse(&manifest).unwrap_err()[0].to_string();
            assert!(told.contains(why), "{sink}: {told}");
        }
    }
}
