//! What a cell may reach by name: decided on the name as it was asked for, then once more on the
//! address that it turned out to have.

use abbey_model::{Egress, EgressRule, is_reserved};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

/// Why a connection is refused. The code is stable and goes into logs and answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Denied {
    pub(crate) code: &'static str,
    pub(crate) text: String,
}

impl Denied {
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

/// Whether a host may be asked for at all. An address is given back when the host is one.
pub(crate) fn may_ask(egress: &Egress, host: &str, port: u16) -> Result<Option<Ipv4Addr>, Denied> {
    let not_allowed = || {
        let text = format!(
            "{host}:{port} is not allowed by `egress` ({egress}); the operator may add it there"
        );
        Denied::new("not_allowed", text)
    };
    if let Ok(address) = host.parse::<Ipv4Addr>() {
        may_reach(egress, host, address, port)?;
        return Ok(Some(address));
    }
    if host.starts_with('[') || host.contains(':') {
        return Err(Denied::new(
            "ipv6",
            format!("{host}: the house has no way to addresses of IPv6"),
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

/// Whether an address may be reached for a host that may be asked for: no name leads to this
/// host, to private networks or to metadata, unless a rule names that very address.
pub(crate) fn may_reach(
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
            format!("{host} is at {address}, which is of this host, private or metadata"),
        ));
    }
    if is_own(address) {
        return Err(Denied::new(
            "own_address",
            format!("{host} is at {address}, which is this host's own"),
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

/// Whether an address is this host's own, whatever range it is of: the proxy stands on the host, and
/// must not lead a cell to what listens there. Only an own address can be bound.
pub(crate) fn is_own(address: Ipv4Addr) -> bool {
    std::net::UdpSocket::bind((address, 0)).is_ok()
}

/// The address to connect to. One bad answer spoils all: whoever mixes them in means harm.
pub(crate) fn choose(
    egress: &Egress,
    host: &str,
    port: u16,
    answers: impl IntoIterator<Item = IpAddr>,
) -> Result<SocketAddrV4, Denied> {
    let mut chosen = None;
    for answer in answers {
        let address = match answer {
            IpAddr::V4(address) => address,
            // One of ours in the clothes of the next protocol.
            IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
                Some(address) => address,
                None => continue,
            },
        };
        may_reach(egress, host, address, port)?;
        chosen = chosen.or(Some(address));
    }
    let none = || Denied::new("no_address", format!("{host} has no address of IPv4"));
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
        assert_eq!(may_ask(&egress, "api.example.org", 443), Ok(None));
        assert!(may_ask(&egress, "198.51.100.7", 5432).is_ok());
        for (host, port) in [
            ("api.example.org", 80),
            ("other.example.org", 443),
            ("198.51.100.7", 80),
            ("1.1.1.1", 443),
        ] {
            assert_eq!(code(may_ask(&egress, host, port)), "not_allowed", "{host}");
        }
        assert_eq!(
            code(may_ask(&Egress::None, "api.example.org", 443)),
            "not_allowed"
        );
        assert_eq!(code(may_ask(&egress, "[::1]", 443)), "ipv6");
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
            assert_eq!(code(may_ask(&Egress::Full, host, 80)), "no_name", "{host}");
        }
        for host in ["127.0.0.1", "169.254.169.254", "10.0.0.1"] {
            assert_eq!(
                code(may_ask(&Egress::Full, host, 80)),
                "reserved_address",
                "{host}"
            );
        }
    }

    #[test]
    fn this_host_is_not_outside() {
        assert!(is_own(Ipv4Addr::LOCALHOST));
        assert!(!is_own(Ipv4Addr::new(203, 0, 113, 77)));
    }

    #[test]
    fn a_name_that_leads_inside_is_refused_whatever_else_it_says() {
        let egress = list(&["api.example.org:443"]);
        let choose = |answers: &[&str]| {
            let answers = answers.iter().map(|a| a.parse().unwrap());
            choose(&egress, "api.example.org", 443, answers)
        };
        assert_eq!(
            choose(&["203.0.113.5", "203.0.113.6"]).unwrap().to_string(),
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
                code(choose(&["203.0.113.5", bad])),
                "reserved_address",
                "{bad}"
            );
        }
        assert_eq!(code(choose(&["2001:db8::1"])), "no_address");
        // Unless the operator named the address itself.
        let inner = list(&["git.example.org:443", "10.0.0.0/8:443"]);
        assert!(
            super::choose(
                &inner,
                "git.example.org",
                443,
                ["10.1.2.3".parse().unwrap()]
            )
            .is_ok()
        );
    }
}
