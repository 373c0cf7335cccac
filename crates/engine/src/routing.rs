//! Which agent a task goes to that no skill does: its words are compared with what the agents are for (S4-24).
//!
//! A pure function of the text and the agents' descriptions. Only a clear answer counts; a tie, or a text that fits nobody,
//! is for the top of the organization.

use crate::terms::{stems_of, terms_of};
use abbey_model::Slug;
use std::collections::{BTreeMap, BTreeSet};

/// Points of a word of the agent's role.
const ROLE: u32 = 10;
/// Points of a word of its capabilities: its template and its skills.
const CAPABILITY: u32 = 6;
/// Points of a word of its charter.
const CHARTER: u32 = 1;
/// Points by which the best agent must lead.
pub const LEAD: u32 = 4;

/// What an agent is for, as stems.
#[derive(Debug, Clone)]
pub struct Profile {
    /// The agent.
    pub agent: Slug,
    role: BTreeSet<String>,
    capabilities: BTreeSet<String>,
    charter: BTreeSet<String>,
}

impl Profile {
    /// Profile of an agent from the texts that describe it.
    pub fn new(agent: Slug, role: &str, capabilities: &str, charter: &str) -> Profile {
        Profile {
            agent,
            role: stems_of(role),
            capabilities: stems_of(capabilities),
            charter: stems_of(charter),
        }
    }
}

/// The agents that a task can go to, with what they are for.
#[derive(Debug, Clone, Default)]
pub struct Staff {
    profiles: Vec<Profile>,
    /// Agents whose role has a word, by its stem.
    roles: BTreeMap<String, usize>,
    /// Agents whose role or capabilities have a word, by its stem.
    declared: BTreeMap<String, usize>,
}

impl Staff {
    /// The staff with these profiles.
    pub fn new(profiles: Vec<Profile>) -> Staff {
        let mut staff = Staff::default();
        for profile in &profiles {
            for stem in &profile.role {
                *staff.roles.entry(stem.clone()).or_insert(0) += 1;
            }
            for stem in profile.role.union(&profile.capabilities) {
                *staff.declared.entry(stem.clone()).or_insert(0) += 1;
            }
        }
        staff.profiles = profiles;
        staff
    }

    /// Whether most agents have a word, so that it tells none from another.
    fn is_common(&self, counts: &BTreeMap<String, usize>, stem: &str) -> bool {
        let having = counts.get(stem).copied().unwrap_or(0);
        having >= 3 && having * 2 > self.profiles.len()
    }

    /// Points that a word gives an agent, and whether it counts as evidence by itself: a charter alone decides nothing. What
    /// an agent's role says counts although most others have it as one word of their skills.
    fn points(&self, profile: &Profile, stem: &str) -> (u32, bool) {
        if profile.role.contains(stem) && !self.is_common(&self.roles, stem) {
            (ROLE, true)
        } else if profile.capabilities.contains(stem) && !self.is_common(&self.declared, stem) {
            (CAPABILITY, true)
        } else if profile.charter.contains(stem) {
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
    for profile in &staff.profiles {
        let mut one = Suitability {
            agent: profile.agent.clone(),
            score: 0,
            words: Vec::new(),
            enough: false,
        };
        let mut of_role = 0;
        for term in &terms {
            let (points, is_evidence) = staff.points(profile, &term.stem);
            one.score += points;
            if is_evidence {
                one.words.push(term.word.clone());
                of_role += usize::from(points == ROLE);
            }
        }
        // One word is enough only of a role and of a short text; words of skills alone must be a good part of the text.
        let (found, of) = (one.words.len(), terms.len());
        one.enough = match of_role {
            0 => found >= 2 && found * 3 >= of,
            _ => found >= 2 || found * 2 >= of,
        };
        if one.score > 0 {
            ranked.push(one);
        }
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

    fn profile(agent: &str, role: &str, capabilities: &str) -> Profile {
        Profile::new(
            agent.parse().unwrap(),
            role,
            capabilities,
            "You do not claim what you have not done.",
        )
    }

    fn house() -> Staff {
        Staff::new(vec![
            profile(
                "boss",
                "orchestrator",
                "Breaks work down, hands it on. report log-search Searches the logs of every agent.",
            ),
            profile(
                "finder",
                "research: searches the web and brings sources",
                "",
            ),
            profile("meshes", "CAD and meshing in NX", ""),
            profile(
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
        let twins = [
            profile("a", "audits reports", ""),
            profile("b", "audits reports", ""),
        ];
        let ranked = rank_agents("Audit the reports", &Staff::new(twins.to_vec()));
        assert_eq!(ranked.len(), 2);
        assert_eq!(clear_choice(&ranked), None);
    }

    proptest! {
        #[test]
        fn any_text_is_ranked_the_same_way_twice(text in any::<String>()) {
            let house = house();
            let ranked = rank_agents(&text, &house);
            prop_assert_eq!(&ranked, &rank_agents(&text, &house));
            prop_assert!(ranked.len() <= house.profiles.len());
        }
    }
}
