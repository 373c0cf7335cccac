//! `abbey token`: named credentials of the operator API, with scopes.

use crate::connect::operator_client;
use crate::durations::parse_positive_duration;
use crate::exit::{self, Outcome};
use crate::output::{self, print_table, text_or_dash};
use abbey_api::{NewTokenBody, TokenView};
use abbey_daemon::Home;
use abbey_model::AccessScope;
use clap::{Args, Subcommand};
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Create a token and print it; it can't be shown again.
    ///
    /// Send it to the operator API as `Authorization: Bearer TOKEN`.
    #[command(
        after_help = "Examples:\n  abbey token new prometheus --scope metrics\n  abbey token new phone --scope approve --person ana --expires 90d"
    )]
    New(TokenNewArgs),
    /// List tokens with their scopes, last use and expiry.
    #[command(after_help = "Example:\n  abbey token list")]
    List,
    /// Revoke a token at once.
    #[command(after_help = "Example:\n  abbey token revoke prometheus")]
    Revoke {
        /// Name of the token.
        name: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TokenNewArgs {
    /// Name of the token, unique in the house.
    pub(crate) name: String,
    /// Scope of the token, or several joined by commas; each but `metrics` includes `read`.
    #[arg(long, required = true, value_delimiter = ',')]
    pub(crate) scope: Vec<AccessScope>,
    /// Person who uses it; the audit log then names the person instead of the token.
    #[arg(long, value_name = "NAME")]
    pub(crate) person: Option<String>,
    /// Time until it expires, like `12h` or `90d` [default: it does not expire].
    #[arg(long, value_name = "TIME", value_parser = parse_positive_duration)]
    pub(crate) expires: Option<Duration>,
}

/// `abbey token`: creates a token of the operator API and prints its secret once, lists the tokens, or revokes one.
pub(crate) async fn cmd_token(home: &Home, json: bool, command: TokenCommand) -> Outcome {
    let client = operator_client(home)?;
    match command {
        TokenCommand::New(args) => {
            let expires_in_s = args
                .expires
                .map(|d| d.as_millis().div_ceil(1000))
                .and_then(|s| u64::try_from(s).ok());
            let body = NewTokenBody {
                name: args.name,
                scopes: args.scope,
                person: args.person,
                expires_in_s,
            };
            let created = client.tokens().create(&body).await?;
            if json {
                output::print_json(&created);
                return Ok(exit::OK);
            }
            output::print_line(&created.secret);
            output::print_message(&format!(
                "token `{}` has the scopes `{}` and expires {}; store it now, it can't be shown again",
                created.token.name,
                scopes(&created.token),
                expiry(&created.token),
            ));
        }
        TokenCommand::List => {
            let doc = client.tokens().list().await?;
            if json {
                output::print_json(&doc);
                return Ok(exit::OK);
            }
            let row = |t: &TokenView| {
                vec![
                    t.name.clone(),
                    t.principal.clone(),
                    scopes(t),
                    output::local_time(t.created_at),
                    text_or_dash(t.last_used_at.map(output::local_time)),
                    match t.expired {
                        true => "expired".to_owned(),
                        false => expiry(t),
                    },
                ]
            };
            print_table(
                &[
                    "NAME",
                    "ACTS AS",
                    "SCOPES",
                    "CREATED",
                    "LAST USED",
                    "EXPIRES",
                ],
                doc.tokens.iter().map(row).collect(),
                "no tokens; `abbey token new NAME --scope read` creates one",
            );
        }
        TokenCommand::Revoke { name } => {
            let doc = client.tokens().revoke(&name).await?;
            if json {
                output::print_json(&doc);
                return Ok(exit::OK);
            }
            output::print_line(&format!("token `{}` is revoked", doc.name));
        }
    }
    Ok(exit::OK)
}

fn scopes(token: &TokenView) -> String {
    let names: Vec<&str> = token.scopes.iter().map(|s| AccessScope::name(*s)).collect();
    names.join(",")
}

fn expiry(token: &TokenView) -> String {
    token
        .expires_at
        .map_or_else(|| "never".to_owned(), output::local_time)
}
