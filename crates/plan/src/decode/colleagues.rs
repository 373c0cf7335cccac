//! Checks the agents that an agent names (delegation, grants, relations), and decodes the escalation.

use super::decoder::{Decoder, suggest_similar, text};
use crate::agent_values::RELATIONS;
use crate::house::Escalation;
use crate::keys::Agent;
use crate::node::Node;
use crate::shape;
use abbey_model::{Millis, Slug};
use std::collections::BTreeMap;

impl Decoder<'_> {
    /// Reports names in an agent's delegation, grants and relations that are not agents of the house.
    pub(crate) fn check_colleagues(&mut self, agents: &BTreeMap<Slug, Agent>) {
        let entries = self.root.get("agents").map_or(&[][..], Node::entries);
        for entry in entries {
            let mut named: Vec<(&Node, String)> = Vec::new();
            for node in ["delegates_to", "asks"]
                .iter()
                .filter_map(|k| entry.value.get(k))
            {
                let words = node.text().map(|_| node).into_iter().chain(node.items());
                named.extend(words.filter_map(|n| {
                    let word = n.text()?.trim_start_matches('-').to_owned();
                    (word != "all" && word != "none").then_some((n, word))
                }));
            }
            if let Some(node) = entry.value.get("grants") {
                named.extend(node.entries().iter().map(|e| (&e.value, e.key.clone())));
            }
            for kind in RELATIONS {
                let node = entry.value.get("relations").and_then(|n| n.get(kind));
                let items = node.map_or(&[][..], Node::items);
                named.extend(items.iter().filter_map(|n| Some((n, n.text()?.to_owned()))));
            }
            for (node, name) in named {
                if !agents.keys().any(|a| a.as_str() == name) {
                    let known = suggest_similar(&name, agents.keys().map(Slug::as_str));
                    self.mistakes
                        .push(node.place.mistake(format!("no agent `{name}`{known}")));
                }
            }
        }
    }
}

impl Decoder<'_> {
    /// Decodes which agent or operator decides about tasks without an eligible agent (S4-24), and reports mistakes in
    /// it.
    pub(crate) fn decode_escalation(
        &mut self,
        agents: &BTreeMap<Slug, Agent>,
    ) -> Option<Escalation> {
        let node = self.root.get("escalation");
        let to = text(node, "to")?;
        let agent: Option<Slug> = match to {
            "operator" => None,
            name => name.parse().ok(),
        };
        if let Some(agent) = &agent {
            let at = node.and_then(|n| n.get("to"));
            match agents.get(agent) {
                None => {
                    let known = suggest_similar(agent.as_str(), agents.keys().map(Slug::as_str));
                    self.report_mistake(at, format!("no agent `{agent}`{known}"));
                }
                Some(a) if a.model.is_none() && a.files.is_none() => {
                    let text =
                        format!("`{agent}` has no model, so it cannot decide about anything");
                    self.report_mistake(at, text);
                }
                Some(_) => {}
            }
        }
        let within = text(node, "within").and_then(shape::parse_duration_ms);
        if text(node, "then") == Some("cancel") && within.is_none() {
            let text = "`then: cancel` needs `within`: a time after which";
            self.report_mistake(node, text);
        }
        Some(Escalation {
            to: agent,
            within: within.map(Millis),
            cancels: text(node, "then") == Some("cancel"),
        })
    }
}
