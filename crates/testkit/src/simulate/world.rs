//! The simulated world: a home, clocks, cells, a provider, and the control plane, which lives and is killed.

use super::clock::TurnedClock;
use super::disk_space::{DiskState, SimulatedDisk};
use super::host::{CapableHostd, Life, LossyMeter, memory, parse, request};
use super::household::{AgentPart, Household, NAMES, ZONES};
use super::invariants::Known;
use super::options::{Fault, Options, Report};
use super::provider::Provider;
use super::random::{Random, SeededEntropy};
use super::workers::{Job, LateResult};
use crate::fake::FakeBackend;
use abbey_cells::hostd::InProcessHostd;
use abbey_daemon::{SimulatedHouse, SimulatedParts, unprivileged_config};
use abbey_model::{TaskState, Timestamp};
use abbey_store::{ChainVerifier, KnownCheckpoints, Storage};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
/// From when on wake-ups are missing, if that fault is planted.
const FAULT_AT: i64 = 12 * MINUTE;
/// Longest time in which the control plane makes no pass while nothing is due.
const PASS_INTERVAL_MAX: i64 = 15 * MINUTE;
/// Shortest time between two passes, milliseconds: what comes late by it comes in time.
const PASS_INTERVAL_MIN: i64 = 1000;
/// Passes that only look whether the clock was set are this far apart or more, and need not be made each time.
const IDLE_PASS: Duration = Duration::from_secs(20);
/// Lines of the trace that a report keeps.
const LAST_LINES: usize = 60;
/// Starts of simulated weeks, shortly before changes of summer time on both halves of the Earth, and in between.
const STARTS: [i64; 4] = [
    1_774_396_800_000,
    1_792_627_200_000,
    1_775_174_400_000,
    1_799_280_000_000,
];

pub(super) struct World {
    pub(super) options: Options,
    pub(super) random: Random,
    pub(super) clock: Arc<TurnedClock>,
    pub(super) backend: Arc<FakeBackend>,
    pub(super) provider: Provider,
    pub(super) disk: Arc<SimulatedDisk>,
    pub(super) disk_state: DiskState,
    pub(super) household: Household,
    pub(super) life: Option<Life>,
    /// Time since the start, milliseconds.
    pub(super) elapsed: i64,
    /// When the killed control plane is started again.
    pub(super) restart_at: i64,
    pub(super) next_event: i64,
    /// Whether everything comes back and no event happens any more.
    pub(super) draining: bool,
    pub(super) jobs: BTreeMap<String, Job>,
    /// Version of the tasks at which a worker got no offer: nothing wakes it before there is another one.
    pub(super) without_offer: BTreeMap<String, u64>,
    /// Results of workers that lost their leases meanwhile.
    pub(super) late_results: Vec<LateResult>,
    /// Approvals that were used.
    pub(super) used_approvals: BTreeSet<String>,
    /// Deliveries of hooks: signature, body, and the task that came of it.
    pub(super) deliveries: Vec<(String, Value, u64)>,
    /// When the provider works well again.
    pub(super) provider_until: i64,
    /// Until when workers whose claim was refused pause.
    pub(super) pauses: BTreeMap<String, i64>,
    pub(super) kill_next_call: bool,
    pub(super) known: BTreeMap<u64, Known>,
    pub(super) names_drawn: u64,
    pub(super) calls_made: u64,
    /// Whether the provider overstated usage since the last check of the budgets.
    pub(super) overstated: bool,
    pub(super) totals: BTreeMap<(String, String), u64>,
    /// When the wall clock was last set, milliseconds since the start.
    pub(super) clock_set_at: Option<i64>,
    pub(super) verifier: ChainVerifier,
    pub(super) audited: u64,
    pub(super) checked_at: i64,
    /// Runs that ended in the budget day that began at this instant.
    pub(super) runs_of_day: (Timestamp, u64),
    /// From when on runs are compared with the limit of their day.
    pub(super) day_counts_from: Timestamp,
    pub(super) violations: Vec<String>,
    pub(super) waiting_entries: BTreeMap<u64, u64>,
    events: u64,
    pub(super) checks: u64,
    wake_at: i64,
    trace: String,
    last: VecDeque<String>,
    entropy: Arc<SeededEntropy>,
    settled: Arc<AtomicU64>,
    dir: tempfile::TempDir,
}

