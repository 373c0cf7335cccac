//! Providers as the gateway sees them: where they are, how a call is authorized, and whether they answer.

use crate::{BoxFuture, Caller, Refusal, Target, Usage};
use abbey_model::{NanoUsd, Redactor, RefusedKey, Secret, Tokens};
use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// A provider of models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// Name in the manifest.
    pub name: String,
    /// Base URL of its API without a trailing slash, including a version segment such as `/v1`.
    pub base_url: String,
    /// Prices of its tokens; unknown when not configured.
    pub prices: Option<Prices>,
    /// Output tokens reserved for, and allowed to, a call that sets no limit of its own.
    pub output_tokens_max: u64,
    /// Keys that the model refused before; requests are made without them.
    pub refuses: BTreeSet<RefusedKey>,
}

/// Prices of a million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prices {
    /// A million input tokens, of every class.
    pub input: NanoUsd,
    /// A million output tokens, of every class.
    pub output: NanoUsd,
}

impl Prices {
    /// Cost of input and output tokens at these prices, rounded up.
    pub fn cost(&self, input: Tokens, output: Tokens) -> NanoUsd {
        NanoUsd::for_tokens(input, self.input) + NanoUsd::for_tokens(output, self.output)
    }
}

impl Provider {
    /// Cost of a call at the provider's prices; none when the prices are unknown.
    pub fn cost(&self, usage: &Usage) -> Option<NanoUsd> {
        Some(self.prices?.cost(usage.input, usage.output))
    }
}

/// The view of configured providers.
pub trait Providers: Send + Sync {
    /// Looks up the provider of a target, with what is known of the model.
    ///
    /// # Errors
    /// A [`Refusal`] when there is no such provider, or it has no address at the moment.
    fn find(&self, target: &Target) -> Result<Provider, Refusal>;

    /// Remembers that a target refuses a key, for [`Providers::find`] from now on.
    fn learn<'a>(&'a self, target: &'a Target, key: RefusedKey) -> BoxFuture<'a, ()>;
}

/// Credential with which a call to a provider is authorized.
#[derive(Debug, Clone)]
pub enum Authorization {
    /// Without a credential, as local model servers are.
    None,
    /// `Authorization: Bearer SECRET`.
    Bearer(Secret),
    /// A header of the provider's own, e.g. `x-api-key` or `x-goog-api-key`.
    Header(HeaderName, Secret),
}

impl Authorization {
    /// Removes the credential from what the provider says: some repeat it in their errors.
    pub fn redactor(&self) -> Redactor {
        Redactor::new(match self {
            Authorization::None => None,
            Authorization::Bearer(secret) | Authorization::Header(_, secret) => {
                Some(secret.clone())
            }
        })
    }

    /// Adds the provider's credential to the headers of a request.
    ///
    /// # Errors
    /// When the secret holds characters that a header cannot carry. The message does not repeat the secret.
    pub fn apply(&self, headers: &mut HeaderMap) -> Result<(), String> {
        let (name, text) = match self {
            Authorization::None => return Ok(()),
            Authorization::Bearer(secret) => (AUTHORIZATION, format!("Bearer {}", secret.expose())),
            Authorization::Header(name, secret) => (name.clone(), secret.expose().to_owned()),
        };
        let mut value = HeaderValue::from_str(&text)
            .map_err(|_| "its credential holds characters that a header cannot carry".to_owned())?;
        value.set_sensitive(true);
        headers.insert(name, value);
        Ok(())
    }
}

/// The credentials of providers. Asked before each call, so that an implementation may refresh a short-lived one.
pub trait Credentials: Send + Sync {
    /// Current authorization for a provider.
    ///
    /// # Errors
    /// A [`Refusal`] when the credential cannot be read or refreshed.
    fn authorization<'a>(
        &'a self,
        provider: &'a Provider,
    ) -> BoxFuture<'a, Result<Authorization, Refusal>>;
}

