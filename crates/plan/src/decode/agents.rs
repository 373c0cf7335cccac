//! Decodes the agents: values from their entries, `defaults` and templates, checked, with their shares of the budget.

use super::decoder::{Decoder, slug, suggest_similar, text};
use crate::agent_values::AgentBudget;
use crate::house::Provider;
use crate::keys::{Agent, Budget};
use crate::node::{Entry, Node};
use crate::origin::Origin;
use crate::schedule::{Schedule, ScheduleAction};
use crate::settings::{self, Given, Layer};
use crate::templates;
use abbey_model::{Bytes, Slug, ToolPolicy};
use serde_json::json;
use std::collections::BTreeMap;

/// Smallest drive that a file system fits on.
const DRIVE_MIN: Bytes = Bytes(16 << 20);
/// Shortest distance between two wakes, in milliseconds.
const WAKE_EVERY_MIN: i64 = 30_000;

/// Skills by name, and the versions that stand behind an `@`.
fn pinned(skills: Vec<String>) -> (Vec<String>, BTreeMap<String, String>) {
    let mut pins = BTreeMap::new();
    let name = |skill: String| match skill.split_once('@') {
        Some((name, version)) => {
            pins.insert(name.to_owned(), version.to_owned());
            name.to_owned()
        }
        None => skill,
    };
    (skills.into_iter().map(name).collect(), pins)
}

/// Skills of an agent, followed by those that its schedules name.
fn with_scheduled(mut skills: Vec<String>, schedules: &BTreeMap<Slug, Schedule>) -> Vec<String> {
    for schedule in schedules.values() {
        if let ScheduleAction::Skill(skill, _) = &schedule.action
            && !skills.contains(skill)
        {
            skills.push(skill.clone());
        }
    }
    skills
}

