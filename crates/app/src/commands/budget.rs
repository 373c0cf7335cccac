//! `abbey budget`: limits, spending and reservations.

use crate::connect::operator_client;
use crate::exit::{self, Failure, Outcome};
use crate::output::{self, draw_table, local_time, print_lines, text_or_dash};
use crate::table::Table;
use crate::text::Text;
use crate::units::{budget_amount, budget_metric};
use abbey_api::headers::IdempotencyKey;
use abbey_api::{BudgetAction, BudgetScope, BudgetsQuery, ChangeBudget};
use abbey_daemon::Home;
use abbey_model::Metric;
use clap::{Args, Subcommand, ValueEnum};

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
    /// Set the limit of a budget, in place of the manifest.
    ///
    /// The limit stays until the manifest states another one than now. Tasks that wait for the budget go on at once.
    #[command(
        after_help = "Examples:\n  abbey budget set house tokens 200000 --note \"release week\"\n  abbey budget set agent:ops usd 2.50\n  abbey budget set house tokens manifest"
    )]
    Set {
        #[command(flatten)]
        of: BudgetArgs,
        /// Amount, `unlimited`, or `manifest` for the limit of the manifest again.
        limit: String,
        /// Reason, for the audit log.
        #[arg(long)]
        note: Option<String>,
    },
    /// Raise the limit of a budget by an amount.
    ///
    /// The limit stays until the manifest states another one than now. Tasks that wait for the budget go on at once.
    #[command(
        after_help = "Examples:\n  abbey budget raise house tokens 50000\n  abbey budget raise TASK-7 tokens 2000"
    )]
    Raise {
        #[command(flatten)]
        of: BudgetArgs,
        /// Amount by which the limit grows.
        amount: String,
        /// Reason, for the audit log.
        #[arg(long)]
        note: Option<String>,
        /// Makes repeating the command safe: the same key raises once.
        #[arg(long, value_name = "KEY")]
        idempotency_key: Option<String>,
    },
    /// Start the spending of a budget again from 0.
    ///
    /// What was spent stays in the audit log and in the records of runs. Tasks that wait for the budget go on at once.
    #[command(after_help = "Example:\n  abbey budget reset house tokens --note \"test runs\"")]
    Reset {
        #[command(flatten)]
        of: BudgetArgs,
        /// Reason, for the audit log.
        #[arg(long)]
        note: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct BudgetArgs {
    /// What the budget belongs to: house, agent:NAME (or the agent's name), or a task like TASK-7.
    scope: String,
    /// What it counts.
    #[arg(value_enum)]
    metric: BudgetMetric,
}

/// What a budget counts, in the units of the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum BudgetMetric {
    /// Model tokens.
    Tokens,
    /// Money, in US dollars.
    Usd,
    /// Runs.
    Runs,
    /// Minutes of runs.
    Minutes,
}

impl BudgetMetric {
    /// Metric of the API, and how many of its units are one here.
    fn metric(self) -> (Metric, u64) {
        match self {
            BudgetMetric::Tokens => (Metric::Tokens, 1),
            BudgetMetric::Usd => (Metric::NanoUsd, 1_000_000_000),
            BudgetMetric::Runs => (Metric::Runs, 1),
            BudgetMetric::Minutes => (Metric::Seconds, 60),
        }
    }

    /// Amount in the unit of the API; money may have up to nine decimals.
    fn amount(self, text: &str) -> Result<u64, Failure> {
        let (metric, unit) = self.metric();
        let bad = || {
            let example = match metric {
                Metric::NanoUsd => "2.50",
                Metric::Tokens | Metric::Runs | Metric::Seconds => "50000",
            };
            Failure::usage(format!(
                "`{text}` is not an amount; write a number like {example}"
            ))
        };
        let text = text.strip_prefix('$').unwrap_or(text);
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
        let decimals = if metric == Metric::NanoUsd { 9 } else { 0 };
        if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > decimals {
            return Err(bad());
        }
        let whole = whole.parse::<u64>().ok().and_then(|n| n.checked_mul(unit));
        let fraction = format!("{fraction:0<decimals$}");
        let fraction = match fraction.is_empty() {
            true => Some(0),
            false => fraction.parse::<u64>().ok(),
        };
        let amount = whole.zip(fraction).and_then(|(w, f)| w.checked_add(f));
        amount.filter(|n| i64::try_from(*n).is_ok()).ok_or_else(bad)
    }
}

