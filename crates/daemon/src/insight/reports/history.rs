//! The history of agents that got another name: the audit log keeps the name that an agent had, reports tell of the agent.

use abbey_model::CellName;
use abbey_store::AuditEntry;
use std::collections::BTreeMap;

/// Actions whose entity is an agent's name alone, not that of its cell.
const NAMED_BY_SLUG: [&str; 2] = ["agent.rotate", "saga.begin"];

/// Gives every entry the name that its agent has at the end of the log; entries are oldest first. What another agent did
/// that had a present name before gets a name that no agent can have.
pub(super) fn under_present_names(entries: &mut [AuditEntry]) {
    // For each name, what an agent that had it at this point of the log is called now, if not the same.
    let mut now: BTreeMap<String, String> = BTreeMap::new();
    for entry in entries.iter_mut().rev() {
        if NAMED_BY_SLUG.contains(&entry.action.as_str()) {
            if let Some(present) = now.get(&entry.entity) {
                entry.entity.clone_from(present);
            }
        } else if let Ok(CellName::Agent(agent)) = entry.entity.parse::<CellName>()
            && let Some(present) = now.get(agent.as_str())
        {
            entry.entity = format!("agent-{present}");
        }
        // Its own entity is the name that the agent has after it.
        if entry.action == "agent.rename" {
            let name = |key: &str| entry.detail[key].as_str().map(str::to_owned);
            let (Some(from), Some(to)) = (name("from"), name("to")) else {
                continue;
            };
            let present = now.get(&to).cloned().unwrap_or_else(|| to.clone());
            now.insert(to.clone(), format!("{to} (before)"));
            now.insert(from, present);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use abbey_model::Timestamp;
    use serde_json::{Value, json};

    fn entry(action: &str, entity: &str, detail: Value) -> AuditEntry {
        AuditEntry {
            seq: 0,
            at: Timestamp(0),
            actor: "house".to_owned(),
            action: action.to_owned(),
            entity: entity.to_owned(),
            detail,
            prev: String::new(),
            hash: String::new(),
        }
    }

    #[test]
    fn what_an_agent_did_under_earlier_names_is_its_own() {
        let start = |name: &str| entry("cell.start", &format!("agent-{name}"), Value::Null);
        let rename = |from: &str, to: &str| {
            let detail = json!({ "from": from, "to": to });
            entry("agent.rename", &format!("agent-{to}"), detail)
        };
        let made = json!({ "kind": "agent.create" });
        let mut log = [
            start("c"),
            entry("saga.begin", "a", made),
            start("a"),
            entry("cell.start", "service-a", Value::Null),
            rename("a", "b"),
            start("b"),
            // Another agent gets the first name.
            start("a"),
            rename("b", "c"),
            start("c"),
        ];
        under_present_names(&mut log);
        let entities: Vec<&str> = log.iter().map(|e| e.entity.as_str()).collect();
        assert_eq!(
            entities,
            [
                "agent-c (before)",
                "c",
                "agent-c",
                "service-a",
                "agent-c",
                "agent-c",
                "agent-a",
                "agent-c",
                "agent-c"
            ]
        );
    }
}
