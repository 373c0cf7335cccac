//! Kinds of services.

use serde::Serialize;
use std::str::FromStr;

/// Kind of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceKind {
    /// A program that the manifest names.
    #[default]
    Command,
    /// PostgreSQL, with a database for each agent that uses it.
    Postgres,
    /// Git repositories over HTTP, a place for each agent that uses it.
    Git,
    /// Files over HTTP.
    Site,
    /// A program that offers tools to the agents that use it.
    Tools,
}

impl FromStr for ServiceKind {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut all = ServiceKind::ALL.into_iter();
        all.find(|k| k.name() == text).ok_or(())
    }
}

impl ServiceKind {
    /// Every kind.
    pub const ALL: [ServiceKind; 5] = [
        ServiceKind::Command,
        ServiceKind::Postgres,
        ServiceKind::Git,
        ServiceKind::Site,
        ServiceKind::Tools,
    ];

    /// Name of the kind in the manifest.
    pub const fn name(self) -> &'static str {
        match self {
            ServiceKind::Command => "command",
            ServiceKind::Postgres => "postgres",
            ServiceKind::Git => "git",
            ServiceKind::Site => "site",
            ServiceKind::Tools => "tools",
        }
    }

    /// Whether a service of this kind runs the program that its `command` names.
    pub const fn has_command(self) -> bool {
        matches!(self, ServiceKind::Command | ServiceKind::Tools)
    }

    /// Whether the program of the service's cell is part of this binary.
    pub const fn is_stock(self) -> bool {
        !matches!(self, ServiceKind::Command)
    }

    /// Whether each agent that uses the service has a credential of its own there.
    pub const fn has_consumers(self) -> bool {
        matches!(
            self,
            ServiceKind::Postgres | ServiceKind::Git | ServiceKind::Site
        )
    }
}
