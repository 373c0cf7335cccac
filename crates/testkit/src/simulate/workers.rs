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
        jobs.chain(pauses).min().unwrap_or(i64::MAX)
    }

    /// Every worker whose time has come makes a step, and every idle one takes an offer. Returns whether any did.
    pub(super) fn work(&mut self) -> bool {
        let mut worked = false;
        for name in self.household.names() {
            if self.life.is_none() {
                return worked;
            }
            if !self.cell_works(&name) {
                self.jobs.remove(&name);
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
        let (Some(life), Ok(slug)) = (&self.life, name.parse::<Slug>()) else {
            return (0, Value::Null);
        };
        let Some((token, _)) = life.house.agent_tokens(&slug) else {
            return (0, Value::Null);
        };
        let mut headers = vec![("authorization", format!("Bearer {}", token.trim()))];
        headers.extend(header);
        let request = request(path, &headers, body.map(|b| b.to_string().into_bytes()));
        parse(life.tokio.block_on(life.house.call_agent_api(request)))
    }

    fn take_offer(&mut self, name: &str) -> bool {
        let (status, offer) = self.agent(name, "/api/v1/self/next?wait_ms=0", None, None);
        let Some(task) = offer["task"].as_str().filter(|_| status == 200) else {
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
            _ => End::Vanish,
        };
        let job = Job {
            task: task.to_owned(),
            number,
            run: claim["run"].as_str().unwrap_or_default().to_owned(),
            token: claim["lease"]["token"].as_u64().unwrap_or(0),
            calls_left: 1 + u32::try_from(self.random.next() % 3).unwrap_or(0),
            end,
            next_at: self.elapsed + STEP,
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

    /// A model call of a run; none when the control plane was killed meanwhile.
    fn call_model(&mut self, name: &str, job: &Job) -> Option<(u16, Value)> {
        let life = self.life.as_ref()?;
        let (_, key) = life.house.agent_tokens(&name.parse().ok()?)?;
        let headers = [
            ("authorization", format!("Bearer {}", key.trim())),
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
