//! The HTTP servers: operator API, agent API, hooks, and compatibility routes.
//!
//! May import: every folder but `boot`. Never knows: how the control plane is composed and started.

pub(crate) mod access;
pub(crate) mod agent_api;
pub(crate) mod agent_leases;
pub(crate) mod agent_lifecycle;
pub(crate) mod agent_quotas;
pub(crate) mod agent_skills;
pub(crate) mod agent_subtasks;
pub(crate) mod attach;
pub(crate) mod controlplane_api;
pub(crate) mod documents_api;
pub(crate) mod hooks;
pub(crate) mod model_api;
pub(crate) mod openapi;
pub(crate) mod operator_api;
pub(crate) mod operator_budgets;
pub(crate) mod operator_cells;
pub(crate) mod operator_listener;
pub(crate) mod operator_tasks;
pub(crate) mod operator_work;
pub(crate) mod plans;
pub(crate) mod providers_api;
pub(crate) mod shared_read;
pub(crate) mod state;
pub(crate) mod templates_api;
pub(crate) mod tokens_api;
pub(crate) mod tool_servers;
pub(crate) mod web;
