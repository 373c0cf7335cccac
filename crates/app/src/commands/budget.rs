//! `abbey budget`: limits, spending and reservations.

use crate::connect::operator_client;
use crate::exit::{self, Outcome};
use crate::output::{self, draw_table, local_time, print_lines, text_or_dash};
use crate::table::Table;
use crate::text::Text;
use crate::units::{budget_amount, budget_metric};
use abbey_api::{BudgetScope, BudgetsQuery};
use abbey_daemon::Home;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum BudgetCommand {
    /// Show the budgets of the house and its agents.
    ///
    /// What removed agents spent is part of what the house spent.
    #[command(after_help = "Examples:\n  abbey budget show\n  abbey budget show --all")]
    Show {
        /// Also those of removed agents.
        #[arg(short, long)]
        all: bool,
    },
    /// Show all budgets, including those of tasks, runs and removed agents.
    #[command(after_help = "Example:\n  abbey budget report --json")]
    Report,
}

/// `abbey budget`: prints limits, spending and reservations; `show` of the house and agents, `report` also of tasks
/// and runs.
pub(crate) async fn cmd_budget(home: &Home, json: bool, command: BudgetCommand) -> Outcome {
    let shown = |s: &BudgetScope| match command {
        BudgetCommand::Report => true,
        BudgetCommand::Show { all } => {
            let is_listed = s.scope == "house" || s.scope.starts_with("agent:");
            is_listed && (all || !s.removed)
        }
    };
    print_budgets(home, json, shown).await
}

async fn print_budgets(home: &Home, json: bool, shown: impl Fn(&BudgetScope) -> bool) -> Outcome {
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
    doc.scopes.retain(shown);
    if json {
        output::print_json(&doc);
        return Ok(exit::OK);
    }
    let row = |s: &BudgetScope| {
        let amount = |amount| budget_amount(s.metric, amount);
        let limit = s.limit.map_or_else(|| "unlimited".to_owned(), amount);
        vec![
            Text::from(&s.scope),
            budget_metric(s.metric).into(),
            s.window.to_string().into(),
            limit.into(),
            amount(s.spent).into(),
            amount(s.reserved).into(),
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
