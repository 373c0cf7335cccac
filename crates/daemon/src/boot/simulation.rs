//! A control plane without listeners, for simulations: its state, both APIs, the model gateway and the duties that move
//! work are the real ones, and whoever drives it turns its clock, has its duties make their passes, and kills it.
//!
//! Duties run one after another, so that equal inputs have equal effects. Checkpoints, firewall, documents and consumers
//! of services are left out: they need a host.

use crate::api_server::{agent_api, operator_api};
use crate::boot::control_plane::{ControlPlane, ControlPlaneParts, open_control_plane};
use crate::cells::agent_credentials::agent_token_file;
use crate::cells::{provision, reconciler};
use crate::core::alive;
use crate::core::error::{Error, Result};
use crate::core::home::Home;
use crate::core::manual_timers::ManualTimers;
use crate::core::runtime::{Runtime, System, Timers};
use crate::work::{delegation, escalations, model_gateway, schedules, timers, workflows};
use abbey_api::Problem;
use abbey_cells::Backend;
use abbey_cells::hostd::HostdApi;
use abbey_engine::supervision::History;
use abbey_gateway::{Gateway, Meter};
use abbey_model::{CellName, FaultKind, Slug};
use abbey_store::{Clock, DiskSpace, Entropy, ScheduleRow, Storage, Subscription, Topic};
use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Most rounds of passes at one instant; more means that passes cause each other without end.
const ROUNDS_MAX: u32 = 1000;
/// Pause after a pass that failed.
const RETRY: Duration = Duration::from_secs(5);
/// Longest answer of a request, bytes.
const ANSWER_MAX: usize = 64 << 20;

/// Puts a meter of its own in front of the ledger's.
pub type WrapMeter = Box<dyn FnOnce(Arc<dyn Meter>) -> Arc<dyn Meter> + Send>;

/// What surrounds the control plane.
pub struct SimulatedParts {
    /// Clock of the store.
    pub clock: Arc<dyn Clock>,
    /// Cells.
    pub backend: Arc<dyn Backend>,
    /// The privileged helper.
    pub hostd: Arc<dyn HostdApi>,
    /// Randomness of the store.
    pub entropy: Arc<dyn Entropy>,
    /// The disk that the store is on.
    pub disk: Arc<dyn DiskSpace>,
    /// Puts something between the model gateway and the ledger.
    pub meter: WrapMeter,
}

/// Passes of duties that are simulated, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    Reconcile,
    Sweep,
    Wake,
    Deliver,
    Schedule,
    Workflow,
    Escalate,
}

impl Pass {
    const ALL: [Pass; 7] = [
        Pass::Reconcile,
        Pass::Sweep,
        Pass::Wake,
        Pass::Deliver,
        Pass::Schedule,
        Pass::Workflow,
        Pass::Escalate,
    ];

    /// What wakes its duty before its pause is over, besides a new plan.
    const fn topics(self) -> &'static [Topic] {
        match self {
            Pass::Reconcile => &[Topic::Cells],
            Pass::Sweep => &[Topic::Deadlines],
            Pass::Wake | Pass::Schedule => &[],
            Pass::Deliver => &[Topic::Outbox],
            Pass::Workflow => &[Topic::Work, Topic::Approvals, Topic::Workflows],
            Pass::Escalate => &[Topic::Work],
        }
    }

    const fn hears_of_plans(self) -> bool {
        matches!(self, Pass::Schedule | Pass::Escalate)
    }
}

/// When a pass is due, and what wakes it earlier.
struct Wakeup {
    pass: Pass,
    due: Instant,
    /// Whether its duty has nothing to do then and only looks again.
    idle: bool,
    topics: Vec<Subscription>,
    plans: Option<tokio::sync::watch::Receiver<u64>>,
}

impl Wakeup {
    /// Whether the pass is to be made now; what woke it counts as seen then.
    fn take(&mut self, now: Instant) -> bool {
        let mut woken = self.due <= now;
        for seen in self.topics.iter_mut().chain(&mut self.plans) {
            woken |= seen.has_changed().unwrap_or(false);
            seen.mark_unchanged();
        }
        woken
    }
}