impl World {
    pub(super) fn new(options: Options) -> Result<World, String> {
        let mut random = Random::new(options.seed, 1);
        let day = random.pick(&STARTS).copied().unwrap_or(STARTS[0]);
        let start = Timestamp(day + random.between(0, 24) * HOUR);
        let zone = random.pick(&ZONES).copied().unwrap_or(ZONES[0]);
        let mut agents = BTreeMap::new();
        for name in &NAMES[..3] {
            let part = AgentPart {
                runs: random.happens(30).then(|| 4 + random.next() % 8),
                scheduled: random.happens(50),
            };
            agents.insert((*name).to_owned(), part);
        }
        let household = Household {
            agents,
            runs: Some(12 + random.next() % 30),
            tokens: random.happens(60).then(|| 4_000 + random.next() % 12_000),
            zone,
            port: 0,
            secret: String::new(),
        };
        World::with_household(options, start, household)
    }

    pub(super) fn with_household(
        options: Options,
        start: Timestamp,
        mut household: Household,
    ) -> Result<World, String> {
        let failed = |e: std::io::Error| e.to_string();
        let dir = tempfile::Builder::new()
            .prefix("abbey-s")
            .tempdir_in(memory())
            .map_err(failed)?;
        let secret = dir.path().join("hook.secret");
        std::fs::write(&secret, "simulated").map_err(failed)?;
        let clock = Arc::new(TurnedClock::new(start));
        let disk = Arc::new(SimulatedDisk::default());
        let provider = Provider::start(Arc::clone(&clock), Arc::clone(&disk)).map_err(failed)?;
        household.port = provider.port;
        household.secret = secret.display().to_string();
        let backend = Arc::new(FakeBackend::default());
        backend.set_time(start);
        let mut world = World {
            options,
            random: Random::new(options.seed, 2),
            clock,
            backend,
            provider,
            disk,
            disk_state: DiskState::default(),
            household,
            life: None,
            elapsed: 0,
            restart_at: 0,
            next_event: 10 * MINUTE,
            draining: false,
            jobs: BTreeMap::new(),
            without_offer: BTreeMap::new(),
            late_results: Vec::new(),
            used_approvals: BTreeSet::new(),
            deliveries: Vec::new(),
            provider_until: i64::MAX,
            pauses: BTreeMap::new(),
            kill_next_call: false,
            known: BTreeMap::new(),
            names_drawn: 0,
            calls_made: 0,
            overstated: false,
            totals: BTreeMap::new(),
            clock_set_at: None,
            verifier: ChainVerifier::new(None, Vec::new(), KnownCheckpoints::default()),
            audited: 0,
            checked_at: 0,
            runs_of_day: (Timestamp(0), 0),
            day_counts_from: Timestamp(0),
            violations: Vec::new(),
            waiting_entries: BTreeMap::new(),
            events: 0,
            checks: 0,
            wake_at: 0,
            trace: String::new(),
            last: VecDeque::new(),
            entropy: Arc::new(SeededEntropy::new(options.seed)),
            settled: Arc::default(),
            dir,
        };
        world.start();
        world.apply();
        // No run has begun yet, so the first day counts as well.
        world.day_counts_from = Timestamp(0);
        Ok(world)
    }

    /// Writes a line of the trace.
    pub(super) fn log(&mut self, line: &str) {
        let line = format!("{:>9} {line}", self.elapsed / 1000);
        let _ = writeln!(self.trace, "{line}");
        if self.last.len() >= LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    pub(super) fn violated(&mut self, what: String) {
        let at = self.clock.true_now();
        self.log(&format!("violated: {what}"));
        self.violations
            .push(format!("{} s ({at:?}): {what}", self.elapsed / 1000));
    }

    /// Starts the control plane.
    pub(super) fn start(&mut self) {
        self.clock.restart();
        self.without_offer.clear();
        match self.open() {
            Ok(life) => self.life = Some(life),
            Err(_) if self.disk.is_full() => {
                self.log("no start on a full disk");
                self.restart_at = self.elapsed + MINUTE;
            }
            Err(why) => self.violated(format!("the control plane does not start: {why}")),
        }
    }

    fn open(&self) -> Result<Life, String> {
        let tokio = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| e.to_string())?;
        let home = self.dir.path().join("h");
        let config = unprivileged_config(home.clone()).map_err(|e| e.to_string())?;
        let (loses, settled) = (
            self.options.fault == Some(Fault::LostRelease),
            Arc::clone(&self.settled),
        );
        let parts = SimulatedParts {
            clock: Arc::clone(&self.clock) as _,
            backend: Arc::clone(&self.backend) as _,
            hostd: Arc::new(CapableHostd(Arc::new(InProcessHostd(config)))),
            entropy: Arc::clone(&self.entropy) as _,
            disk: Arc::clone(&self.disk) as _,
            meter: Box::new(move |meter| match loses {
                true => Arc::new(LossyMeter { meter, settled }),
                false => meter,
            }),
        };
        let opened = tokio.block_on(SimulatedHouse::open(home, parts));
        let house = opened.map_err(|e| e.to_string())?;
        Ok(Life::new(tokio, house))
    }

