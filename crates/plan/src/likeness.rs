//! Keys of an agent's entry that are its own, so that an agent made like it does not get them.

use crate::edit::{agent_entry, agent_of, remove_key};
use crate::key::Own;
use crate::keys::Agent;
use crate::node::{self, Mistake};
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
    let text = remove_import_record(text, agent)?;
    own.map(|key| key.name)
        .try_fold(text, |text, key| remove_key(&text, agent, key))
}

/// Beginning of a comment that records which installation an agent was imported from, which is true of that agent alone.
pub const IMPORT_RECORD: &str = "# imported from ";

/// Whether a line of a manifest is such a record.
pub fn is_import_record(line: &str) -> bool {
    line.trim_start().starts_with(IMPORT_RECORD)
}

/// Manifest text without the record in the entry of an agent.
fn remove_import_record(text: &str, agent: &Slug) -> Result<String, Vec<Mistake>> {
    let entry = agent_entry(text, agent)?;
    let Some(record) = entry.iter().find(|line| is_import_record(line)) else {
        return Ok(text.to_owned());
    };
    let root = node::parse_yaml(text)?;
    let begins = agent_of(&root, agent)?.place.line;
    let mut lines: Vec<&str> = text.lines().collect();
    let is_it = |line: &&str| line.trim() == record.trim();
    if let Some(at) = lines.iter().skip(begins).position(is_it) {
        lines.remove(begins + at);
    }
    Ok(lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_was_imported_from_is_not_true_of_its_copies() {
        let record = "# imported from openclaw \"/h\": \"main\"";
        let text =
            format!("agents:\n  b:\n    {record}\n    role: x\n  a:\n    {record}\n    role: y\n");
        let copy = remove_own_keys(&text, &"a".parse().unwrap(), Likeness::Clone).unwrap();
        assert_eq!(
            copy,
            format!("agents:\n  b:\n    {record}\n    role: x\n  a:\n    role: y\n")
        );
    }

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
