//! Egress decisions by name: a request is checked by its host name, and then by the address to
//! which the name resolved.

use abbey_model::{Egress, EgressRule, is_reserved};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

/// Reason for refusing a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Denied {
    /// Stable code for logs and problem documents.
    pub(crate) code: &'static str,
    /// Explanation for the caller.
    pub(crate) text: String,
}

impl Denied {
    /// A refusal with this code and explanation.
    pub(crate) fn new(code: &'static str, text: impl Into<String>) -> Denied {
        Denied {
            code,
            text: text.into(),
        }
    }
}

fn rules(egress: &Egress) -> impl Iterator<Item = &EgressRule> {
    let list = match egress {
        Egress::List(list) => Some(list),
        Egress::None | Egress::Full => None,
    };
    list.into_iter().flatten()
}

/// Checks whether a cell may request this host and port. Returns the address if the host is an IPv4
/// literal, `None` if it is a name to resolve.
///
/// # Errors
/// The refusal, if no rule allows it.
pub(crate) fn check_host(
    egress: &Egress,
    host: &str,
    port: u16,
) -> Result<Option<Ipv4Addr>, Denied> {
    let not_allowed = || {
        let text = format!(
            "{host}:{port} is not allowed by `egress` ({egress}); the operator can add it to `egress` in the manifest"
        );
        Denied::new("not_allowed", text)
    };
    if let Ok(address) = host.parse::<Ipv4Addr>() {
        check_address(egress, host, address, port)?;
        return Ok(Some(address));
    }
    if host.starts_with('[') || host.contains(':') {
        return Err(Denied::new(
            "ipv6",
            format!("{host}: IPv6 addresses are not supported; use a host name or an IPv4 address"),
        ));
    }
    // What is neither an address in four parts nor a name with letters in its last part is read
    // as an address by some programs; a rule can only name what everybody reads alike.
    let named = format!("{}:{port}", host.strip_suffix('.').unwrap_or(host));
    if named.parse::<EgressRule>().is_err() || named.starts_with("*.") {
        return Err(Denied::new(
            "no_name",
            format!("`{host}` is neither a host name nor an address"),
        ));
    }
    match egress {
        Egress::Full => Ok(None),
        _ if rules(egress).any(|r| r.names(host, port)) => Ok(None),
        _ => Err(not_allowed()),
    }
}

/// Checks whether a cell may connect to this address of an allowed host: addresses of this host,
/// private networks and cloud metadata are refused unless a rule names the address itself.
///
/// # Errors
/// The refusal.
pub(crate) fn check_address(
    egress: &Egress,
    host: &str,
    address: Ipv4Addr,
    port: u16,
) -> Result<(), Denied> {
    if rules(egress).any(|r| r.covers(address, port)) {
        return Ok(());
    }
    if is_reserved(address) {
        return Err(Denied::new(
            "reserved_address",
            format!(
                "{host} is at {address}, which is a private, loopback or metadata address; a rule in `egress` must name the address itself"
            ),
        ));
    }
    if is_host_address(address) {
        return Err(Denied::new(
            "own_address",
            format!(
                "{host} is at {address}, which is an address of this host; a rule in `egress` must name the address itself"
            ),
        ));
    }
    let by_name = host.parse::<Ipv4Addr>().is_err();
    match by_name || *egress == Egress::Full {
        true => Ok(()),
        false => Err(Denied::new(
            "not_allowed",
            format!("{address}:{port} is not allowed by `egress` ({egress})"),
        )),
    }
}

/// Whether an address belongs to this host, found out by binding a UDP socket to it.
pub(crate) fn is_host_address(address: Ipv4Addr) -> bool {
    std::net::UdpSocket::bind((address, 0)).is_ok()
}

