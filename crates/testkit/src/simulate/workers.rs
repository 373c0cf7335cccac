//! Workers of the simulated agents: they take offers, call the model, and end their runs well, badly, or not at all.

use super::host::{parse, request};
use super::provider::Behaviour;
use super::world::World;
use abbey_model::{CellName, Observed, Slug};
use serde_json::{Value, json};
use std::time::Duration;

/// Time between two steps of a run, milliseconds: several fit into a lease.
const STEP: i64 = 8_000;
/// Pause of a worker whose claim was refused, milliseconds.
const REFUSED: i64 = 10_000;

/// How a worker ends its run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Complete,
    Fail,
    Block,
    AskApproval,
    /// It does nothing more, and its lease expires.
    Vanish,
    /// As [`End::Vanish`], but much later it completes the task.
    CompleteLate,
}

/// A result that comes after its lease has expired.
#[derive(Debug, Clone)]
pub(super) struct LateResult {
    at: i64,
    agent: String,
    task: String,
    number: u64,
    token: u64,
}

/// An approval that a run has.
#[derive(Debug, Clone)]
struct HeldApproval {
    id: String,
    /// Whether it may be used: approved, and not used yet.
    usable: bool,
}

/// What a worker is at.
#[derive(Debug, Clone)]
pub(super) struct Job {
    task: String,
    pub(super) number: u64,
    run: String,
    token: u64,
    calls_left: u32,
    end: End,
    next_at: i64,
    /// Decided approval of the task, which is used before the end.
    approval: Option<HeldApproval>,
}

impl World {
    /// Instant of the next step of any worker.
    pub(super) fn next_step_of_jobs(&self) -> i64 {
        let jobs = self.jobs.values().map(|j| j.next_at);
        let pauses = self
            .pauses
            .values()
            .copied()
            .filter(|at| *at > self.elapsed);
        let late = self.late_results.iter().map(|r| r.at);
        jobs.chain(pauses).chain(late).min().unwrap_or(i64::MAX)
    }

    /// Sends the results whose time has come, of workers that have lost their leases. Returns whether there were any.
    fn send_late_results(&mut self) -> bool {
        if self.life.is_none() {
            return false;
        }
        let now = self.elapsed;
        let due: Vec<LateResult> = self.late_results.extract_if(.., |r| r.at <= now).collect();
        for result in &due {
            let lease = Some(("abbey-lease", result.token.to_string()));
            let path = format!("/api/v1/self/tasks/{}/complete", result.task);
            let body = json!({ "text": "late", "source": "model" });
            let (status, _) = self.agent(&result.agent, &path, lease, Some(&body));
            self.log(&format!(
                "{} completes TASK-{} late: {status}",
                result.agent, result.number
            ));
            if status == 200 {
                self.completed(result.number);
            }
        }
        !due.is_empty()
    }

    /// Every worker whose time has come makes a step, and every idle one takes an offer. Returns whether any did.
    pub(super) fn work(&mut self) -> bool {
        let mut worked = self.send_late_results();
        for name in self.household.names() {
            if self.life.is_none() {
                return worked;
            }
            if !self.cell_works(&name) {
                self.jobs.remove(&name);
                self.without_offer.remove(&name);
                continue;
            }
            match self.jobs.remove(&name) {
                Some(job) if job.next_at > self.elapsed => drop(self.jobs.insert(name, job)),
                Some(job) => {
                    worked = true;
                    if let Some(job) = self.step(&name, job) {
                        self.jobs.insert(name, job);
                    }
                }
                None if self.pauses.get(&name).is_some_and(|at| *at > self.elapsed) => {}
                None => worked |= self.take_offer(&name),
            }
        }
        self.jobs
            .retain(|name, _| self.household.agents.contains_key(name) || name == "abbot");
        worked
    }

    fn cell_works(&self, name: &str) -> bool {
        use abbey_cells::Backend as _;
        let Ok(slug) = name.parse::<Slug>() else {
            return false;
        };
        let seen = self.backend.observe(&CellName::Agent(slug));
        matches!(seen, Ok(Observed::Running { paused: false, .. }))
    }

