//! Metrics in OpenMetrics text.

use crate::core::error::Result;
use crate::insight::views;
use crate::work::state::WorkState;
use abbey_api::Problem;
use abbey_model::FaultKind;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::sync::Arc;
use std::sync::atomic::Ordering;

type Labels = Vec<(String, String)>;

/// All metrics as OpenMetrics text.
pub(crate) async fn render(work: &Arc<WorkState>) -> Result<String> {
    let mut registry = Registry::with_prefix("abbey");
    let mut number = |name: &str, help: &str, value: u64| {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    };
    let (transactions, operations) = work.core.store.counters();
    number(
        "store_transactions",
        "Transactions since the start",
        transactions,
    );
    number("store_operations", "Operations since the start", operations);
    number(
        "activity_head",
        "Sequence number of the newest entry",
        work.core.store.audit_head(),
    );
    number(
        "model_calls",
        "Model calls since the start",
        work.counters.model_calls.load(Ordering::Relaxed),
    );
    number(
        "wakes_skipped",
        "Wakes with nothing to consider since the start",
        work.counters.wakes_skipped.load(Ordering::Relaxed),
    );
    let answers: Family<Labels, Counter> = Family::default();
    for ((provider, outcome), count) in work.provider_outcomes.snapshot() {
        let labels = vec![
            ("provider".to_owned(), provider),
            ("outcome".to_owned(), outcome.to_owned()),
        ];
        answers.get_or_create(&labels).inc_by(count);
    }
    registry.register(
        "provider_calls",
        "Calls sent to a model provider since the start, by outcome",
        answers,
    );
    let up: Family<Labels, Gauge> = Family::default();
    let memory: Family<Labels, Gauge> = Family::default();
    let restarts: Family<Labels, Gauge> = Family::default();
    for agent in views::fleet(work).await?.agents {
        let labels = vec![("agent".to_owned(), agent.name.clone())];
        up.get_or_create(&labels)
            .set(i64::from(agent.presence == abbey_model::Presence::Ready));
        memory
            .get_or_create(&labels)
            .set(i64::try_from(agent.memory_bytes.unwrap_or(0)).unwrap_or(0));
        restarts
            .get_or_create(&labels)
            .set(i64::try_from(agent.restarts).unwrap_or(0));
    }
    registry.register("agent_up", "Whether the agent is ready", up);
    registry.register("agent_memory_bytes", "Memory of the agent's cell", memory);
    registry.register("agent_restarts", "Starts after the first", restarts);
    let spent: Family<Labels, Gauge> = Family::default();
    let reserved: Family<Labels, Gauge> = Family::default();
    for account in work.core.store.budgets().await? {
        let scope = account.scope.to_string();
        // Tasks and runs come and go; as labels they would grow without end.
        if scope.starts_with("task:") || scope.starts_with("run:") {
            continue;
        }
        let labels = vec![
            ("scope".to_owned(), scope),
            ("metric".to_owned(), account.metric.name().to_owned()),
        ];
        spent
            .get_or_create(&labels)
            .set(i64::try_from(account.spent).unwrap_or(i64::MAX));
        reserved
            .get_or_create(&labels)
            .set(i64::try_from(account.reserved).unwrap_or(i64::MAX));
    }
    registry.register("budget_spent", "Settled in this window", spent);
    registry.register("budget_reserved", "Held by open reservations", reserved);
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|e| Problem::new(FaultKind::Internal, e.to_string()))?;
    Ok(text)
}
