//! Nouns of networks: the subnet of each agent, and the destinations that it may reach outside.

use crate::words::text_form;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// Addresses of one owner: the gateway first, then service addresses and the cell's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subnet {
    base: Ipv4Addr,
    prefix: u8,
}

impl Subnet {
    /// A subnet with this base address and prefix length; none when host bits are set or it has fewer than 4 addresses.
    pub fn new(base: Ipv4Addr, prefix: u8) -> Option<Subnet> {
        let sound = (8..=30).contains(&prefix) && u32::from(base) & (u32::MAX >> prefix) == 0;
        sound.then_some(Subnet { base, prefix })
    }

    /// Network address of the subnet, which no interface has.
    pub const fn base(self) -> Ipv4Addr {
        self.base
    }

    /// Prefix length of the subnet.
    pub const fn prefix(self) -> u8 {
        self.prefix
    }

    /// Address at an offset in the subnet; none for its first and last address and beyond.
    pub fn address(self, offset: u32) -> Option<Ipv4Addr> {
        let last = u32::MAX >> self.prefix;
        (offset > 0 && offset < last).then(|| Ipv4Addr::from(u32::from(self.base) + offset))
    }

    /// Gateway address of the subnet, on the host's side (S1-09).
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.base) + 1)
    }

    /// Offset of the cell's address in a subnet of this prefix length: 10, or the last usable one of a small subnet.
    pub const fn cell_offset(prefix: u8) -> u32 {
        let last = (u32::MAX >> prefix) - 1;
        if last < 10 { last } else { 10 }
    }

    /// Address of the cell in its subnet.
    pub fn cell(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.base) + Self::cell_offset(self.prefix))
    }

    /// Whether two subnets have an address in common.
    pub fn overlaps(self, other: Subnet) -> bool {
        overlap((self.base, self.prefix), (other.base, other.prefix))
    }
}

/// Whether two networks have an address in common.
pub fn overlap(a: (Ipv4Addr, u8), b: (Ipv4Addr, u8)) -> bool {
    let prefix = a.1.min(b.1);
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
    u32::from(a.0) & mask == u32::from(b.0) & mask
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/');
        parts
            .and_then(|(base, prefix)| Subnet::new(base.parse().ok()?, prefix.parse().ok()?))
            .ok_or_else(|| format!("`{text}` is not a subnet like `10.77.1.0/24`"))
    }
}

/// Destination that an egress rule names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Destination {
    /// Exactly this host name, in lower case.
    Name(String),
    /// Every name below this one: `*.example.org`.
    Below(String),
    /// Addresses, by prefix.
    Net(Ipv4Addr, u8),
}

/// Rule that allows a cell to reach a destination outside: `api.example.org:443`, `*.example.org:443`,
/// `192.0.2.7:5432`, `192.0.2.0/24:5432`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct EgressRule {
    /// Host name, domain or addresses.
    pub destination: Destination,
    /// TCP port.
    pub port: u16,
}

impl EgressRule {
    /// Whether the rule allows connections to a host name and port. Case and a final dot are ignored.
    pub fn names(&self, host: &str, port: u16) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        self.port == port
            && match &self.destination {
                Destination::Name(name) => *name == host,
                Destination::Below(parent) => host
                    .strip_suffix(parent.as_str())
                    .is_some_and(|head| head.len() > 1 && head.ends_with('.')),
                Destination::Net(..) => false,
            }
    }

    /// Whether the rule allows connections to an address and port.
    pub fn covers(&self, address: Ipv4Addr, port: u16) -> bool {
        match self.destination {
            Destination::Net(base, prefix) => {
                self.port == port && overlap((base, prefix), (address, 32))
            }
            Destination::Name(_) | Destination::Below(_) => false,
        }
    }
}

impl fmt::Display for EgressRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.destination {
            Destination::Name(name) => write!(f, "{name}:{}", self.port),
            Destination::Below(name) => write!(f, "*.{name}:{}", self.port),
            Destination::Net(base, 32) => write!(f, "{base}:{}", self.port),
            Destination::Net(base, prefix) => write!(f, "{base}/{prefix}:{}", self.port),
        }
    }
}

impl FromStr for EgressRule {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |why: &str| {
            format!(
                "`{text}` {why}; write `api.example.org:443`, `*.example.org:443` or `192.0.2.0/24:5432`"
            )
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(|| bad("names no port"))?;
        let port = port.parse().ok().filter(|p| *p > 0);
        let port = port.ok_or_else(|| bad("ends in no port"))?;
        let (base, prefix) = host.split_once('/').unwrap_or((host, "32"));
        if let Ok(base) = base.parse::<Ipv4Addr>() {
            let prefix: Option<u8> = prefix.parse().ok().filter(|p| *p <= 32);
            let prefix = prefix.ok_or_else(|| bad("has no prefix length from 0 to 32"))?;
            let host_bits = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
            if u32::from(base) & host_bits != 0 {
                return Err(bad("has host bits set"));
            }
            let destination = Destination::Net(base, prefix);
            return Ok(EgressRule { destination, port });
        }
        let (name, below) = match host.strip_prefix("*.") {
            Some(parent) => (parent, true),
            None => (host, false),
        };
        let label = |l: &str| {
            (1..=63).contains(&l.len())
                && !l.starts_with('-')
                && !l.ends_with('-')
                && l.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        // A last label of digits would be read as an address by some and as a name by others.
        let numeric = |l: &str| l.starts_with("0x") || l.bytes().all(|b| b.is_ascii_digit());
        let sound = name.len() <= 253
            && name.split('.').all(label)
            && !name.rsplit('.').next().is_some_and(numeric);
        if !sound {
            return Err(bad("names no host"));
        }
        let name = name.to_ascii_lowercase();
        let destination = match below {
            true => Destination::Below(name),
            false => Destination::Name(name),
        };
        Ok(EgressRule { destination, port })
    }
}

text_form!(Subnet);
text_form!(EgressRule);

/// Destinations outside the house that a cell may reach.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Egress {
    /// Nothing.
    #[default]
    None,
    /// Destinations of these rules only.
    List(BTreeSet<EgressRule>),
    /// Every public address.
    Full,
}

