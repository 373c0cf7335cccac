//! Authentication: looks up a caller's bearer credential by its SHA-256 hash, compared in constant
//! time.

use abbey_api::Problem;
use abbey_model::{FaultKind, Principal, Timestamp};
use abbey_store::TokenRow;
use abbey_support::digest::sha256_hex;
use parking_lot::RwLock;
use subtle::ConstantTimeEq;

/// In-memory copy of every stored credential (hash, principal, scope, expiry).
#[derive(Default)]
pub(crate) struct CredentialTable(RwLock<Vec<TokenRow>>);

impl CredentialTable {
    /// Replaces the whole table with rows read from the store.
    pub(crate) fn replace_all(&self, rows: Vec<TokenRow>) {
        *self.0.write() = rows;
    }

    /// Returns the principal that owns the bearer credential of an `Authorization` header.
    ///
    /// # Errors
    /// 401 if the header is missing or the credential is unknown or expired at `now`; 403 if its
    /// scope is not one of `scopes`.
    pub(crate) fn authenticate(
        &self,
        header: Option<&str>,
        scopes: &[&str],
        now: Timestamp,
    ) -> Result<Principal, Problem> {
        let token = header
            .and_then(|h| {
                h.strip_prefix("Bearer ")
                    .or_else(|| h.strip_prefix("bearer "))
            })
            .ok_or_else(|| {
                Problem::new(
                    FaultKind::Unauthenticated,
                    "the request has no `Authorization: Bearer` header",
                )
            })?;
        let hash = sha256_hex(token.trim().as_bytes());
        let rows = self.0.read();
        let found = rows
            .iter()
            .find(|r| bool::from(r.hash.as_bytes().ct_eq(hash.as_bytes())));
        let Some(row) = found else {
            return Err(Problem::new(
                FaultKind::Unauthenticated,
                "the credential is unknown or was revoked; read the token file again",
            ));
        };
        if row.expires_at.is_some_and(|at| now >= at) {
            return Err(
                Problem::new(FaultKind::Unauthenticated, "the credential has expired")
                    .remedy("read the token file again; it was rotated"),
            );
        }
        if !scopes.contains(&row.scope.as_str()) {
            return Err(Problem::new(
                FaultKind::Forbidden,
                format!(
                    "the scope `{}` of this credential is not accepted here; use a credential with the scope {}",
                    row.scope,
                    scopes.join(" or ")
                ),
            ));
        }
        Ok(row.principal.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expired_unknown_and_misplaced_credentials_are_told_apart() {
        let keys = CredentialTable::default();
        let row = |text: &str, scope: &str, expires_at| TokenRow {
            hash: sha256_hex(text.as_bytes()),
            principal: Principal::Operator,
            scope: scope.to_owned(),
            expires_at,
        };
        keys.replace_all(vec![
            row("a", "operator", None),
            row("b", "operator", Some(Timestamp(10))),
        ]);
        let ask = |header: Option<&str>, scope: &str, now: i64| {
            keys.authenticate(header, &[scope], Timestamp(now))
                .map_err(|p| (p.status, p.detail))
        };
        assert_eq!(
            ask(Some("Bearer a"), "operator", 99),
            Ok(Principal::Operator)
        );
        assert_eq!(
            ask(Some("Bearer b"), "operator", 9),
            Ok(Principal::Operator)
        );
        assert!(
            ask(Some("Bearer b"), "operator", 10)
                .is_err_and(|(s, d)| s == 401 && d.contains("expired"))
        );
        assert!(ask(Some("Bearer a"), "agent", 0).is_err_and(|(s, _)| s == 403));
        for bad in [None, Some("a"), Some("Bearer c"), Some("Basic a")] {
            assert!(
                ask(bad, "operator", 0).is_err_and(|(s, _)| s == 401),
                "{bad:?}"
            );
        }
    }
}
