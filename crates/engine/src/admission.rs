//! Admission: from a task's text and the state of the house to an offer or the reasons against.

use crate::matcher::{Candidate, Match, NAMED};
use crate::routing::Suitability;
use crate::task::{Admission, Phase, Wait};
use abbey_model::{BudgetAmounts, Millis, PastWait, Slug, Timestamp, WaitCode, WaitKind};
use serde_json::Value;
use std::collections::BTreeMap;

/// What admission knows of one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentFact {
    /// Slug of the agent.
    pub slug: Slug,
    /// Skills assigned to the agent, in the order of its manifest entry.
    pub skills: Vec<String>,
    /// Whether the agent reports to no other agent.
    pub is_root: bool,
    /// Whether a model is configured for it.
    pub has_model: bool,
    /// Provider of its model, by its name in the manifest.
    pub provider: Option<String>,
    /// Why work that no skill does is for it, where that is clear.
    pub suited: Option<Suitability>,
    /// Most that one of its runs reserves before it starts.
    pub run: BudgetAmounts,
    /// Why it can begin no run now; none when it can.
    pub run_wait: Option<Wait>,
    /// Why it can call no model now; none when it can.
    pub model_wait: Option<Wait>,
}

/// How an agent is to do a task: by a skill's program, or else by a model.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Route {
    /// Skill that matched the task; none when a model is to decide.
    pub skill: Option<String>,
    /// Arguments of the skill, from the text of the task or from its author.
    pub args: BTreeMap<String, Value>,
    /// Score of the match.
    pub score: u32,
    /// Agents that it was offered to last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub offered_to: Vec<Slug>,
    /// Agents that could do it as well, and were not chosen or had to wait.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Slug>,
    /// Why this skill does it, or none; a clause.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Skills that fit it partly, for the model, best first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suggested: Vec<String>,
    /// Why it was given to an agent that is made for it; none if a skill or the author decided, or nothing did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suited: Option<Suitability>,
    /// Waits that are over, oldest first; the newest ones when there were many.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits: Vec<PastWait>,
    /// Instant since which the task is in its state and waits for the same thing; none before the first change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

/// Past waits of a task that are kept.
const WAITS_KEPT: usize = 20;
/// Shortest wait for a task that the run gave which is kept: a worker may ask for the state of one at any time.
const SUBTASK_WAIT_MIN: Millis = Millis::from_secs(1);
/// Longest pause between two waits of a run for the same task that count as one: a worker asks again and again.
const SUBTASK_PAUSE_MAX: Millis = Millis::from_secs(5);

impl Route {
    /// Takes in that a task moves from one phase to the next at `now`: since when it is in its state, and the wait that is
    /// over, if one is. A change that leaves a task waiting for the same thing, as an edit or a renewal does, ends nothing.
    /// `changed` is the instant of the last change, for a task about which no start is recorded yet.
    pub fn record_change(
        &mut self,
        before: &Phase,
        after: &Phase,
        changed: Timestamp,
        now: Timestamp,
    ) {
        let since = self.since.unwrap_or(changed);
        let continues = before.continues_in(after);
        self.since = Some(if continues { since } else { now });
        let waits = matches!(
            before,
            Phase::Parked { .. } | Phase::Blocked { .. } | Phase::AwaitingApproval { .. }
        );
        let over = match before {
            Phase::Running { lease } => lease
                .wait_over(after.lease(), now)
                .filter(|w| w.ended.since(w.since) >= SUBTASK_WAIT_MIN),
            _ if waits && !continues => before.waiting_for().map(|wait| PastWait {
                kind: wait.kind,
                name: wait.name,
                since,
                ended: now,
            }),
            _ => None,
        };
        if let Some(wait) = over {
            self.keep_wait(wait);
        }
    }

    /// Keeps a wait that is over; what follows a wait for the same thing without a pause is part of it.
    fn keep_wait(&mut self, wait: PastWait) {
        let pause = match wait.kind {
            WaitKind::Subtask => SUBTASK_PAUSE_MAX,
            _ => Millis(0),
        };
        let same = |w: &&mut PastWait| {
            w.kind == wait.kind && w.name == wait.name && wait.since <= w.ended + pause
        };
        if let Some(last) = self.waits.last_mut().filter(same) {
            last.ended = wait.ended;
            return;
        }
        if self.waits.len() == WAITS_KEPT {
            self.waits.remove(0);
        }
        self.waits.push(wait);
    }

