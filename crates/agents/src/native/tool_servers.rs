//! Tools of the tool servers that the agent uses: their names for a model, and their calls by the agent API.

use super::model_turn::ToolCall;
use super::tools::Receipt;
use abbey_api::client::AgentClient;
use abbey_api::{ToolBody, ToolView, ToolsQuery};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Longest name of a function, in characters. Source: OpenAI chat completions, `tools`.
const NAME_MAX: usize = 64;

/// Tools, by the name under which a model calls them.
#[derive(Debug, Default)]
pub(super) struct ToolServers(BTreeMap<String, ToolView>);

impl ToolServers {
    /// Lists the tools of the agent's tool servers; none if the control plane does not answer.
    pub(super) async fn load(client: &AgentClient) -> ToolServers {
        let listed = client.me().tools(&ToolsQuery::default()).await;
        let tools = listed.map_or_else(|_| Vec::new(), |doc| doc.tools);
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
        ToolServers(named)
    }

    /// Definitions of the tools in the format of chat completions.
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

    /// Calls a tool of a tool server; `None` if the call is for another tool.
    pub(super) async fn call(&self, client: &AgentClient, call: &ToolCall) -> Option<Receipt> {
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
