//! Metrics in OpenMetrics text: counters end in `_total`, units are part of names, and no label
//! mixes units.

use crate::core::error::Result;
use crate::insight::cell_views;
use crate::work::state::WorkState;
use abbey_api::Problem;
use abbey_engine::budget::Account;
use abbey_model::{FaultKind, Metric, Presence, Scope, TaskState};
use abbey_store::TaskFilter;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

type Labels = Vec<(&'static str, String)>;
type Gauges = Family<Labels, Gauge<f64, AtomicU64>>;

/// Most open tasks that are counted.
const TASKS_MAX: u32 = 100_000;

/// All metrics of the house as OpenMetrics text.
pub(crate) async fn render_metrics(work: &Arc<WorkState>) -> Result<String> {
    let mut registry = Registry::with_prefix("abbey");
    register_house_metrics(work, &mut registry);
    register_task_metrics(work, &mut registry).await?;
    register_agent_metrics(work, &mut registry).await?;
    register_budget_metrics(&work.core.store.budgets().await?, &mut registry);
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|e| Problem::new(FaultKind::Internal, e.to_string()))?;
    Ok(text)
}

fn register_house_metrics(work: &Arc<WorkState>, registry: &mut Registry) {
    let build = Gauges::default();
    let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
    build.get_or_create(&version).set(1.0);
    registry.register("build_info", "Version of the binary; always 1", build);
    let (transactions, operations) = work.core.store.counters();
    let counters = [
        (
            "store_transactions",
            "Transactions of the store",
            transactions,
        ),
        ("store_operations", "Operations of the store", operations),
        (
            "model_calls",
            "Calls of agents to models",
            work.counters.model_calls.load(Ordering::Relaxed),
        ),
        (
            "wakes_skipped",
            "Wakes of agents that had nothing to consider",
            work.counters.wakes_skipped.load(Ordering::Relaxed),
        ),
    ];
    for (name, help, value) in counters {
        let counter: Counter = Counter::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    }
    let head: Gauge = Gauge::default();
    head.set(i64::try_from(work.core.store.audit_head()).unwrap_or(i64::MAX));
    registry.register(
        "activity_head",
        "Number of the newest entry of the audit log",
        head,
    );
    let calls: Family<Labels, Counter> = Family::default();
    for ((provider, outcome), count) in work.providers.counts.snapshot() {
        let labels = vec![("provider", provider), ("outcome", outcome.to_owned())];
        calls.get_or_create(&labels).inc_by(count);
    }
    registry.register(
        "provider_calls",
        "Calls sent to a model provider, by outcome",
        calls,
    );
}

async fn register_task_metrics(work: &Arc<WorkState>, registry: &mut Registry) -> Result<()> {
    let open = TaskState::ALL.iter().copied().filter(|s| !s.is_terminal());
    let mut counts: BTreeMap<TaskState, u32> = open.map(|s| (s, 0)).collect();
    let filter = TaskFilter {
        states: counts.keys().copied().collect(),
        limit: TASKS_MAX,
        ..TaskFilter::default()
    };
    for task in work.core.store.tasks(filter).await? {
        *counts.entry(task.state()).or_default() += 1;
    }
    let running = counts.get(&TaskState::Running).copied().unwrap_or(0);
    let tasks = Gauges::default();
    for (state, count) in counts {
        let labels = vec![("state", state.to_string())];
        tasks.get_or_create(&labels).set(f64::from(count));
    }
    registry.register(
        "tasks",
        "Open tasks by state: the depth of the queue",
        tasks,
    );
    let runs: Gauge = Gauge::default();
    runs.set(running.into());
    registry.register("runs_active", "Runs that hold a lease", runs);
    Ok(())
}

async fn register_agent_metrics(work: &Arc<WorkState>, registry: &mut Registry) -> Result<()> {
    let (up, memory) = (Gauges::default(), Gauges::default());
    let restarts: Family<Labels, Counter> = Family::default();
    for agent in cell_views::fleet_doc(work).await?.agents {
        let labels = vec![("agent", agent.name.clone())];
        let ready = f64::from(u8::from(agent.presence == Presence::Ready));
        up.get_or_create(&labels).set(ready);
        let bytes = agent.memory_bytes.unwrap_or(0);
        memory.get_or_create(&labels).set(bytes as f64);
        restarts.get_or_create(&labels).inc_by(agent.restarts);
    }
    registry.register("agent_up", "Whether the agent is ready", up);
    registry.register("agent_memory_bytes", "Memory of the agent's cell", memory);
    registry.register(
        "agent_restarts",
        "Starts of the agent's cell after the first",
        restarts,
    );
    Ok(())
}

/// Registers one metric per unit: `abbey_budget_spent_tokens`, `abbey_budget_limit_usd` and so on.
fn register_budget_metrics(accounts: &[Account], registry: &mut Registry) {
    for metric in Metric::ALL {
        let (unit, scale) = match metric {
            Metric::Tokens => ("tokens", 1.0),
            Metric::NanoUsd => ("usd", 1e9),
            Metric::Runs => ("runs", 1.0),
            Metric::Seconds => ("seconds", 1.0),
        };
        let [limit, spent, reserved] = [(); 3].map(|()| Gauges::default());
        // Tasks and runs come and go; as labels they would grow without end.
        let kept = |a: &&Account| matches!(a.scope, Scope::House | Scope::Agent(_));
        for account in accounts.iter().filter(kept).filter(|a| a.metric == *metric) {
            let labels = vec![
                ("scope", account.scope.to_string()),
                ("window", account.window.to_string()),
            ];
            let value = |amount: u64| amount as f64 / scale;
            spent.get_or_create(&labels).set(value(account.spent));
            reserved.get_or_create(&labels).set(value(account.reserved));
            if let Some(most) = account.limit {
                limit.get_or_create(&labels).set(value(most));
            }
        }
        let mut add = |what: &str, help: &str, family| {
            registry.register(format!("budget_{what}_{unit}"), help, family);
        };
        add("limit", "Most in this window", limit);
        add("spent", "Settled in this window", spent);
        add(
            "reserved",
            "Reserved for calls and runs that are going on",
            reserved,
        );
    }
}
