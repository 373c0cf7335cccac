//! The network of cells: the egress proxy, DNS, and the firewall.
//!
//! May import: `core`. Never knows: how cells are started, tasks, or routes.

pub(crate) mod command_egress;
pub(crate) mod dns;
pub(crate) mod egress;
pub(crate) mod firewall;
pub(crate) mod operator_address;
pub(crate) mod state;
