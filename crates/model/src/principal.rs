//! Who acts. The actor of a change always comes from authentication, never from a body.

use crate::Slug;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// An authenticated actor.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Principal {
    /// The human at the root of the org chart.
    Operator,
    /// One agent, acting as itself.
    Agent(Slug),
    /// The control plane: sweeps, reconcilers and timers.
    House,
}

/// The kind of a principal, which is all that the transition tables look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PrincipalKind {
    /// See [`Principal::Operator`].
    Operator,
    /// See [`Principal::Agent`].
    Agent,
    /// See [`Principal::House`].
    House,
}

impl PrincipalKind {
    /// Every kind, for tables and exhaustive tests.
    pub const ALL: [PrincipalKind; 3] = [
        PrincipalKind::Operator,
        PrincipalKind::Agent,
        PrincipalKind::House,
    ];
}

impl Principal {
    /// The kind of this principal.
    pub fn kind(&self) -> PrincipalKind {
        match self {
            Principal::Operator => PrincipalKind::Operator,
            Principal::Agent(_) => PrincipalKind::Agent,
            Principal::House => PrincipalKind::House,
        }
    }

    /// The agent's slug, if an agent acts.
    pub fn agent(&self) -> Option<&Slug> {
        match self {
            Principal::Agent(slug) => Some(slug),
            Principal::Operator | Principal::House => None,
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Principal::Operator => f.write_str("operator"),
            Principal::Agent(slug) => write!(f, "agent:{slug}"),
            Principal::House => f.write_str("house"),
        }
    }
}

impl FromStr for Principal {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "operator" => Ok(Principal::Operator),
            "house" => Ok(Principal::House),
            _ => text
                .strip_prefix("agent:")
                .and_then(|slug| slug.parse().ok())
                .map(Principal::Agent)
                .ok_or_else(|| format!("`{text}` is not a principal")),
        }
    }
}

impl Serialize for Principal {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for Principal {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}