    /// The route with the agents of a decision, out of those that are eligible.
    fn with_agents<'a>(
        self,
        decision: &Admission,
        eligible: impl Iterator<Item = &'a Slug>,
    ) -> Route {
        let offered_to = match decision {
            Admission::Offer(agents) => agents.clone(),
            Admission::Park(_) => Vec::new(),
        };
        let others = eligible
            .filter(|a| !offered_to.contains(a))
            .cloned()
            .collect();
        Route {
            offered_to,
            others,
            ..self
        }
    }
}

/// Decides which agents are offered a task, or why it must wait, and which skill it runs. `fit` is the match of the
/// task's text against every skill of the house; with an assignee only that agent is considered.
pub fn admit(assignee: Option<&Slug>, fit: &Match, agents: &[AgentFact]) -> (Admission, Route) {
    let pool: Vec<&AgentFact> = match assignee {
        Some(slug) => agents.iter().filter(|a| a.slug == *slug).collect(),
        None => agents.iter().collect(),
    };
    if pool.is_empty() {
        let text = match assignee {
            Some(slug) => format!("this house has no agent `{slug}`"),
            None => "this house has no agents; add one to the manifest".to_owned(),
        };
        return (park(WaitCode::NoCapableAgent, text), Route::default());
    }
    let owned = |c: &&Candidate| pool.iter().any(|a| a.skills.contains(&c.skill));
    let found = match fit {
        Match::One(found) => Some(found),
        // A skill that no agent of the pool has makes nothing ambiguous.
        Match::Ambiguous(found) => {
            match found.iter().filter(owned).collect::<Vec<_>>().as_slice() {
                [one] => Some(*one),
                _ => None,
            }
        }
        Match::None => None,
    };
    if let Some(found) = found {
        // Of several owners, those in whose list the skill stands nearest to the front.
        let place = |a: &&AgentFact| a.skills.iter().position(|s| *s == found.skill);
        let nearest = pool.iter().filter_map(&place).min();
        let owners: Vec<Slug> = pool
            .iter()
            .filter(|a| nearest.is_some() && place(a) == nearest)
            .map(|a| a.slug.clone())
            .collect();
        if !owners.is_empty() {
            let route = Route {
                skill: Some(found.skill.clone()),
                args: found.args.clone(),
                score: found.score,
                ..Route::default()
            };
            let nearest = pool.iter().filter(|a| owners.contains(&a.slug));
            let decision = offer_or_park(nearest.map(|a| (&a.slug, a.run_wait.as_ref())));
            let eligible = pool.iter().filter(|a| place(a).is_some()).map(|a| &a.slug);
            let route = route.with_agents(&decision, eligible);
            return (decision, route);
        }
    }
    if let Some(named) = found.filter(|c| c.score >= NAMED) {
        // Whoever names a skill wants its program: no model guesses instead.
        return (
            park(
                WaitCode::NoCapableAgent,
                skill_without_owner(&named.skill, assignee, agents),
            ),
            Route {
                skill: Some(named.skill.clone()),
                args: named.args.clone(),
                score: named.score,
                ..Route::default()
            },
        );
    }
    // No skill decides, so a model must. An unassigned task goes to the agent that is made for it, or else to the top of the
    // org chart.
    let suited = pool
        .iter()
        .find(|a| assignee.is_none() && a.has_model && a.suited.is_some());
    let thinkers: Vec<&&AgentFact> = pool
        .iter()
        .filter(|a| assignee.is_some() || suited.map_or(a.is_root, |s| s.slug == a.slug))
        .collect();
    let with_model: Vec<&&&AgentFact> = thinkers.iter().filter(|a| a.has_model).collect();
    if with_model.is_empty() {
        let reason = match fit {
            Match::Ambiguous(found) => {
                let names: Vec<&str> = found.iter().map(|c| c.skill.as_str()).collect();
                park(WaitCode::AmbiguousSkill, format!(
                    "the skills {} match about equally well, and no model is configured to decide", names.join(", ")
                ))
            }
            Match::None | Match::One(_) => park(
                WaitCode::NoModel,
                "no skill matches this task, and no model is configured for the agent that would handle it".to_owned(),
            ),
        };
        return (reason, Route::default());
    }
    let able = with_model
        .iter()
        .map(|a| (&a.slug, a.run_wait.as_ref().or(a.model_wait.as_ref())));
    let decision = offer_or_park(able);
    let eligible = with_model.iter().map(|a| &a.slug);
    let route = Route {
        suited: suited.and_then(|a| a.suited.clone()),
        ..Route::default()
    };
    let route = route.with_agents(&decision, eligible);
    (decision, route)
}

