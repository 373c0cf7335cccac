//! Which agent a task goes to that no skill does: its words are compared with what the agents are for (S4-24).
//!
//! A pure function of the text and the agents' descriptions. Only a clear answer counts; a tie, or a text that fits nobody,
//! is for the top of the organization.

use crate::terms::{stems_of, terms_of};
use abbey_model::Slug;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Points of a word of the agent's role.
const ROLE: u32 = 10;
/// Points of a word of its capabilities: its template and its skills.
const CAPABILITY: u32 = 6;
/// Points of a word of its charter.
const CHARTER: u32 = 1;
/// Points by which the best agent must lead.
pub const LEAD: u32 = 4;

/// Texts that say what an agent is for.
#[derive(Debug, Clone)]
pub struct Profile<'t> {
    /// The agent.
    pub agent: &'t Slug,
    /// Its role.
    pub role: &'t str,
    /// Its template and its skills.
    pub capabilities: String,
    /// Its charter.
    pub charter: &'t str,
}

/// Agents that are described by the same texts, with these as stems.
#[derive(Debug, Clone)]
struct Group {
    agents: Vec<Slug>,
    role: Arc<BTreeSet<String>>,
    capabilities: Arc<BTreeSet<String>>,
    charter: Arc<BTreeSet<String>>,
}

/// The agents that a task can go to, with what they are for.
#[derive(Debug, Clone, Default)]
pub struct Staff {
    groups: Vec<Group>,
    /// Number of agents.
    size: usize,
    /// Agents whose role has a word, by its stem.
    roles: BTreeMap<String, usize>,
    /// Agents whose role or capabilities have a word, by its stem.
    declared: BTreeMap<String, usize>,
}

impl Staff {
    /// The staff with these profiles. Many agents of a house have a template's texts: each text is read once.
    pub fn new<'t>(profiles: impl Iterator<Item = Profile<'t>>) -> Staff {
        let mut grouped: BTreeMap<(String, &str, &str), Vec<Slug>> = BTreeMap::new();
        for profile in profiles {
            let texts = (profile.capabilities, profile.role, profile.charter);
            grouped
                .entry(texts)
                .or_default()
                .push(profile.agent.clone());
        }
        let mut staff = Staff::default();
        let mut stems: BTreeMap<&str, Arc<BTreeSet<String>>> = BTreeMap::new();
        let mut capable: BTreeMap<&str, usize> = BTreeMap::new();
        for ((capabilities, role, charter), agents) in &grouped {
            let [role, of_skills, charter] = [role, capabilities.as_str(), charter].map(|text| {
                let known = stems.entry(text);
                Arc::clone(known.or_insert_with(|| Arc::new(stems_of(text))))
            });
            let count = agents.len();
            staff.size += count;
            *capable.entry(capabilities).or_insert(0) += count;
            for stem in role.iter() {
                *staff.roles.entry(stem.clone()).or_insert(0) += count;
            }
            for stem in role.difference(&of_skills) {
                *staff.declared.entry(stem.clone()).or_insert(0) += count;
            }
            staff.groups.push(Group {
                agents: agents.clone(),
                role,
                capabilities: of_skills,
                charter,
            });
        }
        for (text, count) in capable {
            for stem in stems.get(text).into_iter().flat_map(|s| s.iter()) {
                *staff.declared.entry(stem.clone()).or_insert(0) += count;
            }
        }
        staff
    }

    /// Whether most agents have a word, so that it tells none from another.
    fn is_common(&self, counts: &BTreeMap<String, usize>, stem: &str) -> bool {
        let having = counts.get(stem).copied().unwrap_or(0);
        having >= 3 && having * 2 > self.size
    }

    /// Points that a word gives the agents of a group, and whether it counts as evidence by itself: a charter alone decides
    /// nothing. What an agent's role says counts although most others have it as one word of their skills.
    fn points(&self, group: &Group, stem: &str) -> (u32, bool) {
        if group.role.contains(stem) && !self.is_common(&self.roles, stem) {
            (ROLE, true)
        } else if group.capabilities.contains(stem) && !self.is_common(&self.declared, stem) {
            (CAPABILITY, true)
        } else if group.charter.contains(stem) {
            (CHARTER, false)
        } else {
            (0, false)
        }
    }
}

/// How well a task fits an agent.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Suitability {
    /// The agent.
    pub agent: Slug,
    /// Points; more is better.
    pub score: u32,
    /// Words of the task that its role, template or skills have.
    pub words: Vec<String>,
    /// Whether these are enough of the task to give it to the agent.
    pub enough: bool,
}

