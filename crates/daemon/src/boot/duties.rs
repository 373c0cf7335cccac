//! Supervision as data: every long-lived task of the control plane is a variant, with what
//! happens when it ends.

use crate::boot::control_plane::ControlPlane;
use crate::cells::{reconciler, service_consumers};
use crate::core::hostd_journal;
use crate::net::firewall;
use crate::work::{delegation, documents, escalations, schedules, timers, workflows};
use std::sync::Arc;
use std::time::Duration;

/// A long-lived task, in the order in which they start; they stop together by one token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Duty {
    /// Compares cells with the plan.
    Reconcile,
    /// Ends leases and pauses.
    Sweep,
    /// Wakes agents.
    Wake,
    /// Signs and retains.
    Upkeep,
    /// Takes hostd's journal into the chain.
    Journal,
    /// Looks whether the firewall stands.
    Firewall,
    /// Tells who is to hear of work that is over.
    Deliver,
    /// Fires schedules.
    Schedule,
    /// Brings runs of workflows on.
    Workflow,
    /// Brings shared documents to their readers.
    Documents,
    /// Gives agents what belongs to them in services.
    Consumers,
    /// Escalates tasks without an eligible agent.
    Escalate,
}

/// What happens when a duty panics.
struct Policy {
    /// Restarts within the period before the house gives up and exits, to be recovered whole.
    restarts_max: u32,
    period: Duration,
}

impl Duty {
    pub(crate) const ALL: [Duty; 12] = [
        Duty::Reconcile,
        Duty::Sweep,
        Duty::Wake,
        Duty::Upkeep,
        Duty::Journal,
        Duty::Firewall,
        Duty::Deliver,
        Duty::Schedule,
        Duty::Workflow,
        Duty::Documents,
        Duty::Consumers,
        Duty::Escalate,
    ];

    const fn policy(self) -> Policy {
        match self {
            Duty::Reconcile | Duty::Sweep => Policy {
                restarts_max: 5,
                period: Duration::from_secs(60),
            },
            Duty::Wake
            | Duty::Upkeep
            | Duty::Journal
            | Duty::Firewall
            | Duty::Deliver
            | Duty::Schedule
            | Duty::Workflow
            | Duty::Documents
            | Duty::Consumers
            | Duty::Escalate => Policy {
                restarts_max: 20,
                period: Duration::from_secs(3600),
            },
        }
    }

    async fn run(self, house: Arc<ControlPlane>) {
        match self {
            Duty::Reconcile => reconciler::run(Arc::clone(&house.cells)).await,
            Duty::Sweep => timers::sweeper(Arc::clone(&house.work)).await,
            Duty::Wake => timers::waker(Arc::clone(&house.work)).await,
            Duty::Upkeep => timers::upkeep(Arc::clone(&house.work)).await,
            Duty::Journal => hostd_journal::run(Arc::clone(&house.core)).await,
            Duty::Firewall => firewall::run(Arc::clone(&house.net)).await,
            Duty::Deliver => delegation::deliveries(Arc::clone(&house.work)).await,
            Duty::Schedule => schedules::run(Arc::clone(&house.work)).await,
            Duty::Workflow => workflows::run(Arc::clone(&house.work)).await,
            Duty::Documents => documents::run(Arc::clone(&house.work)).await,
            Duty::Consumers => service_consumers::run(Arc::clone(&house.cells)).await,
            Duty::Escalate => escalations::run(Arc::clone(&house.work)).await,
        }
    }
}

/// Starts every duty and keeps it running.
pub(crate) fn start(house: &Arc<ControlPlane>) {
    for duty in Duty::ALL {
        let house = Arc::clone(house);
        drop(house.core.rt.clone().spawn(watch(duty, house)));
    }
}

async fn watch(duty: Duty, house: Arc<ControlPlane>) {
    let policy = duty.policy();
    let mut failures: Vec<std::time::Instant> = Vec::new();
    while !house.core.rt.is_stopping() {
        let outcome = house.core.rt.detach(duty.run(Arc::clone(&house))).await;
        let Err(error) = outcome else { return };
        tracing::error!(?duty, %error, "a duty failed and is started again");
        let now = house.core.rt.instant();
        failures.retain(|at| now - *at < policy.period);
        failures.push(now);
        if failures.len() > policy.restarts_max as usize {
            tracing::error!(
                ?duty,
                "a duty keeps failing; the control plane exits to be recovered"
            );
            house.core.rt.stop();
        }
    }
}
