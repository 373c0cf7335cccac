//! Who acts. The actor of a change always comes from authentication, never from a request's body.

use crate::Slug;
use crate::words::{text_form, words};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// An authenticated actor.
///
/// **Shape:** `operator`, `person:ana`, `token:prometheus`, `agent:atlas`, `house`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Principal {
    /// The operator's own credential, at the root of the org chart. It has every scope.
    Operator,
    /// A person, who acts through tokens or channels that belong to them, within the scopes of what they use.
    Person(Slug),
    /// A program that acts by a named token of the operator API, within the token's scopes.
    Token(Slug),
    /// An agent, acting as itself.
    Agent(Slug),
    /// The control plane: sweeps, reconcilers and timers.
    House,
}

/// Kind of a principal: all that the transition tables of the engine distinguish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PrincipalKind {
    /// The operator, and every person or token that the operator API let in by its scopes.
    Operator,
    /// See [`Principal::Agent`].
    Agent,
    /// See [`Principal::House`].
    House,
}

impl PrincipalKind {
    /// Every kind.
    pub const ALL: [PrincipalKind; 3] = [
        PrincipalKind::Operator,
        PrincipalKind::Agent,
        PrincipalKind::House,
    ];
}

impl Principal {
    /// Kind of the principal, without its name. What a person or token may do is decided by scopes, at the route that
    /// it calls.
    pub fn kind(&self) -> PrincipalKind {
        match self {
            Principal::Operator | Principal::Person(_) | Principal::Token(_) => {
                PrincipalKind::Operator
            }
            Principal::Agent(_) => PrincipalKind::Agent,
            Principal::House => PrincipalKind::House,
        }
    }

    /// Slug of the agent, if the principal is one.
    pub fn agent(&self) -> Option<&Slug> {
        match self {
            Principal::Agent(slug) => Some(slug),
            Principal::Operator | Principal::Person(_) | Principal::Token(_) | Principal::House => {
                None
            }
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Principal::Operator => f.write_str("operator"),
            Principal::Person(name) => write!(f, "person:{name}"),
            Principal::Token(name) => write!(f, "token:{name}"),
            Principal::Agent(slug) => write!(f, "agent:{slug}"),
            Principal::House => f.write_str("house"),
        }
    }
}

impl FromStr for Principal {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let named = |name: &str, make: fn(Slug) -> Principal| name.parse().ok().map(make);
        let parsed = match text.split_once(':') {
            None if text == "operator" => Some(Principal::Operator),
            None if text == "house" => Some(Principal::House),
            Some(("person", name)) => named(name, Principal::Person),
            Some(("token", name)) => named(name, Principal::Token),
            Some(("agent", name)) => named(name, Principal::Agent),
            _ => None,
        };
        parsed.ok_or_else(|| {
            format!(
                "`{text}` is not a principal; one of: operator, person:NAME, token:NAME, agent:NAME, house"
            )
        })
    }
}

text_form!(Principal);

words! {
    /// Permission of a token on the operator API. Each route declares the scope that it requires.
    AccessScope {
        /// Read state: everything but metrics.
        Read = "read",
        /// Read metrics, and nothing else.
        Metrics = "metrics",
        /// Create, change and cancel tasks; includes `read`.
        Tasks = "tasks",
        /// Decide approvals; includes `read`.
        Approve = "approve",
        /// Everything.
        Admin = "admin",
    }
}

/// The scopes of one token.
///
/// **Shape:** names joined by commas, e.g. `approve,tasks`; at least one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccessScopes(BTreeSet<AccessScope>);

impl AccessScopes {
    /// Every scope: those of the operator's own credential.
    pub fn all() -> Self {
        AccessScopes([AccessScope::Admin].into())
    }

    /// The set of these scopes; none when the list is empty.
    pub fn new(scopes: impl IntoIterator<Item = AccessScope>) -> Option<Self> {
        let scopes: BTreeSet<_> = scopes.into_iter().collect();
        (!scopes.is_empty()).then_some(AccessScopes(scopes))
    }

    /// Whether a token with these scopes may call a route that requires scope `required`.
    pub fn permit(&self, required: AccessScope) -> bool {
        self.0.contains(&AccessScope::Admin)
            || self.0.contains(&required)
            || required == AccessScope::Read && self.0.iter().any(|s| *s != AccessScope::Metrics)
    }

    /// The scopes of the set, in the order of their declaration.
    pub fn iter(&self) -> impl Iterator<Item = AccessScope> {
        self.0.iter().copied()
    }
}

impl fmt::Display for AccessScopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.iter().map(AccessScope::name).collect();
        f.write_str(&names.join(","))
    }
}

