//! What happens to the simulated house, drawn from the seed.

use super::household::{AgentPart, NAMES, ZONES};
use super::provider::Behaviour;
use super::world::World;
use abbey_engine::budget::{TimeZone, day_bounds};
use abbey_model::{CellName, ExitKind, Millis, Principal, TaskState};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;

impl World {
    /// Draws the next event, lets it happen, and draws when another one does.
    pub(super) fn perform_event(&mut self) {
        self.next_event = self.elapsed + self.random.between(MINUTE, 150 * MINUTE);
        let draw = self.random.next() % 100;
        if self.life.is_none() {
            // Nobody reaches the house; only the clocks go on.
            if draw < 10 {
                self.set_clock();
            }
            return;
        }
        match draw {
            0..=25 => self.add_tasks(),
            26..=39 => self.change_provider(),
            40..=46 => self.kill_somehow(),
            47..=50 => self.set_clock(),
            // A change of the plan needs space.
            51..=60 if !self.disk.is_full() => self.edit_manifest(),
            51..=65 => self.crash_cell(),
            66..=71 => self.change_cell(),
            72..=78 => self.answer_some(),
            79..=83 => self.deliver_hook(),
            84..=86 => self.start_workflow(),
            87..=89 => self.change_task(),
            90..=93 if !self.disk.is_full() => self.fill_disk(),
            _ => self.go_to_midnight(),
        }
    }

    fn add_tasks(&mut self) {
        let count = match self.random.happens(5) {
            true => 10 + self.random.next() % 20,
            false => 1 + self.random.next() % 4,
        };
        for _ in 0..count {
            self.add_task();
        }
    }

    fn add_task(&mut self) {
        self.names_drawn += 1;
        let text = format!("zqa zqb zqc {}", self.names_drawn);
        let names = self.household.names();
        // Without an agent the house finds one.
        let to = match self.random.happens(20) {
            true => None,
            false => self.random.pick(&names).cloned(),
        };
        let key = format!("task {}", self.names_drawn);
        let body = json!({ "text": text, "to": to });
        if self.random.happens(3) {
            // The answer is lost with the control plane, so the sender repeats the request.
            self.operator("/api/v1/tasks", Some(&key), Some(&body));
            self.log("kill before an answer");
            self.kill(0);
            self.live();
        }
        self.add_known_task(&key, &body);
    }

    /// Adds a task of the operator, which must not be lost once it is acknowledged.
    pub(super) fn add_known_task(&mut self, key: &str, body: &Value) {
        let (status, answer) = self.operator("/api/v1/tasks", Some(key), Some(body));
        let number = answer["task"]["number"].as_str();
        let number = number.and_then(|n| n.strip_prefix("TASK-")?.parse().ok());
        self.log(&format!("task {number:?} is added: {status}"));
        match number {
            Some(number) => self.acknowledged(number),
            None if self.refused_by_disk(status) => self.repeat_later(key, body),
            None => self.violated(format!("a task is refused: {status} {answer}")),
        }
    }

    fn change_provider(&mut self) {
        let draw = self.random.next() % 100;
        let time = self.random.between(1, 45);
        let behaviour = match draw {
            0..=39 => Behaviour::Good,
            40..=54 => Behaviour::Failing,
            55..=64 => Behaviour::RateLimited(u32::try_from(time * 60).unwrap_or(60)),
            65..=74 => Behaviour::Slow(Duration::from_secs(u64::try_from(time).unwrap_or(1))),
            75..=82 => Behaviour::Overstated,
            83..=87 => Behaviour::NoUsage,
            88..=92 => Behaviour::Nonsense,
            _ => Behaviour::Cut,
        };
        self.log(&format!("the provider is {behaviour:?}"));
        self.provider.behave(behaviour);
        self.provider_until = self.elapsed + self.random.between(5 * MINUTE, 60 * MINUTE);
    }

    fn kill_somehow(&mut self) {
        if self.random.happens(50) {
            self.log("the next model call is interrupted by a kill");
            self.kill_next_call = true;
            return;
        }
        let long = self.random.happens(30);
        let away = self.random.between(0, if long { 8 * HOUR } else { MINUTE });
        self.log(&format!("kill for {} s", away / 1000));
        self.kill(away);
    }

    fn set_clock(&mut self) {
        let step = self.random.between(MINUTE, 9 * HOUR);
        let step = match self.random.happens(30) {
            true => -step / 4,
            false => step,
        };
        self.log(&format!("the wall clock goes by {} s", step / 1000));
        self.clock.set_by(Millis(step));
        self.clock_set_at = Some(self.elapsed);
    }

