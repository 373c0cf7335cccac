//! What every part of the control plane shares.

use crate::core::credentials::Keys;
use crate::core::error::Result;
use crate::core::home::Home;
use crate::core::plan::PlanInForce;
use abbey_agents::skill::Skill;
use abbey_api::Problem;
use abbey_cells::Backend;
use abbey_cells::hostd::Helper;
use abbey_engine::admission::AgentFact;
use abbey_engine::matcher::{self, Candidate, Match, Rule, SCORE_MAX};
use abbey_model::{
    Amounts, CellName, FaultKind, Principal, Priority, Redactor, Secret, SecretRef, Slug, Wish,
};
use abbey_plan::Agent;
use abbey_store::{Intake, NewTask, Storage, TaskRow};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::{Mutex, Notify, watch};

/// Score of a skill that the author named, above every match.
const NAMED: u32 = SCORE_MAX + 1;

/// The skills of the house, ready to match.
#[derive(Default)]
pub(crate) struct Skills {
    pub(crate) all: BTreeMap<String, Skill>,
    pub(crate) invalid: Vec<String>,
    rules: Vec<Rule>,
}

impl Skills {
    pub(crate) fn load(dir: &std::path::Path) -> Skills {
        let (all, invalid) = abbey_agents::library::catalogue(dir);
        let rules = all
            .values()
            .filter(|s| s.program.is_some())
            .filter_map(|s| Rule::new(&s.name, &s.patterns).ok())
            .collect();
        Skills {
            all,
            invalid: invalid.iter().map(ToString::to_string).collect(),
            rules,
        }
    }

    /// Skills that fit a text, by score.
    pub(crate) fn candidates(&self, text: &str) -> Vec<Candidate> {
        matcher::candidates(&self.rules, text)
    }
}

/// Shared by every listener and loop.
pub struct House {
    pub(crate) home: Home,
    pub(crate) store: Arc<dyn Storage>,
    pub(crate) backend: Arc<dyn Backend>,
    /// Whoever does what takes privilege.
    pub(crate) hostd: Arc<dyn Helper>,
    pub(crate) current: RwLock<Option<Arc<PlanInForce>>>,
    pub(crate) skills: RwLock<Arc<Skills>>,
    pub(crate) keys: Keys,
    pub(crate) traces: crate::work::trace::Traces,
    pub(crate) redactor: Arc<RwLock<Redactor>>,
    /// Asks the reconciler for a pass, where what changed is not in the store.
    pub(crate) cells_changed: Notify,
    /// Memory that was granted.
    pub(crate) room: crate::cells::memory::Room,
    /// Deliveries of each hook in the minute that runs.
    pub(crate) deliveries: std::sync::Mutex<BTreeMap<Slug, (i64, u32)>>,
    /// Why what belongs to agents in a service is not as it should be, by service.
    pub(crate) consumers_trouble: RwLock<BTreeMap<Slug, String>>,
    /// One plan at a time.
    pub(crate) applying: Mutex<()>,
    /// Newest look at every cell.
    pub(crate) seen: RwLock<BTreeMap<CellName, crate::cells::status::Seen>>,
    /// What the operator wants of each cell.
    pub(crate) wishes: RwLock<BTreeMap<CellName, Wish>>,
    pub(crate) going_down: AtomicBool,
    pub(crate) down_asked: Notify,
    pub(crate) stop: tokio_util::sync::CancellationToken,
    /// Wakes that were skipped because there was nothing to consider.
    /// From when wakes count, by cell.
    pub(crate) anchors: Mutex<BTreeMap<CellName, abbey_model::Timestamp>>,
    /// Version of the work at which each agent last found nothing.
    pub(crate) checked: Mutex<BTreeMap<Slug, u64>>,
    pub(crate) lease_ttl: abbey_model::Millis,
    pub(crate) readings: std::sync::Mutex<crate::cells::status::Readings>,
    pub(crate) wakes_skipped: AtomicU64,
    pub(crate) model_calls: AtomicU64,
    /// How calls to providers ended.
    pub(crate) provider_outcomes: Arc<abbey_gateway::OutcomeCounts>,
    /// The client for everything that the house itself calls over HTTP.
    pub(crate) http: abbey_gateway::HttpClient,
    pub(crate) address: RwLock<String>,
    /// The outside door as it stands open: what it was opened for, and how it is closed.
    pub(crate) outside: Mutex<Option<crate::api_server::listener::OpenDoor>>,
    /// Under which configuration each agent said to work.
    pub(crate) configs: RwLock<BTreeMap<Slug, u64>>,
    /// Bytes of hostd's journal at the last look.
    pub(crate) journal: AtomicU64,
    /// Single commands that run.
    pub(crate) commands: crate::cells::commands::Commands,
    /// Machines kept ready for them.
    pub(crate) pool: crate::cells::vm_pool::Pool,
    /// What goes out through the proxy.
    pub(crate) egress: crate::net::egress::Ledger,
    /// Number of the plan, for what must notice a new one while it goes on.
    pub(crate) plans: watch::Sender<u64>,
    /// Tasks that must end before the control plane does.
    pub(crate) tracker: tokio_util::task::TaskTracker,
    /// Address that replaces the manifest's, where tests want one.
    pub(crate) listen_override: Option<std::net::SocketAddr>,
}