/// Why a skill that was named can't run: nobody has it, or not the agent that was named; the latter with those that have it.
pub fn skill_without_owner(skill: &str, assignee: Option<&Slug>, agents: &[AgentFact]) -> String {
    let owners = agents
        .iter()
        .filter(|a| a.skills.iter().any(|s| s == skill));
    let owners: Vec<String> = owners.map(|a| format!("`{}`", a.slug)).collect();
    match (assignee, owners.is_empty()) {
        (_, true) => format!(
            "no agent has the skill `{skill}`; add it to `skills` of an agent in the manifest"
        ),
        (Some(slug), false) => format!(
            "agent `{slug}` does not have the skill `{skill}`; {} has it",
            owners.join(" or ")
        ),
        (None, false) => format!(
            "the skill `{skill}` cannot run; {} has it",
            owners.join(" or ")
        ),
    }
}

/// Offers a task to those agents that need not wait; parks it for all their reasons when every one must.
fn offer_or_park<'a>(agents: impl Iterator<Item = (&'a Slug, Option<&'a Wait>)>) -> Admission {
    let (mut able, mut reasons) = (Vec::new(), Vec::new());
    for (slug, wait) in agents {
        match wait {
            None => able.push(slug.clone()),
            // Agents that share a budget or a provider have one reason.
            Some(wait) if reasons.contains(wait) => {}
            Some(wait) => reasons.push(wait.clone()),
        }
    }
    match able.is_empty() {
        true => Admission::Park(reasons),
        false => Admission::Offer(able),
    }
}

