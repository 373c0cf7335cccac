//! How the list of agents is printed.

use crate::output::{draw_table, grouped, human_bytes, print_lines, text_or_dash};
use crate::table::Table;
use crate::text::{Text, Tone};
use abbey_api::{AgentView, FleetDoc};

/// Prints a table of agents on standard output, with presence, cell, memory, tokens used today and current task.
pub(crate) fn print_agents(fleet: &FleetDoc) {
    let row = |a: &AgentView| {
        let budget = a.budget.limit.map_or_else(
            || format!("{} of unlimited", grouped(a.budget.spent)),
            |limit| format!("{} of {}", grouped(a.budget.spent), grouped(limit)),
        );
        let cell = Text::from(&a.cell);
        vec![
            Text::from(&a.name),
            Text::from(&a.role),
            Text::from(a.presence),
            match a.isolated {
                true => cell,
                false => cell.and(Tone::Attention, " (not isolated)"),
            },
            a.generation.to_string().into(),
            text_or_dash(a.pid).into(),
            text_or_dash(a.address.clone()).into(),
            text_or_dash(a.memory_bytes.map(human_bytes)).into(),
            budget.into(),
            text_or_dash(a.task.clone()).into(),
        ]
    };
    if fleet.agents.is_empty() {
        return print_lines(
            "no agents; `abbey agent new NAME --template sysadmin` adds one, `abbey template list` lists the templates",
        );
    }
    let table = Table::new(
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
    );
    draw_table(&table.leave_out_first(&["BOOT", "PID", "ADDRESS"]));
}
