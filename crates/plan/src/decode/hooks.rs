//! Decodes webhooks: which senders may report outside events, and what follows.

use super::decoder::{Decoder, check_without_password, suggest_similar, takes_credential, text};
use super::workflows::check_payload_input;
use crate::hook::{Hook, HookAction, HookKind};
use crate::keys::Agent;
use crate::node::Node;
use abbey_engine::workflow::Workflow;
use abbey_model::{Authority, Slug};
use std::collections::{BTreeMap, BTreeSet};

impl Decoder<'_> {
    /// Decodes the webhooks of the manifest and reports mistakes in each.
    pub(crate) fn decode_hooks(
        &mut self,
        agents: &BTreeMap<Slug, Agent>,
        workflows: &BTreeMap<Slug, Workflow>,
    ) -> BTreeMap<Slug, Hook> {
        let mut hooks = BTreeMap::new();
        for entry in self.root.get("hooks").map_or(&[][..], Node::entries) {
            let value = Some(&entry.value);
            let mut blame = |text: String| {
                let text = format!("hook `{}`: {text}", entry.key);
                self.mistakes.push(entry.place.mistake(text));
            };
            let name_of = |key| text(value, key).and_then(|t| t.parse::<Slug>().ok());
            let given = [
                name_of("agent").map(HookAction::Task),
                name_of("workflow").map(HookAction::Workflow),
                name_of("event").map(HookAction::Event),
            ];
            let mut given = given.into_iter().flatten();
            let (Some(action), None) = (given.next(), given.next()) else {
                blame("needs exactly one of `agent`, `workflow` and `event`".to_owned());
                continue;
            };
            let kind = match text(value, "kind") {
                Some("github") => HookKind::Github,
                Some("gitea") => HookKind::Gitea,
                Some("openclaw") => HookKind::Openclaw,
                _ => HookKind::Standard,
            };
            if matches!(entry.key.as_str(), "agent" | "wake") {
                blame(
                    "`agent` and `wake` are paths of kind `openclaw`; give it another name"
                        .to_owned(),
                );
            }
            let more = authority(entry.value.get("agents"));
            let named = more.names.iter().chain(&more.except);
            for agent in named.filter(|a| !agents.contains_key(*a)) {
                let known = suggest_similar(agent.as_str(), agents.keys().map(Slug::as_str));
                blame(format!("no agent `{agent}`{known}"));
            }
            let given = entry.value.get("on");
            let on = given.map_or(&[][..], Node::items);
            if given.is_some() && on.is_empty() {
                blame("`on` names no event; leave it out to hear all of them".to_owned());
            }
            let on: BTreeSet<String> = on
                .iter()
                .filter_map(Node::text)
                .map(str::to_owned)
                .collect();
            if let Some(wrong) = on.iter().find(|event| !is_event(event)) {
                blame(format!(
                    "`on`: `{wrong}` is not the name of an event such as `push` or `issues.opened`"
                ));
            }
            let named = matches!(kind, HookKind::Github | HookKind::Gitea);
            if !on.is_empty() && !named {
                blame("`on` is only for hooks of kind `github` and `gitea`, whose deliveries name their event".to_owned());
            }
            let trusted = text(value, "trusted") == Some("true");
            if kind == HookKind::Openclaw {
                if !matches!(action, HookAction::Task(_)) {
                    blame("a hook of kind `openclaw` needs `agent`".to_owned());
                }
                if hooks.values().any(|h: &Hook| h.kind == HookKind::Openclaw) {
                    blame("a hook of kind `openclaw` is already declared".to_owned());
                }
            } else if trusted || !more.is_none() {
                blame("`agents` and `trusted` are only for hooks of kind `openclaw`".to_owned());
            }
            match &action {
                HookAction::Task(agent) if !agents.contains_key(agent) => {
                    let known = suggest_similar(agent.as_str(), agents.keys().map(Slug::as_str));
                    blame(format!("no agent `{agent}`{known}"));
                }
                HookAction::Workflow(name) => match workflows.get(name) {
                    None => {
                        let known =
                            suggest_similar(name.as_str(), workflows.keys().map(Slug::as_str));
                        blame(format!("no workflow `{name}`{known}"));
                    }
                    Some(workflow) => {
                        if let Some(why) = check_payload_input(workflow) {
                            blame(format!("it starts the workflow `{name}`: {why}"));
                        }
                    }
                },
                HookAction::Task(_) | HookAction::Event(_) => {}
            }
            let api = text(value, "api").map(|t| t.trim_end_matches('/').to_owned());
            let plain = api.as_ref().map_or(Ok(()), |api| {
                check_without_password("api", api, "give the credential as `token: env:NAME`")
            });
            let plain = plain.map_err(&mut blame).is_ok();
            let wrong = api.as_ref().filter(|a| plain && !takes_credential(a));
            if let Some(api) = wrong {
                blame(format!(
                    "`api` is `{api}`, but a credential is sent only to https:// or to 127.0.0.1"
                ));
            }
            let secret = |key| text(value, key).and_then(|t| t.parse().ok());
            let (Ok(name), Some(signed)) = (entry.key.parse(), secret("secret")) else {
                continue;
            };
            let hook = Hook {
                kind,
                secret: signed,
                action,
                on,
                api,
                token: secret("token"),
                agents: more,
                trusted,
            };
            hooks.insert(name, hook);
        }
        hooks
    }
}

/// Whether a text can be the name of a sender's event, with or without an action.
fn is_event(text: &str) -> bool {
    let word = |part: &str| {
        let usual = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        !part.is_empty() && part.len() <= 60 && part.bytes().all(usual)
    };
    let mut parts = text.splitn(2, '.');
    parts.all(word)
}

/// Agents that a word or a list of words names; the shape has reported what is wrong with them.
fn authority(node: Option<&Node>) -> Authority {
    let mut authority = Authority::default();
    for word in node.into_iter().flat_map(|n| {
        n.text()
            .into_iter()
            .chain(n.items().iter().filter_map(Node::text))
    }) {
        let _reported = authority.add(word);
    }
    authority
}
