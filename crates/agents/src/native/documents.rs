//! The model tool `documents`: lists, reads and writes shared documents.

use crate::runtime::driver::Lease;
use abbey_api::client::AgentClient;
use abbey_api::headers::IdempotencyKey;
use abbey_api::{DocumentBody, DocumentQuery, DocumentView, DocumentsQuery};
use serde_json::Value;

/// Performs a call of the tool `documents`: lists documents, or reads, writes or appends to one.
/// The control plane checks the agent's rights.
pub(super) async fn use_documents(
    client: &AgentClient,
    lease: &Lease,
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
                "{} ({}, version {}): writers {writers}",
                d.name, d.kind, d.newest
            )
        };
        let lines: Vec<String> = doc.documents.iter().map(line).collect();
        return Ok(lines.join("\n"));
    }
    let name = get("name")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if !name.chars().all(plain) {
        return Err(format!("`{name}` is not the name of a document"));
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
                .ok_or("the argument `seen` is missing: give the version that you read, or 0 for a new document")?,
        ),
        "append" => None,
        other => return Err(format!("the tool for documents has no action `{other}`")),
    };
    let body = DocumentBody {
        text: get("text")?.to_owned(),
        seen,
    };
    // A run that is repeated after a loss appends the same entry of the same task once.
    let digest = abbey_support::digest::sha256_hex(serde_json::to_vec(&body).unwrap_or_default());
    let key = IdempotencyKey(format!("document {} {digest}", lease.task));
    let doc = client.me().write_document(name, &body, Some(key)).await;
    let doc = doc.map_err(|e| e.to_string())?;
    Ok(format!(
        "document `{name}` is now at version {}",
        doc.document.newest
    ))
}
