//! How the list of agents is printed.

use crate::output::{dash, table};
use abbey_api::{AgentView, FleetDoc};

pub(crate) fn print_fleet(fleet: &FleetDoc) {
    let row = |a: &AgentView| {
        let budget = a.budget.limit.map_or_else(
            || format!("{} of unlimited", a.budget.spent),
            |limit| format!("{} of {limit}", a.budget.spent),
        );
        vec![
            a.name.clone(),
            a.role.clone(),
            a.presence.to_string(),
            if a.isolated {
                a.cell.clone()
            } else {
                format!("{} (not isolated)", a.cell)
            },
            a.generation.to_string(),
            dash(a.pid),
            dash(a.address.clone()),
            dash(a.memory_bytes.map(|m| format!("{} KiB", m >> 10))),
            budget,
            dash(a.task.clone()),
        ]
    };
    table(
        &[
            "AGENT",
            "ROLE",
            "PRESENCE",
            "CELL",
            "BOOT",
            "PID",
            "ADDRESS",
            "MEMORY",
            "TOKENS TODAY",
            "TASK",
        ],
        fleet.agents.iter().map(row).collect(),
        "no agents; `abbey agent new NAME --template sysadmin` adds one, `abbey template list` lists the templates",
    );
}