    /// Kills the control plane, which is started again after this time.
    pub(super) fn kill(&mut self, away: i64) {
        self.life = None;
        self.restart_at = self.elapsed + away;
    }

    /// The store of the living house with what runs its operations.
    pub(super) fn store(&self) -> Option<(&tokio::runtime::Runtime, Arc<dyn Storage>)> {
        self.life.as_ref().map(|l| (&l.tokio, l.house.store()))
    }

    /// Sends a request of the operator; 0 and nothing while the control plane is away.
    pub(super) fn operator(
        &self,
        path: &str,
        key: Option<&str>,
        body: Option<&Value>,
    ) -> (u16, Value) {
        let Some(life) = &self.life else {
            return (0, Value::Null);
        };
        let Some(token) = life.operator_token() else {
            return (0, Value::Null);
        };
        let mut headers = vec![("authorization", format!("Bearer {token}"))];
        headers.extend(key.map(|k| ("idempotency-key", k.to_owned())));
        let bytes = body.map(|b| b.to_string().into_bytes());
        let request = request(path, &headers, bytes);
        parse(life.tokio.block_on(life.house.call_operator_api(request)))
    }

    /// Sends a delivery of the hook, as its sender signs it.
    pub(super) fn deliver(&self, signature: &str, body: &Value) -> (u16, Value) {
        let Some(life) = &self.life else {
            return (0, Value::Null);
        };
        let headers = [
            ("x-gitea-signature", signature.to_owned()),
            ("x-gitea-event", "issues".to_owned()),
        ];
        let request = request(
            "/hooks/forge",
            &headers,
            Some(body.to_string().into_bytes()),
        );
        parse(life.tokio.block_on(life.house.call_operator_api(request)))
    }

    /// Applies the manifest, with consent to everything that its plan removes.
    pub(super) fn apply(&mut self) {
        self.apply_renamed(&BTreeMap::new());
    }

    /// As [`World::apply`], with agents that get another name.
    pub(super) fn apply_renamed(&mut self, renamed: &BTreeMap<String, String>) {
        if self.life.is_none() {
            return;
        }
        let mut body =
            json!({ "manifest": self.household.manifest(), "base_dir": "/", "renamed": renamed });
        let (status, planned) = self.operator("/api/v1/plans", None, Some(&body));
        let subjects = planned["steps"].as_array().into_iter().flatten();
        let subjects = subjects.map(|s| {
            let word = |key: &str| s[key].as_str().unwrap_or_default().to_owned();
            format!("{}:{}", word("resource"), word("agent"))
        });
        body["consent"] = subjects.collect();
        let (applied, answer) = self.operator("/api/v1/generations", None, Some(&body));
        self.log(&format!("manifest: {status} {applied}"));
        // The answer to a worker that waits names the new configuration.
        self.without_offer.clear();
        if let Some(life) = &self.life {
            life.forget_agent_tokens();
        }
        if !(200..300).contains(&applied) {
            self.violated(format!("a valid manifest is refused: {answer}"));
        }
        // What an agent has spent stays its own.
        self.totals = std::mem::take(&mut self.totals)
            .into_iter()
            .map(|((scope, metric), total)| {
                let name = scope.strip_prefix("agent:").and_then(|n| renamed.get(n));
                let scope = name.map_or(scope.clone(), |new| format!("agent:{new}"));
                ((scope, metric), total)
            })
            .collect();
        let zone = abbey_engine::budget::TimeZone::get(self.household.zone);
        if let Ok(zone) = zone {
            if self.options.fault == Some(Fault::EarlyMidnight) {
                self.clock.plant_early_midnight(zone.clone());
            }
            let ends = abbey_engine::budget::day_bounds(self.clock.true_now(), &zone).1;
            self.day_counts_from = self.day_counts_from.max(ends);
        }
    }

    /// Lets time pass until an instant since the start.
    pub(super) fn advance_to(&mut self, at: i64) {
        let time = Duration::from_millis(u64::try_from(at - self.elapsed).unwrap_or(0));
        self.clock.advance(time);
        if let Some(life) = &self.life {
            life.house.advance(time);
        }
        self.elapsed = self.elapsed.max(at);
        self.backend.set_time(self.clock.true_now());
    }

    /// Lets events happen, duties make their passes and agents work, until an instant since the start or a violation.
    pub(super) fn run_until(&mut self, end: i64) {
        while self.elapsed < end && self.violations.is_empty() {
            let events = if self.draining { end } else { self.next_event };
            let alive = match self.life {
                Some(_) => self.wake_at.min(self.next_step_of_jobs()),
                None => self.restart_at,
            };
            let due = end.min(events).min(alive).min(self.next_of_disk());
            let next = due.max(self.elapsed + 10);
            self.advance_to(next);
            self.live();
            if !self.draining && self.next_event <= self.elapsed {
                self.events += 1;
                self.perform_event();
                self.live();
            }
            self.check();
        }
    }