    fn edit_manifest(&mut self) {
        let free = |n: &&&str| !self.household.agents.contains_key(**n);
        let free: Vec<&str> = NAMES.iter().filter(free).copied().collect();
        let names: Vec<String> = self.household.agents.keys().cloned().collect();
        let mut renamed = BTreeMap::new();
        match self.random.next() % 7 {
            0 => {
                if let Some(name) = self.random.pick(&free) {
                    let part = AgentPart {
                        runs: self.random.happens(30).then_some(5),
                        scheduled: self.random.happens(50),
                    };
                    self.household.agents.insert((*name).to_owned(), part);
                }
            }
            1 => {
                if let Some(name) = self.random.pick(&names).filter(|_| names.len() > 1) {
                    self.household.agents.remove(name);
                }
            }
            2 => {
                let (old, new) = (
                    self.random.pick(&names).cloned(),
                    self.random.pick(&free).copied(),
                );
                if let (Some(old), Some(new)) = (old, new)
                    && let Some(part) = self.household.agents.remove(&old)
                {
                    self.household.agents.insert(new.to_owned(), part);
                    renamed.insert(old, new.to_owned());
                }
            }
            3 => self.household.zone = self.random.pick(&ZONES).copied().unwrap_or(ZONES[0]),
            4 => {
                self.household.tokens = self
                    .random
                    .happens(70)
                    .then(|| 2_000 + self.random.next() % 15_000)
            }
            5 => {
                if let Some(part) = self
                    .random
                    .pick(&names)
                    .and_then(|n| self.household.agents.get_mut(n))
                {
                    part.runs = match part.runs {
                        Some(_) => None,
                        None => Some(3),
                    };
                }
            }
            _ => self.household.runs = Some(6 + self.random.next() % 40),
        }
        self.log(&format!(
            "edit: {:?} runs {:?} tokens {:?} {} renamed {renamed:?}",
            self.household.names(),
            self.household.runs,
            self.household.tokens,
            self.household.zone
        ));
        self.apply_renamed(&renamed);
    }

    fn crash_cell(&mut self) {
        let names = self.household.names();
        let name = self.random.pick(&names).cloned().unwrap_or_default();
        if let (Ok(slug), Some(life)) = (name.parse(), &mut self.life) {
            self.backend
                .crash(&CellName::Agent(slug), ExitKind::Code { code: 1 });
            life.house.report_end_of_cell();
            self.jobs.remove(&name);
            self.log(&format!("the cell of {name} ends"));
        }
    }

    fn change_cell(&mut self) {
        let names = self.household.names();
        let name = self.random.pick(&names).cloned().unwrap_or_default();
        let verbs = [
            "stop", "start", "pause", "resume", "start", "resume", "restart",
        ];
        let verb = self.random.pick(&verbs).copied().unwrap_or("start");
        let path = format!("/api/v1/agents/{name}/{verb}");
        let (status, _) = self.operator(&path, None, Some(&json!({})));
        self.log(&format!("{verb} {name}: {status}"));
    }

    fn answer_some(&mut self) {
        if self.random.happens(30) {
            self.answer_too_late();
        }
        for number in self.pending_approvals() {
            let verb = match self.random.next() % 3 {
                0 => "approve",
                1 => "deny",
                _ => continue,
            };
            let path = format!("/api/v1/approvals/APPR-{number}/{verb}");
            let (status, _) = self.operator(&path, None, Some(&json!({})));
            self.log(&format!("{verb} APPR-{number}: {status}"));
        }
        for task in self.open_tasks() {
            if task.state() == TaskState::Blocked && self.random.happens(50) {
                let path = format!("/api/v1/tasks/TASK-{}/unblock", task.number);
                let (status, _) = self.operator(&path, None, Some(&json!({})));
                self.log(&format!("unblock TASK-{}: {status}", task.number));
            }
        }
    }

    /// Decides about an approval that needs no decision any more.
    fn answer_too_late(&mut self) {
        let (_, answer) = self.operator("/api/v1/approvals?all=true&limit=1000", None, None);
        let all = answer["approvals"].as_array().into_iter().flatten();
        let over = all.filter(|a| a["state"] != "pending");
        let over: Vec<String> = over
            .filter_map(|a| a["id"].as_str().map(str::to_owned))
            .collect();
        let Some(id) = self.random.pick(&over) else {
            return;
        };
        let path = format!("/api/v1/approvals/{id}/approve");
        let (status, _) = self.operator(&path, None, Some(&json!({})));
        self.log(&format!("approve {id} too late: {status}"));
        if status < 400 {
            self.violated(format!("{id} was decided twice"));
        }
    }