/// A control plane on turned clocks. Dropping it with its runtime is a kill: nothing is told to end.
pub struct SimulatedHouse {
    plane: Arc<ControlPlane>,
    timers: Arc<ManualTimers>,
    operator: Router,
    agents: Router,
    wakeups: Vec<Wakeup>,
    /// Whether ended deadlines are processed; see [`SimulatedHouse::lose_deadlines`].
    sweeps: bool,
    failures: Vec<String>,
    histories: BTreeMap<CellName, History>,
    heartbeats: timers::Heartbeats,
    schedules: Option<BTreeMap<String, ScheduleRow>>,
    retries: delegation::Retries,
}

/// Answer to a request: status, and body as text.
pub type SimulatedAnswer = Pin<Box<dyn Future<Output = (u16, String)> + Send>>;

impl SimulatedHouse {
    /// Starts the control plane of a home, in the order in which a real one starts.
    ///
    /// # Errors
    /// If it cannot start.
    pub async fn open(home: PathBuf, parts: SimulatedParts) -> Result<SimulatedHouse> {
        let home = Home::new(home);
        home.create_directories()?;
        let timers = Arc::new(ManualTimers::new());
        let rt = Runtime::new(Arc::clone(&timers) as Arc<dyn Timers>, Arc::new(System));
        let of_host = ControlPlaneParts::for_host(&home, parts.hostd, parts.clock);
        let parts_of_plane = ControlPlaneParts {
            backend: parts.backend,
            entropy: parts.entropy,
            disk: parts.disk,
            rt,
            ..of_host
        };
        let plane = open_control_plane(&home, parts_of_plane).await?;
        alive::log_house_start(&plane.core).await?;
        let mut histories = BTreeMap::new();
        reconciler::reconcile_all_cells(&plane.cells, &mut histories).await?;
        let mut of_gateway = model_gateway::gateway_parts(&plane.work);
        of_gateway.meter = (parts.meter)(of_gateway.meter);
        let agents = agent_api::agent_router(Arc::clone(&plane.api), Gateway::new(of_gateway));
        let operator = operator_api::operator_router(Arc::clone(&plane.api));
        let mut heartbeats = timers::Heartbeats::default();
        heartbeats.load(&plane.work).await?;
        let wakeups = Pass::ALL.map(|pass| Wakeup {
            pass,
            due: timers.now(),
            idle: false,
            topics: pass
                .topics()
                .iter()
                .map(|t| plane.core.store.subscribe(*t))
                .collect(),
            plans: pass.hears_of_plans().then(|| plane.core.plan.subscribe()),
        });
        let mut house = SimulatedHouse {
            plane,
            timers,
            operator,
            agents,
            wakeups: wakeups.into(),
            sweeps: true,
            failures: Vec::new(),
            histories,
            heartbeats,
            schedules: None,
            retries: delegation::Retries::new(),
        };
        if let Err(error) = provision::provision_plan(&house.plane.cells).await {
            house.failures.push(error.chain());
        }
        Ok(house)
    }

    /// The state of the house.
    pub fn store(&self) -> Arc<dyn Storage> {
        Arc::clone(&self.plane.core.store)
    }

    /// Turns the monotonic clock.
    pub fn advance(&self, time: Duration) {
        self.timers.advance(time);
    }

    /// From now on deadlines that end are not processed, as if the wake-ups for them were missing: a planted fault.
    pub fn lose_deadlines(&mut self) {
        self.sweeps = false;
    }

    /// Has the reconciler make a pass, as it does when the shim of a cell ends.
    pub fn report_end_of_cell(&mut self) {
        let now = self.timers.now();
        self.wakeups
            .iter_mut()
            .filter(|w| w.pass == Pass::Reconcile)
            .for_each(|w| (w.due, w.idle) = (now, false));
    }

