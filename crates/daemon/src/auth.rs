//! Who calls: credentials by hash, compared in constant time.

use abbey_agents::digest;
use abbey_api::Problem;
use abbey_model::{FaultKind, Principal, Timestamp};
use abbey_store::TokenRow;
use std::sync::{PoisonError, RwLock};
use subtle::ConstantTimeEq;

/// Every credential that may be valid, in memory.
#[derive(Default)]
pub(crate) struct Keys(RwLock<Vec<TokenRow>>);

impl Keys {
    pub(crate) fn replace(&self, rows: Vec<TokenRow>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = rows;
    }

    /// The principal behind an `Authorization` header, if it has one of the scopes.
    pub(crate) fn principal(
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
                    "the request has no bearer credential",
                )
            })?;
        let hash = digest(token.trim().as_bytes());
        let rows = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let found = rows
            .iter()
            .find(|r| bool::from(r.hash.as_bytes().ct_eq(hash.as_bytes())));
        let Some(row) = found else {
            return Err(Problem::new(
                FaultKind::Unauthenticated,
                "the credential is not known; it may have been revoked",
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
                format!("a credential for `{}` is not good for this door", row.scope),
            ));
        }
        Ok(row.principal.clone())
    }
}
