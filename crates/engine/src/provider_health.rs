//! The health of a model provider: whether calls may be sent to it, from how the last ones ended.
//!
//! ```text
//!            failure                     failure of a call that was let through
//! Available ────────▶ CoolingDown{until} ──────────────────────────▶ CoolingDown{until, longer}
//!     ▲                      │ from `until` on calls are let through again
//!     └──────── answer ──────┘
//! ```
//!
//! A provider may ask for time with `Retry-After`, which is kept; otherwise the pause doubles with each failure.

use crate::task::Wait;
use abbey_model::{Millis, ProviderFailure, Timestamp, WaitCode, WaitKind, WaitingFor};
use serde::{Deserialize, Serialize};

/// Pause after the first failure.
const PAUSE_FIRST: Millis = Millis::from_secs(2);
/// Longest pause that the house decides by itself.
const PAUSE_MAX: Millis = Millis::from_secs(300);
/// Shortest pause that a provider may ask for, so that none is called without a pause.
const RETRY_AFTER_MIN: Millis = Millis::from_secs(1);
/// Longest pause that a provider may ask for.
const RETRY_AFTER_MAX: Millis = Millis::from_secs(24 * 3600);

/// A failure in words that follow the provider's name.
const fn describe(failure: ProviderFailure) -> &'static str {
    match failure {
        ProviderFailure::Unreachable => "can't be reached",
        ProviderFailure::NoAnswer => "does not answer",
        ProviderFailure::ServerError => "fails",
        ProviderFailure::RateLimited => "asks for fewer calls",
        ProviderFailure::CredentialRefused => "refuses the credential",
        ProviderFailure::PaymentRequired => "asks for a payment",
        ProviderFailure::TimedOut => "answers that a call timed out",
    }
}

/// How a call to a provider ended, as far as its health is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observation {
    /// It answered, also when it refused this one request.
    Answered,
    /// It failed.
    Failed {
        /// In which way.
        failure: ProviderFailure,
        /// Time that it asked for.
        retry_after: Option<Millis>,
        /// What it said.
        words: Option<String>,
    },
}

/// Whether calls may be sent to a provider.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ProviderCondition {
    /// Calls are sent.
    #[default]
    Available,
    /// No call is sent before `until`; from then on they are, and the first one decides.
    CoolingDown {
        /// Instant of the first failure in a row.
        since: Timestamp,
        /// First instant at which a call is sent again.
        until: Timestamp,
        /// Number of failures in a row.
        failures: u32,
        /// The last failure.
        failure: ProviderFailure,
        /// What the provider said then.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        words: Option<String>,
    },
}

impl ProviderCondition {
    /// The condition after a call ended at `now`. Calls that were under way when a pause began do not make it longer,
    /// but a provider's own request for time does.
    #[must_use]
    pub fn observe(&self, seen: Observation, now: Timestamp) -> ProviderCondition {
        let Observation::Failed {
            failure,
            retry_after,
            words,
        } = seen
        else {
            return ProviderCondition::Available;
        };
        let asked = retry_after.map(|t| now + t.clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX));
        match self {
            ProviderCondition::CoolingDown {
                since,
                until,
                failures,
                failure,
                words,
            } if now < *until => ProviderCondition::CoolingDown {
                since: *since,
                until: asked.map_or(*until, |asked| asked.max(*until)),
                failures: *failures,
                failure: *failure,
                words: words.clone(),
            },
            ProviderCondition::CoolingDown {
                since, failures, ..
            } => ProviderCondition::CoolingDown {
                since: *since,
                until: asked.unwrap_or(now + pause(*failures)),
                failures: failures.saturating_add(1),
                failure,
                words,
            },
            ProviderCondition::Available => ProviderCondition::CoolingDown {
                since: now,
                until: asked.unwrap_or(now + pause(0)),
                failures: 1,
                failure,
                words,
            },
        }
    }

    /// Instant until which no call is sent; none when calls are sent at `now`.
    pub fn refuses_until(&self, now: Timestamp) -> Option<Timestamp> {
        match self {
            ProviderCondition::CoolingDown { until, .. } => Some(*until).filter(|at| now < *at),
            ProviderCondition::Available => None,
        }
    }

    /// Reason why a task that needs this provider waits at `now`; none when calls are sent.
    pub fn wait(&self, provider: &str, now: Timestamp) -> Option<Wait> {
        self.refuses_until(now)?;
        self.last_failure(provider)
    }

    /// How the provider's last calls failed, without its own words; none when it is available.
    pub fn description(&self, provider: &str) -> Option<String> {
        match self {
            ProviderCondition::CoolingDown { failure, .. } => {
                Some(format!("provider `{provider}` {}", describe(*failure)))
            }
            ProviderCondition::Available => None,
        }
    }

    /// Reason why a task that a failed call of this provider ended waits; none when the provider is available.
    pub fn last_failure(&self, provider: &str) -> Option<Wait> {
        let ProviderCondition::CoolingDown { until, words, .. } = self else {
            return None;
        };
        let mut text = self.description(provider)?;
        if let Some(words) = words {
            text.push_str("; it says: ");
            text.push_str(words);
        }
        Some(Wait {
            code: WaitCode::Provider,
            text,
            waiting_for: Some(WaitingFor {
                kind: WaitKind::Provider,
                name: provider.to_owned(),
                until: Some(*until),
            }),
            demand: None,
        })
    }
}

