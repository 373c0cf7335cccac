//! From manifest text to a validated [`House`], and from a house and an [`Inventory`] to a
//! numbered [`Plan`].
//!
//! Pure: the same input gives the same bytes. Deliberately absent: any knowledge that a host
//! exists. What the host has is handed in as data.

mod allocate;
mod check;
mod colleagues;
mod decode;
mod documents;
pub mod edit;
mod hooks;
mod house;
mod key;
mod keys;
mod locale;
mod node;
mod planner;
mod reach;
mod reference;
mod schema;
mod services;
mod settings;
mod shape;
pub mod templates;
mod value;
mod workflows;

pub use allocate::{Allocation, Conflict, HostFacts, Registry, ResourceKind};
pub use check::{BRIDGE_PORTS_MAX, check, home_fits};
pub use decode::parse;
pub use house::{
    Admission, Agent, AgentBudget, AgentBudgetKeys, Budget, Charter, Compatibility, Delegation,
    Document, DocumentKind, Does, Endpoint, Escalation, Hook, HookKind, House, Listen, ModelRef,
    Network, Origin, Provider, RELATIONS, Runtime, Schedule, Service, ServiceKind, Then, Wake,
    When,
};
pub use key::Effect;
pub use locale::Locale;
pub use node::Mistake;
pub use planner::{Action, Applied, InForce, Inventory, Note, Plan, Severity, Step, plan};
pub use reach::{Reach, endpoint, reaches, subnet};
pub use reference::{Definition, definitions, reference};
pub use schema::json_schema;
pub use settings::{Change, Setting, Settings};
pub use shape::{bytes, duration_ms};
