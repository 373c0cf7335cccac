//! Tokens of the operator API: named credentials with scopes, for people and programs.

use crate::macros::{documents, operations, requests};
use crate::time::Time;
use abbey_model::AccessScope;

documents! {
    /// Every token of the operator API.
    TokensDoc {
        /// Always 1.
        version: u32,
        /// Tokens by name, also those that have expired.
        tokens: Vec<TokenView>,
    }
    /// A token of the operator API. Its text is shown once, when it is created.
    TokenView {
        /// Name, unique in the house.
        name: String,
        /// Principal that the audit log names for what is done with it: `token:NAME`, or `person:NAME`.
        principal: String,
        /// Scopes; each but `metrics` includes `read`.
        scopes: Vec<AccessScope>,
        /// When it was created.
        created_at: Time,
        /// When it was last used, to the minute.
        last_used_at: Option<Time>,
        /// When it expires; absent when it does not.
        expires_at: Option<Time>,
        /// Whether it has expired.
        expired: bool,
    }
    /// A new token.
    NewTokenDoc {
        /// Always 1.
        version: u32,
        /// The token.
        token: TokenView,
        /// Text to send as a bearer credential. It is not stored and can't be shown again.
        secret: String,
    }
    /// A token that was revoked.
    TokenRevokedDoc {
        /// Always 1.
        version: u32,
        /// Its name.
        name: String,
    }
}

requests! {
    /// A token to create.
    NewTokenBody {
        /// Name, unique in the house: 1 to 40 of `a-z`, `0-9` and `-`, beginning with a letter.
        name: String,
        /// Scopes, at least one.
        scopes: Vec<AccessScope>,
        /// Name of the person who acts with it; absent for a program.
        #[serde(default)]
        person: Option<String>,
        /// Seconds until it expires, from 1; absent for a token that does not expire.
        #[serde(default)]
        expires_in_s: Option<u64>,
    }
}

operations! {
    /// Tokens of the operator API: `client.tokens()`.
    TokensClient {
        /// Every token.
        GET "/api/v1/tokens" list() -> json(TokensDoc);
        /// Creates a token.
        POST "/api/v1/tokens" create() [body NewTokenBody] -> json(NewTokenDoc);
        /// Revokes a token at once.
        POST "/api/v1/tokens/{token}/revoke" revoke(token) -> json(TokenRevokedDoc);
    }
}
