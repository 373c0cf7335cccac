//! Credentials, by hash: the store never sees one in clear.

use super::audit_log;
use crate::rows::{Columns, Query, Rows, Scalar, params};
use crate::topic::Topic;
use crate::transaction::Tx;
use crate::{Error, NewToken, Result, TokenRow};
use abbey_model::{Millis, Principal, Slug, Timestamp};
use serde_json::json;

/// Registers a credential. A named token whose name is taken is refused, also when the other one has expired.
pub(crate) fn add(tx: &mut Tx<'_>, token: &NewToken) -> Result<()> {
    let principal = token.principal.to_string();
    let grant = token.grant.to_string();
    let name = token.name.as_ref().map(Slug::to_string);
    if let Some(name) = &name {
        let taken = tx
            .rows
            .exists("SELECT 1 FROM tokens WHERE name = ?1", params![name])?;
        if taken {
            return Err(Error::Exists {
                what: "token",
                name: name.clone(),
            });
        }
    }
    tx.execute(
        "INSERT INTO tokens (hash, principal, scope, created_at, expires_at, name) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            &token.hash,
            &principal,
            &grant,
            tx.now,
            token.expires_at,
            &name
        ],
    )?;
    let detail = match &name {
        None => json!({ "principal": token.principal, "scope": grant }),
        Some(_) => json!({
            "principal": token.principal, "scope": grant, "expires_ms": token.expires_at.map(|at| at.0),
        }),
    };
    let entity = name.map_or(principal, |name| format!("token:{name}"));
    audit_log::append(tx, &token.issued_by, "credential.issue", &entity, detail)?;
    tx.publish(Topic::Credentials);
    Ok(())
}

/// Ends every credential of a principal that Abbey issued itself `overlap` from now, except those with a hash in
/// `keep`; how many that changed.
pub(crate) fn revoke(
    tx: &mut Tx<'_>,
    principal: &Principal,
    keep: &[String],
    overlap: Millis,
) -> Result<u64> {
    let ends = tx.now + overlap;
    let principal = principal.to_string();
    let places: Vec<String> = (0..keep.len()).map(|n| format!("?{}", n + 3)).collect();
    let mut values: Vec<Scalar<'_>> = vec![(&principal).into(), ends.into()];
    values.extend(keep.iter().map(Scalar::from));
    let changed = tx.execute(
        &format!(
            "UPDATE tokens SET expires_at = ?2 WHERE name IS NULL AND principal = ?1 AND hash NOT IN ({}) AND (expires_at IS NULL OR expires_at > ?2)",
            places.join(", ")
        ),
        &values,
    )?;
    tx.execute(
        "DELETE FROM tokens WHERE name IS NULL AND expires_at <= ?1",
        params![tx.now],
    )?;
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

/// Removes a named token at once.
///
/// # Errors
/// When there is no token of that name.
pub(crate) fn revoke_named(tx: &mut Tx<'_>, name: &Slug, by: &Principal) -> Result<()> {
    let removed = tx.execute("DELETE FROM tokens WHERE name = ?1", params![name.as_str()])?;
    if removed == 0 {
        return Err(Error::NotFound {
            what: "token",
            name: name.to_string(),
        });
    }
    let entity = format!("token:{name}");
    audit_log::append(tx, by, "credential.revoke", &entity, json!({}))?;
    tx.publish(Topic::Credentials);
    Ok(())
}

/// Records that a named token was used now. Nothing is logged, and a token that was revoked meanwhile stays so.
pub(crate) fn record_use(tx: &mut Tx<'_>, name: &Slug) -> Result<()> {
    tx.execute(
        "UPDATE tokens SET last_used_at = ?2 WHERE name = ?1",
        params![name.as_str(), tx.now],
    )?;
    Ok(())
}

const COLUMNS: &str = "hash, principal, scope, name, created_at, last_used_at, expires_at";

fn read_token(c: &mut Columns<'_>) -> Result<TokenRow> {
    Ok(TokenRow {
        hash: c.get()?,
        principal: c.parse()?,
        grant: c.parse()?,
        name: c.parse_optional()?,
        created_at: c.get()?,
        last_used_at: c.get()?,
        expires_at: c.get()?,
    })
}

/// Every credential that is still valid at `now`.
pub(crate) fn list(rows: &dyn Rows, now: Timestamp) -> Result<Vec<TokenRow>> {
    rows.all(
        &format!("SELECT {COLUMNS} FROM tokens WHERE expires_at IS NULL OR expires_at > ?1"),
        params![now],
        read_token,
    )
}

/// Every named token by name, also those that have expired.
pub(crate) fn list_named(rows: &dyn Rows) -> Result<Vec<TokenRow>> {
    rows.all(
        &format!("SELECT {COLUMNS} FROM tokens WHERE name IS NOT NULL ORDER BY name"),
        params![],
        read_token,
    )
}
