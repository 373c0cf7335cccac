//! Credentials, by hash: the store never sees one in clear.

use super::audit_log;
use crate::rows::{Query, Rows, params};
use crate::topic::Topic;
use crate::transaction::Tx;
use crate::{Result, TokenRow};
use abbey_model::{Millis, Principal, Timestamp};
use serde_json::json;

/// Stores a credential by its hash.
pub(crate) fn add(tx: &mut Tx<'_>, token: &TokenRow) -> Result<()> {
    let principal = token.principal.to_string();
    tx.execute(
        "INSERT INTO tokens VALUES (?1, ?2, ?3, ?4, ?5)",
        params![
            &token.hash,
            &principal,
            &token.scope,
            tx.now,
            token.expires_at
        ],
    )?;
    let detail = json!({ "principal": token.principal, "scope": token.scope });
    audit_log::append(
        tx,
        &Principal::House,
        "credential.issue",
        &principal,
        detail,
    )?;
    tx.publish(Topic::Credentials);
    Ok(())
}

/// Makes every credential of a principal, except the one with hash `keep`, expire after `overlap`. Returns how many
/// were changed.
pub(crate) fn revoke(
    tx: &mut Tx<'_>,
    principal: &Principal,
    keep: Option<&str>,
    overlap: Millis,
) -> Result<u64> {
    let ends = tx.now + overlap;
    let principal = principal.to_string();
    let changed = tx.execute(
        "UPDATE tokens SET expires_at = ?2 WHERE principal = ?1 AND hash <> ?3 AND (expires_at IS NULL OR expires_at > ?2)",
        params![&principal, ends, keep.unwrap_or("")],
    )?;
    tx.execute("DELETE FROM tokens WHERE expires_at <= ?1", params![tx.now])?;
    if changed > 0 {
        let detail = json!({ "credentials": changed, "overlap_ms": overlap });
        audit_log::append(
            tx,
            &Principal::House,
            "credential.revoke",
            &principal,
            detail,
        )?;
    }
    tx.publish(Topic::Credentials);
    Ok(changed)
}

/// Reads every credential that is valid at `now`.
pub(crate) fn list(rows: &dyn Rows, now: Timestamp) -> Result<Vec<TokenRow>> {
    rows.all(
        "SELECT hash, principal, scope, expires_at FROM tokens WHERE expires_at IS NULL OR expires_at > ?1",
        params![now],
        |c| {
            Ok(TokenRow {
                hash: c.get()?,
                principal: c.parse()?,
                scope: c.get()?,
                expires_at: c.get()?,
            })
        },
    )
}
