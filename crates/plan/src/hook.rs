//! Webhooks: how deliveries are authenticated and what each starts.

use abbey_model::{Authority, SecretRef, Slug};
use serde::Serialize;
use std::collections::BTreeSet;

/// A webhook: a sender that may report outside events at `/hooks/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// How a delivery is signed.
    pub kind: HookKind,
    /// Secret that signs deliveries.
    pub secret: SecretRef,
    /// What a delivery starts.
    pub action: HookAction,
    /// Events of the sender that start it, each as `EVENT` or `EVENT.ACTION`; none are all of them. Kinds `github` and
    /// `gitea` only.
    pub on: BTreeSet<String>,
    /// Where the result of a task is reported: the root of the sender's API.
    pub api: Option<String>,
    /// Reference to the credential for `api`.
    pub token: Option<SecretRef>,
    /// Agents that a caller may name besides the one of `action`; kind `openclaw` only.
    pub agents: Authority,
    /// Whether a message is an instruction and not only data; kind `openclaw` only.
    pub trusted: bool,
}

impl Hook {
    /// Whether a delivery starts something, whose event has this name and, if its payload states one, this action.
    pub fn hears(&self, event: &str, action: Option<&str>) -> bool {
        let with_action = |action: &str| self.on.contains(&format!("{event}.{action}"));
        self.on.is_empty() || self.on.contains(event) || action.is_some_and(with_action)
    }
}

/// Way in which deliveries are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HookKind {
    /// Standard Webhooks (standardwebhooks.com): `webhook-id`, `webhook-timestamp`, `webhook-signature`.
    Standard,
    /// GitHub: `X-Hub-Signature-256`.
    Github,
    /// Gitea and Forgejo: `X-Gitea-Signature`.
    Gitea,
    /// A bearer credential, with the fields of OpenClaw's hooks.
    Openclaw,
}

/// Task, workflow or event that a delivery starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HookAction {
    /// A task, with the delivery as data.
    Task(Slug),
    /// A workflow, with the delivery as its input `payload`.
    Workflow(Slug),
    /// An event of the house.
    Event(Slug),
}
