//! Credentials of agents: for the agent API, the model gateway and services; the control plane's
//! copies, and the values redacted from logs.

use crate::cells::state::CellsState;
use crate::core::credentials::CredentialTable;
use crate::core::error::{Error, Result};
use crate::core::home::generate_token;
use crate::core::hostd;
use crate::core::plan::PlanInForce;
use abbey_cells::hostd::{FileEntry, FileName, HostdOperation};
use abbey_model::{CellName, CredentialGrant, Millis, Principal, Secret, Slug};
use abbey_store::NewToken;
use abbey_support::digest::sha256_hex;
use std::path::PathBuf;
use std::sync::Arc;

/// How long an old credential stays valid after a new one was issued.
pub(crate) const OVERLAP: Millis = Millis::from_secs(60);

/// Path of the control plane's copy of an agent's credential for the agent API.
pub(crate) fn agent_token_file(cells: &CellsState, slug: &Slug) -> PathBuf {
    cells.core.home.agent_dir(slug.as_str()).join("token")
}

/// Issues new credentials for the agent API and the model gateway, writes them into the agent's
/// files, and revokes the previous ones after `overlap`.
pub(crate) async fn rotate_agent_credentials(
    cells: &Arc<CellsState>,
    slug: &Slug,
    overlap: Millis,
) -> Result<()> {
    let token = generate_token("abbey_ag_")?;
    let key = generate_token("sk-abbey-")?;
    let principal = Principal::Agent(slug.clone());
    let mut issued = Vec::new();
    for (secret, grant) in [
        (&token, CredentialGrant::Agent),
        (&key, CredentialGrant::Model),
    ] {
        let hash = sha256_hex(secret.expose().as_bytes());
        issued.push(hash.clone());
        let new = NewToken {
            hash,
            principal: principal.clone(),
            grant,
            name: None,
            expires_at: None,
            issued_by: Principal::House,
        };
        cells.core.store.add_token(new).await?;
    }
    reload_credentials(cells).await?;
    let entry = |name, secret: &Secret| FileEntry {
        name,
        content: secret.expose().to_owned(),
    };
    let files = vec![entry(FileName::Key, &key), entry(FileName::Token, &token)];
    let owner = CellName::Agent(slug.clone());
    hostd::run_operation(&cells.core.hostd, HostdOperation::Prepare { owner, files }).await?;
    // Last, so that those in the files are valid however far this came: no space is left, say, or the process ends.
    cells
        .core
        .store
        .revoke_tokens(principal, issued, overlap)
        .await?;
    reload_credentials(cells).await
}

/// Writes the credentials that an agent has for the agent API and for services into its files once more.
pub(crate) async fn restore_agent_credentials(
    cells: &Arc<CellsState>,
    current: &PlanInForce,
    slug: &Slug,
) -> Result<()> {
    let path = agent_token_file(cells, slug);
    let content = cells.core.home.read_text(&path);
    let content = content.map_err(Error::file("read", &path))?;
    let mut files = vec![FileEntry {
        name: FileName::Token,
        content,
    }];
    let agent = current.house.agents.get(slug);
    for service in agent.iter().flat_map(|a| &a.uses) {
        // Without a copy nothing was issued yet.
        let path = service_credential_file(cells, slug, service);
        if let Ok(content) = cells.core.home.read_text(&path)
            && parse_service_secret(&content).is_some()
        {
            let name = FileName::Credential(service.clone());
            files.push(FileEntry { name, content });
        }
    }
    let owner = CellName::Agent(slug.clone());
    hostd::run_operation(&cells.core.hostd, HostdOperation::Prepare { owner, files }).await
}

/// Secret with which an agent authenticates at a service; `None` if it has none yet.
pub(crate) fn read_service_credential(
    cells: &CellsState,
    agent: &Slug,
    service: &Slug,
) -> Option<Secret> {
    let home = &cells.core.home;
    let text = home.read_text(&service_credential_file(cells, agent, service));
    let text = text.ok()?;
    parse_service_secret(&text).map(Secret::new)
}

/// Reloads the table of valid credentials from the store, and the secret values that are redacted
/// from logs.
pub(crate) async fn reload_credentials(cells: &Arc<CellsState>) -> Result<()> {
    let keys: &CredentialTable = &cells.core.credentials;
    keys.replace_all(cells.core.store.tokens().await?);
    let mut secrets = vec![cells.core.home.load_or_create_operator_token()?];
    if let Some(current) = cells.core.plan.current() {
        for (slug, agent) in &current.house.agents {
            let used = agent.uses.iter();
            let used = used.filter_map(|s| read_service_credential(cells, slug, s));
            secrets.extend(used);
            let key = cells.core.home.agent_dir(slug.as_str()).join("key");
            secrets.extend(
                [agent_token_file(cells, slug), key]
                    .iter()
                    .filter_map(|p| cells.core.home.read_text(p).ok())
                    .map(Secret::new),
            );
        }
        let references = current.house.secrets();
        secrets.extend(
            references
                .filter_map(|(_, r)| cells.core.secrets.read_secret(r, &current.base_dir).ok()),
        );
    }
    cells.core.secrets.set_redacted_values(secrets);
    Ok(())
}

/// Path of the control plane's copy of an agent's credential for a service.
pub(crate) fn service_credential_file(cells: &CellsState, agent: &Slug, service: &Slug) -> PathBuf {
    cells
        .core
        .home
        .agent_dir(agent.as_str())
        .join(format!("service-{service}"))
}

/// Finds the secret (`abbey_sv_…`) in the text of a service credential file.
pub(crate) fn parse_service_secret(line: &str) -> Option<&str> {
    let rest = &line[line.find(SERVICE_PREFIX)?..];
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let end = rest.find(|c| !word(c)).unwrap_or(rest.len());
    Some(&rest[..end])
}

/// Prefix of every credential for a service.
pub(crate) const SERVICE_PREFIX: &str = "abbey_sv_";