/// Pause after a failure that followed `failures` others.
fn pause(failures: u32) -> Millis {
    let factor = 1i64 << failures.min(20);
    Millis(PAUSE_FIRST.0.saturating_mul(factor).min(PAUSE_MAX.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn failed(failure: ProviderFailure, retry_after: Option<Millis>) -> Observation {
        Observation::Failed {
            failure,
            retry_after,
            words: None,
        }
    }

    #[test]
    fn the_pause_doubles_until_five_minutes_and_an_answer_ends_it() {
        let mut condition = ProviderCondition::default();
        let mut now = Timestamp(0);
        let mut pauses = Vec::new();
        for _ in 0..10 {
            condition = condition.observe(failed(ProviderFailure::Unreachable, None), now);
            let until = condition.refuses_until(now).unwrap();
            pauses.push(until.since(now).0 / 1000);
            now = until;
        }
        assert_eq!(pauses, [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(
            condition.refuses_until(now),
            None,
            "one call is let through"
        );
        let condition = condition.observe(Observation::Answered, now);
        assert_eq!(condition, ProviderCondition::Available);
    }

    #[test]
    fn a_provider_gets_the_time_that_it_asks_for() {
        let asked = |secs| failed(ProviderFailure::RateLimited, Some(Millis::from_secs(secs)));
        let condition = ProviderCondition::default().observe(asked(3600), Timestamp(5));
        let until = Timestamp(3_600_005);
        assert_eq!(condition.refuses_until(Timestamp(6)), Some(until));
        let text = condition.wait("cloud", Timestamp(6)).unwrap();
        assert_eq!(text.text, "provider `cloud` asks for fewer calls");
        assert_eq!(text.waiting_for.unwrap().until, Some(until));
        // A call that was under way changes nothing; a later instant holds.
        assert_eq!(condition.observe(asked(1), Timestamp(7)), condition);
        let longer = condition.observe(asked(7200), Timestamp(7));
        assert_eq!(
            longer.refuses_until(Timestamp(8)),
            Some(Timestamp(7_200_007))
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_pause_ends_and_only_an_answer_makes_available(
            calls in prop::collection::vec((0i64..400_000, 0u8..8, prop::option::of(-5i64..i64::MAX / 4)), 1..60),
        ) {
            let (mut condition, mut now) = (ProviderCondition::default(), Timestamp(0));
            for (pass, kind, retry_after) in calls {
                now = now + Millis(pass);
                let before = condition.clone();
                let seen = match ProviderFailure::ALL.get(usize::from(kind)) {
                    Some(failure) => failed(*failure, retry_after.map(Millis)),
                    None => Observation::Answered,
                };
                condition = condition.observe(seen.clone(), now);
                prop_assert_eq!(condition == ProviderCondition::Available, seen == Observation::Answered);
                if let ProviderCondition::CoolingDown { since, until, failures, .. } = condition {
                    prop_assert!(since <= now && failures >= 1);
                    prop_assert!(until.since(now) <= RETRY_AFTER_MAX);
                    prop_assert!(before.refuses_until(now).is_some() || until.since(now) >= RETRY_AFTER_MIN);
                    prop_assert_eq!(condition.refuses_until(until), None);
                    // No failure makes a pause end earlier.
                    if let Some(earlier) = before.refuses_until(now) {
                        prop_assert!(until >= earlier);
                    }
                }
            }
        }
    }
}