/// Chooses the first IPv4 address of a DNS answer. A single forbidden address refuses the whole
/// answer, since mixed answers are a DNS rebinding attack.
///
/// # Errors
/// The refusal of the forbidden address, or `no_address`.
pub(crate) fn choose_address(
    egress: &Egress,
    host: &str,
    port: u16,
    answers: impl IntoIterator<Item = IpAddr>,
) -> Result<SocketAddrV4, Denied> {
    let mut chosen = None;
    for answer in answers {
        let address = match answer {
            IpAddr::V4(address) => address,
            // An IPv4 address in IPv6 notation.
            IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
                Some(address) => address,
                None => continue,
            },
        };
        check_address(egress, host, address, port)?;
        chosen = chosen.or(Some(address));
    }
    let none = || Denied::new("no_address", format!("{host} has no IPv4 address"));
    chosen
        .map(|address| SocketAddrV4::new(address, port))
        .ok_or_else(none)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(rules: &[&str]) -> Egress {
        Egress::List(rules.iter().map(|r| r.parse().unwrap()).collect())
    }

    fn code(result: Result<impl std::fmt::Debug, Denied>) -> &'static str {
        result.unwrap_err().code
    }

    #[test]
    fn only_what_was_named_is_asked_for() {
        let egress = list(&["api.example.org:443", "198.51.100.0/24:5432"]);
        assert_eq!(check_host(&egress, "api.example.org", 443), Ok(None));
        assert!(check_host(&egress, "198.51.100.7", 5432).is_ok());
        for (host, port) in [
            ("api.example.org", 80),
            ("other.example.org", 443),
            ("198.51.100.7", 80),
            ("1.1.1.1", 443),
        ] {
            assert_eq!(
                code(check_host(&egress, host, port)),
                "not_allowed",
                "{host}"
            );
        }
        assert_eq!(
            code(check_host(&Egress::None, "api.example.org", 443)),
            "not_allowed"
        );
        assert_eq!(code(check_host(&egress, "[::1]", 443)), "ipv6");
    }

    #[test]
    fn other_spellings_of_addresses_are_no_names() {
        for host in [
            "2130706433",
            "0x7f000001",
            "0177.0.0.1",
            "127.1",
            "1.2.3.4.5",
            "",
            "a b",
            "*.org",
        ] {
            assert_eq!(
                code(check_host(&Egress::Full, host, 80)),
                "no_name",
                "{host}"
            );
        }
        for host in ["127.0.0.1", "169.254.169.254", "10.0.0.1"] {
            assert_eq!(
                code(check_host(&Egress::Full, host, 80)),
                "reserved_address",
                "{host}"
            );
        }
    }

    #[test]
    fn this_host_is_not_outside() {
        assert!(is_host_address(Ipv4Addr::LOCALHOST));
        assert!(!is_host_address(Ipv4Addr::new(203, 0, 113, 77)));
    }

    #[test]
    fn a_name_that_leads_inside_is_refused_whatever_else_it_says() {
        let egress = list(&["api.example.org:443"]);
        let choose_from = |answers: &[&str]| {
            let answers = answers.iter().map(|a| a.parse().unwrap());
            choose_address(&egress, "api.example.org", 443, answers)
        };
        assert_eq!(
            choose_from(&["203.0.113.5", "203.0.113.6"])
                .unwrap()
                .to_string(),
            "203.0.113.5:443"
        );
        for bad in [
            "127.0.0.1",
            "10.77.0.1",
            "169.254.169.254",
            "0.0.0.0",
            "::ffff:10.0.0.1",
            "100.64.0.1",
        ] {
            assert_eq!(
                code(choose_from(&["203.0.113.5", bad])),
                "reserved_address",
                "{bad}"
            );
        }
        assert_eq!(code(choose_from(&["2001:db8::1"])), "no_address");
        // Unless the operator named the address itself.
        let inner = list(&["git.example.org:443", "10.0.0.0/8:443"]);
        assert!(
            choose_address(
                &inner,
                "git.example.org",
                443,
                ["10.1.2.3".parse().unwrap()]
            )
            .is_ok()
        );
    }
}
