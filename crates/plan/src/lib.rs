//! From manifest text to a validated [`House`], and from a house and an [`Inventory`] to a
//! numbered [`Plan`].
//!
//! Pure: the same input gives the same bytes. Deliberately absent: any knowledge that a host
//! exists. What the host has is handed in as data.

mod agent_values;
mod allocate;
pub mod authority;
mod boot;
mod check;
mod decode;
mod document;
pub mod edit;
mod hook;
mod house;
mod key;
mod keys;
mod likeness;
mod named_ports;
mod node;
mod origin;
mod ownership;
mod plan;
mod planner;
mod reach;
mod reference;
pub mod rename;
mod schedule;
mod schema;
mod service_access;
mod service_kind;
mod settings;
mod shape;
mod sink;
mod storage;
pub mod templates;
mod value;
mod workflow_warnings;

pub use abbey_model::Runtime;
pub use agent_values::{AgentBudget, Charter, ModelRef, RELATIONS, reserved_agent_name};
pub use allocate::{Allocation, AllocationConflict, HostFacts, Registry, ResourceKind};
pub use check::{BRIDGE_PORTS_MAX, check, socket_paths_fit};
pub use decode::{parse, parse_stored};
pub use document::{Document, DocumentKind};
pub use hook::{Hook, HookAction, HookKind};
pub use house::{Endpoint, Escalation, House, Listen, Network, Provider};
pub use key::Effect;
pub use keys::{
    Admission, Agent, AgentBudgetKeys, Budget, Compatibility, Delegation, Locale, Probe, Service,
    Wake,
};
pub use likeness::{IMPORT_RECORD, Likeness, is_import_record, remove_own_keys};
pub use node::{MANIFEST_MAX, Mistake};
pub use origin::Origin;
pub use ownership::Ownership;
pub use plan::{
    AccessState, Action, AppliedPlan, CurrentHouse, Inventory, Note, Plan, PlanStep, ServiceAccess,
    Severity,
};
pub use planner::plan;
pub use reach::{ReachableService, allocated_subnet, can_reach, host_endpoint, reachable_services};
pub use reference::{Definition, definitions, reference};
pub use schedule::{Schedule, ScheduleAction, ScheduleTrigger};
pub use schema::json_schema;
pub use service_access::describe_access;
pub use service_kind::ServiceKind;
pub use settings::{KeyChange, Setting, Settings};
pub use shape::{parse_bytes, parse_duration_ms};
pub use sink::{CheckpointSink, SyslogAddress};
pub use storage::space_to_move;
pub use workflow_warnings::workflow_warnings;
