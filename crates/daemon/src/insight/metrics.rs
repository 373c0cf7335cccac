//! Metrics in OpenMetrics text: counters end in `_total`, units are part of names, and no label
//! mixes units.

use crate::core::error::Result;
use crate::insight::cell_views;
use crate::work::state::WorkState;
use abbey_api::Problem;
use abbey_engine::budget::Account;
use abbey_engine::provider_health::ProviderCondition;
use abbey_model::{FaultKind, Metric, Presence, Scope, TaskState, Timestamp, WaitKind};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

type Labels = Vec<(&'static str, String)>;
type Gauges = Family<Labels, Gauge<f64, AtomicU64>>;

/// All metrics of the house as OpenMetrics text.
pub(crate) async fn render_metrics(work: &Arc<WorkState>) -> Result<String> {
    let mut registry = Registry::with_prefix("abbey");
    register_house_metrics(work, &mut registry);
    register_work_metrics(work, &mut registry).await?;
    register_provider_metrics(work, &mut registry);
    register_disk_metrics(work, &mut registry);
    register_agent_metrics(work, &mut registry).await?;
    let current = work.core.plan.current();
    // Removed agents keep their budgets, and tasks and runs come and go; as labels they would grow without end.
    let is_kept = |scope: &Scope| match scope {
        Scope::House => true,
        Scope::Agent(slug) => {
            let current = current.as_ref();
            current.is_some_and(|c| c.house.agents.contains_key(slug))
        }
        Scope::Task(_) | Scope::Run(_) => false,
    };
    let mut accounts = work.core.store.budgets().await?;
    accounts.retain(|a| is_kept(&a.scope));
    register_budget_metrics(&accounts, &mut registry);
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

/// Open tasks by state and by what they wait for, ends of tasks, approvals, and the age of the newest backup.
async fn register_work_metrics(work: &Arc<WorkState>, registry: &mut Registry) -> Result<()> {
    let counts = work.core.store.counts().await?;
    let now = work.core.store.now();
    let seconds_since = |at: Timestamp| now.since(at).0.max(0) as f64 / 1000.0;
    let (tasks, waiting, oldest) = (Gauges::default(), Gauges::default(), Gauges::default());
    // What nothing waits for is 0 and not absent, so that a rule about it has a value.
    for state in TaskState::ALL.iter().filter(|s| !s.is_terminal()) {
        tasks
            .get_or_create(&vec![("state", state.to_string())])
            .set(0.0);
    }
    // A run that waits for a subtask runs.
    for kind in WaitKind::ALL.iter().filter(|k| **k != WaitKind::Subtask) {
        let labels = vec![("reason", kind.to_string())];
        waiting.get_or_create(&labels).set(0.0);
        oldest.get_or_create(&labels).set(0.0);
    }
    let mut running = 0;
    for open in &counts.open {
        let labels = vec![("state", open.state.to_string())];
        tasks.get_or_create(&labels).inc_by(open.count as f64);
        if open.state == TaskState::Running {
            running = open.count;
        }
        if let Some(kind) = open.wait {
            let labels = vec![("reason", kind.to_string())];
            waiting.get_or_create(&labels).inc_by(open.count as f64);
            let age = open.oldest.map_or(0.0, seconds_since);
            oldest.get_or_create(&labels).set(age);
        }
    }
    registry.register(
        "tasks",
        "Open tasks by state: the depth of the queue",
        tasks,
    );
    registry.register("tasks_waiting", "Open tasks by what they wait for", waiting);
    registry.register(
        "tasks_waiting_oldest_seconds",
        "Time for which the first task has waited, by what it waits for",
        oldest,
    );
    let runs: Gauge = Gauge::default();
    runs.set(i64::try_from(running).unwrap_or(i64::MAX));
    registry.register("runs_active", "Runs that hold a lease", runs);
    let ended: Family<Labels, Counter> = Family::default();
    for state in TaskState::ALL.iter().filter(|s| s.is_terminal()) {
        let count = counts.ended.get(state).copied().unwrap_or(0);
        let labels = vec![("state", state.to_string())];
        ended.get_or_create(&labels).inc_by(count);
    }
    registry.register("tasks_ended", "Ends of tasks by their last state", ended);
    let pending: Gauge = Gauge::default();
    pending.set(i64::try_from(counts.approvals_pending).unwrap_or(i64::MAX));
    registry.register(
        "approvals_pending",
        "Approvals that wait for a decision",
        pending,
    );
    let mut seconds = |name: &str, help: &str, at: Option<Timestamp>| {
        let gauge: Gauge<f64, AtomicU64> = Gauge::default();
        gauge.set(at.map_or(f64::NAN, seconds_since));
        registry.register(name, help, gauge);
    };
    seconds(
        "approvals_oldest_seconds",
        "Time for which the first pending approval has waited; NaN without one",
        counts.oldest_approval,
    );
    seconds(
        "backup_age_seconds",
        "Time since the newest backup was written; NaN before the first",
        counts.last_backup,
    );
    Ok(())
}

/// Health of each provider in the manifest.
fn register_provider_metrics(work: &Arc<WorkState>, registry: &mut Registry) {
    let Some(current) = work.core.plan.current() else {
        return;
    };
    let (up, failures) = (Gauges::default(), Gauges::default());
    let failing = work.providers.failing();
    for name in current.house.providers.keys() {
        let labels = vec![("provider", name.to_string())];
        let count = match failing.get(name.as_str()) {
            Some(ProviderCondition::CoolingDown { failures, .. }) => f64::from(*failures),
            Some(_) | None => 0.0,
        };
        let is_up = f64::from(u8::from(count == 0.0));
        up.get_or_create(&labels).set(is_up);
        failures.get_or_create(&labels).set(count);
    }
    registry.register("provider_up", "Whether calls are sent to the provider", up);
    registry.register(
        "provider_consecutive_failures",
        "Calls to the provider that failed one after the other",
        failures,
    );
}

/// Space of the file system of the state directory.
fn register_disk_metrics(work: &Arc<WorkState>, registry: &mut Registry) {
    let Ok(stat) = rustix::fs::statvfs(work.core.home.root()) else {
        return;
    };
    for (name, help, blocks) in [
        (
            "state_disk_size_bytes",
            "Size of the file system of the state directory",
            stat.f_blocks,
        ),
        (
            "state_disk_available_bytes",
            "Space that is left on the file system of the state directory",
            stat.f_bavail,
        ),
    ] {
        let bytes: Gauge<f64, AtomicU64> = Gauge::default();
        bytes.set(blocks.saturating_mul(stat.f_frsize) as f64);
        registry.register(name, help, bytes);
    }
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
    let (services_up, services_restarts) =
        (Gauges::default(), Family::<Labels, Counter>::default());
    for service in cell_views::services_doc(work).await?.services {
        let labels = vec![("service", service.name.clone())];
        let ready = f64::from(u8::from(service.presence == Presence::Ready));
        services_up.get_or_create(&labels).set(ready);
        services_restarts
            .get_or_create(&labels)
            .inc_by(service.restarts);
    }
    registry.register("service_up", "Whether the service is ready", services_up);
    registry.register(
        "service_restarts",
        "Starts of the service's cell after the first",
        services_restarts,
    );
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
        for account in accounts.iter().filter(|a| a.metric == *metric) {
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