impl Egress {
    /// The rules by address, which the firewall enforces, as address, prefix length and port.
    pub fn nets(&self) -> impl Iterator<Item = (Ipv4Addr, u8, u16)> {
        let list = match self {
            Egress::List(list) => Some(list),
            Egress::None | Egress::Full => None,
        };
        list.into_iter()
            .flatten()
            .filter_map(|a| match a.destination {
                Destination::Net(base, prefix) => Some((base, prefix, a.port)),
                Destination::Name(_) | Destination::Below(_) => None,
            })
    }
}

impl fmt::Display for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Egress::None => f.write_str("none"),
            Egress::Full => f.write_str("full"),
            Egress::List(list) => {
                let names: Vec<String> = list.iter().map(ToString::to_string).collect();
                f.write_str(&names.join(", "))
            }
        }
    }
}

/// Networks that are never destinations outside: loopback, private networks, cloud metadata services, and special-purpose
/// addresses (RFC 6890).
pub const RESERVED: [(Ipv4Addr, u8); 12] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    // The host agent of one large cloud, at a public address.
    (Ipv4Addr::new(168, 63, 129, 16), 32),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// Private ranges, from which a house takes its own networks (RFC 1918, RFC 6598).
const PRIVATE: [(Ipv4Addr, u8); 4] = [
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
];

/// Whether a network lies wholly in a private range (RFC 1918, or 100.64.0.0/10).
pub fn is_private(net: (Ipv4Addr, u8)) -> bool {
    PRIVATE.iter().any(|p| p.1 <= net.1 && overlap(*p, net))
}

/// Whether an address lies in one of the [`RESERVED`] networks.
pub fn is_reserved(address: Ipv4Addr) -> bool {
    RESERVED.iter().any(|net| overlap(*net, (address, 32)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_has_a_gateway_slots_and_a_cell() {
        let subnet: Subnet = "10.77.1.0/24".parse().unwrap();
        assert_eq!(subnet.gateway(), Ipv4Addr::new(10, 77, 1, 1));
        assert_eq!(subnet.cell(), Ipv4Addr::new(10, 77, 1, 10));
        assert_eq!(subnet.address(4), Some(Ipv4Addr::new(10, 77, 1, 4)));
        assert_eq!(subnet.address(255), None);
        assert_eq!(subnet.address(0), None);
        let small: Subnet = "10.77.1.4/30".parse().unwrap();
        assert_eq!(small.cell(), Ipv4Addr::new(10, 77, 1, 6));
        assert!("10.77.1.1/24".parse::<Subnet>().is_err());
        assert!("10.77.1.0/31".parse::<Subnet>().is_err());
    }

    #[test]
    fn rules_mean_what_they_say_and_no_more() {
        let rule = |text: &str| text.parse::<EgressRule>().unwrap();
        let name = rule("API.Example.org:443");
        assert!(name.names("api.example.org", 443) && name.names("api.example.org.", 443));
        assert!(!name.names("api.example.org", 80) && !name.names("x.api.example.org", 443));
        let below = rule("*.example.org:443");
        assert!(below.names("a.b.example.org", 443));
        for other in ["example.org", "badexample.org", ".example.org"] {
            assert!(!below.names(other, 443), "{other}");
        }
        let net = rule("192.0.2.0/24:5432");
        assert!(net.covers(Ipv4Addr::new(192, 0, 2, 9), 5432));
        assert!(!net.covers(Ipv4Addr::new(192, 0, 3, 9), 5432));
        assert!(!net.names("192.0.2.9", 5432));
        for text in ["192.0.2.7:1", "192.0.2.0/24:5432", "*.example.org:443"] {
            assert_eq!(rule(text).to_string(), text);
        }
        // Names that resolvers read as addresses, and what is no name at all.
        for bad in [
            "example.org",
            "example.org:0",
            "example.org:x",
            "0x7f.1:80",
            "2130706433:80",
            "192.0.2.1/24:80",
            "*:443",
            "*.:443",
            "a..b:1",
            "-a.org:1",
            "a b:1",
            "1.2.3.4.5:80",
            "[::1]:80",
            "пример.рф:443",
        ] {
            assert!(bad.parse::<EgressRule>().is_err(), "{bad}");
        }
    }

    #[test]
    fn metadata_and_private_ranges_are_reserved() {
        for text in [
            "169.254.169.254",
            "100.100.100.200",
            "168.63.129.16",
            "10.0.0.1",
            "127.0.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "192.168.1.1",
        ] {
            assert!(is_reserved(text.parse().unwrap()), "{text}");
        }
        for text in ["1.1.1.1", "168.63.129.17", "100.128.0.1", "172.32.0.1"] {
            assert!(!is_reserved(text.parse().unwrap()), "{text}");
        }
    }
}