    /// Starts a killed control plane whose time has come; duties and agents do what is due now.
    pub(super) fn live(&mut self) {
        self.free_disk_if_due();
        if self.life.is_none() {
            if self.restart_at > self.elapsed {
                return;
            }
            self.log("start");
            self.start();
        }
        if self.options.fault == Some(Fault::MissingWakeup)
            && self.elapsed > FAULT_AT
            && let Some(life) = &mut self.life
        {
            life.house.lose_deadlines();
        }
        for _ in 0..50 {
            let pause = self.run_duties();
            let worked = self.work();
            if !worked {
                self.wake_at = self.elapsed + self.until_wake(pause);
                return;
            }
            if self.life.is_none() {
                return;
            }
        }
        self.wake_at = self.elapsed + 1000;
    }

    fn run_duties(&mut self) -> Duration {
        let Some(life) = &mut self.life else {
            return IDLE_PASS;
        };
        let pause = life.tokio.block_on(life.house.run_due_duties(IDLE_PASS));
        let failures = life.house.take_failures();
        for failure in failures {
            if self.disk.is_full() {
                // The rest of the message names a temporary directory.
                let mut words = failure.split(|c: char| !c.is_alphanumeric());
                let duty = words.next().unwrap_or_default();
                self.log(&format!("{duty} fails on a full disk"));
            } else {
                self.violated(format!("a duty failed: {failure}"));
            }
        }
        match pause {
            Ok(pause) => pause,
            Err(error) => {
                self.violated(error.to_string());
                IDLE_PASS
            }
        }
    }

    /// Time until something is due, milliseconds.
    fn until_wake(&self, pause: Duration) -> i64 {
        let pause_ms = i64::try_from(pause.as_millis()).unwrap_or(PASS_INTERVAL_MAX);
        if pause < IDLE_PASS {
            return pause_ms.max(PASS_INTERVAL_MIN);
        }
        let Some((tokio, store)) = self.store() else {
            return PASS_INTERVAL_MAX;
        };
        let next = tokio.block_on(store.next_deadline()).ok().flatten();
        let until = next.map(|at| at.since(store.now()).0).filter(|ms| *ms > 0);
        until.unwrap_or(PASS_INTERVAL_MAX).min(PASS_INTERVAL_MAX)
    }

    /// Everything comes back, and all work must end.
    pub(super) fn drain(&mut self) {
        if !self.violations.is_empty() {
            return;
        }
        self.log("everything comes back");
        self.draining = true;
        self.kill_next_call = false;
        self.provider.behave(super::provider::Behaviour::Good);
        self.restart_at = self.restart_at.min(self.elapsed);
        self.free_disk();
        self.live();
        for name in NAMES {
            self.household
                .agents
                .entry(name.to_owned())
                .or_default()
                .runs = None;
        }
        (self.household.runs, self.household.tokens) = (None, None);
        self.apply();
        for name in self.household.names() {
            self.operator(
                &format!("/api/v1/agents/{name}/start"),
                None,
                Some(&json!({})),
            );
            self.operator(
                &format!("/api/v1/agents/{name}/resume"),
                None,
                Some(&json!({})),
            );
        }
        let end = self.elapsed + 4 * DAY;
        while self.elapsed < end && self.violations.is_empty() {
            self.answer_everything();
            self.run_until(self.elapsed + HOUR);
            if self.open_tasks().is_empty() {
                break;
            }
        }
        let left = self.open_tasks();
        if self.violations.is_empty() && !left.is_empty() {
            let shown: Vec<String> = left
                .iter()
                .map(|t| format!("TASK-{} {:?}", t.number, t.phase))
                .collect();
            self.violated(format!(
                "{} tasks never ended: {}",
                left.len(),
                shown.join("; ")
            ));
        }
        self.verify_whole_log();
    }

    pub(super) fn report(&self) -> Report {
        let count = |done: bool| {
            let ended = self.known.values().filter(|k| k.ended.is_some());
            let ended = ended.filter(|k| (k.ended == Some(TaskState::Done)) == done);
            ended.count() as u64
        };
        Report {
            seed: self.options.seed,
            days: self.options.days,
            events: self.events,
            checks: self.checks,
            violations: self.violations.clone(),
            done: count(true),
            not_done: count(false),
            waited: self
                .known
                .keys()
                .filter(|n| self.waiting_entries.contains_key(n))
                .count() as u64,
            trace: abbey_support::digest::sha256_hex(self.trace.as_bytes()),
            last: self.last.iter().cloned().collect(),
        }
    }
}
