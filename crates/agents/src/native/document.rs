//! The tool for shared documents.

use super::tools::Right;
use abbey_api::client::AgentClient;
use abbey_api::headers::IdempotencyKey;
use abbey_api::{DocumentBody, DocumentQuery, DocumentView, DocumentsQuery};
use serde_json::Value;

/// Carries it out; the house decides who may.
pub(super) async fn document(
    client: &AgentClient,
    right: &Right,
    args: &Value,
) -> Result<String, String> {
    let get = |key: &str| {
        let text = args[key].as_str();
        text.ok_or_else(|| format!("the argument `{key}` is missing"))
    };
    let action = get("action")?;
    if action == "list" {
        let all = DocumentsQuery::default();
        let doc = client.me().documents(&all).await;
        let doc = doc.map_err(|e| e.to_string())?;
        let line = |d: &DocumentView| {
            let writers = d.writers.join(", ");
            format!(
                "{} ({}, at {}): written by {writers}",
                d.name, d.kind, d.newest
            )
        };
        let lines: Vec<String> = doc.documents.iter().map(line).collect();
        return Ok(lines.join("\n"));
    }
    let name = get("name")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if !name.chars().all(plain) {
        return Err(format!("`{name}` is no document"));
    }
    let seen = match action {
        "read" => {
            let newest = DocumentQuery::default();
            let doc = client.me().document(name, &newest).await;
            let doc = doc.map_err(|e| e.to_string())?;
            return Ok(format!("version {}\n{}", doc.shown, doc.text));
        }
        "write" => Some(
            args["seen"]
                .as_u64()
                .ok_or("the argument `seen` is missing: the version that you read, 0 for none")?,
        ),
        "append" => None,
        other => return Err(format!("documents have no action `{other}`")),
    };
    let body = DocumentBody {
        text: get("text")?.to_owned(),
        seen,
    };
    // A run that is done again after a loss adds the same entry of the same task once.
    let digest = abbey_support::digest::sha256_hex(&serde_json::to_vec(&body).unwrap_or_default());
    let key = IdempotencyKey(format!("document {} {digest}", right.task));
    let doc = client.me().write_document(name, &body, Some(key)).await;
    let doc = doc.map_err(|e| e.to_string())?;
    Ok(format!("`{name}` is at {}", doc.document.newest))
}
