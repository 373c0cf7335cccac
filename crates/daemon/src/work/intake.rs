//! Input of admission: the skills that match a task's text, and the agents of the plan.

use crate::core::error::Result;
use crate::work::evidence::exclude_reviewers;
use crate::work::state::WorkState;
use abbey_engine::admission::AgentFact;
use abbey_engine::matcher::{Candidate, Match, NAMED};
use abbey_model::{BudgetAmounts, Millis, Principal, Priority, Slug};
use abbey_plan::Agent;
use abbey_store::{Intake, NewTask, TaskRow};
use serde_json::Value;
use std::collections::BTreeMap;

impl WorkState {
    /// Admission input for a task with this text: matching skills and all agents.
    pub(crate) fn intake_for_text(&self, text: &str) -> Intake {
        self.route_text(text).intake
    }

    /// Admission input for a task whose author named a skill and its arguments.
    pub(crate) fn intake_for_skill(&self, skill: &str, args: BTreeMap<String, Value>) -> Intake {
        let fit = Match::One(Candidate {
            skill: skill.to_owned(),
            score: NAMED,
            args: self.skills.current().convert_arguments(skill, args),
        });
        Intake {
            fit,
            agents: self.agent_facts(),
            reason: format!("its author named the skill `{skill}`"),
            suggested: Vec::new(),
        }
    }

    /// Admission input for an existing task that is admitted again. A task that was accepted as a run of a skill stays
    /// one, whatever its text matches now: no model does what a program was to do, perhaps with a person's approval.
    pub(crate) fn intake_for_task(&self, task: &TaskRow) -> Intake {
        let mut intake = self.intake_for_route(task);
        if let Some(link) = task.link.as_ref().filter(|_| !task.pinned) {
            exclude_reviewers(&mut intake, &link.evidence);
        }
        intake
    }

    /// As [`WorkState::intake_for_task`], with agents that review the result.
    fn intake_for_route(&self, task: &TaskRow) -> Intake {
        let Some(skill) = &task.route.skill else {
            return self.intake_for_text(&task.text);
        };
        let kept = || self.intake_for_skill(skill, task.route.args.clone());
        if task.route.score == NAMED {
            let reason = Some(task.route.reason.clone()).filter(|r| !r.is_empty());
            let kept = kept();
            return Intake {
                reason: reason.unwrap_or_else(|| kept.reason.clone()),
                ..kept
            };
        }
        let fresh = self.intake_for_text(&task.text);
        let assignee = task.assignee.as_ref().filter(|_| task.pinned);
        let mut agents = fresh.agents.iter();
        let has_owner = agents.any(|agent| {
            assignee.is_none_or(|to| *to == agent.slug) && agent.skills.contains(skill)
        });
        match &fresh.fit {
            Match::One(found) if found.skill == *skill && has_owner => fresh,
            // The text is not as clear as it was, and the skill is there.
            _ if has_owner => Intake {
                fit: Match::One(Candidate {
                    skill: skill.clone(),
                    score: task.route.score,
                    args: task.route.args.clone(),
                }),
                reason: task.route.reason.clone(),
                ..fresh
            },
            _ => Intake {
                reason: format!("it was accepted as a run of the skill `{skill}`"),
                ..kept()
            },
        }
    }

    /// Admission input for an existing task that another agent is to do: a model may do it, unless its author named the
    /// skill.
    pub(crate) fn intake_for_new_agent(&self, task: &TaskRow) -> Intake {
        match &task.route.skill {
            Some(skill) if task.route.score == NAMED => {
                self.intake_for_skill(skill, task.route.args.clone())
            }
            _ => self.intake_for_text(&task.text),
        }
    }

    /// A new task that the control plane adds for an agent: normal priority, no budget of its own.
    pub(crate) fn house_task(&self, agent: &Slug, text: String) -> NewTask {
        NewTask {
            author: Principal::House,
            assignee: Some(agent.clone()),
            priority: Priority::P2,
            budget: BudgetAmounts::default(),
            policy: None,
            idempotency: None,
            intake: self.intake_for_text(&text),
            delegated: None,
            text,
        }
    }

    /// What admission knows of each agent.
    pub(crate) fn agent_facts(&self) -> Vec<AgentFact> {
        let Some(current) = self.core.plan.current() else {
            return Vec::new();
        };
        let skills = self.skills.current();
        // A skill that is not there, or not valid, is nobody's.
        let has = |name: &&String| skills.all.contains_key(*name);
        let fact = |agent: &Agent| AgentFact {
            slug: agent.slug.clone(),
            skills: agent.skills.iter().filter(has).cloned().collect(),
            suited: None,
            is_root: agent.reports_to.is_none(),
            // An agent that works by files brings its own model.
            has_model: agent.model.is_some() || agent.files.is_some(),
            provider: agent.model.as_ref().map(|m| m.provider.to_string()),
            run: BudgetAmounts {
                runs: 1,
                seconds: u64::try_from(Millis(agent.tools.wall_ms_max).secs_ceil()).unwrap_or(0),
                ..BudgetAmounts::default()
            },
            run_wait: None,
            model_wait: None,
        };
        current.house.agents.values().map(fact).collect()
    }

    /// Admits a waiting task again; a task that was claimed or cancelled meanwhile is left alone.
    pub(crate) async fn readmit_task(&self, task: &TaskRow) -> Result<()> {
        use abbey_engine::task::Refusal;
        let id = abbey_model::TaskRef::Id(task.id);
        match self
            .core
            .store
            .admit_task(id, self.intake_for_task(task))
            .await
        {
            Ok(_) | Err(abbey_store::Error::Task(Refusal::Illegal { .. })) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Admits every waiting task again, after a change of agents, budgets or skills.
    pub(crate) async fn readmit_waiting_tasks(&self) -> Result<()> {
        use abbey_model::TaskState;
        let states = vec![TaskState::Parked, TaskState::Pending, TaskState::Ready];
        let filter = abbey_store::TaskFilter {
            states,
            limit: 10_000,
            ..Default::default()
        };
        for task in self.core.store.tasks(filter).await? {
            self.readmit_task(&task).await?;
        }
        Ok(())
    }
}
