//! Authority that an agent's entry asks for: what an entry from elsewhere doesn't get unless the operator allows it.

use crate::edit::{agent_of, remove_key};
use crate::key::Key;
use crate::keys::Agent;
use crate::node::{self, Kind, Mistake, Node};
use abbey_model::{Bytes, Limits, Slug};

/// A key that was taken out of an agent's entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WithheldKey {
    /// Name of the key.
    pub key: &'static str,
    /// Its value, as JSON.
    pub value: String,
}

/// Names of the keys that give authority.
pub fn authority_keys() -> impl Iterator<Item = &'static str> {
    Agent::KEYS
        .iter()
        .filter(|key| key.authority.is_some())
        .map(|key| key.name)
}

/// Manifest text in which an agent's entry has no key that gives it authority, except those in `allowed`; and the keys
/// that were taken out. Reach, isolation weaker than a sandbox, commands, rights over other agents, resources, and work
/// that starts by itself are authority; names, charter, model and skills are not.
///
/// # Errors
/// When there is no such agent, or a key is written in a style that cannot be edited.
pub fn withhold_authority(
    text: &str,
    agent: &Slug,
    allowed: &[String],
) -> Result<(String, Vec<WithheldKey>), Vec<Mistake>> {
    let root = node::parse_yaml(text)?;
    let entry = agent_of(&root, agent)?;
    let mut edited = text.to_owned();
    let mut withheld = Vec::new();
    // Limits last: the rest of the entry is valid in this house by then.
    let (limits, others): (Vec<&Key>, Vec<&Key>) =
        Agent::KEYS.iter().partition(|key| key.name == LIMITS);
    for key in others.into_iter().chain(limits) {
        let Some(harmless) = key.authority else {
            continue;
        };
        let Some(value) = entry.value.get(key.name) else {
            continue;
        };
        if allowed.iter().any(|a| a == key.name) || is_harmless(value, harmless) {
            continue;
        }
        let without = remove_key(&edited, agent, key.name)?;
        if key.name == LIMITS && are_tighter(&edited, &without, agent) {
            continue;
        }
        edited = without;
        withheld.push(WithheldKey {
            key: key.name,
            value: value.to_json().to_string(),
        });
    }
    Ok((edited, withheld))
}

/// Key of the limits of a cell.
const LIMITS: &str = "limits";

/// Whether an agent's limits in the first manifest are nowhere higher than in the second.
fn are_tighter(text: &str, other: &str, agent: &Slug) -> bool {
    let limits = |text| Some(crate::parse(text).ok()?.agents.get(agent)?.limits);
    let (Some(limits), Some(usual)) = (limits(text), limits(other)) else {
        return false;
    };
    let io = |limits: Limits| limits.io.unwrap_or(Bytes(u64::MAX));
    limits.memory <= usual.memory
        && limits.cpu_milli <= usual.cpu_milli
        && limits.processes <= usual.processes
        && io(limits) <= io(usual)
}

/// Whether a value is empty, one of these words, or has keys among them alone.
fn is_harmless(value: &Node, harmless: &[&str]) -> bool {
    match &value.kind {
        Kind::Scalar { text, .. } => value.is_null() || harmless.contains(&text.as_str()),
        Kind::List(items) => items.is_empty(),
        Kind::Map(entries) => entries.iter().all(|e| harmless.contains(&e.key.as_str())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOREIGN: &str = "version: 1
house: h
agents:
  # Ours.
  own: { egress: full }
  guest:
    name: Guest
    cell: process
    egress: full
    delegates_to: [all]
    files:
      command: [sh, -c, id]
    skills: [log-search]
    asks: none
    schedules: { daily: { every: 24h, task: spend } }
";

    #[test]
    fn an_entry_from_elsewhere_keeps_what_gives_no_authority() {
        let guest: Slug = "guest".parse().unwrap();
        let (text, withheld) = withhold_authority(FOREIGN, &guest, &[]).unwrap();
        let keys: Vec<&str> = withheld.iter().map(|w| w.key).collect();
        assert_eq!(
            keys,
            ["delegates_to", "files", "cell", "schedules", "egress"]
        );
        assert_eq!(withheld[1].value, r#"{"command":["sh","-c","id"]}"#);
        let kept = text.split_once("  guest:\n").unwrap().1;
        assert_eq!(
            kept,
            "    name: Guest\n    skills: [log-search]\n    asks: none\n"
        );
        assert!(text.contains("own: { egress: full }"));
        let (text, withheld) = withhold_authority(FOREIGN, &guest, &["egress".to_owned()]).unwrap();
        assert!(text.contains("    egress: full\n"));
        assert!(withheld.iter().all(|w| w.key != "egress"));
    }

    #[test]
    fn what_only_restricts_stays() {
        let own = FOREIGN.split_once("  guest:").unwrap().0;
        let guest: Slug = "guest".parse().unwrap();
        let withheld_of = |keys: &str| {
            let text = format!("{own}  guest: {{ {keys} }}\n");
            let (text, withheld) = withhold_authority(&text, &guest, &[]).unwrap();
            let keys: Vec<&str> = withheld.iter().map(|w| w.key).collect();
            assert!(crate::parse(&text).is_ok(), "{text}");
            keys
        };
        let less = "limits: { memory: 64MiB, cpus: 0.1 }, budget: { tokens_per_day: 10 }";
        assert_eq!(withheld_of(less), [""; 0]);
        assert_eq!(
            withheld_of("limits: { memory: 64MiB, cpus: 4 }"),
            ["limits"]
        );
        assert_eq!(
            withheld_of("limits: { io: 20MiB }, egress: full"),
            ["egress"]
        );
        assert_eq!(
            withheld_of("budget: { share: 90%, tokens_per_day: 10 }"),
            ["budget"]
        );
    }

    #[test]
    fn an_entry_in_braces_is_no_way_around() {
        let text = FOREIGN.split_once("  guest:").unwrap().0.to_owned()
            + "  guest: { 'cell': process, egress: [\"*\"], uses: [db], name: G }\n";
        let guest: Slug = "guest".parse().unwrap();
        let (text, withheld) = withhold_authority(&text, &guest, &[]).unwrap();
        assert_eq!(withheld.len(), 3);
        assert!(text.ends_with("  guest: { name: G }\n"), "{text}");
    }
}
