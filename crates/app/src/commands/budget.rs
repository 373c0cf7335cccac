//! `abbey budget`: limits, spending and reservations.

use crate::connect::operator_client;
use crate::exit::{self, Outcome};
use crate::output::{self, draw_table, grouped, local_time, print_lines, text_or_dash};
use crate::table::Table;
use crate::text::Text;
use abbey_api::{BudgetScope, BudgetsQuery};
use abbey_daemon::Home;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum BudgetCommand {
    /// Show the budgets of the house and its agents.
    #[command(after_help = "Example:\n  abbey budget show")]
    Show,
    /// Show all budgets, including those of tasks and runs.
    #[command(after_help = "Example:\n  abbey budget report --json")]
    Report,
}

/// `abbey budget`: prints limits, spending and reservations; `show` of the house and agents, `report` also of tasks
/// and runs.
pub(crate) async fn cmd_budget(home: &Home, json: bool, command: BudgetCommand) -> Outcome {
    print_budgets(home, json, matches!(command, BudgetCommand::Report)).await
}

async fn print_budgets(home: &Home, json: bool, all: bool) -> Outcome {
    let client = operator_client(home)?;
    let mut doc = client.budgets().list(&BudgetsQuery::default()).await?;
    while let Some(cursor) = doc.cursor.take() {
        let query = BudgetsQuery {
            cursor: Some(cursor),
            ..BudgetsQuery::default()
        };
        let more = client.budgets().list(&query).await?;
        doc.scopes.extend(more.scopes);
        doc.cursor = more.cursor;
    }
    if !all {
        doc.scopes
            .retain(|s| s.scope == "house" || s.scope.starts_with("agent:"));
    }
    if json {
        output::print_json(&doc);
        return Ok(exit::OK);
    }
    let row = |s: &BudgetScope| {
        let limit = s.limit.map_or_else(|| "unlimited".to_owned(), grouped);
        vec![
            Text::from(&s.scope),
            s.metric.to_string().into(),
            s.window.to_string().into(),
            limit.into(),
            grouped(s.spent).into(),
            grouped(s.reserved).into(),
            Text::from(s.state),
            text_or_dash(s.resets_at.map(local_time)).into(),
        ]
    };
    if doc.scopes.is_empty() {
        print_lines(
            "no budgets; the key `budget` of the manifest sets limits for the house and each agent",
        );
        return Ok(exit::OK);
    }
    let table = Table::new(
        &[
            "SCOPE",
            "METRIC",
            "WINDOW",
            "LIMIT",
            "SPENT",
            "RESERVED",
            "STATE",
            "RESETS AT",
        ],
        doc.scopes.iter().map(row).collect(),
    );
    draw_table(&table.leave_out_first(&["WINDOW", "RESERVED"]));
    Ok(exit::OK)
}
