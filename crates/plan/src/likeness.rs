//! Keys of an agent's entry that are its own, so that an agent made like it does not get them.

use crate::edit::remove_key;
use crate::key::Own;
use crate::keys::Agent;
use crate::node::Mistake;
use abbey_model::Slug;

/// What an agent is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Likeness {
    /// Another agent of the same house.
    Clone,
    /// A template, perhaps in another house.
    Template,
}

/// Manifest text in which an agent's entry has no key that is the original's own: who it is to others, its address, when it
/// works by itself; for a template also its place among the agents of the house and its budget.
///
/// # Errors
/// When there is no such agent, or a key is written in a style that cannot be edited.
pub fn remove_own_keys(text: &str, agent: &Slug, of: Likeness) -> Result<String, Vec<Mistake>> {
    let own = Agent::KEYS.iter().filter(|key| match key.own {
        Own::Shared => false,
        Own::Houses => of == Likeness::Template,
        Own::Agents => true,
    });
    own.map(|key| key.name)
        .try_fold(text.to_owned(), |text, key| remove_key(&text, agent, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_stays_in_the_house_and_a_template_goes_anywhere() {
        let text = "agents:\n  a:\n    name: Ada\n    role: builder\n    reports_to: b\n    budget: { tokens_per_day: 5 }\n    wake: { every: 1h }\n    subnet: 10.77.7.0/24\n    limits: { memory: 1GiB }\n";
        let agent = "a".parse().unwrap();
        let clone = remove_own_keys(text, &agent, Likeness::Clone).unwrap();
        assert_eq!(
            clone,
            "agents:\n  a:\n    role: builder\n    reports_to: b\n    budget: { tokens_per_day: 5 }\n    limits: { memory: 1GiB }\n"
        );
        let template = remove_own_keys(text, &agent, Likeness::Template).unwrap();
        assert_eq!(
            template,
            "agents:\n  a:\n    role: builder\n    limits: { memory: 1GiB }\n"
        );
    }
}
