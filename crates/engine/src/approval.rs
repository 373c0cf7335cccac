//! Approvals: permission for one exact action, once and in time (S4-18).
//!
//! ```text
//! Pending ─approve─▶ Approved ─use──▶ Used
//!    │                  └──no use in time──▶ Expired
//!    │ ├──deny────▶ Denied
//!    │ ├──revise──▶ Revise
//!    │ └──no decision in time──▶ the agreed default: Approved or Denied
//!    └──Pending or Approved, and its task is over──▶ Lapsed
//! ```

pub use abbey_model::ApprovalState as State;
use abbey_model::Timestamp;
use serde::{Deserialize, Serialize};

/// Decision about an approval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The action may be done.
    Approve,
    /// The action must not be done.
    Deny,
    /// The request must be changed and made again.
    Revise,
}

impl Verdict {
    /// State of a pending approval after this decision.
    pub const fn resulting_state(self) -> State {
        match self {
            Verdict::Approve => State::Approved,
            Verdict::Deny => State::Denied,
            Verdict::Revise => State::Revise,
        }
    }
}

/// Why an approval cannot be decided or used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The approval is not in a state that allows it.
    #[error("APPR-{number} is {state}; {}", hint(*state))]
    State {
        /// Number of the approval.
        number: u64,
        /// State of the approval.
        state: State,
    },
    /// The approval was granted for another action or other arguments.
    #[error(
        "APPR-{number} was approved for other arguments; request a new approval for these arguments"
    )]
    OtherAction {
        /// Number of the approval.
        number: u64,
    },
    /// The deadline of the approval is over.
    #[error("APPR-{number} expired; request a new approval")]
    Late {
        /// Number of the approval.
        number: u64,
    },
}

const fn hint(state: State) -> &'static str {
    match state {
        State::Pending => "wait until it has been decided",
        State::Approved => "it has already been approved",
        State::Denied => "the action may not be performed; request approval of another action",
        State::Revise => "a revision was requested; change the action and request a new approval",
        State::Used => "an approval can be used only once; request a new one",
        State::Lapsed => "its task ended before it was decided or used",
        State::Expired => "it was not used in time; request a new approval",
    }
}

/// An approval, as far as its state machine needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// Number of the approval.
    pub number: u64,
    /// State of the approval.
    pub state: State,
    /// Digest of the exact action with its arguments.
    pub hash: String,
    /// First instant at which the approval can no longer be decided by a person.
    pub expires_at: Timestamp,
    /// Decision that applies when none is made in time.
    pub silence: Verdict,
}

/// State of an approval after a person's decision.
///
/// # Errors
/// [`Refusal::State`] when it is not pending, [`Refusal::Late`] when its deadline is over.
pub fn decide(approval: &Approval, verdict: Verdict, now: Timestamp) -> Result<State, Refusal> {
    let number = approval.number;
    match approval.state {
        State::Pending if now >= approval.expires_at => Err(Refusal::Late { number }),
        State::Pending => Ok(verdict.resulting_state()),
        state => Err(Refusal::State { number, state }),
    }
}

/// State of an approval after its deadline passed without a decision: that of its default decision.
///
/// # Errors
/// [`Refusal::State`] when it was decided, or its deadline is not over.
pub fn expire(approval: &Approval, now: Timestamp) -> Result<State, Refusal> {
    match approval.state {
        State::Pending if now >= approval.expires_at => Ok(approval.silence.resulting_state()),
        state => Err(Refusal::State {
            number: approval.number,
            state,
        }),
    }
}

/// State of an approval after it is used for the action with this digest, once, before `good_until`.
///
/// # Errors
/// When it is not granted, was used, is for another action, or `good_until` has passed.
pub fn consume(
    approval: &Approval,
    hash: &str,
    good_until: Timestamp,
    now: Timestamp,
) -> Result<State, Refusal> {
    let number = approval.number;
    match approval.state {
        State::Approved if now >= good_until => Err(Refusal::Late { number }),
        State::Approved if hash != approval.hash => Err(Refusal::OtherAction { number }),
        State::Approved => Ok(State::Used),
        state => Err(Refusal::State { number, state }),
    }
}

/// State of a granted approval that was not used before `good_until`.
///
/// # Errors
/// [`Refusal::State`] when it is not granted, or `good_until` has not passed.
pub fn expire_unused(
    approval: &Approval,
    good_until: Timestamp,
    now: Timestamp,
) -> Result<State, Refusal> {
    match approval.state {
        State::Approved if now >= good_until => Ok(State::Expired),
        state => Err(Refusal::State {
            number: approval.number,
            state,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn approval(state: State) -> Approval {
        Approval {
            number: 7,
            state,
            hash: "right".to_owned(),
            expires_at: Timestamp(100),
            silence: Verdict::Deny,
        }
    }

    /// Every state against every step: what is not here is refused.
    #[test]
    fn one_yes_for_one_action_once_and_in_time() {
        for &state in State::ALL {
            let it = approval(state);
            for verdict in [Verdict::Approve, Verdict::Deny, Verdict::Revise] {
                let decided = decide(&it, verdict, Timestamp(99));
                assert_eq!(decided.is_ok(), state == State::Pending, "{state}");
            }
            assert_eq!(expire(&it, Timestamp(100)).is_ok(), state == State::Pending);
            let unused = expire_unused(&it, Timestamp(200), Timestamp(200));
            assert_eq!(unused.is_ok(), state == State::Approved, "{state}");
            assert!(expire_unused(&it, Timestamp(200), Timestamp(199)).is_err());
            let taken = consume(&it, "right", Timestamp(200), Timestamp(150));
            assert_eq!(taken.is_ok(), state == State::Approved, "{state}");
        }
        let pending = approval(State::Pending);
        assert_eq!(
            decide(&pending, Verdict::Approve, Timestamp(100)),
            Err(Refusal::Late { number: 7 })
        );
        assert!(expire(&pending, Timestamp(99)).is_err());
        assert_eq!(expire(&pending, Timestamp(100)), Ok(State::Denied));
        let yes = approval(State::Approved);
        assert_eq!(
            consume(&yes, "other", Timestamp(200), Timestamp(150)),
            Err(Refusal::OtherAction { number: 7 })
        );
        assert_eq!(
            consume(&yes, "right", Timestamp(200), Timestamp(200)),
            Err(Refusal::Late { number: 7 })
        );
        let used = approval(consume(&yes, "right", Timestamp(200), Timestamp(150)).unwrap());
        let refusal = consume(&used, "right", Timestamp(200), Timestamp(151)).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "APPR-7 is used; an approval can be used only once; request a new one"
        );
    }
}