/// How well a text fits each agent, best first, ties by name; agents that it fits not at all are left out.
pub fn rank_agents(text: &str, staff: &Staff) -> Vec<Suitability> {
    let terms = terms_of(text);
    let mut ranked: Vec<Suitability> = Vec::new();
    for group in &staff.groups {
        let (mut score, mut words) = (0, Vec::new());
        let mut of_role = 0;
        for term in &terms {
            let (points, is_evidence) = staff.points(group, &term.stem);
            score += points;
            if is_evidence {
                words.push(term.word.clone());
                of_role += usize::from(points == ROLE);
            }
        }
        // One word is enough only of a role and of a short text; words of skills alone must be a good part of the text.
        let (found, of) = (words.len(), terms.len());
        let enough = match of_role {
            0 => found >= 2 && found * 3 >= of,
            _ => found >= 2 || found * 2 >= of,
        };
        let fitting = group.agents.iter().filter(|_| score > 0);
        ranked.extend(fitting.map(|agent| Suitability {
            agent: agent.clone(),
            score,
            words: words.clone(),
            enough,
        }));
    }
    ranked.sort_by(|a, b| b.score.cmp(&a.score).then_with(|| a.agent.cmp(&b.agent)));
    ranked
}

/// The agent that a task is for, of a ranking; none if that is not clear.
pub fn clear_choice(ranked: &[Suitability]) -> Option<&Suitability> {
    let best = ranked.first().filter(|b| b.enough)?;
    let next = ranked.get(1).map_or(0, |n| n.score);
    (best.score >= next + LEAD).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn staff(profiles: &[(&str, &str, &str)]) -> Staff {
        let named = profiles.iter();
        let named: Vec<(Slug, &str, &str)> = named
            .map(|(agent, role, capabilities)| (agent.parse().unwrap(), *role, *capabilities))
            .collect();
        Staff::new(named.iter().map(|(agent, role, capabilities)| Profile {
            agent,
            role,
            capabilities: (*capabilities).to_owned(),
            charter: "You do not claim what you have not done.",
        }))
    }

    fn house() -> Staff {
        staff(&[
            (
                "boss",
                "orchestrator",
                "Breaks work down, hands it on. report log-search Searches the logs of every agent.",
            ),
            (
                "finder",
                "research: searches the web and brings sources",
                "",
            ),
            ("meshes", "CAD and meshing in NX", ""),
            (
                "checker",
                "audits reports and checks claims",
                "log-search Searches the logs of every agent.",
            ),
        ])
    }

    fn chosen(text: &str) -> Option<String> {
        let ranked = rank_agents(text, &house());
        clear_choice(&ranked).map(|s| s.agent.to_string())
    }

    #[test]
    fn work_goes_to_who_is_made_for_it() {
        for (text, agent) in [
            ("Mesh the bracket in NX CAD", Some("meshes")),
            (
                "Search the web for suppliers of brass bells",
                Some("finder"),
            ),
            ("Audit the report on the bell tower", Some("checker")),
            ("Compose a riddle", None),
            ("Write a poem about logs", None),
            ("Audit this", Some("checker")),
            ("", None),
            (
                "Write a poem about the sea in winter and the search of a sailor",
                None,
            ),
        ] {
            assert_eq!(chosen(text).as_deref(), agent, "{text}");
        }
    }

    #[test]
    fn twins_are_a_tie() {
        let twins = staff(&[("a", "audits reports", ""), ("b", "audits reports", "")]);
        let ranked = rank_agents("Audit the reports", &twins);
        assert_eq!(ranked.len(), 2);
        assert_eq!(clear_choice(&ranked), None);
    }

    #[test]
    fn agents_with_equal_texts_are_read_once_and_each_counted() {
        let many: Vec<String> = (0..2000).map(|n| format!("w{n}")).collect();
        let mut all: Vec<(&str, &str, &str)> = many
            .iter()
            .map(|name| {
                (
                    name.as_str(),
                    "worker of bells",
                    "log-search Searches logs.",
                )
            })
            .collect();
        all.push(("smith", "smith of nails", "log-search Searches logs."));
        let staff = staff(&all);
        assert_eq!((staff.groups.len(), staff.size), (2, 2001));
        assert!(Arc::ptr_eq(
            &staff.groups[0].charter,
            &staff.groups[1].charter
        ));
        // What nearly all have tells nobody from another.
        let ranked = rank_agents("Search the nails", &staff);
        assert_eq!(clear_choice(&ranked).unwrap().agent.as_str(), "smith");
        assert_eq!(ranked[0].words, ["nails"]);
    }

    proptest! {
        #[test]
        fn any_text_is_ranked_the_same_way_twice(text in any::<String>()) {
            let house = house();
            let ranked = rank_agents(&text, &house);
            prop_assert_eq!(&ranked, &rank_agents(&text, &house));
            prop_assert!(ranked.len() <= house.size);
        }
    }
}