impl FromStr for AccessScopes {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let scopes = text
            .split(',')
            .map(|word| word.trim().parse())
            .collect::<Result<Vec<_>, String>>()?;
        AccessScopes::new(scopes).ok_or_else(|| "a token needs at least one scope".to_owned())
    }
}

text_form!(AccessScopes);

/// What a credential is good for. Whoever has it may call the routes whose [`Permission`] it covers.
///
/// **Shape:** `operator` (the operator's own credential: every scope), `agent`, `model`, or scopes such as
/// `approve,tasks`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialGrant {
    /// Routes of the operator API, within scopes.
    Operator(AccessScopes),
    /// The agent API and the model gateway.
    Agent,
    /// The model gateway alone.
    Model,
}

/// What a route requires of a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// A scope of the operator API.
    Operator(AccessScope),
    /// The agent API.
    Agent,
    /// The model gateway.
    Model,
}

impl CredentialGrant {
    /// Whether a credential with this grant may call a route that requires `required`.
    pub fn permits(&self, required: Permission) -> bool {
        match (self, required) {
            (CredentialGrant::Operator(scopes), Permission::Operator(scope)) => {
                scopes.permit(scope)
            }
            (CredentialGrant::Agent, Permission::Agent | Permission::Model) => true,
            (CredentialGrant::Model, Permission::Model) => true,
            _ => false,
        }
    }
}

impl fmt::Display for CredentialGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CredentialGrant::Operator(scopes) if *scopes == AccessScopes::all() => {
                f.write_str("operator")
            }
            CredentialGrant::Operator(scopes) => scopes.fmt(f),
            CredentialGrant::Agent => f.write_str("agent"),
            CredentialGrant::Model => f.write_str("model"),
        }
    }
}

impl FromStr for CredentialGrant {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "operator" => Ok(CredentialGrant::Operator(AccessScopes::all())),
            "agent" => Ok(CredentialGrant::Agent),
            "model" => Ok(CredentialGrant::Model),
            scopes => scopes.parse().map(CredentialGrant::Operator),
        }
    }
}

text_form!(CredentialGrant);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn principals_keep_their_text_form() {
        for text in ["operator", "person:ana", "token:ci", "agent:atlas", "house"] {
            assert_eq!(text.parse::<Principal>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "ana",
            "person:",
            "agent:No Such",
            "operator:x",
            "root:a",
        ] {
            assert!(text.parse::<Principal>().is_err(), "{text}");
        }
    }

    #[test]
    fn each_scope_but_metrics_includes_read_and_none_includes_another() {
        use AccessScope::{Admin, Approve, Metrics, Read, Tasks};
        let permitted = |scope: AccessScope| {
            let scopes = AccessScopes::new([scope]).unwrap();
            let all = AccessScope::ALL.iter().copied();
            all.filter(|s| scopes.permit(*s)).collect::<Vec<_>>()
        };
        assert_eq!(permitted(Read), [Read]);
        assert_eq!(permitted(Metrics), [Metrics]);
        assert_eq!(permitted(Tasks), [Read, Tasks]);
        assert_eq!(permitted(Approve), [Read, Approve]);
        assert_eq!(permitted(Admin), AccessScope::ALL);
    }

    #[test]
    fn grants_keep_their_text_form_and_permit_only_their_api() {
        for text in ["operator", "agent", "model", "tasks,approve", "metrics"] {
            assert_eq!(text.parse::<CredentialGrant>().unwrap().to_string(), text);
        }
        assert!("root".parse::<CredentialGrant>().is_err());
        let permits = |grant: &str, required| {
            let grant: CredentialGrant = grant.parse().unwrap();
            grant.permits(required)
        };
        let admin = Permission::Operator(AccessScope::Admin);
        assert!(permits("operator", admin) && permits("admin", admin));
        assert!(!permits("operator", Permission::Agent) && !permits("admin", Permission::Model));
        assert!(permits("agent", Permission::Agent) && permits("agent", Permission::Model));
        assert!(!permits("model", Permission::Agent) && permits("model", Permission::Model));
        for grant in ["agent", "model", "read", "metrics", "tasks", "approve"] {
            assert!(!permits(grant, admin), "{grant}");
        }
    }

    #[test]
    fn scopes_are_written_as_a_list_and_unknown_ones_are_refused() {
        let scopes: AccessScopes = "tasks, approve".parse().unwrap();
        assert_eq!(scopes.to_string(), "tasks,approve");
        assert!("".parse::<AccessScopes>().is_err());
        let error = "tasks,all".parse::<AccessScopes>().unwrap_err();
        assert!(error.starts_with("unknown access scope `all`; one of: read, metrics"));
    }
}
