//! The tool for shared documents.

use super::tools::Right;
use abbey_api::client::Client;
use abbey_api::{DocumentBody, DocumentDoc, DocumentView, DocumentsDoc};
use serde_json::Value;

/// Carries it out; the house decides who may.
pub(super) async fn document(
    client: &Client,
    right: &Right,
    args: &Value,
) -> Result<String, String> {
    let get = |key: &str| {
        let text = args[key].as_str();
        text.ok_or_else(|| format!("the argument `{key}` is missing"))
    };
    let action = get("action")?;
    if action == "list" {
        let doc: DocumentsDoc = client
            .get("/api/v1/self/documents")
            .await
            .map_err(|e| e.to_string())?;
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
    let path = format!("/api/v1/self/documents/{name}");
    let seen = match action {
        "read" => {
            let doc: DocumentDoc = client.get(&path).await.map_err(|e| e.to_string())?;
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
    let headers = [(
        "Idempotency-Key",
        format!("document {} {digest}", right.task),
    )];
    let doc: DocumentDoc = client
        .post(&path, &body, &headers)
        .await
        .map_err(|e| e.to_string())?;
    Ok(format!("`{name}` is at {}", doc.document.newest))
}