impl House {
    pub(crate) fn current(&self) -> Option<Arc<PlanInForce>> {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The same, for what cannot do without a plan.
    pub(crate) fn planned(&self) -> Result<Arc<PlanInForce>> {
        let none = || Problem::new(FaultKind::Unavailable, "the house has no plan yet");
        Ok(self.current().ok_or_else(none)?)
    }

    /// Where the operator reaches the house over the network; none before the first plan.
    pub(crate) fn outside_address(&self) -> Option<std::net::SocketAddr> {
        let address = self.address.read().unwrap_or_else(PoisonError::into_inner);
        address.parse().ok()
    }

    pub(crate) fn set_current(&self, current: PlanInForce) {
        let generation = current.generation;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(current));
        self.plans.send_replace(generation);
    }

    pub(crate) fn skills(&self) -> Arc<Skills> {
        Arc::clone(&self.skills.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn reload_skills(&self) {
        let fresh = Arc::new(Skills::load(&self.home.skills()));
        *self.skills.write().unwrap_or_else(PoisonError::into_inner) = fresh;
    }

    /// What admission needs for a text.
    pub(crate) fn intake(&self, text: &str) -> Intake {
        let fit = matcher::find(&self.skills().rules, text);
        Intake {
            fit,
            agents: self.facts(),
        }
    }

    /// What admission needs for a skill that the author named.
    pub(crate) fn intake_named(&self, skill: &str, args: BTreeMap<String, String>) -> Intake {
        let fit = Match::One(Candidate {
            skill: skill.to_owned(),
            score: NAMED,
            args,
        });
        Intake {
            fit,
            agents: self.facts(),
        }
    }

    /// What admission needs to look at a waiting task again.
    pub(crate) fn intake_again(&self, task: &TaskRow) -> Intake {
        match &task.route.skill {
            Some(skill) if task.route.score == NAMED => {
                self.intake_named(skill, task.route.args.clone())
            }
            _ => self.intake(&task.text),
        }
    }

    /// Work that the house itself gives to an agent: in the usual lane, without limits of its own.
    pub(crate) fn work_for(&self, agent: &Slug, text: String) -> NewTask {
        NewTask {
            author: Principal::House,
            assignee: Some(agent.clone()),
            priority: Priority::P2,
            budget: Amounts::default(),
            policy: None,
            idempotency: None,
            intake: self.intake(&text),
            delegated: None,
            text,
        }
    }

    fn facts(&self) -> Vec<AgentFact> {
        let Some(current) = self.current() else {
            return Vec::new();
        };
        let fact = |agent: &Agent| AgentFact {
            slug: agent.slug.clone(),
            skills: agent.skills.clone(),
            is_root: agent.reports_to.is_none(),
            // Who works by files thinks for itself.
            has_model: agent.model.is_some() || agent.files.is_some(),
            tokens_left: None,
        };
        current.house.agents.values().map(fact).collect()
    }

    /// Admits a waiting task anew. One that was claimed or called off meanwhile has moved on by
    /// itself, which is as good.
    pub(crate) async fn admit_again(&self, task: &TaskRow) -> Result<()> {
        use abbey_engine::task::Refusal;
        let id = abbey_model::TaskRef::Id(task.id);
        match self.store.admit(id, self.intake_again(task)).await {
            Ok(_) | Err(abbey_store::Error::Task(Refusal::Illegal { .. })) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Looks at every task that waits; after a change of agents, budgets or skills.
    pub(crate) async fn admit_waiting(&self) -> Result<()> {
        use abbey_model::TaskState;
        let states = vec![TaskState::Parked, TaskState::Pending, TaskState::Ready];
        let filter = abbey_store::TaskFilter {
            states,
            limit: 10_000,
            ..Default::default()
        };
        for task in self.store.tasks(filter).await? {
            self.admit_again(&task).await?;
        }
        Ok(())
    }

    /// Keeps these out of everything that is written from now on.
    pub(crate) fn learn_secrets(&self, secrets: Vec<Secret>) {
        *self
            .redactor
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Redactor::new(secrets);
    }

    /// The value behind a reference.
    pub(crate) fn secret(
        &self,
        reference: &SecretRef,
        base_dir: &str,
    ) -> std::result::Result<Secret, String> {
        let file = |path: std::path::PathBuf| match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Secret::new(text.strip_suffix('\n').unwrap_or(&text))),
            Err(e) => Err(format!(
                "the secret `{reference}` cannot be read from `{}` by user {}, whom the control plane runs as: {e}",
                path.display(),
                rustix::process::geteuid().as_raw()
            )),
        };
        match reference {
            SecretRef::Env(name) => std::env::var(name).map(Secret::new).map_err(|_| {
                format!("the secret `{reference}` is missing: set {name} in the environment of the control plane (it takes over that of `abbey up` when it starts)")
            }),
            SecretRef::File(path) => file(std::path::Path::new(base_dir).join(path)),
            SecretRef::Credential(name) => {
                // What a service manager hands over comes first; it is nobody else's to read.
                let handed = std::env::var_os("CREDENTIALS_DIRECTORY");
                let handed = handed.map(|dir| std::path::Path::new(&dir).join(name));
                let place = handed.filter(|path| path.exists());
                file(place.unwrap_or_else(|| self.home.credentials().join(name)))
            }
        }
    }
}