/// End of one call to a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CallOutcome {
    /// Answered completely, with this status (which may be an error of the provider).
    Answered(u16),
    /// No connection; nothing was sent.
    Unreachable,
    /// Sent, but no answer came.
    NoAnswer,
    /// The answer or stream ended before its end.
    Truncated,
    /// The provider went on beyond the output limit of the call, and was cut off.
    Overrun,
}

/// How one call to a provider ended, with what the provider said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallEnd {
    /// The end.
    pub outcome: CallOutcome,
    /// Time that an error answer asked for.
    pub retry_after: Option<RetryAfter>,
    /// The provider's words in an error answer, on one line and without control characters.
    pub words: Option<String>,
}

impl From<CallOutcome> for CallEnd {
    fn from(outcome: CallOutcome) -> Self {
        CallEnd {
            outcome,
            retry_after: None,
            words: None,
        }
    }
}

impl CallOutcome {
    /// Label of the outcome in metrics.
    pub fn class(self) -> &'static str {
        match self {
            CallOutcome::Answered(status) => match StatusCode::from_u16(status) {
                Ok(s) if s.is_success() => "success",
                Ok(StatusCode::TOO_MANY_REQUESTS) => "rate_limited",
                Ok(s) if s.is_client_error() => "client_error",
                _ => "server_error",
            },
            CallOutcome::Unreachable => "unreachable",
            CallOutcome::NoAnswer => "no_answer",
            CallOutcome::Truncated => "truncated",
            CallOutcome::Overrun => "overrun",
        }
    }
}

/// Time that a provider asks for before the next call (RFC 9110, section 10.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryAfter {
    /// This long.
    Delay(Duration),
    /// Until this instant.
    At(SystemTime),
}

impl RetryAfter {
    /// Reads the header `Retry-After`; none when it is missing or in neither of its forms.
    pub fn of(headers: &HeaderMap) -> Option<RetryAfter> {
        let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
        let seconds = text.parse().ok().map(Duration::from_secs);
        let instant = || httpdate::parse_http_date(text).ok().map(RetryAfter::At);
        seconds.map(RetryAfter::Delay).or_else(instant)
    }
}

/// The health of providers: decides whether a target is tried, and learns from every call.
pub trait ProviderHealth: Send + Sync {
    /// Lets a call to a target through.
    ///
    /// # Errors
    /// A [`Refusal`] while none is to be sent there.
    fn admit<'a>(
        &'a self,
        caller: &'a Caller,
        target: &'a Target,
    ) -> BoxFuture<'a, Result<(), Refusal>>;
    /// Records how a call ended, before the caller learns of it.
    fn record<'a>(
        &'a self,
        caller: &'a Caller,
        target: &'a Target,
        end: CallEnd,
    ) -> BoxFuture<'a, ()>;
}

/// Counts of outcomes by provider, for metrics.
#[derive(Debug, Default)]
pub struct OutcomeCounts(Mutex<BTreeMap<(String, &'static str), u64>>);

impl OutcomeCounts {
    /// Counts the end of a call.
    pub fn count(&self, target: &Target, outcome: CallOutcome) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts
            .entry((target.provider.clone(), outcome.class()))
            .or_default() += 1;
    }

    /// Number of calls since the start of the process, by provider and [`CallOutcome::class`].
    pub fn snapshot(&self) -> BTreeMap<(String, &'static str), u64> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_asks_for_time_in_seconds_or_until_a_date() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_str(text).unwrap());
            RetryAfter::of(&headers)
        };
        let minute = Duration::from_secs(60);
        assert_eq!(read(" 60 "), Some(RetryAfter::Delay(minute)));
        let date = SystemTime::UNIX_EPOCH + minute;
        let text = "Thu, 01 Jan 1970 00:01:00 GMT";
        assert_eq!(read(text), Some(RetryAfter::At(date)));
        for wrong in ["", "soon", "-1", "1.5", "99999999999999999999999"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
