//! How the list of agents is printed.

use crate::output::{grouped, human_bytes, print_table, text_or_dash};
use abbey_api::{AgentView, FleetDoc};

/// Prints a table of agents on standard output, with presence, cell, memory, tokens used today and current task.
pub(crate) fn print_agents(fleet: &FleetDoc) {
    let row = |a: &AgentView| {
        let budget = a.budget.limit.map_or_else(
            || format!("{} of unlimited", grouped(a.budget.spent)),
            |limit| format!("{} of {}", grouped(a.budget.spent), grouped(limit)),
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
            text_or_dash(a.pid),
            text_or_dash(a.address.clone()),
            text_or_dash(a.memory_bytes.map(human_bytes)),
            budget,
            text_or_dash(a.task.clone()),
        ]
    };
    print_table(
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