impl Decoder<'_> {
    /// Decodes the agents of the manifest and reports mistakes in each.
    pub(crate) fn decode_agents(
        &mut self,
        house: &Budget,
        providers: &BTreeMap<Slug, Provider>,
    ) -> BTreeMap<Slug, Agent> {
        let mut agents = BTreeMap::new();
        let entries = self.root.get("agents").map_or(&[][..], Node::entries);
        let services = self.root.get("services").map_or(&[][..], Node::entries);
        for entry in entries {
            let Ok(slug) = entry.key.parse::<Slug>() else {
                continue;
            };
            if let Some(service) = services.iter().find(|s| s.key == entry.key) {
                self.mistakes.push(entry.place.mistake(format!(
                    "`{slug}` is already the name of a service, on line {}",
                    service.place.line
                )));
            }
            if let Some(agent) = self.agent(&slug, entry, house, providers) {
                agents.insert(slug, agent);
            }
        }
        agents
    }

    fn agent(
        &mut self,
        slug: &Slug,
        entry: &Entry,
        house: &Budget,
        providers: &BTreeMap<Slug, Provider>,
    ) -> Option<Agent> {
        let own = Layer {
            node: &entry.value,
            defaults: false,
        };
        let defaults = self.root.get("defaults").map(|node| Layer {
            node,
            defaults: true,
        });
        let layers: Vec<Layer<'_>> = std::iter::once(own).chain(defaults).collect();
        let given = self.given(slug, entry);
        let (value, settings) = settings::resolve(Agent::KEYS.iter(), &layers, given);
        let line = entry.place.line;
        let mut agent = Agent::read(&value, slug.clone(), line, settings, BTreeMap::new())?;
        agent.schedules = self.decode_schedules(entry.value.get("schedules"));
        self.add_skills(&mut agent, entry);
        let (skills, pins) = pinned(std::mem::take(&mut agent.skills));
        agent.skills = with_scheduled(skills, &agent.schedules);
        agent.pins = pins;
        self.check_agent(&agent, entry, providers);
        self.share(&mut agent, entry, house);
        Some(agent)
    }

    /// Replaces `+NAME` in the list of skills by the skills of the template, followed by those that are named.
    fn add_skills(&mut self, agent: &mut Agent, entry: &Entry) {
        let is_added = |skill: &String| skill.starts_with('+');
        if !agent.skills.iter().any(is_added) {
            return;
        }
        if !agent.skills.iter().all(is_added) {
            self.report_mistake(
                entry.value.get("skills"),
                "a list of skills adds to the template's (`+NAME` for every entry) or replaces it (no `+`), not both",
            );
            return;
        }
        let template = text(Some(&entry.value), "template").and_then(templates::find);
        let of_template = template.map_or(&[][..], |t| t.skills);
        let mut skills: Vec<String> = of_template.iter().map(|s| (*s).to_owned()).collect();
        for added in agent.skills.drain(..) {
            let added = added.trim_start_matches('+').to_owned();
            let name = added.split('@').next().unwrap_or_default();
            // `+NAME@VERSION` pins a skill that the template has already.
            match skills.iter_mut().find(|s| *s == name) {
                Some(known) => *known = added,
                None => skills.push(added),
            }
        }
        agent.settings.set("skills", json!(skills), None);
        agent.skills = skills;
    }

    /// Values of an agent that are neither written nor the same for all: by its slug and its template.
    fn given(&mut self, slug: &Slug, entry: &Entry) -> Given {
        let name = text(Some(&entry.value), "template");
        let stock = name.and_then(templates::find);
        if let (Some(name), None) = (name, stock) {
            let known = suggest_similar(name, templates::ALL.iter().map(|t| t.name));
            self.report_mistake(
                entry.value.get("template"),
                format!("no built-in template `{name}`{known}; `abbey template list` shows all. A manifest means the same in every house, so it cannot name a saved one: remove this entry, and `abbey agent new {slug} --template {name}` writes out a saved one's"),
            );
        }
        let origin = match stock {
            Some(template) => Origin::Template(template.name.to_owned()),
            None => Origin::BuiltIn,
        };
        let role = stock.map_or("agent", |t| t.role);
        let charter = stock.map_or("worker", |t| t.name);
        let skills = stock.map_or(&[][..], |t| t.skills);
        let policy = stock.map_or_else(ToolPolicy::default, |t| t.tool_policy());
        Given::from([
            ("name", (slug.as_str().into(), Origin::BuiltIn)),
            ("role", (role.into(), origin.clone())),
            ("charter", (json!({ "stock": charter }), origin.clone())),
            ("skills", (json!(skills), origin.clone())),
            (
                "tools.allow",
                (settings::canonical_tools(policy.tools), origin),
            ),
        ])
    }

    /// What the shapes of the keys do not say.
    fn check_agent(&mut self, agent: &Agent, entry: &Entry, providers: &BTreeMap<Slug, Provider>) {
        // Where a key was written: by the agent or under `defaults`.
        let defaults = self.root.get("defaults");
        let written = |key: &str| entry.value.get(key).or_else(|| defaults?.get(key));
        if let Some(model) = &agent.model
            && !providers.contains_key(&model.provider)
        {
            let provider = &model.provider;
            let known = suggest_similar(provider.as_str(), providers.keys().map(Slug::as_str));
            self.report_mistake(
                written("model"),
                format!("no provider `{provider}` is declared{known}"),
            );
        }
        for path in &agent.tools.paths {
            if path.starts_with('/') || path.split('/').any(|part| part == "..") {
                self.mistakes.push(entry.place.mistake(format!(
                    "`tools.paths`: `{path}` must stay inside the workspace"
                )));
            }
        }
        let wake = entry.value.get("wake");
        if let Some(times) = agent.wake {
            if times.every.0 < WAKE_EVERY_MIN {
                self.report_mistake(wake, "`wake.every` must be at least 30s");
            }
            if times.jitter > times.every {
                self.report_mistake(wake, "`wake.jitter` must be at most `wake.every`");
            }
        }
        let drives = written("drives");
        for (key, size) in [
            ("state", agent.drives.state),
            ("workspace", agent.drives.workspace),
            ("scratch", agent.drives.scratch),
        ] {
            if size < DRIVE_MIN {
                self.report_mistake(
                    drives.and_then(|d| d.get(key)),
                    format!("`drives.{key}` must be at least 16MiB"),
                );
            }
        }
    }

    /// Works out an agent's share of the house's budget. Both count: the share of the house's limit and, where
    /// given, the agent's own.
    fn share(&mut self, agent: &mut Agent, entry: &Entry, house: &Budget) {
        let Some(percent) = agent.daily.share else {
            return;
        };
        let house = house.limits();
        if house == AgentBudget::default() {
            self.report_mistake(
                entry.value.get("budget"),
                format!(
                    "agent `{}` has a share of a budget that the house does not set",
                    agent.slug
                ),
            );
        }
        let daily = &mut agent.daily;
        let limits = [
            (
                "budget.tokens_per_day",
                house.tokens,
                &mut daily.tokens,
                1.0,
            ),
            (
                "budget.usd_per_day",
                house.nano_usd,
                &mut daily.nano_usd,
                1e9,
            ),
            ("budget.runs_per_day", house.runs, &mut daily.runs, 1.0),
            (
                "budget.minutes_per_day",
                house.seconds,
                &mut daily.seconds,
                60.0,
            ),
        ];
        for (path, whole, own, unit) in limits {
            let Some(whole) = whole else { continue };
            let share = u128::from(whole) * u128::from(percent) / 100;
            let share = u64::try_from(share).unwrap_or(u64::MAX);
            if own.is_none_or(|own| share < own) {
                *own = Some(share);
                let value = match share as f64 / unit {
                    _ if unit == 1.0 => json!(share),
                    whole if whole.fract() == 0.0 => json!(whole as u64),
                    part => json!(part),
                };
                agent.settings.set(path, value, Some(Origin::Share));
            }
        }
    }

    /// Reports each `reports_to` that names no agent or is part of a circle.
    pub(crate) fn check_org_chart(&mut self, agents: &BTreeMap<Slug, Agent>) {
        let entries = self.root.get("agents").map_or(&[][..], Node::entries);
        for entry in entries {
            let Some(above) = slug(Some(&entry.value), "reports_to") else {
                continue;
            };
            let place = entry
                .value
                .get("reports_to")
                .map_or(entry.place, |n| n.place);
            if !agents.contains_key(&above) {
                let known = suggest_similar(above.as_str(), agents.keys().map(Slug::as_str));
                self.mistakes.push(place.mistake(format!(
                    "`agents.{}.reports_to`: no agent `{above}`{known}",
                    entry.key
                )));
                continue;
            }
            let mut seen = vec![entry.key.clone()];
            let mut at = Some(above);
            while let Some(slug) = at {
                if seen.iter().any(|s| s == slug.as_str()) {
                    seen.push(slug.to_string());
                    self.mistakes.push(place.mistake(format!(
                        "`reports_to` goes in a circle: {}",
                        seen.join(" → ")
                    )));
                    break;
                }
                seen.push(slug.to_string());
                at = agents.get(&slug).and_then(|a| a.reports_to.clone());
            }
        }
    }

    /// Reports a mistake when the agents' shares of the house's budget add up to more than 100 %.
    pub(crate) fn check_shares(&mut self, agents: &BTreeMap<Slug, Agent>) {
        let sum: u32 = agents
            .values()
            .filter_map(|a| a.daily.share)
            .map(u32::from)
            .sum();
        if sum > 100 {
            self.report_mistake(
                self.root.get("agents"),
                format!(
                    "the shares of the agents add up to {sum}%, which is more than the house has"
                ),
            );
        }
    }
}