fn park(code: WaitCode, text: String) -> Admission {
    Admission::Park(vec![Wait::without_end(code, text)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(
        slug: &str,
        skills: &[&str],
        is_root: bool,
        has_model: bool,
        left: Option<u64>,
    ) -> AgentFact {
        AgentFact {
            slug: slug.parse().unwrap(),
            skills: skills.iter().map(|s| (*s).to_owned()).collect(),
            is_root,
            has_model,
            provider: None,
            suited: None,
            run: BudgetAmounts::default(),
            run_wait: None,
            model_wait: (left == Some(0))
                .then(|| Wait::without_end(WaitCode::Budget, "the budget is used up".into())),
        }
    }

    fn disk() -> Match {
        Match::One(Candidate {
            skill: "disk-usage".into(),
            score: 900,
            args: BTreeMap::new(),
        })
    }

    #[test]
    fn a_skill_that_nobody_has_makes_nothing_ambiguous() {
        let two = |a: &str, b: &str| {
            let candidate = |skill: &str| Candidate {
                skill: skill.to_owned(),
                score: 900,
                args: BTreeMap::new(),
            };
            Match::Ambiguous(vec![candidate(a), candidate(b)])
        };
        let agents = [agent("ops", &["disk-usage"], true, false, None)];
        let (admission, route) = admit(None, &two("report", "disk-usage"), &agents);
        assert!(matches!(admission, Admission::Offer(_)));
        assert_eq!(route.skill.as_deref(), Some("disk-usage"));
        let both = [agent("ops", &["disk-usage", "report"], true, false, None)];
        let (admission, _) = admit(None, &two("report", "disk-usage"), &both);
        assert!(matches!(admission, Admission::Park(_)));
    }

    #[test]
    fn a_skill_goes_to_its_owner_even_without_a_model_or_money() {
        let agents = [
            agent("abbot", &[], true, true, None),
            agent("sys", &["disk-usage"], false, false, Some(0)),
        ];
        let (admission, route) = admit(None, &disk(), &agents);
        assert_eq!(admission, Admission::Offer(vec!["sys".parse().unwrap()]));
        assert_eq!(route.skill.as_deref(), Some("disk-usage"));
    }

    #[test]
    fn of_several_owners_the_nearest_is_chosen_and_equals_share_the_offer() {
        let owner = |slug, skills: &[&str]| agent(slug, skills, false, false, None);
        let agents = [
            owner("db", &["backup", "disk-usage"]),
            owner("sys", &["disk-usage"]),
            owner("it", &["disk-usage", "x"]),
        ];
        let (admission, _) = admit(None, &disk(), &agents);
        assert_eq!(
            admission,
            Admission::Offer(vec!["sys".parse().unwrap(), "it".parse().unwrap()])
        );
        let db: Slug = "db".parse().unwrap();
        assert_eq!(
            admit(Some(&db), &disk(), &agents).0,
            Admission::Offer(vec![db])
        );
    }

    #[test]
    fn a_skill_that_was_named_never_reaches_a_model() {
        let agents = [
            agent("abbot", &[], true, true, None),
            agent("sys", &["disk-usage"], false, true, None),
        ];
        let named = |skill: &str| {
            Match::One(Candidate {
                skill: skill.into(),
                score: NAMED,
                args: BTreeMap::new(),
            })
        };
        let text = |assignee: Option<&Slug>, skill: &str| match admit(
            assignee,
            &named(skill),
            &agents,
        )
        .0
        {
            Admission::Park(reasons) => reasons[0].text.clone(),
            Admission::Offer(to) => format!("{to:?}"),
        };
        assert!(text(None, "git-mirror").contains("no agent has the skill `git-mirror`"));
        let abbot: Slug = "abbot".parse().unwrap();
        assert!(text(Some(&abbot), "disk-usage").contains("`sys` has it"));
        assert!(text(None, "disk-usage").contains("sys"));
    }

    #[test]
    fn thinking_goes_to_who_is_made_for_it() {
        let suited = Suitability {
            agent: "cad".parse().unwrap(),
            score: 30,
            words: vec!["mesh".into()],
            enough: true,
        };
        let mut agents = [
            agent("abbot", &[], true, true, None),
            agent("cad", &[], false, true, None),
        ];
        agents[1].suited = Some(suited.clone());
        let (admission, route) = admit(None, &Match::None, &agents);
        assert_eq!(admission, Admission::Offer(vec!["cad".parse().unwrap()]));
        assert_eq!(route.suited, Some(suited));
        // Its author decides, and so does a model that is missing.
        let abbot: Slug = "abbot".parse().unwrap();
        assert_eq!(
            admit(Some(&abbot), &Match::None, &agents).0,
            Admission::Offer(vec![abbot.clone()])
        );
        agents[1].has_model = false;
        let (admission, route) = admit(None, &Match::None, &agents);
        assert_eq!(
            (admission, route.suited),
            (Admission::Offer(vec![abbot]), None)
        );
    }

    #[test]
    fn thinking_goes_to_the_top_and_needs_a_model_and_a_budget() {
        let agents = [
            agent("abbot", &[], true, true, None),
            agent("sys", &[], false, true, None),
        ];
        let (admission, route) = admit(None, &Match::None, &agents);
        assert_eq!(admission, Admission::Offer(vec!["abbot".parse().unwrap()]));
        assert_eq!(route.skill, None);
        let code = |agents: &[AgentFact]| match admit(None, &Match::None, agents).0 {
            Admission::Park(reasons) => reasons[0].code,
            Admission::Offer(_) => panic!("expected to be parked"),
        };
        assert_eq!(
            code(&[agent("abbot", &[], true, false, None)]),
            WaitCode::NoModel
        );
        assert_eq!(
            code(&[agent("abbot", &[], true, true, Some(0))]),
            WaitCode::Budget
        );
        assert_eq!(code(&[]), WaitCode::NoCapableAgent);
    }
}