    /// Approves and unblocks all that waits for a person.
    pub(super) fn answer_everything(&mut self) {
        for number in self.pending_approvals() {
            let path = format!("/api/v1/approvals/APPR-{number}/approve");
            self.operator(&path, None, Some(&json!({})));
        }
        for task in self.open_tasks() {
            if task.state() == TaskState::Blocked {
                let path = format!("/api/v1/tasks/TASK-{}/unblock", task.number);
                self.operator(&path, None, Some(&json!({})));
            }
        }
    }

    fn pending_approvals(&self) -> Vec<u64> {
        let Some((tokio, store)) = self.store() else {
            return Vec::new();
        };
        let rows = tokio
            .block_on(store.approvals(abbey_store::ApprovalFilter::default()))
            .unwrap_or_default();
        rows.iter().map(|r| r.number).collect()
    }

    fn deliver_hook(&mut self) {
        if self.random.happens(30)
            && let Some((signature, body, number)) = self.random.pick(&self.deliveries).cloned()
        {
            // Hours or days after it was delivered first.
            let (status, answer) = self.deliver(&signature, &body);
            self.log(&format!("delivery again: {status}"));
            let same = answer["task"] == format!("TASK-{number}");
            if !same && !self.refused_by_disk(status) {
                self.violated(format!(
                    "a repeated delivery came to something else than TASK-{number}: {status} {answer}"
                ));
            }
        }
        self.names_drawn += 1;
        let issue = json!({ "number": self.names_drawn, "title": "t", "body": "b", "user": { "login": "u" } });
        let body =
            json!({ "action": "opened", "repository": { "full_name": "a/b" }, "issue": issue });
        let signature = Hmac::<Sha256>::new_from_slice(b"simulated").map(|mut mac| {
            mac.update(body.to_string().as_bytes());
            let mut hex = String::new();
            for byte in mac.finalize().into_bytes() {
                let _ = write!(hex, "{byte:02x}");
            }
            hex
        });
        let signature = signature.unwrap_or_default();
        let mut first = None;
        for _ in 0..=self.random.next() % 3 {
            let (status, answer) = self.deliver(&signature, &body);
            let task = answer["task"].as_str().map(str::to_owned);
            self.log(&format!("delivery: {status} {task:?}"));
            let number = task
                .as_deref()
                .and_then(|t| t.strip_prefix("TASK-")?.parse().ok());
            match (number, first) {
                (Some(number), None) => {
                    first = Some(number);
                    self.deliveries
                        .push((signature.clone(), body.clone(), number));
                    self.acknowledged(number);
                }
                (Some(number), Some(first)) if number == first => {}
                _ if self.refused_by_disk(status) => {}
                _ => self.violated(format!(
                    "a delivery came to something else: {status} {answer}"
                )),
            }
        }
    }

    fn start_workflow(&mut self) {
        self.names_drawn += 1;
        let key = format!("workflow {}", self.names_drawn);
        let path = "/api/v1/workflows/release/runs";
        let (status, answer) = self.operator(path, Some(&key), Some(&json!({})));
        self.log(&format!("workflow: {status}"));
        if status >= 300 && !self.refused_by_disk(status) {
            self.violated(format!("a workflow is refused: {answer}"));
        }
    }

    fn change_task(&mut self) {
        let cancel = self.random.happens(50);
        let open = self.open_tasks();
        let ended = self.known.iter();
        let ended = ended.filter(|(_, k)| {
            matches!(
                k.ended,
                Some(TaskState::Failed | TaskState::TimedOut | TaskState::Cancelled)
            )
        });
        let numbers: Vec<u64> = match cancel {
            true => open
                .iter()
                .filter(|t| t.author == Principal::Operator)
                .map(|t| t.number)
                .collect(),
            false => ended.map(|(n, _)| *n).collect(),
        };
        let Some(number) = self.random.pick(&numbers).copied() else {
            return;
        };
        let verb = if cancel { "cancel" } else { "retry" };
        let (status, _) = self.operator(
            &format!("/api/v1/tasks/TASK-{number}/{verb}"),
            None,
            Some(&json!({})),
        );
        self.log(&format!("{verb} TASK-{number}: {status}"));
        if !cancel && status == 200 {
            self.retried(number);
        }
    }

    /// Goes on to shortly before the midnight at which budgets begin anew, with work to be done.
    fn go_to_midnight(&mut self) {
        let Ok(zone) = TimeZone::get(self.household.zone) else {
            return;
        };
        self.add_tasks();
        let now = self.clock.true_now();
        let until = day_bounds(now, &zone).1.since(now).0 - self.random.between(1, 58) * 1000;
        if until <= 0 {
            return;
        }
        self.log("on to midnight");
        self.next_event = i64::MAX;
        self.run_until(self.elapsed + until);
        self.next_event = self.elapsed + self.random.between(5_000, 2 * MINUTE);
        if self.life.is_some() {
            self.add_tasks();
        }
    }
}