/// The change that a command asks for; none for a command that only shows.
fn change_of(command: &BudgetCommand) -> Result<Option<ChangeBudget>, Failure> {
    let (of, action, amount, note) = match command {
        BudgetCommand::Show { .. } | BudgetCommand::Report => return Ok(None),
        BudgetCommand::Set { of, limit, note } => match limit.as_str() {
            "manifest" => (of, BudgetAction::Manifest, None, note),
            "unlimited" => (of, BudgetAction::Set, None, note),
            amount => (of, BudgetAction::Set, Some(of.metric.amount(amount)?), note),
        },
        BudgetCommand::Raise {
            of, amount, note, ..
        } => {
            let amount = of.metric.amount(amount)?;
            (of, BudgetAction::Raise, Some(amount), note)
        }
        BudgetCommand::Reset { of, note } => (of, BudgetAction::Reset, None, note),
    };
    let is_scope = of.scope == "house" || of.scope.contains(':') || of.scope.starts_with("TASK-");
    Ok(Some(ChangeBudget {
        scope: match is_scope {
            true => of.scope.clone(),
            false => format!("agent:{}", of.scope),
        },
        metric: of.metric.metric().0,
        action,
        amount,
        note: note.clone(),
    }))
}

async fn change_budget(
    home: &Home,
    json: bool,
    change: &ChangeBudget,
    key: Option<IdempotencyKey>,
) -> Outcome {
    let client = operator_client(home)?;
    let budget = client.budgets().change(change, key).await?;
    if json {
        output::print_json(&budget);
        return Ok(exit::OK);
    }
    let amount = |amount| budget_amount(budget.metric, amount);
    let limit = budget.limit.map_or_else(|| "no limit".to_owned(), amount);
    let metric = budget_metric(budget.metric);
    let of = match &budget.task {
        Some(task) => task.clone(),
        None => budget.scope.replace(':', " "),
    };
    output::print_line(&format!(
        "{metric} of {of}: {} spent of {limit}; tasks that wait for it go on where they fit",
        amount(budget.spent)
    ));
    if let Some(changed) = &budget.changed {
        let manifest = changed
            .manifest
            .map_or_else(|| "no limit".to_owned(), amount);
        output::print_line(&format!(
            "the manifest states {manifest}; this limit stays until the manifest states another one"
        ));
    }
    Ok(exit::OK)
}

/// `abbey budget`: prints limits, spending and reservations; `show` of the house and agents, `report` also of tasks
/// and runs; `set`, `raise` and `reset` change one.
pub(crate) async fn cmd_budget(home: &Home, json: bool, command: BudgetCommand) -> Outcome {
    if let Some(change) = change_of(&command)? {
        let key = match &command {
            BudgetCommand::Raise {
                idempotency_key, ..
            } => idempotency_key.clone().map(IdempotencyKey),
            _ => None,
        };
        return change_budget(home, json, &change, key).await;
    }
    let shown = |s: &BudgetScope| match command {
        BudgetCommand::Show { all } => {
            let is_listed = s.scope == "house" || s.scope.starts_with("agent:");
            is_listed && (all || !s.removed)
        }
        _ => true,
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
        let mut limit = s.limit.map_or_else(|| "unlimited".to_owned(), amount);
        if s.changed.is_some() {
            limit.push_str(" (changed)");
        }
        vec![
            Text::from(s.task.as_ref().unwrap_or(&s.scope)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_exactly_or_refused() {
        let read = |metric: BudgetMetric, text| metric.amount(text).ok();
        assert_eq!(read(BudgetMetric::Tokens, "50000"), Some(50_000));
        assert_eq!(read(BudgetMetric::Minutes, "90"), Some(5400));
        assert_eq!(read(BudgetMetric::Usd, "2.50"), Some(2_500_000_000));
        assert_eq!(read(BudgetMetric::Usd, "$0.000000001"), Some(1));
        assert_eq!(read(BudgetMetric::Usd, "3"), Some(3_000_000_000));
        for wrong in [
            "",
            "-1",
            "1e3",
            "1,000",
            ".5",
            "0.0000000001",
            "9999999999999999999",
        ] {
            assert_eq!(read(BudgetMetric::Usd, wrong), None, "{wrong}");
        }
        assert_eq!(read(BudgetMetric::Tokens, "1.5"), None);
    }
}