    /// Makes every pass that is due, until none is, and returns the time until the next one. Those whose duty asked for
    /// a pause of this length or more count only where all others do: they are looks without a reason, for which
    /// whoever turns the clock need not stop.
    ///
    /// # Errors
    /// When passes cause each other without end.
    pub async fn run_due_duties(&mut self, idle_pause: Duration) -> Result<Duration> {
        for _ in 0..ROUNDS_MAX {
            let mut idle = true;
            for at in 0..self.wakeups.len() {
                let now = self.timers.now();
                let pass = self.wakeups[at].pass;
                let requested = pass == Pass::Reconcile && self.plane.cells.take_request();
                if !self.wakeups[at].take(now) && !requested {
                    continue;
                }
                idle = false;
                let pause = self.perform(pass).await.unwrap_or_else(|error| {
                    self.failures.push(format!("{pass:?}: {}", error.chain()));
                    RETRY
                });
                (self.wakeups[at].due, self.wakeups[at].idle) = (now + pause, pause >= idle_pause);
            }
            if idle {
                let now = self.timers.now();
                let with_reason = self.wakeups.iter().filter(|w| !w.idle);
                let next = with_reason.map(|w| w.due.duration_since(now)).min();
                return Ok(next.unwrap_or(idle_pause));
            }
        }
        let text = "the duties cause each other without end";
        Err(Problem::new(FaultKind::Internal, text).into())
    }

    async fn perform(&mut self, pass: Pass) -> Result<Duration> {
        let work = &self.plane.work;
        match pass {
            Pass::Reconcile => {
                reconciler::read_desired(&self.plane.cells).await?;
                reconciler::reconcile_all_cells(&self.plane.cells, &mut self.histories).await
            }
            Pass::Sweep if !self.sweeps => Ok(Duration::from_secs(3600)),
            Pass::Sweep => timers::expire_due_deadlines(work).await,
            Pass::Wake => timers::fire_due_wakes(work, &mut self.heartbeats).await,
            Pass::Deliver => delegation::deliver_due(work, &mut self.retries).await,
            Pass::Schedule => {
                let fired = schedules::fire_due_schedules(work, &mut self.schedules).await;
                if fired.is_err() {
                    self.schedules = None;
                }
                fired
            }
            Pass::Workflow => workflows::advance_due_runs(work).await,
            Pass::Escalate => escalations::escalate_and_close(work).await,
        }
    }

    /// Messages of passes that failed since the last call.
    pub fn take_failures(&mut self) -> Vec<String> {
        std::mem::take(&mut self.failures)
    }

    /// Version of the tasks: how many commits since the start touched what agents may be offered.
    pub fn version_of_work(&self) -> u64 {
        *self.plane.core.store.subscribe(Topic::Work).borrow()
    }

    /// The operator's credential.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn operator_token(&self) -> Result<String> {
        let token = self.plane.core.home.load_or_create_operator_token()?;
        Ok(token.expose().to_owned())
    }

    /// Credentials of an agent for its API and for the model gateway; none before it was provisioned.
    pub fn agent_tokens(&self, agent: &Slug) -> Option<(String, String)> {
        let home = &self.plane.core.home;
        let key = home.agent_dir(agent.as_str()).join("key");
        let token = home.read_text(&agent_token_file(&self.plane.cells, agent));
        Some((token.ok()?, home.read_text(&key).ok()?))
    }

    /// Sends a request to the operator API, with webhooks.
    pub fn call_operator_api(&self, request: Request<Vec<u8>>) -> SimulatedAnswer {
        call(self.operator.clone(), request)
    }

    /// Sends a request to the agent API or the model gateway.
    pub fn call_agent_api(&self, request: Request<Vec<u8>>) -> SimulatedAnswer {
        call(self.agents.clone(), request)
    }
}

fn call(router: Router, request: Request<Vec<u8>>) -> SimulatedAnswer {
    Box::pin(async move {
        let request = request.map(Body::from);
        let answered = TowerToHyperService::new(router).call(request).await;
        let Ok(answer) = answered;
        let status = answer.status().as_u16();
        let body = axum::body::to_bytes(answer.into_body(), ANSWER_MAX).await;
        let body = body.unwrap_or_default();
        (status, String::from_utf8_lossy(&body).into_owned())
    })
}

/// A home whose helper may be made by [`abbey_cells::hostd::InProcessHostd`], without privileges.
///
/// # Errors
/// If its directories cannot be created.
pub fn unprivileged_config(
    home: PathBuf,
) -> std::result::Result<abbey_cells::hostd::HostdConfig, Error> {
    let mut config = Home::new(home).create_directories()?;
    config.privileged = false;
    Ok(config)
}
