//! Authentication: credentials by hash, compared in constant time.

use abbey_api::Problem;
use abbey_model::{CredentialGrant, FaultKind, Millis, Permission, Principal, Slug, Timestamp};
use abbey_store::TokenRow;
use abbey_support::digest::sha256_hex;
use parking_lot::RwLock;
use subtle::ConstantTimeEq;

/// How long the recorded use of a named token may lag behind its last use.
const USE_LAG: Millis = Millis::from_secs(60);

/// Every credential that may be valid, in memory.
#[derive(Default)]
pub(crate) struct CredentialTable(RwLock<Vec<TokenRow>>);

/// Outcome of a successful authentication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Authenticated {
    /// Principal that the credential stands for.
    pub(crate) principal: Principal,
    /// Named token whose use the caller must record in the store, since none was recorded within the last minute.
    pub(crate) record_use_of: Option<Slug>,
}

/// The credential of an `Authorization` header with the scheme `Bearer`, which has no case (RFC 9110, 11.1).
pub(crate) fn bearer_credential(header: &str) -> Option<&str> {
    let (scheme, credential) = header.trim_start().split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(credential.trim())
}

impl CredentialTable {
    /// Replaces all credentials by those of the store.
    pub(crate) fn replace_all(&self, rows: Vec<TokenRow>) {
        *self.0.write() = rows;
    }

    /// Authenticates the bearer credential of an `Authorization` header, and checks that it grants `required`.
    ///
    /// # Errors
    /// 401 without a valid credential; 403 when the credential does not grant what the route requires.
    pub(crate) fn authenticate(
        &self,
        header: Option<&str>,
        required: Permission,
        now: Timestamp,
    ) -> Result<Authenticated, Problem> {
        let unauthenticated = |text: &str| Problem::new(FaultKind::Unauthenticated, text);
        let token = header
            .and_then(bearer_credential)
            .ok_or_else(|| unauthenticated("the request has no bearer credential"))?;
        let hash = sha256_hex(token.trim().as_bytes());
        let rows = self.0.read();
        let found = rows
            .iter()
            .position(|r| bool::from(r.hash.as_bytes().ct_eq(hash.as_bytes())));
        let Some((at, row)) = found.map(|at| (at, &rows[at])) else {
            return Err(unauthenticated(
                "the credential is not known; it may have been revoked",
            ));
        };
        if row.expires_at.is_some_and(|at| now >= at) {
            let remedy = match &row.name {
                Some(_) => "create a new token with `abbey token new`",
                None => "read the token file again; it was rotated",
            };
            return Err(unauthenticated("the credential has expired").remedy(remedy));
        }
        if !row.grant.permits(required) {
            return Err(refuse_grant(row, required));
        }
        let lags = row.last_used_at.is_none_or(|at| now >= at + USE_LAG);
        let authenticated = Authenticated {
            principal: row.principal.clone(),
            record_use_of: row.name.clone().filter(|_| lags),
        };
        drop(rows);
        if authenticated.record_use_of.is_some() {
            // The rows may have been replaced meanwhile.
            let mut rows = self.0.write();
            if let Some(row) = rows.get_mut(at).filter(|r| r.hash == hash) {
                row.last_used_at = Some(now);
            }
        }
        Ok(authenticated)
    }
}

/// Refusal of a valid credential that does not grant what a route requires.
fn refuse_grant(row: &TokenRow, required: Permission) -> Problem {
    let forbidden = |text: String| Problem::new(FaultKind::Forbidden, text);
    match (&row.grant, required, &row.name) {
        (CredentialGrant::Operator(scopes), Permission::Operator(scope), Some(name)) => forbidden(
            format!("token `{name}` has the scopes `{scopes}`; this request needs `{scope}`"),
        )
        .remedy(format!(
            "`abbey token new NAME --scope {scope}` creates a token with that scope"
        )),
        (CredentialGrant::Operator(_), ..) => {
            forbidden("this is a credential for the operator API, not for the agent API".to_owned())
        }
        (_, Permission::Operator(_), _) => forbidden(
            "this is an agent's credential, which is not valid for the operator API".to_owned(),
        ),
        _ => forbidden(
            "this is a key for the model gateway, which is not valid for other routes".to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use abbey_model::AccessScope;

    const OPERATOR: Permission = Permission::Operator(AccessScope::Admin);

    fn row(text: &str, grant: &str, expires_at: Option<i64>, name: Option<&str>) -> TokenRow {
        TokenRow {
            hash: sha256_hex(text.as_bytes()),
            principal: match name {
                Some(name) => Principal::Token(name.parse().unwrap()),
                None => Principal::Operator,
            },
            grant: grant.parse().unwrap(),
            name: name.map(|n| n.parse().unwrap()),
            created_at: Timestamp(0),
            last_used_at: None,
            expires_at: expires_at.map(Timestamp),
        }
    }

    #[test]
    fn expired_unknown_and_misplaced_credentials_are_told_apart() {
        let table = CredentialTable::default();
        table.replace_all(vec![
            row("a", "operator", None, None),
            row("b", "operator", Some(10), None),
            row("c", "agent", None, None),
        ]);
        let status = |header: Option<&str>, required, now: i64| {
            table
                .authenticate(header, required, Timestamp(now))
                .map(|a| a.principal)
                .map_err(|p| (p.status, p.detail))
        };
        assert_eq!(
            status(Some("Bearer a"), OPERATOR, 99),
            Ok(Principal::Operator)
        );
        assert_eq!(
            status(Some("Bearer b"), OPERATOR, 9),
            Ok(Principal::Operator)
        );
        assert!(
            status(Some("Bearer b"), OPERATOR, 10)
                .is_err_and(|(s, d)| s == 401 && d.contains("expired"))
        );
        for scheme in ["bearer", "BEARER", "beArer "] {
            let header = format!("{scheme} a");
            assert_eq!(
                status(Some(&header), OPERATOR, 99),
                Ok(Principal::Operator),
                "{header}"
            );
        }
        assert!(status(Some("Basic a"), OPERATOR, 99).is_err_and(|(s, _)| s == 401));
        assert!(status(Some("Bearer a"), Permission::Agent, 0).is_err_and(|(s, _)| s == 403));
        assert!(status(Some("Bearer c"), OPERATOR, 0).is_err_and(|(s, _)| s == 403));
        for bad in [None, Some("a"), Some("Bearer d"), Some("Basic a")] {
            assert!(
                status(bad, OPERATOR, 0).is_err_and(|(s, _)| s == 401),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn a_named_token_acts_as_itself_within_its_scopes_and_its_use_is_recorded_once_a_minute() {
        let table = CredentialTable::default();
        table.replace_all(vec![row("t", "tasks", None, Some("ci"))]);
        let call = |scope, now| {
            table.authenticate(
                Some("Bearer t"),
                Permission::Operator(scope),
                Timestamp(now),
            )
        };
        let first = call(AccessScope::Tasks, 1000).unwrap();
        assert_eq!(first.principal.to_string(), "token:ci");
        assert_eq!(first.record_use_of, Some("ci".parse().unwrap()));
        let lag = USE_LAG.0;
        for (now, recorded) in [(1001, false), (999 + lag, false), (1000 + lag, true)] {
            let next = call(AccessScope::Read, now).unwrap();
            assert_eq!(next.record_use_of.is_some(), recorded, "{now}");
        }
        let refused = call(AccessScope::Approve, 0).unwrap_err();
        assert_eq!(refused.status, 403);
        assert_eq!(
            refused.detail,
            "token `ci` has the scopes `tasks`; this request needs `approve`"
        );
    }
}
