//! Supervision of the control plane's long-lived tasks: each is a variant of [`Duty`], with a
//! restart policy.

use crate::boot::control_plane::ControlPlane;
use crate::cells::{reconciler, service_consumers};
use crate::core::{alive, audit_checkpoints, checkpoint_sinks, hostd_journal};
use crate::net::firewall;
use crate::work::{delegation, documents, escalations, schedules, timers, workflows};
use std::sync::Arc;
use std::time::Duration;

/// A long-lived task, in the order of start; all are stopped by one token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Duty {
    /// Brings cells to their desired state.
    Reconcile,
    /// Ends expired leases and starts retries.
    Sweep,
    /// Wakes agents at their times.
    Wake,
    /// Removes old records.
    Upkeep,
    /// Signs heads of the audit log, and keeps them outside the database.
    Checkpoints,
    /// Delivers signed heads to the checkpoint sinks.
    Sinks,
    /// Imports hostd's journal into the audit log.
    Journal,
    /// Restores the firewall when it differs from the plan.
    Firewall,
    /// Delivers outcomes of finished tasks to their recipients.
    Deliver,
    /// Fires schedules.
    Schedule,
    /// Advances workflow runs.
    Workflow,
    /// Writes shared documents into the cells of their readers.
    Documents,
    /// Creates and removes accounts of agents in services.
    Consumers,
    /// Escalates tasks without an eligible agent.
    Escalate,
    /// Records until when the house was observed.
    Heartbeat,
}

/// How often a duty that panics is restarted.
struct RestartPolicy {
    /// Restarts within the period, after which the control plane exits.
    restarts_max: u32,
    period: Duration,
}

impl Duty {
    /// Every duty, in the order of start.
    pub(crate) const ALL: [Duty; 15] = [
        Duty::Reconcile,
        Duty::Sweep,
        Duty::Wake,
        Duty::Upkeep,
        Duty::Checkpoints,
        Duty::Sinks,
        Duty::Journal,
        Duty::Firewall,
        Duty::Deliver,
        Duty::Schedule,
        Duty::Workflow,
        Duty::Documents,
        Duty::Consumers,
        Duty::Escalate,
        Duty::Heartbeat,
    ];

    const fn restart_policy(self) -> RestartPolicy {
        match self {
            Duty::Reconcile | Duty::Sweep => RestartPolicy {
                restarts_max: 5,
                period: Duration::from_secs(60),
            },
            Duty::Wake
            | Duty::Upkeep
            | Duty::Checkpoints
            | Duty::Sinks
            | Duty::Journal
            | Duty::Firewall
            | Duty::Deliver
            | Duty::Schedule
            | Duty::Workflow
            | Duty::Documents
            | Duty::Consumers
            | Duty::Escalate
            | Duty::Heartbeat => RestartPolicy {
                restarts_max: 20,
                period: Duration::from_secs(3600),
            },
        }
    }

    async fn perform(self, plane: Arc<ControlPlane>) {
        match self {
            Duty::Reconcile => reconciler::run_reconciler(Arc::clone(&plane.cells)).await,
            Duty::Sweep => timers::run_deadline_sweeper(Arc::clone(&plane.work)).await,
            Duty::Wake => timers::run_agent_waker(Arc::clone(&plane.work)).await,
            Duty::Upkeep => timers::run_store_maintenance(Arc::clone(&plane.work)).await,
            Duty::Checkpoints => {
                audit_checkpoints::run_checkpoint_publication(Arc::clone(&plane.core)).await
            }
            Duty::Sinks => checkpoint_sinks::run_sink_delivery(Arc::clone(&plane.core)).await,
            Duty::Journal => hostd_journal::run_journal_import(Arc::clone(&plane.core)).await,
            Duty::Firewall => firewall::run_firewall_monitor(Arc::clone(&plane.net)).await,
            Duty::Deliver => delegation::run_outcome_delivery(Arc::clone(&plane.work)).await,
            Duty::Schedule => schedules::run_scheduler(Arc::clone(&plane.work)).await,
            Duty::Workflow => workflows::run_workflow_engine(Arc::clone(&plane.work)).await,
            Duty::Documents => documents::run_document_distribution(Arc::clone(&plane.work)).await,
            Duty::Consumers => {
                service_consumers::run_consumer_provisioning(Arc::clone(&plane.cells)).await
            }
            Duty::Escalate => escalations::run_escalations(Arc::clone(&plane.work)).await,
            Duty::Heartbeat => alive::run_heartbeat(Arc::clone(&plane.core)).await,
        }
    }
}

/// Starts a supervised task for every duty.
pub(crate) fn start_duties(plane: &Arc<ControlPlane>) {
    for duty in Duty::ALL {
        let plane = Arc::clone(plane);
        drop(plane.core.rt.clone().spawn(supervise(duty, plane)));
    }
}

/// Runs a duty, and restarts it when it panics, until it ends or exceeds its restart policy.
async fn supervise(duty: Duty, plane: Arc<ControlPlane>) {
    let policy = duty.restart_policy();
    let mut failures: Vec<std::time::Instant> = Vec::new();
    while !plane.core.rt.is_stopping() {
        let outcome = plane
            .core
            .rt
            .spawn_untracked(duty.perform(Arc::clone(&plane)))
            .await;
        let Err(error) = outcome else { return };
        tracing::error!(?duty, %error, "a duty panicked and is restarted");
        let now = plane.core.rt.now();
        failures.retain(|at| now - *at < policy.period);
        failures.push(now);
        if failures.len() > policy.restarts_max as usize {
            tracing::error!(
                ?duty,
                "a duty exceeded its restart limit; the control plane exits, start it again with `abbey up`"
            );
            plane.core.rt.request_stop();
        }
    }
}