    /// Sends a request of an agent with its credential for the API, or with its key for the gateway.
    fn agent(
        &self,
        name: &str,
        path: &str,
        header: Option<(&'static str, String)>,
        body: Option<&Value>,
    ) -> (u16, Value) {
        let Some(life) = &self.life else {
            return (0, Value::Null);
        };
        loop {
            let Some((token, _)) = life.agent_tokens(name) else {
                return (0, Value::Null);
            };
            let mut headers = vec![("authorization", format!("Bearer {token}"))];
            headers.extend(header.clone());
            let request = request(path, &headers, body.map(|b| b.to_string().into_bytes()));
            let (status, answer) = parse(life.tokio.block_on(life.house.call_agent_api(request)));
            // With a fresh credential it is refused for good.
            if status != 401 || !life.refresh_agent_tokens(name) {
                return (status, answer);
            }
        }
    }

    fn take_offer(&mut self, name: &str) -> bool {
        let Some(version) = self.life.as_ref().map(|l| l.house.version_of_work()) else {
            return false;
        };
        if self.without_offer.get(name) == Some(&version) {
            return false;
        }
        let (status, offer) = self.agent(name, "/api/v1/self/next?wait_ms=0", None, None);
        let Some(task) = offer["task"].as_str().filter(|_| status == 200) else {
            if status == 200 {
                self.without_offer.insert(name.to_owned(), version);
            }
            return false;
        };
        let number = offer["number"]
            .as_str()
            .and_then(|n| n.strip_prefix("TASK-")?.parse().ok());
        let path = format!("/api/v1/self/tasks/{task}/claim");
        let body = json!({ "revision": offer["revision"] });
        let (status, claim) = self.agent(name, &path, None, Some(&body));
        let number: u64 = number.unwrap_or(0);
        self.log(&format!("{name} claims TASK-{number}: {status}"));
        if status != 200 {
            // It was taken, or it can't begin: another look after a pause shows what there is then.
            self.pauses.insert(name.to_owned(), self.elapsed + REFUSED);
            return false;
        }
        let draw = self.random.next() % 100;
        let end = match draw {
            _ if self.draining => End::Complete,
            0..=69 => End::Complete,
            70..=77 => End::Fail,
            78..=83 => End::Block,
            84..=91 => End::AskApproval,
            92..=95 => End::CompleteLate,
            _ => End::Vanish,
        };
        let approval = offer["approvals"].as_array().and_then(|all| all.last());
        let approval = approval.filter(|_| self.random.happens(80));
        let approval = approval.map(|a| HeldApproval {
            id: a["id"].as_str().unwrap_or_default().to_owned(),
            usable: a["state"] == "approved",
        });
        let job = Job {
            task: task.to_owned(),
            number,
            run: claim["run"].as_str().unwrap_or_default().to_owned(),
            token: claim["lease"]["token"].as_u64().unwrap_or(0),
            calls_left: 1 + u32::try_from(self.random.next() % 3).unwrap_or(0),
            end,
            next_at: self.elapsed + STEP,
            approval,
        };
        self.jobs.insert(name.to_owned(), job);
        true
    }

    /// One step of a run; none when it is over for the worker.
    fn step(&mut self, name: &str, mut job: Job) -> Option<Job> {
        let lease = Some(("abbey-lease", job.token.to_string()));
        let task = job.task.clone();
        let on_task = |what: &str| format!("/api/v1/self/tasks/{task}/{what}");
        let (status, _) = self.agent(name, &on_task("renew"), lease.clone(), Some(&json!({})));
        if status != 200 {
            self.log(&format!("{name} lost TASK-{}: {status}", job.number));
            return None;
        }
        if job.calls_left > 0 {
            job.calls_left -= 1;
            let Some((status, answer)) = self.call_model(name, &job) else {
                // The worker outlives the control plane, and goes on with what it has when that is back.
                job.calls_left += 1;
                job.next_at = self.elapsed + STEP;
                return Some(job);
            };
            self.log(&format!(
                "{name} calls the model for TASK-{}: {status}",
                job.number
            ));
            if status == 200 {
                job.next_at = self.elapsed + STEP;
                return Some(job);
            }
            let reason = match answer["error"]["code"].as_str() {
                Some("budget_exhausted") => "budget_exhausted",
                _ => "provider_error",
            };
            let body = json!({ "reason": reason, "text": "the model was not available" });
            let (status, answer) = self.agent(name, &on_task("fail"), lease, Some(&body));
            let state = answer["task"]["state"].clone();
            self.log(&format!(
                "{name} gives TASK-{} back: {status} {state}",
                job.number
            ));
            return None;
        }
        if let Some(approval) = job.approval.take() {
            self.use_approval(name, &job, &approval);
        }
        let (path, body) = match job.end {
            End::Complete => (
                on_task("complete"),
                json!({ "text": "done", "source": "model" }),
            ),
            End::Fail => (
                on_task("fail"),
                json!({ "reason": "agent_error", "text": "simulated" }),
            ),
            End::Block => (
                on_task("block"),
                json!({ "on": "the operator", "why": "simulated" }),
            ),
            End::AskApproval => (
                "/api/v1/self/approvals".to_owned(),
                json!({ "task": job.task, "action": "deploy", "args": { "n": job.number }, "why": "simulated", "within_ms": 6 * 3_600_000 }),
            ),
            End::CompleteLate => {
                let late = LateResult {
                    at: self.elapsed + self.random.between(20_000, 30 * 60_000),
                    agent: name.to_owned(),
                    task: job.task.clone(),
                    number: job.number,
                    token: job.token,
                };
                self.late_results.push(late);
                self.log(&format!("{name} is late with TASK-{}", job.number));
                return None;
            }
            End::Vanish => {
                self.log(&format!("{name} vanishes with TASK-{}", job.number));
                return None;
            }
        };
        let (status, _) = self.agent(name, &path, lease, Some(&body));
        self.log(&format!(
            "{name} ends TASK-{} with {:?}: {status}",
            job.number, job.end
        ));
        if status == 200 && job.end == End::Complete {
            self.completed(job.number);
        }
        None
    }

    /// Uses the approval of a run for its action, and tries what it is not good for.
    fn use_approval(&mut self, name: &str, job: &Job, approval: &HeldApproval) {
        let id = &approval.id;
        let path = format!("/api/v1/self/approvals/{id}/use");
        let use_for = |world: &World, number: u64| {
            let lease = Some(("abbey-lease", job.token.to_string()));
            let body = json!({ "action": "deploy", "args": { "n": number } });
            world.agent(name, &path, lease, Some(&body)).0
        };
        if self.random.happens(30) && use_for(self, job.number + 1) == 200 {
            self.violated(format!("{id} was used for another action"));
        }
        let status = use_for(self, job.number);
        self.log(&format!("{name} uses {id}: {status}"));
        if status == 200 && !approval.usable {
            self.violated(format!("{id} was used without an approval"));
        }
        if status == 200 && !self.used_approvals.insert(id.clone()) {
            self.violated(format!("{id} was used twice"));
        }
        if self.random.happens(30) && use_for(self, job.number) == 200 && status == 200 {
            self.violated(format!("{id} was used twice"));
        }
    }

    /// A model call of a run; none when the control plane was killed meanwhile.
    fn call_model(&mut self, name: &str, job: &Job) -> Option<(u16, Value)> {
        let life = self.life.as_ref()?;
        let (_, key) = life.agent_tokens(name)?;
        let headers = [
            ("authorization", format!("Bearer {key}")),
            ("abbey-run", job.run.clone()),
        ];
        let body = json!({ "model": "m", "messages": [{ "role": "user", "content": "simulated" }], "max_tokens": 100 });
        let request = request(
            "/v1/chat/completions",
            &headers,
            Some(body.to_string().into_bytes()),
        );
        let mut call = life.house.call_agent_api(request);
        if self.elapsed >= self.provider_until {
            self.provider.behave(Behaviour::Good);
        }
        let before = self.provider.behaviour();
        if self.kill_next_call {
            self.provider.behave(Behaviour::Silent);
        }
        let silent = self.provider.silent();
        let calls = self.provider.calls();
        let answered = life.tokio.block_on(async {
            tokio::select! {
                biased;
                answer = &mut call => Some(answer),
                () = silent.notified() => None,
            }
        });
        self.provider.behave(before);
        self.notice_filled_disk();
        let sent = self.provider.calls() - calls;
        self.calls_made += sent;
        if let Some(answer) = answered {
            if sent > 0 {
                self.overstated |= before == Behaviour::Overstated;
                if let Behaviour::Slow(time) = before {
                    self.pass_with_call(time);
                }
            }
            return Some(parse(answer));
        }
        // The call is dropped without a runtime, as a kill would drop it.
        self.kill_next_call = false;
        let away = self.random.between(0, 600_000);
        self.log("kill during a model call");
        self.kill(away);
        drop(call);
        None
    }

    /// The provider has let time pass on the clock already; timers follow.
    fn pass_with_call(&mut self, time: Duration) {
        if let Some(life) = &self.life {
            life.house.advance(time);
        }
        self.elapsed += i64::try_from(time.as_millis()).unwrap_or(0);
    }
}
