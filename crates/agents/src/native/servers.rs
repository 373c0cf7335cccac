//! Tools of servers: what they are called for a model, and how a call of one gets there.

use super::model::Call;
use super::tools::Receipt;
use abbey_api::client::AgentClient;
use abbey_api::{ToolBody, ToolView, ToolsQuery};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Longest name of a function. Source: OpenAI chat completions, `tools`.
const NAME_MAX: usize = 64;

/// By the name that a model calls them by.
#[derive(Debug, Default)]
pub(super) struct Servers(BTreeMap<String, ToolView>);

impl Servers {
    /// Asks the house which there are; none when it cannot tell.
    pub(super) async fn of(client: &AgentClient) -> Servers {
        let told = client.me().tools(&ToolsQuery::default()).await;
        let tools = told.map_or_else(|_| Vec::new(), |doc| doc.tools);
        let mut named = BTreeMap::new();
        for tool in tools {
            let plain = |c: char| {
                if c.is_ascii_alphanumeric() || c == '-' {
                    c
                } else {
                    '_'
                }
            };
            let name: String = format!("{}__{}", tool.service, tool.name)
                .chars()
                .map(plain)
                .take(NAME_MAX)
                .collect();
            named.entry(name).or_insert(tool);
        }
        Servers(named)
    }

    pub(super) fn definitions(&self) -> impl Iterator<Item = Value> {
        self.0.iter().map(|(name, tool)| {
            let schema = match tool.args.is_object() {
                true => tool.args.clone(),
                false => json!({ "type": "object" }),
            };
            json!({ "type": "function", "function": {
                "name": name, "description": tool.description, "parameters": schema,
            } })
        })
    }

    /// Carries a call out, if it is one of theirs.
    pub(super) async fn perform(&self, client: &AgentClient, call: &Call) -> Option<Receipt> {
        let tool = self.0.get(&call.name)?;
        let arguments: Value = match serde_json::from_str(&call.arguments) {
            Ok(arguments) => arguments,
            Err(e) => return Some(Receipt::of(Err(format!("the arguments are not JSON: {e}")))),
        };
        let body = ToolBody { arguments };
        let done = client
            .me()
            .call_tool(&tool.service, &tool.name, &body)
            .await;
        Some(Receipt::of(match done {
            Ok(done) if done.ok => Ok(done.text),
            Ok(done) => Err(done.text),
            Err(error) => Err(error.to_string()),
        }))
    }
}
