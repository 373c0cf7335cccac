//! Credentials of agents: at the agent API, at the model gateway, and at services; where the control
//! plane's own copies are, and what must stay out of logs.

use crate::cells::state::CellsState;
use crate::core::credentials::Keys;
use crate::core::error::Result;
use crate::core::home::new_token;
use crate::core::hostd;
use abbey_cells::hostd::{FileEntry, FileName, Operation};
use abbey_model::{CellName, Millis, Principal, Secret, Slug};
use abbey_store::TokenRow;
use abbey_support::digest::sha256_hex;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

/// How long an old credential stays valid after a new one was given.
pub(crate) const OVERLAP: Millis = Millis::from_secs(60);

/// Where the control plane's copy of an agent's credential is.
pub(crate) fn own_token(cells: &CellsState, slug: &Slug) -> PathBuf {
    cells.core.home.agent(slug.as_str()).join("token")
}

/// Gives an agent a fresh credential; older ones end after `overlap`.
pub(crate) async fn credential(
    cells: &Arc<CellsState>,
    slug: &Slug,
    overlap: Millis,
) -> Result<()> {
    let token = new_token("abbey_ag_")?;
    let key = new_token("sk-abbey-")?;
    let principal = Principal::Agent(slug.clone());
    cells
        .core
        .store
        .revoke_tokens(principal.clone(), None, overlap)
        .await?;
    for (secret, scope) in [(&token, "agent"), (&key, "model")] {
        let row = TokenRow {
            hash: sha256_hex(secret.expose().as_bytes()),
            principal: principal.clone(),
            scope: scope.to_owned(),
            expires_at: None,
        };
        cells.core.store.add_token(row).await?;
    }
    let entry = |name, secret: &Secret| FileEntry {
        name,
        content: secret.expose().to_owned(),
    };
    let files = vec![entry(FileName::Key, &key), entry(FileName::Token, &token)];
    let owner = CellName::Agent(slug.clone());
    hostd::call(&cells.core.hostd, Operation::Prepare { owner, files }).await?;
    refresh_keys(cells).await
}

/// The secret of an agent's credential at a service.
pub(crate) fn credential_at(cells: &CellsState, agent: &Slug, service: &Slug) -> Option<Secret> {
    let text = fs::read_to_string(own_copy(cells, agent, service)).ok()?;
    secret_in(&text).map(Secret::new)
}

/// Loads every valid credential and every secret that must stay out of logs.
pub(crate) async fn refresh_keys(cells: &Arc<CellsState>) -> Result<()> {
    let keys: &Keys = &cells.core.keys;
    keys.replace(cells.core.store.tokens().await?);
    let mut secrets = vec![cells.core.home.operator_secret()?];
    if let Some(current) = cells.core.plan.current() {
        for (slug, agent) in &current.house.agents {
            let used = agent.uses.iter();
            let used = used.filter_map(|s| credential_at(cells, slug, s));
            secrets.extend(used);
            let key = cells.core.home.agent(slug.as_str()).join("key");
            secrets.extend(
                [own_token(cells, slug), key]
                    .iter()
                    .filter_map(|p| fs::read_to_string(p).ok())
                    .map(Secret::new),
            );
        }
        let references = current.house.secrets();
        secrets.extend(
            references.filter_map(|(_, r)| cells.core.secrets.resolve(r, &current.base_dir).ok()),
        );
    }
    cells.core.secrets.redact(secrets);
    Ok(())
}

/// The control plane's own copy of an agent's credential.
pub(crate) fn own_copy(cells: &CellsState, agent: &Slug, service: &Slug) -> PathBuf {
    cells
        .core
        .home
        .agent(agent.as_str())
        .join(format!("service-{service}"))
}

/// The secret in such a line.
pub(crate) fn secret_in(line: &str) -> Option<&str> {
    let rest = &line[line.find(SERVICE_PREFIX)?..];
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let end = rest.find(|c| !word(c)).unwrap_or(rest.len());
    Some(&rest[..end])
}

/// How every credential at a service begins.
pub(crate) const SERVICE_PREFIX: &str = "abbey_sv_";
